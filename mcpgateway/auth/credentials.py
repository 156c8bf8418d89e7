"""What a call shows an upstream: its credential. A client's own token is never part of it."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from typing import NamedTuple

RawHeaders = Iterable[tuple[bytes, bytes]]
"""A client's headers: names in lower case."""

REMEMBERED = 1024


class Credential(NamedTuple):
    """Rendered header lines, and a hash of who they stand for. Calls with different identities never share a session."""

    lines: bytes
    identity: str

    def __repr__(self) -> str:
        return f"<Credential {self.identity[:8]}>"


class StaticCredentials:
    """Headers from the configuration, and those of the client's that are forwarded. Names compare case-insensitively.

    `header` and value pairs come checked: printable, without line breaks.
    """

    def __init__(self, headers: Sequence[tuple[str, str]] = (), forward_headers: Iterable[str] = ()) -> None:
        self._pairs = [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in headers]
        self._forwarded = frozenset(name.lower().encode("latin-1") for name in forward_headers)
        self._own = self._render(())
        self._known: OrderedDict[tuple[tuple[bytes, bytes], ...], Credential] = OrderedDict()

    def __repr__(self) -> str:
        return f"<StaticCredentials {len(self._pairs)} headers, {len(self._forwarded)} forwarded>"

    @property
    def own(self) -> Credential:
        """The credential of the gateway itself: without anything of a client's."""
        return self._own

    def of(self, client_headers: RawHeaders) -> Credential:
        """The credential of a call that came with these headers."""
        if not self._forwarded:
            return self._own
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
        digest = hashlib.sha256()
        for part in (part for pair in sorted(pairs) for part in pair):
            digest.update(b"%d:" % len(part) + part)
        return Credential(b"".join(b"%b: %b\r\n" % pair for pair in pairs), digest.hexdigest())
