"""The client that the suite's client mode runs: python -m tests.conformance.client [--through] URL

It looks at everything that a server offers, calls every tool, answers what it is asked, and is done. With `--through` it
meets the server through a gateway, which it starts for that.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import sys
import tempfile
import warnings
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx2
from mcp import Client, MCPError, types
from mcp.client.streamable_http import streamable_http_client
from mcp.shared.exceptions import MCPDeprecationWarning
from pydantic import ValidationError

from tests.conformance import processes

Json = dict[str, Any]
EXAMPLES: Json = {"string": "some text", "number": 2, "integer": 2, "boolean": True, "array": [], "object": {}}
FIRST_MODERN = "2026-07-28"
PER_CALL_SECONDS = 15.0


def example(schema: Json) -> Any:
    """A value that a schema's author would accept: the default, or any of its type."""
    return schema["default"] if "default" in schema else EXAMPLES.get(schema.get("type", ""), "some text")


async def accept(_context: object, params: types.ElicitRequestParams) -> types.ElicitResult:
    """Answer a question with its defaults."""
    fields = getattr(params, "requested_schema", {}).get("properties", {})
    return types.ElicitResult(action="accept", content={name: example(schema) for name, schema in fields.items()})


async def sample(_context: object, _params: types.CreateMessageRequestParams) -> types.CreateMessageResult:
    """Say something, as a model would."""
    return types.CreateMessageResult(
        role="assistant", model="test-model", content=types.TextContent(type="text", text="something")
    )


async def roots(_context: object) -> types.ListRootsResult:
    """Name one folder."""
    return types.ListRootsResult.model_validate({"roots": [{"uri": "file:///srv/project", "name": "project"}]})


@contextlib.contextmanager
def not_fatal(what: str) -> Any:
    """One answer that cannot be used does not end the visit."""
    try:
        yield
    except (MCPError, ValidationError, TimeoutError, RuntimeError) as error:
        print(f"{what}: {error!r}"[:1000])


def calls_for(tools: list[types.Tool]) -> list[tuple[str, Json]]:
    """Which tools to call with what: as the scenario says, else every one."""
    context = json.loads(os.environ.get("MCP_CONFORMANCE_CONTEXT") or "{}")
    if "toolCalls" in context:
        return [(call["name"], call["arguments"]) for call in context["toolCalls"]]
    return [(tool.name, _arguments(tool, tools)) for tool in tools]


def _arguments(tool: types.Tool, tools: list[types.Tool]) -> Json:
    properties = tool.input_schema.get("properties", {})
    if "schema" in properties:  # it wants back what the client was told of another tool
        return {"schema": next(other.input_schema for other in tools if other is not tool)}
    return {name: example(schema) for name, schema in properties.items()}


async def visit(client: Client) -> None:
    """Use all that there is."""
    declared = client.server_capabilities
    with not_fatal("tools/list"):
        tools = (await client.list_tools()).tools
        for name, arguments in calls_for(tools):
            with not_fatal(name):
                await client.call_tool(name, arguments, read_timeout_seconds=PER_CALL_SECONDS)
    if declared.resources is not None:
        with not_fatal("resources"):
            for resource in (await client.list_resources()).resources:
                await client.read_resource(resource.uri)
    if declared.prompts is not None:
        with not_fatal("prompts"):
            for prompt in (await client.list_prompts()).prompts:
                await client.get_prompt(prompt.name)


@contextlib.asynccontextmanager
async def reached(url: str, through: bool) -> AsyncIterator[str]:
    """The URL to talk to: the server's own, or that of a gateway before it."""
    if not through:
        yield url
        return
    with tempfile.TemporaryDirectory() as folder:
        async with processes.gateway(url, Path(folder)) as before:
            yield before


async def main(url: str, through: bool) -> None:
    """Visit one server."""
    version = os.environ.get("MCP_CONFORMANCE_PROTOCOL_VERSION", FIRST_MODERN)
    answers: Json = {"elicitation_callback": accept, "sampling_callback": sample, "list_roots_callback": roots}
    # No proxy settings of the machine between this and loopback.
    async with reached(url, through) as where, httpx2.AsyncClient(trust_env=False, timeout=PER_CALL_SECONDS) as http:
        transport = streamable_http_client(where, http_client=http)
        async with Client(transport, mode="auto" if version >= FIRST_MODERN else "legacy", **answers) as client:
            await visit(client)


if __name__ == "__main__":
    warnings.simplefilter("ignore", MCPDeprecationWarning)
    asyncio.run(main(sys.argv[-1], "--through" in sys.argv))
