"""Modern servers as real processes on a pipe, and processes that have to be asked in another way."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from mcpgateway.errors import ConnectFailed, UpstreamError
from mcpgateway.protocol.call import Call
from mcpgateway.runtime import Sweep
from mcpgateway.upstream.base import Hello, Target, UpstreamSession
from tests.fakes.clock import FakeClock
from tests.fakes.peers import Ear, Person, call, tool_call
from tests.fakes.process import PROJECT
from tests.fakes.programs import fastmcp_1x_command, modern_2x_command
from tests.fakes.until import until
from tests.integration.upstream.opened import Sessions, result_of

MODERN = "2026-07-28"
CAPABILITIES = b'{"elicitation":{},"roots":{}}'
MODERN_CLIENT, LEGACY_CLIENT = Hello(CAPABILITIES, modern=True), Hello(CAPABILITIES)


class World(Sessions):
    """An opener with a clock that a test may advance."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        super().__init__(Sweep(self.clock, tick_seconds=0.02))

    async def open(self, *command: str, hello: Hello = MODERN_CLIENT, env: tuple[tuple[str, str], ...] = ()) -> UpstreamSession:
        target = Target(name="clock", transport="stdio", command=command[0], args=command[1:], cwd=str(PROJECT), env=env)
        return await self.open_at(target, hello)

    async def open_manners(self, manner: str, hello: Hello, **env: str) -> UpstreamSession:
        return await self.open(sys.executable, "-m", "tests.servers.stdio_manners", manner, hello=hello, env=tuple(env.items()))


@pytest.fixture
async def world() -> AsyncIterator[World]:
    world = World()
    yield world
    await world.close()


class Client(Person):
    capabilities = CAPABILITIES


async def text(session: UpstreamSession, asked: Call, channel: Ear | None = None) -> Any:
    asked.client = Client()
    return (await result_of(session, asked, channel))["content"][0]["text"]


async def test_the_sdks_server_over_one_pipe(world: World) -> None:
    session = await world.open(*modern_2x_command("stdio"))
    assert session.welcome.protocol_version == MODERN
    ear = Ear()
    assert await text(session, tool_call("work", token="t"), ear) == "done"
    assert await ear.next() == ("notifications/progress", {"progressToken": "t", "progress": 0, "total": 3})
    ear = Ear()
    ear.answer.set_result(b'{"action":"accept","content":{"name":"Ada"}}')
    answers = json.loads(await text(session, tool_call("ask"), ear))
    assert answers == {"answers": {"name": {"action": "accept", "content": {"name": "Ada"}}}, "exact": True}
    assert await session.request(call("ping"), Ear()) == b"{}"


async def test_c5_what_a_process_announces_reaches_who_listens_for_it(world: World) -> None:
    session = await world.open(*modern_2x_command("stdio"))
    session.listener = heard = Ear()
    session.listen()
    assert await session.request(call("resources/subscribe", uri="demo://one"), Ear()) == b"{}"
    await text(session, tool_call("publish", uri="demo://one", lists=True))
    assert [await heard.next() for _ in range(3)] == [
        ("notifications/resources/updated", {"uri": "demo://one"}),
        ("notifications/tools/list_changed", {}),
        ("notifications/resources/list_changed", {}),
    ]


async def test_c1_a_cancelled_call_ends_in_the_process_and_the_others_go_on(world: World) -> None:
    session = await world.open(*modern_2x_command("stdio"))
    ear = Ear()
    hanging = asyncio.create_task(text(session, tool_call("hang", token=1, who="ada"), ear))
    await ear.next()
    hanging.cancel()
    with pytest.raises(asyncio.CancelledError):
        await hanging
    while "ada" not in json.loads(await text(session, tool_call("seen")))["cancelled"]:
        pass  # asking again takes a round trip


@pytest.mark.parametrize(("hello", "revision"), [(MODERN_CLIENT, MODERN), (LEGACY_CLIENT, "2025-11-25")])
async def test_a_published_server_speaks_to_each_client_in_its_own_generation(
    hello: Hello, revision: str, world: World
) -> None:
    program = Path(sys.executable).with_name("mcp-server-time")
    session = await world.open(str(program), hello=hello)
    assert session.welcome.protocol_version == revision
    names = [tool["name"] for tool in json.loads(await session.request(call("tools/list"), Ear()))["tools"]]
    assert names == ["get_current_time", "convert_time"]
    assert "timezone" in await text(session, tool_call("get_current_time", timezone="UTC"))


async def test_a_legacy_process_is_asked_once_and_then_known(world: World) -> None:
    for _ in range(2):
        session = await world.open(*fastmcp_1x_command("stdio"))
        assert session.welcome.protocol_version == "2025-11-25"
        assert await text(session, tool_call("echo", text="hello")) == "hello"


@pytest.mark.parametrize("hello", [MODERN_CLIENT, LEGACY_CLIENT], ids=["modern", "legacy"])
@pytest.mark.parametrize(("manner", "revision"), [("exits", "2025-11-25"), ("refuses", MODERN)])
async def test_a_process_that_refuses_one_generation_is_spoken_to_in_the_other(
    manner: str, revision: str, hello: Hello, world: World
) -> None:
    for _ in range(2):
        session = await world.open_manners(manner, hello)
        assert session.welcome.protocol_version == revision
        assert await session.request(call("resources/list"), Ear()) == b"{}"


async def test_a_process_that_never_answers_the_probe_is_spoken_to_with_a_handshake(world: World) -> None:
    opening = asyncio.create_task(world.open_manners("mute", MODERN_CLIENT))
    await until(lambda: len(world.sweep) == 1)
    world.clock.advance(30)
    assert (await opening).welcome.protocol_version == "2025-11-25"
    assert (await world.open_manners("mute", MODERN_CLIENT)).welcome.protocol_version == "2025-11-25"


async def test_a_process_that_was_only_slow_to_begin_is_modern_all_the_same(world: World, tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    opening = asyncio.create_task(world.open_manners("slow", MODERN_CLIENT, FIFO=str(fifo)))
    await until(lambda: len(world.sweep) == 1)
    world.clock.advance(11)  # the probe is over, and a handshake on its way
    await until(lambda: any(entry.deadline > world.clock.now() for entry in world.sweep._watched))
    await asyncio.to_thread(fifo.write_text, "go")
    assert (await opening).welcome.protocol_version == MODERN


async def test_a_process_that_ends_whatever_it_is_asked_says_why(world: World) -> None:
    with pytest.raises(ConnectFailed, match="exit code 7"):
        await world.open(sys.executable, "-c", "import sys; sys.stdin.readline(); sys.exit(7)")


async def test_a_command_that_does_not_exist_is_tried_once(world: World) -> None:
    with pytest.raises(UpstreamError, match="no-such-server"):
        await world.open("no-such-server")
