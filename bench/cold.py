"""What is paid once: the start, a principal's first call, memory."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from bench.client import Client, Session
from bench.measure import Cell, measure
from bench.plan import Plan
from bench.processes import GatewayProcess, Stub
from bench.scene import GATEWAY, Crowd, Target, gateway, gateway_config, keep, open_sessions, tokens

STARTED_WITH = Crowd(1, 5)
CALLERS = Crowd(100, 1)
BIG_IN_FLIGHT = 16
SESSIONS_EACH = 4
"""Of every principal, for the memory of sessions: what a principal takes is not a session's."""
KIB = 1024


@dataclass(frozen=True)
class First:
    """Milliseconds that a principal waits which the gateway has never seen, and in the end for a call like any other."""

    initialize_ms: float
    call_ms: float
    warm_call_ms: float


@dataclass(frozen=True)
class Memory:
    """MiB of the process, KiB of a session."""

    ready_mib: float
    calls: int
    after_calls_mib: float
    added_by_big_mib: dict[str, float]
    """Peak memory that each 1 MiB result in flight adds, by the form of the upstream's answer."""
    client_session_kib: float
    bound_session_kib: float
    sessions: int


@dataclass(frozen=True)
class Cold:
    """Everything that is not a window of load."""

    start_seconds: float
    first: First
    memory: Memory | None


def measure_cold(folder: Path, plan: Plan) -> Cold:
    """Measure it all with a stub and gateways of its own."""
    with Stub(folder, STARTED_WITH.upstreams) as stub:
        start = median(_start(folder / f"start-{number}", stub) for number in range(plan.starts))
        first = _first(folder / "first", stub, Crowd(plan.newcomers, 1))
        memory = _memory(folder, stub, plan) if plan.calls_for_memory else None
    return Cold(start, first, memory)


def _start(folder: Path, stub: Stub) -> float:
    config = gateway_config(folder, STARTED_WITH, stub.ports)
    with GatewayProcess(folder, config) as process:
        return process.until_ready()


def _first(folder: Path, stub: Stub, crowd: Crowd) -> First:
    initialize, call, warm = [], [], []
    with gateway(folder, crowd, stub) as process, Client(process.port) as client:
        for token in tokens(crowd.principals):
            began = time.perf_counter()
            session = client.open("/servers/u0/mcp", token)
            opened = time.perf_counter()
            client.call(session, "json_small")
            called = time.perf_counter()
            client.call(session, "json_small")
            initialize.append(opened - began)
            call.append(called - opened)
            warm.append(time.perf_counter() - called)
    return First(*(median(times) * 1000 for times in (initialize, call, warm)))


def _memory(folder: Path, stub: Stub, plan: Plan) -> Memory:
    with gateway(folder / "calls", CALLERS, stub) as process:
        ready = process.resident
        target = Target(GATEWAY, process.port, process, keep(open_sessions(process.port, CALLERS), folder / "calls.sessions"))
        calls = _call(target, stub, plan.calls_for_memory)
        after = process.resident
    added = {form: _added_by_big(folder / form, form, stub) for form in ("json", "sse")}
    client_session, bound_session = _sessions(folder / "sessions", stub, plan.sessions_for_memory)
    return Memory(ready, calls, after, added, client_session, bound_session, plan.sessions_for_memory)


def _call(target: Target, stub: Stub, calls: int) -> int:
    """Make at least so many calls; how many it were."""
    began = stub.stats()["calls"]
    while (made := stub.stats()["calls"] - began) < calls:
        measure(target, Cell(CALLERS, "json", "small", 16), stub, 2)
    return int(made)


def _added_by_big(folder: Path, form: str, stub: Stub) -> float:
    """In a gateway that has seen small results only: memory that a large one needed once is not always given back."""
    with gateway(folder, CALLERS, stub) as process:
        target = Target(GATEWAY, process.port, process, keep(open_sessions(process.port, CALLERS), folder / "sessions"))
        _call(target, stub, BIG_IN_FLIGHT)
        before = process.resident
        window = measure(target, Cell(CALLERS, form, "1m", BIG_IN_FLIGHT), stub, 2)
    return (window.peak_mib - before) / BIG_IN_FLIGHT


def _sessions(folder: Path, stub: Stub, count: int) -> tuple[float, float]:
    """KiB of a client's session, and of the upstream session that is bound to it once it was used."""
    warm_up = max(1, count // 10)
    crowd = Crowd((count + warm_up) // SESSIONS_EACH, 1)
    with gateway(folder, crowd, stub) as process, _opener(process, crowd) as opener:
        opener.use(opener.begin(warm_up))
        empty = process.resident
        sessions = opener.begin(count)
        begun = process.resident
        opener.use(sessions)
        used = process.resident
    return (begun - empty) * KIB / count, (used - begun) * KIB / count


class _Opener:
    """Begins sessions of one principal after the other, at the endpoint that opens nothing upstream until it must."""

    def __init__(self, client: Client, crowd: Crowd) -> None:
        self._client = client
        self._left = iter([token for token in tokens(crowd.principals + 1) for _ in range(SESSIONS_EACH)])

    def begin(self, count: int) -> list[Session]:
        return [self._client.open("/mcp", next(self._left)) for _ in range(count)]

    def use(self, sessions: list[Session]) -> None:
        for session in sessions:
            self._client.call(session, "u0__json_small")


@contextmanager
def _opener(process: GatewayProcess, crowd: Crowd) -> Iterator[_Opener]:
    with Client(process.port) as client:
        yield _Opener(client, crowd)
