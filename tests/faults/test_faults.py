"""Whatever breaks between the gateway and an upstream, at whatever stage: a clear error in time, and nothing of it stays.

Which fault is tried at which stage, and why the others are not:

| fault                    | connect | TLS | initialize | call | stream | close |
|--------------------------|---------|-----|------------|------|--------|-------|
| refused                  | x       | a   | b          | b    | b      | b     |
| reset                    | x       | x   | x          | x    | x      | x     |
| stalled                  | x       | x   | x          | x    | x      | x     |
| half closed              | x       | x   | x          | x    | x      | x     |
| slow                     | a       | x   | x          | x    | x      | x     |
| garbage                  | x       | x   | x          | x    | x      | x     |
| truncated chunk          | c       | c   | x          | x    | x      | x     |
| wrong length             | c       | c   | x          | x    | x      | x     |
| oversized headers        | c       | c   | x          | x    | d      | x     |
| 100 Continue             | c       | c   | x          | x    | e      | x     |
| two responses at once    | c       | c   | x          | x    | x      | x     |

a: TCP does this before TLS begins, so that it is the same as at connect; the kernel makes a connection at once or not at all.
b: a connection is refused while it is made: this is tried at connect, on the first call and on one with a warm session.
c: there is no response yet. d: the headers have been read; trailers stand in for them. e: an interim response cannot
come in the middle of another one.
"""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

import mcpgateway
from tests.clients.messages import text_of
from tests.clients.wire import Wire
from tests.fakes.cuttable_proxy import ANSWERS, STREAMS, CuttableProxy
from tests.faults.scene import Scene, client_of, expect_clear_error, expect_recovery, scene
from tests.servers.raw_stub import Stub

HARMLESS = {"continue_first", "two_answers", "slow_but_sure"}
"""Odd, and no reason to fail: the whole answer comes."""

SAID = {
    "refuse": "cannot connect",
    "reset": "connection broke",
    "reset_midway": "connection broke",
    "half_close": "connection broke",
    "truncated_chunk": "connection broke",
    "length_too_long": "connection broke",
    "stall": "no sign of life",
    "slow": "no sign of life",
    "continue_only": "no sign of life",
    "garbage": "not HTTP",
    "chunk_of_no_size": "not HTTP",
    "oversized_headers": "larger than",
    "oversized_trailers": "larger than",
    "garbage_event": "no JSON-RPC message",
    "garbage_event_that_stays": "no JSON-RPC message",
    "length_too_short": "no JSON-RPC message",
    "end_without_answer": "ended the stream",
}
"""What the client is told of each, so that it knows what happened and need not wait for the time-out to tell it."""


async def expect_of_a_call(here: Scene, client: Wire, fault: str, said: str = "") -> None:
    """What the client gets while the fault is there."""
    if fault in HARMLESS:
        assert text_of(await here.call(client)) == "x"
    else:
        async with here.in_no_time():
            expect_clear_error(await here.call(client), said)
    assert here.proxy.struck.is_set()


@pytest.mark.parametrize("fault", ["refuse", "reset", "half_close", "garbage", "stall"])
@pytest.mark.parametrize("warm", [False, True], ids=["first call", "warm session"])
async def test_u4_a_connection_that_breaks_while_it_is_made(warm: bool, fault: str, proxy: CuttableProxy, stub: Stub) -> None:
    async with scene(proxy, stub, timeout_seconds=2) as here, client_of(here, warm=warm) as client, asyncio.timeout(20):
        await proxy.break_at("connect", fault)
        began = asyncio.get_running_loop().time()
        expect_clear_error(await here.call(client), "" if fault == "stall" else SAID[fault])
        assert asyncio.get_running_loop().time() - began < 8, "twice the time-out, for a call may be repeated, and some"
        await expect_recovery(here)
        assert text_of(await here.call(client, "healed")) == "healed"


@pytest.mark.parametrize("fault", list(ANSWERS))
@pytest.mark.parametrize("stage", ["initialize", "call"])
async def test_u9_an_answer_that_is_none(stage: str, fault: str, proxy: CuttableProxy, stub: Stub) -> None:
    async with scene(proxy, stub) as here, client_of(here, warm=stage == "call") as client, asyncio.timeout(20):
        await proxy.break_at(stage, fault)
        await expect_of_a_call(here, client, fault, SAID.get(fault, ""))
        await expect_recovery(here)
        assert text_of(await here.call(client, "healed")) == "healed"


@pytest.mark.parametrize("fault", list(STREAMS))
async def test_u9_an_event_stream_that_breaks(fault: str, proxy: CuttableProxy, stub: Stub) -> None:
    stub.orders.answer = "sse"
    async with scene(proxy, stub) as here, client_of(here, warm=True) as client, asyncio.timeout(20):
        await proxy.break_at("stream", fault)
        # Of a stream that ends in order nobody can say that something was cut off.
        said = "ended the stream" if fault == "length_too_short" else SAID.get(fault, "")
        await expect_of_a_call(here, client, fault, said)
        await expect_recovery(here)
        assert text_of(await here.call(client, "healed")) == "healed"


@pytest.mark.parametrize("fault", list(ANSWERS))
async def test_p8_the_end_of_a_session_that_is_not_acknowledged(fault: str, proxy: CuttableProxy, stub: Stub) -> None:
    async with scene(proxy, stub) as here, asyncio.timeout(20):
        async with client_of(here, warm=True) as client:
            await proxy.break_at("close", fault)
            async with here.in_no_time():
                assert await client.delete() == 204, "whatever becomes of the upstream's session, the client's is over"
                await proxy.struck.wait()
                await here.until_nothing_is_left()
            assert here.gateway.gateway.pool.get_metrics()["open"] == 1, "the one that watches"
        await expect_recovery(here)


async def test_a_gateway_stops_although_no_end_is_acknowledged(proxy: CuttableProxy, stub: Stub) -> None:
    async with asyncio.timeout(20):
        async with scene(proxy, stub) as here, client_of(here, warm=True):
            await proxy.break_at("close", "stall")
        assert here.left() == []


async def test_p5_after_any_number_of_failures_every_slot_is_free(proxy: CuttableProxy, stub: Stub) -> None:
    async with scene(proxy, stub) as here, client_of(here, warm=True) as client, asyncio.timeout(20):
        for fault in ("reset", "garbage", "half_close", "truncated_chunk") * 5:
            await proxy.break_at("call", fault)
            answers = await asyncio.gather(*(here.call(client) for _ in range(5)))
            assert all("error" in answer for answer in answers)
        # The door may be shut by now, which says nothing about slots.
        here.gateway.gateway.upstreams["up"].breaker.succeeded()
        await expect_recovery(here)


async def test_p14_the_death_of_one_connection_fails_no_call_on_another(proxy: CuttableProxy, stub: Stub) -> None:
    async with scene(proxy, stub) as here, client_of(here, warm=True) as client, asyncio.timeout(20):
        slow = asyncio.create_task(client.call("up__slow", {"ms": 200}))
        await here.gateway.until(lambda: stub.seen.running == 1)
        await proxy.break_at("call", "reset")
        expect_clear_error(await here.call(client))
        await proxy.heal()
        assert text_of(await slow) == "slept 200 ms"
        assert text_of(await here.call(client, "healed")) == "healed"


async def test_c5_an_answer_to_the_call_before_is_nobodys_answer(proxy: CuttableProxy, stub: Stub) -> None:
    async with scene(proxy, stub) as here, asyncio.timeout(20):
        async with client_of(here, warm=True) as one, client_of(here, warm=True) as other:
            await proxy.break_at("call", "answers_that_lag")
            assert text_of(await here.call(one, "of the first")) == "of the first"
            message = await here.call(other, "of the second")
            assert "of the first" not in str(message)
            expect_clear_error(message, "belongs to another request")
            assert text_of(await here.call(other, "heard again")) == "heard again", "on another connection"
        proxy.cut()
        await expect_recovery(here)


async def test_i3_an_answer_to_anothers_initialize_opens_nobody_a_session(proxy: CuttableProxy, stub: Stub) -> None:
    async with scene(proxy, stub) as here, asyncio.timeout(20):
        async with client_of(here, warm=False) as one, client_of(here, warm=False) as other:
            await proxy.break_at("initialize", "answers_that_lag")
            expect_clear_error(await here.call(one))
            await here.call(other)
            await proxy.heal()
            proxy.cut()
            assert text_of(await here.call(one)) == text_of(await here.call(other)) == "x"
            used = [request["session"] for request in stub.of("tools/call")]
            assert len(set(used)) == len(used) == 2, "each has a session of its own"
        await expect_recovery(here)


def test_u10_no_error_is_wrapped_up_by_a_task_group() -> None:
    package = Path(mcpgateway.__file__).parent
    assert [path.name for path in package.rglob("*.py") if "TaskGroup" in path.read_text(encoding="utf-8")] == []
