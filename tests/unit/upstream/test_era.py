"""Which kind of server answers at a URL: found out, remembered, found out again, and said where none can be used."""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from mcpgateway import runtime
from mcpgateway.config.values import TlsConfig
from mcpgateway.errors import (
    BadAnswer,
    ConnectFailed,
    GatewayError,
    HttpRefused,
    Incompatible,
    SessionLost,
    UpstreamError,
)
from mcpgateway.runtime import Sweep
from mcpgateway.upstream.base import Hello, Target, UpstreamSession
from mcpgateway.upstream.open import Opener, render
from mcpgateway.upstream.tls import TlsContexts
from tests.fakes.http import INITIALIZED
from tests.fakes.peers import Ear, call
from tests.fakes.scripted import EVENT_STREAM, Talk, answer, scripted
from tests.fakes.until import until
from tests.servers.certificates import Authority
from tests.servers.http11 import Request, chunk

LEGACY_CLIENT, MODERN_CLIENT = Hello(), Hello(modern=True)


def discovered(versions: object, id: int = 0) -> bytes:
    said = {"resultType": "complete", "supportedVersions": versions, "capabilities": {}, "ttlMs": 0, "cacheScope": "private"}
    return json.dumps({"jsonrpc": "2.0", "id": id, "result": said}).encode()


def unsupported(*versions: str) -> bytes:
    error = {"code": -32022, "message": "Unsupported protocol version", "data": {"supported": versions}}
    return json.dumps({"jsonrpc": "2.0", "id": None, "error": error}).encode()


LATER = ["2027-01-01"]
NEITHER = b'{"jsonrpc":"2.0","id":"server-error","error":{"code":-32600,"message":"Bad Request: Missing session ID"}}'
KINDS = {
    "streamable": "legacy",
    "modern": "modern",
    "dual": "both",
    "dual that fails over what it does not know": "legacy",
    "sse": "sse",
}


class Wanted:
    """A server whose kind a test chooses, and changes.

    One of KINDS, or 'later', 'nothing', 'html', 'broken', 'busy' or 'closed'.
    """

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
        if self.kind == "busy":
            return answer(b"", status=b"429 Too Many Requests")
        if self.kind == "closed":
            return answer(b"", status=b"401 Unauthorized")
        if self.kind == "later":
            return answer(unsupported(*LATER), status=b"400 Bad Request")
        if request.headers.get("mcp-protocol-version") == "2026-07-28":
            return self._answer_modern(message)
        return self._answer_legacy(message)

    def _answer_modern(self, message: dict[str, Any]) -> bytes:
        if self.kind == "dual that fails over what it does not know":
            return answer(b"", status=b"500 Internal Server Error")
        if self.kind == "streamable":
            return answer(NEITHER, status=b"400 Bad Request")
        found = discovered(["2026-07-28"], message["id"])
        return answer(found if message["method"] == "server/discover" else response(message, {}))

    def _answer_legacy(self, message: dict[str, Any]) -> bytes:
        if self.kind == "modern":
            return answer(unsupported("2026-07-28"), status=b"400 Bad Request")
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

    async def open(self, transport: str = "auto", hello: Hello = LEGACY_CLIENT) -> UpstreamSession:
        target = Target(name="up", url=self.url, transport=transport, open_timeout_seconds=15)
        session = await self.opener.open(target, hello, b"")
        assert await session.request(call(), Ear()) == b"{}"
        return session

    async def open_and_close(self, transport: str = "auto", hello: Hello = LEGACY_CLIENT) -> str:
        """The wire that was found to be spoken."""
        session = await self.open(transport, hello)
        await session.aclose()
        return self.opener.transport_of(Target(name="up", url=self.url))

    async def revision(self, hello: Hello) -> str:
        """The revision that is spoken with a client."""
        session = await self.open(hello=hello)
        await session.aclose()
        return session.welcome.protocol_version


@pytest.fixture
async def opener() -> AsyncIterator[Opener]:
    sweep = Sweep(tick_seconds=0.02)
    opener = Opener(sweep)
    yield opener
    await opener.aclose()
    await until(lambda: not runtime.running_tasks())
    sweep.close()


@pytest.mark.parametrize(
    ("kind", "transport"), [("streamable", "streamablehttp"), ("sse", "sse"), ("modern", "streamablehttp")]
)
async def test_the_kind_of_a_url_is_found_out_once(kind: str, transport: str, opener: Opener) -> None:
    server = Wanted(kind)
    first = {"streamable": ("POST", "initialize"), "sse": ("GET", ""), "modern": ("POST", "server/discover")}
    async with scripted(server.play) as running:
        it = Opening(opener, running.port)
        assert await it.open_and_close() == transport
        before = len(server.seen)
        assert await it.open_and_close() == transport
        # A modern session costs no request: what is seen is the ping.
        assert server.seen[before] == first[kind]
        assert len(server.seen) == before + 1 if kind == "modern" else True


@pytest.mark.parametrize("hello", [LEGACY_CLIENT, MODERN_CLIENT], ids=["legacy", "modern"])
@pytest.mark.parametrize("kind", KINDS)
async def test_a_client_of_either_generation_meets_its_own_where_the_server_speaks_both(
    kind: str, hello: Hello, opener: Opener
) -> None:
    spoken = {"legacy": "2025-11-25", "modern": "2026-07-28", "sse": "2025-11-25"}
    own = "2026-07-28" if hello.modern else "2025-11-25"
    async with scripted(Wanted(kind).play) as running:
        it = Opening(opener, running.port)
        for _ in range(2):
            assert await it.revision(hello) == spoken.get(KINDS[kind], own)


async def test_a_server_of_both_generations_serves_clients_of_both_at_a_time(opener: Opener) -> None:
    async with scripted(Wanted("dual").play) as running:
        it = Opening(opener, running.port)
        for _ in range(2):
            assert await it.revision(LEGACY_CLIENT) == "2025-11-25"
            assert await it.revision(MODERN_CLIENT) == "2026-07-28"


@pytest.mark.parametrize(
    ("kind", "hello", "wasted"),
    [
        ("streamable", LEGACY_CLIENT, []),
        ("streamable", MODERN_CLIENT, ["server/discover"]),
        ("modern", LEGACY_CLIENT, ["initialize"]),
        ("modern", MODERN_CLIENT, []),
    ],
)
async def test_a_probe_costs_one_request_even_where_many_open_at_once(
    kind: str, hello: Hello, wasted: list[str], opener: Opener
) -> None:
    server = Wanted(kind)
    refused = "server/discover" if kind == "streamable" else "initialize"
    async with scripted(server.play) as running:
        it = Opening(opener, running.port)
        sessions = await asyncio.gather(*(it.open(hello=hello) for _ in range(10)))
        for session in [*sessions, await it.open(hello=hello)]:
            await session.aclose()
    assert [rpc for _, rpc in server.seen if rpc == refused] == wasted


@pytest.mark.parametrize("failing", ["closed", "broken", "nothing"])
@pytest.mark.parametrize("hello", [LEGACY_CLIENT, MODERN_CLIENT], ids=["legacy", "modern"])
@pytest.mark.parametrize("kind", ["streamable", "modern", "dual"])
async def test_an_outage_or_a_wrong_credential_is_no_verdict(kind: str, hello: Hello, failing: str, opener: Opener) -> None:
    server = Wanted(failing)
    own = "2026-07-28" if hello.modern else "2025-11-25"
    async with scripted(server.play) as running:
        it = Opening(opener, running.port)
        for _ in range(2):
            with pytest.raises(UpstreamError):
                await it.open(hello=hello)
        server.kind = kind
        assert await it.revision(hello) == {"streamable": "2025-11-25", "modern": "2026-07-28"}.get(kind, own)
        if kind == "dual":
            assert await it.revision(LEGACY_CLIENT if hello.modern else MODERN_CLIENT) != own


async def test_a_server_that_fails_for_the_moment_is_asked_nothing_more(opener: Opener) -> None:
    for kind in ("broken", "closed", "busy"):
        server = Wanted(kind)
        async with scripted(server.play) as running:
            with pytest.raises(UpstreamError):
                await Opening(opener, running.port).open()
        assert server.seen == [("POST", "initialize")]


@pytest.mark.parametrize("hello", [LEGACY_CLIENT, MODERN_CLIENT], ids=["legacy", "modern"])
@pytest.mark.parametrize("first", ["streamable", "sse", "modern", "dual"])
@pytest.mark.parametrize("then", ["streamable", "sse", "modern"])
async def test_a_url_that_changed_its_kind_is_found_out_again(first: str, then: str, hello: Hello, opener: Opener) -> None:
    server = Wanted(first)
    async with scripted(server.play) as running:
        it = Opening(opener, running.port)
        session = await it.open(hello=hello)
        server.kind = then
        if session.welcome.discovered and then != "modern":
            # Nothing is asked before a session without handshake is opened: the first call finds out.
            with pytest.raises(SessionLost):
                await session.request(call(), Ear())
        await session.aclose()
        transport = await it.open_and_close(hello=hello)
        assert transport == ("sse" if then == "sse" else "streamablehttp")


@pytest.mark.parametrize("transport", ["auto", "streamablehttp"])
@pytest.mark.parametrize("hello", [LEGACY_CLIENT, MODERN_CLIENT], ids=["legacy", "modern"])
async def test_a_server_of_later_revisions_alone_is_incompatible(transport: str, hello: Hello, opener: Opener) -> None:
    async with scripted(Wanted("later").play) as running:
        with pytest.raises(Incompatible, match="speaks only 2027-01-01"):
            await Opening(opener, running.port).open(transport, hello)


async def test_sessions_of_one_identity_share_what_was_found_and_those_of_another_do_not(opener: Opener) -> None:
    server = Wanted("modern")
    async with scripted(server.play) as running:
        target = Target(name="up", url=f"http://127.0.0.1:{running.port}/mcp")
        for identity, headers in (
            ("a", b"X: 1\r\n"),
            ("a", b"X: 2\r\n"),
            ("b", b"X: 1\r\n"),
            ("", b"X: 1\r\n"),
            ("", b"X: 2\r\n"),
        ):
            session = await opener.open(target, Hello(modern=True, identity=identity), headers)
            await session.aclose()
    assert [rpc for _, rpc in server.seen] == ["server/discover"] * 4


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


async def test_p18_all_upstreams_share_one_tls_context() -> None:
    authority = Authority()
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
