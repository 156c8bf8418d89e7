"""Our own HTTP protocol class, on a connection in memory. What it has in common with uvicorn's is tested over sockets."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from uvicorn.server import ServerState

from mcpgateway.downstream.endpoint import CLOSE
from mcpgateway.downstream.exchange import DISCARDED_BYTES, ClientLeft, Exchange
from mcpgateway.downstream.guard import LINGER_SECONDS, Guard
from mcpgateway.downstream.http_exchange import UNWANTED_BYTES, HttpExchange
from mcpgateway.downstream.http_protocol import KEEP_ALIVE_SECONDS, QUEUED_BYTES, HttpProtocol
from mcpgateway.errors import TooLarge
from mcpgateway.runtime import Sweep
from tests.fakes.clock import FakeClock
from tests.fakes.transport import FakeTransport

LIMIT = 200_000
READ_SECONDS = 30.0
STALLED_SECONDS = 60.0
Serve = Callable[[Exchange], Awaitable[None]]


async def echo(exchange: Exchange) -> None:
    await exchange.respond(200, b"%b %b" % (exchange.path.encode(), await exchange.body(LIMIT)))


class Rig:
    """One connection and what serves it."""

    def __init__(self, clock: FakeClock, serve: Serve) -> None:
        self.clock = clock
        self.sweep = Sweep(clock)
        self.server = ServerState()
        self.transport = FakeTransport()
        guard = Guard(self.sweep, 8_000, READ_SECONDS, STALLED_SECONDS)
        nothing: Any = None  # of uvicorn's configuration it needs nothing
        self.protocol = HttpProtocol(serve=serve, guard=guard, config=nothing, server_state=self.server, app_state={})
        self.protocol.connection_made(self.transport)

    async def says(self, *data: bytes) -> bytes:
        """Send, and let everything run until nothing more happens. What came back."""
        before = len(self.transport.sent)
        for piece in data:
            self.protocol.data_received(piece)
        await self.settles()
        return self.transport.sent[before:]

    async def settles(self) -> None:
        for _ in range(20):
            await asyncio.sleep(0)

    def passes(self, seconds: float) -> None:
        self.clock.advance(seconds)
        self.sweep.expire_due()

    def leaves(self) -> None:
        self.transport.closed = True
        self.protocol.connection_lost(None)


@pytest.fixture
def rig_of(clock: FakeClock) -> Callable[[Serve], Rig]:
    return lambda serve: Rig(clock, serve)


RigOf = Callable[[Serve], Rig]


def get(path: str, *lines: str, version: str = "1.1") -> bytes:
    return "\r\n".join([f"GET {path} HTTP/{version}", "Host: localhost", *lines, "", ""]).encode()


def post(path: str, body: bytes, *lines: str, length: int | None = None) -> bytes:
    size = len(body) if length is None else length
    head = "\r\n".join([f"POST {path} HTTP/1.1", "Host: localhost", f"Content-Length: {size}", *lines, "", ""])
    return head.encode() + body


CHUNKED = b"POST /x HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"


def bodies(said: bytes) -> list[bytes]:
    """The bodies of whole responses."""
    found = []
    while said:
        head, _, said = said.partition(b"\r\n\r\n")
        length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
        found.append(said[:length])
        said = said[length:]
    return found


async def test_an_ordinary_request_is_answered_in_one_piece_and_the_connection_kept(rig_of: RigOf) -> None:
    rig = rig_of(echo)
    answer = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 5\r\n\r\n/a hi"
    assert await rig.says(post("/a", b"hi")) == answer
    assert await rig.says(post("/a", b"hi")) == answer
    assert not rig.transport.closed and "idle" in repr(rig.protocol)


async def test_a_request_may_come_byte_by_byte(rig_of: RigOf) -> None:
    rig = rig_of(echo)
    assert bodies(await rig.says(*(bytes([byte]) for byte in post("/a%20b?x=%20#y", b"hello")))) == [b"/a b hello"]


async def test_requests_that_come_at_once_are_answered_in_their_order(rig_of: RigOf) -> None:
    began: list[str] = []
    go = asyncio.Event()

    async def slowly(exchange: Exchange) -> None:
        began.append(exchange.path)
        await go.wait()
        await echo(exchange)

    rig = rig_of(slowly)
    assert await rig.says(post("/1", b"a") + post("/2", b"b") + post("/3", b"c")) == b""
    assert began == ["/1"] and not rig.transport.reading
    go.set()
    await rig.settles()
    assert bodies(rig.transport.sent) == [b"/1 a", b"/2 b", b"/3 c"]
    assert rig.transport.reading


async def test_a_thousand_requests_at_once_are_no_trouble(rig_of: RigOf) -> None:
    rig = rig_of(echo)
    rig.protocol.data_received(get("/x") * 1000)
    async with asyncio.timeout(5):
        while rig.transport.sent.count(b"HTTP/1.1") < 1000:
            await asyncio.sleep(0)


async def test_what_is_no_http_is_refused_after_the_answers_to_what_came_before(rig_of: RigOf) -> None:
    rig = rig_of(echo)
    said = await rig.says(get("/1") + get("/2") + b"rubbish\r\n\r\n")
    assert [line[9:12] for line in said.split(b"HTTP/1.1")[1:] for line in [b"HTTP/1.1" + line]] == [b"200", b"200", b"400"]
    assert rig.transport.ended and not rig.transport.closed
    rig.passes(LINGER_SECONDS + 1)
    assert rig.transport.aborted


async def test_a_second_head_that_is_too_large_is_refused_however_it_comes(rig_of: RigOf) -> None:
    bomb = get("/2", "X: " + "y" * 8_000)
    at_once, in_two = rig_of(echo), rig_of(echo)
    assert b" 431 " in await at_once.says(get("/1") + bomb)
    assert b" 431 " in await in_two.says(get("/1") + bomb[:100], bomb[100:])


async def test_many_heads_at_once_are_together_larger_than_one_may_be(rig_of: RigOf) -> None:
    rig = rig_of(echo)
    assert len(bodies(await rig.says(get("/x", "X: " + "y" * 7_000) * 3))) == 3


async def test_what_follows_the_last_request_is_none(rig_of: RigOf) -> None:
    rig = rig_of(echo)
    said = await rig.says(get("/1", "Connection: close") + get("/2"))
    assert bodies(said) == [b"/1 "] and b"connection: close\r\n" in said
    assert rig.transport.closed


async def test_what_follows_the_last_request_does_not_break_off_its_stream(rig_of: RigOf) -> None:
    go = asyncio.Event()

    async def slowly(exchange: Exchange) -> None:
        await exchange.begin([])
        await go.wait()
        await exchange.write(b"all of it")
        await exchange.end()

    rig = rig_of(slowly)
    await rig.says(get("/1", "Connection: close"))
    await rig.says(b"rubbish\r\n\r\n")
    assert not rig.transport.closed
    go.set()
    await rig.settles()
    assert rig.transport.sent.endswith(b"all of it\r\n0\r\n\r\n") and rig.transport.closed


async def test_a_body_with_two_lengths_is_nobodys(rig_of: RigOf) -> None:
    rig = rig_of(echo)
    assert b" 400 " in await rig.says(post("/x", b"abc", "Transfer-Encoding: chunked"))
    assert rig.transport.sent.count(b"HTTP/1.1") == 1


async def test_a_body_that_breaks_in_the_middle_is_refused_and_its_reader_told(rig_of: RigOf) -> None:
    outcomes: list[BaseException] = []

    async def reads(exchange: Exchange) -> None:
        try:
            await exchange.body(LIMIT)
        except ClientLeft as error:
            outcomes.append(error)

    rig = rig_of(reads)
    assert b" 400 " in await rig.says(CHUNKED + b"3\r\nabc\r\n", b"zz\r\n")
    assert len(outcomes) == 1 and rig.transport.sent.count(b"HTTP/1.1") == 1


async def test_a_body_that_breaks_after_its_answer_ends_the_connection_without_another(rig_of: RigOf) -> None:
    async def at_once(exchange: Exchange) -> None:
        await exchange.respond(401, b"")

    rig = rig_of(at_once)
    await rig.says(CHUNKED + b"3\r\nabc\r\n")
    await rig.says(b"zz\r\n")
    assert rig.transport.sent.count(b"HTTP/1.1") == 1 and rig.transport.closed


async def test_nothing_is_answered_after_a_refusal(rig_of: RigOf) -> None:
    async def at_once(exchange: Exchange) -> None:
        await exchange.respond(401, b"")

    rig = rig_of(at_once)
    assert (await rig.says(CHUNKED + b"3\r\nabc\r\n", b"zz\r\n")).count(b"HTTP/1.1") == 1
    assert b" 400 " in rig.transport.sent


async def test_of_a_body_that_is_too_large_nothing_is_kept(rig_of: RigOf) -> None:
    seen: list[HttpExchange] = []

    async def reads(exchange: Exchange) -> None:
        assert isinstance(exchange, HttpExchange)
        seen.append(exchange)
        with pytest.raises(TooLarge):
            await exchange.body(1000)
        await exchange.respond(413, b"", (CLOSE,))

    rig = rig_of(reads)
    await rig.says(CHUNKED)
    for _ in range(100):
        await rig.says(b"3e8\r\n" + b"x" * 1000 + b"\r\n")
        assert sum(map(len, seen[0]._pieces)) <= 1000
    assert rig.transport.sent == b""
    assert b" 413 " in await rig.says(b"0\r\n\r\n")


async def test_a_body_without_end_is_not_read_for_ever(rig_of: RigOf) -> None:
    async def reads(exchange: Exchange) -> None:
        with pytest.raises(TooLarge):
            await exchange.body(1000)
        await exchange.respond(413, b"", (CLOSE,))

    rig = rig_of(reads)
    megabyte = b"100000\r\n" + b"x" * 0x100000 + b"\r\n"
    await rig.says(CHUNKED)
    await rig.says(*[megabyte] * (DISCARDED_BYTES // 0x100000 + 1))
    assert b" 413 " in rig.transport.sent and rig.transport.closed


async def test_a_body_nobody_asks_for_is_not_read_beyond_a_little(rig_of: RigOf) -> None:
    go = asyncio.Event()

    async def later(exchange: Exchange) -> None:
        await go.wait()
        await echo(exchange)

    rig = rig_of(later)
    half = b"x" * (UNWANTED_BYTES // 2 + 1)
    await rig.says(post("/x", half, length=3 * len(half)))
    assert rig.transport.reading
    await rig.says(half)
    assert not rig.transport.reading
    go.set()
    await rig.settles()
    assert rig.transport.reading
    assert bodies(await rig.says(half)) == [b"/x " + half * 3]


async def test_a_client_that_waits_to_be_asked_and_is_refused_is_not_taken_at_its_word(rig_of: RigOf) -> None:
    async def refuses(exchange: Exchange) -> None:
        await exchange.respond(401, b"")

    rig = rig_of(refuses)
    assert b"connection: close\r\n" in await rig.says(post("/x", b"", "Expect: 100-continue", length=10))
    assert rig.transport.closed


async def test_a_client_whose_body_has_come_is_not_asked_for_it(rig_of: RigOf) -> None:
    rig = rig_of(echo)
    assert bodies(await rig.says(post("/x", b"abc", "Expect: 100-continue"))) == [b"/x abc"]


async def streams(exchange: Exchange) -> None:
    await exchange.begin([(b"content-type", b"text/event-stream")])
    await exchange.write(b"one")
    await exchange.write(b"x" * 100_000)
    await exchange.end()


async def test_a_response_of_unknown_length_is_chunked(rig_of: RigOf) -> None:
    rig = rig_of(streams)
    head, _, body = (await rig.says(get("/x"))).partition(b"\r\n\r\n")
    assert head.endswith(b"\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked")
    assert body == b"3\r\none\r\n186a0\r\n" + b"x" * 100_000 + b"\r\n0\r\n\r\n"
    assert not rig.transport.closed


async def test_a_client_of_http_1_0_reads_a_stream_to_the_end_of_the_connection(rig_of: RigOf) -> None:
    rig = rig_of(streams)
    head, _, body = (await rig.says(get("/x", "Connection: keep-alive", version="1.0"))).partition(b"\r\n\r\n")
    assert b"transfer-encoding" not in head and b"connection: close" in head
    assert body == b"one" + b"x" * 100_000 and rig.transport.closed


async def test_a_large_body_is_sent_as_it_is(rig_of: RigOf) -> None:
    async def large(exchange: Exchange) -> None:
        await exchange.respond(200, b"x" * 1_000_000)

    rig = rig_of(large)
    assert (await rig.says(get("/x"))).endswith(b"content-length: 1000000\r\n\r\n" + b"x" * 1_000_000)


async def test_neither_head_nor_204_has_a_body(rig_of: RigOf) -> None:
    async def nothing(exchange: Exchange) -> None:
        await exchange.respond(204 if exchange.method == "DELETE" else 200, b"" if exchange.method == "DELETE" else b"abc", ())

    rig = rig_of(nothing)
    assert await rig.says(b"HEAD / HTTP/1.1\r\nHost: x\r\n\r\n") == b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\n"
    assert await rig.says(b"DELETE / HTTP/1.1\r\nHost: x\r\n\r\n") == b"HTTP/1.1 204 No Content\r\n\r\n"


@pytest.mark.parametrize(
    "header", [(b"x", b"a\r\nset-cookie: b"), (b"x", b"a\nb"), (b"x", b"\0"), (b"x: y\r\nz", b"a"), (b"", b"a")]
)
async def test_a_header_cannot_smuggle_another(rig_of: RigOf, header: tuple[bytes, bytes]) -> None:
    refused: list[str] = []

    async def injects(exchange: Exchange) -> None:
        for answer in (exchange.respond(200, b"", [header]), exchange.begin([header])):
            with pytest.raises(RuntimeError, match="header"):
                await answer
        refused.append(exchange.path)
        await exchange.respond(500, b"")

    rig = rig_of(injects)
    assert (await rig.says(get("/x"))).startswith(b"HTTP/1.1 500")
    assert refused == ["/x"]


async def test_an_answer_is_given_once(rig_of: RigOf) -> None:
    async def twice(exchange: Exchange) -> None:
        await exchange.respond(200, b"")
        for again in (exchange.respond(200, b""), exchange.begin([])):
            with pytest.raises(RuntimeError, match="begun already"):
                await again

    rig = rig_of(twice)
    assert (await rig.says(get("/x"))).count(b"HTTP/1.1") == 1


async def test_whoever_is_not_answered_is_not_kept_waiting(rig_of: RigOf) -> None:
    async def forgets(exchange: Exchange) -> None:
        return

    rig = rig_of(forgets)
    await rig.says(get("/x"))
    assert rig.transport.closed


async def test_a_slow_head_is_refused_a_silent_client_left(rig_of: RigOf) -> None:
    slow, silent = rig_of(echo), rig_of(echo)
    await slow.says(b"GET /x HT")
    slow.passes(READ_SECONDS - 1)
    await slow.says(b"TP/1.1\r\n")
    slow.passes(1)
    assert b" 408 " in slow.transport.sent and slow.transport.ended
    silent.sweep.expire_due()
    assert silent.transport.closed and silent.transport.sent == b""


async def test_a_kept_connection_may_idle_for_long_and_not_for_ever(rig_of: RigOf) -> None:
    rig = rig_of(echo)
    await rig.says(get("/x"))
    rig.passes(KEEP_ALIVE_SECONDS - 1)
    assert not rig.transport.closed
    rig.passes(1)
    assert rig.transport.closed


async def test_a_long_call_is_not_late(rig_of: RigOf) -> None:
    go = asyncio.Event()

    async def long(exchange: Exchange) -> None:
        await go.wait()
        await echo(exchange)

    rig = rig_of(long)
    await rig.says(get("/x") + b"GET /y HT")
    for _ in range(10):
        rig.passes(READ_SECONDS)
    assert not rig.transport.closed
    go.set()
    await rig.settles()
    rig.passes(READ_SECONDS - 1)
    assert bodies(await rig.says(b"TP/1.1\r\n\r\n")) == [b"/y "]


async def test_a_body_that_stops_after_its_answer_ends_the_connection(rig_of: RigOf) -> None:
    async def at_once(exchange: Exchange) -> None:
        await exchange.respond(401, b"")

    rig = rig_of(at_once)
    await rig.says(post("/x", b"abc", length=10))
    rig.passes(READ_SECONDS)
    assert rig.transport.closed and rig.transport.sent.count(b"HTTP/1.1") == 1


async def test_a_client_that_does_not_read_makes_its_writer_wait_and_is_cut_off(rig_of: RigOf) -> None:
    written: list[int] = []

    async def writes(exchange: Exchange) -> None:
        await exchange.begin([])
        for number in range(3):
            await exchange.write(b"x")
            written.append(number)
        await exchange.end()

    rig = rig_of(writes)
    rig.protocol.pause_writing()
    await rig.says(get("/x"))
    assert written == []
    rig.protocol.resume_writing()
    await rig.settles()
    assert written == [0, 1, 2]
    rig.protocol.pause_writing()
    rig.passes(STALLED_SECONDS)
    assert rig.transport.aborted


async def test_c1_who_waits_for_a_client_that_leaves_is_told_without_a_task(rig_of: RigOf) -> None:
    left: list[str] = []

    async def waits(exchange: Exchange) -> None:
        exchange.when_left(lambda: left.append(exchange.path))
        await asyncio.Event().wait()

    rig = rig_of(waits)
    await rig.says(get("/x"))
    tasks = len(asyncio.all_tasks())
    rig.leaves()
    assert left == ["/x"] and len(asyncio.all_tasks()) == tasks
    assert len(rig.sweep) == 0 and not rig.server.connections and not rig.server.tasks
    rig.protocol.cancel()
    await rig.settles()


async def test_who_asks_too_late_whether_the_client_left_is_told_as_well(rig_of: RigOf) -> None:
    left: list[str] = []
    go = asyncio.Event()

    async def waits(exchange: Exchange) -> None:
        await go.wait()
        exchange.when_left(lambda: left.append(exchange.path))

    rig = rig_of(waits)
    await rig.says(get("/x"))
    rig.leaves()
    go.set()
    await rig.settles()
    assert left == ["/x"]


async def test_a_client_that_was_answered_has_not_left(rig_of: RigOf) -> None:
    left: list[str] = []

    async def answers(exchange: Exchange) -> None:
        exchange.when_left(lambda: left.append(exchange.path))
        await exchange.respond(200, b"")

    rig = rig_of(answers)
    await rig.says(get("/x"))
    rig.leaves()
    assert left == []


async def test_behind_a_stream_not_everything_is_kept(rig_of: RigOf) -> None:
    async def listens(exchange: Exchange) -> None:
        await exchange.begin([])
        exchange.when_left(lambda: None)
        await asyncio.Event().wait()

    rig = rig_of(listens)
    await rig.says(get("/stream"))
    while not rig.transport.closed and len(rig.protocol._waiting) < QUEUED_BYTES:
        assert rig.transport.reading  # else nobody would see the client leave
        await rig.says(get("/more") * 1000)
    assert rig.transport.aborted
    rig.protocol.cancel()
    await rig.settles()


async def test_what_is_no_http_behind_a_stream_ends_it(rig_of: RigOf) -> None:
    async def listens(exchange: Exchange) -> None:
        await exchange.begin([])
        await asyncio.Event().wait()

    rig = rig_of(listens)
    await rig.says(get("/stream"))
    assert await rig.says(b"rubbish\r\n\r\n") == b"" and rig.transport.closed
    rig.protocol.cancel()
    await rig.settles()


async def test_the_servers_end_closes_what_idles_and_lets_the_rest_finish(rig_of: RigOf) -> None:
    go = asyncio.Event()

    async def long(exchange: Exchange) -> None:
        await go.wait()
        await echo(exchange)

    idle, busy = rig_of(echo), rig_of(long)
    await busy.says(get("/x"))
    idle.protocol.shutdown()
    busy.protocol.shutdown()
    assert idle.transport.closed and not busy.transport.closed
    go.set()
    await busy.settles()
    assert b"connection: close\r\n" in busy.transport.sent and bodies(busy.transport.sent) == [b"/x "]
    assert busy.transport.closed


async def test_what_does_not_finish_before_the_servers_end_is_cancelled(rig_of: RigOf) -> None:
    ends: list[str] = []

    async def forever(exchange: Exchange) -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            ends.append(exchange.path)
            raise

    rig = rig_of(forever)
    await rig.says(get("/x"))
    for task in list(rig.server.tasks):  # as uvicorn does
        task.cancel(msg="the server ends")
    await rig.settles()
    assert ends == ["/x"] and rig.transport.aborted


async def test_a_connection_that_is_over_is_no_garbage(rig_of: RigOf) -> None:
    gc.collect()
    gc.disable()
    try:
        rig = rig_of(echo)
        await rig.says(get("/x"), post("/y", b"abc"))
        rig.leaves()
        del rig
        await asyncio.sleep(0)
        assert [each for each in gc.get_objects() if isinstance(each, HttpProtocol | HttpExchange)] == []
    finally:
        gc.enable()


class Outlasting:
    """Serves what goes on after its response is complete; POSTs are echoed."""

    def __init__(self, *, streams: bool = True) -> None:
        self.streams = streams
        self.release = asyncio.Event()
        self.over: list[str] = []

    async def __call__(self, exchange: Exchange) -> None:
        if exchange.method == "POST":
            await echo(exchange)
            return
        if self.streams:
            await exchange.begin(())
            exchange.when_left(lambda: self.over.append("left"))
            await exchange.end()
        else:
            await exchange.respond(200, b"said")
        await self.release.wait()
        self.over.append(exchange.path)


@pytest.mark.parametrize("streams", [True, False])
@pytest.mark.parametrize("at_once", [True, False])
async def test_the_next_request_is_answered_once_a_response_is_complete_though_its_call_goes_on(
    streams: bool, at_once: bool, rig_of: RigOf
) -> None:
    serve = Outlasting(streams=streams)
    rig = rig_of(serve)
    pieces = (get("/1"), post("/2", b"a"), post("/3", b"b"))
    if at_once:
        await rig.says(b"".join(pieces))
    else:
        for piece in pieces:
            await rig.says(piece)
    assert rig.transport.sent.endswith(b"/3 b") and rig.transport.sent.index(b"/2 a") < rig.transport.sent.index(b"/3 b")
    assert serve.over == [] and rig.transport.reading and not rig.transport.closed
    serve.release.set()
    await rig.settles()
    assert serve.over == ["/1"] and rig.server.tasks == {rig.protocol}


async def test_a_call_that_outlasts_its_response_is_waited_for_when_the_server_ends(rig_of: RigOf) -> None:
    serve = Outlasting()
    rig = rig_of(serve)
    await rig.says(get("/1"))
    rig.protocol.shutdown()
    assert rig.transport.closed
    rig.leaves()
    assert len(rig.server.tasks) == 1 and serve.over == []
    serve.release.set()
    await rig.settles()
    assert serve.over == ["/1"] and not rig.server.tasks


async def test_a_connection_that_ends_with_its_response_ends_though_the_call_goes_on(rig_of: RigOf) -> None:
    serve = Outlasting()
    rig = rig_of(serve)
    await rig.says(get("/1", "Connection: close"))
    assert rig.transport.closed and serve.over == []
    serve.release.set()
    await rig.settles()


class Minding:
    """Remembers which task serves which path, and does at `/fails` and `/withdrawn` what these say."""

    def __init__(self) -> None:
        self.tasks: dict[str, asyncio.Task[object] | None] = {}

    async def __call__(self, exchange: Exchange) -> None:
        self.tasks[exchange.path] = task = asyncio.current_task()
        if exchange.path == "/withdrawn" and task is not None:
            task.cancel()
            try:
                await asyncio.sleep(0)
            except asyncio.CancelledError:
                task.uncancel()
        await echo(exchange)
        if exchange.path == "/fails":
            raise ZeroDivisionError


async def test_one_task_answers_the_requests_of_a_connection_and_ends_with_it(rig_of: RigOf) -> None:
    serve = Minding()
    rig = rig_of(serve)
    await rig.says(get("/1"), get("/2") + get("/3"), get("/withdrawn"), get("/4"))
    (task,) = set(serve.tasks.values())
    assert len(serve.tasks) == 5 and task is not None and not task.done()
    rig.leaves()
    await rig.settles()
    assert task.done() and not task.cancelled() and task.exception() is None


@pytest.mark.parametrize("at_once", [True, False])
async def test_serving_that_fails_late_leaves_the_connection_to_the_next_request(at_once: bool, rig_of: RigOf) -> None:
    serve = Minding()
    rig = rig_of(serve)
    pieces = [get("/fails"), get("/next"), get("/last")]
    said = await rig.says(*([b"".join(pieces)] if at_once else pieces))
    assert bodies(said) == [b"/fails ", b"/next ", b"/last "] and not rig.transport.closed
    failed, after, last = serve.tasks.values()
    assert failed is not after and after is last and failed is not None
    assert isinstance(failed.exception(), ZeroDivisionError)


async def test_the_task_of_an_idle_connection_that_was_broken_off_leaves_nobody_waiting(rig_of: RigOf) -> None:
    serve = Minding()
    rig = rig_of(serve)
    await rig.says(get("/1"))
    task = serve.tasks["/1"]
    rig.protocol.cancel("the server ends")
    await rig.settles()
    assert rig.transport.aborted and task is not None and task.cancelled()
    rig.leaves()


async def test_a_connection_whose_call_outlasts_its_response_is_closed_when_it_is_idle_for_long(rig_of: RigOf) -> None:
    serve = Outlasting(streams=False)
    rig = rig_of(serve)
    await rig.says(get("/1"))
    rig.passes(READ_SECONDS + 1)
    rig.passes(KEEP_ALIVE_SECONDS + 1)
    assert rig.transport.closed and serve.over == []
    rig.leaves()
    serve.release.set()
    await rig.settles()
    assert serve.over == ["/1"]


async def test_trailers_are_no_headers(rig_of: RigOf) -> None:
    seen: list[tuple[dict[bytes, bytes], int]] = []

    async def serve(exchange: Exchange) -> None:
        await exchange.body(LIMIT)
        seen.append((exchange.headers, len(list(exchange.header_list))))
        await exchange.respond(200, b"")

    rig = rig_of(serve)
    await rig.says(CHUNKED + b"1\r\na\r\n0\r\nHost: evil\r\nX-Late: 1\r\n\r\n", get("/next"))
    assert seen == [({b"host": b"localhost", b"transfer-encoding": b"chunked"}, 2), ({b"host": b"localhost"}, 1)]


async def test_an_idle_connection_keeps_nothing_of_its_last_request(rig_of: RigOf) -> None:
    gc.collect()
    rig = rig_of(echo)
    await rig.says(post("/x", b"a" * 100_000))
    assert [each for each in gc.get_objects() if isinstance(each, HttpExchange)] == []


async def test_who_pipelines_a_thousand_requests_lets_others_have_their_turns(rig_of: RigOf) -> None:
    served: list[str] = []

    async def serve(exchange: Exchange) -> None:
        served.append(exchange.path)
        await echo(exchange)

    rig = rig_of(serve)
    rig.protocol.data_received(get("/x") * 1000)
    async with asyncio.timeout(20):
        while len(served) < 1000:
            before = len(served)
            await asyncio.sleep(0)
            assert len(served) - before <= 2


@pytest.mark.parametrize("streams", [True, False])
@pytest.mark.parametrize(("wrong", "status"), [(b"rubbish\r\n\r\n", 400), (get("/2", "X: " + "a" * 9_000), 431)])
async def test_what_is_wrong_behind_a_call_that_is_answered_and_goes_on_is_refused(
    streams: bool, wrong: bytes, status: int, rig_of: RigOf
) -> None:
    serve = Outlasting(streams=streams)
    rig = rig_of(serve)
    await rig.says(get("/1"))
    assert (await rig.says(wrong)).startswith(b"HTTP/1.1 %d " % status)
    serve.release.set()
    await rig.settles()


async def test_a_slow_head_behind_a_call_that_is_answered_and_goes_on_is_late(rig_of: RigOf) -> None:
    serve = Outlasting(streams=False)
    rig = rig_of(serve)
    await rig.says(get("/1"))
    await rig.says(b"GET /2 HT")
    rig.passes(READ_SECONDS + 1)
    assert b"HTTP/1.1 408" in rig.transport.sent
    serve.release.set()
    await rig.settles()


async def test_a_big_request_behind_a_call_that_is_answered_and_goes_on_is_taken(rig_of: RigOf) -> None:
    serve = Outlasting()
    rig = rig_of(serve)
    whole = post("/2", b"a" * (LIMIT - 1))
    await rig.says(get("/1"))
    await rig.says(whole[:60], whole[60:] + whole[: QUEUED_BYTES - LIMIT])
    assert not rig.transport.aborted and b"/2 aaa" in rig.transport.sent
    serve.release.set()
    await rig.settles()
