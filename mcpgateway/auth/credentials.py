"""What a call shows an upstream: its credential. A client's own token is never part of it."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from typing import NamedTuple, Protocol

from mcpgateway.auth.principals import Principal
from mcpgateway.config.values import CallerHeaders
from mcpgateway.errors import CredentialMissing

RawHeaders = Iterable[tuple[bytes, bytes]]
"""A client's headers: names in lower case."""

REMEMBERED = 1024


class Credential(NamedTuple):
    """Rendered header lines, and a hash of who they stand for. Calls with different identities never share a session.

    A token that is renewed changes the lines and leaves the identity, so that the sessions go on.
    """

    lines: bytes
    identity: str

    def __repr__(self) -> str:
        return f"<Credential {self.identity[:8]}>"


class Credentials(Protocol):
    """The credentials for one upstream. The principal None is the gateway itself: its health checks and lists."""

    lasting: bool
    """Whether each principal has the same one for as long as this object is in force, whatever its calls come with."""

    def ready(self, principal: Principal | None, client_headers: RawHeaders) -> Credential | None:
        """The caller's credential, from memory; None where `obtain` must be asked."""

    async def obtain(self, principal: Principal | None, client_headers: RawHeaders) -> Credential:
        """The caller's credential, fetched if need be, once for all who wait for it.

        A caller that gives up doesn't end it for the others. Raises CredentialMissing, CredentialFailed.
        """

    def refused(self, principal: Principal | None, credential: Credential) -> bool:
        """The upstream answered 401 to this credential. True if `obtain` may now give a better one."""

    def identity(self, principal: Principal | None, client_headers: RawHeaders) -> str:
        """The identity of the caller's credential, without obtaining one. Raises CredentialMissing."""

    async def aclose(self) -> None:
        """End what is being fetched."""


class StaticCredentials:
    """Headers from the configuration, and those of the client's that are forwarded. Names compare case-insensitively.

    A principal's own entry among `callers` goes before its tenant's; the headers of one of them replace those of the same
    name in `headers`. Who has neither gets `headers` alone, or nothing where an entry is `required`. `header` and value
    pairs come checked: printable, without line breaks.
    """

    def __init__(
        self,
        headers: Sequence[tuple[str, str]] = (),
        forward_headers: Iterable[str] = (),
        *,
        upstream: str = "",
        callers: Iterable[CallerHeaders] = (),
        required: bool = False,
    ) -> None:
        forwarded = frozenset(name.lower().encode("latin-1") for name in forward_headers)
        self._upstream = upstream
        self._required = required
        self._default = _HeaderSet(headers, forwarded)
        self.lasting = not forwarded
        self._subjects: dict[tuple[str, str], _HeaderSet] = {}
        self._tenants: dict[tuple[str, str], _HeaderSet] = {}
        for caller in callers:
            entries, name = (self._tenants, caller.tenant) if caller.tenant else (self._subjects, caller.subject)
            entries[caller.issuer, name] = _HeaderSet(_overlaid(headers, caller.headers), forwarded)

    def __repr__(self) -> str:
        return f"<StaticCredentials {self._default!r}, {len(self._subjects)} principals, {len(self._tenants)} tenants>"

    @property
    def own(self) -> Credential:
        """The credential of the gateway itself: without anything of a client's."""
        return self._default.own

    def of(self, client_headers: RawHeaders) -> Credential:
        """The credential of a call that came with these headers, whoever its caller is."""
        return self._default.of(client_headers)

    def ready(self, principal: Principal | None, client_headers: RawHeaders) -> Credential | None:
        headers = self._headers_of(principal)
        return headers.of(client_headers) if headers is not None else None

    async def obtain(self, principal: Principal | None, client_headers: RawHeaders) -> Credential:
        return self.required_of(principal, client_headers)

    def required_of(self, principal: Principal | None, client_headers: RawHeaders) -> Credential:
        """The caller's credential, which is always at hand. Raises CredentialMissing."""
        credential = self.ready(principal, client_headers)
        if credential is None:
            raise CredentialMissing(
                self._upstream,
                "there is no credential of yours for it; its operator adds you or your tenant to this server's credentials",
            )
        return credential

    def refused(self, principal: Principal | None, credential: Credential) -> bool:
        return False

    def identity(self, principal: Principal | None, client_headers: RawHeaders) -> str:
        return self.required_of(principal, client_headers).identity

    async def aclose(self) -> None:
        return

    def _headers_of(self, principal: Principal | None) -> _HeaderSet | None:
        if principal is None or not (self._subjects or self._tenants or self._required):
            return self._default
        issuer = principal.issuer
        found = self._subjects.get((issuer, principal.subject)) or self._tenants.get((issuer, principal.tenant))
        return found or (None if self._required else self._default)


class _HeaderSet:
    """Headers that are configured, as credentials: alone, or with what a client sends of the headers `forwarded`."""

    def __init__(self, headers: Iterable[tuple[str, str]], forwarded: frozenset[bytes]) -> None:
        self._pairs = [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in headers]
        self._forwarded = forwarded
        self.own = self._render(())
        self._known: OrderedDict[tuple[tuple[bytes, bytes], ...], Credential] = OrderedDict()

    def __repr__(self) -> str:
        return f"{len(self._pairs)} headers, {len(self._forwarded)} forwarded"

    def of(self, client_headers: RawHeaders) -> Credential:
        if not self._forwarded:
            return self.own
        forwarded = tuple(sorted(pair for pair in client_headers if pair[0] in self._forwarded))
        known = self._known.get(forwarded)
        if known is None:
            known = self._known[forwarded] = self._render(forwarded)
            if len(self._known) > REMEMBERED:
                self._known.popitem(last=False)
        return known

    def _render(self, forwarded: Sequence[tuple[bytes, bytes]]) -> Credential:
        names = {name for name, _ in forwarded}
        # A header that the client may set replaces the configured one; sent twice, the upstream would choose.
        pairs = [pair for pair in self._pairs if pair[0] not in names] + list(forwarded)
        identity = digest_of(part for pair in sorted(pairs) for part in pair)
        return Credential(b"".join(b"%b: %b\r\n" % pair for pair in pairs), identity)


def _overlaid(headers: Iterable[tuple[str, str]], by: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
    names = {name.lower() for name, _ in by}
    return [pair for pair in headers if pair[0].lower() not in names] + list(by)


def digest_of(parts: Iterable[bytes]) -> str:
    """SHA-256 in hex. Every part is preceded by its length, so that ("ab", "c") never meets ("a", "bc")."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(b"%d:" % len(part) + part)
    return digest.hexdigest()
