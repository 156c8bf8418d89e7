"""A gateway in small: opens a stdio session with the command in its arguments, says so, and holds it for ever.

python -m tests.servers.stdio_holder COMMAND [ARGUMENT ...]
"""

from __future__ import annotations

import asyncio
import json
import os
import sys

from mcpgateway.runtime import Sweep
from mcpgateway.upstream.base import Hello, Target
from mcpgateway.upstream.stdio import open_stdio


async def main(command: list[str]) -> None:
    target = Target(name="held", command=command[0], args=tuple(command[1:]), env=(("FIFO", os.environ["FIFO"]),))
    await open_stdio(target, Hello(), sweep=Sweep())
    print(json.dumps({"open": True}), flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1:]))
