"""One window of load on one target, and what it cost."""

from __future__ import annotations

import json
import resource
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.client import BenchFailed
from bench.processes import GATEWAY_CORE, LOAD_CORE, PROJECT, Process, Stub, busy_seconds, can_pin, on_core, program
from bench.scene import Crowd, Target
from bench.stub import SIZES

SETTLE_SECONDS = 0.2
LEFT_BEHIND = 64
"""How many calls of an earlier window may reach the stub in this one, where the machine is too busy to settle in time."""
SCRIPT = Path(__file__).with_name("load.lua")


@dataclass(frozen=True)
class Cell:
    """One kind of load."""

    crowd: Crowd
    form: str
    size: str
    connections: int

    @property
    def tool(self) -> str:
        return f"{self.form}_{self.size}"

    def __str__(self) -> str:
        return f"{self.crowd}, {self.form}, {self.size}, {self.connections} in flight"


@dataclass(frozen=True)
class Window:
    """What one window showed. Shares are of one core: the target's own, and that of wrk and the stub together.

    `others` is what processes that are none of the bench's took of either core: it should be next to nothing.
    """

    calls_per_second: float
    p50_us: float
    p99_us: float
    cpu_us: float
    """CPU time of the target for one call."""
    requests_per_call: float
    """Upstream, in the name of any principal; what the gateway asks for itself now and then is no call's."""
    target_share: float
    load_share: float
    others: float
    peak_mib: float


@dataclass(frozen=True)
class Clocks:
    """Seconds that have been used up to a moment: of time, by the processes, and on both cores by anybody."""

    wall: float
    target: float
    stub: float
    wrk: float
    cores: tuple[float, float]

    @classmethod
    def now(cls, target: Process, stub: Stub) -> Clocks:
        children = resource.getrusage(resource.RUSAGE_CHILDREN)
        wrk = children.ru_utime + children.ru_stime
        cores = busy_seconds(GATEWAY_CORE), busy_seconds(LOAD_CORE)
        return cls(time.perf_counter(), target.cpu_seconds, stub.cpu_seconds, wrk, cores)

    def since(self, then: Clocks) -> Clocks:
        cores = self.cores[0] - then.cores[0], self.cores[1] - then.cores[1]
        return Clocks(self.wall - then.wall, self.target - then.target, self.stub - then.stub, self.wrk - then.wrk, cores)

    def others(self, *, direct: bool) -> float:
        """The share of a core that none of the bench's processes had, of that core where it is larger."""
        if not can_pin():
            return 0.0
        theirs = self.cores[0] - (0.0 if direct else self.target), self.cores[1] - self.stub - self.wrk
        return max(0.0, *theirs) / self.wall


def measure(target: Target, cell: Cell, stub: Stub, seconds: float) -> Window:
    """Load `target` for some seconds. Raises BenchFailed where any call failed, or reached nobody."""
    before = settled(stub)
    target.process.forget_peak()
    then = Clocks.now(target.process, stub)
    load = run_wrk(target, cell, seconds)
    used = Clocks.now(target.process, stub).since(then)
    after = stub.stats()
    calls = after["calls"] - before["calls"]
    check(load, calls, after, cell)
    return Window(
        calls_per_second=load["calls"] / load["seconds"],
        p50_us=load["p50_us"],
        p99_us=load["p99_us"],
        cpu_us=used.target / calls * 1e6,
        requests_per_call=(_of_principals(after) - _of_principals(before)) / calls,
        target_share=used.target / load["seconds"],
        load_share=(used.stub + used.wrk) / used.wall,
        others=used.others(direct=target.process is stub),
        peak_mib=target.process.peak,
    )


def _of_principals(stats: dict[str, Any]) -> int:
    return int(stats["requests"] - stats["nobodys"])


def settled(stub: Stub) -> dict[str, Any]:
    """The stub's counts once nothing reaches it any more: what wrk did not wait for at its end is still on its way."""
    before, now = None, stub.stats()
    while now != before:
        time.sleep(SETTLE_SECONDS)
        before, now = now, stub.stats()
    return now


def run_wrk(target: Target, cell: Cell, seconds: float) -> dict[str, Any]:
    """What wrk says of one run."""
    url = f"http://127.0.0.1:{target.port}/mcp"
    how = ["-t1", f"-c{cell.connections}", f"-d{seconds:g}s", "--timeout", "20s"]
    command = [program("wrk"), *how, "-s", str(SCRIPT), url, "--", str(target.sessions), cell.tool]
    with on_core(LOAD_CORE):
        done = subprocess.run(command, capture_output=True, text=True, cwd=PROJECT)
    told = [line.removeprefix("BENCH ") for line in done.stdout.splitlines() if line.startswith("BENCH ")]
    if not told:
        raise BenchFailed(f"wrk told nothing: {done.stdout}{done.stderr}")
    load: dict[str, Any] = json.loads(told[0])
    return load


def check(load: dict[str, Any], calls: int, stats: dict[str, Any], cell: Cell) -> None:
    """Raise BenchFailed unless every call was answered in full by the stub, and in its own principal's session."""
    if load["failed"] or not load["calls"]:
        raise BenchFailed(f"{cell}: {load['failed']} of {load['calls']} calls failed")
    if not load["calls"] <= calls <= load["calls"] + cell.connections + LEFT_BEHIND:
        raise BenchFailed(f"{cell}: wrk had {load['calls']} answers, but {calls} calls reached the stub")
    if load["bytes"] < load["calls"] * SIZES[cell.size]:
        raise BenchFailed(f"{cell}: the answers are too short to be what was asked for")
    if stats["most_principals_per_session"] > 1:
        raise BenchFailed(f"{cell}: a session met {stats['most_principals_per_session']} principals")
