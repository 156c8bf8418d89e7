"""Reads `mcpServers` (VS Code's `servers`): entries as people have them, with our few keys beside theirs."""

from __future__ import annotations

import re
from typing import Annotated, Any, NamedTuple
from urllib.parse import SplitResult, parse_qsl, urlsplit

import msgspec
from msgspec import Meta

from mcpgateway.config.credentials import checked_headers, read_credentials, read_oauth, refuse_for_command
from mcpgateway.config.headers import fault_in_forwarded, fault_in_name
from mcpgateway.config.reader import Source, close_to, read_section
from mcpgateway.config.slug import slug_of
from mcpgateway.config.text import Place
from mcpgateway.config.tls import read_tls
from mcpgateway.config.values import (
    CallerHeaders,
    OAuthConfig,
    Seconds,
    ServerConfig,
    SessionLoss,
    Sharing,
    TlsConfig,
    Transport,
)

_TYPES: dict[str, Transport] = {
    "": "auto",
    "auto": "auto",
    "http": "streamablehttp",
    "streamablehttp": "streamablehttp",
    "sse": "sse",
    "stdio": "stdio",
}
_THEIRS = frozenset(
    """alwaysAllow autoApprove auth authProviderType description dev disabled disabledTools enabledTools envFile
    excludeTools gallery icon id includeTools metadata name oauth sandbox sandboxEnabled timeout title tools transport trust
    version""".split()
)
"""What other programs keep in these entries; some of it looks much like a slip in one of our keys."""
_READ_BY_HAND = ("credentials", "oauth", "tls")
_MEANT = {"serverUrl": "url", "httpUrl": "url"}
_url_text = re.compile(r"[!-~]+")


class _Entry(msgspec.Struct, frozen=True):
    url: str = ""
    command: str = ""
    args: tuple[str, ...] = ()
    env: dict[str, str] = {}
    cwd: str | None = None
    type: str = ""
    headers: dict[str, str] = {}
    sessions: Sharing = "auto"
    timeout_seconds: Seconds = 60.0
    forward_headers: tuple[str, ...] = ()
    enabled: bool = True
    disabled: bool = False
    credentials_file: str = ""
    credentials_required: bool = False
    spares: Annotated[int, Meta(ge=0, le=1000)] = 1
    conversation_key: str = ""
    on_session_loss: SessionLoss = "renew"


class _Shown(NamedTuple):
    """What an upstream is shown, apart from its headers."""

    credentials: tuple[CallerHeaders, ...] = ()
    oauth: OAuthConfig | None = None
    tls: TlsConfig | None = None


def read_servers(data: dict[str, Any], source: Source) -> tuple[ServerConfig, ...]:
    """All servers of the file, in its order. Problems are noted in `source`."""
    servers: list[ServerConfig] = []
    for section in ("mcpServers", "servers"):
        entries = data.get(section, {})
        if not isinstance(entries, dict):
            source.problem((section,), "expected an object: each key a server's name, each value its entry")
            continue
        for name, entry in entries.items():
            servers.append(_read_server(name, entry, (section, name), source))
            _refuse_like_named(servers, (section, name), source)
    return tuple(servers)


def _refuse_like_named(servers: list[ServerConfig], place: Place, source: Source) -> None:
    *others, new = servers
    for other in others:
        if other.name == new.name:
            source.problem(place, "there is another server of this name")
        elif other.slug == new.slug:
            source.problem(place, f"its short name {new.slug!r} is also that of {other.name!r}; rename one")


def _read_server(name: str, data: object, place: Place, source: Source) -> ServerConfig:
    lenient = isinstance(data, dict) and (data.get("disabled") is True or data.get("enabled") is False)
    entry = read_section(_Entry, data, place, source, lenient=lenient)
    written = data if isinstance(data, dict) else {}
    _check_keys(written, place, source)
    if not (slug := slug_of(name)) or not name.isprintable():
        source.problem(place, "a server's name needs a letter or digit (A-Z, a-z, 0-9) and no control characters")
    if isinstance(data, dict) and not lenient:
        _check_where(entry, written, place, source)
    _note_secrets(entry, written, source)
    _check_sharing(entry, written, place, source)
    # What a disabled server names may not be there yet: files and environment are left alone.
    shown = _Shown() if lenient else _read_shown(entry, written, place, source)
    return ServerConfig(
        name=name,
        slug=slug,
        url=entry.url,
        command=entry.command,
        args=entry.args,
        env=tuple(entry.env.items()),
        cwd=entry.cwd,
        type=_transport(entry, place, source),
        headers=_headers(entry, place, source),
        sessions=entry.sessions,
        timeout_seconds=entry.timeout_seconds,
        forward_headers=_forwarded(entry, place, source),
        enabled=entry.enabled and not entry.disabled,
        credentials=shown.credentials,
        credentials_file=str(source.beside(entry.credentials_file)) if entry.credentials_file else "",
        credentials_required=entry.credentials_required,
        oauth=shown.oauth,
        tls=shown.tls,
        spares=entry.spares,
        conversation_key=_conversation_key(entry, place, source),
        on_session_loss=entry.on_session_loss,
    )


def _read_shown(entry: _Entry, written: dict[str, Any], place: Place, source: Source) -> _Shown:
    if entry.command:
        refuse_for_command(written, place, source)
        return _Shown()
    forwarded = {name.lower() for name in entry.forward_headers}
    callers = read_credentials(written, entry.credentials_file, forwarded, place, source)
    names = [*entry.headers, *(name for caller in callers for name, _ in caller.headers)]
    return _Shown(
        callers,
        read_oauth(written, names, place, source),
        read_tls(written["tls"], (*place, "tls"), source) if "tls" in written else None,
    )


def _check_sharing(entry: _Entry, written: dict[str, object], place: Place, source: Source) -> None:
    if "spares" in written and entry.sessions != "single_use":
        source.problem((*place, "spares"), 'has an effect only with "sessions": "single_use"; leave it out')


def _conversation_key(entry: _Entry, place: Place, source: Source) -> str:
    """The name under which a call says to which conversation it belongs, checked; a header's in lower case."""
    kind, _, name = entry.conversation_key.partition(":")
    place = (*place, "conversation_key")
    if not entry.conversation_key:
        return ""
    if kind == "header":
        if fault := fault_in_name(name):
            source.problem(place, f"{name!r}: {fault}")
        elif name.lower() == "authorization":
            source.problem(place, "a token does not name a conversation: it is renewed while that goes on")
        return f"header:{name.lower()}"
    if kind != "meta" or not name.isprintable() or not 0 < len(name) <= 200:
        source.problem(place, "expected header: and a header's name, or meta: and a key of the request's _meta")
    return entry.conversation_key


def _check_keys(written: dict[str, object], place: Place, source: Source) -> None:
    """Keys of other programs are welcome; what looks like a slip in one of ours would be ignored in silence."""
    known = msgspec.structs.fields(_Entry)
    names = [*(field.name for field in known), *_READ_BY_HAND]
    for key in written:
        if key not in names and key not in _THEIRS and (near := _MEANT.get(key) or close_to(key, names)):
            source.problem((*place, key), f"unknown key; did you mean {near!r}?")
    if written.get("enabled") is True and written.get("disabled") is True:
        source.problem((*place, "disabled"), "enabled and disabled are both true; keep one")


def _check_where(entry: _Entry, written: dict[str, object], place: Place, source: Source) -> None:
    """A server is a url or a command."""
    if "url" in written and "command" in written:
        source.problem(place, "has both url and command; a server is one or the other")
    elif "url" in written:
        _check(_fault_in_url(entry.url), (*place, "url"), source)
    elif "command" in written:
        _check(None if entry.command.strip() else "is empty", (*place, "command"), source)
    else:
        source.problem(place, "needs a url (a server that runs already) or a command (one to start)")


def _check(fault: str | None, place: Place, source: Source) -> None:
    if fault and not source.is_faulty(place):
        source.problem(place, fault)


def _fault_in_url(url: str) -> str | None:
    """Why nothing can be reached at `url`, or None. The text never shows it: keys are kept in URLs."""
    if not _url_text.fullmatch(url):
        return "must be printable ASCII without spaces, and not empty"
    try:
        parts = urlsplit(url)
        parts.port  # noqa: B018 - reading it checks it
    except ValueError:
        return "not a URL: its host or port is malformed"
    return _fault_in_parts(parts)


def _fault_in_parts(parts: SplitResult) -> str | None:
    if parts.scheme not in ("http", "https"):
        return "must begin with http:// or https://"
    if not parts.hostname:
        return "names no host; expected something like https://example.com/mcp"
    if parts.username is not None:
        return "holds a user name or password; put an Authorization header into headers instead"
    if parts.fragment:
        return "has a #fragment, which is never sent; leave it out"
    return None


def _transport(entry: _Entry, place: Place, source: Source) -> Transport:
    kind = _TYPES.get(entry.type.lower().replace("-", "").replace("_", ""))
    if kind is None:
        source.problem((*place, "type"), "expected one of http, streamable-http, sse, stdio")
        return "auto"
    if entry.command and kind in ("auto", "stdio"):
        return "stdio"
    if entry.command:
        source.problem((*place, "type"), f"a command is spoken to over stdio, not {kind}; leave type out")
    elif entry.url and kind == "stdio":
        source.problem((*place, "type"), "a url is not spoken to over stdio; leave type out, or write http or sse")
    return kind


def _headers(entry: _Entry, place: Place, source: Source) -> tuple[tuple[str, str], ...]:
    headers = checked_headers(entry.headers, (*place, "headers"), source)
    if headers and entry.command:
        source.problem((*place, "headers"), "a command has no headers; hand it what it needs in env")
    return headers


def _forwarded(entry: _Entry, place: Place, source: Source) -> tuple[str, ...]:
    fixed = {name.lower() for name in entry.headers}
    for index, name in enumerate(entry.forward_headers):
        if fault := fault_in_forwarded(name):
            source.problem((*place, "forward_headers", index), f"{name!r}: {fault}")
        elif name.lower() in fixed:
            source.problem((*place, "forward_headers", index), f"{name!r} has a fixed value in headers; keep one of the two")
    if entry.forward_headers and entry.command:
        source.problem((*place, "forward_headers"), "a command takes no headers; this setting is for servers with a url")
    return tuple(dict.fromkeys(name.lower() for name in entry.forward_headers))


def _note_secrets(entry: _Entry, written: dict[str, Any], source: Source) -> None:
    """What stands in env and url is secret only where it came from outside the file, or in a query."""
    given = written.get("env")
    if isinstance(given, dict):
        source.secrets.update(value for key, value in entry.env.items() if value != given.get(key))
    source.secrets.update(value for _, value in parse_qsl(entry.url.partition("?")[2]))
    source.secrets.discard("")
