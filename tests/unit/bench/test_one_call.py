"""The bench's stub, client and configuration: what they measure is what they should."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, TypeVar

import pytest

from bench.client import BenchFailed, Client, Session
from bench.measure import Cell, check
from bench.scene import JOINED, Crowd, gateway_config, open_sessions, tokens
from bench.stub import SIZES, TOOLS, listening, port_of
from tests.fakes.gateway import serving

T = TypeVar("T")
CROWD = Crowd(2, 2)


@pytest.fixture
async def ports() -> AsyncIterator[list[int]]:
    """A stub on two ports."""
    servers = await listening(CROWD.upstreams)
    yield [port_of(server) for server in servers]
    for server in servers:
        server.close()


async def beside(work: Callable[[], T]) -> T:
    """Run what blocks in a thread, while the stub and the gateway serve in this loop."""
    async with asyncio.timeout(10):
        return await asyncio.to_thread(work)


async def stats(port: int) -> dict[str, Any]:
    def ask() -> bytes:
        with Client(port) as client:
            return client.get("/stats").body

    found: dict[str, Any] = json.loads(await beside(ask))
    return found


async def test_every_principal_calls_through_the_gateway_in_a_session_of_its_own(tmp_path: Path, ports: list[int]) -> None:
    document = json.loads(gateway_config(tmp_path, CROWD, ports).read_text())
    async with serving(document) as gateway:
        before = await stats(ports[0])
        sessions = await beside(lambda: open_sessions(gateway.port, CROWD))
        after = await stats(ports[1])
    assert len({session.id for session in sessions}) == CROWD.principals * CROWD.upstreams
    assert after["calls"] - before["calls"] == CROWD.principals * CROWD.upstreams
    assert after["most_calls_per_session"] == after["most_principals_per_session"] == 1
    assert after["principals"] == CROWD.principals + 1  # the gateway itself is one


async def test_one_session_reaches_all_upstreams_at_the_joined_endpoint(tmp_path: Path, ports: list[int]) -> None:
    crowd = Crowd(1, 2, JOINED)
    async with serving(json.loads(gateway_config(tmp_path, crowd, ports).read_text())) as gateway:
        sessions = await beside(lambda: open_sessions(gateway.port, crowd, joined=True))
    assert [session.line().rpartition(" ")[2] for session in sessions] == ["u0__", "u1__"]
    assert len({session.id for session in sessions}) == 1


@pytest.mark.parametrize("tool", TOOLS)
async def test_the_stub_answers_in_the_form_and_size_that_the_tool_names(tool: str, ports: list[int]) -> None:
    def call() -> dict[str, Any]:
        with Client(ports[0]) as client:
            return client.call(client.open("/mcp", "alice"), tool)

    result = await beside(call)
    assert len(result["content"][0]["text"]) == SIZES[tool.partition("_")[2]]


async def test_the_stub_knows_a_session_only_until_it_ends(ports: list[int]) -> None:
    def call() -> None:
        with Client(ports[0]) as client:
            client.call(Session("/mcp", "alice", "of-nobody"), "json_small")

    with pytest.raises(BenchFailed, match="answered 404"):
        await beside(call)


async def test_the_stub_sees_a_session_that_meets_two_principals(ports: list[int]) -> None:
    def call() -> None:
        with Client(ports[0]) as client:
            session = client.open("/mcp", "alice")
            client.call(session, "json_small")
            client.call(Session("/mcp", "bob", session.id), "json_small")

    await beside(call)
    assert (await stats(ports[0]))["most_principals_per_session"] == 2


@pytest.mark.parametrize(
    ("load", "calls", "principals"),
    [
        ({"calls": 100, "failed": 1, "bytes": 10_000}, 100, 1),
        ({"calls": 0, "failed": 0, "bytes": 0}, 0, 1),
        ({"calls": 100, "failed": 0, "bytes": 10_000}, 0, 1),
        ({"calls": 100, "failed": 0, "bytes": 1_000}, 100, 1),
        ({"calls": 100, "failed": 0, "bytes": 10_000}, 100, 2),
    ],
    ids=["a call failed", "nothing was called", "not by the stub", "too short", "two principals met"],
)
def test_a_window_that_measured_something_else_is_refused(load: dict[str, int], calls: int, principals: int) -> None:
    with pytest.raises(BenchFailed):
        check(load, calls, {"most_principals_per_session": principals}, Cell(CROWD, "json", "small", 16))


def test_every_principal_has_a_token_of_its_own() -> None:
    assert len(set(tokens(1000))) == 1000
