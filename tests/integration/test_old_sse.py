"""HTTP+SSE downstream: clients of 2024-11-05, whose session is the stream that they read."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from mcpgateway import runtime
from mcpgateway.auth.tokens import new_token
from tests.clients.driver import Driver
from tests.clients.events import Stream, stream
from tests.clients.messages import request, text_of, tool
from tests.clients.wire import Message, Wire
from tests.fakes.gateway import RunningGateway, one, serving
from tests.fakes.process import Server
from tests.integration.battery import EVERYTHING, FASTMCP, Target, run_in_one_session
from tests.servers.talking_stub import TalkingStub, talk

ACCEPT = {"accept": "text/event-stream"}


@pytest.fixture
async def stub() -> AsyncIterator[TalkingStub]:
    async with TalkingStub() as server:
        yield server


class Reader:
    """A client: the stream that it reads, and the place that the stream named for what it says."""

    def __init__(self, answer: Stream, endpoint: str, http: httpx.AsyncClient, headers: dict[str, str]) -> None:
        self.answer = answer
        self.endpoint = endpoint
        self._http = http
        self._headers = headers

    async def say(self, message: object, headers: dict[str, str] | None = None, to: str = "") -> httpx.Response:
        body = message if isinstance(message, bytes) else json.dumps(message).encode()
        sent = {"content-type": "application/json", **self._headers, **(headers or {})}
        return await self._http.post(to or self.endpoint, content=body, headers=sent)

    async def next(self) -> Message:
        return (await self.answer.next()).message

    async def ask(self, message: Message) -> Message:
        """The response, where nothing else is said before it."""
        assert (await self.say(message)).status_code == 202
        return await self.next()

    async def initialize(self, capabilities: Message | None = None, revision: str = "2024-11-05") -> Message:
        info = {"name": "old", "version": "1"}
        hello = request("initialize", 0, protocolVersion=revision, capabilities=capabilities or {}, clientInfo=info)
        answer = await self.ask(hello)
        assert (await self.say({"jsonrpc": "2.0", "method": "notifications/initialized"})).status_code == 202
        return answer


@contextlib.asynccontextmanager
async def reading(url: str, headers: dict[str, str] | None = None) -> AsyncIterator[Reader]:
    """A stream that was just opened, its endpoint known."""
    async with (
        httpx.AsyncClient(trust_env=False, timeout=20) as http,
        stream(url, None, {**ACCEPT, **(headers or {})}) as answer,
    ):
        assert (answer.status, answer.headers["content-type"]) == (200, "text/event-stream")
        first = await answer.next()
        assert first.type == "endpoint" and first.data.startswith("/")
        yield Reader(answer, str(httpx.URL(url).join(first.data)), http, headers or {})


@contextlib.asynccontextmanager
async def client_of(gateway: RunningGateway, path: str = "/servers/up/sse", **more: Any) -> AsyncIterator[Reader]:
    async with asyncio.timeout(20), reading(gateway.base + path) as reader:
        await reader.initialize(**more)
        yield reader


async def test_the_batteries_pass_as_if_direct(client: Driver, stateful_1x: Server) -> None:
    async with serving(one(stateful_1x.url)) as gateway:
        await run_in_one_session(FASTMCP, client, Target("sse", f"{gateway.base}/servers/up/sse"))
        await run_in_one_session(FASTMCP, client, Target("sse", f"{gateway.base}/sse", prefix="up__"))
        await gateway.until(lambda: len(gateway.gateway.sessions) == 0)


async def test_server_everything_as_if_direct(client: Driver, everything_http: Server) -> None:
    async with serving(one(everything_http.url)) as gateway:
        await run_in_one_session(EVERYTHING, client, Target("sse", f"{gateway.base}/servers/up/sse"))


async def test_an_old_client_meets_an_old_server(client: Driver, sse_1x: Server) -> None:
    async with serving(one(sse_1x.url)) as gateway:
        await run_in_one_session(FASTMCP, client, Target("sse", f"{gateway.base}/servers/up/sse"))


async def test_the_first_event_names_a_place_that_nobody_can_guess(stub: TalkingStub) -> None:
    async with serving(one(stub.url)) as gateway, asyncio.timeout(20):
        ends = set()
        for path, begin in (("/sse", "/messages/"), ("/servers/up/sse", "/servers/up/messages/")):
            for _ in range(3):
                async with reading(gateway.base + path) as reader:
                    named = httpx.URL(reader.endpoint).path
                    assert named.startswith(begin) and len(named.removeprefix(begin)) >= 32
                    ends.add(named.removeprefix(begin))
        assert len(ends) == 6


async def test_behind_a_proxy_with_a_path_the_place_is_named_with_that_path(stub: TalkingStub) -> None:
    async with serving(one(stub.url, {"public_url": "http://proxy.test/mcp-gateway"})) as gateway, asyncio.timeout(20):
        async with reading(f"{gateway.base}/servers/up/sse") as reader:
            assert httpx.URL(reader.endpoint).path.startswith("/mcp-gateway/servers/up/messages/")
            assert (await reader.initialize())["id"] == 0
            stripped = reader.endpoint.replace("/mcp-gateway", "")
            assert (await reader.say(request("ping", "p"), to=stripped)).status_code == 202
            assert await reader.next() == {"jsonrpc": "2.0", "id": "p", "result": {}}


async def test_i3_a_stream_takes_messages_of_its_own_principal_at_its_own_endpoint_alone(stub: TalkingStub) -> None:
    tokens = {name: new_token() for name in ("ada", "eve")}
    auth = {"tokens": {name: hashed for name, (_, hashed) in tokens.items()}}
    bearer = {name: {"authorization": f"Bearer {token}"} for name, (token, _) in tokens.items()}
    async with serving(one(stub.url, {"auth": auth})) as gateway, asyncio.timeout(20):
        async with reading(f"{gateway.base}/servers/up/sse", bearer["ada"]) as ada, Wire(gateway.url, bearer["ada"]) as wire:
            await ada.initialize()
            await wire.initialize()
            ping = request("ping", "forged")
            assert (await ada.say(ping, {"authorization": "Bearer none"})).status_code == 401
            assert (await ada.say(ping, bearer["eve"])).status_code == 404
            id = ada.endpoint.rpartition("/")[2]
            of_all = f"{gateway.base}/messages/{id}"
            assert (await ada.say(ping, to=of_all)).status_code == 404
            assert (await ada.say(ping, to=ada.endpoint[:-1])).status_code == 404
            # The two kinds of session are not one another's: neither's name opens the other.
            (session,) = [each for each in gateway.gateway.sessions.all() if each.answers_on_stream]
            for name in (id, session.id):
                assert (await wire.post(ping, {"mcp-session-id": name})).status == 404
            assert wire.session is not None
            for name in (wire.session, session.id):
                assert (await ada.say(ping, to=f"{gateway.base}/messages/{name}")).status_code == 404
            assert (await ada.ask(request("ping", "own")))["id"] == "own"


async def test_who_may_not_use_a_server_finds_no_stream_there(stub: TalkingStub) -> None:
    token, hashed = new_token()
    gateway_settings = {"auth": {"tokens": {"eve": hashed}}, "access": [{"who": {"principal": "ada"}, "servers": ["up"]}]}
    async with serving(one(stub.url, gateway_settings)) as gateway, asyncio.timeout(20):
        headers = {**ACCEPT, "authorization": f"Bearer {token}"}
        for path in ("/servers/up/sse", "/servers/none/sse"):
            async with stream(gateway.base + path, None, headers) as answer:
                assert answer.status == 404
        async with stream(f"{gateway.base}/sse", None, ACCEPT) as answer:
            assert answer.status == 401 and answer.headers["www-authenticate"].startswith("Bearer")


async def test_who_has_no_token_is_told_where_to_get_one_for_the_stream(stub: TalkingStub) -> None:
    issuer = {"issuer": "https://idp.test", "audience": "http://gw.test", "jwks_url": "https://idp.test/keys"}
    async with serving(one(stub.url, {"public_url": "http://gw.test", "auth": {"jwt": issuer}})) as gateway:
        async with httpx.AsyncClient(trust_env=False) as http:
            described = "/.well-known/oauth-protected-resource/servers/up/sse"
            for method, path in (("GET", "/servers/up/sse"), ("POST", "/servers/up/messages/x")):
                refused = await http.request(method, gateway.base + path, headers=ACCEPT)
                assert refused.status_code == 401 and f"http://gw.test{described}" in refused.headers["www-authenticate"]
            assert (await http.get(gateway.base + described)).json()["resource"] == "http://gw.test/servers/up/sse"


async def test_calls_run_at_the_same_time_and_each_has_its_own_answer(stub: TalkingStub) -> None:
    async with serving(one(stub.url)) as gateway, client_of(gateway) as reader:
        for id, text in enumerate("abc"):
            await reader.say(talk(text, id, token=text))
        await gateway.until(lambda: len(stub.talks) == 3)
        for id, text in reversed(list(enumerate("abc"))):
            stub.talks[text].progress(id)
            assert (await reader.next())["params"] == {"progressToken": text, "progress": id}
            stub.talks[text].answer(text)
            response = await reader.next()
            assert (response["id"], text_of(response)) == (id, text)


async def test_c5_a_question_is_asked_on_the_stream_and_answered_by_a_post(stub: TalkingStub) -> None:
    async with serving(one(stub.url)) as gateway, client_of(gateway, capabilities={"elicitation": {}}) as reader:
        await reader.say(talk("a"))
        await gateway.until(lambda: "a" in stub.talks)
        stub.talks["a"].ask()
        question = await reader.next()
        assert question["method"] == "elicitation/create"
        said = {"action": "accept", "content": {"name": "ada"}}
        await reader.say({"jsonrpc": "2.0", "id": question["id"], "result": said})
        await gateway.until(lambda: bool(stub.answers()))
        assert stub.answers() == [{"jsonrpc": "2.0", "id": "who", "result": said}]
        stub.talks["a"].answer("thanks")
        assert text_of(await reader.next()) == "thanks"


async def test_a_cancelled_call_is_cancelled_upstream_and_not_answered(stub: TalkingStub) -> None:
    async with serving(one(stub.url)) as gateway, client_of(gateway) as reader:
        await reader.say(talk("a", "x"))
        await gateway.until(lambda: "a" in stub.talks)
        await reader.say({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": "x"}})
        await gateway.until(lambda: len(stub.told("notifications/cancelled")) == 1)
        assert (await reader.ask(request("ping", "after")))["id"] == "after"


async def test_the_end_of_the_stream_ends_the_session_its_calls_and_its_sessions_upstream(stub: TalkingStub) -> None:
    async with serving(one(stub.url)) as gateway:
        before = runtime.running_tasks()
        async with client_of(gateway) as reader:
            await reader.ask(tool("counter"))
            await reader.say(talk("a", 2))
            await gateway.until(lambda: "a" in stub.talks)
        await gateway.until(lambda: len(stub.told("notifications/cancelled")) == 1 and len(stub.seen.deletes) == 1)
        await gateway.until(lambda: len(gateway.gateway.sessions) == 0 and gateway.gateway.announcer.conversations == set())
        async with httpx.AsyncClient(trust_env=False) as http:
            assert (await http.post(reader.endpoint, json=request("ping"))).status_code == 404
        await gateway.until(lambda: set(runtime.running_tasks()) <= set(before))


async def test_what_a_server_says_outside_calls_is_heard(stub: TalkingStub) -> None:
    async with serving(one(stub.url)) as gateway, client_of(gateway) as reader:
        await reader.ask(tool("counter"))
        own = stub.of("tools/call")[0]["session"]
        await gateway.until(lambda: own in stub._streams.values())
        said = {"jsonrpc": "2.0", "method": "notifications/message", "params": {"level": "info", "data": "now"}}
        stub.do({"notify": said, "session": own})
        assert await reader.next() == said


async def test_i2_each_stream_has_sessions_of_its_own_upstream(stub: TalkingStub) -> None:
    async with serving(one(stub.url)) as gateway, client_of(gateway) as one_reader, client_of(gateway) as other:
        counts = [
            json.loads(text_of(await reader.ask(tool("counter", number))))["count"]
            for number, reader in enumerate([one_reader, one_reader, other])
        ]
        assert counts == [1, 2, 1]


async def test_nothing_but_a_ping_is_answered_before_initialize_and_that_comes_once(stub: TalkingStub) -> None:
    async with serving(one(stub.url)) as gateway, asyncio.timeout(20), reading(f"{gateway.base}/servers/up/sse") as reader:
        assert (await reader.ask(request("ping", "p")))["result"] == {}
        assert "initialize first" in (await reader.ask(tool("echo")))["error"]["message"]
        assert "protocolVersion" in (await reader.ask(request("initialize", "i")))["error"]["message"]
        assert (await reader.initialize())["result"]["protocolVersion"] == "2024-11-05"
        assert "begun already" in (await reader.initialize())["error"]["message"]
        assert text_of(await reader.ask(tool("echo", text="x"))) == "x"


@pytest.mark.parametrize(
    ("body", "headers", "status"),
    [
        (b"nonsense", {}, 400),
        (b"[]", {}, 400),
        (b'{"jsonrpc":"2.0"}', {}, 400),
        (b'{"jsonrpc":"1.0","id":1,"method":"ping"}', {}, 400),
        (b'{"jsonrpc":"2.0","id":null,"method":"ping"}', {}, 400),
        (b'{"jsonrpc":"2.0","id":1,"method":"ping"}', {"content-type": "text/plain"}, 415),
        (b'{"jsonrpc":"2.0","id":1,"method":"ping"}', {"origin": "http://evil.test"}, 403),
        (b'{"jsonrpc":"2.0","id":1,"method":"ping"}', {"host": "evil.test"}, 403),
        (b" " * 2000, {}, 413),
    ],
)
async def test_what_is_no_message_is_refused_and_the_stream_goes_on(
    body: bytes, headers: dict[str, str], status: int, stub: TalkingStub
) -> None:
    async with serving(one(stub.url, {"limits": {"body_bytes": 1024}})) as gateway, client_of(gateway) as reader:
        assert (await reader.say(body, headers)).status_code == status
        assert (await reader.ask(request("ping", "p")))["id"] == "p"


async def test_a_request_whose_id_is_in_flight_is_refused(stub: TalkingStub) -> None:
    async with serving(one(stub.url)) as gateway, client_of(gateway) as reader:
        await reader.say(talk("a", "same"))
        assert (await reader.say(request("ping", "same"))).status_code == 400
        await gateway.until(lambda: "a" in stub.talks)
        stub.talks["a"].answer("first")
        assert text_of(await reader.next()) == "first"
        assert (await reader.ask(request("ping", "same")))["result"] == {}


async def test_a_client_that_does_not_read_may_not_ask_for_more(stub: TalkingStub) -> None:
    stub.do({"raw_result": json.dumps({"content": [{"type": "text", "text": "x" * 2_000_000}]})})
    async with serving(one(stub.url)) as gateway, client_of(gateway) as reader:
        (session,) = gateway.gateway.sessions.all()
        asked = 0
        while (answer := await reader.say(tool("echo", asked))).status_code == 202:
            asked += 1
            await gateway.until(lambda: not session.busy)
        assert answer.status_code == 429 and answer.headers["retry-after"]
        for _ in range(asked):
            assert len(text_of(await reader.next())) == 2_000_000
        assert (await reader.ask(request("ping", "p")))["id"] == "p"


async def test_c2_streams_count_as_sessions(stub: TalkingStub) -> None:
    async with serving(one(stub.url, {"limits": {"client_sessions": 1}})) as gateway, client_of(gateway) as reader:
        await reader.say(talk("a"))
        await gateway.until(lambda: "a" in stub.talks)
        async with stream(f"{gateway.base}/sse", None, ACCEPT) as answer:
            assert answer.status == 429 and answer.headers["retry-after"]
        stub.talks["a"].answer("done")
        await reader.next()
        await gateway.until(lambda: not gateway.gateway.sessions.all()[0].busy)
        async with client_of(gateway):
            assert [event async for event in reader.answer] == []


async def test_c7_while_draining_a_call_in_flight_is_answered_and_then_the_stream_ends(stub: TalkingStub) -> None:
    async with serving(one(stub.url)) as gateway, client_of(gateway) as busy, client_of(gateway) as idle:
        await busy.say(talk("a"))
        await gateway.until(lambda: "a" in stub.talks)
        gateway.gateway.drain()
        assert [event async for event in idle.answer] == []
        assert (await busy.say(request("ping", 2))).status_code == 503
        async with stream(f"{gateway.base}/sse", None, ACCEPT) as answer:
            assert answer.status == 503
        stub.talks["a"].answer("done")
        assert [text_of(event.message) for event in await busy.answer.rest()] == ["done"]


@pytest.mark.parametrize(("path", "method", "allowed"), [("/sse", "POST", "GET"), ("/messages/x", "GET", "POST")])
async def test_each_path_takes_its_own_method(path: str, method: str, allowed: str, stub: TalkingStub) -> None:
    async with serving(one(stub.url)) as gateway, httpx.AsyncClient(trust_env=False) as http:
        for begin in ("", "/servers/up"):
            answer = await http.request(method, gateway.base + begin + path, json={})
            assert (answer.status_code, answer.headers["allow"]) == (405, allowed)


async def test_a_batch_is_answered_in_one_where_the_revision_has_batches(stub: TalkingStub) -> None:
    async with serving(one(stub.url)) as gateway, client_of(gateway, revision="2025-03-26") as reader:
        note = {"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": 99}}
        batch = [request("ping", "p"), note, tool("echo", "e", text="x")]
        assert (await reader.say(batch)).status_code == 202
        answers: Any = await reader.next()
        assert {each["id"] for each in answers} == {"p", "e"}
    async with serving(one(stub.url)) as gateway, client_of(gateway) as reader:
        assert (await reader.say(batch)).status_code == 400


async def test_a_session_that_must_end_says_why_before_its_stream_ends(stub: TalkingStub) -> None:
    document = {"mcpServers": {"up": {"url": stub.url, "sessions": "bound", "on_session_loss": "end"}}}
    async with serving(document) as gateway, client_of(gateway) as reader:
        await reader.ask(tool("counter"))
        stub.do({"forget_sessions": "404"})
        assert "lost this session's state" in (await reader.ask(tool("counter", 2)))["error"]["message"]
        assert [event async for event in reader.answer] == []
        await gateway.until(lambda: len(gateway.gateway.sessions) == 0)
