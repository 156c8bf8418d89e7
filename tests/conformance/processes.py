"""The processes of a conformance run: started, heard until they say where they listen, and gone in the end."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import sys
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import httpx

from tests.fakes import async_process
from tests.fakes.programs import python_1x

START_SECONDS = 30.0


class DidNotStart(Exception):
    """A process ended or stayed silent instead of saying where it listens; the text ends with what it said of it."""


def fixture_command(kind: str) -> list[str]:
    """How to run a fixture of ours: `dual` and `modern` on the SDK's 2.x line, `legacy` on its 1.x line."""
    if kind == "legacy":
        return [python_1x(), "-m", "tests.conformance.server_1x"]
    return [sys.executable, "-m", "tests.conformance.server", kind]


@contextlib.asynccontextmanager
async def fixture(kind: str) -> AsyncIterator[str]:
    """The URL of a fixture that runs until the block ends."""
    async with _listening(fixture_command(kind), r'"port": (\d+)') as port:
        yield f"http://127.0.0.1:{port}/mcp"


@contextlib.asynccontextmanager
async def gateway(upstream: str, folder: Path) -> AsyncIterator[str]:
    """The URL at which a gateway of its own offers one upstream, to anybody on this machine."""
    config = folder / "gateway.json"
    config.write_text(json.dumps({"mcpServers": {"up": {"url": upstream}}}))
    command = [sys.executable, "-m", "mcpgateway", "serve", str(config), "--port", "0"]
    async with _listening(command, r" at (http://\S+)/mcp") as base:
        await _until_ready(base)
        yield f"{base}/servers/up/mcp"


async def _until_ready(base: str) -> None:
    async with httpx.AsyncClient(trust_env=False) as client, asyncio.timeout(START_SECONDS):
        while (await client.get(f"{base}/readyz")).status_code != 200:
            await asyncio.sleep(0.02)


@contextlib.asynccontextmanager
async def _listening(command: Sequence[str], where: str) -> AsyncIterator[str]:
    """Run a program until the block ends; what the pattern `where` finds in a line that it prints."""
    process = await async_process.start(*command)
    said: list[bytes] = []
    listening = asyncio.create_task(_read(process.stderr, said))
    try:
        found = await _find(process, where, said)
        rest = asyncio.create_task(_read(process.stdout, []))
        yield found
        rest.cancel()
    finally:
        await async_process.end(process)
        listening.cancel()


async def _find(process: asyncio.subprocess.Process, where: str, said: list[bytes]) -> str:
    assert process.stdout is not None
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(START_SECONDS):
            while line := (await process.stdout.readline()).decode():
                if found := re.search(where, line):
                    return found[1]
    raise DidNotStart(b"".join(said[-50:]).decode(errors="replace"))


async def _read(stream: asyncio.StreamReader | None, into: list[bytes]) -> None:
    assert stream is not None
    while line := await stream.readline():
        into.append(line)
