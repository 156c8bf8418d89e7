"""python -m tests.soak --seconds 30 --principals 200

Ends with one line of figures; exit code 1 if anything was found that must not happen.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import sys

from mcpgateway.cli import new_event_loop
from tests.soak.storm import Plan, soak


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description=__doc__)
    parser.add_argument("--seconds", type=float, default=30.0, help="how long the storm lasts")
    parser.add_argument("--principals", type=int, default=200)
    parser.add_argument("--conversations", type=int, default=2, help="of each principal")
    parser.add_argument("--trouble-every", type=int, default=1500, help="steps from one restart or loss to the next")
    parser.add_argument("--seed", type=int, default=None, help="begins the same storm as another run; default: a new one")
    given = parser.parse_args()
    seed = given.seed if given.seed is not None else random.randrange(1 << 32)
    print(f"seed {seed}", flush=True)
    plan = Plan(seed, given.principals, given.conversations, seconds=given.seconds, trouble_every=given.trouble_every)
    with asyncio.Runner(loop_factory=new_event_loop) as runner:
        ledger = runner.run(soak(plan))
    for finding in ledger.findings():
        print(finding)
    print(ledger.line())
    return 0 if ledger.clean else 1


if __name__ == "__main__":
    sys.exit(main())
