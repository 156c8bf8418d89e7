"""Modern clients (2026-07-28) and legacy servers: requests that stand alone, and sessions that are warm all the same."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator

import httpx
import pytest

from tests.clients.messages import text_of
from tests.clients.modern_wire import LOG_LEVEL, SERVER_INFO, ModernWire
from tests.clients.wire import MODERN, Message, Wire
from tests.fakes.callers import bearer, letting_in
from tests.fakes.gateway import one, serving
from tests.fakes.process import Server
from tests.servers.asking_stub import AskingStub

AUTH = letting_in("alice", "bob")


@pytest.fixture
async def stub() -> AsyncIterator[AskingStub]:
    async with AskingStub() as server:
        yield server


async def count(wire: ModernWire, tool: str = "counter", headers: dict[str, str | None] | None = None) -> tuple[int, str]:
    """One count more: which, and in which upstream session."""
    said = json.loads(text_of(await wire.call(tool, {}, headers)))
    return said["count"], said["session"]


async def test_a_call_is_answered_in_the_modern_form(stub: AskingStub) -> None:
    async with serving(one(stub.url)) as gateway, ModernWire(gateway.server("up")) as wire, asyncio.timeout(20):
        reply = await wire.post(wire.request_message("tools/call", {"name": "counter", "arguments": {}}))
        assert reply.status == 200 and "mcp-session-id" not in reply.headers
        result = reply.message["result"]
        assert result["resultType"] == "complete" and "ttlMs" not in result
        assert result["_meta"][SERVER_INFO] == {"name": "asking", "version": "1"}


async def test_i12_lists_are_kept_by_nobody_else(stub: AskingStub) -> None:
    async with serving(one(stub.url)) as gateway, asyncio.timeout(20):
        for url in (gateway.url, gateway.server("up")):
            async with ModernWire(url) as wire:
                for method in ("tools/list", "resources/list", "resources/templates/list", "server/discover"):
                    result = (await wire.request(method))["result"]
                    assert (result["ttlMs"], result["cacheScope"], result["resultType"]) == (0, "private", "complete")


async def test_discovery_names_every_revision_that_is_spoken(stub: AskingStub) -> None:
    async with serving(one(stub.url)) as gateway, asyncio.timeout(20):
        async with ModernWire(gateway.server("up")) as own, ModernWire(gateway.url) as all_of_them:
            found = (await own.request("server/discover"))["result"]
            assert found["supportedVersions"][:2] == ["2026-07-28", "2025-11-25"]
            assert found["capabilities"].keys() == {"tools", "resources", "logging"}
            assert found["_meta"][SERVER_INFO]["name"] == "asking"
            found = (await all_of_them.request("server/discover"))["result"]
            assert found["_meta"][SERVER_INFO]["name"] == "mcpgateway" and "up" in found["instructions"]


async def test_i1_two_modern_principals_each_go_on_in_a_session_of_their_own(stub: AskingStub) -> None:
    async with serving(one(stub.url, gateway=AUTH)) as gateway, asyncio.timeout(20):
        async with (
            ModernWire(gateway.url, bearer("alice")) as alice,
            ModernWire(gateway.url, bearer("bob")) as bob,
            ModernWire(gateway.server("up"), bearer("alice")) as alice_elsewhere,
        ):
            order = [alice, bob, alice, alice, bob, alice]
            counted = [await count(wire, "up__counter") for wire in order]
            assert [number for number, _ in counted] == [1, 1, 2, 3, 2, 4]
            assert len({session for _, session in counted}) == 2
            assert await count(alice_elsewhere) == (5, counted[0][1])  # the same principal at another endpoint


async def test_after_warm_up_a_call_is_one_request_upstream(stub: AskingStub) -> None:
    async with serving(one(stub.url)) as gateway, ModernWire(gateway.server("up")) as wire, asyncio.timeout(20):
        await wire.call("counter")
        began = len(stub.seen.requests)
        counted = await asyncio.gather(*(count(wire) for _ in range(20)))
        assert sorted(number for number, _ in counted) == list(range(2, 22))
        assert [entry["rpc"] for entry in stub.seen.requests[began:]] == ["tools/call"] * 20


async def test_a_conversation_key_gives_the_conversations_of_one_principal_sessions_of_their_own(stub: AskingStub) -> None:
    document = one(stub.url, sessions="principal", conversation_key="meta:com.example/chat")
    async with serving(document) as gateway, asyncio.timeout(20):
        async with (
            ModernWire(gateway.server("up"), meta={"com.example/chat": "a"}) as a,
            ModernWire(gateway.server("up"), meta={"com.example/chat": "b"}) as b,
        ):
            assert [(await count(wire))[0] for wire in (a, b, a, b, a)] == [1, 1, 2, 2, 3]


async def test_what_belongs_to_the_modern_form_does_not_reach_a_legacy_server(stub: AskingStub) -> None:
    async with serving(one(stub.url)) as gateway, ModernWire(gateway.server("up")) as wire, asyncio.timeout(20):
        await wire.request("tools/call", {"name": "counter", "arguments": {}, "_meta": {"com.example/x": 1, LOG_LEVEL: "info"}})
        (call,) = stub.of("tools/call")
        assert call["message"]["params"]["_meta"] == {"com.example/x": 1}
        assert not [name for name in call["headers"] if name.startswith("mcp-") and name not in LEGACY_HEADERS]


LEGACY_HEADERS = {"mcp-session-id", "mcp-protocol-version"}


async def test_a_method_that_modern_servers_do_not_have_is_not_found(stub: AskingStub) -> None:
    removed = ("initialize", "ping", "logging/setLevel", "resources/subscribe", "tasks/list", "no/such")
    async with serving(one(stub.url)) as gateway, ModernWire(gateway.server("up")) as wire, asyncio.timeout(20):
        for method in removed:
            message = wire.request_message(method, {"uri": "note://1", "level": "info"})
            reply = await wire.post(message)
            assert (reply.status, reply.message["error"]["code"], reply.message["id"]) == (404, -32601, message["id"]), method


async def test_what_a_single_server_does_not_offer_is_not_found_either(stub: AskingStub) -> None:
    async with serving(one(stub.url)) as gateway, ModernWire(gateway.server("up")) as wire, asyncio.timeout(20):
        reply = await wire.post(wire.request_message("prompts/list"))
        assert (reply.status, reply.message["error"]["code"]) == (404, -32601)


async def test_what_is_wrong_with_a_request_has_its_status(stub: AskingStub) -> None:
    async with serving(one(stub.url)) as gateway, ModernWire(gateway.server("up"), unchecked="errors without an id") as wire:
        call = wire.request_message("tools/call", {"name": "counter"})
        failing = wire.request_message("tools/call", {"name": "fails", "arguments": {"error": {"code": 7, "message": "x"}}})
        cases: list[tuple[object, dict[str, str | None], int, int]] = [
            (b"{", {}, 400, -32700),
            ([call], {}, 400, -32600),
            ({"jsonrpc": "2.0", "id": 1, "result": {}}, {}, 400, -32600),
            ({**call, "params": {"name": "counter"}}, {}, 400, -32602),
            (call, {"mcp-method": "tools/list"}, 400, -32020),
            (call, {"mcp-name": None}, 400, -32020),
            (call, {"mcp-protocol-version": "2031-01-01"}, 400, -32020),
            (call, {"mcp-protocol-version": None}, 400, -32020),
            (call, {"accept": "application/json"}, 406, -32600),
            (call, {"content-type": "text/plain"}, 415, -32600),
            (failing, {}, 200, 7),
        ]
        async with asyncio.timeout(20):
            for message, headers, status, code in cases:
                reply = await wire.post(message, headers)
                assert (reply.status, reply.message["error"]["code"]) == (status, code), (message, headers)


async def test_a_revision_that_nobody_speaks_is_answered_with_those_that_are(stub: AskingStub) -> None:
    meta = {MODERN: "2031-01-01"}
    async with serving(one(stub.url)) as gateway, ModernWire(gateway.server("up"), meta=meta) as wire, asyncio.timeout(20):
        reply = await wire.post(wire.request_message("tools/list"), {"mcp-protocol-version": "2031-01-01"})
        error = reply.message["error"]
        assert (reply.status, error["code"], error["data"]["requested"]) == (400, -32022, "2031-01-01")
        async with ModernWire(gateway.server("up")) as able:
            assert error["data"]["supported"] == (await able.request("server/discover"))["result"]["supportedVersions"]


async def test_a_notification_is_taken_and_a_stream_of_the_old_kind_is_not_there(stub: AskingStub) -> None:
    async with serving(one(stub.url)) as gateway, ModernWire(gateway.url) as wire, asyncio.timeout(20):
        reply = await wire.notify("notifications/cancelled", {"requestId": 1})
        assert (reply.status, reply.body) == (202, b"")
        async with httpx.AsyncClient(trust_env=False) as http:
            for method in ("GET", "DELETE"):
                answer = await http.request(method, gateway.url, headers={"mcp-protocol-version": "2026-07-28"})
                assert (answer.status_code, answer.headers["allow"]) == (405, "POST")


async def test_both_generations_meet_at_one_endpoint(stub: AskingStub) -> None:
    async with serving(one(stub.url)) as gateway, asyncio.timeout(20):
        async with ModernWire(gateway.server("up")) as modern, Wire(gateway.server("up")) as legacy:
            await legacy.initialize()
            modern_session, legacy_session = (await count(modern))[1], (await count_of_legacy(legacy))
            assert modern_session != legacy_session


async def count_of_legacy(wire: Wire) -> str:
    return str(json.loads(text_of(await wire.call("counter")))["session"])


def mirrored(value: str | None) -> dict[str, str | None]:
    return {"mcp-param-region": value}


REPEATED: list[tuple[Message, str | None, int]] = [
    ({"region": "eu"}, "eu", 200),
    ({"region": "eu"}, "us", 400),
    ({"region": "eu"}, None, 400),
    ({}, "eu", 400),
    ({}, None, 200),
    ({"region": "日本"}, "=?base64?5pel5pys?=", 200),
    ({"region": "日本"}, "=?base64?5pel?=", 400),
]


@pytest.mark.parametrize("prefix", ["", "up__"])
async def test_headers_that_repeat_arguments_must_repeat_them(prefix: str, stub: AskingStub) -> None:
    async with serving(one(stub.url)) as gateway, asyncio.timeout(20):
        async with ModernWire(gateway.url if prefix else gateway.server("up")) as wire:
            await wire.request("tools/list")  # headers are checked by what is known: a call does not wait for the list
            for arguments, header, status in REPEATED:
                message = wire.request_message("tools/call", {"name": f"{prefix}routed", "arguments": arguments})
                reply = await wire.post(message, mirrored(header))
                assert reply.status == status, (arguments, header)
                assert status == 200 or reply.message["error"]["code"] == -32020


async def test_the_headers_of_a_tool_that_is_hidden_from_the_caller_tell_nothing_of_it(stub: AskingStub) -> None:
    rules = [{"who": {"principal": "alice"}, "servers": ["up"], "tools": ["counter"]}]
    async with serving(one(stub.url, gateway=AUTH | {"access": rules})) as gateway, asyncio.timeout(20):
        async with ModernWire(gateway.server("up"), bearer("alice")) as wire:
            assert [tool["name"] for tool in (await wire.request("tools/list"))["result"]["tools"]] == ["counter"]
            refused = [await wire.call(name, {"region": "eu"}, mirrored("us")) for name in ("routed", "none")]
            assert [each["error"]["message"] for each in refused] == ["Unknown tool: routed", "Unknown tool: none"]


async def test_a_parameter_header_that_no_tool_declares_is_nobodys_fault(stub: AskingStub) -> None:
    async with serving(one(stub.url)) as gateway, ModernWire(gateway.server("up")) as wire, asyncio.timeout(20):
        reply = await wire.post(wire.request_message("tools/call", {"name": "counter", "arguments": {}}), mirrored("eu"))
        assert reply.status == 200


async def test_a_client_that_closes_its_stream_takes_the_call_back(stub: AskingStub) -> None:
    async with serving(one(stub.url)) as gateway, ModernWire(gateway.server("up")) as wire, asyncio.timeout(20):
        await wire.call("counter")
        calling = asyncio.create_task(wire.call("hang"))
        await gateway.until(lambda: stub.calls == 1)
        calling.cancel()
        await gateway.until(lambda: len(stub.cancelled) == 1)
        (hanging,) = [entry for entry in stub.of("tools/call") if entry["message"]["params"]["name"] == "hang"]
        assert stub.cancelled[0]["requestId"] == hanging["message"]["id"]
        assert (await count(wire))[0] == 2  # in the session in which the other was cancelled
        await gateway.until(lambda: not gateway.gateway._modern.busy and gateway.gateway.pool.get_metrics()["leased"] == 0)


def said(level: str, text: str) -> Message:
    return {"method": "notifications/message", "params": {"level": level, "data": text}}


async def spoken(wire: ModernWire, message: Message) -> list[Message]:
    """All that is said in answer to a request."""
    return (await wire.post(message)).messages


async def test_log_messages_come_for_those_who_asked_and_from_their_level_on(stub: AskingStub) -> None:
    messages = [said("info", "low"), said("error", "high")]
    call = {"name": "says", "arguments": {"messages": messages}}
    async with serving(one(stub.url)) as gateway, ModernWire(gateway.server("up")) as wire, asyncio.timeout(20):
        assert len(await spoken(wire, wire.request_message("tools/call", call))) == 1
        loud = {**call, "_meta": {LOG_LEVEL: "warning"}}
        heard = await spoken(wire, wire.request_message("tools/call", loud))
        assert [each["params"]["data"] for each in heard[:-1]] == ["high"]
        loud["_meta"] = {LOG_LEVEL: "debug"}
        assert len(await spoken(wire, wire.request_message("tools/call", loud))) == 3
        levels = [entry["message"]["params"]["level"] for entry in stub.of("logging/setLevel")]
        assert levels == ["warning", "debug"]


async def test_what_is_for_those_who_listen_does_not_come_on_a_calls_stream(stub: AskingStub) -> None:
    messages = [
        {"method": "notifications/tools/list_changed"},
        {"method": "notifications/resources/updated", "params": {"uri": "note://1"}},
        {"method": "notifications/elicitation/complete", "params": {"elicitationId": "x"}},
    ]
    async with serving(one(stub.url)) as gateway, ModernWire(gateway.server("up")) as wire, asyncio.timeout(20):
        message = wire.request_message("tools/call", {"name": "says", "arguments": {"messages": messages}})
        assert len(await spoken(wire, message)) == 1


async def test_progress_comes_on_the_calls_own_stream_with_the_clients_token(stateful_1x: Server) -> None:
    async with serving(one(stateful_1x.url)) as gateway, ModernWire(gateway.server("up")) as wire, asyncio.timeout(20):
        call = {"name": "progress", "arguments": {"n": 3}, "_meta": {"progressToken": "mine"}}
        reply = await wire.post(wire.request_message("tools/call", call))
        assert reply.headers["x-accel-buffering"] == "no"
        *progress, response = reply.messages
        assert [(each["params"]["progressToken"], each["params"]["progress"]) for each in progress] == [
            ("mine", 1.0),
            ("mine", 2.0),
            ("mine", 3.0),
        ]
        assert response["result"]["resultType"] == "complete"


async def test_a_resource_that_is_not_there_has_the_modern_code(stub: AskingStub) -> None:
    two = {"mcpServers": {"up": {"url": stub.url}, "other": {"url": stub.url}}}
    async with serving(two) as gateway, ModernWire(gateway.url) as wire, asyncio.timeout(20):
        by_the_server = {"name": "up__fails", "arguments": {"error": {"code": -32002, "message": "x"}}}
        for message in (
            wire.request_message("tools/call", by_the_server),
            wire.request_message("resources/read", {"uri": "elsewhere://1"}),
        ):
            reply = await wire.post(message)
            assert (reply.status, reply.message["error"]["code"]) == (400, -32602)


async def test_state_that_was_lost_is_said_in_words_for_those_without_a_session(stub: AskingStub) -> None:
    async with serving(one(stub.url, on_session_loss="end")) as gateway, asyncio.timeout(20):
        async with ModernWire(gateway.server("up")) as wire:
            assert (await count(wire))[0] == 1
            stub.do({"forget_sessions": "404"})
            reply = await wire.post(wire.request_message("tools/call", {"name": "counter", "arguments": {}}))
            error = reply.message["error"]
            assert error["data"]["kind"] == "StateLost" and "'up'" in error["message"]
            assert "initialize" not in error["message"]
            assert (await count(wire))[0] == 1


async def test_a_gateway_that_drains_finishes_the_calls_in_flight(stub: AskingStub) -> None:
    async with serving(one(stub.url)) as gateway, ModernWire(gateway.server("up")) as wire, asyncio.timeout(20):
        question = {"method": "roots/list"}
        call = wire.request_message("tools/call", {"name": "hang", "arguments": {"rounds": [[question]]}})
        calling = asyncio.create_task(wire.post(call))
        await gateway.until(lambda: stub.calls == 1)
        gateway.gateway.drain()
        assert gateway.gateway._busy()
        refused = await wire.post(wire.request_message("tools/call", {"name": "counter", "arguments": {}}))
        assert refused.status == 503
        calling.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await calling
        await gateway.until(lambda: not gateway.gateway._busy())
