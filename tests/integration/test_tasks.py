"""Tasks of 2025-11-25 through the gateway: they work, and each is its principal's alone."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from tests.clients.wire import Wire
from tests.fakes.callers import bearer, letting_in
from tests.fakes.gateway import RunningGateway, serving
from tests.fakes.process import Server

TOOL = "simulate-research-query"
Message = dict[str, Any]


@asynccontextmanager
async def gateway_of(server: Server) -> AsyncIterator[RunningGateway]:
    async with serving({"gateway": letting_in("alice", "bob"), "mcpServers": {"every": {"url": server.url}}}) as gateway:
        yield gateway


@asynccontextmanager
async def client(url: str, name: str, revision: str = "2025-11-25") -> AsyncIterator[Wire]:
    async with Wire(url, bearer(name)) as wire, asyncio.timeout(30):
        await wire.initialize(revision=revision)
        yield wire


async def begin(wire: Wire, tool: str = TOOL) -> str:
    """A task of this client's. Its id."""
    params = {"name": tool, "arguments": {"topic": "bees", "ambiguous": False}, "task": {"ttl": 60_000}}
    answer = await wire.request("tools/call", params)
    id: str = answer["result"]["task"]["taskId"]
    return id


def ids_of(answer: Message) -> list[str]:
    return [task["taskId"] for task in answer["result"]["tasks"]]


@pytest.mark.parametrize("endpoint", ["one", "all"])
async def test_a_task_is_begun_looked_at_and_gives_its_result(everything_http: Server, endpoint: str) -> None:
    async with gateway_of(everything_http) as gateway:
        url, tool = (gateway.server("every"), TOOL) if endpoint == "one" else (gateway.url, f"every__{TOOL}")
        async with client(url, "alice") as alice:
            assert "tasks" in alice.welcome["capabilities"]
            id = await begin(alice, tool)
            assert (await alice.request("tasks/get", {"taskId": id}))["result"]["taskId"] == id
            assert id in ids_of(await alice.request("tasks/list"))
            result = (await alice.request("tasks/result", {"taskId": id}))["result"]
            assert "bees" in result["content"][0]["text"]


async def test_a_task_of_somebody_else_is_as_unknown_as_one_that_never_was(everything_http: Server) -> None:
    async with gateway_of(everything_http) as gateway:
        url = gateway.server("every")
        async with client(url, "alice") as alice, client(url, "bob") as bob:
            of_alice, of_bob = await begin(alice), await begin(bob)
            for method in ("tasks/get", "tasks/result", "tasks/cancel"):
                refused = await bob.request(method, {"taskId": of_alice})
                assert refused["error"] == (await bob.request(method, {"taskId": "never-was"}))["error"]
            assert of_alice not in ids_of(await bob.request("tasks/list"))
            assert of_bob in ids_of(await bob.request("tasks/list"))
            assert (await alice.request("tasks/get", {"taskId": of_alice}))["result"]["status"] != "cancelled"


async def test_a_client_whose_revision_has_no_tasks_is_not_offered_any(everything_http: Server) -> None:
    async with gateway_of(everything_http) as gateway, client(gateway.server("every"), "alice", "2025-06-18") as alice:
        assert "tasks" not in alice.welcome["capabilities"]
