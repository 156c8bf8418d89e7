"""The fixtures of the integration tests do what the tests rely on."""

from __future__ import annotations

import asyncio
import json
import os
import select
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from tests.clients.wire import Wire
from tests.fakes.clock import FakeClock
from tests.fakes.process import Child, ChildFailed, Server
from tests.fakes.stub_server import StubServer

RESULT = '{"content":[{"type":"hologram","n":123456789012345678901234567890}],"x":1,"x":2,"text":"\\u2028"}'


async def stub_text(wire: Wire, tool: str, **arguments: object) -> str:
    return str((await wire.call(tool, arguments))["result"]["content"][0]["text"])


async def test_the_stub_counts_initializes_sessions_and_requests(stub: StubServer) -> None:
    async with Wire(stub.url, {"X-Api-Key": "k1"}) as wire:
        await wire.initialize()
        assert json.loads(await stub_text(wire, "counter")) == {"count": 1, "session": wire.session}
        assert json.loads(await stub_text(wire, "whoami"))["x-api-key"] == "k1"
        assert await wire.delete() == 200
    seen = await stub.seen()
    assert (seen["initializes"], seen["deletes"], seen["running"]) == (1, [wire.session], 0)
    assert [entry["rpc"] for entry in seen["requests"]] == [
        "initialize",
        "notifications/initialized",
        "tools/call",
        "tools/call",
        None,
    ]
    assert seen["sessions"][wire.session]["requests"] == 4
    assert seen["sessions"][wire.session]["headers"]["x-api-key"] == "k1"


@pytest.mark.parametrize("answer", ["json", "sse"])
async def test_the_stub_answers_in_the_exact_text_it_was_given(stub: StubServer, answer: str) -> None:
    await stub.do(answer=answer, raw_result=RESULT)
    async with Wire(stub.url, unchecked="the test invents content") as wire:
        await wire.initialize()
        reply = await wire.post(wire.request_message("tools/call", {"name": "echo"}))
    assert RESULT.encode() in reply.body
    assert reply.message["result"]["content"][0]["type"] == "hologram"


@pytest.mark.parametrize("status", ["404", "400"])
async def test_the_stub_forgets_sessions(stub: StubServer, status: str) -> None:
    async with Wire(stub.url) as wire:
        await wire.initialize()
        await stub.do(forget_sessions=status)
        reply = await wire.post(wire.request_message("tools/list"))
        assert (reply.status, "error" in reply.message) == (int(status), True)
        await wire.initialize()
        assert [tool["name"] for tool in (await wire.request("tools/list"))["result"]["tools"]] == [
            "echo",
            "counter",
            "slow",
            "whoami",
        ]


async def test_the_stub_notifies_the_streams_of_a_session(stub: StubServer) -> None:
    async with asyncio.timeout(5), Wire(stub.url) as wire:
        await wire.initialize()
        async with wire.listen() as said:
            await stub.do(notify={"jsonrpc": "2.0", "method": "notifications/tools/list_changed"}, session=wire.session)
            assert (await anext(said))["method"] == "notifications/tools/list_changed"
            assert (await stub.seen())["open_streams"] == 1


async def test_the_stub_fails_as_often_as_it_is_told(stub: StubServer) -> None:
    await stub.do(status=503, body="busy", headers={"retry-after": "1"}, times=1)
    async with Wire(stub.url) as wire:
        refused = await wire.post(b"{}")
        assert (refused.status, refused.body, refused.headers["retry-after"]) == (503, b"busy", "1")
        assert (await wire.initialize()).status == 200


async def test_the_stub_cuts_and_dies_when_told(stub: StubServer) -> None:
    async with Wire(stub.url) as wire:
        await stub.do(cut=True)
        with pytest.raises(httpx.RemoteProtocolError):
            await wire.initialize()
        with pytest.raises(httpx.RemoteProtocolError):
            await stub.do(die=True)
    stub.start()
    async with Wire(stub.url) as wire:
        assert (await wire.initialize()).status == 200


async def test_a_killed_stub_breaks_off_a_call_that_it_is_known_to_run(stubs: Callable[[], StubServer]) -> None:
    stub = stubs()
    async with asyncio.timeout(5), Wire(stub.url) as wire:
        await wire.initialize()
        call = asyncio.create_task(wire.call("slow", {"ms": 60000}))
        await stub.until_running()
        stub.kill()
        with pytest.raises(httpx.TransportError):
            await call


async def test_a_restarted_server_knows_its_sessions_no_more(own_stateful_1x: Server) -> None:
    async with Wire(own_stateful_1x.url) as wire:
        await wire.initialize()
        url = own_stateful_1x.url
        own_stateful_1x.restart()
        assert own_stateful_1x.url == url
        assert (await wire.post(wire.request_message("tools/list"))).status == 404


async def test_wire_hears_progress_before_the_answer(stateful_1x: Server) -> None:
    async with asyncio.timeout(10), Wire(stateful_1x.url) as wire:
        await wire.initialize()
        params = {"name": "progress", "arguments": {"n": 2}, "_meta": {"progressToken": "t"}}
        async with wire.exchange(wire.request_message("tools/call", params)) as messages:
            heard = [message.get("method", "answer") async for message in messages]
        await wire.delete()
    assert heard == ["notifications/progress", "notifications/progress", "answer"]


def test_a_child_that_ends_early_says_why() -> None:
    with Child(["sh", "-c", "echo broken >&2; exit 3"]) as child, pytest.raises(ChildFailed, match="broken"):
        child.next_json()


def test_a_stopped_child_leaves_nobody_of_its_group(tmp_path: Path) -> None:
    pipe = tmp_path / "held"
    os.mkfifo(pipe)
    held = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    # A grandchild that ignores SIGTERM holds the pipe open for as long as it lives.
    with Child(["sh", "-c", '(trap "" TERM; echo "{}"; sleep 1000) 3>"$0" & wait', str(pipe)]) as child:
        child.next_json()
        assert select.select([held], [], [], 0)[0] == []
    assert select.select([held], [], [], 5)[0] == [held]
    assert os.read(held, 1) == b""
    os.close(held)


def test_a_fake_clock_moves_only_when_told(clock: FakeClock) -> None:
    assert clock.now() == clock.now()
    assert clock.advance(2.5) == clock.now() == 1002.5
