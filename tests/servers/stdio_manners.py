"""A stdio server of one generation, with the manners that some have towards the other.

    python -m tests.servers.stdio_manners MANNER

`exits`, `mute`: a legacy server that ends over a first message that is not initialize, or never answers it. `refuses`: a modern
server that refuses initialize. `slow`: one that does not read before FIFO has been written to, and is modern from its first
message on.
"""

from __future__ import annotations

import json
import os
import sys
from typing import Any

Message = dict[str, Any]
WELCOME = {"protocolVersion": "2025-11-25", "capabilities": {}, "serverInfo": {"name": "manners", "version": "1"}}
DISCOVERED = {
    "resultType": "complete",
    "supportedVersions": ["2026-07-28"],
    "capabilities": {},
    "ttlMs": 0,
    "cacheScope": "private",
}
UNSUPPORTED = {"code": -32022, "message": "Unsupported protocol version", "data": {"supported": ["2026-07-28"]}}


def answer(message: Message, **fields: Any) -> None:
    print(json.dumps({"jsonrpc": "2.0", "id": message["id"], **fields}), flush=True)


def take(manner: str, message: Message) -> None:
    method = message.get("method")
    if "id" not in message:
        return
    if method == "initialize":
        answer(message, **({"result": WELCOME} if manner in ("exits", "mute") else {"error": UNSUPPORTED}))
    elif method == "server/discover":
        if manner == "exits":
            sys.exit("expected initialize")
        if manner != "mute":
            answer(message, result=DISCOVERED)
    else:
        answer(message, result={})


def main(manner: str) -> None:
    if manner == "slow":
        with open(os.environ["FIFO"]) as fifo:
            fifo.read()
    for line in sys.stdin:
        take(manner, json.loads(line))


if __name__ == "__main__":
    main(sys.argv[1])
