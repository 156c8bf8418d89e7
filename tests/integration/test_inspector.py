"""The MCP Inspector's command line, made of the TypeScript SDK's v2 client, in its three eras at a gateway."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.clients.steps import Json
from tests.conformance.processes import fixture_command
from tests.fakes.gateway import RunningGateway, serving
from tests.fakes.process import PROJECT, Server
from tests.fakes.programs import node

pytestmark = pytest.mark.node

TEXT = "This is a simple text response for testing."
CALL = ("--method", "tools/call", "--tool-name", "test_simple_text")
READ = ("--method", "resources/read", "--uri", "test://static-text")
HANDSHAKE = ("--method", "initialize")
ERAS = ("legacy", "auto", "modern")


@pytest.fixture(scope="module")
def newer() -> Iterator[Server]:
    """A server that speaks modern alone."""
    with Server(fixture_command("modern")) as server:
        yield server


@pytest.fixture(scope="module")
def older() -> Iterator[Server]:
    """A server that speaks the handshake revisions alone."""
    with Server(fixture_command("legacy")) as server:
        yield server


@dataclass
class Visit:
    """What one run of the Inspector came to."""

    code: int
    said: str
    complaint: str

    @property
    def result(self) -> Json:
        assert self.code == 0, self
        found: Json = json.loads(self.said)["result"]
        return found


class Inspector:
    """Runs the Inspector, a few at a time: each is a program of its own."""

    def __init__(self, storage: Path) -> None:
        modules = Path(os.environ.get("MCPGATEWAY_TEST_NODE_MODULES") or PROJECT / "tests" / "node" / "node_modules")
        entry = modules / "@modelcontextprotocol" / "inspector" / "clients" / "launcher" / "build" / "index.js"
        self._command = (node(), str(entry), "--cli")
        self._env = os.environ | {"MCP_STORAGE_DIR": str(storage)}
        self._few = asyncio.Semaphore(3)

    async def visit(self, url: str, transport: str, era: str, *what: str) -> Visit:
        """Do one thing. Raises TimeoutError."""
        words = (*self._command, url, "--transport", transport, "--protocol-era", era, "--format", "json", *what)
        async with self._few, asyncio.timeout(20):
            return await self._run(words)

    async def _run(self, words: tuple[str, ...]) -> Visit:
        pipe = asyncio.subprocess.PIPE
        process = await asyncio.create_subprocess_exec(
            *words, env=self._env, stdin=asyncio.subprocess.DEVNULL, stdout=pipe, stderr=pipe
        )
        try:
            said, complaint = await process.communicate()
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
        assert process.returncode is not None
        return Visit(process.returncode, said.decode(), complaint.decode())


def both(newer: Server, older: Server) -> Json:
    return {"mcpServers": {"newer": {"url": newer.url}, "older": {"url": older.url}}}


def sse(gateway: RunningGateway, name: str) -> str:
    return f"{gateway.base}/servers/{name}/sse"


async def test_each_era_calls_a_tool_of_a_server_of_either_generation(newer: Server, older: Server, tmp_path: Path) -> None:
    inspector = Inspector(tmp_path)
    async with serving(both(newer, older)) as gateway, asyncio.timeout(60):
        wanted = [(name, era) for name in ("newer", "older") for era in ERAS]
        visits = await asyncio.gather(*(inspector.visit(gateway.server(name), "http", era, *CALL) for name, era in wanted))
        for visit in visits:
            assert visit.result["content"] == [{"type": "text", "text": TEXT}]


async def test_each_era_gets_its_own_revision_and_reads_across_generations(
    newer: Server, older: Server, tmp_path: Path
) -> None:
    inspector = Inspector(tmp_path)
    async with serving(both(newer, older)) as gateway, asyncio.timeout(60):
        crossed = {"legacy": gateway.server("newer"), "auto": gateway.url, "modern": gateway.server("older")}
        shaken = await asyncio.gather(*(inspector.visit(url, "http", era, *HANDSHAKE) for era, url in crossed.items()))
        assert [visit.result["protocolVersion"] for visit in shaken] == ["2025-11-25", "2026-07-28", "2026-07-28"]
        reading = (inspector.visit(crossed[era], "http", era, *READ) for era in ("legacy", "modern"))
        for visit in await asyncio.gather(*reading):
            assert visit.result["contents"][0]["text"].startswith("This is the content")


async def test_over_sse_the_older_eras_meet_servers_of_either_generation(newer: Server, older: Server, tmp_path: Path) -> None:
    inspector = Inspector(tmp_path)
    async with serving(both(newer, older)) as gateway, asyncio.timeout(60):
        wanted = [("newer", "legacy"), ("older", "auto")]
        visits = await asyncio.gather(*(inspector.visit(sse(gateway, name), "sse", era, *CALL) for name, era in wanted))
        assert [visit.result["content"][0]["text"] for visit in visits] == [TEXT, TEXT]


async def test_over_sse_there_is_no_modern_era_and_the_inspector_is_told(older: Server, tmp_path: Path) -> None:
    async with serving({"mcpServers": {"older": {"url": older.url}}}) as gateway, asyncio.timeout(60):
        visit = await Inspector(tmp_path).visit(sse(gateway, "older"), "sse", "modern", *CALL)
        assert visit.code == 1
        assert "did not offer pinned protocol version" in visit.complaint
