"""A client on the SDK's 2.x line, speaking the handshake revisions, in the process of the test (see steps.py)."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator
from typing import Any

import httpx2
from mcp import Client, MCPError, StdioServerParameters, types
from mcp.client.sse import sse_client
from mcp.client.stdio import stdio_client
from mcp.client.streamable_http import streamable_http_client
from pydantic import BaseModel

from tests.clients.steps import ANSWERS, Heard, Json, OnProgress, Refused, run_steps


def wire(model: BaseModel) -> Json:
    return model.model_dump(mode="json", by_alias=True, exclude_none=True)


@contextlib.contextmanager
def refusals() -> Iterator[None]:
    try:
        yield
    except MCPError as error:
        raise Refused(error.code, error.message) from error


class Session2x:
    """steps.Session on a Client of 2.x."""

    def __init__(self, client: Client) -> None:
        self._client = client
        welcome = client.session.initialize_result
        self.welcome = {} if welcome is None else wire(welcome)

    async def list_page(self, what: str, cursor: str | None) -> Json:
        client = self._client
        lists: Json = {
            "tools": client.list_tools,
            "prompts": client.list_prompts,
            "resources": client.list_resources,
            "resourceTemplates": client.list_resource_templates,
        }
        with refusals():
            return wire(await lists[what](cursor=cursor))

    async def call(self, tool: str, arguments: Json, on_progress: OnProgress) -> Json:
        with refusals():
            return wire(await self._client.call_tool(tool, arguments, progress_callback=on_progress))

    async def call_and_cancel(self, tool: str, arguments: Json, on_progress: OnProgress, when: asyncio.Event) -> None:
        call = asyncio.create_task(self.call(tool, arguments, on_progress))
        begun = asyncio.create_task(when.wait())
        await asyncio.wait([call, begun], return_when=asyncio.FIRST_COMPLETED)
        if call.done():
            begun.cancel()
            raise AssertionError(f"the call ended before it reported progress: {call.result()}")
        call.cancel()  # 2.x sends notifications/cancelled for a call that is abandoned
        await asyncio.wait([call])

    async def plain(self, step: Json) -> Json:
        with refusals():
            return wire(await self._plain(step))

    async def _plain(self, step: Json) -> BaseModel:
        match step["do"]:
            case "read":
                return await self._client.read_resource(step["uri"])
            case "prompt":
                return await self._client.get_prompt(step["name"], step.get("arguments"))
            case "complete":
                return await self._client.complete(_reference(step["ref"]), step["argument"], step.get("context"))
        # The methods for these warn that the newest revision has dropped them, so the request is made by hand.
        return await self._client.session.send_request(_dropped(step), types.EmptyResult)


def _dropped(step: Json) -> Any:
    match step["do"]:
        case "subscribe":
            return types.SubscribeRequest(params=types.SubscribeRequestParams(uri=step["uri"]))
        case "unsubscribe":
            return types.UnsubscribeRequest(params=types.UnsubscribeRequestParams(uri=step["uri"]))
        case "set_level":
            return types.SetLevelRequest(params=types.SetLevelRequestParams(level=step["level"]))
        case "ping":
            return types.PingRequest()
    raise ValueError(f"no step {step['do']!r}")


def _reference(ref: Json) -> types.PromptReference | types.ResourceTemplateReference:
    if ref["type"] == "ref/prompt":
        return types.PromptReference.model_validate(ref)
    return types.ResourceTemplateReference.model_validate(ref)


def callbacks(heard: Heard, answers: Json) -> Json:
    """The arguments with which a Client tells `heard` all it hears, and answers as the script says."""

    async def sampling(_context: object, params: types.CreateMessageRequestParams) -> types.CreateMessageResult:
        heard.question("sampling/createMessage", wire(params))
        return types.CreateMessageResult.model_validate(answers["sampling"])

    async def elicitation(_context: object, params: types.ElicitRequestParams) -> types.ElicitResult:
        heard.question("elicitation/create", wire(params))
        return types.ElicitResult.model_validate(answers["elicitation"])

    async def roots(_context: object) -> types.ListRootsResult:
        heard.question("roots/list", {})
        return types.ListRootsResult.model_validate({"roots": answers["roots"]})

    async def message(message: object) -> None:
        if isinstance(message, BaseModel) and not isinstance(message, types.ProgressNotification):
            said = wire(message)
            heard.notified(said["method"], said.get("params", {}))

    asked = {"sampling": ("sampling_callback", sampling), "elicitation": ("elicitation_callback", elicitation)}
    able: Json = {**asked, "roots": ("list_roots_callback", roots)}
    return {"message_handler": message} | {name: answer for key, (name, answer) in able.items() if answers.get(key) is not None}


@contextlib.asynccontextmanager
async def transport_of(script: Json) -> AsyncIterator[Any]:
    """What a Client takes as its server, for the script's transport."""
    match script.get("transport", "http"):
        case "http":
            # No proxy settings of the machine between a test and loopback.
            timeout = httpx2.Timeout(30, read=300)
            async with httpx2.AsyncClient(headers=script.get("headers"), trust_env=False, timeout=timeout) as client:
                yield streamable_http_client(script["url"], http_client=client)
        case "sse":
            yield sse_client(script["url"], headers=script.get("headers"))
        case "stdio":
            command, *args = script["command"]
            yield stdio_client(StdioServerParameters(command=command, args=args, env=script.get("env")))


@contextlib.asynccontextmanager
async def opened(script: Json) -> AsyncIterator[tuple[Session2x, Heard]]:
    """The script's session, for a test that goes on by itself with `run_step`."""
    heard = Heard()
    answers = ANSWERS | script.get("answers", {})
    async with transport_of(script) as server, Client(server, mode="legacy", **callbacks(heard, answers)) as client:
        yield Session2x(client), heard


async def run_script(script: Json) -> list[Json]:
    """The outcomes of a script, in a session that lives as long as it."""
    async with opened(script) as (session, heard):
        return await run_steps(session, heard, script["steps"])
