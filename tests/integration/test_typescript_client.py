"""The TypeScript SDK's v2 client at a gateway, in every way that it negotiates, before servers of either generation."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator

import pytest

from tests.clients.steps import Json
from tests.conformance import offers
from tests.conformance.processes import fixture_command
from tests.fakes.gateway import serving
from tests.fakes.process import PROJECT, Server
from tests.fakes.programs import node

pytestmark = pytest.mark.node

MODES: list[object] = ["legacy", "auto", {"pin": "2026-07-28"}]
SPOKEN = ["2025-11-25", "2026-07-28", "2026-07-28"]
ASKED = ["What is your name?", "Say something", "roots", "Step 1: What is your name?", "Step 2: What is your favorite color?"]


@pytest.fixture(scope="module", params=["legacy", "modern"])
def upstream(request: pytest.FixtureRequest) -> Iterator[Server]:
    """A server that speaks one generation alone."""
    with Server(fixture_command(request.param)) as server:
        yield server


async def visits(wanted: list[Json]) -> list[Json]:
    """What came of each visit of one client program. Raises AssertionError with what it complained of."""
    pipe = asyncio.subprocess.PIPE
    program = str(PROJECT / "tests" / "node" / "client.mjs")
    process = await asyncio.create_subprocess_exec(node(), program, json.dumps(wanted), stdout=pipe, stderr=pipe)
    try:
        said, complaint = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode == 0, complaint.decode()
    found: list[Json] = json.loads(said)
    return found


def check(visit: Json, version: str) -> None:
    """All that a client of this SDK does went well, and it was asked what its server wanted to know."""
    assert "error" not in visit, visit
    assert visit["version"] == version
    assert visit["texts"]["elicited"] == "Hello, Ada!"
    assert "sampled" in visit["texts"]["sampled"]
    assert visit["texts"]["roots"] == "file:///srv/ada"
    assert visit["texts"]["rounds"] == "Ada likes red"
    assert visit["asked"] == ASKED
    assert visit["tools"] == len(offers.TOOLS)
    assert visit["read"].startswith("This is the content")


async def test_it_uses_a_server_of_either_generation_in_every_mode(upstream: Server) -> None:
    async with serving({"mcpServers": {"up": {"url": upstream.url}}}) as gateway, asyncio.timeout(30):
        found = await visits([{"url": gateway.server("up"), "mode": mode} for mode in MODES])
        for visit, version in zip(found, SPOKEN, strict=True):
            check(visit, version)
            assert visit["progress"] == [0, 50, 100]


async def test_it_uses_them_over_the_first_transport_too(upstream: Server) -> None:
    async with serving({"mcpServers": {"up": {"url": upstream.url}}}) as gateway, asyncio.timeout(30):
        url = f"{gateway.base}/servers/up/sse"
        [visit] = await visits([{"url": url, "transport": "sse", "mode": "legacy"}])
        # Progress that reaches this client in one piece with the answer is dropped by it on this transport.
        check(visit, SPOKEN[0])
