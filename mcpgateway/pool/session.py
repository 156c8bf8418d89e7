"""A session as the pool knows it."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager
from enum import StrEnum
from typing import TYPE_CHECKING, Any
from weakref import WeakSet, ref

from mcpgateway.pool.key import PoolKey, shown_url

if TYPE_CHECKING:
    from mcpgateway.pool.shelf import Shelf


class TransportType(StrEnum):
    """The wire that an upstream session uses."""

    SSE = "sse"
    STREAMABLE_HTTP = "streamablehttp"
    STDIO = "stdio"


class PooledSession:
    """One upstream session and what the pool must remember of it.

    `session` is what calls are made on; leaving `transport_context` ends it. A session is *idle* with no lease, *leased*
    with one or more, *retired* when it takes no new lease, and *closed* at the end; it never comes back from a later state.
    """

    __slots__ = (
        "close_at",
        "closed",
        "former_holders",
        "generation",
        "headers",
        "held_by",
        "holder",
        "identity_key",
        "idle_since",
        "key",
        "latest_holder",
        "leases",
        "opened_at",
        "retired",
        "session",
        "shelf",
        "transport_context",
        "transport_type",
        "url",
        "uses",
    )

    shelf: Shelf
    """Where it stands for all its life. Unset until a ledger has it."""

    def __init__(
        self,
        session: Any,
        transport_context: AbstractAsyncContextManager[Any, Any],
        url: str,
        identity_key: str,
        transport_type: TransportType,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        self.session = session
        self.transport_context = transport_context
        self.url = url
        self.identity_key = identity_key
        self.transport_type = transport_type
        self.headers = headers
        self.key: PoolKey | None = None
        self.generation = 0
        self.opened_at = 0.0
        self.idle_since = 0.0
        self.close_at = float("inf")
        self.holder: Lease | None = None
        self.held_by: object = None
        self.former_holders: WeakSet[object] | None = None
        self.latest_holder: ref[object] | None = None
        self.leases = 0
        self.uses = 0
        self.retired = False
        self.closed = False

    @property
    def state(self) -> str:
        """'idle', 'leased', 'retired' or 'closed'."""
        if self.closed:
            return "closed"
        if self.retired:
            return "retired"
        return "leased" if self.leases else "idle"

    def __repr__(self) -> str:
        where = f"{self.transport_type} {shown_url(self.url)} {self.identity_key[:8]}"
        return f"<PooledSession {where} {self.state}, {self.leases} leases>"


class Lease:
    """The right to use a session until it is given back; given back once, however often asked."""

    __slots__ = ("began_at", "pooled", "released", "session")

    def __init__(self, pooled: PooledSession, began_at: float) -> None:
        self.pooled = pooled
        self.session = pooled.session
        self.began_at = began_at
        self.released = False

    def __repr__(self) -> str:
        return f"<Lease {'released' if self.released else 'held'} of {self.pooled!r}>"
