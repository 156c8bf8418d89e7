"""An event stream that ends in order, but without the answer: the answer may still come on its connection."""

from __future__ import annotations

import pytest

from mcpgateway.errors import ConnectionLost
from mcpgateway.upstream.base import Hello, Target
from mcpgateway.upstream.streamable_http import open_streamable_http
from tests.fakes.http import FakeHttp, FakeResponse, Sent
from tests.fakes.peers import Ear, tool_call


class Keeping(FakeHttp):
    """Counts how often what is connected is to be used no more."""

    distrusted = 0

    def distrust(self) -> None:
        self.distrusted += 1


def streaming(*messages: object) -> Keeping:
    """A server that says this in answer to a call, each message with the call's id, and ends the stream."""

    def answer(sent: Sent) -> FakeResponse | None:
        if sent.rpc != "tools/call":
            return None
        response = FakeResponse(200, streaming=True)
        for message in messages:
            response.say({"jsonrpc": "2.0", "id": sent.message["id"], "result": message})
        response.end()
        return response

    return Keeping(answer)


async def test_the_connection_of_a_stream_that_ended_without_its_answer_is_not_used_again() -> None:
    http = streaming()
    session = await open_streamable_http(Target(name="up", url="http://up.test/mcp"), http, Hello(), b"")
    with pytest.raises(ConnectionLost, match="before its answer"):
        await session.request(tool_call("echo"), Ear())
    assert http.distrusted == 1


async def test_that_of_a_stream_with_its_answer_is() -> None:
    http = streaming({"content": []})
    session = await open_streamable_http(Target(name="up", url="http://up.test/mcp"), http, Hello(), b"")
    await session.request(tool_call("echo"), Ear())
    assert http.distrusted == 0
