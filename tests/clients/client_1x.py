"""A client on the SDK's 1.x line, as a program: scripts in, outcomes out (see steps.py for the language).

    python -m tests.clients.client_1x

Each line on stdin is {"id", "script"}; each line on stdout {"id", "outcomes"} or {"id", "failed": text}. Scripts run
concurrently, each in a session of its own. The program ends with its stdin.
"""

# mypy: ignore-errors
# It runs on an SDK that is not installed where the types are checked.

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
import traceback
from collections.abc import AsyncIterator

import httpx
from mcp import ClientSession, McpError, StdioServerParameters, stdio_client, types
from mcp.client.sse import sse_client
from mcp.client.streamable_http import streamable_http_client
from pydantic import AnyUrl, BaseModel

from tests.clients.steps import ANSWERS, Heard, Json, OnProgress, Refused, run_steps

LISTS = {
    "tools": ClientSession.list_tools,
    "prompts": ClientSession.list_prompts,
    "resources": ClientSession.list_resources,
    "resourceTemplates": ClientSession.list_resource_templates,
}


def wire(model: BaseModel) -> Json:
    return model.model_dump(mode="json", by_alias=True, exclude_none=True)


@contextlib.contextmanager
def refusals():
    try:
        yield
    except McpError as error:
        raise Refused(error.error.code, error.error.message) from error


class Session1x:
    """steps.Session on a ClientSession of 1.x."""

    def __init__(self, session: ClientSession, welcome: types.InitializeResult) -> None:
        self._session = session
        self.welcome = wire(welcome)

    async def list_page(self, what: str, cursor: str | None) -> Json:
        with refusals():
            return wire(await LISTS[what](self._session, params=types.PaginatedRequestParams(cursor=cursor)))

    async def call(self, tool: str, arguments: Json, on_progress: OnProgress) -> Json:
        with refusals():
            return wire(await self._session.call_tool(tool, arguments, progress_callback=on_progress))

    async def call_and_cancel(self, tool: str, arguments: Json, on_progress: OnProgress, when: asyncio.Event) -> None:
        id = self._session._request_id  # 1.x tells nobody under which id it sends, nor cancels by itself
        call = asyncio.create_task(self.call(tool, arguments, on_progress))
        begun = asyncio.create_task(when.wait())
        await asyncio.wait([call, begun], return_when=asyncio.FIRST_COMPLETED)
        if call.done():
            begun.cancel()
            raise AssertionError(f"the call ended before it reported progress: {call.result()}")
        params = types.CancelledNotificationParams(requestId=id, reason="the test says so")
        await self._session.send_notification(types.ClientNotification(types.CancelledNotification(params=params)))
        call.cancel()
        await asyncio.wait([call])

    async def plain(self, step: Json) -> Json:
        with refusals():
            return wire(await self._plain(step))

    async def _plain(self, step: Json) -> BaseModel:
        session = self._session
        match step["do"]:
            case "read":
                return await session.read_resource(AnyUrl(step["uri"]))
            case "subscribe":
                return await session.subscribe_resource(AnyUrl(step["uri"]))
            case "unsubscribe":
                return await session.unsubscribe_resource(AnyUrl(step["uri"]))
            case "prompt":
                return await session.get_prompt(step["name"], step.get("arguments"))
            case "complete":
                kind = types.PromptReference if step["ref"]["type"] == "ref/prompt" else types.ResourceTemplateReference
                return await session.complete(kind(**step["ref"]), step["argument"], step.get("context"))
            case "set_level":
                return await session.set_logging_level(step["level"])
            case "ping":
                return await session.send_ping()
        raise ValueError(f"no step {step['do']!r}")


def callbacks(heard: Heard, answers: Json) -> Json:
    """The arguments with which a ClientSession tells `heard` all it hears, and answers as the script says."""

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
        if isinstance(message, types.ServerNotification) and not isinstance(message.root, types.ProgressNotification):
            said = wire(message.root)
            heard.notified(said["method"], said.get("params", {}))

    asked = {"sampling_callback": sampling, "elicitation_callback": elicitation, "list_roots_callback": roots}
    able = {"sampling": "sampling_callback", "elicitation": "elicitation_callback", "roots": "list_roots_callback"}
    return {"message_handler": message} | {able[key]: asked[able[key]] for key in able if answers.get(key) is not None}


@contextlib.asynccontextmanager
async def streams_of(script: Json) -> AsyncIterator[tuple]:
    """The read and write stream of the script's transport."""
    match script.get("transport", "http"):
        case "http":
            # No proxy settings of the machine between a test and loopback.
            timeout = httpx.Timeout(30, read=300)
            client = httpx.AsyncClient(headers=script.get("headers"), trust_env=False, timeout=timeout)
            async with client, streamable_http_client(script["url"], http_client=client) as (read, write, _):
                yield read, write
        case "sse":
            async with sse_client(script["url"], headers=script.get("headers")) as (read, write):
                yield read, write
        case "stdio":
            command, *args = script["command"]
            async with stdio_client(StdioServerParameters(command=command, args=args, env=script.get("env"))) as streams:
                yield streams


async def run_script(script: Json) -> list[Json]:
    """The outcomes of a script, in a session that lives as long as it."""
    outcomes: list[Json] = []
    try:
        await play(script, outcomes)
    except BaseExceptionGroup:
        # The 1.x stdio transport breaks where the server speaks while it is being closed. That concerns no outcome.
        if not outcomes:
            raise
    return outcomes


async def play(script: Json, outcomes: list[Json]) -> None:
    """Add the outcomes of a script once it has come to its end, before its session is closed."""
    heard = Heard()
    answers = ANSWERS | script.get("answers", {})
    async with streams_of(script) as (read, write), ClientSession(read, write, **callbacks(heard, answers)) as session:
        with refusals():
            welcome = await session.initialize()
        outcomes += await run_steps(Session1x(session, welcome), heard, script["steps"])


async def answer(line: str) -> None:
    order = json.loads(line)
    try:
        outcome = {"outcomes": await run_script(order["script"])}
    except BaseException:  # the SDK wraps failures in groups of any kind; the test that asked is told the whole story
        outcome = {"failed": traceback.format_exc()}
    print(json.dumps({"id": order["id"], **outcome}), flush=True)


async def main() -> None:
    loop = asyncio.get_running_loop()
    print(json.dumps({"ready": True}), flush=True)
    running: set[asyncio.Task] = set()
    while line := await loop.run_in_executor(None, sys.stdin.readline):
        task = asyncio.create_task(answer(line))
        running.add(task)
        task.add_done_callback(running.discard)


if __name__ == "__main__":
    asyncio.run(main())
