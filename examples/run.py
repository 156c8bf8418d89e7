"""Starts the notebook server and a gateway in front of it, and ends both together."""

from __future__ import annotations

import argparse
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from urllib.parse import urlsplit

from mcpgateway import config

HERE = Path(__file__).parent
CONFIG = HERE / "mcp.json"
START_SECONDS = 30.0
END_SECONDS = 20.0
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def main() -> int:
    """Run until the gateway ends; its exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, default=4444)
    port = parser.parse_args().port
    notebook_port = _notebook_port()
    for number in SIGNALS:
        signal.signal(number, _leave)
    with running(str(HERE / "notebook_server.py"), "--port", str(notebook_port)) as notebook:
        _wait_until_it_listens(notebook, notebook_port)
        with running("-m", "mcpgateway", "serve", str(CONFIG), "--port", str(port)) as gateway:
            return gateway.wait()


def _leave(number: int, frame: FrameType | None) -> None:
    for again in SIGNALS:
        signal.signal(again, signal.SIG_IGN)  # the children are being ended; once is enough
    raise SystemExit(0)


@contextmanager
def running(*arguments: str) -> Iterator[subprocess.Popen[bytes]]:
    """A Python program as a child, which is ended on the way out.

    It gets a process group of its own: Ctrl-C then reaches it through us, once, and not from the terminal as well.
    """
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    child = subprocess.Popen([sys.executable, *arguments], env=os.environ | {"PATH": path}, process_group=0)
    try:
        yield child
    finally:
        _end(child)


def _end(child: subprocess.Popen[bytes]) -> None:
    child.terminate()
    try:
        child.wait(END_SECONDS)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()


def _notebook_port() -> int:
    url = next(server.url for server in config.load(str(CONFIG)).servers if server.name == "notebook")
    return urlsplit(url).port or 80


def _wait_until_it_listens(notebook: subprocess.Popen[bytes], port: int) -> None:
    give_up_at = time.monotonic() + START_SECONDS
    while notebook.poll() is None and time.monotonic() < give_up_at:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            time.sleep(0.1)
        else:
            return
    sys.exit(f"the notebook server did not start on port {port}; is the port taken?")


if __name__ == "__main__":
    sys.exit(main())
