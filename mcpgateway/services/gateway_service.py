"""Watches the upstreams: which state each is in, and why; fills the catalogue; hears announcements.

Streamable HTTP is watched through the pool, under an identity of the gateway's own; SSE and stdio on a session of their own.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable

from mcpgateway import logs, runtime
from mcpgateway.auth.access import EVERYTHING, Rights
from mcpgateway.errors import (
    AuthRefused,
    CircuitOpen,
    CredentialFailed,
    CredentialMissing,
    GatewayError,
    Incompatible,
    RpcError,
    UpstreamTimeout,
)
from mcpgateway.pool.session import TransportType
from mcpgateway.protocol import revisions
from mcpgateway.protocol.call import Call, NoChannel
from mcpgateway.services.announcements import LIST_CHANGES, Announcer
from mcpgateway.services.catalog import KINDS, Catalog
from mcpgateway.services.conversation import gateway_conversation
from mcpgateway.services.forward import Forward
from mcpgateway.services.kept import KeptSession
from mcpgateway.services.leasing import SessionPool
from mcpgateway.services.upstream import State, Upstream, UpstreamReport
from mcpgateway.upstream.base import UpstreamSession

__all__ = ["GatewayService", "State", "UpstreamReport"]

_log = logging.getLogger("mcpgateway.upstreams")

FIRST_PAUSE_SECONDS = 0.5
LONGEST_PAUSE_SECONDS = 15.0
PING_SECONDS = 10.0

MakeForward = Callable[[SessionPool], Forward]


class GatewayService:
    """The upstreams by slug, each with a task that watches it. Upstreams may come and go while it runs."""

    def __init__(
        self,
        upstreams: dict[str, Upstream],
        forward: Forward,
        make_forward: MakeForward,
        catalog: Catalog,
        announcer: Announcer,
        check_seconds: float,
    ) -> None:
        self.upstreams = upstreams
        self._forward = forward
        self._make_forward = make_forward
        self._catalog = catalog
        self._announcer = announcer
        self._check_seconds = check_seconds
        self._watches: dict[str, tuple[_Watch, asyncio.Task[None]]] = {}
        self.news = asyncio.Event()
        """Set whenever a state changes; whoever waits for it clears it."""

    def __repr__(self) -> str:
        return f"<GatewayService of {len(self.upstreams)} upstreams>"

    def start(self) -> None:
        """Begin to watch. Returns at once: an upstream that is down stops nobody."""
        for upstream in self.upstreams.values():
            self.watch(upstream)

    def watch(self, upstream: Upstream) -> None:
        """Begin to watch one upstream."""
        direct = self._make_forward(KeptSession(upstream.breaker))
        watch = _Watch(upstream, self._forward, direct, self._catalog, self._announcer, self._check_seconds)
        watch.on_change = self.news.set
        self._watches[upstream.slug] = watch, runtime.spawn(watch.run(), f"watch {upstream.name}")

    async def unwatch(self, slug: str) -> None:
        """End the watching of one upstream, and the session that was kept for it."""
        watch, task = self._watches.pop(slug)
        await runtime.end_task(task)
        await watch.close()

    def reports(self, rights: Rights = EVERYTHING) -> list[UpstreamReport]:
        """What is known now of each upstream that may be used by these rights."""
        shown = [upstream for slug, upstream in self.upstreams.items() if rights.server(slug)]
        return [upstream.report(self._catalog.counts(upstream)) for upstream in shown]

    @property
    def settled(self) -> bool:
        """Whether the first attempt at each upstream is over."""
        return all(upstream.state is not State.CONNECTING for upstream in self.upstreams.values())

    async def stop(self) -> None:
        """End all watching."""
        await asyncio.gather(*(self.unwatch(slug) for slug in list(self._watches)))


class _Watch:
    """One upstream's watch: connect, list, ping; again with growing pauses when that fails."""

    def __init__(
        self,
        upstream: Upstream,
        pooled: Forward,
        direct: Forward,
        catalog: Catalog,
        announcer: Announcer,
        check_seconds: float,
    ) -> None:
        self.upstream = upstream
        self.on_change: Callable[[], None] = lambda: None
        self._pooled = pooled
        self._direct = direct
        self._catalog = catalog
        self._announcer = announcer
        self._check_seconds = check_seconds
        self._conversation = gateway_conversation(revisions.NEWEST_MODERN)
        self._conversation.listening = True
        self._session: UpstreamSession | None = None

    def __repr__(self) -> str:
        return f"<_Watch of {self.upstream!r}>"

    @property
    def _forward(self) -> Forward:
        streamable = self.upstream.transport in (TransportType.STREAMABLE_HTTP, "auto")
        return self._pooled if streamable else self._direct

    async def run(self) -> None:
        """Until cancelled."""
        pause = FIRST_PAUSE_SECONDS
        while True:
            try:
                await self._check()
                pause = FIRST_PAUSE_SECONDS
                await asyncio.sleep(self._check_seconds * random.uniform(0.9, 1.1))  # noqa: S311
            except CircuitOpen as refused:
                await asyncio.sleep(refused.retry_after_seconds)
            except GatewayError as error:
                self._failed(error)
                await asyncio.sleep(pause * random.uniform(0.8, 1.2))  # noqa: S311
                pause = min(pause * 2, LONGEST_PAUSE_SECONDS)
            except Exception as fault:
                # A fault of ours must not end the watching: nobody would notice, and the state would stay as it is.
                _log.exception("watching upstream %r failed unexpectedly", self.upstream.name)
                self._set(State.UNREACHABLE, f"the check itself failed: {type(fault).__name__}")
                await asyncio.sleep(LONGEST_PAUSE_SECONDS)

    async def _check(self) -> None:
        """Touch the upstream: a ping on the session that is kept, which connects if there is none."""
        call = Call("ping", client=self._conversation)
        try:
            async with asyncio.timeout(PING_SECONDS + self.upstream.target.open_timeout_seconds):
                await self._forward.send(self.upstream, self._conversation, call, NoChannel())
        except TimeoutError as error:
            raise UpstreamTimeout(self.upstream.name, "no answer to a ping in time") from error
        except RpcError as error:
            _log.debug("%r answers ping with error %d, which is an answer", self.upstream.name, error.code)
        # A changed session means that the upstream was started anew: what it offers may be different now.
        binding = self._conversation.bindings.get(self.upstream.slug)
        session = binding.session if binding is not None else None
        first, renewed = self._session is None, session is not self._session
        self._session = session
        if renewed and not first:
            for capability in LIST_CHANGES.values():
                self._catalog.changed(self.upstream.slug, capability)
        await self._list()
        if renewed:
            self._announcer.came_or_went(self.upstream)

    async def _list(self) -> None:
        """Fill the catalogue."""
        problem = ""
        for kind in KINDS:
            if self.upstream.offers(kind.capability):
                call = Call(kind.method, client=self._conversation)
                try:
                    await self._catalog.listing(self.upstream, self._conversation, call, kind, self._forward)
                except GatewayError as error:
                    problem = f"{kind.method} failed: {error}"
        if problem:
            self._set(State.DEGRADED, problem)
        else:
            self._set(State.READY, "answers")

    def _failed(self, error: GatewayError) -> None:
        if isinstance(error, AuthRefused | CredentialMissing | CredentialFailed):
            self._set(State.AUTH_REQUIRED, str(error))
        elif isinstance(error, Incompatible):
            self._set(State.INCOMPATIBLE, str(error))
        else:
            self._set(State.UNREACHABLE, str(error))

    def _set(self, state: State, reason: str) -> None:
        reason = logs.redacted(reason)  # what a server says of its trouble may repeat what it was shown
        if (state, reason) == (self.upstream.state, self.upstream.reason):
            return
        if state is not self.upstream.state:
            log = _log.info if state is State.READY else _log.warning
            log("upstream %r is %s: %s", self.upstream.name, state.value, reason)
        self.upstream.state, self.upstream.reason = state, reason
        self.on_change()

    async def close(self) -> None:
        """Close the sessions that were the watch's alone."""
        self._pooled.end(self._conversation)
        await self._direct.close()
