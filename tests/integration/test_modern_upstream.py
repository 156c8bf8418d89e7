"""Legacy clients at a server that refuses handshakes: everything that the two can say to each other gets through."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import pytest

from tests.clients.wire import Message, Wire
from tests.fakes.gateway import serving
from tests.fakes.process import Server
from tests.fakes.programs import modern_2x_command

CAPABILITIES: Message = {"elicitation": {"form": {}, "url": {}}, "sampling": {}, "roots": {}}


@pytest.fixture(scope="module")
def modern() -> Iterator[Server]:
    with Server(modern_2x_command("modern")) as server:
        yield server


def document(server: Server) -> dict[str, Any]:
    return {"mcpServers": {"up": {"url": server.url}}}


def said(result: Message) -> Any:
    return result["result"]["content"][0]["text"]


async def asking(client: Wire, params: Message, answer: Message) -> tuple[list[Message], Message]:
    """What a tool call asks its client, each question answered alike, and the response."""
    questions = []
    async with client.exchange(client.request_message("tools/call", params)) as messages:
        async for message in messages:
            if "method" in message and "id" in message:
                questions.append(message)
                await client.post({"jsonrpc": "2.0", "id": message["id"], "result": answer})
            elif "id" in message:
                return questions, message
    raise AssertionError("the stream ended without the response")


async def test_a_handshake_is_answered_with_what_the_server_says_of_itself(modern: Server) -> None:
    async with serving(document(modern)) as gateway, Wire(gateway.server("up")) as client, asyncio.timeout(20):
        reply = await client.initialize()
        result = reply.message["result"]
        assert result["protocolVersion"] == "2025-11-25"
        assert result["serverInfo"]["name"] == "modern-2x"
        assert result["instructions"] == "Be brief."
        assert "tools" in result["capabilities"]
        names = [tool["name"] for tool in (await client.request("tools/list"))["result"]["tools"]]
        assert "echo" in names and "broken" not in names
        assert json.loads(said(await client.call("echo", {"a": 1}))) == {"a": 1}
        assert (await client.request("ping"))["result"] == {}


async def test_c5_fifty_questions_at_once_reach_those_who_made_the_calls(modern: Server) -> None:
    async def one(url: str, number: int) -> None:
        async with Wire(url) as client:
            await client.initialize(CAPABILITIES)
            answer = {"action": "accept", "content": {"name": f"ada-{number}"}}
            questions, response = await asking(client, {"name": "ask", "arguments": {}}, answer)
            assert [question["method"] for question in questions] == ["elicitation/create"]
            assert json.loads(said(response)) == {"answers": {"name": answer}, "exact": True}

    async with serving(document(modern)) as gateway, asyncio.timeout(30):
        await asyncio.gather(*(one(gateway.server("up"), number) for number in range(50)))


@pytest.mark.parametrize(
    ("kind", "method", "answer"),
    [
        ("name", "elicitation/create", {"action": "decline"}),
        ("visit", "elicitation/create", {"action": "accept"}),
        ("poem", "sampling/createMessage", {"role": "assistant", "model": "m", "content": {"type": "text", "text": "x"}}),
        ("roots", "roots/list", {"roots": [{"uri": "file:///a"}]}),
    ],
)
async def test_questions_of_each_kind_are_asked_on_the_stream_of_the_call(
    kind: str, method: str, answer: Message, modern: Server
) -> None:
    async with serving(document(modern)) as gateway, Wire(gateway.server("up")) as client, asyncio.timeout(20):
        await client.initialize(CAPABILITIES)
        questions, response = await asking(client, {"name": "ask", "arguments": {"questions": [kind]}}, answer)
        assert [question["method"] for question in questions] == [method]
        assert json.loads(said(response))["answers"] == {kind: answer}


async def test_a_client_that_cannot_be_asked_gets_an_error_that_names_the_server(modern: Server) -> None:
    async with serving(document(modern)) as gateway, Wire(gateway.server("up")) as client, asyncio.timeout(20):
        await client.initialize({})
        response = await client.call("ask")
        assert "'up'" in response["error"]["message"]


async def test_progress_and_log_messages_come_on_the_stream_of_the_call(modern: Server) -> None:
    async with serving(document(modern)) as gateway, Wire(gateway.server("up")) as client, asyncio.timeout(20):
        await client.initialize()
        params = {"name": "work", "arguments": {}, "_meta": {"progressToken": "t"}}
        reply = await client.post(client.request_message("tools/call", params))
        progress = [message["params"] for message in reply.messages[:-1]]
        assert [(step["progressToken"], step["progress"]) for step in progress] == [("t", 0), ("t", 1), ("t", 2)]
        for level, count in ((None, 0), ("debug", 2), ("warning", 1)):
            if level is not None:
                assert (await client.request("logging/setLevel", {"level": level}))["result"] == {}
            reply = await client.post(client.request_message("tools/call", {"name": "log", "arguments": {}}))
            assert len(reply.messages) == count + 1


async def test_c1_a_cancelled_call_ends_in_the_server(modern: Server) -> None:
    async with serving(document(modern)) as gateway, Wire(gateway.server("up")) as client, asyncio.timeout(20):
        await client.initialize()
        params = {"name": "hang", "arguments": {"who": "legacy"}, "_meta": {"progressToken": 1}}
        request = client.request_message("tools/call", params)
        async with client.exchange(request) as messages:
            assert (await anext(messages))["method"] == "notifications/progress"
            await client.notify("notifications/cancelled", {"requestId": request["id"]})
            while "legacy" not in json.loads(said(await client.call("seen")))["cancelled"]:
                pass  # asking again takes a round trip


async def test_c5_updates_reach_those_who_subscribed(modern: Server) -> None:
    async with serving(document(modern)) as gateway, asyncio.timeout(20):
        async with Wire(gateway.server("up")) as one, Wire(gateway.server("up")) as other:
            for client, uri in ((one, "demo://one"), (other, "demo://other")):
                await client.initialize()
                assert (await client.request("resources/subscribe", {"uri": uri}))["result"] == {}
            async with one.listen() as first, other.listen() as second:
                await one.call("publish", {"uri": "demo://other"})
                await other.call("publish", {"uri": "demo://one"})
                for messages, uri in ((first, "demo://one"), (second, "demo://other")):
                    message = await anext(messages)
                    assert (message["method"], message["params"]) == ("notifications/resources/updated", {"uri": uri})


async def test_c6_a_changed_list_is_announced(modern: Server) -> None:
    async with serving(document(modern)) as gateway, Wire(gateway.server("up")) as client, asyncio.timeout(20):
        await client.initialize()
        await client.call("echo")
        async with client.listen() as messages:
            await client.call("publish", {"lists": True})
            announced = {(await anext(messages))["method"] for _ in range(2)}
            assert announced == {"notifications/tools/list_changed", "notifications/resources/list_changed"}


async def test_after_the_first_calls_a_call_is_one_request_upstream(modern: Server) -> None:
    async with serving(document(modern)) as gateway, Wire(gateway.server("up")) as client, asyncio.timeout(20):
        await client.initialize()
        before = len(json.loads(said(await client.call("seen")))["requests"])
        for _ in range(5):
            await client.call("located", {"region": "eu"})
        after = json.loads(said(await client.call("seen")))["requests"][before:]
        assert [request["headers"].get("mcp-name") for request in after] == ["located"] * 5 + ["seen"]
