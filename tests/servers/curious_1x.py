"""A server on the SDK's 1.x line that asks its callers: what `curious_2x.py` asks, as servers with sessions do it.

python -m tests.servers.curious_1x
"""

# mypy: ignore-errors
# It runs on an SDK that is not installed where the types are checked.

from __future__ import annotations

import collections
import json

from mcp import types
from mcp.server.fastmcp import Context, FastMCP
from mcp.shared.message import ServerMessageMetadata
from pydantic import BaseModel

from tests.servers.checked import serve


class Answer(BaseModel):
    name: str


server = FastMCP("curious-1x", log_level="WARNING")
counts: collections.Counter[str] = collections.Counter()


def told(ctx: Context, asked: str, answer: object) -> str:
    """What was asked, what was answered, and in which session."""
    return json.dumps({"asked": asked, "told": answer, "session": session_of(ctx)})


def session_of(ctx: Context) -> str:
    return ctx.request_context.request.headers["mcp-session-id"]


@server.tool(structured_output=False)
async def elicit(nonce: str, ctx: Context) -> str:
    """Ask the user for a name."""
    outcome = await ctx.elicit(nonce, Answer)
    return told(ctx, nonce, outcome.data.name if outcome.action == "accept" else outcome.action)


@server.tool(structured_output=False)
async def sample(nonce: str, ctx: Context) -> str:
    """Ask the client's model."""
    message = types.SamplingMessage(role="user", content=types.TextContent(type="text", text=nonce))
    answer = await ctx.session.create_message([message], max_tokens=20, related_request_id=ctx.request_id)
    return told(ctx, nonce, answer.content.text)


@server.tool(structured_output=False)
async def roots(nonce: str, ctx: Context) -> str:
    """Ask for the client's roots on the stream of this call."""
    answer = await ctx.session.send_request(
        types.ServerRequest(types.ListRootsRequest()),
        types.ListRootsResult,
        metadata=ServerMessageMetadata(related_request_id=ctx.request_id),
    )
    return told(ctx, nonce, str(answer.roots[0].uri))


@server.tool(structured_output=False)
async def count(ctx: Context) -> str:
    """How often this session has called this tool."""
    session = session_of(ctx)
    counts[session] += 1
    return json.dumps({"count": counts[session], "session": session})


if __name__ == "__main__":
    serve(server.streamable_http_app())
