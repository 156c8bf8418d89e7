"""What was promised, beside what was measured."""

from __future__ import annotations

from dataclasses import dataclass, replace

from bench.cold import Cold
from bench.measure import Cell, Window
from bench.plan import ONE, Plan
from bench.rounds import Windows
from bench.scene import GATEWAY


@dataclass(frozen=True)
class Verdict:
    """One promise. `at_least`: larger is better; the bounds are then floors, else ceilings.

    `disturbed`: it comes from windows in which others used the cores, so that it says neither yes nor no.
    """

    figure: str
    measured: float
    must: float
    aim: float
    unit: str = ""
    at_least: bool = False
    disturbed: bool = False

    @property
    def word(self) -> str:
        """'miss', 'must' where that much is kept, 'aim' where all is; 'disturbed' where nobody can tell."""
        if self.disturbed:
            return "disturbed"
        return "aim" if self._keeps(self.aim) else "must" if self._keeps(self.must) else "miss"

    def _keeps(self, bound: float) -> bool:
        return self.measured >= bound if self.at_least else self.measured <= bound

    def row(self) -> list[str]:
        sign = "≥" if self.at_least else "≤"
        shown = f"{self.measured:.3f}" if self.must == 1 else f"{self.measured:.2f}"
        return [self.figure, f"{shown}{self.unit}", f"{sign} {self.must:g}", f"{sign} {self.aim:g}", self.word]


def verdicts(windows: Windows, cold: Cold, lending: dict[str, float], plan: Plan) -> list[Verdict]:
    """Every promise, in the order in which they were made."""
    return [*_of_load(windows, plan), *_of_lending(lending), *_of_cold(cold)]


def _of_load(windows: Windows, plan: Plan) -> list[Verdict]:
    many16, many64 = (Cell(plan.crowd, "json", "small", connections) for connections in (16, 64))
    one16, sse16 = Cell(ONE, "json", "small", 16), Cell(ONE, "sse", "small", 16)
    crowded = windows.compared((many16, GATEWAY), (one16, GATEWAY), cpu)
    streamed = windows.compared((sse16, GATEWAY), (one16, GATEWAY), calls)
    p50_ratio = windows.ratio(many16, p50)
    found = [verdict for cell in (many16, many64) for verdict in _beside_nginx(windows, cell)]
    found += [
        Verdict(f"p50 relative to nginx, {plan.crowd}, 16 in flight", p50_ratio, 4, 2, " times"),
        Verdict("calls/s of SSE answers relative to JSON, 16 in flight", streamed, 0.8, 0.9, at_least=True),
        Verdict(f"CPU per call, {plan.crowd} relative to {ONE}", crowded, 1.2, 1.05, " times"),
    ]
    doubtful = any(windows.disturbed(cell) for cell in (many16, many64, one16, sse16))
    most = max(windows.middle(cell, GATEWAY, lambda window: round(window.requests_per_call, 3)) for cell in plan.cells)
    count = Verdict("upstream requests per warm call, the most of any load", most, 1, 1)
    return [*(replace(verdict, disturbed=doubtful) for verdict in found), count]


def _beside_nginx(windows: Windows, cell: Cell) -> list[Verdict]:
    where = f"{cell.crowd}, {cell.connections} in flight"
    return [
        Verdict(f"calls/s relative to nginx, {where}", windows.ratio(cell, calls), 0.25, 0.5, at_least=True),
        Verdict(f"CPU per call relative to nginx, {where}", windows.ratio(cell, cpu), 4, 2, " times"),
    ]


def _of_lending(lending: dict[str, float]) -> list[Verdict]:
    return [
        Verdict("a warm session lent and given back, as calls do it", lending["lease_and_give_back"], 1.5, 0.5, " µs"),
        Verdict("acquire and release, with the key made anew", lending["acquire_and_release"], 1.5, 0.5, " µs"),
    ]


def _of_cold(cold: Cold) -> list[Verdict]:
    found = [Verdict("start to ready, 5 upstreams", cold.start_seconds, 1, 0.4, " s")]
    memory = cold.memory
    if memory is not None:
        most = max(memory.added_by_big_mib.values())
        both = memory.client_session_kib + memory.bound_session_kib
        found += [
            # Streaming through would add a few buffers, however large the result is.
            Verdict("peak memory added by each 1 MiB result in flight", most, 3, 0.5, " MiB"),
            Verdict(f"memory after {memory.calls:,} calls", memory.after_calls_mib, 64, 45, " MiB"),
            Verdict("memory per idle bound session", memory.bound_session_kib, 20, 6, " KiB"),
            Verdict("the same and the client's session it is bound to", both, 20, 6, " KiB"),
        ]
    return found


def calls(window: Window) -> float:
    return window.calls_per_second


def cpu(window: Window) -> float:
    return window.cpu_us


def p50(window: Window) -> float:
    return window.p50_us
