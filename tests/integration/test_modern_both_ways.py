"""Modern clients and modern servers: what passes as it came, and what the gateway seals, guards and makes private."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator

import pytest

from tests.clients.messages import text_of
from tests.clients.modern_wire import EVERYTHING, LOG_LEVEL, ModernWire
from tests.clients.wire import Message, Wire
from tests.fakes.gateway import RunningGateway, one, serving
from tests.fakes.process import Server
from tests.fakes.programs import modern_2x_command

YES = {"action": "accept", "content": {"name": "Ada"}}


@pytest.fixture(scope="module")
def modern() -> Iterator[Server]:
    """A server that refuses those that shake hands."""
    with Server(modern_2x_command("modern")) as server:
        yield server


def client_of(gateway: RunningGateway, capabilities: Message | None = None) -> ModernWire:
    return ModernWire(gateway.server("up"), capabilities=EVERYTHING if capabilities is None else capabilities)


async def test_a_servers_questions_come_as_it_asked_them_and_its_state_comes_back_to_it_byte_for_byte(modern: Server) -> None:
    async with serving(one(modern.url)) as gateway, client_of(gateway) as wire, asyncio.timeout(20):
        call = {"name": "ask", "arguments": {"questions": ["name", "roots"]}}
        asked = await wire.request("tools/call", call)
        questions = asked["result"]["inputRequests"]
        assert questions.keys() == {"name", "roots"} and questions["roots"] == {"method": "roots/list"}
        assert "exact" not in asked["result"]["requestState"]
        done = json.loads(text_of(await wire.again("tools/call", call, asked, {"name": YES, "roots": {"roots": []}})))
        assert done["exact"] and done["answers"]["name"] == YES
        assert len(gateway.gateway._modern._rounds.parked) == 0  # nothing is held for it


async def test_a_servers_state_cannot_be_forged_or_used_for_another_request(modern: Server) -> None:
    async with serving(one(modern.url)) as gateway, client_of(gateway) as wire, asyncio.timeout(20):
        call = {"name": "ask", "arguments": {"questions": ["name"]}}
        asked = await wire.request("tools/call", call)
        forged = {"result": {"requestState": "the server's own"}}
        other = {**call, "arguments": {"questions": ["roots"]}}
        for refused in (
            await wire.again("tools/call", call, forged, {"name": YES}),
            await wire.again("tools/call", other, asked, {"name": YES}),
        ):
            assert refused["error"]["code"] == -32602


async def test_a_server_that_gives_nothing_but_a_state_is_come_back_to(modern: Server) -> None:
    async with serving(one(modern.url)) as gateway, client_of(gateway) as wire, asyncio.timeout(20):
        call: Message = {"name": "patient", "arguments": {}}
        response = await wire.request("tools/call", call)
        for _ in range(3):
            assert "inputRequests" not in response["result"]
            again = {**call, "requestState": response["result"]["requestState"]}
            response = await wire.request("tools/call", again)
        assert text_of(response) == "at last"


async def test_a_question_that_the_client_did_not_declare_does_not_reach_it(modern: Server) -> None:
    async with serving(one(modern.url)) as gateway, client_of(gateway, {"roots": {}}) as wire, asyncio.timeout(20):
        message = wire.request_message("tools/call", {"name": "ask", "arguments": {"questions": ["visit"]}})
        reply = await wire.post(message)
        assert (reply.status, reply.message["error"]["code"]) == (400, -32021)
        assert reply.message["error"]["data"]["requiredCapabilities"] == {"elicitation": {"url": {}}}


async def test_a_request_says_upstream_who_its_own_client_is(modern: Server) -> None:
    async with serving(one(modern.url)) as gateway, asyncio.timeout(20):
        for program in ("one", "other"):
            info = {"name": program, "version": "1"}
            async with ModernWire(gateway.server("up"), meta={"io.modelcontextprotocol/clientInfo": info}) as wire:
                said = json.loads(text_of(await wire.call("whoami")))
                assert said["io.modelcontextprotocol/clientInfo"] == info


async def test_log_messages_of_a_modern_server_come_for_those_who_asked(modern: Server) -> None:
    async with serving(one(modern.url)) as gateway, client_of(gateway) as wire, asyncio.timeout(20):
        for level, count in ((None, 0), ("warning", 1), ("debug", 2)):
            meta = {"_meta": {LOG_LEVEL: level}} if level else {}
            reply = await wire.post(wire.request_message("tools/call", {"name": "log", "arguments": {}, **meta}))
            assert len(reply.messages) == count + 1


async def test_discovery_is_the_servers_own_with_what_the_gateway_speaks(modern: Server) -> None:
    async with serving(one(modern.url)) as gateway, client_of(gateway) as wire, asyncio.timeout(20):
        found = (await wire.request("server/discover"))["result"]
        assert "2025-11-25" in found["supportedVersions"] and found["cacheScope"] == "private"


async def test_a_legacy_client_reads_nothing_of_the_modern_form(modern: Server) -> None:
    async with serving(one(modern.url)) as gateway, Wire(gateway.server("up")) as wire, asyncio.timeout(20):
        await wire.initialize()
        response = await wire.call("echo", {"x": 1})
        assert "resultType" not in response["result"] and "_meta" not in response["result"]
        read = await wire.request("resources/read", {"uri": "demo://one"})
        assert read["result"].keys() == {"contents"}
        missing = await wire.request("resources/read", {"uri": "demo://none"})
        assert missing["error"]["code"] == -32002


async def test_what_changes_at_a_modern_server_is_heard_by_who_listens(modern: Server) -> None:
    async with serving(one(modern.url)) as gateway, client_of(gateway) as wire, asyncio.timeout(20):
        async with wire.listening(toolsListChanged=True, resourceSubscriptions=["demo://one"]) as stream:
            acknowledged = (await anext(stream))["params"]["notifications"]
            assert acknowledged["resourceSubscriptions"] == ["demo://one"]
            await wire.call("publish", {"uri": "demo://one"})
            assert (await anext(stream))["params"]["uri"] == "demo://one"
