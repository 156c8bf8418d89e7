"""make conformance: what does a client or a server lose for having a gateway between them?

    python -m tests.conformance [--path NAME …] [--keep FOLDER]

Runs the official suite on every path directly and through a gateway, and compares check by check. Exit code 1 if anything
is lost that `expected/` does not name, or kept that it names.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from tests.conformance.paths import CLIENT_PATH, SERVER_PATHS, Leg, Outcome, Runs, outcomes
from tests.conformance.suite import count

ROW = "{:18} {:44} {:>8} {:>8} {:>5}"


def main() -> int:
    """Run what the command line asks for. The exit code."""
    names = [path.name for path in SERVER_PATHS]
    parser = argparse.ArgumentParser(prog="python -m tests.conformance")
    parser.add_argument("--path", action="append", choices=[*names, CLIENT_PATH], help="only this path; may be repeated")
    parser.add_argument("--keep", type=Path, help="an empty folder in which to leave all that the suite wrote")
    chosen = parser.parse_args()
    with _folder(chosen.keep) as folder:
        legs = asyncio.run(_run(chosen.path or [*names, CLIENT_PATH], folder))
    return _report(outcomes(legs))


@contextlib.contextmanager
def _folder(kept: Path | None) -> Iterator[Path]:
    if kept is not None:
        yield kept.absolute()
        return
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder)


async def _run(names: list[str], folder: Path) -> list[Leg]:
    legs: list[Leg] = []
    print(ROW.format("path", "revision or scenario", "direct", "through", "lost"))
    async with Runs(folder) as runs:
        for path in SERVER_PATHS:
            if path.name in names:
                async for leg in runs.legs(path):
                    _show(leg, legs)
        if CLIENT_PATH in names:
            async for leg in runs.client_legs():
                _show(leg, legs)
    return legs


def _show(leg: Leg, legs: list[Leg]) -> None:
    legs.append(leg)
    row = ROW.format(leg.path, leg.what, count(leg.direct.values()), count(leg.through.values()), len(leg.lost))
    print(row, flush=True)


def _report(found: list[Outcome]) -> int:
    for outcome in found:
        for fault in outcome.faults:
            print(f"\n{outcome.path}: fails direct, without a gateway\n  {fault}")
        for surprise in outcome.surprises:
            print(f"\n{outcome.path}: lost, and not expected to be\n  {surprise}")
        for name in outcome.stale:
            print(f"\n{outcome.path}: expected/{outcome.path}.yml names a loss that is none (any more)\n  {name}")
        kept = {loss.name for leg in outcome.legs for loss in leg.lost} & {*outcome.reasons}
        for name in sorted(kept):
            print(f"\n{outcome.path}: lost as expected\n  {name}: {outcome.reasons[name]}")
    bad = any(outcome.faults or outcome.surprises or outcome.stale for outcome in found)
    print("\nSomething differs that should not." if bad else "\nNothing is lost that need not be.")
    return int(bad)


if __name__ == "__main__":
    sys.exit(main())
