"""Times single pieces of work without pytest, for the figures that `python -m bench` judges."""

from __future__ import annotations

import asyncio
from timeit import Timer

from bench.micro.workloads import BATCH, Work, acquire_and_release, lease_and_give_back
from bench.processes import GATEWAY_CORE, on_core

REPEATS = 10


def microseconds(work: Work, per_call: int = 1) -> float:
    """The best of several repeats: what the work costs where nothing disturbs it."""
    timer = Timer(work)
    number = max(1, timer.autorange()[0] // 10)
    return min(timer.repeat(REPEATS, number)) / number / per_call * 1e6


def lending() -> dict[str, float]:
    """Microseconds of lending a warm session, in both of the pool's forms."""
    with on_core(GATEWAY_CORE), asyncio.Runner() as runner:
        loop = runner.get_loop()
        return {
            "lease_and_give_back": microseconds(lease_and_give_back(loop)),
            "acquire_and_release": microseconds(acquire_and_release(loop), BATCH),
        }
