"""The Streamable HTTP leg: what each answer of a server comes to."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from mcpgateway import runtime
from mcpgateway.errors import (
    AuthRefused,
    BadAnswer,
    ConnectFailed,
    ConnectionLost,
    GatewayError,
    HttpRefused,
    Incompatible,
    InvalidParams,
    RpcError,
    SessionLost,
    UpstreamError,
    UpstreamTimeout,
)
from mcpgateway.upstream.answering import MAX_QUESTIONS
from mcpgateway.upstream.base import Hello, Target
from mcpgateway.upstream.streamable_http import Listening, StreamableHTTPSession, open_streamable_http
from tests.fakes.http import Answerer, FakeHttp, FakeResponse, Sent, result
from tests.fakes.peers import Ear, call, tool_call
from tests.fakes.until import until

TARGET = Target(name="up", url="http://up.test/mcp")
URL_SPACES = "http://up.test/a b/ü?q=ö&r=%20"


async def opened(http: FakeHttp, url: str = TARGET.url, headers: bytes = b"") -> StreamableHTTPSession:
    async with asyncio.timeout(10):
        return await open_streamable_http(Target(name="up", url=url), http, Hello(), headers)


@pytest.fixture(autouse=True)
async def no_tasks_left() -> AsyncIterator[None]:
    """Whatever a test does, no task of the leg's is left when it is over."""
    yield
    await until(lambda: not runtime.running_tasks())


def answering(status: int, body: bytes = b"", headers: dict[str, str] | None = None) -> Answerer:
    """Answers every request but the handshake like this."""

    def answer(sent: Sent) -> FakeResponse | None:
        plain = sent.rpc in ("initialize", "notifications/initialized") or sent.method == "DELETE"
        return None if plain else FakeResponse(status, body, headers)

    return answer


def rpc_error(code: int, message: str, id: object = "server-error") -> bytes:
    return json.dumps({"jsonrpc": "2.0", "id": id, "error": {"code": code, "message": message}}).encode()


BODIES = {
    "empty": b"",
    "null": b"null",
    "html": b"<html><body>Bad Gateway</body></html>",
    "array": b'[{"jsonrpc":"2.0","id":1,"result":{}}]',
    "empty array": b"[]",
    "string": b'"ok"',
    "another id": b'{"jsonrpc":"2.0","id":99,"result":{}}',
    "no result": b'{"jsonrpc":"2.0","id":1}',
    "null result": b'{"jsonrpc":"2.0","id":1,"result":null}',
    "text result": b'{"jsonrpc":"2.0","id":1,"result":"ok"}',
    "null error": b'{"jsonrpc":"2.0","id":1,"error":null}',
    "cut": b'{"jsonrpc":"2.0","id":1,"result":{',
    "not UTF-8": b'{"jsonrpc":"2.0","id":1,"result":{"a":"\xff"}}',
}
STATUSES = (200, 202, 204, 301, 302, 307, 308, 400, 403, 401, 404, 405, 406, 429, 500, 502, 503)


@pytest.mark.parametrize("body", BODIES)
@pytest.mark.parametrize("status", STATUSES)
async def test_u9_a_status_and_a_body_that_are_no_answer_are_a_clear_error(status: int, body: str) -> None:
    session = await opened(FakeHttp(answering(status, BODIES[body], {"Location": "http://evil.test/"})))
    with pytest.raises(UpstreamError) as caught:
        await session.request(tool_call("echo"), Ear())
    error = caught.value
    assert str(error).startswith("upstream 'up': it")
    assert type(error) is {401: AuthRefused, 403: AuthRefused, 404: SessionLost}.get(
        status, BadAnswer if status < 300 else HttpRefused
    )
    if status >= 300:
        assert str(status) in str(error)
    assert "evil" not in str(error)
    assert not error.connection_level


@pytest.mark.parametrize("status", [400, 405, 406, 429, 500, 502, 503])
async def test_u9_a_servers_own_error_travels_on_as_it_came(status: int) -> None:
    body = rpc_error(-32602, "no such tool: \u00fc", id=1)
    session = await opened(FakeHttp(answering(status, body)))
    with pytest.raises(RpcError) as caught:
        await session.request(tool_call("echo"), Ear())
    assert caught.value.error == json.dumps({"code": -32602, "message": "no such tool: \u00fc"}).encode()


@pytest.mark.parametrize("status", [202, 204])
async def test_u9_an_acceptance_is_no_answer_even_with_a_result_in_it(status: int) -> None:
    session = await opened(FakeHttp(answering(status, b'{"jsonrpc":"2.0","id":1,"result":{}}')))
    with pytest.raises(BadAnswer, match="without an answer"):
        await session.request(tool_call("echo"), Ear())


async def test_u9_a_refusal_that_streams_is_an_error_and_its_stream_is_closed() -> None:
    response = FakeResponse(503, streaming=True)
    http = FakeHttp(lambda sent: response if sent.rpc == "tools/call" else None)
    session = await opened(http)
    with pytest.raises(HttpRefused, match="503"):
        await session.request(tool_call("echo"), Ear())
    assert response.fate == "closed"


async def test_p10_a_refused_credential_says_so_and_keeps_the_challenge() -> None:
    headers = {"WWW-Authenticate": 'Bearer resource_metadata="x"'}
    session = await opened(FakeHttp(answering(401, rpc_error(-32001, "Unauthorized"), headers)))
    with pytest.raises(AuthRefused, match="credential is missing or wrong") as caught:
        await session.request(tool_call("echo"), Ear())
    assert (caught.value.status, caught.value.challenge) == (401, 'Bearer resource_metadata="x"')
    assert caught.value.refused_before_dispatch


LOST = {
    "python sdk": (404, rpc_error(-32600, "Session not found")),
    "python sdk, 1.x, no id": (400, rpc_error(-32600, "Bad Request: Missing session ID")),
    "typescript sdk": (400, rpc_error(-32000, "Bad Request: No valid session ID provided", id=None)),
    "typescript sdk, restarted": (400, rpc_error(-32000, "Bad Request: Server not initialized", id=None)),
    "playwright": (404, b"Session not found"),
    "supergateway": (404, rpc_error(-32001, "Session not found", id=None)),
    "proxy": (404, b""),
}


@pytest.mark.parametrize("how", LOST)
async def test_u3_a_lost_session_is_recognised(how: str) -> None:
    status, body = LOST[how]
    session = await opened(FakeHttp(answering(status, body)))
    with pytest.raises(SessionLost) as caught:
        await session.request(tool_call("echo"), Ear())
    assert caught.value.refused_before_dispatch


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (400, rpc_error(-32602, "the session argument is missing")),
        (400, rpc_error(-32600, "Bad Request: Unsupported protocol version")),
        (404, rpc_error(-32601, "Method not found")),
        (500, rpc_error(-32000, "the session store is down")),
    ],
    ids=["other code", "other words", "unknown method", "other status"],
)
async def test_u3_other_refusals_are_not_taken_for_a_lost_session(status: int, body: bytes) -> None:
    session = await opened(FakeHttp(answering(status, body)))
    with pytest.raises(RpcError):
        await session.request(tool_call("echo"), Ear())


@pytest.mark.parametrize("how", LOST)
async def test_u3_a_session_that_never_had_a_name_is_not_lost(how: str) -> None:
    status, body = LOST[how]
    session = await opened(FakeHttp(answering(status, body), session=None))
    with pytest.raises((RpcError, HttpRefused)):
        await session.request(tool_call("echo"), Ear())


async def test_every_request_carries_the_session_the_revision_and_the_calls_own_headers() -> None:
    http = FakeHttp(lambda sent: result(sent, {}) if sent.rpc == "ping" else None)
    session = await opened(http, headers=b"X-Api-Key: first\r\n")
    await session.request(call(headers=b"X-Api-Key: second\r\n"), Ear())
    await session.aclose()
    hello, initialized, ping, goodbye = http.sent
    assert "mcp-session-id" not in hello.headers and "mcp-protocol-version" not in hello.headers
    assert hello.headers["accept"] == "application/json, text/event-stream"
    for sent in (initialized, ping, goodbye):
        assert (sent.headers["mcp-session-id"], sent.headers["mcp-protocol-version"]) == ("s-1", "2025-11-25")
    keys = [sent.headers["x-api-key"] for sent in http.sent]
    assert keys == ["first", "first", "second", "first"]
    assert goodbye.method == "DELETE"


@pytest.mark.parametrize(("version", "sent"), [("2025-03-26", False), ("2025-06-18", True), ("2025-11-25", True)])
async def test_the_revision_is_sent_only_where_it_exists(version: str, sent: bool) -> None:
    http = FakeHttp(version=version)
    await opened(http)
    assert ("mcp-protocol-version" in http.sent[-1].headers) is sent
    assert http.sent[-1].headers["mcp-session-id"] == "s-1"


async def test_a_session_id_on_a_refusal_is_not_taken() -> None:
    """Servers put a throw-away id on the 400 with which they answer a probe."""
    refused = FakeResponse(400, rpc_error(-32600, "no"), {"Mcp-Session-Id": "throw-away"})
    http = FakeHttp(lambda sent: refused)
    with pytest.raises(HttpRefused, match="refused initialize"):
        await opened(http)
    assert [sent.rpc for sent in http.sent] == ["initialize"]


@pytest.mark.parametrize(
    ("status", "said"), [(200, "it answered with a web page, not with MCP"), (404, "there is nothing at this path")]
)
async def test_a_url_of_something_else_is_said_to_be_worth_a_look(status: int, said: str) -> None:
    page = FakeResponse(status, BODIES["html"], {"Content-Type": "text/html; charset=utf-8"})
    with pytest.raises(UpstreamError, match=f"{said}; check the URL in the configuration"):
        await opened(FakeHttp(lambda sent: page))


def test_p21_what_is_said_of_a_server_that_does_not_answer_shows_no_secret() -> None:
    url = Target(name="up", url="https://user:planted@crm.test:8443/planted/mcp?key=planted", open_timeout_seconds=2)
    command = Target(name="up", command="npx", args=("planted",), env=(("KEY", "planted"),), open_timeout_seconds=2)
    assert url.unanswered().startswith("no session within 2 s: crm.test:8443 has not answered;")
    assert command.unanswered().startswith("no session within 2 s: 'npx' was started, and has not answered;")
    assert "planted" not in url.unanswered() + command.unanswered()


@pytest.mark.parametrize("id", ["", "with space", "caf\u00e9", "x" * 2000])
async def test_a_session_id_that_cannot_be_sent_back_is_none(id: str) -> None:
    http = FakeHttp(session=id)
    session = await opened(http)
    assert not session.stateful
    assert "mcp-session-id" not in http.sent[-1].headers


async def test_a_session_without_a_name_needs_no_end() -> None:
    http = FakeHttp(session=None)
    session = await opened(http)
    await session.aclose()
    assert [sent.method for sent in http.sent] == ["POST", "POST"]


async def test_closing_twice_sends_one_delete_and_survives_a_dead_server() -> None:
    http = FakeHttp(lambda sent: ConnectFailed("up", "gone") if sent.method == "DELETE" else None)
    session = await opened(http)
    await session.aclose()
    await session.aclose()
    assert [sent.method for sent in http.sent].count("DELETE") == 1
    assert session.closed


async def test_a_half_open_session_is_closed() -> None:
    def answer(sent: Sent) -> FakeResponse | None:
        return FakeResponse(500) if sent.rpc == "notifications/initialized" else None

    http = FakeHttp(answer)
    with pytest.raises(HttpRefused):
        await opened(http)
    await http.until(lambda sent: sent[-1].method == "DELETE")


async def test_an_initialized_that_is_refused_with_an_rpc_error_is_an_upstream_error() -> None:
    def answer(sent: Sent) -> FakeResponse | None:
        return FakeResponse(500, rpc_error(-32603, "boom")) if sent.rpc == "notifications/initialized" else None

    http = FakeHttp(answer)
    with pytest.raises(HttpRefused, match="-32603"):
        await opened(http)


async def test_a_revision_that_is_not_spoken_here_is_incompatible() -> None:
    with pytest.raises(Incompatible, match="1999-01-01"):
        await opened(FakeHttp(version="1999-01-01"))


@pytest.mark.parametrize("location", ["/mcp/", "http://up.test/mcp/?a=b c"])
async def test_a_redirect_on_the_same_origin_is_followed_at_initialize(location: str) -> None:
    def answer(sent: Sent) -> FakeResponse | None:
        return FakeResponse(307, headers={"Location": location}) if sent.path == "/mcp" else None

    http = FakeHttp(answer)
    await opened(http)
    moved = "/mcp/" if location == "/mcp/" else "/mcp/?a=b%20c"
    assert [sent.path for sent in http.sent] == ["/mcp", moved, moved]


@pytest.mark.parametrize(
    "location", ["http://evil.test/mcp", "https://up.test/mcp", "http://up.test:81/mcp", "//evil.test/", "http://["]
)
@pytest.mark.parametrize("status", [307, 308])
async def test_a_redirect_elsewhere_is_refused_and_no_credential_follows_it(status: int, location: str) -> None:
    http = FakeHttp(lambda sent: FakeResponse(status, headers={"Location": location}))
    with pytest.raises(HttpRefused, match="redirects"):
        await opened(http, headers=b"Authorization: secret\r\n")
    assert len(http.sent) == 1


async def test_redirects_do_not_go_in_circles() -> None:
    http = FakeHttp(lambda sent: FakeResponse(307, headers={"Location": "/mcp"}))
    with pytest.raises(HttpRefused, match="redirects"):
        await opened(http)
    assert len(http.sent) == 2


async def test_a_path_is_escaped() -> None:
    http = FakeHttp()
    await opened(http, URL_SPACES)
    assert http.sent[0].path == "/a%20b/%C3%BC?q=%C3%B6&r=%20"


async def test_c3_calls_at_the_same_time_have_ids_of_their_own() -> None:
    waiting: dict[int, FakeResponse] = {}

    def answer(sent: Sent) -> FakeResponse | None:
        if sent.rpc != "tools/call":
            return None
        return waiting.setdefault(sent.message["id"], FakeResponse(streaming=True))

    http = FakeHttp(answer)
    session = await opened(http)
    ears = [Ear() for _ in range(5)]
    calls = [asyncio.create_task(session.request(tool_call("t", token="same"), ear)) for ear in ears]
    await http.until(lambda sent: len(http.of("tools/call")) == 5)
    ids = [sent.message["id"] for sent in http.of("tools/call")]
    tokens = [sent.message["params"]["_meta"]["progressToken"] for sent in http.of("tools/call")]
    assert len(set(ids)) == len(set(tokens)) == 5
    for place, (id, token) in reversed(list(enumerate(zip(ids, tokens, strict=True)))):
        waiting[id].say(progress(token, place))
        waiting[id].say({"jsonrpc": "2.0", "id": id, "result": {"place": place}})
    assert [json.loads(raw)["place"] for raw in await asyncio.gather(*calls)] == [0, 1, 2, 3, 4]
    for place, ear in enumerate(ears):
        assert await ear.next() == ("notifications/progress", {"progressToken": "same", "progress": place})
        assert ear.heard.empty()
    assert {response.fate for response in waiting.values()} == {"released"}


def progress(token: object, step: int = 0) -> dict[str, Any]:
    return {"jsonrpc": "2.0", "method": "notifications/progress", "params": {"progressToken": token, "progress": step}}


class Streamed:
    """One call that is answered by a stream: `say` goes on in it, `outcome` is what the call came to."""

    def __init__(self, http: FakeHttp, session: StreamableHTTPSession, stream: FakeResponse, ear: Ear, token: object) -> None:
        self.http = http
        self.session = session
        self.stream = stream
        self.ear = ear
        self.outcome = asyncio.create_task(session.request(tool_call("t", token=token), ear))
        self.id = 0

    def answer(self) -> None:
        self.stream.say({"jsonrpc": "2.0", "id": self.id, "result": {"done": True}})

    async def done(self) -> Any:
        async with asyncio.timeout(10):
            return json.loads(await self.outcome)


@contextlib.asynccontextmanager
async def streamed(
    token: object = None, listener: Ear | None = None, answer: Answerer | None = None
) -> AsyncIterator[Streamed]:
    stream = FakeResponse(streaming=True)
    http = FakeHttp(lambda sent: stream if sent.rpc == "tools/call" else answer(sent) if answer else None)
    session = await opened(http)
    session.listener = listener
    it = Streamed(http, session, stream, Ear(), token)
    it.id = (await http.next("tools/call")).message["id"]
    yield it
    it.outcome.cancel()
    with contextlib.suppress(asyncio.CancelledError, GatewayError):
        await it.outcome
    assert stream.fate
    await session.aclose()


async def test_progress_of_another_call_is_dropped() -> None:
    async with streamed(token="mine") as it:
        for foreign in (it.id + 1, "mine", str(it.id), None, {"a": 1}):
            it.stream.say(progress(foreign))
        it.stream.say({"jsonrpc": "2.0", "method": "notifications/progress"})
        it.stream.say(progress(it.id, 7))
        it.answer()
        await it.done()
        assert await it.ear.next() == ("notifications/progress", {"progressToken": "mine", "progress": 7})
        assert it.ear.heard.empty()


async def test_progress_that_nobody_asked_for_is_dropped() -> None:
    async with streamed() as it:
        it.stream.say(progress(it.id))
        it.answer()
        await it.done()
        assert it.ear.heard.empty()


async def test_c6_what_concerns_the_whole_server_goes_to_the_listener_and_logs_to_the_call() -> None:
    listener = Ear()
    async with streamed(listener=listener) as it:
        it.stream.say({"jsonrpc": "2.0", "method": "notifications/message", "params": {"level": "info", "data": 1}})
        it.stream.say({"jsonrpc": "2.0", "method": "notifications/tools/list_changed"})
        it.answer()
        await it.done()
        assert await it.ear.next() == ("notifications/message", {"level": "info", "data": 1})
        assert await listener.next() == ("notifications/tools/list_changed", {})
        assert it.ear.heard.empty() and listener.heard.empty()


class Fussy(Ear):
    """A listener that cannot take what it hears."""

    def notified(self, method: str, params: bytes) -> None:
        raise InvalidParams("params.uri is missing")


async def test_a_malformed_notification_does_not_fail_the_call_on_whose_stream_it_came() -> None:
    async with streamed(listener=Fussy()) as it:
        it.stream.say({"jsonrpc": "2.0", "method": "notifications/resources/updated", "params": {}})
        it.answer()
        assert await it.done() == {"done": True}


async def test_events_without_data_and_answers_to_others_are_passed_over() -> None:
    async with streamed() as it:
        it.stream.say_raw(b": keep-alive\n\nid: 1\ndata:\n\nretry: 10\n\n")
        it.stream.say({"jsonrpc": "2.0", "id": it.id + 1, "result": {"not": "ours"}})
        it.answer()
        assert await it.done() == {"done": True}


async def test_an_error_without_an_id_on_the_stream_is_the_answer() -> None:
    async with streamed() as it:
        it.stream.say(json.loads(rpc_error(-32603, "out of cheese", id=None)))
        with pytest.raises(RpcError, match="-32603"):
            await it.done()


@pytest.mark.parametrize("event", [b"data: nonsense\n\n", b"data: [1]\n\n", b"data: \xff\n\n"])
async def test_nonsense_on_the_stream_is_a_clear_error(event: bytes) -> None:
    async with streamed() as it:
        it.stream.say_raw(event)
        with pytest.raises(BadAnswer, match="no JSON-RPC message"):
            await it.done()
        assert it.stream.fate == "closed"


async def test_u4_a_stream_that_ends_before_the_answer_is_a_loss() -> None:
    async with streamed() as it:
        it.stream.say_raw(b": hello\n\n")
        it.stream.end()
        with pytest.raises(ConnectionLost, match="before its answer; the request may have run"):
            await it.done()


async def test_u4_a_stream_that_breaks_is_a_loss() -> None:
    async with streamed() as it:
        it.stream.end(ConnectionLost("up", "reset"))
        with pytest.raises(ConnectionLost, match="reset"):
            await it.done()
        assert it.stream.fate == "closed"


def ask(id: object = "q-1", method: str = "elicitation/create") -> dict[str, Any]:
    return {"jsonrpc": "2.0", "id": id, "method": method, "params": {"message": "who?"}}


async def test_c5_a_question_goes_to_the_client_whose_call_it_is() -> None:
    async with streamed() as it:
        it.stream.say(ask())
        assert await it.ear.next_question() == ("elicitation/create", {"message": "who?"})
        it.ear.answer.set_result(b'{"action":"accept","big":123456789012345678901234567890}')
        await it.http.until(lambda sent: b'"q-1"' in sent[-1].body)
        posted = it.http.sent[-1]
        assert posted.message["result"] == {"action": "accept", "big": 123456789012345678901234567890}
        assert posted.headers["mcp-session-id"] == "s-1"
        it.answer()
        await it.done()


async def test_c5_a_refusal_of_the_clients_is_told() -> None:
    async with streamed() as it:
        it.stream.say(ask(id=5))
        it.ear.answer.set_exception(RpcError.of(-1, "User rejected"))
        await it.http.until(lambda sent: b"User rejected" in sent[-1].body)
        assert it.http.sent[-1].message == {"jsonrpc": "2.0", "id": 5, "error": {"code": -1, "message": "User rejected"}}
        it.answer()
        await it.done()


async def test_pings_are_answered_without_the_client() -> None:
    async with streamed() as it:
        it.stream.say(ask(id="p", method="ping"))
        await it.http.until(lambda sent: sent[-1].body == b'{"jsonrpc":"2.0","id":"p","result":{}}')
        assert it.ear.questions.empty()
        it.answer()
        await it.done()


async def test_the_servers_silence_does_not_count_while_a_person_thinks() -> None:
    async with streamed() as it:
        it.stream.say(ask("q-1"))
        it.stream.say(ask("q-2"))
        await it.ear.next_question()
        await it.ear.next_question()
        assert it.stream.timeouts == [float("inf")] * 2
        it.ear.answer.set_result(b"{}")
        await it.http.until(lambda sent: sum(b'"result":{}' in each.body for each in sent) == 2)
        it.answer()
        await it.done()
        assert it.stream.timeouts[2:] in ([60.0], [])
        # The answers were posted before the call was over, so its silence counts again from the second of them.


async def test_c5_a_question_is_withdrawn_when_the_call_is_over() -> None:
    async with streamed() as it:
        it.stream.say(ask())
        await it.ear.next_question()
        it.answer()
        await it.done()
        await until(lambda: it.ear.cut_short > 0)


async def test_c5_a_server_may_withdraw_its_question() -> None:
    async with streamed() as it:
        listener = it.session.listener = Ear()
        it.stream.say(ask("q-1"))
        await it.ear.next_question()
        it.stream.say({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": "q-1"}})
        await until(lambda: it.ear.cut_short > 0)
        it.answer()
        await it.done()
        # Its id is the server's: to the client it would be the id of some call of its own.
        assert listener.heard.empty() and it.ear.heard.empty()
        assert not [sent for sent in it.http.sent if b'"q-1"' in sent.body]


async def test_a_server_cannot_ask_without_end() -> None:
    async with streamed() as it:
        for number in range(MAX_QUESTIONS + 1):
            it.stream.say(ask(number))
        with pytest.raises(BadAnswer, match="too many"):
            await it.done()


async def test_c1_cancelling_tells_the_server_under_its_own_id_and_keeps_the_session() -> None:
    http = FakeHttp(lambda sent: result(sent, {}) if sent.rpc == "ping" else None)
    session = await opened(http)
    await session.request(call(), Ear())
    calling = asyncio.create_task(session.request(tool_call("t", headers=b"X-Me: 1\r\n"), Ear()))
    id = (await http.next("tools/call")).message["id"]
    calling.cancel()
    with pytest.raises(asyncio.CancelledError):
        await calling
    told = await http.next("notifications/cancelled")
    assert told.message["params"]["requestId"] == id
    assert told.headers["x-me"] == "1"
    assert not session.closed
    await session.request(call(), Ear())


async def test_c1_cancelling_in_the_middle_of_a_stream_tells_the_server_and_closes_the_stream() -> None:
    async with streamed() as it:
        it.outcome.cancel()
        with pytest.raises(asyncio.CancelledError):
            await it.outcome
        assert (await it.http.next("notifications/cancelled")).message["params"]["requestId"] == it.id
        assert it.stream.fate == "closed"


async def test_a_call_that_timed_out_is_cancelled_at_the_server() -> None:
    http = FakeHttp(lambda sent: UpstreamTimeout("up", "no sign of life") if sent.rpc == "tools/call" else None)
    session = await opened(http)
    with pytest.raises(UpstreamTimeout):
        await session.request(tool_call("t"), Ear())
    await http.next("notifications/cancelled")
    assert not session.closed


async def test_a_failed_cancellation_harms_nobody() -> None:
    def answer(sent: Sent) -> FakeResponse | UpstreamError | None:
        return ConnectFailed("up", "gone") if sent.rpc == "notifications/cancelled" else None

    http = FakeHttp(answer)
    session = await opened(http)
    calling = asyncio.create_task(session.request(tool_call("t"), Ear()))
    await http.next("tools/call")
    calling.cancel()
    with pytest.raises(asyncio.CancelledError):
        await calling
    await http.next("notifications/cancelled")


@pytest.mark.parametrize("streaming", [False, True])
async def test_initialize_may_be_answered_in_either_form(streaming: bool) -> None:
    stream = FakeResponse(streaming=True, headers={"Mcp-Session-Id": "from-stream"})

    def answer(sent: Sent) -> FakeResponse | None:
        if sent.rpc == "initialize" and streaming:
            stream.say_raw(b"id: 1\ndata:\n\n")
            stream.say({"jsonrpc": "2.0", "method": "notifications/message", "params": {"data": 1, "level": "info"}})
            stream.say(json.loads(result(sent, {"protocolVersion": "2025-06-18", "capabilities": {}}).body))
            return stream
        return None

    session = await opened(FakeHttp(answer))
    assert session.welcome.protocol_version == ("2025-06-18" if streaming else "2025-11-25")
    assert stream.fate == ("released" if streaming else "")


@pytest.mark.parametrize("last", [b"", b"data: nonsense\n\n", b"data: " + b"x" * 100 + b"\n\n"])
async def test_a_stream_that_does_not_answer_initialize_is_closed(last: bytes) -> None:
    stream = FakeResponse(streaming=True)
    stream.say_raw(last or b": nothing\n\n")
    stream.end()
    with pytest.raises((ConnectionLost, BadAnswer)):
        await opened(FakeHttp(lambda sent: stream))
    assert stream.fate


class Listened:
    """A session whose GET streams are at the test's hands: `streams` holds those that were opened, in order."""

    def __init__(self) -> None:
        self.streams: list[FakeResponse] = []
        self.status = 200
        self.ear = Ear()
        self.http = FakeHttp(self._answer)

    def _answer(self, sent: Sent) -> FakeResponse | None:
        if sent.method != "GET":
            return None
        self.streams.append(FakeResponse(self.status, streaming=self.status == 200))
        return self.streams[-1]

    async def stream(self, number: int) -> FakeResponse:
        """The stream that was opened as this many-th."""
        await self.http.until(lambda sent: len(self.streams) >= number)
        return self.streams[number - 1]

    @property
    def gets(self) -> list[Sent]:
        return [sent for sent in self.http.sent if sent.method == "GET"]


@contextlib.asynccontextmanager
async def listening(status: int = 200) -> AsyncIterator[tuple[Listened, StreamableHTTPSession]]:
    it = Listened()
    it.status = status
    session = await opened(it.http)
    session.listener = it.ear
    session.listen(b"X-Key: 1\r\n")
    session.listen(b"X-Key: 1\r\n")
    yield it, session
    await session.aclose()


CHANGED = {"jsonrpc": "2.0", "method": "notifications/tools/list_changed"}


async def test_c6_what_the_server_says_outside_calls_is_heard() -> None:
    async with listening() as (it, _):
        stream = await it.stream(1)
        stream.say(CHANGED)
        assert await it.ear.next() == ("notifications/tools/list_changed", {})
        assert stream.timeouts == [float("inf")]
        (sent,) = it.gets
        assert (sent.headers["x-key"], sent.headers["mcp-session-id"]) == ("1", "s-1")
        assert sent.headers["accept"] == "text/event-stream"


async def test_a_stream_that_broke_is_opened_again_where_it_broke() -> None:
    async with listening() as (it, _):
        stream = await it.stream(1)
        stream.say(CHANGED, id="e-1", retry=1)
        stream.say(CHANGED, id="e-2")
        await it.ear.next()
        await it.ear.next()
        stream.end(ConnectionLost("up", "broke"))
        await it.stream(2)
        assert [sent.headers.get("last-event-id") for sent in it.gets] == [None, "e-2"]
        assert stream.fate == "closed"


async def test_a_stream_that_ended_in_order_is_opened_again() -> None:
    async with listening() as (it, _):
        (await it.stream(1)).say_raw(b"retry: 1\n\n")
        it.streams[0].end()
        (await it.stream(2)).say(CHANGED)
        await it.ear.next()


@pytest.mark.parametrize(("wish", "pause"), [(7000, 7.0), (0, 0.1), (999_999_999, 30.0)])
async def test_the_servers_wish_for_a_pause_is_heeded_within_bounds(wish: int, pause: float) -> None:
    it = Listened()
    session = await opened(it.http)
    session.listener = it.ear
    listening = Listening(session, b"")
    running = asyncio.create_task(listening.run())
    stream = await it.stream(1)
    stream.say_raw(b"retry: %d\nid: 1\ndata:\n\n" % wish)
    # Later events say nothing of it, and it still holds.
    stream.say(CHANGED)
    await it.ear.next()
    assert listening.pause_seconds == pause
    running.cancel()
    await asyncio.wait([running])


@pytest.mark.parametrize("status", [400, 401, 404, 405])
async def test_a_server_without_a_stream_is_asked_once(status: int) -> None:
    it = Listened()
    it.status = status
    async with asyncio.timeout(10):
        await Listening(await opened(it.http), b"").run()
    assert len(it.gets) == 1


@pytest.mark.parametrize("status", [429, 500, 503])
async def test_a_server_in_trouble_is_asked_again_for_its_stream(status: int) -> None:
    it = Listened()
    it.status = status
    session = await opened(it.http)
    session.listener = it.ear
    listening = Listening(session, b"")
    listening.pause_seconds = 0
    running = asyncio.create_task(listening.run())
    await it.stream(1)
    it.status = 200
    await until(lambda: it.streams[-1].status == 200)
    it.streams[-1].say(CHANGED)
    await it.ear.next()
    running.cancel()
    await asyncio.wait([running])


async def test_a_malformed_notification_does_not_end_the_listening() -> None:
    async with listening() as (it, session):
        session.listener = Fussy()
        stream = await it.stream(1)
        stream.say(CHANGED)
        stream.say(ask(id="p", method="ping"))
        await it.http.until(lambda sent: b'"p"' in sent[-1].body)
        assert len(it.gets) == 1


async def test_c5_a_question_outside_calls_goes_to_the_listener() -> None:
    async with listening() as (it, _):
        (await it.stream(1)).say(ask())
        assert await it.ear.next_question() == ("elicitation/create", {"message": "who?"})
        it.ear.answer.set_result(b'{"action":"decline"}')
        await it.http.until(lambda sent: b'"q-1"' in sent[-1].body)
        assert it.http.sent[-1].headers["x-key"] == "1"


async def test_c5_questions_outside_calls_are_withdrawn_when_the_session_ends() -> None:
    async with listening() as (it, session):
        (await it.stream(1)).say(ask())
        await it.ear.next_question()
        await session.aclose()
        await until(lambda: it.ear.cut_short > 0)


async def test_nobody_to_ask_is_told_to_the_server() -> None:
    async with listening() as (it, session):
        session.listener = None
        (await it.stream(1)).say(ask())
        await it.http.until(lambda sent: b"no client can be asked" in sent[-1].body)


async def test_listening_ends_and_begins_again() -> None:
    async with listening() as (it, session):
        first = await it.stream(1)
        session.stop_listening()
        session.stop_listening()
        await first.over.wait()
        session.listen()
        await it.stream(2)
    session.listen()
    assert len(it.gets) == 2


async def refused_and_listening_again(status: int, after_seconds: float) -> int:
    """How often the stream was asked for, by a session that listens again once it was refused."""
    async with listening(status) as (it, session), asyncio.timeout(10):
        session.refused_seconds = after_seconds
        await it.stream(1)
        await until(lambda: session._listening is None)
        session.listen()
        if session._listening is not None:
            await it.stream(2)
        return len(it.gets)


@pytest.mark.parametrize("status", [400, 401, 403])
async def test_a_stream_that_was_refused_is_asked_for_when_somebody_listens_again(status: int) -> None:
    assert await refused_and_listening_again(status, 0) == 2


@pytest.mark.parametrize(("status", "after_seconds"), [(405, 0), (401, 3600)])
async def test_a_stream_that_there_is_not_or_was_just_refused_is_not_asked_for_with_each_call(
    status: int, after_seconds: float
) -> None:
    assert await refused_and_listening_again(status, after_seconds) == 1
