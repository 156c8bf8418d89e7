"""The SDK's own client in its modern modes, through the gateway, with legacy servers that ask, report and announce."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import httpx2
import pytest
from mcp import Client, types
from mcp.client.streamable_http import streamable_http_client

from tests.fakes.gateway import one, serving
from tests.fakes.process import Server

MODES = ("auto", "2026-07-28")
SAMPLED = {"role": "assistant", "model": "test-model", "content": {"type": "text", "text": "sampled"}}


class Person:
    """Answers what servers ask, and writes down what they say."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.logged: list[Any] = []
        self.progress: list[float] = []

    async def elicited(self, _context: object, params: types.ElicitRequestParams) -> types.ElicitResult:
        self.asked.append(params.message)
        return types.ElicitResult(action="accept", content={"name": "Ada"})

    async def sampled(self, _context: object, params: types.CreateMessageRequestParams) -> types.CreateMessageResult:
        self.asked.append("sampling")
        return types.CreateMessageResult.model_validate(SAMPLED)

    async def rooted(self, _context: object) -> types.ListRootsResult:
        self.asked.append("roots")
        return types.ListRootsResult.model_validate({"roots": [{"uri": "file:///srv/ada", "name": "ada"}]})

    async def told(self, params: types.LoggingMessageNotificationParams) -> None:
        self.logged.append(params.data)

    async def advanced(self, progress: float, total: float | None, message: str | None) -> None:
        self.progress.append(progress)


@contextlib.asynccontextmanager
async def client_of(url: str, mode: str, person: Person | None = None, **more: Any) -> AsyncIterator[Client]:
    """A client that can be asked everything where there is a person to ask."""
    able: dict[str, Any] = {}
    if person is not None:
        able = {
            "elicitation_callback": person.elicited,
            "sampling_callback": person.sampled,
            "list_roots_callback": person.rooted,
            "logging_callback": person.told,
        }
    async with httpx2.AsyncClient(trust_env=False, timeout=httpx2.Timeout(20, read=60)) as http:
        async with Client(streamable_http_client(url, http_client=http), mode=mode, **able, **more) as client:
            assert client.protocol_version == "2026-07-28"
            yield client


def text_of(result: types.CallToolResult) -> str:
    content = result.content[0]
    assert isinstance(content, types.TextContent)
    return content.text


@pytest.mark.parametrize("mode", MODES)
async def test_c5_what_a_legacy_server_asks_the_client_answers(mode: str, stateful_1x: Server) -> None:
    person = Person()
    async with serving(one(stateful_1x.url)) as gateway, client_of(gateway.url, mode, person) as client, asyncio.timeout(20):
        assert text_of(await client.call_tool("up__elicit", {"question": "who?"})) == "accept Ada"
        assert text_of(await client.call_tool("up__sample", {"prompt": "?"})) == "test-model: sampled"
        assert text_of(await client.call_tool("up__roots", {})) == "file:///srv/ada"
        assert person.asked == ["who?", "sampling", "roots"]


async def test_a_client_that_can_answer_nothing_is_asked_nothing(stateful_1x: Server) -> None:
    async with serving(one(stateful_1x.url)) as gateway, client_of(gateway.server("up"), "auto") as client, asyncio.timeout(20):
        result = await client.call_tool("elicit", {"question": "who?"})
        assert result.is_error and text_of(await client.call_tool("echo", {"text": "alive"})) == "alive"


async def test_state_goes_on_from_call_to_call(stateful_1x: Server) -> None:
    async with serving(one(stateful_1x.url)) as gateway, client_of(gateway.server("up"), "auto") as client, asyncio.timeout(20):
        counted = [(await client.call_tool("counter", {})).structured_content for _ in range(3)]
        assert [each and each["count"] for each in counted] == [1, 2, 3]


async def test_progress_and_log_messages_come_with_their_call(stateful_1x: Server) -> None:
    person = Person()
    async with serving(one(stateful_1x.url)) as gateway, asyncio.timeout(20):
        async with client_of(gateway.server("up"), "auto", person, log_level="info") as client:
            await client.call_tool("progress", {"n": 3}, progress_callback=person.advanced)
            await client.call_tool("log", {"text": "hello"})
            assert person.progress == [1.0, 2.0, 3.0] and person.logged == ["hello"]
            assert text_of(await client.call_tool("level", {})) == "info"
        silent = Person()
        async with client_of(gateway.server("up"), "auto", silent) as client:
            await client.call_tool("log", {"text": "hello"})
            assert silent.logged == []


@pytest.mark.parametrize("mode", MODES)
async def test_everything_else_that_a_server_offers_is_there(mode: str, stateful_1x: Server) -> None:
    async with serving(one(stateful_1x.url)) as gateway, client_of(gateway.url, mode) as client, asyncio.timeout(20):
        assert {"up__echo", "up__image"} <= {each.name for each in (await client.list_tools()).tools}
        assert (await client.get_prompt("up__painted", {"colour": "red"})).messages
        read = (await client.read_resource("demo://text")).contents[0]
        assert isinstance(read, types.TextResourceContents) and read.text == "some text"
        prompt = types.PromptReference(type="ref/prompt", name="up__painted")
        completed = await client.complete(prompt, {"name": "colour", "value": "b"})
        assert completed.completion.values == ["blue", "black"]


async def test_the_sdks_listen_hears_of_a_resource(stateful_1x: Server) -> None:
    async with serving(one(stateful_1x.url)) as gateway, client_of(gateway.server("up"), "auto") as client, asyncio.timeout(20):
        async with client.listen(resource_subscriptions=["demo://touchable"]) as heard:
            news = asyncio.create_task(anext(aiter(heard)))  # type: ignore[arg-type]
            while not news.done():
                await client.call_tool("touch", {})
            assert "touchable" in repr(news.result())


async def test_npms_server_asks_modern_clients_too(everything_http: Server) -> None:
    person = Person()
    async with serving(one(everything_http.url)) as gateway, client_of(gateway.server("up"), "auto", person) as client:
        async with asyncio.timeout(20):
            assert text_of(await client.call_tool("echo", {"message": "hi"})) == "Echo: hi"
            sampled = await client.call_tool("trigger-sampling-request", {"prompt": "?", "maxTokens": 5})
            assert "sampled" in text_of(sampled)
            await client.call_tool("trigger-elicitation-request", {})
            assert len(person.asked) == 2
