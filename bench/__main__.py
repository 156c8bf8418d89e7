"""Run the bench: `python -m bench`, or for a minute `python -m bench --quick`."""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from dataclasses import asdict, replace
from datetime import date
from pathlib import Path
from typing import Any

from bench import report
from bench.client import BenchFailed
from bench.cold import Cold, measure_cold
from bench.machine import conditions
from bench.micro.clock import lending
from bench.plan import FULL, QUICK, Plan
from bench.processes import can_pin, program
from bench.rounds import Windows, run
from bench.scene import scene
from bench.verdicts import Verdict, verdicts

MEANING = """\
`1,000 x 10`: a thousand principals, each with a session of its own at each of ten upstreams. `at /mcp`: at the endpoint of all
upstreams. `audited`: every call is recorded in a file. Medians of the rounds; a ratio is the gateway's figure over nginx's in
the same round. What p50 and p99 say is how long calls take where so many are in flight all the time."""
RESULTS = Path(__file__).with_name("results")


def main() -> int:
    """Measure, print, and keep the result of a full run. 1 where something could not be measured; a miss is no failure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a minute, for use while working; nothing is kept")
    parser.add_argument("--rounds", type=int, help="how often each load is measured; default: 3")
    given = parser.parse_args()
    plan = QUICK if given.quick else FULL
    try:
        print(measured(replace(plan, rounds=given.rounds or plan.rounds), kept=not given.quick))
    except BenchFailed as error:
        print(f"The bench failed: {error}", file=sys.stderr)
        return 1
    return 0


def measured(plan: Plan, *, kept: bool) -> str:
    """Everything of a plan, as text. `kept`: it is also written to `results/`."""
    for name in ("wrk", "nginx"):
        program(name)
    began = time.monotonic()
    facts = conditions()
    pool = lending()
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        say("what is paid once")
        cold = measure_cold(Path(folder), plan)
        say("opening sessions")
        with scene(Path(folder), plan.crowds) as running:
            windows = run(running, plan, say)
    facts["took"] = f"{time.monotonic() - began:.0f} s: {plan.rounds} rounds of {plan.seconds} s windows"
    found = verdicts(windows, cold, pool, plan)
    text = as_text(facts, windows, cold, pool, found, plan)
    if kept:
        keep(text, as_data(facts, windows, cold, pool, found))
    return text


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def as_text(
    facts: dict[str, str], windows: Windows, cold: Cold, pool: dict[str, float], found: list[Verdict], plan: Plan
) -> str:
    """The whole report."""
    parts = [
        f"# Measured on {date.today().isoformat()}",
        "\n".join(f"- {name}: {fact}" for name, fact in facts.items()),
        "## What calls cost",
        MEANING,
        report.speed(windows, plan),
        "## Who was the limit",
        "Shares of one core. `others` is what processes that are not the bench's took of either core, at worst.",
        report.limits(windows, plan),
        report.disturbance(windows),
        "## What is paid once",
        report.once(cold, pool),
        "## What was promised",
        report.judgement(found),
    ]
    if not can_pin():
        parts.insert(2, "**Nothing was pinned: this machine has one core, so that the figures are worth little.**")
    return "\n\n".join(parts) + "\n"


def as_data(
    facts: dict[str, str], windows: Windows, cold: Cold, pool: dict[str, float], found: list[Verdict]
) -> dict[str, Any]:
    """Every figure, for programs."""
    return {
        "conditions": facts,
        "windows": [
            {"load": str(cell), "target": target, "rounds": [asdict(window) for window in rounds]}
            for (cell, target), rounds in windows.of.items()
        ],
        "once": {**asdict(cold), "lending_us": pool},
        "promises": [{**asdict(verdict), "kept": verdict.word} for verdict in found],
    }


def keep(text: str, data: dict[str, Any]) -> None:
    """Write both under today's date."""
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{date.today().isoformat()}.md"
    path.write_text(text, encoding="utf-8")
    path.with_suffix(".json").write_text(json.dumps(data, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
