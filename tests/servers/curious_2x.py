"""A server on the SDK's 2.x line that asks its callers: what `curious_1x.py` asks, as servers without sessions do it.

    python -m tests.servers.curious_2x

The state that a caller carries between the rounds says what was asked. Answers that come with another state are refused.
"""

from __future__ import annotations

import json
from typing import Any

from mcp.server.lowlevel import Server
from mcp.shared.exceptions import MCPError

from tests.servers.checked import serve

Json = dict[str, Any]
NAME = {"type": "object", "properties": {"name": {"type": "string"}}, "required": ["name"]}
NONCE = {"type": "object", "properties": {"nonce": {"type": "string"}}}
TOOLS = [{"name": name, "inputSchema": NONCE} for name in ("elicit", "sample", "roots", "count")]
DONE = {"resultType": "complete"}

calls = 0


def question(tool: str, nonce: str) -> Json:
    match tool:
        case "elicit":
            return {"method": "elicitation/create", "params": {"mode": "form", "message": nonce, "requestedSchema": NAME}}
        case "sample":
            messages = [{"role": "user", "content": {"type": "text", "text": nonce}}]
            return {"method": "sampling/createMessage", "params": {"messages": messages, "maxTokens": 20}}
        case "roots":
            return {"method": "roots/list"}
    raise MCPError(-32602, f"no tool {tool}")


def said(tool: str, answer: Json) -> object:
    """What an answer comes to."""
    if tool == "elicit":
        return answer["content"]["name"] if answer["action"] == "accept" else answer["action"]
    return answer["content"]["text"] if tool == "sample" else answer["roots"][0]["uri"]


async def on_list_tools(ctx: Any, params: Any) -> Any:
    return {**DONE, "tools": TOOLS, "ttlMs": 60_000, "cacheScope": "private"}


async def on_call_tool(ctx: Any, params: Any) -> Any:
    global calls
    if params.name == "count":
        calls += 1
        return text({"count": calls, "session": None})
    nonce = params.arguments["nonce"]
    if params.input_responses is None:
        asked = {f"about {nonce}": question(params.name, nonce)}
        return {"resultType": "input_required", "inputRequests": asked, "requestState": state_of(params)}
    if params.request_state != state_of(params):
        raise MCPError(-32602, f"the state of {nonce} is {params.request_state}")
    answer = json.loads(params.input_responses[f"about {nonce}"].model_dump_json(by_alias=True))
    return text({"asked": nonce, "told": said(params.name, answer), "session": None})


def state_of(params: Any) -> str:
    return f"{params.name} {params.arguments['nonce']}"


def text(content: Json) -> Json:
    return {**DONE, "content": [{"type": "text", "text": json.dumps(content)}]}


if __name__ == "__main__":
    server: Server[Any] = Server("curious-2x", version="1", on_list_tools=on_list_tools, on_call_tool=on_call_tool)
    serve(server.streamable_http_app(), only="2026-07-28")
