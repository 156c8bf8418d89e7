"""What is kept for an upstream goes when nothing uses it any more."""

from __future__ import annotations

import asyncio
import gc
from pathlib import Path

import pytest

from mcpgateway.config.values import TlsConfig
from mcpgateway.runtime import Sweep
from mcpgateway.upstream.connection import IDLE_SECONDS, Origin
from mcpgateway.upstream.open import Opener
from mcpgateway.upstream.tls import TlsContexts
from tests.fakes.clock import FakeClock
from tests.fakes.scripted import Talk, answer, scripted
from tests.fakes.until import until
from tests.servers.certificates import Authority


async def play(talk: Talk) -> None:
    while True:
        await talk.request()
        await talk.say(answer(b"{}"))


def clients(opener: Opener) -> str:
    gc.collect()
    return repr(opener)


async def test_a_client_is_kept_by_its_connections_and_by_whoever_holds_it(clock: FakeClock) -> None:
    sweep = Sweep(clock, tick_seconds=0.01)
    opener = Opener(sweep)
    async with scripted(play) as server, asyncio.timeout(10):
        url = f"http://127.0.0.1:{server.port}/mcp"
        for _ in range(2):
            await opener.http("up", url).send(b"GET", b"/mcp", b"", b"", 5)
            assert clients(opener) == "<Opener 1 HTTP clients>"
        assert server.connections == 1, "the connection of the first was there for the second"
        held = opener.http("up", url)
        clock.advance(IDLE_SECONDS)
        await until(lambda: server.open_connections == 0)
        assert clients(opener) == "<Opener 1 HTTP clients>" and opener.http("up", url) is held
        del held
        await asyncio.sleep(0)
        await until(lambda: clients(opener) == "<Opener 0 HTTP clients>")
    sweep.close()


def test_a_thousand_servers_that_came_and_went_leave_no_client(clock: FakeClock) -> None:
    opener = Opener(Sweep(clock))
    for number in range(1000):
        opener.http(f"up-{number}", f"http://up-{number}.test/mcp")
    assert clients(opener) == "<Opener 0 HTTP clients>"


class Renewed(TlsContexts):
    """Contexts whose certificates changed as often as the test says."""

    now_in = 1

    def generation(self, settings: TlsConfig | None) -> int:
        return self.now_in


def test_u11_a_client_of_older_certificates_lets_its_connections_go(clock: FakeClock) -> None:
    contexts = Renewed()
    opener = Opener(Sweep(clock), contexts)
    old = opener.http("up", "https://up.test/mcp")
    contexts.now_in = 2
    new = opener.http("up", "https://up.test/mcp")
    assert isinstance(old, Origin) and isinstance(new, Origin) and new is not old
    assert (old._keeping, new._keeping) == (False, True)
    assert opener.http("up", "https://up.test/mcp") is new


@pytest.fixture(scope="module")
def authority() -> Authority:
    return Authority()


def test_the_context_of_settings_that_nobody_holds_goes_when_another_is_made(authority: Authority, tmp_path: Path) -> None:
    ca = authority.write_own(tmp_path)
    cert, key = authority.write(tmp_path, "gateway")
    contexts = TlsContexts()
    one, same, other = TlsConfig(ca=ca), TlsConfig(ca=ca), TlsConfig(ca=ca, cert=cert, key=key)
    kept = contexts.context(one)
    assert contexts.context(same) is kept and contexts.context(None) is not kept
    del one
    contexts.context(other)
    assert contexts.context(same) is kept, "somebody still holds settings that are equal"
    del same
    contexts.context(other)
    contexts.context(TlsConfig(cert=cert, key=key))
    assert repr(contexts) == "<TlsContexts 3>", "the system's, the one that is held, and the newest"
