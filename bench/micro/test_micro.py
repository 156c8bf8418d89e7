"""The workloads, timed by pytest-benchmark. `python -m bench.micro` runs this and compares."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from itertools import repeat
from typing import Any

import pytest

from bench.micro import workloads

TIMES = 100
"""How often a workload runs each time the clock is looked at, which itself takes as long as the shortest of them."""
PLAIN = (
    workloads.reference,
    workloads.decode_request,
    workloads.decode_answer,
    workloads.encode_request,
    workloads.encode_answer,
    workloads.decode_event,
    workloads.decode_big_event,
)


@pytest.fixture(scope="module")
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    with asyncio.Runner() as runner:
        yield runner.get_loop()


@pytest.mark.parametrize("make", PLAIN, ids=lambda make: make.__name__)
def test_plain(make: Callable[[], workloads.Work], benchmark: Any) -> None:
    timed(benchmark, make())


def test_lease_and_give_back(loop: asyncio.AbstractEventLoop, benchmark: Any) -> None:
    timed(benchmark, workloads.lease_and_give_back(loop))


def test_acquire_and_release(loop: asyncio.AbstractEventLoop, benchmark: Any) -> None:
    benchmark.extra_info["per_round"] = workloads.BATCH
    benchmark(workloads.acquire_and_release(loop))


def timed(benchmark: Any, work: workloads.Work) -> None:
    def run() -> None:
        for _ in repeat(None, TIMES):
            work()

    benchmark.extra_info["per_round"] = TIMES
    benchmark(run)
