"""Compares times of one run with those kept from an earlier one, maybe of another machine.

A time is taken relative to the reference workload of its own run, so that a slower machine looks like the same code.
"""

from __future__ import annotations

from typing import Any

REFERENCE = "reference"
TOO_SLOW = 2.0
NOTICEABLE = 1.4

Times = dict[str, float]
"""Microseconds by workload."""


def times_of(report: dict[str, Any]) -> Times:
    """The best times in what pytest-benchmark wrote."""
    return {
        name_of(entry["name"]): entry["stats"]["min"] * 1e6 / entry["extra_info"]["per_round"] for entry in report["benchmarks"]
    }


def name_of(test: str) -> str:
    """The workload that a test times."""
    function, _, workload = test.rstrip("]").partition("[")
    return workload or function.removeprefix("test_")


def slower(new: Times, old: Times) -> dict[str, float]:
    """How much longer each workload takes than it did, as a factor; what is new or gone is not in it."""
    both = (new.keys() & old.keys()) - {REFERENCE}
    speed = new[REFERENCE] / old[REFERENCE]
    return {name: new[name] / old[name] / speed for name in sorted(both)}


def too_slow(factors: dict[str, float]) -> list[str]:
    """The workloads that take twice as long, or longer."""
    return [name for name, factor in factors.items() if factor >= TOO_SLOW]


def line(name: str, new: Times, old: Times, factors: dict[str, float]) -> str:
    """One workload in words."""
    before = f"was {old[name]:.3f}" if name in old else "is new"
    factor = factors.get(name)
    shown = "" if factor is None else f"{factor:.2f} times as long"
    mark = "  <- too slow" if (factor or 0) >= TOO_SLOW else "  <- look at this" if (factor or 0) >= NOTICEABLE else ""
    return f"{name:22} {new[name]:9.3f} µs  {before:12} {shown}{mark}"
