"""A changed configuration is taken up while calls go on; a broken one is refused."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mcpgateway import config
from mcpgateway.errors import ConfigError
from mcpgateway.services.reloading import ConfigFile
from mcpgateway.services.upstream import State
from tests.clients.wire import Wire
from tests.fakes.gateway import serving
from tests.fakes.stub_server import StubServer


def document(**servers: StubServer) -> dict[str, Any]:
    return {"mcpServers": {name: {"url": server.url} for name, server in servers.items()}}


def parsed(document: dict[str, Any]) -> config.Config:
    return config.parse(json.dumps(document), "test.json", {})


async def test_servers_come_and_go_without_touching_the_others(stubs: Callable[[], StubServer]) -> None:
    first, second = stubs(), stubs()
    async with serving(document(first=first)) as gateway, Wire(gateway.url) as client, asyncio.timeout(20):
        await client.initialize()
        assert (await client.call("first__counter"))["result"]
        slow = asyncio.create_task(client.call("first__slow", {"ms": 300}))
        await first.until_running()
        await gateway.gateway.apply(parsed(document(first=first, second=second)))
        await gateway.until_state("second", State.READY)
        names = [tool["name"] for tool in (await client.request("tools/list"))["result"]["tools"]]
        assert {"first__echo", "second__echo"} <= set(names)
        assert "result" in await slow
        await gateway.gateway.apply(parsed(document(first=first)))
        names = [tool["name"] for tool in (await client.request("tools/list"))["result"]["tools"]]
        assert not [name for name in names if name.startswith("second__")]
        assert "Unknown tool" in (await client.call("second__echo"))["error"]["message"]
        assert "result" in await client.call("first__counter")
        seen = await first.seen()
        assert seen["initializes"] == 2, "the watch's session and the client's, none more"


async def test_a_changed_server_takes_new_calls_to_new_sessions_while_the_old_finish(stubs: Callable[[], StubServer]) -> None:
    old, new = stubs(), stubs()
    async with serving(document(up=old)) as gateway, Wire(gateway.server("up")) as client, asyncio.timeout(20):
        await client.initialize()
        slow = asyncio.create_task(client.call("slow", {"ms": 300}))
        await old.until_running()
        await gateway.gateway.apply(parsed(document(up=new)))
        assert "result" in await client.call("echo", {"text": "x"})
        assert "result" in await slow
        calls = await new.of("tools/call")
        assert len(calls) == 1


async def test_a_broken_file_is_refused_and_the_old_one_stays_in_force(tmp_path: Path, stub: StubServer) -> None:
    path = tmp_path / "mcp.json"
    path.write_text(json.dumps(document(up=stub)))
    async with serving(document(up=stub)) as gateway, Wire(gateway.url) as client, asyncio.timeout(20):
        file = ConfigFile(str(path), gateway.gateway.apply, gateway.gateway.sweep)
        path.write_text('{"mcpServers": {"up": {"url": 7}}}')
        assert not await file.reload()
        await client.initialize()
        assert "result" in await client.call("up__echo", {"text": "x"})
        path.write_text("{}")
        assert not await file.reload() or gateway.gateway.upstreams == {}


async def test_a_written_file_is_loaded_once_it_has_come_to_rest(tmp_path: Path, stub: StubServer) -> None:
    path = tmp_path / "mcp.json"
    path.write_text(json.dumps(document(up=stub)))
    loaded: asyncio.Queue[config.Config] = asyncio.Queue()
    async with serving(document(up=stub)) as gateway, asyncio.timeout(20):
        file = ConfigFile(str(path), loaded.put, gateway.gateway.sweep)
        file.expire()
        assert loaded.empty()
        path.write_text(json.dumps(document(up=stub, other=stub)))
        file.expire()
        file.expire()
        assert [server.name for server in (await loaded.get()).servers] == ["up", "other"]
        file.expire()
        assert loaded.empty()


def test_the_text_of_a_refusal_names_the_place() -> None:
    try:
        parsed({"mcpServers": {"up": {"url": 7}}})
    except ConfigError as error:
        assert "mcpServers.up.url" in str(error)
    else:
        raise AssertionError("a number is no URL")
