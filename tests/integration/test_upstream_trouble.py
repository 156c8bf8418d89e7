"""Upstreams that die, hang, refuse or talk nonsense: the caller has a clear error soon, and nobody else notices."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable
from typing import Any

import httpx
import pytest

from mcpgateway import runtime
from mcpgateway.services.upstream import State
from tests.clients.wire import Message, Wire
from tests.fakes.gateway import RunningGateway, serving
from tests.fakes.mcp_script import McpScript, json_of, playing
from tests.fakes.process import Server
from tests.fakes.scripted import EVENT_STREAM, Talk, answer
from tests.fakes.stub_server import StubServer
from tests.fakes.until import until
from tests.servers.http11 import Request, chunk

FORM = pytest.mark.parametrize("form", ["json", "sse"])
AT_ONCE = 10.0
"""Seconds: far below the minute for which the tools and time-outs of these tests would last, and enough for any machine."""


def document(url: str, **more: Any) -> Message:
    return {"mcpServers": {"up": {"url": url, **more}}}


@contextlib.asynccontextmanager
async def client_of(gateway: RunningGateway, name: str = "up", **headers: str) -> AsyncIterator[Wire]:
    async with Wire(gateway.server(name), headers) as client, asyncio.timeout(30):
        await client.initialize()
        yield client


def error_of(response: Message) -> str:
    """The text of an error. A result is shown whole."""
    assert "error" in response, response
    return str(response["error"]["message"])


@FORM
async def test_u4_an_upstream_killed_in_the_middle_of_a_call_is_an_error_at_once(form: str, stub: StubServer) -> None:
    await stub.do(answer=form)
    async with serving(document(stub.url)) as gateway, client_of(gateway) as client:
        calling = asyncio.create_task(client.call("slow", {"ms": 60_000}))
        await stub.until_running()
        await asyncio.to_thread(stub.kill)
        async with asyncio.timeout(AT_ONCE):
            assert "'up'" in error_of(await calling)


async def test_u4_a_real_server_killed_in_the_middle_of_a_call_is_an_error_at_once(own_stateful_1x: Server) -> None:
    async with serving(document(own_stateful_1x.url)) as gateway, client_of(gateway) as client:
        params = {"name": "wait", "arguments": {"token": "k"}, "_meta": {"progressToken": "t"}}
        call = client.request_message("tools/call", params)
        async with client.exchange(call) as messages:
            assert (await anext(messages))["method"] == "notifications/progress"
            await asyncio.to_thread(own_stateful_1x.kill)
            async with asyncio.timeout(AT_ONCE):
                assert "'up'" in error_of(await anext(messages))


async def test_u4_a_stream_that_breaks_in_the_middle_is_an_error_at_once() -> None:
    async def take(talk: Talk, request: Request, message: Message) -> None:
        await talk.say(EVENT_STREAM + chunk(b": working\n\n"))
        talk.reset()

    async with playing() as upstream, serving(document(upstream.url)) as gateway, client_of(gateway) as client:
        upstream.take = take
        async with asyncio.timeout(AT_ONCE):
            text = error_of(await client.call("once"))
        assert "'up'" in text and "broke" in text


@FORM
async def test_a_hanging_upstream_is_a_timeout_the_server_is_told_and_the_session_kept(form: str, stub: StubServer) -> None:
    await stub.do(answer=form)
    async with serving(document(stub.url, timeout_seconds=1)) as gateway, client_of(gateway) as client:
        before = json.loads((await client.call("counter"))["result"]["content"][0]["text"])
        await stub.do(hang=True)
        text = error_of(await client.call("counter"))
        assert "'up'" in text and "no sign of life" in text
        seen = await told_of_cancelling(stub)
        (call,) = [each for each in seen["requests"] if each["rpc"] == "tools/call"][1:]
        (told,) = [each for each in seen["requests"] if each["rpc"] == "notifications/cancelled"]
        assert told["message"]["params"]["requestId"] == call["message"]["id"]
        assert told["session"] == call["session"] == before["session"]
        await stub.do(hang=False)
        after = json.loads((await client.call("counter"))["result"]["content"][0]["text"])
        assert after == {"count": 2, "session": before["session"]}


async def told_of_cancelling(stub: StubServer) -> Message:
    """What the stub has seen, once it has seen that a call was cancelled."""
    async with asyncio.timeout(10):
        while True:  # asking again takes a round trip
            seen = await stub.seen()
            if "notifications/cancelled" in [each["rpc"] for each in seen["requests"]]:
                return seen


async def test_c1_a_client_that_cancels_cancels_upstream_and_keeps_the_session(stub: StubServer) -> None:
    async with serving(document(stub.url)) as gateway, client_of(gateway) as client:
        call = client.request_message("tools/call", {"name": "slow", "arguments": {"ms": 60_000}})
        calling = asyncio.create_task(client.post(call))
        await stub.until_running()
        await client.notify("notifications/cancelled", {"requestId": call["id"]})
        async with asyncio.timeout(AT_ONCE):
            await calling
        seen = await told_of_cancelling(stub)
        (sent,) = [each for each in seen["requests"] if each["rpc"] == "tools/call"]
        (told,) = [each for each in seen["requests"] if each["rpc"] == "notifications/cancelled"]
        assert told["message"]["params"]["requestId"] == sent["message"]["id"]
        result = json.loads((await client.call("counter"))["result"]["content"][0]["text"])
        assert result["session"] == sent["session"]


async def test_u5_an_upstream_that_hangs_holds_up_no_list_of_the_others(stubs: Callable[[], StubServer]) -> None:
    good, bad = stubs(), stubs()
    await bad.do(hang=True)
    servers = {"good": {"url": good.url}, "bad": {"url": bad.url, "timeout_seconds": 300}}
    async with serving({"mcpServers": servers}, settled=False) as gateway:
        await gateway.until_state("good", State.READY)
        async with Wire(gateway.url) as client, asyncio.timeout(AT_ONCE):
            await client.initialize()
            names = [tool["name"] for tool in (await client.request("tools/list"))["result"]["tools"]]
            assert names and all(name.startswith("good__") for name in names)
            assert "result" in await client.call("good__counter")


async def test_u5_an_upstream_that_comes_late_joins(stubs: Callable[[], StubServer]) -> None:
    good, late = stubs(), stubs()
    await asyncio.to_thread(late.kill)
    servers = {"good": {"url": good.url}, "late": {"url": late.url}}
    async with serving({"mcpServers": servers}) as gateway, Wire(gateway.url) as client, asyncio.timeout(30):
        await client.initialize()
        assert gateway.gateway.upstreams["late"].state is State.UNREACHABLE
        async with client.listen() as messages:
            await asyncio.to_thread(late.start)
            while (await anext(messages))["method"] != "notifications/tools/list_changed":
                pass
        names = [tool["name"] for tool in (await client.request("tools/list"))["result"]["tools"]]
        assert {"good__echo", "late__echo"} <= set(names)


@FORM
@pytest.mark.parametrize("status", [500, 502, 503, 429])
async def test_a_passing_refusal_is_one_error_and_the_next_call_is_fine(status: int, form: str, stub: StubServer) -> None:
    await stub.do(answer=form)
    async with serving(document(stub.url)) as gateway, client_of(gateway) as client:
        await client.call("counter")
        await stub.do(status=status, times=1, body="<html>trouble</html>", headers={"content-type": "text/html"})
        text = error_of(await client.call("counter"))
        assert "'up'" in text and str(status) in text
        assert json.loads((await client.call("counter"))["result"]["content"][0]["text"])["count"] == 2


NONSENSE = {
    "html": ("<html></html>", "text/html"),
    "null": ("null", "application/json"),
    "array": ("[]", "application/json"),
    "empty": ("", "application/json"),
    "cut": ('{"jsonrpc":"2.0","id":1,"resu', "application/json"),
}


@pytest.mark.parametrize("kind", NONSENSE)
async def test_u9_nonsense_with_a_good_status_is_a_clear_error(kind: str, stub: StubServer) -> None:
    body, content_type = NONSENSE[kind]
    async with serving(document(stub.url)) as gateway, client_of(gateway) as client:
        await client.call("counter")
        await stub.do(status=200, times=1, body=body, headers={"content-type": content_type})
        text = error_of(await client.call("counter"))
        assert "'up'" in text and len(text) > 20
        assert "result" in await client.call("counter")


class Guarded:
    """Lets in only requests with X-User-Key: good."""

    def __init__(self, script: McpScript) -> None:
        self._script = script

    async def play(self, talk: Talk) -> None:
        while True:
            request = await talk.request()
            message = json.loads(request.body) if request.body else {}
            if request.headers.get("x-user-key") != "bad":
                await self._script.answer(talk, request, message)
            else:
                challenge = b'WWW-Authenticate: Bearer realm="up"'
                await talk.say(answer(b'{"error":"invalid_token"}', challenge, status=b"401 Unauthorized"))


async def test_p10_a_refused_credential_is_named_and_shuts_nobody_else_out() -> None:
    script = McpScript()
    guarded = Guarded(script)
    async with playing(script, guarded.play) as upstream:
        servers = document(upstream.url, forward_headers=["X-User-Key"])
        async with serving(servers) as gateway, client_of(gateway, **{"X-User-Key": "good"}) as good:
            assert "result" in await good.call("once")
            async with Wire(gateway.server("up"), {"X-User-Key": "bad"}) as bad:
                for _ in range(10):
                    text = error_of((await bad.initialize()).message)
                    assert "'up'" in text and "401" in text and "credential" in text
                # One that had a good credential and now sends a bad one is refused in the same way.
                assert "401" in error_of(await good.call("once", {}, {"X-User-Key": "bad"}))
            assert "result" in await good.call("once")
            assert not gateway.gateway.upstreams["up"].breaker.is_open


async def test_p10_a_dead_upstream_is_left_alone_and_let_back_by_one_trial(stub: StubServer) -> None:
    async with serving(document(stub.url)) as gateway, client_of(gateway) as client:
        await client.call("counter")
        await asyncio.to_thread(stub.kill)
        async with asyncio.timeout(20):
            while "left alone" not in (text := error_of(await client.call("counter"))):
                assert "'up'" in text
        assert gateway.gateway.upstreams["up"].breaker.is_open
        await asyncio.to_thread(stub.start)
        async with asyncio.timeout(20):
            while "error" in (response := await client.call("counter")):
                assert "'up'" in error_of(response)
        assert not gateway.gateway.upstreams["up"].breaker.is_open


async def test_u8_nothing_is_left_of_two_hundred_clients_that_were_cut_off() -> None:
    """Their calls go on, for a lost connection is no cancellation; when they end, nothing of them remains."""
    finish = asyncio.Event()

    async def take(talk: Talk, request: Request, message: Message) -> None:
        token = message["params"]["_meta"]["progressToken"]
        progress = {"jsonrpc": "2.0", "method": "notifications/progress", "params": {"progressToken": token, "progress": 1}}
        await talk.say(EVENT_STREAM + chunk(b"data: " + json.dumps(progress).encode() + b"\n\n"))
        await finish.wait()
        await talk.say(chunk(b"data: " + json_of(message, '{"content":[]}') + b"\n\n") + chunk(b""))

    pool = {"max_sessions": 1000, "max_sessions_per_upstream": 1000, "max_sessions_per_principal": 1000}
    async with playing() as upstream, serving(document(upstream.url) | {"gateway": {"session_pool": pool}}) as gateway:
        upstream.take = take
        before = runtime.running_tasks()
        # Without verification no client loads the authorities, which takes longer than all that it does here.
        plain = [httpx.AsyncHTTPTransport(verify=False) for _ in range(200)]
        clients = [Wire(gateway.server("up"), transport=transport) for transport in plain]
        async with asyncio.timeout(60):
            await asyncio.gather(*(cut_in_the_middle(client) for client in clients))
        assert len(upstream.of("tools/call")) == len(clients)
        finish.set()
        await until(lambda: not gateway.gateway.pool.get_metrics()["leased"])
        await until(lambda: runtime.running_tasks() == before)
        for session in gateway.gateway.sessions.all():
            gateway.gateway.sessions.end(session)
        await until(lambda: gateway.gateway.pool.get_metrics()["open"] <= 1, 30)
        assert upstream.server is not None
        await until(lambda: upstream.server is not None and upstream.server.open_connections == 0, 30)


async def cut_in_the_middle(client: Wire) -> None:
    """Begin a call, and break the connection off when its first progress has come."""
    async with client:
        await client.initialize()
        call = client.request_message("tools/call", {"name": "once", "_meta": {"progressToken": "t"}})
        async with client.exchange(call) as messages:
            assert (await anext(messages))["method"] == "notifications/progress"


async def test_u8_listening_clients_that_were_cut_off_stop_the_listening_upstream(stub: StubServer) -> None:
    async with serving(document(stub.url)) as gateway:
        before = (await stub.seen())["open_streams"]
        tasks = runtime.running_tasks()
        async with contextlib.AsyncExitStack() as stack, asyncio.timeout(60):
            for _ in range(20):
                client = await stack.enter_async_context(Wire(gateway.server("up")))
                await client.initialize()
                await client.call("counter")
                await stack.enter_async_context(client.listen())
            while (await stub.seen())["open_streams"] < before + 20:
                pass  # asking again takes a round trip
        async with asyncio.timeout(20):
            while (await stub.seen())["open_streams"] > before:
                pass
        await until(lambda: runtime.running_tasks() == tasks)


async def test_an_answer_in_events_costs_no_connection_of_its_own() -> None:
    """Servers end the stream some time after the answer; a connection per call would be dear, with TLS above all."""

    async def take(talk: Talk, request: Request, message: Message) -> None:
        await talk.say(EVENT_STREAM + chunk(b"data: " + json_of(message, '{"content":[]}') + b"\n\n"))
        await asyncio.sleep(0)  # the answer leaves alone, the end comes after it
        await talk.say(chunk(b""))

    async with playing() as upstream, serving(document(upstream.url)) as gateway, client_of(gateway) as client:
        upstream.take = take
        await client.call("once")
        assert upstream.server is not None
        before = upstream.server.connections
        for _ in range(20):
            assert "result" in await client.call("once")
        # While one is still ending, the next call may take another: two serve all.
        assert upstream.server.connections <= before + 1


async def test_after_warm_up_a_call_is_one_request_on_one_connection(stub: StubServer) -> None:
    async with serving(document(stub.url)) as gateway, client_of(gateway) as client:
        await client.call("counter")
        before = await stub.seen()
        for _ in range(20):
            await client.call("counter")
        after = await stub.seen()
        assert len(after["requests"]) == len(before["requests"]) + 20
        assert after["initializes"] == before["initializes"]
