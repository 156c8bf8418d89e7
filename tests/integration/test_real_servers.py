"""Published servers of the modern generation, on pipes, before every client that the SDK's two lines have."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import NamedTuple

import httpx2
import pytest
from mcp import Client, types
from mcp.client.streamable_http import streamable_http_client

from tests.clients.driver import Driver1x
from tests.clients.steps import Json
from tests.fakes.callers import bearer, letting_in
from tests.fakes.gateway import RunningGateway, serving

CALLERS = ("alice", "bob")
AUTH = letting_in(*CALLERS)

MODES = {"auto": "2026-07-28", "legacy": "2025-11-25", "2026-07-28": "2026-07-28"}
"""The modes of the SDK's current line, and the revision that each comes to speak."""

NOON = {"source_timezone": "UTC", "time": "12:00", "target_timezone": "Asia/Tokyo"}


class Visit(NamedTuple):
    """What one caller found at a gateway."""

    revision: str
    tools: set[str]
    log: str
    """What `git_log` said."""
    time: str
    """What `convert_time` said."""


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A git repository with one commit, made without the settings of whoever runs this."""
    env = os.environ | {"GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_SYSTEM": os.devnull}
    who = ["-c", "user.name=Ada", "-c", "user.email=ada@example.org"]
    for words in (["init", "--quiet"], [*who, "commit", "--quiet", "--allow-empty", "--message", "The first of all commits"]):
        subprocess.run(["git", *words], cwd=tmp_path, env=env, check=True, timeout=20)
    return tmp_path


@pytest.fixture
async def gateway(repository: Path) -> AsyncIterator[RunningGateway]:
    programs = Path(sys.executable).parent
    servers = {
        "git": {"command": str(programs / "mcp-server-git"), "args": ["--repository", str(repository)]},
        "time": {"command": str(programs / "mcp-server-time"), "args": ["--local-timezone=UTC"]},
    }
    async with serving({"mcpServers": servers, "gateway": AUTH}) as gateway:
        yield gateway


@contextlib.asynccontextmanager
async def client_of(url: str, mode: str, caller: str) -> AsyncIterator[Client]:
    async with httpx2.AsyncClient(headers=bearer(caller), trust_env=False, timeout=20) as http:
        async with Client(streamable_http_client(url, http_client=http), mode=mode) as client:
            yield client


async def visit_2x(client: Client, repository: Path) -> Visit:
    """With the SDK's current line."""
    tools = {tool.name for tool in (await client.list_tools()).tools}
    log = await client.call_tool("git__git_log", {"repo_path": str(repository)})
    time = await client.call_tool("time__convert_time", NOON)
    assert client.protocol_version is not None
    return Visit(client.protocol_version, tools, text_of(log), text_of(time))


def text_of(result: types.CallToolResult) -> str:
    content = result.content[0]
    assert isinstance(content, types.TextContent) and not result.is_error, result
    return content.text


async def visit_1x(driver: Driver1x, url: str, caller: str, repository: Path) -> Visit:
    """With the SDK's older line."""
    steps: list[Json] = [
        {"do": "initialize"},
        {"do": "list", "what": "tools"},
        {"do": "call", "tool": "git__git_log", "arguments": {"repo_path": str(repository)}},
        {"do": "call", "tool": "time__convert_time", "arguments": NOON},
    ]
    outcomes = await driver.run({"url": url, "headers": bearer(caller), "steps": steps})
    welcome, listed, log, time = (outcome["result"] for outcome in outcomes)
    names = {tool["name"] for tool in listed["tools"]}
    return Visit(welcome["protocolVersion"], names, log["content"][0]["text"], time["content"][0]["text"])


def check(visit: Visit, revision: str) -> None:
    assert visit.revision == revision
    assert {"git__git_log", "git__git_status", "time__convert_time", "time__get_current_time"} <= visit.tools
    assert "The first of all commits" in visit.log and "Ada" in visit.log
    assert "T21:00:00+09:00" in visit.time


async def test_two_callers_use_git_and_time_in_each_mode_of_the_current_line(gateway: RunningGateway, repository: Path) -> None:
    async with asyncio.timeout(20), contextlib.AsyncExitStack() as stack:
        opening = [client_of(gateway.url, mode, caller) for mode, caller in itertools.product(MODES, CALLERS)]
        clients = [await stack.enter_async_context(client) for client in opening]
        visits = await asyncio.gather(*(visit_2x(client, repository) for client in clients))
        # Of each server each caller has one process for all that has no session, and one for the legacy client's session.
        assert gateway.gateway.pool.get_metrics()["open"] == 2 * 2 * 2
    for visit, (mode, _caller) in zip(visits, itertools.product(MODES, CALLERS), strict=True):
        check(visit, MODES[mode])


@pytest.mark.onex
async def test_two_callers_use_git_and_time_with_the_older_line(
    client_1x: Driver1x, gateway: RunningGateway, repository: Path
) -> None:
    async with asyncio.timeout(20):
        visits = await asyncio.gather(*(visit_1x(client_1x, gateway.url, caller, repository) for caller in CALLERS))
    for visit in visits:
        check(visit, "2025-11-25")
