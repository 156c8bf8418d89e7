"""npm's Playwright server, which keeps a browser for each of its sessions, and callers that have no session of their own."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.clients.modern_wire import ModernWire
from tests.clients.wire import Message, Wire
from tests.fakes.callers import bearer, letting_in
from tests.fakes.gateway import RunningGateway, serving
from tests.fakes.process import PROJECT, Server
from tests.fakes.programs import node
from tests.servers.answering import AnsweringServer
from tests.servers.http11 import Request, reply

pytestmark = [pytest.mark.node, pytest.mark.browser]

AUTH = letting_in("alice", "bob")

HOW = "--port=0 --headless --isolated --no-sandbox --timeout-settle=0 --timeout-action=20000".split()
PAGE = '<!doctype html><link rel="icon" href="data:,"><title>{name}</title><h1>The page of {name}</h1>'
LOOK = "() => [document.title, document.cookie, window.looks = (window.looks ?? 0) + 1]"


class Site(AnsweringServer):
    """A page for each path, and a cookie that tells one browser from another."""

    def __init__(self) -> None:
        super().__init__()
        self._browsers = itertools.count(1)

    def page(self, name: str) -> str:
        return f"http://127.0.0.1:{self.port}/{name}"

    async def _respond(self, request: Request, writer: asyncio.StreamWriter) -> None:
        await reply(writer, 200, PAGE.format(name=request.path[1:]).encode(), self._headers(request))

    def _headers(self, request: Request) -> dict[str, str]:
        plain = {"content-type": "text/html"}
        return plain if "cookie" in request.headers else {**plain, "set-cookie": f"browser={next(self._browsers)}"}


class Look(NamedTuple):
    """What a look at the page that is open found."""

    title: str
    browser: str
    times: int
    """How often this page was looked at since it was opened."""


@pytest.fixture(scope="module")
def playwright(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The server, with a browser that is there already."""
    modules = Path(os.environ.get("MCPGATEWAY_TEST_NODE_MODULES") or PROJECT / "tests" / "node" / "node_modules")
    preload, cli = PROJECT / "tests" / "node" / "port.mjs", modules / "@playwright" / "mcp" / "cli.js"
    browser, env = browser_of(modules)
    own = [f"--executable-path={browser}", f"--output-dir={tmp_path_factory.mktemp('pages')}"]
    with Server([node(), "--import", str(preload), str(cli), *HOW, *own], env=env) as server:
        yield server


def browser_of(modules: Path) -> tuple[Path, dict[str, str]]:
    """The browser, and what it needs in its environment. The one that npm carries brings libraries that a machine may lack."""
    named = os.environ.get("MCPGATEWAY_TEST_BROWSER")
    own = modules / ".browser"
    browser = Path(named) if named else own / "chromium"
    if not browser.exists():
        raise FileNotFoundError(f"this test needs {browser}; `make setup` installs it")
    return browser, {} if named else {"LD_LIBRARY_PATH": str(own / "libraries" / "lib")}


@pytest.fixture
async def site() -> AsyncIterator[Site]:
    async with Site() as site:
        yield site


@pytest.fixture
async def gateway(playwright: Server) -> AsyncIterator[RunningGateway]:
    # It serves those alone who call it by this name.
    url = f"http://localhost:{playwright.port}/mcp"
    async with serving({"mcpServers": {"web": {"url": url}}, "gateway": AUTH}) as gateway:
        yield gateway


async def said(wire: Wire, tool: str, **arguments: Any) -> str:
    """What a tool of the server answered."""
    response: Message = await wire.call(f"web__{tool}", arguments)
    assert not response["result"].get("isError"), response
    return str(response["result"]["content"][0]["text"])


async def go(wire: Wire, url: str) -> None:
    assert f"Page URL: {url}" in await said(wire, "browser_navigate", url=url)


async def look(wire: Wire) -> Look:
    """One look more at the page that is open."""
    answer = await said(wire, "browser_evaluate", function=LOOK)
    return Look(*json.loads(answer.removeprefix("### Result\n").partition("\n###")[0]))


async def test_i1_two_modern_callers_each_keep_their_own_page(gateway: RunningGateway, site: Site) -> None:
    async with asyncio.timeout(20):
        async with ModernWire(gateway.url, bearer("alice")) as alice, ModernWire(gateway.url, bearer("bob")) as bob:
            await asyncio.gather(go(alice, site.page("alice")), go(bob, site.page("bob")))
            looks = await asyncio.gather(*(look(wire) for wire in (alice, bob, alice, alice, bob)))
            shown = await asyncio.gather(*(said(wire, "browser_snapshot") for wire in (bob, alice)))
            looks += [await look(wire) for wire in (bob, alice)]
    assert "The page of bob" in shown[0] and "The page of alice" in shown[1]
    assert sorted(each.times for each in looks if each.title == "alice") == [1, 2, 3, 4]
    assert sorted(each.times for each in looks if each.title == "bob") == [1, 2, 3]
    # A session of the server's is a browser with cookies of its own: it had two, and each of them one caller.
    assert len({each.browser for each in looks}) == 2
    assert len({(each.title, each.browser) for each in looks}) == 2


async def test_i2_a_session_of_alices_own_has_a_page_of_its_own(gateway: RunningGateway, site: Site) -> None:
    async with asyncio.timeout(20), ModernWire(gateway.url, bearer("alice")) as modern:
        await go(modern, site.page("alice"))
        before = await look(modern)
        async with Wire(gateway.url, bearer("alice")) as legacy:
            await legacy.initialize()
            assert "about:blank" in await said(legacy, "browser_snapshot")
            await go(legacy, site.page("elsewhere"))
            apart = await look(legacy)
            assert await legacy.delete() in (200, 204)
        assert (apart.title, apart.times) == ("elsewhere", 1) and apart.browser != before.browser
        assert await look(modern) == before._replace(times=2)


async def test_c5_a_modern_caller_that_has_roots_waits_for_no_answer_that_cannot_come(gateway: RunningGateway) -> None:
    # The server asks for them on the stream of its session, in the middle of the first call.
    async with asyncio.timeout(20), ModernWire(gateway.url, bearer("bob"), capabilities={"roots": {}}) as wire:
        response = await wire.call("web__browser_snapshot")
        if response["result"]["resultType"] == "input_required":
            answers = {key: {"roots": []} for key in response["result"]["inputRequests"]}
            response = await wire.again("tools/call", {"name": "web__browser_snapshot", "arguments": {}}, response, answers)
        assert "about:blank" in response["result"]["content"][0]["text"]
