"""Who shares an upstream session with whom, and what a client hears when its session's state is lost."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from tests.clients.wire import Wire
from tests.fakes.gateway import serving
from tests.fakes.stub_server import StubServer

SESSION_META = "mcpgateway/session"


def document(stub: StubServer, **server: Any) -> dict[str, Any]:
    return {"mcpServers": {"up": {"url": stub.url, **server}}}


async def calling_sessions(stub: StubServer) -> list[str]:
    """The upstream session of each tool call, in their order."""
    return [request["session"] for request in await stub.of("tools/call")]


async def count(client: Wire, headers: dict[str, str | None] | None = None) -> int:
    result = (await client.call("counter", {}, headers))["result"]
    return int(json.loads(result["content"][0]["text"])["count"]) if result["content"][0]["text"][0] == "{" else 0


async def test_a_conversation_key_in_a_header_tells_the_conversations_of_one_principal_apart(stub: StubServer) -> None:
    server = document(stub, sessions="principal", conversation_key="header:X-Chat")
    async with serving(server) as gateway, Wire(gateway.server("up")) as client, asyncio.timeout(20):
        await client.initialize()
        for chat in ("a", "b", "a", "b", "a"):
            assert "result" in await client.call("counter", {}, {"x-chat": chat})
        first, second, *rest = await calling_sessions(stub)
        assert first != second
        assert rest == [first, second, first]


async def test_a_conversation_key_in_meta_tells_them_apart_too(stub: StubServer) -> None:
    server = document(stub, sessions="principal", conversation_key="meta:com.example/chat")
    async with serving(server) as gateway, Wire(gateway.server("up")) as client, asyncio.timeout(20):
        await client.initialize()
        for chat in ("a", "b", "a"):
            params = {"name": "counter", "arguments": {}, "_meta": {"com.example/chat": chat}}
            assert "result" in await client.request("tools/call", params)
        first, second, third = await calling_sessions(stub)
        assert first == third != second


async def test_under_principal_two_conversations_of_one_caller_share_a_session(stub: StubServer) -> None:
    async with serving(document(stub, sessions="principal")) as gateway, asyncio.timeout(20):
        async with Wire(gateway.server("up")) as one, Wire(gateway.server("up")) as other:
            await one.initialize()
            await other.initialize()
            await one.call("counter")
            await other.call("counter")
        assert len(set(await calling_sessions(stub))) == 1


async def test_single_use_sessions_are_never_used_twice(stub: StubServer) -> None:
    async with serving(document(stub, sessions="single_use", spares=2)) as gateway, asyncio.timeout(20):
        async with Wire(gateway.server("up")) as client:
            await client.initialize()
            for _ in range(5):
                assert "result" in await client.call("counter")
        assert len(set(await calling_sessions(stub))) == 5


async def test_spares_are_ready_before_they_are_needed(stub: StubServer) -> None:
    async with serving(document(stub, sessions="single_use", spares=2)) as gateway, asyncio.timeout(20):
        async with Wire(gateway.server("up")) as client:
            await client.initialize()
            await client.call("counter")
            pool = gateway.gateway.pool
            await gateway.until(lambda: pool.get_metrics()["opening"] == 0 and pool.get_metrics()["idle"] >= 2)
            before = pool.get_metrics()["misses"]
            await client.call("counter")
            assert pool.get_metrics()["misses"] == before, "a spare was there"


@pytest.mark.parametrize("how", ["404", "400"])
async def test_lost_state_is_said_in_the_result_and_in_the_log(stub: StubServer, how: str) -> None:
    async with serving(document(stub)) as gateway, Wire(gateway.server("up")) as client, asyncio.timeout(20):
        await client.initialize()
        await client.call("counter")
        await stub.do(forget_sessions=how)
        reply = await client.post(client.request_message("tools/call", {"name": "counter", "arguments": {}}))
        assert reply.status == 200
        note, answer = reply.messages
        assert note["method"] == "notifications/message"
        assert "'up' lost the session" in note["params"]["data"]["message"]
        assert answer["result"]["_meta"][SESSION_META] == {"renewed": True, "upstream": "up"}
        again = await client.call("counter")
        assert SESSION_META not in again["result"].get("_meta", {}), "it is said once"


async def test_where_loss_is_to_end_the_session_the_client_gets_the_protocols_404(stub: StubServer) -> None:
    async with serving(document(stub, on_session_loss="end")) as gateway, asyncio.timeout(20):
        async with Wire(gateway.server("up")) as client:
            await client.initialize()
            await client.call("counter")
            await stub.do(forget_sessions="404")
            reply = await client.post(client.request_message("tools/call", {"name": "counter", "arguments": {}}))
            assert reply.status == 404
            assert (await client.post(client.request_message("ping"))).status == 404
            await client.initialize()
            assert "result" in await client.call("counter")


async def test_with_the_pool_off_no_state_is_expected_and_none_is_said_to_be_lost(stub: StubServer) -> None:
    off = document(stub) | {"gateway": {"session_pool": {"enabled": False}}}
    async with serving(off) as gateway, Wire(gateway.server("up")) as client, asyncio.timeout(20):
        await client.initialize()
        for _ in range(3):
            assert SESSION_META not in (await client.call("counter"))["result"].get("_meta", {})
        assert len(set(await calling_sessions(stub))) == 3


async def test_the_audit_log_says_who_called_what_with_which_outcome(stub: StubServer, tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    audited = document(stub, headers={"X-Api-Key": "planted-secret"}) | {"gateway": {"audit": {"path": str(path)}}}
    async with serving(audited) as gateway, Wire(gateway.url) as client, asyncio.timeout(20):
        await client.initialize()
        await client.call("up__echo", {"text": "private words"}, {"x-request-id": "r-1"})
        await stub.do(status=500, times=1)
        await client.call("up__echo", {"text": "private words"})
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    first, second = [line for line in lines if line["method"] == "tools/call"]
    assert first["name"] == "echo"
    assert first["upstream"] == "up"
    assert first["subject"] == "anonymous"
    assert first["outcome"] == "ok"
    assert first["request_id"] == "r-1"
    assert first["ms"] >= 0
    assert second["outcome"] == "HttpRefused"
    assert "private words" not in path.read_text()
    assert "planted-secret" not in path.read_text()
    assert path.stat().st_mode & 0o077 == 0


async def test_arguments_are_audited_only_when_asked_for(stub: StubServer, tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    audited = document(stub) | {"gateway": {"audit": {"path": str(path), "arguments": True}}}
    async with serving(audited) as gateway, Wire(gateway.url) as client, asyncio.timeout(20):
        await client.initialize()
        await client.call("up__echo", {"text": "some words"})
    recorded = [json.loads(line) for line in path.read_text().splitlines()]
    assert {"text": "some words"} in [line["params"].get("arguments") for line in recorded]
