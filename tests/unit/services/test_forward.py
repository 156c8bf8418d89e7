"""What is repeated of a call that fails, and who ends the trial of a breaker: on sessions that fail as the test says."""

from __future__ import annotations

import asyncio
import contextlib
import gc
from collections import deque
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from typing import Any

import msgspec
import pytest

from mcpgateway.auth.credentials import Credential, RawHeaders, StaticCredentials
from mcpgateway.auth.principals import Principal
from mcpgateway.config.values import ServerConfig, TlsConfig
from mcpgateway.errors import AuthRefused, CircuitOpen, ConnectionLost, RpcError, SessionLost, UpstreamError, UpstreamTimeout
from mcpgateway.metrics import UpstreamFigures
from mcpgateway.pool.breaker import FAILURES_TO_OPEN, FIRST_PAUSE_SECONDS
from mcpgateway.pool.key import Terms
from mcpgateway.pool.session import PooledSession
from mcpgateway.protocol.call import Call, Channel, NoChannel
from mcpgateway.runtime import Sweep
from mcpgateway.services.conversation import Conversation
from mcpgateway.services.forward import Forward
from mcpgateway.services.mcp_session_pool import MCPSessionPool
from mcpgateway.services.upstream import Upstream
from mcpgateway.upstream.base import Hello, Target, Welcome
from mcpgateway.upstream.open import Opener
from tests.fakes.clock import FakeClock
from tests.fakes.until import until

Outcome = UpstreamError | RpcError | None
"""What a request comes to; None is a result."""

URL = "http://up.test/mcp"
WELCOME = b'{"protocolVersion":"2025-11-25","capabilities":{},"serverInfo":{"name":"fake","version":"1"}}'


class Server(Opener):
    """Opens sessions in memory. Each request takes the next of `outcomes`, or hangs where there is none."""

    def __init__(self, sweep: Sweep) -> None:
        super().__init__(sweep)
        self.outcomes: deque[Outcome] = deque()
        self.waiting: list[asyncio.Future[bytes]] = []
        self.opened: list[Session] = []
        self.requests = 0
        self.shown: list[bytes] = []
        """The header lines of each request."""
        self.tls = 1

    async def open(self, target: Target, hello: Hello, headers: bytes) -> Session:  # type: ignore[override]
        self.opened.append(Session(self, headers))
        return self.opened[-1]

    def tls_generation(self, upstream: str, tls: TlsConfig) -> int:
        return self.tls

    async def answer(self) -> bytes:
        self.requests += 1
        if not self.outcomes:
            return await self.hang()
        if self.outcomes[0] is not None:
            raise self.outcomes.popleft()  # type: ignore[misc]
        self.outcomes.popleft()
        return b"{}"

    async def open_url(self, url: str, *how: object) -> tuple[Session, AbstractAsyncContextManager[Session]]:
        await self.hang()
        raise AssertionError("what hangs is cancelled")

    async def hang(self) -> bytes:
        self.waiting.append(waiting := asyncio.get_running_loop().create_future())
        return await waiting


class Session:
    """One session of the server."""

    def __init__(self, server: Server, headers: bytes) -> None:
        self.welcome = Welcome.decode("up", WELCOME)
        self.stateful = True
        self.closed = False
        self.listener = None
        self.own_headers = headers
        self._server = server

    async def request(self, call: Call, channel: Channel) -> bytes:
        self._server.shown.append(call.headers)
        return await self._server.answer()

    async def aclose(self) -> None:
        self.closed = True


class Renewable:
    """Credentials that can be had afresh, `left` times."""

    lasting = False

    def __init__(self, left: int = 1) -> None:
        self._left = left
        self.number = 0

    def ready(self, principal: Principal | None, client_headers: RawHeaders) -> Credential | None:
        return Credential(b"X-Token: %d\r\n" % self.number, "somebody")

    async def obtain(self, principal: Principal | None, client_headers: RawHeaders) -> Credential:
        self.number += 1
        return Credential(b"X-Token: %d\r\n" % self.number, "somebody")

    def refused(self, principal: Principal | None, credential: Credential) -> bool:
        self._left -= 1
        return self._left >= 0

    def identity(self, principal: Principal | None, client_headers: RawHeaders) -> str:
        return "somebody"

    async def aclose(self) -> None:
        return


class World:
    """One upstream, one conversation with it, and the real pool between them."""

    def __init__(self, clock: FakeClock, renewals: int = 1) -> None:
        self.clock = clock
        self.sweep = Sweep(clock)
        self.server = Server(self.sweep)
        self.pool = MCPSessionPool(sweep=self.sweep, opener=self.server)
        self.breaker = self.pool.breaker("up")
        config = ServerConfig("up", "up", url=URL, type="http", sessions="bound")
        self.upstream = Upstream(config, Renewable(renewals), self.breaker, UpstreamFigures())
        self.forward = Forward(self.pool, self.server, Terms(), clock=clock)
        self.conversation = Conversation("c-1", None, "2025-11-25")

    async def call(self, method: str = "tools/list", *headers: tuple[bytes, bytes]) -> bytes:
        call = Call(method, {}, client=self.conversation, client_headers=headers)
        async with asyncio.timeout(10):
            return await self.forward.send(self.upstream, self.conversation, call, NoChannel())

    async def calling(self) -> asyncio.Task[bytes]:
        """A call that the server does not answer."""
        before = self.server.requests
        task = asyncio.create_task(self.call())
        await until(lambda: self.server.requests > before)
        return task

    async def acquire(self) -> PooledSession:
        async with asyncio.timeout(10):
            return await self.pool.acquire(URL)

    async def opening(self) -> asyncio.Task[PooledSession]:
        """A caller of the pool itself, whose session does not open."""
        before = len(self.server.waiting)
        task = asyncio.create_task(self.acquire())
        await until(lambda: len(self.server.waiting) > before)
        return task

    async def fail(self, task: asyncio.Task[Any], error: BaseException | None = None) -> None:
        """End what hangs, the first of them with an error of the server's, or by cancelling it."""
        if error is None:
            task.cancel()
        else:
            self.server.waiting.pop(0).set_exception(error)
        await asyncio.wait([task])

    def open_breaker(self) -> None:
        """The breakers open, and their pause is over: the next caller is the trial."""
        for breaker in (self.breaker, self.pool.breaker(URL)):
            for _ in range(FAILURES_TO_OPEN):
                breaker.failed(self.clock.now())
        self.clock.advance(FIRST_PAUSE_SECONDS)

    async def close(self) -> None:
        await self.forward.close()
        self.sweep.close()


@pytest.fixture
async def world(clock: FakeClock) -> AsyncIterator[World]:
    made = World(clock)
    yield made
    async with asyncio.timeout(10):
        await made.close()


@pytest.mark.parametrize("kind", ["lost", "refused"])
async def test_a_failed_call_is_no_garbage(kind: str, world: World) -> None:
    async def fail() -> None:
        world.server.outcomes.append(broke() if kind == "lost" else RpcError.of(-1, "no"))
        with contextlib.suppress(ConnectionLost, RpcError):
            await world.call("tools/call")

    await fail()
    gc.collect()
    gc.disable()
    try:
        for _ in range(3):
            await fail()
        await asyncio.sleep(0)
        calls = [each for each in gc.get_objects() if isinstance(each, Call)]
        assert [call for call in calls if call.client is world.conversation] == []
    finally:
        gc.enable()


async def test_a_call_is_shown_under_the_credentials_in_force_and_no_others(world: World) -> None:
    world.server.outcomes.extend([None] * 5)
    for key in ("a", "a", "b"):
        world.upstream.show_under(world.upstream.config, StaticCredentials([("X-Key", key)]))
        await world.call()
    world.upstream.show_under(world.upstream.config, StaticCredentials([("X-Key", "b")], ["X-From"]))
    for sender in (b"1", b"2"):
        await world.call("tools/list", (b"x-from", sender))
    a, b = b"x-key: a\r\n", b"x-key: b\r\n"
    assert world.server.shown == [a, a, b, b + b"x-from: 1\r\n", b + b"x-from: 2\r\n"]
    assert len(world.server.opened) == 4, "who is shown under others has another session"


async def test_changed_tls_files_mean_another_session_though_the_credential_is_the_same(world: World) -> None:
    world.server.outcomes.extend([None] * 3)
    config = msgspec.structs.replace(world.upstream.config, tls=TlsConfig(ca="ca.pem"))
    world.upstream.show_under(config, StaticCredentials([("X-Key", "a")]))
    for generation in (1, 1, 2):
        world.server.tls = generation
        await world.call()
    assert len(world.server.opened) == 2


def broke() -> ConnectionLost:
    return ConnectionLost("up", "it broke off")


def lost() -> SessionLost:
    return SessionLost("up", "it no longer knows the session")


def refused() -> AuthRefused:
    return AuthRefused("up", "it answered HTTP 401", status=401)


MENDED: dict[str, list[Outcome]] = {
    "broke off, then forgot": [broke(), lost()],
    "forgot, then broke off": [lost(), broke()],
    "refused, then forgot": [refused(), lost()],
    "all of it": [refused(), broke(), lost()],
}


@pytest.mark.parametrize("trouble", MENDED)
async def test_u1_a_call_that_is_safe_to_repeat_survives_each_kind_of_trouble_once(trouble: str, world: World) -> None:
    world.server.outcomes.extend([*MENDED[trouble], None])
    assert await world.call() == b"{}"
    assert world.server.requests == len(MENDED[trouble]) + 1


@pytest.mark.parametrize("error", [broke(), lost(), refused()], ids=lambda error: type(error).__name__)
async def test_u2_trouble_of_the_same_kind_is_not_mended_twice(error: UpstreamError, clock: FakeClock, world: World) -> None:
    world.server.outcomes.extend([error, error, None])
    with pytest.raises(type(error)):
        await world.call()
    assert world.server.requests == 2


async def test_u2_a_call_whose_trouble_never_ends_does(world: World) -> None:
    world.server.outcomes.extend([broke(), lost()] * 10)
    with pytest.raises(ConnectionLost):
        await world.call()
    assert world.server.requests == 3


async def test_u6_a_call_that_may_not_run_twice_is_repeated_only_while_it_was_refused(world: World) -> None:
    world.server.outcomes.extend([refused(), lost(), broke(), None])
    with pytest.raises(ConnectionLost):
        await world.call("tools/call")
    assert world.server.requests == 3
    assert len(world.server.opened) == 2


async def test_a_credential_that_cannot_be_renewed_is_shown_once(world: World) -> None:
    world.upstream.credentials = Renewable(0)
    world.server.outcomes.extend([refused(), None])
    with pytest.raises(AuthRefused):
        await world.call()
    assert world.server.requests == 1


ENDS: dict[str, Outcome] = {"times out": UpstreamTimeout("up", "no sign of life"), "is cancelled": None}


@pytest.mark.parametrize("end", ENDS)
async def test_p10_a_call_that_began_before_the_breaker_opened_does_not_end_the_trial(end: str, world: World) -> None:
    earlier = await world.calling()
    world.open_breaker()
    trial = await world.calling()
    await world.fail(earlier, ENDS[end])
    with pytest.raises(CircuitOpen):
        await world.call()
    trial.cancel()
    await asyncio.wait([trial])
    world.server.outcomes.append(None)
    assert await world.call() == b"{}", "the trial that nobody ended kept the next one out"


async def test_p10_a_caller_of_the_pool_that_is_no_trial_ends_none(world: World) -> None:
    earlier = await world.opening()
    world.open_breaker()
    trial = await world.opening()
    await world.fail(earlier)
    with pytest.raises(CircuitOpen):
        await world.acquire()
    await world.fail(trial)
    assert world.pool.breaker(URL).refuses_for(world.clock.now()) == 0
