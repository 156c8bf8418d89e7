"""python -m tests.soak.fairness --rounds 10 --seconds 2

What others wait for their answers, with and without a principal that holds all the sessions it may have, by calls that never
end, and keeps asking for more. Rounds of both kinds alternate; gateway and server are processes of their own. Ends with one
line of figures; exit code 1 if the others' p99 grew by more than half.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import socket
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import NamedTuple

from mcpgateway.cli import new_event_loop
from tests.fakes.callers import bearer, letting_in
from tests.fakes.process import Child
from tests.fakes.stub_server import StubServer
from tests.soak.wire import Message, Wire

HOG = "hog"
NEVER = {"ms": 86_400_000}
WAIT_SECONDS = 1.0
"""So that what the hog asks for too much is refused again and again, and asked for again and again."""
MOST_GROWTH = 1.5


class Plan(NamedTuple):
    """How much of everything."""

    rounds: int = 10
    seconds: float = 2.0
    others: int = 4
    held: int = 20
    waiting: int = 50


class Conversation:
    """One client session of a principal, over one connection."""

    def __init__(self, port: int, name: str) -> None:
        self._wire = Wire(port)
        self._ids = itertools.count(1)
        self._headers = {
            **bearer(name),
            "accept": "application/json, text/event-stream",
            "content-type": "application/json",
        }

    async def open(self) -> None:
        params = {"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {"name": "fair", "version": "1"}}
        await self._ask("initialize", params)

    async def call(self, tool: str, arguments: Message) -> Message:
        """The response to a tool call."""
        return await self._ask("tools/call", {"name": tool, "arguments": arguments})

    async def _ask(self, method: str, params: Message) -> Message:
        message = {"jsonrpc": "2.0", "id": next(self._ids), "method": method, "params": params}
        answer = await self._wire.send("POST", "/servers/up/mcp", self._headers, json.dumps(message).encode())
        if "mcp-session-id" in answer.headers:
            self._headers["mcp-session-id"] = answer.headers["mcp-session-id"]
        return (await answer.read())[-1]

    async def close(self) -> None:
        """End the session, and with it the calls that never end."""
        await (await self._wire.send("DELETE", "/servers/up/mcp", self._headers)).read()
        await self._wire.aclose()


class Hog:
    """Takes all it may have, and asks for more."""

    def __init__(self, port: int, plan: Plan) -> None:
        self._conversations = [Conversation(port, HOG) for _ in range(plan.held + plan.waiting)]
        self._held = plan.held
        self._tasks: list[asyncio.Task[None]] = []
        self.refused = 0

    async def begin(self) -> None:
        """Until it holds its maximum, which is when the first of its calls has been refused."""
        await asyncio.gather(*(conversation.open() for conversation in self._conversations))
        full = asyncio.Event()
        self._tasks = [asyncio.create_task(self._ask(each, full)) for each in self._conversations]
        async with asyncio.timeout(30):
            await full.wait()

    async def _ask(self, conversation: Conversation, full: asyncio.Event) -> None:
        while "error" in await conversation.call("slow", NEVER):
            self.refused += 1
            full.set()

    async def end(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for conversation in self._conversations:
            await conversation.close()


def document(url: str, plan: Plan) -> Message:
    names = [HOG, *(f"other-{number}" for number in range(plan.others))]
    pool = {"max_sessions_per_principal": plan.held, "wait_seconds": WAIT_SECONDS}
    return {"mcpServers": {"up": {"url": url}}, "gateway": letting_in(*names) | {"session_pool": pool}}


def written(folder: str, settings: Message) -> str:
    path = Path(folder, "mcp.json")
    path.write_text(json.dumps(settings), encoding="utf-8")
    return str(path)


@asynccontextmanager
async def gateway(plan: Plan) -> AsyncIterator[int]:
    """The port of a gateway before a stub, both processes of their own."""
    with tempfile.TemporaryDirectory() as folder, StubServer() as stub, socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
        probe.close()
        path = written(folder, document(stub.url, plan))
        with Child([sys.executable, "-m", "mcpgateway", "serve", path, "--port", str(port)]) as process:
            async with asyncio.timeout(30):
                while not await is_ready(port):
                    assert process.running, process.failed("ended early")
            yield port


async def is_ready(port: int) -> bool:
    wire = Wire(port)
    try:
        answer = await wire.send("GET", "/readyz", {})
    except OSError:
        return False
    finally:
        await wire.aclose()
    return answer.status == 200


async def latencies(conversations: list[Conversation], seconds: float) -> list[float]:
    """How long each call took that the conversations made, each one after the other."""
    took: list[float] = []
    until = time.perf_counter() + seconds

    async def call_and_call(conversation: Conversation) -> None:
        while (began := time.perf_counter()) < until:
            assert "result" in await conversation.call("counter", {})
            took.append(time.perf_counter() - began)

    await asyncio.gather(*map(call_and_call, conversations))
    return took


async def measure(plan: Plan) -> tuple[list[float], list[float], int]:
    """The others' latencies alone and beside the hog, and how often the hog was refused."""
    async with gateway(plan) as port:
        others = [Conversation(port, f"other-{number}") for number in range(plan.others)]
        for other in others:
            await other.open()
        await latencies(others, plan.seconds)  # a warm-up
        alone: list[float] = []
        beside: list[float] = []
        refused = 0
        for _ in range(plan.rounds):
            alone += await latencies(others, plan.seconds)
            hog = Hog(port, plan)
            await hog.begin()
            beside += await latencies(others, plan.seconds)
            await hog.end()
            refused += hog.refused
        for other in others:
            await other.close()
        return alone, beside, refused


def at(share: float, took: list[float]) -> float:
    """The latency in milliseconds that this share of the calls did not exceed."""
    return sorted(took)[min(int(len(took) * share), len(took) - 1)] * 1000


def line(plan: Plan, alone: list[float], beside: list[float], refused: int) -> str:
    ratio = at(0.99, beside) / at(0.99, alone)
    return (
        f"{len(alone)} calls alone: p50 {at(0.5, alone):.2f} ms, p99 {at(0.99, alone):.2f} ms; {len(beside)} beside a hog with "
        f"{plan.held} endless calls and {refused} refused: p50 {at(0.5, beside):.2f} ms, p99 {at(0.99, beside):.2f} ms; "
        f"p99 x {ratio:.2f}"
    )


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.soak.fairness", description=__doc__)
    for name, default in Plan()._asdict().items():
        parser.add_argument(f"--{name}", type=type(default), default=default)
    plan = Plan(**vars(parser.parse_args()))
    with asyncio.Runner(loop_factory=new_event_loop) as runner:
        alone, beside, refused = runner.run(measure(plan))
    print(line(plan, alone, beside, refused))
    return 0 if at(0.99, beside) <= MOST_GROWTH * at(0.99, alone) else 1


if __name__ == "__main__":
    sys.exit(main())
