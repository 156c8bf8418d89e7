"""The writer of event streams."""

from __future__ import annotations

import asyncio

from mcpgateway import runtime
from mcpgateway.downstream.event_stream import KEEPALIVE_SECONDS, QUEUED_BYTES, QUEUED_EVENTS, EventStream
from mcpgateway.runtime import Sweep
from tests.fakes.clock import FakeClock
from tests.unit.downstream.asgi import Exchange


async def test_messages_come_in_order_and_the_end_after_them(clock: FakeClock) -> None:
    exchange = Exchange()
    stream = EventStream(exchange.asgi(), Sweep(clock), [(b"x-more", b"1")])
    stream.start()
    for number in range(3):
        stream.put(b"%d" % number)
    stream.end()
    async with asyncio.timeout(5):
        await stream.ended()
    assert exchange.messages == [0, 1, 2] and exchange.complete
    assert exchange.headers["content-type"] == "text/event-stream" and exchange.headers["x-more"] == "1"


async def test_a_reader_too_far_behind_loses_events_but_never_what_somebody_waits_for(clock: FakeClock) -> None:
    exchange = Exchange()
    exchange.reads.clear()
    stream = EventStream(exchange.asgi(), Sweep(clock))
    stream.start()
    for number in range(QUEUED_EVENTS + 50):
        stream.put(b"%d" % number)
    stream.put_surely(b'"the answer"')
    assert stream.dropped == 50
    exchange.reads.set()
    stream.end()
    async with asyncio.timeout(5):
        await stream.ended()
    assert exchange.messages == [*range(QUEUED_EVENTS), "the answer"]


async def test_large_events_are_bounded_by_their_bytes(clock: FakeClock) -> None:
    exchange = Exchange()
    exchange.reads.clear()
    stream = EventStream(exchange.asgi(), Sweep(clock))
    stream.start()
    event = b'"' + b"x" * (QUEUED_BYTES // 10) + b'"'
    for _ in range(100):
        stream.put(event)
    assert 89 <= stream.dropped <= 91
    exchange.reads.set()
    await exchange.until_messages(10)
    stream.put(b"1")
    assert (await exchange.until_messages(11))[-1] == 1
    await stream.cut()


async def test_a_quiet_stream_shows_signs_of_life(clock: FakeClock) -> None:
    exchange, sweep = Exchange(), Sweep(clock)
    stream = EventStream(exchange.asgi(), sweep)
    stream.start()
    for _ in range(2):
        clock.advance(KEEPALIVE_SECONDS)
        sweep.expire_due()
    stream.put(b"1")
    await exchange.until_messages(1)
    assert b": keep-alive" in exchange.body
    stream.end()
    assert len(sweep) == 0
    await stream.ended()


async def test_a_stream_that_is_cut_leaves_no_task(clock: FakeClock) -> None:
    exchange, sweep = Exchange(), Sweep(clock)
    exchange.reads.clear()
    stream = EventStream(exchange.asgi(), sweep)
    stream.start()
    stream.put(b"1")
    async with asyncio.timeout(5):
        await stream.cut()
    assert runtime.running_tasks() == [] and len(sweep) == 0
