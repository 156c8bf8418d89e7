"""Reads what an upstream is shown: headers, those of single callers and tenants, and where tokens for it come from."""

from __future__ import annotations

import ipaddress
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any
from urllib.parse import urlsplit

import msgspec

from mcpgateway.config.headers import UNNEEDED, fault_in_name, fault_in_value
from mcpgateway.config.reader import Source, close_to, read_section, refuse_unknown, shown
from mcpgateway.config.text import Place, locate
from mcpgateway.config.tls import read_tls
from mcpgateway.config.values import STATIC_ISSUER, AuthConfig, CallerHeaders, OAuthConfig
from mcpgateway.errors import ConfigError

TENANT = "tenant:"
_WANTED = '{"NAME": {"headers": {…}}, "tenant:NAME": {"headers": {…}}}'
_OURS = frozenset({"grant", "token_url", "client_id", "client_secret", "auth_method", "allow_http"})
_OAUTH = tuple(field.name for field in msgspec.structs.fields(OAuthConfig))

Headers = tuple[tuple[str, str], ...]


class _CallerEntry(msgspec.Struct, frozen=True):
    headers: dict[str, str] = {}
    issuer: str = STATIC_ISSUER


def checked_headers(headers: Mapping[str, str], place: Place, source: Source) -> Headers:
    """The headers that are sent of those configured at `place`; what cannot be sent is noted in `source`."""
    seen: dict[str, tuple[str, str]] = {}
    for name, value in headers.items():
        if name.lower() in UNNEEDED:
            continue
        if fault := fault_in_name(name) or fault_in_value(value):
            source.problem((*place, name), fault)
        if name.lower() in seen:
            source.problem((*place, name), "given twice; letter case makes no difference in header names")
        seen[name.lower()] = (name, value.strip())
    note_secret_values(headers.values(), source)
    return tuple(seen.values())


def note_secret_values(values: Iterable[str], source: Source) -> None:
    """Header values are secret, and so is what follows the scheme in them."""
    for value in values:
        source.secrets.update({value.strip(), value.strip().rpartition(" ")[2]} - {""})


def read_credentials(
    written: Mapping[str, Any], file: str, forwarded: Collection[str], place: Place, source: Source
) -> tuple[CallerHeaders, ...]:
    """The headers of single callers and tenants, written in `credentials` or in the file that `credentials_file` names."""
    found: dict[tuple[str, str], CallerHeaders] = {}
    sections = [(written["credentials"], (*place, "credentials"))] if "credentials" in written else []
    if file:
        sections.append((_load(file, (*place, "credentials_file"), source), (*place, "credentials_file")))
    for data, section in sections:
        for name, entry, where in _callers(data, section, source):
            if (name, entry.issuer) in found:
                source.problem(where, f"there is another entry for this name and the issuer {entry.issuer}; keep one")
            found[name, entry.issuer] = entry
            _refuse_forwarded(entry, forwarded, where, source)
    return tuple(found.values())


def _load(file: str, place: Place, source: Source) -> Any:
    """What the file holds; {} where it cannot be read, which is noted."""
    path = source.beside(file)
    source.files.add(str(path))
    try:
        located = locate(path.read_text(encoding="utf-8-sig"), str(path), _WANTED)
    except UnicodeDecodeError as error:
        source.unreadable(place, f"{path}: not UTF-8 at byte {error.start}")
    except OSError as error:
        source.problem(place, f"{path}: cannot be read: {error.strerror}")
    except ValueError:  # a null byte in its name
        source.problem(place, "no name that a file can have")
    except ConfigError as error:
        source.unreadable(place, str(error))
    else:
        source.go_on_in(str(path), located, place)
        for repeated, (first, last) in located.repeated.items():
            source.problem((*place, *repeated), f"given twice, first on line {first}; keep one", line=last)
        return located.data
    return {}


def _callers(data: Any, place: Place, source: Source) -> Iterator[tuple[str, CallerHeaders, Place]]:
    """Each name with its entry, or its entries for several issuers, and where each stands."""
    if not isinstance(data, dict):
        source.problem(place, f"expected an object, {_WANTED}")
        return
    for name, written in data.items():
        if not name.removeprefix(TENANT).strip():
            source.problem((*place, name), "names nobody; expected a principal's name, or tenant: and a tenant's")
            continue
        if not isinstance(written, list) or not written:
            yield name, _caller(name, written, (*place, name), source), (*place, name)
            continue
        for index, entry in enumerate(written):
            where = (*place, name, index)
            yield name, _caller(name, entry, where, source), where


def _caller(name: str, written: Any, place: Place, source: Source) -> CallerHeaders:
    if isinstance(written, dict):
        refuse_unknown(written, ("headers", "issuer"), place, source)
    read = read_section(_CallerEntry, written, place, source)
    if not read.headers and not source.is_faulty(place):
        source.problem(place, 'expected {"headers": {…}} with at least one header')
    headers = checked_headers(read.headers, (*place, "headers"), source)
    source.issuers.append((read.issuer, (*place, "issuer")))
    who = {"tenant" if name.startswith(TENANT) else "subject": name.removeprefix(TENANT)}
    return CallerHeaders(headers, **who, issuer=read.issuer)


def _refuse_forwarded(entry: CallerHeaders, forwarded: Collection[str], place: Place, source: Source) -> None:
    """A header that the client may set would replace the caller's own credential."""
    for name, _ in entry.headers:
        if name.lower() in forwarded:
            source.problem((*place, "headers", name), "is in forward_headers too, so clients could set it; keep one")


def refuse_unknown_issuers(auth: AuthConfig | None, source: Source) -> None:
    """Note the entries for callers of an issuer whose tokens are not let in: nobody would ever be shown under them."""
    issuers = [STATIC_ISSUER, *(each.issuer for each in auth.jwt)] if auth is not None else [STATIC_ISSUER]
    known = " and ".join(repr(each) for each in issuers if each)
    for issuer, place in source.issuers:
        if issuer not in issuers:
            source.problem(place, f"no tokens of this issuer are let in (gateway.auth.jwt); known here: {known}")


def read_oauth(written: Mapping[str, Any], headers: Iterable[str], place: Place, source: Source) -> OAuthConfig | None:
    """Where tokens for this server come from, or None. `headers`: the names of those that are configured beside it.

    Other programs keep an `oauth` of their own in these entries, whose keys are written unlike ours; it is passed over.
    """
    data = written.get("oauth")
    if not isinstance(data, dict) or not _OURS & data.keys():
        return None
    place = (*place, "oauth")
    plain = {key: value for key, value in data.items() if key != "tls"}
    for key in data:
        if key not in _OAUTH:
            near = close_to(key, _OAUTH)
            source.problem((*place, key), f"unknown key; {f'did you mean {near!r}?' if near else 'not known here'}")
    settings = read_section(OAuthConfig, plain, place, source)
    note_secret_values([settings.client_secret], source)
    _check_oauth(settings, place, source)
    if any(name.lower() == "authorization" for name in headers):
        source.problem(place, "the server's headers hold an Authorization already; keep one of the two")
    if "tls" in data:
        settings = msgspec.structs.replace(settings, tls=read_tls(data["tls"], (*place, "tls"), source))
    return settings


def _check_oauth(settings: OAuthConfig, place: Place, source: Source) -> None:
    for name in ("token_url", "client_id", "client_secret"):
        value = getattr(settings, name)
        if source.is_faulty((*place, name)):
            continue
        if not value:
            source.problem((*place, name), "is missing or empty")
        elif name == "token_url" and (fault := _fault_in_token_url(value, settings.allow_http)):
            source.problem((*place, name), fault)
    if settings.audience and settings.grant != "token_exchange":
        source.problem((*place, "audience"), "belongs to the grant token_exchange; for client_credentials use resource")


def _fault_in_token_url(url: str, allow_http: bool) -> str | None:
    """Why the gateway's secret may not be sent there, or None. The text never shows the URL."""
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError:
        return "not a URL: its host or port is malformed"
    if parts.scheme not in ("http", "https") or not host or not url.isascii() or not url.isprintable() or " " in url:
        return "expected a URL like https://login.example.com/token"
    if parts.username is not None or parts.fragment:
        return "holds a user name, password or #fragment; leave it out"
    if parts.scheme == "http" and not allow_http and not _is_loopback(host):
        return 'must begin with https://: the client\'s secret is sent there. "allow_http": true allows http all the same'
    return None


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def refuse_for_command(written: Mapping[str, Any], place: Place, source: Source) -> None:
    """Note what only a server with a `url` can have."""
    for key in ("credentials", "credentials_file", "credentials_required", "tls"):
        if key in written:
            source.problem((*place, key), "is for servers with a url; hand a command what it needs in env")
    if isinstance(oauth := written.get("oauth"), dict) and _OURS & oauth.keys():
        source.problem((*place, "oauth"), f"is for servers with a url, found {shown(oauth, place)} beside a command")
