"""Which kind of server it is: with a handshake, without, or of the first transport; found out once, and remembered.

A client's own generation is tried first, so that nothing is lost to translation where the server speaks both. What a server
refuses is tried last from then on: it is found out again by itself when the server has become another.
"""

from __future__ import annotations

from collections.abc import Mapping

from mcpgateway.errors import BadAnswer, HttpRefused, Incompatible, UpstreamError
from mcpgateway.upstream.turn import Turn

MODERN, LEGACY, SSE = "modern", "legacy", "sse"
"""2026-07-28 and later; the revisions with a handshake; 2024-11-05 on its own transport."""

NOT_STREAMABLE = frozenset({400, 404, 405, 406, 415})
"""Statuses with which a server of 2024-11-05 answers a POST of initialize to its stream's URL."""

PASSING = frozenset({408, 425, 429})
"""Statuses below 500 that speak of the moment, not of the server."""


class Era:
    """What is known of one server: which kinds it took, and which it refused."""

    def __init__(self) -> None:
        self._takes: dict[str, bool] = {}
        self.turn = Turn()
        """Whose it is to find out."""

    def __repr__(self) -> str:
        return f"<Era {' '.join(f'{kind}={takes}' for kind, takes in self._takes.items()) or 'unknown'}>"

    def takes(self, kind: str) -> bool | None:
        """Whether the server takes this kind; None while that is not known."""
        return self._takes.get(kind)

    def took(self, kind: str) -> None:
        self._takes[kind] = True

    def refused(self, kind: str) -> None:
        self._takes[kind] = False

    def forget(self) -> None:
        """What was known is contradicted, or the server was not itself when it refused everything."""
        self._takes.clear()

    def order(self, modern: bool, *, sse: bool = False) -> list[str]:
        """The kinds in the order in which to try them for a client of this generation."""
        kinds = [MODERN, LEGACY] if modern else [LEGACY, MODERN]
        return sorted(kinds + [SSE] * sse, key=lambda kind: self._takes.get(kind) is False)


def may_be_sse(error: Exception | None) -> bool:
    """Whether a refused `initialize` still leaves the older HTTP+SSE transport possible."""
    return isinstance(error, HttpRefused) and error.status in NOT_STREAMABLE


def is_refusal(error: UpstreamError) -> bool:
    """Whether a server that was tried as one kind says that it is none of that kind.

    An outage, a time-out or a wrong credential says nothing of it.
    """
    if isinstance(error, HttpRefused):
        return error.status < 500 and error.status not in PASSING
    return isinstance(error, BadAnswer | Incompatible)


def most_telling(refusals: Mapping[str, UpstreamError]) -> UpstreamError:
    """Of several refusals the one that says most: a revision that nobody here speaks, else what the handshake met."""
    for error in refusals.values():
        if isinstance(error, Incompatible):
            return error
    return refusals.get(LEGACY) or next(iter(refusals.values()))
