"""What clients say, as JSON-RPC messages that are not yet sent, and what stands in the answers."""

from __future__ import annotations

from typing import Any

from tests.clients.wire import Message


def request(method: str, id: object = 1, **params: Any) -> Message:
    return {"jsonrpc": "2.0", "id": id, "method": method, "params": params}


def tool(name: str, id: object = 1, **arguments: Any) -> Message:
    """A call of a tool."""
    return request("tools/call", id, name=name, arguments=arguments)


def text_of(response: Message) -> str:
    """What a tool said. AssertionError where the call failed."""
    assert "result" in response, response
    return str(response["result"]["content"][0]["text"])
