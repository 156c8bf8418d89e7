"""Which kind of server answers at a URL: found out, remembered, found out again, and said where none can be used."""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from mcpgateway import runtime
from mcpgateway.config.values import TlsConfig
from mcpgateway.errors import (
    AuthRefused,
    BadAnswer,
    ConnectFailed,
    GatewayError,
    HttpRefused,
    Incompatible,
    UpstreamError,
    UpstreamTimeout,
)
from mcpgateway.runtime import Sweep
from mcpgateway.upstream.base import Hello, Target, UpstreamSession
from mcpgateway.upstream.era import explain_refusal
from mcpgateway.upstream.open import Opener, render
from mcpgateway.upstream.tls import TlsContexts
from tests.fakes.certificates import Authority
from tests.fakes.http import INITIALIZED, FakeHttp, FakeResponse, Sent
from tests.fakes.peers import Ear, call
from tests.fakes.scripted import EVENT_STREAM, Talk, answer, scripted
from tests.fakes.until import until
from tests.servers.http11 import Request, chunk

TARGET = Target(name="up", url="http://up.test/a b?k=1")
REFUSED = HttpRefused("up", "it answered HTTP 400", status=400)


def discovered(versions: object, id: int = 0) -> bytes:
    return json.dumps({"jsonrpc": "2.0", "id": id, "result": {"supportedVersions": versions}}).encode()


def unsupported(versions: object) -> bytes:
    error = {"code": -32022, "message": "Unsupported protocol version", "data": {"supported": versions}}
    return json.dumps({"jsonrpc": "2.0", "id": 0, "error": error}).encode()


async def explained(response: FakeResponse | UpstreamError, error: Exception = REFUSED) -> tuple[Exception, list[Sent]]:
    http = FakeHttp(lambda sent: response)
    async with asyncio.timeout(10):
        return await explain_refusal(TARGET, http, b"X-Key: 1\r\n", error), http.sent


@pytest.mark.parametrize("status", [200, 400, 404])
@pytest.mark.parametrize("body", [discovered(["2026-07-28"]), unsupported(["2026-07-28", "2027-01-01"])])
async def test_a_server_that_speaks_only_modern_revisions_is_incompatible(status: int, body: bytes) -> None:
    error, (probe,) = await explained(FakeResponse(status, body))
    assert type(error) is Incompatible
    assert "'up'" in str(error) and "2026-07-28" in str(error) and "2025-11-25" in str(error)
    assert (probe.rpc, probe.path) == ("server/discover", "/a%20b?k=1")
    assert probe.headers["mcp-protocol-version"] == "2026-07-28"
    assert probe.headers["mcp-method"] == "server/discover"
    assert probe.headers["x-key"] == "1"
    meta = probe.message["params"]["_meta"]
    assert meta["io.modelcontextprotocol/protocolVersion"] == "2026-07-28"
    assert meta["io.modelcontextprotocol/clientCapabilities"] == {}


async def test_a_modern_server_may_answer_with_a_stream() -> None:
    response = FakeResponse(streaming=True)
    response.say_raw(b": hello\n\ndata: " + discovered(["2026-07-28"]) + b"\n\n")
    error, _ = await explained(response)
    assert type(error) is Incompatible
    assert response.fate


NOT_MODERN: dict[str, FakeResponse | UpstreamError] = {
    "legacy versions": FakeResponse(200, discovered(["2025-06-18", "2026-07-28"])),
    "unknown method": FakeResponse(404, b'{"jsonrpc":"2.0","id":0,"error":{"code":-32601,"message":"Method not found"}}'),
    "no versions": FakeResponse(200, discovered([])),
    "versions of no kind": FakeResponse(200, discovered({"a": 1})),
    "numbers": FakeResponse(200, discovered([1, 2])),
    "data of no kind": FakeResponse(400, b'{"jsonrpc":"2.0","id":0,"error":{"code":-32022,"data":"2026-07-28"}}'),
    "null error": FakeResponse(400, b'{"jsonrpc":"2.0","id":0,"error":null}'),
    "null result": FakeResponse(200, b'{"jsonrpc":"2.0","id":0,"result":null}'),
    "text": FakeResponse(400, b"Bad Request"),
    "nothing": FakeResponse(200),
    "array": FakeResponse(200, b"[1]"),
    "outage": ConnectFailed("up", "refused"),
    "silence": UpstreamTimeout("up", "no sign of life"),
}


@pytest.mark.parametrize("kind", NOT_MODERN)
async def test_any_other_answer_to_the_probe_leaves_the_first_error(kind: str) -> None:
    assert (await explained(NOT_MODERN[kind]))[0] is REFUSED


@pytest.mark.parametrize(
    "error", [AuthRefused("up", "401", status=401), ConnectFailed("up", "refused"), UpstreamTimeout("up", "silent")]
)
async def test_an_outage_or_a_wrong_credential_says_nothing_of_revisions(error: UpstreamError) -> None:
    found, sent = await explained(FakeResponse(200, discovered(["2026-07-28"])), error)
    assert found is error
    assert sent == []


class Wanted:
    """A server whose kind a test chooses, and changes: 'streamable', 'sse', 'modern', 'nothing', 'html' or 'broken'."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.seen: list[tuple[str, str]] = []
        self._sse: Talk | None = None

    async def play(self, talk: Talk) -> None:
        while True:
            request = await talk.request()
            message = json.loads(request.body) if request.body else {}
            self.seen.append((request.method, message.get("method", "")))
            if self.kind == "sse":
                await self._play_sse(talk, request, message)
            else:
                await talk.say(self._answer(request, message))

    def _answer(self, request: Request, message: dict[str, Any]) -> bytes:
        if self.kind == "nothing":
            return answer(b"", status=b"404 Not Found")
        if self.kind == "html":
            return answer(b"<html>Welcome</html>")
        if self.kind == "broken":
            return answer(b"", status=b"500 Internal Server Error")
        if self.kind == "modern":
            return answer(unsupported(["2026-07-28"]), status=b"400 Bad Request")
        if message.get("method") == "initialize":
            return answer(response(message, INITIALIZED), b"Mcp-Session-Id: s-1")
        if "id" in message:
            return answer(response(message, {}))
        return answer(b"", status=b"202 Accepted")

    async def _play_sse(self, talk: Talk, request: Request, message: dict[str, Any]) -> None:
        if request.method == "GET":
            self._sse = talk
            await talk.say(EVENT_STREAM + chunk(b"event: endpoint\ndata: /post\n\n"))
            await talk.gone()
        elif request.path != "/post":
            await talk.say(answer(b"", status=b"405 Method Not Allowed"))
        else:
            await talk.say(answer(b"", status=b"202 Accepted"))
            if "id" in message and self._sse is not None:
                result = INITIALIZED if message["method"] == "initialize" else {}
                await self._sse.say(chunk(b"event: message\ndata: " + response(message, result) + b"\n\n"))


def response(message: dict[str, Any], result: object) -> bytes:
    return json.dumps({"jsonrpc": "2.0", "id": message["id"], "result": result}).encode()


class Opening:
    """An opener, and one server it opens sessions with."""

    def __init__(self, opener: Opener, port: int) -> None:
        self.opener = opener
        self.url = f"http://127.0.0.1:{port}/mcp"

    async def open(self, transport: str = "auto") -> UpstreamSession:
        target = Target(name="up", url=self.url, transport=transport, open_timeout_seconds=15)
        session = await self.opener.open(target, Hello(), b"")
        assert await session.request(call(), Ear()) == b"{}"
        return session

    async def open_and_close(self, transport: str = "auto") -> str:
        """The wire that was found to be spoken."""
        session = await self.open(transport)
        await session.aclose()
        return self.opener.transport_of(Target(name="up", url=self.url))


@pytest.fixture
async def opener() -> AsyncIterator[Opener]:
    sweep = Sweep(tick_seconds=0.02)
    opener = Opener(sweep)
    yield opener
    await opener.aclose()
    await until(lambda: not runtime.running_tasks())
    sweep.close()


@pytest.mark.parametrize(("kind", "transport"), [("streamable", "streamablehttp"), ("sse", "sse")])
async def test_the_kind_of_a_url_is_found_out_once(kind: str, transport: str, opener: Opener) -> None:
    server = Wanted(kind)
    async with scripted(server.play) as running:
        it = Opening(opener, running.port)
        assert await it.open_and_close() == transport
        before = len(server.seen)
        assert await it.open_and_close() == transport
        again = server.seen[before:]
        assert again[0] == (("POST", "initialize") if kind == "streamable" else ("GET", ""))


@pytest.mark.parametrize(("first", "then"), [("streamable", "sse"), ("sse", "streamable")])
async def test_a_url_that_changed_its_kind_is_found_out_again(first: str, then: str, opener: Opener) -> None:
    server = Wanted(first)
    async with scripted(server.play) as running:
        it = Opening(opener, running.port)
        before = await it.open_and_close()
        server.kind = then
        assert await it.open_and_close() not in ("auto", before)


@pytest.mark.parametrize("transport", ["auto", "streamablehttp"])
async def test_a_modern_only_server_is_incompatible_however_it_is_configured(transport: str, opener: Opener) -> None:
    async with scripted(Wanted("modern").play) as running:
        with pytest.raises(Incompatible, match="speaks only 2026-07-28"):
            await Opening(opener, running.port).open(transport)


NO_SERVER: dict[str, tuple[type[UpstreamError], str]] = {
    "nothing": (HttpRefused, "404"),
    "html": (BadAnswer, "no JSON-RPC message"),
    "broken": (HttpRefused, "500"),
}


@pytest.mark.parametrize("kind", NO_SERVER)
async def test_a_url_that_is_no_mcp_server_says_what_it_answered(kind: str, opener: Opener) -> None:
    error, words = NO_SERVER[kind]
    async with scripted(Wanted(kind).play) as running:
        it = Opening(opener, running.port)
        with pytest.raises(error, match=words):
            await it.open()
        assert opener.transport_of(Target(name="up", url=it.url)) == "auto"


async def test_an_outage_is_asked_nothing_more(opener: Opener) -> None:
    """One attempt, not one per question that could be asked."""
    server = Wanted("broken")
    async with scripted(server.play) as running:
        it = Opening(opener, running.port)
    with pytest.raises(ConnectFailed, match="is it running"):
        await it.open()
    assert server.seen == []


async def test_an_opening_that_takes_too_long_fails_and_leaves_nothing(opener: Opener) -> None:
    async def play(talk: Talk) -> None:
        await talk.request()
        await talk.gone()

    async with scripted(play) as running:
        target = Target(name="up", url=f"http://127.0.0.1:{running.port}/mcp", open_timeout_seconds=0.05)
        with pytest.raises(UpstreamError, match="'up'"):
            await opener.open(target, Hello(), b"")
        await until(lambda: running.open_connections == 0)


@pytest.mark.parametrize("value", ["a\r\nX: 1", "a\nb", "\u20ac"])
def test_p21_a_header_that_cannot_be_sent_is_refused_without_showing_it(value: str) -> None:
    secret = f"planted-secret{value}"
    with pytest.raises(GatewayError) as caught:
        render({"Authorization": secret})
    assert "planted" not in str(caught.value)
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__ or caught.value.__context__ is None


class _Contexts(TlsContexts):
    """Contexts for the default settings, made by a test."""

    def __init__(self, make: Callable[[], ssl.SSLContext]) -> None:
        super().__init__()
        self._make = make
        self._made: ssl.SSLContext | None = None

    def context(self, settings: TlsConfig | None) -> ssl.SSLContext:
        self._made = self._made or self._make()
        return self._made

    def generation(self, settings: TlsConfig | None) -> int:
        return 1


async def test_p18_all_upstreams_share_one_tls_context(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    made: list[ssl.SSLContext] = []

    def make() -> ssl.SSLContext:
        made.append(authority.trusting())
        return made[-1]

    sweep = Sweep(tick_seconds=0.02)
    opener = Opener(sweep, _Contexts(make))
    served = authority.serving("localhost")
    async with scripted(Wanted("streamable").play, served) as one, scripted(Wanted("streamable").play, served) as other:
        for number, port in enumerate((one.port, other.port, one.port)):
            target = Target(name=f"up-{number}", url=f"https://localhost:{port}/mcp")
            session = await opener.open(target, Hello(), b"")
            assert await session.request(call(), Ear()) == b"{}"
            await session.aclose()
        await opener.aclose()
    assert len(made) == 1
    sweep.close()


def test_p18_an_opener_of_plain_urls_makes_no_tls_context() -> None:
    def never() -> ssl.SSLContext:
        raise AssertionError("nobody needs one")

    opener = Opener(Sweep(), _Contexts(never))
    assert opener.http("up", "http://up.test/mcp") is opener.http("up", "http://up.test/other")
    assert opener.http("up", "http://up.test/mcp") is not opener.http("other", "http://up.test/mcp")
