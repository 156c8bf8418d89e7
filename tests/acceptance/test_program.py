"""The program as people run it: started from a command line, watched, stopped and killed."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import shutil
import signal
import socket
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Self

import httpx
import pytest

from tests.clients.driver import Driver2x
from tests.clients.modern_wire import ModernWire
from tests.clients.wire import Wire
from tests.fakes import async_process
from tests.fakes.lifeline import Lifeline
from tests.fakes.ports import free_port
from tests.fakes.process import PROJECT, Server
from tests.servers.raw_stub import Stub
from tests.servers.waiting_stub import WaitingStub

HOLDING = 'exec 9>"$FIFO"; echo begun >&9; exec "$PYTHON" -m tests.servers.stdio_stub'
STUBBORN = 'trap \'\' TERM INT HUP; exec 9>"$FIFO"; echo begun >&9; "$PYTHON" -m tests.servers.stdio_stub; sleep 60'
"""Does not leave when its stdin ends, nor for any signal that can be ignored."""


@pytest.fixture
async def stub() -> AsyncIterator[WaitingStub]:
    async with WaitingStub() as server:
        yield server


class Program:
    """A program of ours with its output read, in a process group of its own."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self.pid = process.pid
        self.errors = asyncio.create_task(self._stderr())

    def __repr__(self) -> str:
        return f"<Program {self.pid}>"

    @classmethod
    @contextlib.asynccontextmanager
    async def running(cls, *words: str | Path) -> AsyncIterator[Self]:
        """Run Python with these arguments. In the end its whole group is gone."""
        process = await async_process.start(sys.executable, *map(str, words))
        program = cls(process)
        try:
            yield program
        finally:
            await async_process.end(process)
            async with asyncio.timeout(20):
                await program.errors

    async def _stderr(self) -> str:
        assert self._process.stderr is not None
        return (await self._process.stderr.read()).decode()

    async def says(self, text: str) -> str:
        """What it prints until a line with `text`, that line too."""
        assert self._process.stdout is not None
        said = ""
        async with asyncio.timeout(30):
            while line := (await self._process.stdout.readline()).decode():
                said += line
                if text in line:
                    return said
        raise AssertionError(f"it ended without saying {text!r}: {said}\n{await self.errors}")

    async def ends(self) -> tuple[int, str]:
        """Its exit code, and the rest of what it printed."""
        assert self._process.stdout is not None
        async with asyncio.timeout(30):
            rest = (await self._process.stdout.read()).decode()
            return await self._process.wait(), rest

    def signal(self, number: signal.Signals) -> None:
        """To the program itself; its children do not get it."""
        self._process.send_signal(number)


def written(folder: Path, document: dict[str, Any]) -> Path:
    path = folder / "mcp.json"
    path.write_text(json.dumps(document), encoding="utf-8")
    return path


@contextlib.asynccontextmanager
async def served(folder: Path, document: dict[str, Any]) -> AsyncIterator[tuple[Program, str]]:
    """A gateway process for this configuration, once every server was tried; and its base URL."""
    port = free_port()
    base = f"http://127.0.0.1:{port}"
    async with Program.running("-m", "mcpgateway", "serve", written(folder, document), "--port", str(port)) as program:
        await program.says(f"Serving {folder / 'mcp.json'} at {base}/mcp")
        async with asyncio.timeout(30), httpx.AsyncClient(trust_env=False) as http:
            while (await http.get(f"{base}/readyz")).status_code != 200:
                pass  # asking again takes a round trip
        yield program, base


async def refusal(base: str) -> int:
    """How a newcomer is refused once the gateway drains: a status, or 0 where nobody listens any more."""
    async with asyncio.timeout(15):
        while True:
            try:
                async with Wire(f"{base}/mcp") as wire:
                    reply = await wire.initialize()
            except httpx.TransportError:
                return 0
            if reply.status != 200:
                return reply.status


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_c7_a_signal_lets_calls_finish_refuses_new_ones_and_leaves_nothing(
    number: signal.Signals, stub: WaitingStub, tmp_path: Path
) -> None:
    async with (
        Lifeline(tmp_path / "lifeline") as lifeline,
        served(tmp_path, {"mcpServers": {"up": {"url": stub.url}, "child": lifeline.server(HOLDING)}}) as (program, base),
        Wire(f"{base}/mcp") as wire,
        asyncio.timeout(40),
    ):
        await wire.initialize()
        assert (await wire.call("child__echo", {"text": "x"}))["result"]["content"][0]["text"] == "x"
        call = asyncio.create_task(wire.call("up__wait"))
        async with wire.listen() as stream:
            while stub.seen.running == 0:
                await wire.request("ping")
            program.signal(number)
            assert [message async for message in stream if "method" not in message] == []
        assert await refusal(base) in (0, 503)
        assert not call.done()
        stub.release.set()
        assert (await call)["result"]["content"][0]["text"] == "released"
        code, _ = await program.ends()
        errors = await program.errors
        assert code in (0, -number, 128 + number) and "Traceback" not in errors, errors
        assert sorted(stub.seen.deletes) == sorted(stub.seen.sessions) and len(stub.seen.sessions) == 2
        assert (await lifeline.all_gone()).count(b"begun") == 2


async def test_c7_a_call_that_does_not_finish_is_given_up_in_the_end(stub: WaitingStub, tmp_path: Path) -> None:
    document = {"mcpServers": {"up": {"url": stub.url}}, "gateway": {"drain_seconds": 1}}
    async with served(tmp_path, document) as (program, base), Wire(f"{base}/mcp") as wire, asyncio.timeout(40):
        await wire.initialize()
        call = asyncio.create_task(wire.call("up__wait"))
        while stub.seen.running == 0:
            await wire.request("ping")
        program.signal(signal.SIGTERM)
        code, _ = await program.ends()
        assert code in (0, -signal.SIGTERM)
        assert sorted(stub.seen.deletes) == sorted(stub.seen.sessions)
        told = (await call)["error"]
        assert told["data"] == {"kind": "GatewayStopped"} and "it may have run" in told["message"]


async def test_c7_a_call_of_a_client_without_a_session_is_given_up_with_the_same_words(
    stub: WaitingStub, tmp_path: Path
) -> None:
    document = {"mcpServers": {"up": {"url": stub.url}}, "gateway": {"drain_seconds": 1}}
    async with served(tmp_path, document) as (program, base), ModernWire(f"{base}/mcp") as wire, asyncio.timeout(40):
        call = asyncio.create_task(wire.call("up__wait"))
        while stub.seen.running == 0:
            await wire.request("server/discover")
        program.signal(signal.SIGTERM)
        told = (await call)["error"]
        assert told["data"] == {"kind": "GatewayStopped"} and "it may have run" in told["message"]
        code, _ = await program.ends()
        assert code in (0, -signal.SIGTERM) and "Traceback" not in await program.errors


async def test_u12_a_gateway_that_is_killed_leaves_no_stdio_server_behind(tmp_path: Path) -> None:
    async with (
        Lifeline(tmp_path / "lifeline") as lifeline,
        served(tmp_path, {"mcpServers": {"child": lifeline.server(STUBBORN)}}) as (program, base),
        asyncio.timeout(40),
    ):
        async with Wire(f"{base}/mcp") as wire:
            await wire.initialize()
            assert "result" in await wire.call("child__echo", {"text": "x"})
        program.signal(signal.SIGKILL)
        assert (await program.ends())[0] == -signal.SIGKILL
        assert (await lifeline.all_gone()).count(b"begun") == 2


async def test_the_logs_of_a_program_are_json_without_secrets_and_with_request_ids(stub: WaitingStub, tmp_path: Path) -> None:
    server = {"url": stub.url, "headers": {"X-Api-Key": "planted-header-secret"}}
    async with served(tmp_path, {"mcpServers": {"up": server}}) as (program, base), asyncio.timeout(40):
        async with Wire(f"{base}/mcp") as wire:
            await wire.initialize()
            stub.do({"status": 500, "times": 1})
            await wire.call("up__counter", headers={"x-request-id": "request-17"})
        program.signal(signal.SIGTERM)
        await program.ends()
        lines = [json.loads(line) for line in (await program.errors).splitlines()]
    assert any("request-17" in json.dumps(line) and "HTTP 500" in json.dumps(line) for line in lines)
    assert "planted-header-secret" not in json.dumps(lines)


async def check(folder: Path, document: dict[str, Any]) -> tuple[int, str]:
    """Exit code and output of `mcpgateway check`."""
    async with Program.running("-m", "mcpgateway", "check", written(folder, document)) as program:
        code, said = await program.ends()
        return code, said + await program.errors


async def test_check_shows_real_servers_and_ends_with_0_when_all_answer(
    stateful_1x: Server, sse_1x: Server, tmp_path: Path
) -> None:
    stdio = {"command": sys.executable, "args": ["-m", "tests.servers.stdio_stub"], "cwd": str(PROJECT)}
    servers = {"web": {"url": stateful_1x.url}, "old": {"url": sse_1x.url}, "local": stdio}
    code, said = await check(tmp_path, {"mcpServers": servers})
    assert code == 0, said
    rows = [line.split() for line in said.splitlines() if line.endswith(" ms")]
    assert sorted(row[:4] for row in rows) == [
        ["local", "stdio", "2025-11-25", "ready"],
        ["old", "sse", "2025-11-25", "ready"],
        ["web", "http", "2025-11-25", "ready"],
    ], said


async def test_check_ends_with_1_when_one_is_down_and_says_which_and_why(stub: WaitingStub, tmp_path: Path) -> None:
    down = {"url": "http://127.0.0.1:9/mcp?key=planted-query-secret"}
    code, said = await check(
        tmp_path, {"mcpServers": {"up": {"url": stub.url}, "down": down, "off": {**down, "enabled": False}}}
    )
    assert code == 1
    assert re.search(r"^up +http +2025-11-25 +ready", said, re.MULTILINE), said
    assert re.search(r"^down .*unreachable", said, re.MULTILINE) and re.search(
        r"^down .*\n  upstream 'down'", said, re.MULTILINE
    )
    assert "planted-query-secret" not in said and "Traceback" not in said


async def test_check_shows_each_server_as_soon_as_it_was_tried(stub: WaitingStub, tmp_path: Path) -> None:
    slow = Stub()
    slow.orders.hang = True
    await slow.start()
    path = written(tmp_path, {"mcpServers": {"slow": {"url": slow.url}, "up": {"url": stub.url}}})
    try:
        async with Program.running("-m", "mcpgateway", "check", path) as program, asyncio.timeout(40):
            said = await program.says("ready")
            assert re.search("^up +http +2025-11-25 +ready", said, re.MULTILINE) and "slow" not in said
            await slow.aclose()
            code, rest = await program.ends()
    finally:
        await slow.aclose()
    assert code == 1 and re.search("^slow .* unreachable\n  upstream 'slow'", rest, re.MULTILINE), rest


async def test_check_ends_with_2_when_the_file_cannot_be_used(tmp_path: Path) -> None:
    code, said = await check(tmp_path, {"mcpServers": {"up": {"url": "${NOT_SET_ANYWHERE}"}}})
    assert code == 2 and "mcpServers.up.url" in said and "NOT_SET_ANYWHERE" in said


async def test_a_new_token_opens_the_gateway_whose_configuration_has_its_line(stub: WaitingStub, tmp_path: Path) -> None:
    async with Program.running("-m", "mcpgateway", "token", "new", "ada") as program:
        code, said = await program.ends()
    token = re.search(r"^ +(mcpgw_\S+)$", said, re.MULTILINE)
    line = re.search(r'^ +("ada": "sha256:\w+")$', said, re.MULTILINE)
    assert code == 0 and token and line, said
    document = {"mcpServers": {"up": {"url": stub.url}}, "gateway": {"auth": {"tokens": json.loads(f"{{{line[1]}}}")}}}
    async with served(tmp_path, document) as (_, base), asyncio.timeout(40):
        for authorization, status in ((f"Bearer {token[1]}", 200), (f"Bearer {token[1]}x", 401), (None, 401)):
            async with Wire(f"{base}/mcp", {"Authorization": authorization} if authorization else {}) as wire:
                assert (await wire.initialize()).status == status


async def test_c10_the_example_starts_serves_both_servers_and_ends_cleanly(client_2x: Driver2x, tmp_path: Path) -> None:
    examples = shutil.copytree(PROJECT / "examples", tmp_path / "examples", ignore=shutil.ignore_patterns("__pycache__"))
    port = free_port()
    url = f"http://127.0.0.1:{port}/mcp"
    async with Program.running(examples / "run.py", "--port", str(port)) as program, asyncio.timeout(60):
        said = await program.says(f"at {url}") + await program.says('"gateway": {')
        assert "/servers/time/mcp" in said and "/servers/notebook/mcp" in said
        steps = [
            {"do": "list", "what": "tools"},
            {"do": "call", "tool": "time__get_current_time", "arguments": {"timezone": "Etc/UTC"}},
            {"do": "call", "tool": "notebook__add_note", "arguments": {"text": "hello"}},
            {"do": "call", "tool": "notebook__count"},
        ]
        async with httpx.AsyncClient(trust_env=False) as http:
            while (await http.get(url.removesuffix("mcp") + "readyz")).status_code != 200:
                pass  # asking again takes a round trip
        wanted, names = {"time__get_current_time", "notebook__add_note"}, set[str]()
        while not wanted <= names:  # a server that is slow to start joins a list later
            tools, now, added, counted = await client_2x.run({"url": url, "steps": steps})
            names = {tool["name"] for tool in tools["result"]["tools"]}
        assert "UTC" in now["result"]["content"][0]["text"]
        assert "note 1" in added["result"]["content"][0]["text"] and counted["result"]["content"][0]["text"] == "1"
        program.signal(signal.SIGINT)
        code, _ = await program.ends()
        assert code == 130
        errors = await program.errors
        assert "Traceback" not in errors and "Aborted" not in errors, errors
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port), timeout=5)
