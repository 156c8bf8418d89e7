"""Time the workloads and compare with the last figures kept: `python -m bench.micro`, and `--keep` to keep the new ones."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from bench.machine import machine
from bench.micro.compare import REFERENCE, Times, line, slower, times_of, too_slow
from bench.processes import GATEWAY_CORE, on_core

HERE = Path(__file__).parent
KEPT = HERE.parent / "results" / "micro.json"


def main() -> int:
    """1 where something takes twice as long as it did, relative to the reference workload of the same run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--keep", action="store_true", help="keep the new figures, whatever they are")
    keep = parser.parse_args().keep
    new, old = timed(), last()
    factors = slower(new, old) if old else {}
    print(*(line(name, new, old, factors) for name in new), sep="\n")
    if keep or not old:
        write(new)
        return 0
    slow = too_slow(factors)
    if slow:
        print(f"Too slow: {', '.join(slow)}. If that is meant: make bench-micro KEEP=1", file=sys.stderr)
    return 1 if slow else 0


def timed() -> Times:
    """All workloads, timed by pytest-benchmark in a process of its own on one core."""
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        path = Path(folder) / "micro.json"
        command = [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "-p",
            "no:cacheprovider",
            "-p",
            "no:asyncio",
            "-c",
            str(HERE / "pytest.ini"),
        ]
        with on_core(GATEWAY_CORE):
            subprocess.run([*command, f"--benchmark-json={path}", str(HERE / "test_micro.py")], check=True)
        report: dict[str, Any] = json.loads(path.read_text())
    return times_of(report)


def last() -> Times:
    """The figures kept, or none."""
    return dict(json.loads(KEPT.read_text())["us"]) if KEPT.exists() else {}


def write(times: Times) -> None:
    """Keep these figures, with where they were measured."""
    KEPT.parent.mkdir(exist_ok=True)
    rounded = {name: round(time, 4) for name, time in times.items()}
    data = {"us": rounded, "reference": REFERENCE, "machine": machine()}
    KEPT.write_text(json.dumps(data, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
