"""An answer that a server has fetched later: its stream ends before it, and goes on when it is asked for again (2025-11-25)."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from mcpgateway import runtime
from mcpgateway.errors import AuthRefused, BadAnswer, ConnectFailed, ConnectionLost, GatewayError, SessionLost, UpstreamTimeout
from mcpgateway.protocol import sse
from mcpgateway.upstream.answering import LONGEST_PAUSE_SECONDS, MAX_BREAKS, SHORTEST_PAUSE_SECONDS, Position
from mcpgateway.upstream.base import Hello, Target
from mcpgateway.upstream.streamable_http import open_streamable_http
from tests.fakes.http import FakeHttp, FakeResponse, Sent
from tests.fakes.peers import Ear, tool_call
from tests.fakes.until import until

TARGET = Target(name="up", url="http://up.test/mcp")


@pytest.fixture(autouse=True)
async def no_tasks_left() -> AsyncIterator[None]:
    yield
    await until(lambda: not runtime.running_tasks())


def primed(id: str = "1", retry: int | None = 100) -> FakeResponse:
    """A stream that says where it is to be continued, and no more."""
    stream = FakeResponse(streaming=True)
    stream.say_raw(f"id: {id}\n".encode() + (f"retry: {retry}\n".encode() if retry is not None else b"") + b"data:\n\n")
    return stream


class Polled:
    """A call whose answer is fetched: its own stream, and after it those that the server gives for each GET."""

    def __init__(self, *streams: Any) -> None:
        self.first = streams[0]
        self.later = list(streams[1:])
        self.http = FakeHttp(self._answer)
        self.ear = Ear()
        self.pauses: list[float] = []
        """What the call was told of them."""
        self.outcome: asyncio.Task[bytes]

    def _answer(self, sent: Sent) -> Any:
        if sent.rpc == "tools/call":
            return self.first
        return self.later.pop(0) if sent.method == "GET" else None

    @property
    def gets(self) -> list[Sent]:
        return [sent for sent in self.http.sent if sent.method == "GET"]

    async def until_gets(self, count: int) -> None:
        await self.http.until(lambda sent: len(self.gets) >= count)

    def answer_on(self, stream: FakeResponse) -> None:
        id = self.http.of("tools/call")[0].message["id"]
        stream.say({"jsonrpc": "2.0", "id": id, "result": {"done": True}}, id="last")

    async def done(self) -> Any:
        async with asyncio.timeout(10):
            return json.loads(await self.outcome)


@contextlib.asynccontextmanager
async def polled(*streams: Any, timeout_seconds: float = 60.0) -> AsyncIterator[Polled]:
    it = Polled(*streams)
    session = await open_streamable_http(TARGET, it.http, Hello(), b"X-Key: k\r\n")
    call = tool_call("t", token="p", headers=b"X-Key: of this call\r\n", timeout_seconds=timeout_seconds)
    call.when_paused = it.pauses.append
    it.outcome = asyncio.create_task(session.request(call, it.ear))
    await it.http.next("tools/call")
    yield it
    it.outcome.cancel()
    await asyncio.wait([it.outcome])


async def test_an_answer_is_fetched_where_the_stream_ended() -> None:
    first, second = primed(retry=150), FakeResponse(streaming=True)
    async with polled(first, second) as it:
        now = asyncio.get_running_loop().time
        first.end()
        await first.over.wait()
        ended_at = now()
        await it.until_gets(1)
        assert now() - ended_at > 0.14
        (sent,) = it.gets
        named = {"last-event-id": "1", "mcp-session-id": "s-1", "x-key": "of this call", "accept": "text/event-stream"}
        assert named.items() <= sent.headers.items()
        it.answer_on(second)
        assert await it.done() == {"done": True}
        assert it.pauses == [0.15] and (first.fate, second.fate) == ("released", "released")
        assert it.http.of("notifications/cancelled") == []


async def test_each_stream_goes_on_where_the_last_one_was() -> None:
    first, second, third = primed(), primed("2"), FakeResponse(streaming=True)
    async with polled(first, second, third) as it:
        first.end()
        await it.until_gets(1)
        token = it.http.of("tools/call")[0].message["id"]
        said = {"jsonrpc": "2.0", "method": "notifications/progress", "params": {"progressToken": token, "progress": 1}}
        second.say(said, id="3")
        second.end()
        await it.until_gets(2)
        it.answer_on(third)
        assert await it.done() == {"done": True}
        assert [sent.headers["last-event-id"] for sent in it.gets] == ["1", "3"]
        assert await it.ear.next() == ("notifications/progress", {"progressToken": "p", "progress": 1})


async def test_a_question_stays_open_while_the_stream_is_fetched_anew() -> None:
    first, second = primed(), FakeResponse(streaming=True)
    async with polled(first, second, timeout_seconds=0.2) as it:
        first.say({"jsonrpc": "2.0", "id": "q", "method": "elicitation/create", "params": {}}, id="2")
        assert (await it.ear.next_question())[0] == "elicitation/create"
        first.end()
        await it.until_gets(1)
        await until(lambda: bool(second.timeouts))
        it.ear.answer.set_result(b"{}")
        await it.http.until(lambda sent: b'"q"' in sent[-1].body)
        await until(lambda: len(second.timeouts) == 2)
        assert second.timeouts == [float("inf"), 0.2]
        it.answer_on(second)
        assert await it.done() == {"done": True}


async def test_a_stream_that_breaks_off_is_continued_too() -> None:
    first, second = primed(retry=30_000), FakeResponse(streaming=True)
    async with polled(first, second) as it:
        first.end(ConnectionLost("up", "reset"))
        await it.until_gets(1)
        it.answer_on(second)
        assert await it.done() == {"done": True}
        assert first.fate == "closed" and it.pauses == []


async def test_a_stream_that_only_ever_breaks_off_is_a_loss() -> None:
    streams = [primed(str(number)) for number in range(MAX_BREAKS + 1)]
    for stream in streams:
        stream.end(ConnectionLost("up", "reset"))
    async with polled(*streams) as it:
        with pytest.raises(ConnectionLost, match="reset"):
            await it.done()
        assert len(it.gets) == MAX_BREAKS


@pytest.mark.parametrize("status", [200, 400, 401, 404, 405])
async def test_u6_a_stream_that_is_not_continued_is_no_reason_to_run_the_call_again(status: int) -> None:
    first = primed()
    first.end()
    async with polled(first, FakeResponse(status, b"{}")) as it:
        with pytest.raises(ConnectionLost, match=f"HTTP {status}") as lost:
            await it.done()
        assert not lost.value.refused_before_dispatch


@pytest.mark.parametrize(
    "error",
    [
        ConnectFailed("up", "refused"),
        SessionLost("up", "gone"),
        AuthRefused("up", "no", status=401),
        BadAnswer("up", "nonsense"),
    ],
)
async def test_u4_a_server_that_is_gone_when_it_is_asked_again_is_a_loss(error: GatewayError) -> None:
    first = primed()
    first.end()
    async with polled(first, error) as it:
        with pytest.raises(ConnectionLost, match="could not be continued") as lost:
            await it.done()
        assert not lost.value.refused_before_dispatch


async def test_a_server_that_is_busy_is_asked_again() -> None:
    first, last = primed(), FakeResponse(streaming=True)
    first.end()
    async with polled(first, FakeResponse(503), FakeResponse(429), last) as it:
        await it.until_gets(3)
        it.answer_on(last)
        assert await it.done() == {"done": True}


@pytest.mark.parametrize("pause", [100, 30_000])
async def test_a_server_that_shows_no_sign_of_life_times_out_and_is_told(pause: int) -> None:
    first = primed(retry=pause)
    first.end()
    async with polled(first, *[FakeResponse(503) for _ in range(10)], timeout_seconds=0.25) as it:
        with pytest.raises(UpstreamTimeout, match=r"0\.25 seconds"):
            await it.done()
        await it.http.next("notifications/cancelled")


async def test_a_silent_continuation_times_out_by_the_calls_own_time() -> None:
    first, second = primed(), FakeResponse(streaming=True)
    first.end()
    async with polled(first, second, timeout_seconds=7.0) as it:
        await it.until_gets(1)
        await until(lambda: second.timeouts == [7.0])
        second.end(UpstreamTimeout("up", "silent"))
        with pytest.raises(UpstreamTimeout):
            await it.done()


async def test_a_call_that_is_given_up_between_two_streams_is_cancelled() -> None:
    first = primed(retry=30_000)
    first.end()
    async with polled(first) as it:
        await first.over.wait()
        it.outcome.cancel()
        await it.http.next("notifications/cancelled")
        assert it.gets == []


def test_how_soon_a_server_may_be_asked_again_has_bounds() -> None:
    position = Position()
    for event, pause in (("0", SHORTEST_PAUSE_SECONDS), ("999999999", LONGEST_PAUSE_SECONDS), ("2500", 2.5)):
        position.heard(_event(f"retry: {event}"))
        assert position.pause_seconds == pause


def test_an_id_that_is_too_long_is_not_sent_back() -> None:
    position = Position()
    position.heard(_event("id: 7"))
    position.heard(_event("id: " + "x" * 5000))
    assert position.last_id == b"7"
    position.heard(_event("id:"))
    assert position.last_id is None


def _event(lines: str) -> Any:
    return sse.Decoder().feed(lines.encode() + b"\n\n")[0]
