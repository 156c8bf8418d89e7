"""What is measured: a full run, and a short one for use while working."""

from __future__ import annotations

from dataclasses import dataclass

from bench.measure import Cell
from bench.scene import AUDITED, JOINED, Crowd

ONE = Crowd(1, 1)
MANY = Crowd(1_000, 10)
FEWER = Crowd(100, 10)


@dataclass(frozen=True)
class Plan:
    """The cells, in the order in which every round takes them, and how long a window lasts.

    The ceiling, which no judgement needs, is measured in the first rounds only. A window in which somebody else used the
    cores is taken again, up to `tries` in all.
    """

    cells: tuple[Cell, ...]
    crowd: Crowd
    """The one that stands for many."""
    rounds: int
    direct_rounds: int
    seconds: int
    tries: int
    calls_for_memory: int
    sessions_for_memory: int
    starts: int
    newcomers: int

    @property
    def crowds(self) -> list[Crowd]:
        return list(dict.fromkeys(cell.crowd for cell in self.cells))


FULL = Plan(
    cells=(
        *(Cell(ONE, form, size, n) for size in ("small", "10k", "1m") for form in ("json", "sse") for n in (1, 16, 64)),
        *(Cell(MANY, form, "small", n) for form in ("json", "sse") for n in (1, 16, 64)),
        *(Cell(Crowd(1, 1, way), "json", "small", 16) for way in (JOINED, AUDITED)),
    ),
    crowd=MANY,
    rounds=3,
    direct_rounds=1,
    seconds=2,
    tries=2,
    calls_for_memory=100_000,
    sessions_for_memory=4_000,
    starts=5,
    newcomers=50,
)
QUICK = Plan(
    cells=(
        Cell(ONE, "json", "small", 16),
        Cell(ONE, "sse", "small", 16),
        Cell(ONE, "json", "10k", 16),
        Cell(FEWER, "json", "small", 16),
        Cell(FEWER, "json", "small", 64),
    ),
    crowd=FEWER,
    rounds=3,
    direct_rounds=1,
    seconds=1,
    tries=1,
    calls_for_memory=0,
    sessions_for_memory=0,
    starts=1,
    newcomers=5,
)
