"""The batteries through the gateway: what passes direct must pass here, for every client and every kind of upstream."""

from __future__ import annotations

from typing import Any

import pytest

from tests.clients.driver import Driver, Driver2x
from tests.fakes.gateway import serving
from tests.fakes.process import Server
from tests.fakes.programs import everything_command, fastmcp_1x_command
from tests.integration.battery import EVERYTHING, FASTMCP, Case, Target, cases, run_case, run_in_one_session


def one(**server: Any) -> dict[str, Any]:
    return {"mcpServers": {"up": server}, "gateway": {"logs": {"level": "warning"}}}


def command(words: list[str]) -> dict[str, Any]:
    return {"command": words[0], "args": words[1:]}


@pytest.mark.parametrize("case", cases(FASTMCP), ids=str)
async def test_a_stateful_server_as_if_direct(case: Case, client: Driver, stateful_1x: Server) -> None:
    async with serving(one(url=stateful_1x.url)) as gateway:
        await run_case(case, client, Target(url=gateway.server("up")))


async def test_a_stateful_server_among_all(client: Driver, stateful_1x: Server) -> None:
    async with serving(one(url=stateful_1x.url)) as gateway:
        await run_in_one_session(FASTMCP, client, Target(url=gateway.url, prefix="up__"))


@pytest.mark.parametrize("case", cases(FASTMCP, stateless=True), ids=str)
async def test_a_stateless_server_as_if_direct(case: Case, client_2x: Driver2x, stateless_1x: Server) -> None:
    async with serving(one(url=stateless_1x.url)) as gateway:
        await run_case(case, client_2x, Target(url=gateway.server("up")))


async def test_an_sse_server_as_if_direct(client: Driver, sse_1x: Server) -> None:
    async with serving(one(url=sse_1x.url)) as gateway:
        await run_in_one_session(FASTMCP, client, Target(url=gateway.server("up")))


async def test_a_stdio_server_as_if_direct(client: Driver) -> None:
    async with serving(one(**command(fastmcp_1x_command("stdio")))) as gateway:
        await run_in_one_session(FASTMCP, client, Target(url=gateway.server("up")))


@pytest.mark.parametrize("case", EVERYTHING, ids=str)
async def test_server_everything_as_if_direct(case: Case, client: Driver, everything_http: Server) -> None:
    async with serving(one(url=everything_http.url)) as gateway:
        await run_case(case, client, Target(url=gateway.server("up")))


async def test_server_everything_on_sse(client: Driver, everything_sse: Server) -> None:
    async with serving(one(url=everything_sse.url)) as gateway:
        await run_in_one_session(EVERYTHING, client, Target(url=gateway.server("up")))


async def test_server_everything_on_stdio(client: Driver) -> None:
    async with serving(one(**command(everything_command("stdio")))) as gateway:
        await run_in_one_session(EVERYTHING, client, Target(url=gateway.url, prefix="up__"))


@pytest.mark.parametrize("kind", ["stateful", "stateless", "sse", "stdio"])
async def test_with_the_pool_off_the_results_are_the_same(
    kind: str, client_2x: Driver2x, stateful_1x: Server, stateless_1x: Server, sse_1x: Server
) -> None:
    urls = {"stateful": stateful_1x.url, "stateless": stateless_1x.url, "sse": sse_1x.url}
    server = command(fastmcp_1x_command("stdio")) if kind == "stdio" else {"url": urls[kind]}
    document = {"mcpServers": {"up": server}, "gateway": {"session_pool": {"enabled": False}}}
    async with serving(document) as gateway:
        for case in cases(FASTMCP, stateless=True):
            await run_case(case, client_2x, Target(url=gateway.server("up")))
