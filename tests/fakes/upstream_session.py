"""An upstream that opens sessions on request, for whatever lends them: it can hang, refuse and break in every place."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import aclosing

from mcpgateway.pool.key import PoolKey, Terms
from mcpgateway.pool.session import Lease, PooledSession, TransportType
from mcpgateway.protocol.call import Call, Channel
from mcpgateway.services.leasing import Open, Want


class Gate:
    """Lets everybody pass, or holds them until the test lets them through one by one."""

    def __init__(self) -> None:
        self.shut = False
        self.held: list[asyncio.Future[None]] = []
        self.refuses_with: BaseException | None = None

    def __repr__(self) -> str:
        return f"<Gate {'shut' if self.shut else 'open'}, {len(self.held)} held>"

    async def passes(self) -> None:
        if self.shut:
            waiting: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self.held.append(waiting)
            try:
                await waiting
            finally:
                if waiting in self.held:
                    self.held.remove(waiting)
        elif self.refuses_with is not None:
            raise self.refuses_with.with_traceback(None)

    def let(self, error: BaseException | None = None) -> None:
        """Let the first one through, or make it fail."""
        waiting = self.held.pop(0)
        if error is not None:
            waiting.set_exception(error)
        else:
            waiting.set_result(None)

    def open_up(self) -> None:
        """Let all pass, from now on."""
        self.shut = False
        while self.held:
            self.let()


class FakeSession:
    """A session that answers pings. `closed` is what its wire says of itself."""

    def __init__(self, upstream: FakeUpstream, key: PoolKey, number: int) -> None:
        self.upstream = upstream
        self.key = key
        self.number = number
        self.closed = False
        self.ended = 0
        self.own_headers = b""

    def __repr__(self) -> str:
        return f"<FakeSession {self.number}>"

    async def request(self, call: Call, channel: Channel) -> bytes:
        self.upstream.pinged.append(self)
        await self.upstream.pinging.passes()
        return b"{}"

    async def aclose(self) -> None:
        self.ended += 1
        self.upstream.closings += 1
        try:
            await self.upstream.closing.passes()
        finally:
            self.closed = True
            self.upstream.open_now -= 1


class FakeUpstream:
    """Counts what is open, from the moment an opening begins until the session's end is over."""

    def __init__(self) -> None:
        self.opening, self.pinging, self.closing = Gate(), Gate(), Gate()
        self.sessions: list[FakeSession] = []
        self.pinged: list[FakeSession] = []
        self.openings = self.closings = 0
        self.open_now = self.most_open = 0
        self.born_dead = False

    def __repr__(self) -> str:
        return f"<FakeUpstream with {self.open_now} sessions>"

    def opens(self, key: PoolKey) -> Open:
        """What opens a session of `key` here."""

        async def open() -> PooledSession:
            return await self._open(key)

        return open

    def want(self, key: PoolKey, terms: Terms | None = None) -> Want:
        return Want(key, terms or Terms(), self.opens(key))

    async def _open(self, key: PoolKey) -> PooledSession:
        self.openings += 1
        self.open_now += 1
        self.most_open = max(self.most_open, self.open_now)
        try:
            await self.opening.passes()
        except BaseException:
            self.open_now -= 1
            raise
        session = FakeSession(self, key, len(self.sessions))
        session.closed = self.born_dead
        self.sessions.append(session)
        return PooledSession(session, aclosing(session), key.url, key.identity, TransportType.STREAMABLE_HTTP)


class InTime:
    """Mixed into a pool, makes a test that would wait for ever fail."""

    async def lease(self, want: Want) -> Lease:
        async with asyncio.timeout(10):
            return await super().lease(want)  # type: ignore[misc]

    async def close_all(self) -> None:
        async with asyncio.timeout(10):
            await super().close_all()  # type: ignore[misc]


def key_of(user: str = "alice", upstream: str = "crm", partition: str = "") -> PoolKey:
    """The pool key of a caller."""
    return PoolKey(user, f"http://{upstream}.test/mcp", f"identity-of-{user}", "streamablehttp", upstream, partition)


async def quiet(turns: int = 25) -> None:
    """Let the loop do all that can be done without anything else happening; so many turns are more than any of it needs."""
    for _ in range(turns):
        await asyncio.sleep(0)


async def until(condition: Callable[[], bool]) -> None:
    """Wait until something is true. It is asked again whenever the loop has done other work."""
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0)
