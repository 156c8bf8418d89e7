"""The real servers and clients of the tests, started when the first test asks for them and ended by their own id.

Servers that keep nothing between sessions, or whose sessions tests open for themselves, serve the whole run; a test that
kills, restarts or gives orders to a server has one of its own. No fixture here runs in an event loop.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from tests.clients.driver import Driver, Driver1x, Driver2x
from tests.fakes.clock import FakeClock
from tests.fakes.process import Server
from tests.fakes.programs import everything_command, fastmcp_1x_command
from tests.fakes.stub_server import StubServer


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture(scope="session")
def stateful_1x() -> Iterator[Server]:
    """SDK 1.x, Streamable HTTP with sessions."""
    with Server(fastmcp_1x_command("stateful")) as server:
        yield server


@pytest.fixture(scope="session")
def stateless_1x() -> Iterator[Server]:
    """SDK 1.x, Streamable HTTP without sessions, answering in JSON."""
    with Server(fastmcp_1x_command("stateless")) as server:
        yield server


@pytest.fixture(scope="session")
def sse_1x() -> Iterator[Server]:
    """SDK 1.x, HTTP+SSE of 2024-11-05."""
    with Server(fastmcp_1x_command("sse"), path="/sse") as server:
        yield server


@pytest.fixture
def own_stateful_1x() -> Iterator[Server]:
    """As `stateful_1x`, for one test alone, which may kill and restart it."""
    with Server(fastmcp_1x_command("stateful")) as server:
        yield server


@pytest.fixture(scope="session")
def everything_http() -> Iterator[Server]:
    """npm's server-everything on Streamable HTTP."""
    with Server(everything_command("streamableHttp")) as server:
        yield server


@pytest.fixture(scope="session")
def everything_sse() -> Iterator[Server]:
    """npm's server-everything on HTTP+SSE."""
    with Server(everything_command("sse"), path="/sse") as server:
        yield server


@pytest.fixture
def stub() -> Iterator[StubServer]:
    """The recording stub, for one test alone."""
    with StubServer() as server:
        yield server


@pytest.fixture
def stubs() -> Iterator[Callable[[], StubServer]]:
    """Starts as many recording stubs as a test asks for."""
    started: list[StubServer] = []

    def start() -> StubServer:
        started.append(StubServer())
        return started[-1]

    yield start
    for server in started:
        server.stop()


@pytest.fixture(scope="session")
def client_1x() -> Iterator[Driver1x]:
    """The client of the SDK's 1.x line."""
    driver = Driver1x()
    yield driver
    driver.stop()


@pytest.fixture
def client_2x() -> Driver2x:
    """The client of the SDK's 2.x line."""
    return Driver2x()


@pytest.fixture(params=["client_1x", "client_2x"])
def client(request: pytest.FixtureRequest) -> Driver:
    """Both clients, one after the other."""
    driver: Driver = request.getfixturevalue(request.param)
    return driver
