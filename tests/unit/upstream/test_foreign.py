"""The HTTP client that somebody else's factory makes, behind our interface."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from mcpgateway import runtime
from mcpgateway.errors import BadAnswer, ConnectFailed, ConnectionLost, UpstreamError, UpstreamTimeout
from mcpgateway.services.mcp_session_pool import MCPSessionPool
from mcpgateway.upstream.exchange import MAX_BODY_BYTES
from mcpgateway.upstream.foreign import ForeignClient, ForeignResponse
from tests.fakes.peers import Ear, tool_call
from tests.fakes.scripted import EVENT_STREAM, Script, ScriptedServer, Talk, answer, once, scripted
from tests.fakes.stub_server import StubServer
from tests.fakes.until import until
from tests.servers.certificates import Authority
from tests.servers.http11 import chunk


class Factory:
    """A client factory that remembers what it made."""

    def __init__(self, **options: Any) -> None:
        self._options = options
        self.made: list[httpx.AsyncClient] = []

    def __repr__(self) -> str:
        return f"<Factory of {len(self.made)} clients>"

    def __call__(self, *args: Any, **kwargs: Any) -> httpx.AsyncClient:
        self.made.append(httpx.AsyncClient(trust_env=False, **self._options))
        return self.made[-1]


@contextlib.asynccontextmanager
async def foreign(script: Script) -> AsyncIterator[tuple[ForeignClient, ScriptedServer]]:
    async with scripted(script) as server:
        url = f"http://127.0.0.1:{server.port}/mcp"
        client = ForeignClient("up", url, Factory(follow_redirects=True))
        yield client, server
        await client.aclose()
        await until(lambda: not runtime.running_tasks())


async def send(client: ForeignClient, method: bytes = b"POST", timeout_seconds: float = 15.0) -> ForeignResponse:
    async with asyncio.timeout(20):
        return await client.send(method, b"/mcp?a=b", b"X-Of-The-Call: yes\r\nX-Empty: \r\n", b"{}", timeout_seconds)


async def test_a_request_is_what_it_should_be() -> None:
    seen = []

    async def play(talk: Talk) -> None:
        seen.append(await talk.request())
        await talk.say(answer(b'{"a":1}', b"X-Thing: Yes"))

    async with foreign(play) as (client, _):
        response = await send(client)
        assert (response.status, response.body, response.headers[b"x-thing"]) == (200, b'{"a":1}', b"Yes")
    assert (seen[0].method, seen[0].path, seen[0].body) == ("POST", "/mcp?a=b", b"{}")
    assert seen[0].headers["x-of-the-call"] == "yes"


async def test_a_compressed_answer_is_fine_for_a_client_that_asked_for_it() -> None:
    body = b'{"text":"' + b"x" * 10_000 + b'"}'
    async with foreign(once(answer(gzip.compress(body), b"Content-Encoding: gzip"))) as (client, _):
        assert (await send(client)).body == body


async def test_no_redirect_is_followed_whatever_the_client_was_told() -> None:
    async with foreign(once(answer(b"", b"Location: /elsewhere", status=b"307 Temporary Redirect"))) as (client, server):
        assert (await send(client)).status == 307
        assert server.connections == 1


BROKEN: list[tuple[list[bytes], type[UpstreamError]]] = [
    ([b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n123"], ConnectionLost),
    ([], ConnectionLost),
    ([answer(b"no gzip", b"Content-Encoding: gzip")], BadAnswer),
]


@pytest.mark.parametrize(("pieces", "kind"), BROKEN, ids=["short", "nothing", "no gzip"])
async def test_a_broken_answer_is_one_of_our_errors(pieces: list[bytes], kind: type[UpstreamError]) -> None:
    async with foreign(once(*pieces)) as (client, _):
        with pytest.raises(kind, match="'up'"):
            await send(client)


async def test_a_body_over_the_limit_is_refused_while_it_comes() -> None:
    async def play(talk: Talk) -> None:
        await talk.request()
        await talk.say(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % (MAX_BODY_BYTES * 4))
        while True:
            await talk.say(bytes(1024 * 1024))

    async with foreign(play) as (client, server):
        with pytest.raises(BadAnswer, match="larger than"):
            await send(client)
        await until(lambda: server.open_connections == 0)


async def test_nobody_listening_is_said() -> None:
    async with foreign(once()) as (client, server):
        await server.stop()
        with pytest.raises(ConnectFailed, match="'up'"):
            await send(client)


async def hanging(talk: Talk) -> None:
    await talk.request()
    await talk.gone()


async def test_silence_before_the_answer_times_out() -> None:
    async with foreign(hanging) as (client, server):
        with pytest.raises(UpstreamTimeout, match="may have run"):
            await send(client, timeout_seconds=0.05)
        await until(lambda: server.open_connections == 0)


async def test_silence_in_a_body_times_out() -> None:
    async def play(talk: Talk) -> None:
        await talk.request()
        await talk.say(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n123")
        await talk.gone()

    async with foreign(play) as (client, server):
        with pytest.raises(UpstreamTimeout):
            await send(client, timeout_seconds=0.05)
        await until(lambda: server.open_connections == 0)


async def test_p3_a_cancelled_request_leaves_no_connection() -> None:
    async with foreign(hanging) as (client, server):
        sending = asyncio.create_task(send(client))
        await until(lambda: server.connections == 1)
        sending.cancel()
        with pytest.raises(asyncio.CancelledError):
            await sending
        await until(lambda: server.open_connections == 0)


async def test_a_stream_is_read_as_it_comes_and_its_silence_can_be_allowed() -> None:
    go = asyncio.Event()

    async def play(talk: Talk) -> None:
        await talk.request()
        await talk.say(EVENT_STREAM + chunk(b"data: 1\n\n"))
        await go.wait()
        await talk.say(chunk(b"data: 2\n\n") + chunk(b""))

    async with foreign(play) as (client, _), asyncio.timeout(15):
        response = await send(client, b"GET", timeout_seconds=5)
        assert response.streaming
        response.set_timeout(float("inf"))
        assert await response.chunk() == b"data: 1\n\n"
        reading = asyncio.create_task(response.chunk())
        go.set()
        assert await reading == b"data: 2\n\n"
        assert await response.chunk() == b""
        response.close()


async def test_the_silence_allowed_can_be_changed_while_somebody_reads() -> None:
    async def play(talk: Talk) -> None:
        await talk.request()
        await talk.say(EVENT_STREAM + chunk(b"data: 1\n\n"))
        await talk.gone()

    async with foreign(play) as (client, server), asyncio.timeout(15):
        response = await send(client)
        assert await response.chunk() == b"data: 1\n\n"
        response.set_timeout(float("inf"))
        reading = asyncio.create_task(response.chunk())
        await asyncio.sleep(0)
        response.set_timeout(0.01)
        with pytest.raises(UpstreamTimeout):
            await reading
        response.close()
        await until(lambda: server.open_connections == 0)


async def test_closing_a_stream_closes_its_connection() -> None:
    async def play(talk: Talk) -> None:
        await talk.request()
        await talk.say(EVENT_STREAM + chunk(b"data: 1\n\n"))
        await talk.gone()

    async with foreign(play) as (client, server):
        response = await send(client)
        response.close()
        response.release()
        await until(lambda: server.open_connections == 0)


async def test_the_pool_uses_the_client_of_the_Factory(stub: StubServer) -> None:
    make = Factory(headers={"User-Agent": "made by a factory"})
    pool = MCPSessionPool()
    async with asyncio.timeout(20):
        for answering in ("json", "sse"):
            await stub.do(answer=answering)
            for _ in range(2):
                pooled = await pool.acquire(stub.url, {"X-Key": answering}, httpx_client_factory=make)
                ear = Ear()
                result = await pooled.session.request(tool_call("whoami", headers=b"X-Key: now\r\n", token="t"), ear)
                seen = json.loads(json.loads(result)["content"][0]["text"])
                assert (seen["user-agent"], seen["x-key"]) == ("made by a factory", "now")
                await pool.release(pooled)
        assert len(make.made) == 2
        await pool.close_all()
    assert all(client.is_closed for client in make.made)
    assert len((await stub.seen())["deletes"]) == 2
    await until(lambda: not runtime.running_tasks())


async def test_a_factory_with_an_authority_of_its_own() -> None:
    authority = Authority()
    pool = MCPSessionPool()
    async with scripted(once(), authority.serving("localhost")) as server, asyncio.timeout(15):
        url = f"https://localhost:{server.port}/mcp"
        with pytest.raises(ConnectFailed, match=r"(?i)certificate"):
            await pool.acquire(url, httpx_client_factory=Factory())
        with pytest.raises(ConnectionLost):
            await pool.acquire(url, httpx_client_factory=Factory(verify=authority.trusting()))
    await pool.close_all()
    await until(lambda: not runtime.running_tasks())


async def test_p3_an_opening_that_fails_closes_its_client() -> None:
    make = Factory()
    pool = MCPSessionPool()
    async with scripted(hanging) as server:
        url = f"http://127.0.0.1:{server.port}/mcp"
        with pytest.raises(UpstreamError):
            await pool.acquire(url, httpx_client_factory=make, timeout=0.05)
        assert [client.is_closed for client in make.made] == [True]
        await until(lambda: server.open_connections == 0)
    await pool.close_all()
    await until(lambda: not runtime.running_tasks())
