"""The result in words: tables in Markdown, which read as well on a terminal."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from bench.cold import Cold
from bench.measure import Cell, Window
from bench.plan import Plan
from bench.rounds import DISTURBED, Windows
from bench.scene import DIRECT, GATEWAY, NGINX
from bench.verdicts import Verdict, calls, cpu, p50

Row = Sequence[str]
FULL_SHARE = 0.93
"""A core that is busy for so much of the time is the limit; the rest is wrk's own start and end."""

_LOAD = ("load", "in flight")
_CALLS = ("calls/s: direct", "nginx", "gateway", "ratio")
_CPU = ("CPU µs: nginx", "gateway", "ratio")
_MIDDLE = ("p50 ms: nginx", "gateway", "ratio")
_SLOWEST = ("p99 ms: nginx", "gateway")
SPEED = (*_LOAD, *_CALLS, *_CPU, *_MIDDLE, *_SLOWEST)
_NGINX = ("nginx busy", "wrk + stub", "limit")
_GATEWAY = ("gateway busy", "wrk + stub", "limit")
LIMITS = (*_LOAD, *_NGINX, *_GATEWAY, "others", "gateway's peak MiB", "requests per call")


def table(head: Row, rows: Iterable[Row]) -> str:
    """A Markdown table, its columns aligned."""
    grid = [head, *rows]
    first, *rest = [max(map(len, column)) for column in zip(*grid, strict=True)]
    lines = [[row[0].ljust(first), *(cell.rjust(width) for cell, width in zip(row[1:], rest, strict=True))] for row in grid]
    lines.insert(1, ["-" * first, *("-" * (width - 1) + ":" for width in rest)])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def speed(windows: Windows, plan: Plan) -> str:
    """What calls cost."""
    return table(SPEED, (_speed_row(windows, cell) for cell in plan.cells))


def _speed_row(windows: Windows, cell: Cell) -> Row:
    rates = [f"{windows.middle(cell, target, calls):,.0f}" for target in (DIRECT, NGINX, GATEWAY)]
    times = [f"{windows.middle(cell, target, cpu):.1f}" for target in (NGINX, GATEWAY)]
    middles = [f"{windows.middle(cell, target, p50) / 1000:.2f}" for target in (NGINX, GATEWAY)]
    slowest = [f"{windows.middle(cell, target, _p99) / 1000:.2f}" for target in (NGINX, GATEWAY)]
    ratios = [f"{windows.ratio(cell, figure):.2f}" for figure in (calls, cpu, p50)]
    return [*_named(cell), *rates, ratios[0], *times, ratios[1], *middles, ratios[2], *slowest]


def limits(windows: Windows, plan: Plan) -> str:
    """Who was the limit, and whether somebody else used the core."""
    return table(LIMITS, (_limits_row(windows, cell) for cell in plan.cells))


def _limits_row(windows: Windows, cell: Cell) -> Row:
    row = _named(cell)
    for target in (NGINX, GATEWAY):
        own = windows.middle(cell, target, lambda window: window.target_share)
        load = windows.middle(cell, target, lambda window: window.load_share)
        limit = target if own >= FULL_SHARE else "wrk + stub" if load >= FULL_SHARE else "waiting"
        row += [f"{own:.0%}", f"{load:.0%}", limit]
    others = max(window.others for target in (NGINX, GATEWAY) for window in windows.of[cell, target])
    peak = max(window.peak_mib for window in windows.of[cell, GATEWAY])
    return [*row, f"{others:.0%}", f"{peak:.0f}", f"{windows.middle(cell, GATEWAY, _requests):.3f}"]


def disturbance(windows: Windows) -> str:
    """How far the figures can be relied on: whether the bench had its cores to itself."""
    every = [window for (_, target), measured in windows.of.items() if target != DIRECT for window in measured]
    disturbed = sum(window.others > DISTURBED for window in every)
    if not disturbed:
        return "The bench had both cores to itself."
    return (
        f"**Disturbed.** In {disturbed} of {len(every)} windows others had more than {DISTURBED:.0%} of a core: there, calls/s "
        "and latencies\nsay little, and CPU per call is somewhat too high."
    )


def _named(cell: Cell) -> list[str]:
    return [f"{cell.crowd}, {cell.form}, {cell.size}", str(cell.connections)]


def _p99(window: Window) -> float:
    return window.p99_us


def _requests(window: Window) -> float:
    return window.requests_per_call


def judgement(found: Iterable[Verdict]) -> str:
    """Every promise, kept or missed."""
    return table(["promise", "measured", "must", "aim", "kept"], (verdict.row() for verdict in found))


def once(cold: Cold, lending: dict[str, float]) -> str:
    """What is paid once, and what sessions take."""
    first, memory = cold.first, cold.memory
    rows = [
        ["start to ready, 5 upstreams", f"{cold.start_seconds:.2f} s"],
        ["a new principal's initialize and notifications/initialized", f"{first.initialize_ms:.2f} ms"],
        ["its first call", f"{first.call_ms:.2f} ms"],
        ["its next call", f"{first.warm_call_ms:.2f} ms"],
        ["a warm session lent and given back, as calls do it", f"{lending['lease_and_give_back']:.2f} µs"],
        ["acquire and release, with the key made anew", f"{lending['acquire_and_release']:.2f} µs"],
    ]
    if memory is not None:
        rows += [
            ["memory when ready, 100 principals", f"{memory.ready_mib:.1f} MiB"],
            [f"memory after {memory.calls:,} calls", f"{memory.after_calls_mib:.1f} MiB"],
            *(
                [f"added by each 1 MiB result in flight, {form}", f"{mib:.2f} MiB"]
                for form, mib in memory.added_by_big_mib.items()
            ),
            [f"a client's session, idle (of {memory.sessions:,})", f"{memory.client_session_kib:.1f} KiB"],
            ["the upstream session bound to it, idle", f"{memory.bound_session_kib:.1f} KiB"],
        ]
    return table(["once", "measured"], rows)
