"""A stdio server written by hand.

    python -m tests.servers.stdio_stub [MODE]

Modes: `noisy` writes rubbish to stdout and stderr, `silent` reads and never answers, `broken` ends at once with code 7,
`deaf` stops reading once it is initialized.
"""

from __future__ import annotations

import json
import sys
import threading

from tests.servers.stub import Message, Stub


def say(message: Message) -> None:
    sys.stdout.write(json.dumps(message) + "\n")
    sys.stdout.flush()


def make_noise() -> None:
    sys.stdout.write('Listening...\n\n{"half":\r\n')
    sys.stderr.write("e" * 100_000 + "\nready\n")
    sys.stderr.flush()


def main(mode: str) -> None:
    if mode == "broken":
        print("no licence", file=sys.stderr)
        sys.exit(7)
    if mode == "noisy":
        make_noise()
    stub = Stub(say)
    for line in sys.stdin:
        message = json.loads(line)
        if mode == "deaf" and message.get("method") == "notifications/initialized":
            threading.Event().wait()
        if mode != "silent":
            stub.take(message)


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "")
