"""Rounds of windows, target after target, so that what slows the machine down slows all of them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from statistics import median

from bench.measure import Cell, Window, measure
from bench.plan import Plan
from bench.scene import DIRECT, GATEWAY, NGINX, TARGETS, Scene, Target

DISTURBED = 0.1
"""The share of a core that others may have before a window is worth taking again."""

Say = Callable[[str], None]
Figure = Callable[[Window], float]


@dataclass
class Windows:
    """Every window, by cell and target, in the order of the rounds."""

    of: dict[tuple[Cell, str], list[Window]] = field(default_factory=lambda: defaultdict(list))

    def middle(self, cell: Cell, target: str, figure: Figure) -> float:
        """The median over the rounds."""
        return median(figure(window) for window in self.of[cell, target])

    def ratio(self, cell: Cell, figure: Figure) -> float:
        """The gateway's figure relative to nginx's, compared within each round; the median of that."""
        return self.compared((cell, GATEWAY), (cell, NGINX), figure)

    def disturbed(self, cell: Cell) -> bool:
        """Whether others used the cores in most of the windows that compare nginx and the gateway."""
        return any(self.middle(cell, target, lambda window: window.others) > DISTURBED for target in (NGINX, GATEWAY))

    def compared(self, one: tuple[Cell, str], other: tuple[Cell, str], figure: Figure) -> float:
        """Of any two, the median over the rounds of `one`'s figure relative to `other`'s."""
        return median(figure(a) / figure(b) for a, b in zip(self.of[one], self.of[other], strict=True))


def run(scene: Scene, plan: Plan, say: Say) -> Windows:
    """Measure all cells of a plan."""
    windows = Windows()
    for number in range(plan.rounds):
        for cell in plan.cells:
            say(f"round {number + 1} of {plan.rounds}: {cell}")
            for name in TARGETS:
                if name != DIRECT or number < plan.direct_rounds:
                    target = scene.targets[cell.crowd, name]
                    windows.of[cell, name].append(_undisturbed(target, cell, scene, plan))
    return windows


def _undisturbed(target: Target, cell: Cell, scene: Scene, plan: Plan) -> Window:
    """The window in which others used the cores least, of as many as it takes and the plan allows."""
    best = measure(target, cell, scene.stub, plan.seconds)
    for _ in range(plan.tries - 1):
        if best.others > DISTURBED:
            best = min(best, measure(target, cell, scene.stub, plan.seconds), key=lambda window: window.others)
    return best
