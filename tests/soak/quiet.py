"""A stateful server that remembers nothing of what is over, however many come: the stub without its records.

python -m tests.soak.quiet
"""

from __future__ import annotations

import asyncio
import json

from tests.servers.http11 import Request
from tests.servers.raw_stub import Message, Stub


class Quiet(Stub):
    """The stub, whose memory is not to grow."""

    def _record(self, request: Request, message: Message) -> None:
        self.seen.deletes.clear()
        self.seen.sessions.clear()


async def main() -> None:
    server = Quiet()
    await server.start()
    print(json.dumps({"port": server.port}), flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main())
