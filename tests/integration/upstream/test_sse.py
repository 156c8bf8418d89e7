"""The HTTP+SSE leg against a real server."""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from typing import Any

import pytest

from mcpgateway import runtime
from mcpgateway.errors import (
    AuthRefused,
    BadAnswer,
    ConnectFailed,
    ConnectionLost,
    HttpRefused,
    SessionLost,
    UpstreamError,
    UpstreamTimeout,
)
from mcpgateway.runtime import Sweep
from mcpgateway.upstream.base import Hello, Target, UpstreamSession
from mcpgateway.upstream.connection import Origin
from mcpgateway.upstream.sse import endpoint_path, open_sse
from tests.fakes.peers import Ear, tool_call
from tests.fakes.process import Server
from tests.integration.upstream.opened import text

Open = Callable[..., Coroutine[Any, Any, UpstreamSession]]


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with Server([sys.executable, "-m", "tests.servers.sse_stub"], path="/sse") as server:
        yield server


@pytest.fixture
async def opener(server: Server) -> AsyncIterator[Open]:
    """Opens sessions at a path of the server; in the end all are closed and nothing may be left."""
    sweep = Sweep(tick_seconds=0.02)
    http = Origin("old", server.url, sweep)
    async with contextlib.AsyncExitStack() as stack:

        async def open(path: str = "/sse", headers: bytes = b"", open_timeout_seconds: float = 20.0) -> UpstreamSession:
            target = Target(name="old", url=server.url.replace("/sse", path), open_timeout_seconds=open_timeout_seconds)
            async with asyncio.timeout(20):
                session = await open_sse(target, http, Hello(), headers, sweep=sweep)
            await stack.enter_async_context(contextlib.aclosing(session))
            return session

        yield open
    assert not [name for name in runtime.running_tasks() if "old" in name]
    await http.aclose()
    assert len(sweep) == 0
    sweep.close()


async def test_a_call_and_its_answer(opener: Open) -> None:
    session = await opener()
    assert session.welcome.protocol_version == "2025-11-25"
    assert session.stateful
    assert await text(session, tool_call("echo", text="grüß\n")) == "grüß\n"
    assert len(await text(session, tool_call("huge", size=2_000_000))) == 2_000_000


async def test_c3_calls_run_at_the_same_time(opener: Open) -> None:
    session = await opener()
    ears = [Ear() for _ in range(20)]
    hanging = [asyncio.create_task(text(session, tool_call("hang", token="t"), ear)) for ear in ears]
    for ear in ears:
        assert (await ear.next())[1] == {"progressToken": "t", "progress": 0}
    await text(session, tool_call("release"))
    assert await asyncio.gather(*hanging) == ["released"] * 20


async def test_c5_questions_and_progress_reach_the_caller(opener: Open) -> None:
    session = await opener()
    ear = Ear()
    ear.answer.set_result(b'{"roots":[]}')
    assert json.loads(await text(session, tool_call("ask", method="roots/list"), ear)) == {"roots": []}
    assert await ear.next_question() == ("roots/list", {})
    await text(session, tool_call("progress", token=7), ear)
    assert [(await ear.next())[1] for _ in range(3)] == [{"progressToken": 7, "progress": step} for step in range(3)]


async def test_i9_each_post_carries_the_headers_of_its_own_call(opener: Open) -> None:
    session = await opener(headers=b"Authorization: first\r\n")
    for credential in ("second", "third"):
        headers = f"Authorization: {credential}\r\n".encode()
        seen = json.loads(await text(session, tool_call("headers", headers=headers)))
        assert seen["authorization"] == credential
        assert seen["content-type"] == "application/json"


async def test_u7_a_cancelled_call_is_told_and_its_late_answer_ignored(opener: Open) -> None:
    session = await opener()
    ear = Ear()
    task = asyncio.create_task(session.request(tool_call("hang", token=1), ear))
    await ear.next()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    # Two POSTs on two connections may change places; the notification arrives, sooner or later.
    async with asyncio.timeout(10):
        while "notifications/cancelled" not in await text(session, tool_call("seen")):
            pass
    assert await text(session, tool_call("echo", text="on")) == "on"


async def test_a_silent_call_times_out_and_the_session_goes_on(opener: Open) -> None:
    session = await opener()
    with pytest.raises(UpstreamTimeout, match="old"):
        await text(session, tool_call("hang", timeout_seconds=0.05))
    assert await text(session, tool_call("echo", text="still here")) == "still here"


async def test_the_stream_may_be_silent_for_longer_than_opening_may_take(opener: Open) -> None:
    session = await opener(open_timeout_seconds=0.5)
    # The stream says nothing while this runs into its time-out, which is longer than the time for opening.
    with pytest.raises(UpstreamTimeout):
        await text(session, tool_call("hang", timeout_seconds=0.8))
    assert await text(session, tool_call("echo", text="open")) == "open"


async def test_an_answer_counts_before_its_post_is_answered(opener: Open) -> None:
    session = await opener("/held")
    assert await text(session, tool_call("echo", text="early")) == "early"


async def test_a_call_outlives_a_post_that_is_not_answered_while_it_shows_life(opener: Open) -> None:
    session = await opener("/held")
    ear = Ear()
    asking = asyncio.create_task(text(session, tool_call("ask", method="roots/list", timeout_seconds=0.2), ear))
    await ear.next_question()
    with pytest.raises(UpstreamTimeout):
        await text(session, tool_call("hang", timeout_seconds=0.5))
    ear.answer.set_result(b"{}")
    assert await asking == "{}"


async def test_u4_a_server_that_dies_mid_call_is_reported_at_once(server: Server, opener: Open) -> None:
    session = await opener()
    ear = Ear()
    hanging = asyncio.create_task(session.request(tool_call("hang", token=1), ear))
    await ear.next()
    started_at = asyncio.get_running_loop().time()
    try:
        with pytest.raises(ConnectionLost, match="'old'"):
            await text(session, tool_call("crash"))
        with pytest.raises(ConnectionLost):
            await hanging
        assert asyncio.get_running_loop().time() - started_at < 1
        assert session.closed
        with pytest.raises(ConnectFailed):
            await opener()
    finally:
        server.restart()
    assert await text(await opener(), tool_call("echo", text="back")) == "back"


async def test_the_end_of_the_stream_is_the_end_of_the_session(opener: Open) -> None:
    session = await opener()
    with pytest.raises(ConnectionLost, match="stream ended"):
        await text(session, tool_call("end"))
    assert session.closed
    with pytest.raises(SessionLost):
        await text(session, tool_call("echo", text="anyone?"))


async def test_a_session_that_the_server_forgot_is_lost(opener: Open) -> None:
    session = await opener()
    await text(session, tool_call("forget"))
    with pytest.raises(SessionLost, match="404") as caught:
        await text(session, tool_call("echo", text="hello?"))
    assert caught.value.refused_before_dispatch


async def test_a_refused_credential_is_the_callers_trouble(opener: Open) -> None:
    session = await opener()
    with pytest.raises(AuthRefused) as caught:
        await text(session, tool_call("echo", text="x", headers=b"Authorization: stale\r\n"))
    assert (caught.value.status, caught.value.challenge) == (401, 'Bearer realm="stub"')
    assert await text(session, tool_call("echo", text="fine", headers=b"Authorization: fresh\r\n")) == "fine"


@pytest.mark.parametrize(
    ("path", "expected", "says"),
    [
        ("/401", AuthRefused, "401"),
        ("/403", AuthRefused, "403"),
        ("/404", HttpRefused, "404"),
        ("/405", HttpRefused, "405"),
        ("/503", HttpRefused, "503"),
        ("/plain", HttpRefused, "application/json, not an event stream; check the URL"),
        ("/elsewhere", BadAnswer, "another origin, on 'other.invalid'"),
    ],
)
async def test_a_refusal_to_open_says_how(opener: Open, path: str, expected: type[UpstreamError], says: str) -> None:
    with pytest.raises(expected, match=says):
        await opener(path)


async def test_a_server_that_names_no_endpoint_is_not_waited_for(opener: Open) -> None:
    with pytest.raises(UpstreamTimeout, match=r"no session within 0\.2 s: 127\.0\.0\.1:\d+ has not answered"):
        await opener("/silent", open_timeout_seconds=0.2)


async def test_p3_giving_up_at_any_moment_of_opening_leaves_nothing(opener: Open) -> None:
    for turns in range(60):
        opening = asyncio.create_task(opener())
        for _ in range(turns):
            await asyncio.sleep(0)
        opening.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await opening


@pytest.mark.parametrize(
    ("named", "path"),
    [
        (b"/messages/?session_id=1", b"/messages/?session_id=1"),
        (b"message?sessionId=1", b"/mcp/message?sessionId=1"),
        (b"?s=1", b"/mcp/sse?s=1"),
        (b"http://crm.example:80/m", b"/m"),
        (b"http://CRM.example", b"/"),
        (b"//crm.example/m#part", b"/m"),
    ],
)
def test_an_endpoint_is_resolved_against_the_url(named: bytes, path: bytes) -> None:
    assert endpoint_path(Target(name="old", url="http://crm.example/mcp/sse"), named) == path


@pytest.mark.parametrize(
    "named",
    [
        b"",
        b"http://crm.example:81/m",
        b"https://crm.example/m",
        b"http://crm.example.evil.example/m",
        b"http://crm.example@evil.example/m",
        b"//evil.example/m",
        b"file:///etc/passwd",
        b"/m HTTP/1.1\r\nX: y",
        b"/m\nX: y",
        b"/\xc3\xa9",
        b"http://[broken/m",
        b"http://crm.example:port/m",
    ],
)
def test_an_endpoint_elsewhere_is_refused(named: bytes) -> None:
    with pytest.raises(BadAnswer):
        endpoint_path(Target(name="old", url="http://crm.example/mcp/sse"), named)
