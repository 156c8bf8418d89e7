"""The gateway killed outright under load, and started again in its place."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx

from tests.clients.wire import Wire
from tests.fakes.callers import bearer, letting_in
from tests.fakes.lifeline import Lifeline
from tests.fakes.ports import free_port
from tests.fakes.process import Child
from tests.fakes.stub_server import StubServer

CALLERS = ("ada", "bob")
CONVERSATIONS = 3
CALLS_BEFORE = 5
HOLDING = (
    'exec 9>"$FIFO"; sleep 1000 </dev/null >/dev/null 2>&1 & echo begun >&9; '
    '"$PYTHON" -m tests.servers.stdio_stub; exec sleep 1000'
)
"""A stdio server with a child of its own, which does not leave when its stdin ends. All of it holds $FIFO open for writing."""


def document(stub: StubServer, lifeline: Lifeline) -> dict[str, Any]:
    return {"mcpServers": {"web": {"url": stub.url}, "local": lifeline.server(HOLDING)}, "gateway": letting_in(*CALLERS)}


@contextlib.asynccontextmanager
async def gateway(folder: Path, settings: dict[str, Any], port: int) -> AsyncIterator[Child]:
    """A gateway process, ready to serve."""
    path = folder / "mcp.json"
    path.write_text(json.dumps(settings), encoding="utf-8")
    with Child([sys.executable, "-m", "mcpgateway", "serve", str(path), "--port", str(port)]) as process:
        async with asyncio.timeout(30), httpx.AsyncClient(trust_env=False) as http:
            while not await is_ready(http, port):
                assert process.running, process.failed("ended early")
        yield process


async def is_ready(http: httpx.AsyncClient, port: int) -> bool:
    """Asked again and again: each time takes a round trip, or a refused connection."""
    try:
        return (await http.get(f"http://127.0.0.1:{port}/readyz")).status_code == 200
    except httpx.TransportError:
        return False


class Load:
    """A client that calls without pause, until the gateway is gone."""

    def __init__(self, wire: Wire) -> None:
        self.wire = wire
        self.warm = asyncio.Event()
        self.answered = 0

    def __repr__(self) -> str:
        return f"<Load {self.answered} calls answered>"

    async def run(self) -> None:
        await self.wire.initialize()
        hanging = asyncio.create_task(self.wire.call("local__hang"))
        # A transport error is what a client sees of a server that is killed.
        with contextlib.suppress(httpx.TransportError):
            await self._call_and_call()
        with contextlib.suppress(httpx.TransportError):
            await hanging

    async def _call_and_call(self) -> None:
        try:
            while True:
                assert "result" in await self.wire.call("web__counter")
                assert "result" in await self.wire.call("local__echo", {"text": "x"})
                self.answered += 1
                if self.answered == CALLS_BEFORE:
                    self.warm.set()
        finally:
            self.warm.set()  # whoever waits for it learns from the task what went wrong


async def goes_on_after_a_new_handshake(wire: Wire) -> None:
    """What the protocol asks of both: 404 for what is lost, then `initialize`."""
    lost = wire.session
    assert (await wire.post(wire.request_message("ping"))).status == 404
    assert await wire.delete() == 404
    assert (await wire.initialize()).status == 200
    assert wire.session not in (None, lost)
    counted = await wire.call("web__counter")
    assert json.loads(counted["result"]["content"][0]["text"])["count"] == 1, "a session of nobody's before"
    assert (await wire.call("local__echo", {"text": "again"}))["result"]["content"][0]["text"] == "again"


async def test_u12_killed_under_load_it_leaves_no_child_and_started_again_it_sends_clients_to_a_new_handshake(
    stub: StubServer, tmp_path: Path
) -> None:
    port = free_port()
    async with asyncio.timeout(60), contextlib.AsyncExitStack() as stack:
        before = await stack.enter_async_context(Lifeline(tmp_path / "before"))
        after = await stack.enter_async_context(Lifeline(tmp_path / "after"))
        headers = [bearer(name) for name in CALLERS for _ in range(CONVERSATIONS)]
        url = f"http://127.0.0.1:{port}/mcp"
        loads = [Load(await stack.enter_async_context(Wire(url, each))) for each in headers]
        async with gateway(tmp_path, document(stub, before), port) as process:
            running = [asyncio.create_task(load.run()) for load in loads]
            await asyncio.gather(*(load.warm.wait() for load in loads))
            # The process itself and nothing else of its group: what it started must notice on its own.
            os.kill(process.pid, signal.SIGKILL)
            await asyncio.gather(*running)
            said = await before.all_gone()
            assert said.count(b"begun") == len(loads) + 1, "each conversation had a server, and so had the gateway"
        sessions = set((await stub.seen())["sessions"])
        async with gateway(tmp_path, document(stub, after), port):
            await asyncio.gather(*(goes_on_after_a_new_handshake(load.wire) for load in loads))
        assert (await after.all_gone()).count(b"begun") == len(loads) + 1
        assert len(set((await stub.seen())["sessions"]) - sessions) == len(loads) + 1
