"""The stdio leg against real processes."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import sys
from collections.abc import AsyncIterator, Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest
from msgspec import Raw

from mcpgateway import runtime
from mcpgateway.errors import ConnectFailed, ConnectionLost, RpcError, SessionLost, UpstreamTimeout
from mcpgateway.protocol.call import Call
from mcpgateway.runtime import Sweep
from mcpgateway.upstream import stdio
from mcpgateway.upstream.base import Hello, Target, UpstreamSession
from mcpgateway.upstream.stdio import Lines, command_line, environment, how_it_ended, one_line, open_stdio
from tests.fakes.lifeline import Lifeline
from tests.fakes.peers import Ear, Person, call, tool_call
from tests.fakes.process import PROJECT, Child
from tests.integration.upstream.opened import text

STUBBORN = str(PROJECT / "tests" / "servers" / "stubborn.sh")
Open = Callable[..., Coroutine[Any, Any, UpstreamSession]]


def stub(mode: str = "", *, open_timeout_seconds: float = 20.0, env: tuple[tuple[str, str], ...] = ()) -> Target:
    return Target(
        name="clock",
        command=sys.executable,
        args=("-m", "tests.servers.stdio_stub", mode),
        cwd=str(PROJECT),
        env=env,
        open_timeout_seconds=open_timeout_seconds,
    )


@pytest.fixture
async def sweep() -> AsyncIterator[Sweep]:
    sweep = Sweep(tick_seconds=0.02)
    yield sweep
    assert len(sweep) == 0
    sweep.close()
    assert not [name for name in runtime.running_tasks() if "clock" in name]


@pytest.fixture
async def open_stub(sweep: Sweep) -> AsyncIterator[Open]:
    """Opens sessions with the stub; all are closed in the end."""
    async with contextlib.AsyncExitStack() as stack:

        async def open(mode: str = "", **target: Any) -> UpstreamSession:
            async with asyncio.timeout(20):
                session = await open_stdio(stub(mode, **target), Hello(), sweep=sweep)
            await stack.enter_async_context(contextlib.aclosing(session))
            return session

        yield open


@pytest.fixture
async def lifeline(tmp_path: Path) -> AsyncIterator[Lifeline]:
    async with Lifeline(tmp_path / "alive") as lifeline:
        yield lifeline


async def test_a_call_and_its_answer(open_stub: Open) -> None:
    session = await open_stub()
    assert session.welcome.protocol_version == "2025-11-25"
    assert session.stateful
    assert await text(session, tool_call("echo", text="grüß\n")) == "grüß\n"
    with pytest.raises(RpcError) as caught:
        await session.request(call("resources/list"), Ear())
    assert caught.value.code == -32601


async def test_line_breaks_between_tokens_do_not_cut_a_message(open_stub: Open) -> None:
    session = await open_stub()
    params = {"name": Raw(b'"echo"'), "arguments": Raw(b'{\r\n  "text":\n"pretty"\n}')}
    assert await text(session, Call("tools/call", params, client=Person())) == "pretty"


async def test_c3_calls_run_at_the_same_time(open_stub: Open) -> None:
    session = await open_stub()
    ears = [Ear() for _ in range(20)]
    hanging = [asyncio.create_task(text(session, tool_call("hang", token="t"), ear)) for ear in ears]
    for ear in ears:
        assert (await ear.next())[1] == {"progressToken": "t", "progress": 0}
    await text(session, tool_call("release"))
    assert await asyncio.gather(*hanging) == ["released"] * 20


async def test_c5_questions_progress_and_log_messages_reach_the_caller(open_stub: Open) -> None:
    session = await open_stub()
    ear = Ear()
    ear.answer.set_result(b'{"action":"accept","content":{"name":"Ada"}}')
    question = tool_call("ask", method="elicitation/create", params={"message": "who?"})
    assert json.loads(await text(session, question, ear)) == {"action": "accept", "content": {"name": "Ada"}}
    assert await ear.next_question() == ("elicitation/create", {"message": "who?"})
    await text(session, tool_call("progress", token=7), ear)
    assert [(await ear.next())[1] for _ in range(3)] == [{"progressToken": 7, "progress": step} for step in range(3)]
    await text(session, tool_call("log"), ear)
    assert await ear.next() == ("notifications/message", {"level": "info", "data": "working"})


async def test_u7_a_cancelled_call_is_told_and_the_session_goes_on(open_stub: Open) -> None:
    session = await open_stub()
    ear = Ear()
    task = asyncio.create_task(session.request(tool_call("hang", token=1), ear))
    await ear.next()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    seen = json.loads(await text(session, tool_call("seen")))
    assert [message["method"] for message in seen] == [
        "initialize",
        "notifications/initialized",
        "tools/call",
        "notifications/cancelled",
        "tools/call",
    ]
    assert seen[3]["params"]["requestId"] == seen[2]["id"]


async def test_a_silent_call_times_out_and_the_session_goes_on(open_stub: Open) -> None:
    session = await open_stub()
    with pytest.raises(UpstreamTimeout, match="clock"):
        await text(session, tool_call("hang", timeout_seconds=0.05))
    assert await text(session, tool_call("echo", text="still here")) == "still here"


async def test_u4_a_server_that_dies_mid_call_is_reported_at_once_with_its_last_words(open_stub: Open) -> None:
    session = await open_stub()
    ear = Ear()
    hanging = asyncio.create_task(session.request(tool_call("hang", token=1), ear))
    await ear.next()
    started_at = asyncio.get_running_loop().time()
    with pytest.raises(ConnectionLost, match=r"'clock'.*exit code 3: out of cheese"):
        await text(session, tool_call("crash"))
    with pytest.raises(ConnectionLost):
        await hanging
    assert asyncio.get_running_loop().time() - started_at < 1
    assert session.closed
    with pytest.raises(SessionLost):
        await text(session, tool_call("echo", text="anyone?"))


async def test_noise_on_stdout_and_stderr_is_logged_and_harmless(open_stub: Open, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        session = await open_stub("noisy")
        assert await text(session, tool_call("echo", text="hello")) == "hello"
    assert "Listening..." in caplog.text
    assert "stderr of upstream clock: ready" in caplog.messages
    assert max(map(len, caplog.messages)) < 5000


async def test_large_messages_pass_both_ways(open_stub: Open) -> None:
    session = await open_stub()
    assert len(await text(session, tool_call("huge", size=5_000_000))) == 5_000_000
    sent = "y" * 3_000_000
    assert await text(session, tool_call("echo", text=sent)) == sent


async def test_a_line_without_end_is_not_kept_without_end(open_stub: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stdio, "MAX_LINE_BYTES", 1000)
    session = await open_stub()
    with pytest.raises(ConnectionLost, match="more than 1000 bytes"):
        await text(session, tool_call("huge", size=5000))


async def test_what_a_server_does_not_read_is_not_kept_without_end(open_stub: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stdio, "MAX_UNREAD_BYTES", 1000)
    session = await open_stub("deaf")
    unread = asyncio.create_task(session.request(tool_call("echo", text="x" * 1_000_000), Ear()))
    with pytest.raises(ConnectionLost, match="does not read"):
        async with asyncio.timeout(10):
            await asyncio.gather(unread, text(session, tool_call("echo", text="y")))
    unread.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await unread


async def test_the_servers_environment_holds_none_of_our_secrets(open_stub: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GATEWAY_SECRET", "hush")
    session = await open_stub(env=(("ITS_OWN", "1"),))
    seen = json.loads(await text(session, tool_call("environment")))
    assert "hush" not in seen.values()
    assert seen["ITS_OWN"] == "1"
    assert seen["PATH"] == os.environ["PATH"]


async def test_a_command_that_does_not_exist_is_named(sweep: Sweep) -> None:
    with pytest.raises(ConnectFailed, match=r"cannot start 'no-such-server'.*No such file.*on the PATH"):
        await open_stdio(Target(name="clock", command="no-such-server"), Hello(), sweep=sweep)
    with pytest.raises(ConnectFailed, match=r"cannot start 'python server.py'.*arguments belong into args"):
        await open_stdio(Target(name="clock", command="python server.py"), Hello(), sweep=sweep)


async def test_a_directory_that_does_not_exist_is_named(sweep: Sweep, caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(ConnectFailed, match=r"'true' in '/no/such/place'"):
        await open_stdio(Target(name="clock", command="true", cwd="/no/such/place"), Hello(), sweep=sweep)
    assert [record for record in caplog.records if record.levelname == "ERROR"] == [], (
        "it is told once, and without a traceback"
    )


async def test_a_server_that_ends_while_opening_says_why(sweep: Sweep) -> None:
    with pytest.raises(ConnectFailed, match="exit code 7: no licence"):
        await open_stdio(stub("broken"), Hello(), sweep=sweep)


async def test_a_server_that_never_answers_is_not_waited_for(sweep: Sweep) -> None:
    with pytest.raises(
        UpstreamTimeout, match=r"no session within 0\.3 s: '.*' was started, and has not answered; run its command by hand"
    ):
        async with asyncio.timeout(20):
            await open_stdio(stub("silent", open_timeout_seconds=0.3), Hello(), sweep=sweep)


@pytest.mark.parametrize("manner", ["polite", "stubborn"])
async def test_u12_closing_ends_the_server_and_its_children(sweep: Sweep, lifeline: Lifeline, manner: str) -> None:
    target = Target(name="clock", command=STUBBORN, args=(manner,), env=(("FIFO", lifeline.path),))
    opening = asyncio.create_task(open_stdio(target, Hello(), sweep=sweep))
    await lifeline.begun()
    session = await opening
    async with asyncio.timeout(15):
        await session.aclose()
    assert await lifeline.all_gone() == b""
    assert session.closed


async def test_u12_and_p3_giving_up_while_it_opens_leaves_no_process(sweep: Sweep, lifeline: Lifeline) -> None:
    script = 'exec 9>"$FIFO"; echo begun >&9; exec sleep 1000'
    target = Target(name="clock", command="sh", args=("-c", script), env=(("FIFO", lifeline.path),))
    opening = asyncio.create_task(open_stdio(target, Hello(), sweep=sweep))
    await lifeline.begun()
    opening.cancel()
    with pytest.raises(asyncio.CancelledError):
        await opening
    assert await lifeline.all_gone() == b""


@pytest.mark.parametrize("turns", [0, 1, 2, 3, 5, 8, 13])
async def test_p3_giving_up_before_the_process_has_begun_leaves_nothing(sweep: Sweep, turns: int) -> None:
    opening = asyncio.create_task(open_stdio(stub(), Hello(), sweep=sweep))
    for _ in range(turns):
        await asyncio.sleep(0)
    opening.cancel()
    with pytest.raises(asyncio.CancelledError):
        await opening


async def test_u12_a_gateway_that_is_killed_outright_leaves_no_server_and_no_grandchild(lifeline: Lifeline) -> None:
    command = [sys.executable, "-m", "tests.servers.stdio_holder", STUBBORN, "stubborn"]
    with Child(command, env={"FIFO": lifeline.path}) as gateway:
        await lifeline.begun()
        await asyncio.to_thread(gateway.next_json)
        gateway.kill()
        assert await lifeline.all_gone() == b""


async def test_u12_a_server_that_dies_takes_its_children_along(sweep: Sweep, lifeline: Lifeline) -> None:
    grandchild = 'exec 9>"$FIFO"; sleep 1000 </dev/null >/dev/null 2>&1 & echo begun >&9; '
    script = f"{grandchild} exec {sys.executable} -m tests.servers.stdio_stub"
    target = Target(name="clock", command="sh", args=("-c", script), cwd=str(PROJECT), env=(("FIFO", lifeline.path),))
    session = await open_stdio(target, Hello(), sweep=sweep)
    await lifeline.begun()
    with pytest.raises(ConnectionLost, match="exit code 3"):
        await text(session, tool_call("crash"))
    assert await lifeline.all_gone() == b""
    await session.aclose()


def test_lines_are_cut_wherever_the_chunks_are() -> None:
    lines = Lines(5)
    assert lines.feed(b"ab") == []
    assert lines.feed(b"c\r\n\n  \nde\nf") == [b"abc", b"de"]
    assert lines.feed(b"ghijklmnop") == []
    assert lines.feed(b"q\nr\n") == [b"fghijk", b"r"]
    assert repr(lines) == "<Lines 0 bytes begun>"


def test_a_message_becomes_one_line() -> None:
    assert one_line(b'{"a":\n"\\n"\r\n}') == b'{"a": "\\n"  }\n'


def test_exported_shell_functions_are_not_passed_on() -> None:
    assert environment({"A": "1"}, {"PATH": "/bin", "SHELL": "() { :; }", "TOKEN": "x"}) == {"PATH": "/bin", "A": "1"}


def test_exit_codes_are_put_into_words() -> None:
    assert how_it_ended(3) == "ended with exit code 3"
    assert how_it_ended(137) == "was ended by SIGKILL"
    assert how_it_ended(-15) == "was ended by SIGTERM"
    assert how_it_ended(0) == "ended with exit code 0"


def test_a_server_runs_under_the_guard() -> None:
    assert command_line(Target(name="clock", command="server", args=("-x",)))[-2:] == ["server", "-x"]
