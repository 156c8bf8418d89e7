"""The batteries straight from client to server: what fails here is the battery's fault or the server's, not the gateway's."""

from __future__ import annotations

import pytest

from tests.clients.driver import Driver, Driver2x
from tests.fakes.process import Server
from tests.fakes.programs import everything_command, fastmcp_1x_command
from tests.integration.battery import EVERYTHING, FASTMCP, Case, Target, cases, run_case, run_in_one_session


@pytest.mark.parametrize("case", cases(FASTMCP), ids=str)
async def test_a_client_meets_a_stateful_server(case: Case, client: Driver, stateful_1x: Server) -> None:
    await run_case(case, client, Target(url=stateful_1x.url))


@pytest.mark.parametrize("case", cases(FASTMCP, stateless=True), ids=str)
async def test_a_client_meets_a_stateless_server(case: Case, client_2x: Driver2x, stateless_1x: Server) -> None:
    await run_case(case, client_2x, Target(url=stateless_1x.url))


async def test_a_client_meets_an_sse_server(client: Driver, sse_1x: Server) -> None:
    await run_in_one_session(FASTMCP, client, Target("sse", url=sse_1x.url))


async def test_a_client_meets_a_stdio_server(client: Driver) -> None:
    await run_in_one_session(FASTMCP, client, Target("stdio", command=fastmcp_1x_command("stdio")))


@pytest.mark.parametrize("case", EVERYTHING, ids=str)
async def test_a_client_meets_server_everything(case: Case, client: Driver, everything_http: Server) -> None:
    await run_case(case, client, Target(url=everything_http.url))


async def test_a_client_meets_server_everything_on_sse(client: Driver, everything_sse: Server) -> None:
    await run_in_one_session(EVERYTHING, client, Target("sse", url=everything_sse.url))


async def test_a_client_meets_server_everything_on_stdio(client: Driver) -> None:
    await run_in_one_session(EVERYTHING, client, Target("stdio", command=everything_command("stdio")))
