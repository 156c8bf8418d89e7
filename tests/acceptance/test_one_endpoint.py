"""What a client sees at /mcp: all servers at once, told apart, listed whole, and reachable by the names that are listed."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from mcpgateway.services import lists
from mcpgateway.services.upstream import State
from tests.clients.wire import Message, Wire
from tests.fakes.gateway import RunningGateway, serving
from tests.servers.http11 import Request
from tests.servers.raw_stub import Stub

LONG = "a_tool_whose_name_is_long_enough_to_be_cut_when_a_prefix_comes_" + "x" * 30


class Library(Stub):
    """A stub that offers what it is told to, page by page, and says of everything who it is."""

    def __init__(self, name: str, page_size: int = 1000) -> None:
        super().__init__()
        self.name = name
        self.page_size = page_size
        self.offered: dict[str, list[Message]] = {"tools": [], "resources": [], "resourceTemplates": [], "prompts": []}
        self.listing = asyncio.Event()
        self.listing.set()
        self.asked: list[tuple[str, Message]] = []

    async def _result(self, request: Request, message: Message) -> str | None:
        method, params = message["method"], message.get("params", {})
        fields = {"tools/list": "tools", "resources/list": "resources", "prompts/list": "prompts"}
        fields["resources/templates/list"] = "resourceTemplates"
        if method == "initialize":
            capabilities: Message = {"tools": {"listChanged": True}, "resources": {"subscribe": True}, "prompts": {}}
            info = {"name": self.name, "version": "1"}
            capabilities["completions"] = {}
            return json.dumps({"protocolVersion": params["protocolVersion"], "capabilities": capabilities, "serverInfo": info})
        if method in fields:
            await self.listing.wait()
            return self._page(fields[method], params)
        if method == "ping":
            return "{}"
        self.asked.append((method, params))
        return json.dumps(
            {"by": self.name, "content": [], "contents": [], "messages": [], "completion": {"values": []}, "asked": params}
        )

    def _page(self, field: str, params: Message) -> str:
        start = int(params.get("cursor") or 0)
        end = start + self.page_size
        page: Message = {field: self.offered[field][start:end]}
        if end < len(self.offered[field]):
            page["nextCursor"] = str(end)
        return json.dumps(page)


def tool(name: str, **more: object) -> Message:
    return {"name": name, "inputSchema": {"type": "object"}, **more}


@pytest.fixture
async def library() -> AsyncIterator[Callable[..., Any]]:
    """Starts libraries; they end with the test."""
    async with contextlib.AsyncExitStack() as stack:

        async def start(name: str, **offered: list[Message]) -> Library:
            server = Library(name)
            server.offered |= offered
            await server.start()
            stack.push_async_callback(server.aclose)
            return server

        yield start


def all_of(*servers: Stub, names: tuple[str, ...] = ("red", "blue")) -> dict[str, Any]:
    return {"mcpServers": {name: {"url": server.url} for name, server in zip(names, servers, strict=False)}}


@contextlib.asynccontextmanager
async def client_of(gateway: RunningGateway) -> AsyncIterator[Wire]:
    async with Wire(gateway.url) as wire, asyncio.timeout(20):
        await wire.initialize()
        yield wire


async def listed(wire: Wire, method: str) -> list[Message]:
    """All pages."""
    field = {"resources/templates/list": "resourceTemplates"}.get(method, method.partition("/")[0])
    found: list[Message] = []
    params: Message = {}
    while True:
        result = (await wire.request(method, params))["result"]
        found += result[field]
        if "nextCursor" not in result:
            return found
        params = {"cursor": result["nextCursor"]}


async def test_the_tools_and_prompts_of_two_servers_are_told_apart_by_prefix(library: Any) -> None:
    odd = {"x-vendor": {"n": 123456789012345678901234567890}, "annotations": {"readOnlyHint": True}}
    red = await library("red", tools=[tool("find", **odd), tool("a__b")], prompts=[{"name": "greet", "title": "Greet"}])
    blue = await library("blue", tools=[tool("find")], prompts=[{"name": "greet"}])
    async with serving(all_of(red, blue)) as gateway, client_of(gateway) as wire:
        tools = await listed(wire, "tools/list")
        assert [each["name"] for each in tools] == ["red__find", "red__a__b", "blue__find"]
        assert {**tools[0], "name": "find"} == tool("find", **odd)
        assert [each["name"] for each in await listed(wire, "prompts/list")] == ["red__greet", "blue__greet"]
        for name, server, own in (("red__find", red, "find"), ("red__a__b", red, "a__b"), ("blue__find", blue, "find")):
            assert (await wire.call(name, {"x": 1}))["result"]["by"] == server.name
            assert server.asked[-1] == ("tools/call", {"name": own, "arguments": {"x": 1}})
        assert (await wire.request("prompts/get", {"name": "blue__greet"}))["result"]["asked"] == {"name": "greet"}


async def test_a_name_that_looks_strange_in_the_configuration_gets_a_prefix_that_tools_may_have(library: Any) -> None:
    server = await library("odd", tools=[tool("find")])
    async with serving(all_of(server, names=("My Server / ünïcode",))) as gateway, client_of(gateway) as wire:
        (only,) = await listed(wire, "tools/list")
        assert only["name"].isascii() and all(letter.isalnum() or letter in "_-." for letter in only["name"])
        assert (await wire.call(only["name"]))["result"]["by"] == "odd"


async def test_c9_long_names_are_cut_to_64_stay_the_same_and_can_be_called(library: Any) -> None:
    red = await library("red", tools=[tool(LONG + "1"), tool(LONG + "2"), tool("x" * 59), tool("x" * 60)])
    names = []
    for _ in range(2):
        async with serving(all_of(red)) as gateway, client_of(gateway) as wire:
            names.append([each["name"] for each in await listed(wire, "tools/list")])
            for shown, own in zip(names[-1], red.offered["tools"], strict=True):
                assert (await wire.call(shown))["result"]["asked"]["name"] == own["name"]
    assert names[0] == names[1] and len(set(names[0])) == 4
    assert [len(name) for name in names[0]] == [64, 64, 64, 64]


async def test_c9_a_long_name_can_be_called_by_a_client_that_did_not_list(library: Any) -> None:
    red = await library("red", tools=[tool(LONG)])
    async with serving(all_of(red)) as gateway:
        async with client_of(gateway) as wire:
            (only,) = await listed(wire, "tools/list")
        async with client_of(gateway) as other:
            assert (await other.call(only["name"]))["result"]["asked"]["name"] == LONG


async def test_one_uri_of_two_servers_is_two_resources_and_both_can_be_read(library: Any) -> None:
    same = {"uri": "file:///notes.txt", "name": "notes"}
    red, blue = await library("red", resources=[same]), await library("blue", resources=[same, {"uri": "x://b", "name": "b"}])
    async with serving(all_of(red, blue)) as gateway, client_of(gateway) as wire:
        uris = [each["uri"] for each in await listed(wire, "resources/list")]
        assert uris[0] == "file:///notes.txt" and uris[2] == "x://b" and len(set(uris)) == 3
        for uri, server in zip(uris, (red, blue, blue), strict=True):
            assert (await wire.request("resources/read", {"uri": uri}))["result"]["by"] == server.name
        assert blue.asked[0] == ("resources/read", {"uri": "file:///notes.txt"})


async def test_a_template_leads_to_the_server_that_has_it(library: Any) -> None:
    red = await library("red", resourceTemplates=[{"uriTemplate": "red://{id}", "name": "r"}])
    blue = await library("blue", resourceTemplates=[{"uriTemplate": "blue://{+path}{?q}", "name": "b"}])
    async with serving(all_of(red, blue)) as gateway, client_of(gateway) as wire:
        templates = [each["uriTemplate"] for each in await listed(wire, "resources/templates/list")]
        assert templates == ["red://{id}", "blue://{+path}{?q}"]
        for uri, server in (("red://1", red), ("blue://a/b/c", blue), ("blue://a?q=1", blue)):
            assert (await wire.request("resources/read", {"uri": uri}))["result"]["by"] == server.name
        unknown = await wire.request("resources/read", {"uri": "green://1"})
        assert unknown["error"]["code"] == -32002 and unknown["error"]["data"] == {"uri": "green://1"}


async def test_an_update_is_told_under_the_uri_that_was_subscribed_to(library: Any) -> None:
    same = {"uri": "file:///notes.txt", "name": "notes"}
    red, blue = await library("red", resources=[same]), await library("blue", resources=[same])
    async with serving(all_of(red, blue)) as gateway, client_of(gateway) as wire:
        uris = [each["uri"] for each in await listed(wire, "resources/list")]
        for uri in uris:
            assert "result" in await wire.request("resources/subscribe", {"uri": uri})
        async with wire.listen() as stream:
            for server, uri in zip((red, blue), uris, strict=True):
                own = await own_session(gateway, server)
                said = {"jsonrpc": "2.0", "method": "notifications/resources/updated", "params": {"uri": "file:///notes.txt"}}
                server.do({"notify": said, "session": own})
                assert (await anext(stream))["params"] == {"uri": uri}
            assert "result" in await wire.request("resources/unsubscribe", {"uri": uris[0]})
            red.do({"notify": said, "session": await own_session(gateway, red)})
            blue.do({"notify": said, "session": await own_session(gateway, blue)})
            assert (await anext(stream))["params"] == {"uri": uris[1]}


async def own_session(gateway: RunningGateway, server: Library) -> str:
    """The upstream session in which a client subscribed, once the gateway hears it."""
    found = next(entry["session"] for entry in server.seen.requests if entry["rpc"] == "resources/subscribe")
    await gateway.until(lambda: found in server._streams.values())
    return str(found)


async def test_completion_goes_to_the_server_of_the_prompt_or_the_template(library: Any) -> None:
    red = await library("red", prompts=[{"name": "greet"}])
    blue = await library("blue", resourceTemplates=[{"uriTemplate": "blue://{id}", "name": "b"}])
    argument = {"name": "id", "value": "1"}
    async with serving(all_of(red, blue)) as gateway, client_of(gateway) as wire:
        prompt = {"type": "ref/prompt", "name": "red__greet", "title": "kept"}
        assert "result" in await wire.request("completion/complete", {"ref": prompt, "argument": argument})
        assert red.asked == [("completion/complete", {"ref": prompt | {"name": "greet"}, "argument": argument})]
        template = {"type": "ref/resource", "uri": "blue://{id}"}
        assert "result" in await wire.request("completion/complete", {"ref": template, "argument": argument})
        assert blue.asked == [("completion/complete", {"ref": template, "argument": argument})]


async def test_many_pages_upstream_and_many_pages_to_the_client_hold_everything_once(library: Any) -> None:
    count = lists.PAGE_SIZE + 500
    red = await library("red", tools=[tool(f"t{number}") for number in range(count)])
    blue = await library("blue", tools=[tool(f"t{number}") for number in range(count)])
    red.page_size, blue.page_size = 7, 100_000
    async with serving(all_of(red, blue)) as gateway, client_of(gateway) as wire:
        names = [each["name"] for each in await listed(wire, "tools/list")]
        assert names == [f"{server}__t{number}" for server in ("red", "blue") for number in range(count)]
        first = (await wire.request("tools/list"))["result"]
        assert len(first["tools"]) == lists.PAGE_SIZE


async def test_a_server_whose_cursor_goes_round_in_circles_is_not_asked_for_ever(library: Any) -> None:
    red = await library("red", tools=[tool("only")])
    red._page = lambda field, params: json.dumps({field: red.offered[field], "nextCursor": "again"})
    async with serving(all_of(red)) as gateway, client_of(gateway) as wire:
        names = [each["name"] for each in await listed(wire, "tools/list")]
        assert set(names) == {"red__only"}


async def test_u5_a_server_that_is_down_holds_up_nobody_and_joins_later(library: Any) -> None:
    red, blue = await library("red", tools=[tool("find")]), await library("blue", tools=[tool("find")])
    port = blue.port
    await blue.aclose()
    async with serving(all_of(red, blue)) as gateway, client_of(gateway) as wire, wire.listen() as stream:
        assert gateway.gateway.upstreams["blue"].state is State.UNREACHABLE
        assert [each["name"] for each in await listed(wire, "tools/list")] == ["red__find"]
        refused = await wire.call("blue__find")
        assert refused["error"]["code"] == -32603 and "'blue'" in refused["error"]["message"]
        await blue.start(port)
        heard = set()
        while "notifications/tools/list_changed" not in heard:
            heard.add((await anext(stream))["method"])
        assert [each["name"] for each in await listed(wire, "tools/list")] == ["red__find", "blue__find"]
        assert (await wire.call("blue__find"))["result"]["by"] == "blue"


async def test_u5_a_server_that_lists_slowly_holds_up_nobody_for_long_and_is_announced(library: Any) -> None:
    red, blue = await library("red", tools=[tool("find")]), await library("blue", tools=[tool("find")])
    blue.listing.clear()
    async with serving(all_of(red, blue), settled=False) as gateway:
        await gateway.until_state("red", State.READY)
        async with client_of(gateway) as wire, wire.listen() as stream:
            assert [each["name"] for each in await listed(wire, "tools/list")] == ["red__find"]
            blue.listing.set()
            while (await anext(stream))["method"] != "notifications/tools/list_changed":
                pass
            assert [each["name"] for each in await listed(wire, "tools/list")] == ["red__find", "blue__find"]


async def test_lists_are_served_from_memory(library: Any) -> None:
    red = await library("red", tools=[tool("find")])
    async with serving(all_of(red)) as gateway, client_of(gateway) as first:
        await listed(first, "tools/list")
        asked = sum(entry["rpc"] == "tools/list" for entry in red.seen.requests)
        for _ in range(5):
            await listed(first, "tools/list")
        async with client_of(gateway) as second:
            await listed(second, "tools/list")
        assert sum(entry["rpc"] == "tools/list" for entry in red.seen.requests) == asked
        red.offered["tools"].append(tool("more"))
        red.do({"notify": {"jsonrpc": "2.0", "method": "notifications/tools/list_changed"}})
        async with first.listen() as stream:
            assert (await anext(stream))["method"] == "notifications/tools/list_changed"
        assert [each["name"] for each in await listed(first, "tools/list")] == ["red__find", "red__more"]


async def test_one_server_alone_keeps_its_own_names(library: Any) -> None:
    red, blue = await library("red", tools=[tool(LONG)], prompts=[{"name": "greet"}]), await library("blue")
    async with serving(all_of(red, blue)) as gateway, Wire(gateway.server("red")) as wire, asyncio.timeout(20):
        await wire.initialize()
        assert [each["name"] for each in await listed(wire, "tools/list")] == [LONG]
        assert (await wire.call(LONG))["result"]["by"] == "red"
        assert [each["name"] for each in await listed(wire, "prompts/list")] == ["greet"]
        assert "listChanged" in wire.welcome["capabilities"]["tools"]
