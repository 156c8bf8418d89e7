"""The HTTP/1.1 leg against servers that send exactly the bytes they are told to."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import inspect
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
import uvloop

from mcpgateway import runtime
from mcpgateway.errors import BadAnswer, ConnectFailed, ConnectionLost, UpstreamError, UpstreamTimeout
from mcpgateway.runtime import Sweep
from mcpgateway.upstream.connection import IDLE_SECONDS, MAX_HEAD_BYTES, Connection, Origin
from mcpgateway.upstream.exchange import BUFFERED_CHUNKS_BYTES, LAST_BYTES_SECONDS, MAX_BODY_BYTES, Exchange
from tests.fakes.clock import FakeClock
from tests.fakes.scripted import EVENT_STREAM, Script, Talk, answer, once, scripted
from tests.fakes.transport import FakeTransport
from tests.fakes.until import until
from tests.servers.certificates import Authority
from tests.servers.http11 import chunk


class Leg:
    """An origin and the clock of its time-outs."""

    def __init__(self, port: int, clock: FakeClock, tls: ssl.SSLContext | None = None) -> None:
        self.clock = clock
        self.sweep = Sweep(clock, tick_seconds=0.01)
        scheme = "http" if tls is None else "https"
        self.origin = Origin("up", f"{scheme}://localhost:{port}/mcp", self.sweep, tls)

    async def send(self, body: bytes = b"{}", method: bytes = b"POST", timeout_seconds: float = 30.0) -> Exchange:
        async with asyncio.timeout(10):
            return await self.origin.send(method, b"/mcp", b"X-Of-The-Call: yes\r\n", body, timeout_seconds)

    async def fails(self, kind: type[UpstreamError], *words: str) -> None:
        """Send; the error is of this kind, names the upstream, and says this."""
        with pytest.raises(kind) as caught:
            await self.send()
        assert type(caught.value) is kind
        for word in ("'up'", *words):
            assert word in str(caught.value)

    def pass_time(self, seconds: float) -> None:
        self.clock.advance(seconds)
        self.sweep.expire_due()


@contextlib.asynccontextmanager
async def leg(script: Script, tls: ssl.SSLContext | None = None, trust: ssl.SSLContext | None = None) -> AsyncIterator[Any]:
    """An origin and the server behind it. In the end nothing may be left of either."""
    async with scripted(script, tls) as server:
        leg = Leg(server.port, FakeClock(), trust)
        yield leg, server
        await leg.origin.aclose()
        await until(lambda: leg.origin.connections == 0)
        assert len(leg.sweep) == 0
        leg.sweep.close()


def always(response: bytes) -> Script:
    """Answers every request with these bytes."""

    async def play(talk: Talk) -> None:
        while True:
            await talk.request()
            await talk.say(response)

    return play


def first_then_good(first: bytes) -> Script:
    """Answers the first request of the first connection with `first`, everything else properly."""

    async def play(talk: Talk) -> None:
        await talk.request()
        await talk.say(first if talk.number == 1 else answer(b'"good"'))
        while True:
            await talk.request()
            await talk.say(answer(b'"good"'))

    return play


async def rest(response: Exchange) -> bytes:
    """All that is left of a stream."""
    body = b""
    async with asyncio.timeout(10):
        while piece := await response.chunk():
            body += piece
    return body


async def test_a_request_is_what_it_should_be() -> None:
    seen = []

    async def play(talk: Talk) -> None:
        seen.append(await talk.request())
        await talk.say(answer(b'{"a":1}', b"X-Thing: Yes"))

    async with leg(play) as (it, server):
        response = await it.send(b"body")
    assert (response.status, response.body, response.headers[b"x-thing"]) == (200, b'{"a":1}', b"Yes")
    assert (seen[0].method, seen[0].path, seen[0].body) == ("POST", "/mcp", b"body")
    assert seen[0].headers == {"host": f"localhost:{server.port}", "content-length": "4", "x-of-the-call": "yes"}


async def test_a_connection_is_used_again() -> None:
    async with leg(always(answer())) as (it, server):
        for _ in range(10):
            await it.send()
        assert server.connections == 1


async def test_c3_requests_at_the_same_time_have_connections_of_their_own() -> None:
    free = asyncio.Event()

    async def play(talk: Talk) -> None:
        while True:
            body = (await talk.request()).body
            await free.wait()
            await talk.say(answer(body))

    async with leg(play) as (it, server):
        sending = [asyncio.create_task(it.send(b"%d" % number)) for number in range(10)]
        await until(lambda: server.connections == 10)
        free.set()
        assert [(await task).body for task in sending] == [b"%d" % number for number in range(10)]
        await it.send()
        assert server.connections == 10


async def test_a_connection_that_the_server_closed_while_idle_is_not_used() -> None:
    async with leg(once(answer())) as (it, server):
        for _ in range(5):
            assert (await it.send()).status == 200
        assert server.connections == 5


async def test_an_end_that_the_loop_has_not_seen_yet_is_noticed() -> None:
    """The server's end lies in the socket and nobody has read it: the request must not be sent into the void."""
    talks: list[Talk] = []

    async def play(talk: Talk) -> None:
        talks.append(talk)
        while True:
            await talk.request()
            await talk.say(answer())

    async with leg(play) as (it, server):
        await it.send()
        talks[0].end_now()
        assert (await it.send()).status == 200
        assert server.connections == 2


async def test_idle_connections_are_closed_without_traffic() -> None:
    async with leg(always(answer())) as (it, server):
        await it.send()
        it.pass_time(IDLE_SECONDS - 1)
        assert it.origin.connections == 1
        it.pass_time(1)
        await until(lambda: it.origin.connections == 0)
        await until(lambda: server.open_connections == 0)
        await it.send()
        assert server.connections == 2


async def test_a_connection_used_lately_outlives_an_older_one() -> None:
    together = asyncio.Barrier(2)

    async def play(talk: Talk) -> None:
        while (await talk.request()).body == b"together":
            async with together:
                await talk.say(answer())
        await talk.say(answer())
        await talk.gone()

    async with leg(play) as (it, _):
        await asyncio.gather(it.send(b"together"), it.send(b"together"))
        it.pass_time(IDLE_SECONDS - 1)
        await it.send(b"alone")
        it.pass_time(1)
        await until(lambda: it.origin.connections == 1)
        it.pass_time(IDLE_SECONDS)
        await until(lambda: it.origin.connections == 0)


async def test_100_continue_is_not_the_answer() -> None:
    interim = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nX-Early: 1\r\n\r\n"
    async with leg(always(interim + answer(b"1"))) as (it, server):
        for _ in range(3):
            response = await it.send()
            assert (response.status, response.body) == (200, b"1")
            assert b"x-early" not in response.headers
        assert server.connections == 1


@pytest.mark.parametrize(
    "more",
    [
        answer(b'"poison"'),
        b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 8\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nConte",
        b"H",
        b'"a longer body than was announced"',
        b"HTTP/1.1 100 Continue\r\n\r\n",
    ],
    ids=["whole", "head", "part of a head", "one byte", "body", "interim"],
)
async def test_what_follows_an_answer_never_answers_the_next_request(more: bytes) -> None:
    async with leg(first_then_good(answer(b'"first"') + more)) as (it, server):
        first = await it.send()
        assert (first.body, first.headers[b"content-length"]) == (b'"first"', b"7")
        for _ in range(2):
            assert (await it.send()).body == b'"good"'
        assert server.connections == 2


async def test_an_answer_that_comes_unasked_closes_the_connection() -> None:
    go = asyncio.Event()

    async def play(talk: Talk) -> None:
        await talk.request()
        await talk.say(answer(b'"first"'))
        if talk.number == 1:
            await go.wait()
            await talk.say(answer(b'"poison"'))
        await talk.gone()

    async with leg(play) as (it, server):
        await it.send()
        go.set()
        await until(lambda: server.open_connections == 0)
        assert (await it.send()).body == b'"first"'
        assert server.connections == 2


async def test_trailers_do_not_replace_what_the_head_said() -> None:
    trailers = b"0\r\nMcp-Session-Id: other\r\nX-More: 1\r\n\r\n"
    head = b"HTTP/1.1 200 OK\r\nMcp-Session-Id: mine\r\nTransfer-Encoding: chunked\r\n\r\n"
    async with leg(always(head + chunk(b"{}") + trailers)) as (it, server):
        for _ in range(2):
            response = await it.send()
            assert (response.body, response.headers[b"mcp-session-id"]) == (b"{}", b"mine")
            assert b"x-more" not in response.headers
        assert server.connections == 1


async def test_a_chunked_body_is_put_together() -> None:
    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    pieces = [chunk(b"%d," % number) for number in range(100)]
    async with leg(always(b"".join([head, *pieces, chunk(b"")]))) as (it, server):
        for _ in range(2):
            assert (await it.send()).body == b"".join(b"%d," % number for number in range(100))
        assert server.connections == 1


async def test_a_body_may_end_with_the_connection() -> None:
    async with leg(once(b"HTTP/1.1 200 OK\r\n\r\n", b"one ", b"two")) as (it, _):
        assert (await it.send()).body == b"one two"


async def test_an_event_stream_may_end_with_the_connection() -> None:
    async with leg(once(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n", b"data: 1\n\n")) as (it, _):
        assert await rest(await it.send()) == b"data: 1\n\n"


@pytest.mark.parametrize("status", [b"204 No Content", b"304 Not Modified"])
async def test_an_answer_without_a_body_is_complete(status: bytes) -> None:
    async with leg(always(b"HTTP/1.1 %b\r\nX: 1\r\n\r\n" % status)) as (it, server):
        for _ in range(2):
            response = await it.send()
            assert (response.status, response.body) == (int(status[:3]), b"")
        assert server.connections == 1


async def test_connection_close_is_honoured() -> None:
    async with leg(always(answer(b"{}", b"Connection: close"))) as (it, server):
        for _ in range(3):
            assert (await it.send()).body == b"{}"
        assert server.connections == 3


@pytest.mark.parametrize(
    ("bytes_sent", "kind", "words"),
    [
        ([b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n123"], ConnectionLost, "before the answer was complete"),
        ([b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n12"], ConnectionLost, "before the answer was complete"),
        ([b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n12\r\n"], ConnectionLost, "the answer was complete"),
        ([b"HTTP/1.1 200 OK\r\nConten"], ConnectionLost, "before the answer was complete"),
        ([], ConnectionLost, "before the answer was complete"),
        ([b"HTTP/1.1 100 Continue\r\n\r\n"], ConnectionLost, "before the answer was complete"),
        ([b"\x16\x03\x01 not HTTP at all\r\n\r\n"], BadAnswer, "not HTTP"),
        ([b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nZZ\r\n"], BadAnswer, "not HTTP"),
        ([b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\n{}"], BadAnswer, "not HTTP"),
        ([b"HTTP/1.1 101 Switching\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n"], BadAnswer, "another protocol"),
        ([b"HTTP/1.1 200 OK\r\nX: " + b"x" * (MAX_HEAD_BYTES * 8)], BadAnswer, "headers"),
        ([b"HTTP/1.1 200 OK\r\n" + b"X: x\r\n" * MAX_HEAD_BYTES], BadAnswer, "headers"),
        ([answer(b"\x1f\x8b...", b"Content-Encoding: gzip")], BadAnswer, "compressed (gzip)"),
    ],
    ids=[
        "short", "cut chunk", "no last chunk", "cut head", "nothing", "only interim", "garbage", "bad chunk", "two lengths",
        "upgrade", "long header", "many headers", "gzip",
    ],
)  # fmt: skip
async def test_a_broken_answer_is_a_clear_error(bytes_sent: list[bytes], kind: type[UpstreamError], words: str) -> None:
    async with leg(once(*bytes_sent)) as (it, _):
        await it.fails(kind, words)
        await until(lambda: it.origin.connections == 0)


async def test_endless_trailers_are_cut_off() -> None:
    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + chunk(b"{}")

    async def play(talk: Talk) -> None:
        await talk.request()
        await talk.say(head + b"0\r\n")
        while True:
            await talk.say(b"X-Trailer: " + b"x" * 1000 + b"\r\n")

    async with leg(play) as (it, _):
        await it.fails(BadAnswer, "headers")


async def test_a_body_over_the_limit_is_refused_while_it_comes() -> None:
    async def play(talk: Talk) -> None:
        await talk.request()
        await talk.say(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % (MAX_BODY_BYTES * 4))
        while True:
            await talk.say(bytes(1024 * 1024))

    async with leg(play) as (it, server):
        await it.fails(BadAnswer, "larger than")
        await until(lambda: server.open_connections == 0)


async def test_a_compressed_refusal_is_still_a_refusal() -> None:
    async with leg(always(answer(b"\x1f\x8b", b"Content-Encoding: gzip", status=b"502 Bad Gateway"))) as (it, _):
        assert (await it.send()).status == 502


async def test_u4_a_reset_in_the_body_is_a_loss_at_once() -> None:
    async def play(talk: Talk) -> None:
        await talk.request()
        await talk.say(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n" + b"x" * 10)
        talk.reset()

    async with leg(play) as (it, _):
        await it.fails(ConnectionLost, "broke")


async def test_u4_a_reset_in_a_stream_is_a_loss_at_once() -> None:
    async def play(talk: Talk) -> None:
        await talk.request()
        await talk.say(EVENT_STREAM + chunk(b"data: 1\n\n"))
        talk.reset()

    async with leg(play) as (it, _):
        with pytest.raises(ConnectionLost):
            await rest(await it.send())


async def test_nobody_listening_is_said() -> None:
    async with leg(always(answer())) as (it, server):
        await server.stop()
        await it.fails(ConnectFailed, "is it running?")


async def test_p14_silence_before_the_answer_times_out() -> None:
    reached = asyncio.Event()

    async def play(talk: Talk) -> None:
        await talk.request()
        reached.set()
        await talk.gone()

    async with leg(play) as (it, server):
        sending = asyncio.create_task(it.send(timeout_seconds=5))
        await reached.wait()
        it.pass_time(4.9)
        assert not sending.done()
        it.pass_time(0.2)
        with pytest.raises(UpstreamTimeout, match="no sign of life for 5 s"):
            await sending
        await until(lambda: server.open_connections == 0)


async def test_each_piece_of_a_body_renews_the_silence() -> None:
    go = asyncio.Semaphore(0)

    async def play(talk: Talk) -> None:
        await talk.request()
        await talk.say(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\n")
        for _ in range(4):
            await go.acquire()
            await talk.say(b"x")

    async with leg(play) as (it, _):
        sending = asyncio.create_task(it.send(timeout_seconds=5))
        await until(lambda: len(it.sweep) == 1)
        (exchange,) = it.sweep._watched
        for _ in range(3):
            it.pass_time(3)
            before = exchange.deadline
            go.release()
            await until(lambda before=before: exchange.deadline > before)
        go.release()
        assert (await sending).body == b"xxxx"


async def test_the_silence_of_a_stream_times_out_and_says_so() -> None:
    async def play(talk: Talk) -> None:
        await talk.request()
        await talk.say(EVENT_STREAM + chunk(b"data: 1\n\n"))
        await talk.gone()

    async with leg(play) as (it, server):
        response = await it.send(timeout_seconds=5)
        assert await response.chunk() == b"data: 1\n\n"
        it.pass_time(5)
        await until(lambda: server.open_connections == 0)
        # Asked only after the connection has gone too: still the first cause is told, not what came of it.
        with pytest.raises(UpstreamTimeout):
            await response.chunk()


async def test_a_stream_without_a_limit_may_be_silent() -> None:
    async with leg(once(EVENT_STREAM, b"")) as (it, _):
        response = await it.send(method=b"GET", timeout_seconds=5)
        response.set_timeout(float("inf"))
        it.pass_time(1e9)
        with pytest.raises(ConnectionLost):
            await response.chunk()


async def test_p3_cancelling_while_connecting_leaves_no_socket() -> None:
    async with leg(always(answer())) as (it, server):
        for turns in range(30):
            sending = asyncio.create_task(it.send())
            for _ in range(turns):
                await asyncio.sleep(0)
            sending.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await sending
            await it.origin.aclose()
        await until(lambda: it.origin.connections == server.open_connections == 0)


async def test_p3_cancelling_while_waiting_closes_the_connection() -> None:
    async def play(talk: Talk) -> None:
        await talk.request()
        await talk.gone()

    async with leg(play) as (it, server):
        for number in range(1, 11):
            sending = asyncio.create_task(it.send(b"x" * 1_000_000))
            await until(lambda number=number: server.connections == number)
            sending.cancel()
            with pytest.raises(asyncio.CancelledError):
                await sending
            await until(lambda: it.origin.connections == server.open_connections == 0)
        assert len(it.sweep) == 0


async def test_p3_cancelling_a_reader_and_closing_ends_the_stream() -> None:
    async def play(talk: Talk) -> None:
        await talk.request()
        await talk.say(EVENT_STREAM)
        await talk.gone()

    async with leg(play) as (it, server):
        response = await it.send(method=b"GET")
        reading = asyncio.create_task(response.chunk())
        await asyncio.sleep(0)
        reading.cancel()
        with pytest.raises(asyncio.CancelledError):
            await reading
        response.close()
        await until(lambda: it.origin.connections == server.open_connections == 0)


async def test_a_stream_that_is_read_to_its_end_keeps_its_connection() -> None:
    async with leg(always(EVENT_STREAM + chunk(b"data: 1\n\n") + chunk(b""))) as (it, server):
        for _ in range(3):
            assert await rest(await it.send()) == b"data: 1\n\n"
        assert server.connections == 1


RESULT = b'{"jsonrpc":"2.0","id":1,"result":{}}'


async def test_a_stream_that_came_at_once_and_is_one_answer_is_a_plain_body() -> None:
    async with leg(always(EVENT_STREAM + chunk(b"event: message\ndata: " + RESULT + b"\n\n") + chunk(b""))) as (it, server):
        for _ in range(3):
            response = await it.send()
            assert (response.streaming, response.body) == (False, RESULT)
        assert server.connections == 1


async def test_a_large_answer_in_a_stream_leaves_its_connection_readable() -> None:
    """It comes at once and is larger than what is read ahead of its reader, so that reading is paused."""
    large = b'{"result":"%b"}' % (b"x" * 2 * BUFFERED_CHUNKS_BYTES)
    sweep, transport = Sweep(FakeClock()), FakeTransport()
    origin = Origin("up", "http://localhost/mcp", sweep)
    connection = Connection(origin)
    connection.connection_made(transport)
    exchange = Exchange(connection, "up", 30.0, sweep, whole=True)
    connection.send(b"", b"", exchange)
    connection.data_received(EVENT_STREAM + chunk(b"data: " + large + b"\n\n") + chunk(b""))
    assert (exchange.streaming, exchange.body) == (False, large)
    assert transport.reading and origin.connections == 1


async def test_a_stream_that_only_listens_stays_one_whatever_comes() -> None:
    event = b"data: " + RESULT + b"\n\n"
    async with leg(always(EVENT_STREAM + chunk(event) + chunk(b""))) as (it, _):
        response = await it.send(method=b"GET")
        assert response.streaming
        assert await rest(response) == event


async def test_an_answer_in_pieces_of_which_one_was_read_stays_a_stream() -> None:
    go = asyncio.Event()

    async def play(talk: Talk) -> None:
        await talk.request()
        await talk.say(EVENT_STREAM + chunk(b"data: " + RESULT))
        await go.wait()
        await talk.say(chunk(b"\n\n") + chunk(b""))

    async with leg(play) as (it, _):
        response = await it.send()
        assert response.streaming and await response.chunk() == b"data: " + RESULT
        go.set()
        assert await rest(response) == b"\n\n"


async def test_an_exchange_or_a_connection_that_is_over_is_no_garbage() -> None:
    """What it held is free at once: bodies may be large, and garbage is collected seldom."""
    async with leg(always(answer(b"x" * 1000))) as (it, _):
        gc.collect()
        gc.disable()
        try:
            for _ in range(3):
                await it.send()
            await it.origin.aclose()
            await until(lambda: it.origin.connections == 0)
            assert [each for each in gc.get_objects() if type(each) in (Exchange, Connection)] == []
        finally:
            gc.enable()


async def test_a_released_stream_that_ends_soon_keeps_its_connection() -> None:
    """Servers send the end of the stream after the answer: that must not cost a connection per call."""
    go = asyncio.Semaphore(0)

    async def play(talk: Talk) -> None:
        while True:
            await talk.request()
            await talk.say(EVENT_STREAM + chunk(b"data: 1\n\n"))
            await go.acquire()
            await talk.say(chunk(b": more\n\n") + chunk(b""))

    async with leg(play) as (it, server):
        for _ in range(3):
            response = await it.send()
            assert await response.chunk() == b"data: 1\n\n"
            response.release()
            go.release()
            await until(lambda: "1 idle" in repr(it.origin))
        assert server.connections == 1


async def test_a_released_stream_that_goes_on_is_cut_off() -> None:
    async def play(talk: Talk) -> None:
        await talk.request()
        await talk.say(EVENT_STREAM + chunk(b"data: 1\n\n"))
        await talk.gone()

    async with leg(play) as (it, server):
        response = await it.send()
        response.release()
        it.pass_time(LAST_BYTES_SECONDS)
        await until(lambda: it.origin.connections == server.open_connections == 0)


async def test_a_slow_reader_holds_up_the_server_and_not_the_memory() -> None:
    total = 32 * 1024 * 1024
    sent = 0

    async def play(talk: Talk) -> None:
        nonlocal sent
        await talk.request()
        await talk.say(EVENT_STREAM)
        while sent < total:
            await talk.say(chunk(b"x" * 65536))
            sent += 65536
        await talk.say(chunk(b""))
        await talk.gone()

    async with leg(play) as (it, server):
        response = await it.send(timeout_seconds=5)
        await until(lambda: response._buffered > BUFFERED_CHUNKS_BYTES)
        # The loop has time to read it all, and does not.
        for _ in range(1000):
            await asyncio.sleep(0)
        assert response._buffered <= BUFFERED_CHUNKS_BYTES + 512 * 1024
        # Now that nothing is read any more, no amount of time makes the upstream silent.
        it.pass_time(1000)
        received = largest = 0
        async with asyncio.timeout(20):
            while piece := await response.chunk():
                received += len(piece)
                largest = max(largest, len(piece))
        assert received == total
        assert largest <= BUFFERED_CHUNKS_BYTES + 512 * 1024
        assert server.connections == 1


async def test_closing_a_paused_stream_closes_its_connection() -> None:
    async def play(talk: Talk) -> None:
        await talk.request()
        await talk.say(EVENT_STREAM)
        while True:
            await talk.say(chunk(b"x" * 65536))

    async with leg(play) as (it, server):
        response = await it.send()
        await until(lambda: response._buffered > BUFFERED_CHUNKS_BYTES)
        response.close()
        await until(lambda: it.origin.connections == server.open_connections == 0)


@pytest.fixture(scope="module")
def authority() -> Authority:
    return Authority()


async def test_tls_with_an_authority_of_ones_own(authority: Authority) -> None:
    async with leg(always(answer(b'"safe"')), authority.serving("localhost"), authority.trusting()) as (it, server):
        for _ in range(3):
            assert (await it.send()).body == b'"safe"'
        assert server.connections == 1


async def test_tls_streams_and_large_bodies(authority: Authority) -> None:
    body = b"x" * 3_000_000
    script = always(EVENT_STREAM + chunk(body) + chunk(b""))
    async with leg(script, authority.serving("localhost"), authority.trusting()) as (it, server):
        assert await rest(await it.send(body)) == body
        assert await rest(await it.send()) == body
        assert server.connections == 1


async def test_a_certificate_that_nobody_vouches_for_is_refused(authority: Authority) -> None:
    async with leg(always(answer()), authority.serving("localhost"), ssl.create_default_context()) as (it, _):
        await it.fails(ConnectFailed, "TLS handshake", "CERTIFICATE_VERIFY_FAILED")


async def test_a_certificate_of_another_host_is_refused(authority: Authority) -> None:
    async with leg(always(answer()), authority.serving("elsewhere.test"), authority.trusting()) as (it, _):
        await it.fails(ConnectFailed, "TLS handshake")


async def test_u8_nothing_is_left_of_a_thousand_ways_to_end() -> None:
    """Good answers, cut ones and callers that leave, all at once: no task, no watched deadline, no socket remains."""

    async def play(talk: Talk) -> None:
        while True:
            body = (await talk.request()).body
            if body == b"cut":
                await talk.say(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nx")
                return
            await talk.say(answer(b'"good"'))

    async def one(it: Leg, number: int) -> None:
        sending = asyncio.create_task(it.send(b"cut" if number % 3 == 1 else b"good"))
        if number % 3 == 2:
            await asyncio.sleep(0)
            sending.cancel()
        with contextlib.suppress(UpstreamError, asyncio.CancelledError):
            await sending

    async with leg(play) as (it, server):
        for batch in range(20):
            await asyncio.gather(*(one(it, batch * 50 + number) for number in range(50)))
        await it.origin.aclose()
        await until(lambda: it.origin.connections == server.open_connections == 0)
        assert len(it.sweep) == 0
        assert runtime.running_tasks() == []


SCENARIOS = [
    found
    for name, found in list(globals().items())
    if name.startswith("test_") and inspect.iscoroutinefunction(found) and not inspect.signature(found).parameters
]
"""Every test above that needs nothing handed in."""


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.__name__.removeprefix("test_"))
def test_the_same_holds_on_uvloop(scenario: Callable[[], Awaitable[None]]) -> None:
    """The gateway runs on uvloop where there is one, and its transports differ in small ways."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(scenario())  # type: ignore[arg-type]
