"""A child process of a test: started, heard, and gone when the test is over.

Nothing here knows an event loop, so that a fixture of any scope may own a child.
"""

from __future__ import annotations

import collections
import contextlib
import json
import os
import queue
import signal
import subprocess
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO, Any, Self

PROJECT = Path(__file__).resolve().parents[2]
START_SECONDS = 30.0
STOP_SECONDS = 5.0


class ChildFailed(Exception):
    """A child did not do what the test needs; the text ends with what it wrote to stderr."""


class Child:
    """A program in a process group of its own, with its output read all the time.

    Whoever starts it calls `stop` or uses it as a context manager. Each JSON object that the child prints goes to `on_json`
    where one is given, else to `next_json`.
    """

    def __init__(
        self,
        command: Sequence[str],
        *,
        env: Mapping[str, str] | None = None,
        on_json: Callable[[dict[str, Any]], None] | None = None,
    ) -> None:
        self.command = list(command)
        self.stderr: collections.deque[str] = collections.deque(maxlen=200)
        self._objects: queue.Queue[dict[str, Any] | None] = queue.Queue()
        self._on_json = on_json or self._objects.put
        self._process = subprocess.Popen(
            self.command,
            env={**os.environ, "PYTHONUNBUFFERED": "1", **(env or {})},
            cwd=PROJECT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        self.pid = self._process.pid
        self._readers = [
            self._reading(self._process.stdout, self._heard, self._objects.put),
            self._reading(self._process.stderr, self.stderr.append, None),
        ]

    def __repr__(self) -> str:
        state = "running" if self.running else f"ended with {self._process.returncode}"
        return f"<Child {self.pid} {state}: {' '.join(self.command)}>"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.stop()

    @property
    def running(self) -> bool:
        return self._process.poll() is None

    def next_json(self, seconds: float = START_SECONDS) -> dict[str, Any]:
        """The next JSON object on the child's stdout. Raises ChildFailed if it ends or stays silent."""
        try:
            heard = self._objects.get(timeout=seconds)
        except queue.Empty:
            raise self.failed(f"said nothing for {seconds} seconds") from None
        if heard is None:
            raise self.failed("ended early")
        return heard

    def tell(self, message: object) -> None:
        """Write one line of JSON to the child's stdin."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(message) + "\n")
        self._process.stdin.flush()

    def failed(self, what: str) -> ChildFailed:
        """The error that says what was wrong with this child."""
        return ChildFailed(f"{self!r} {what}; its stderr ends:\n{''.join(self.stderr)}")

    def kill(self) -> None:
        """End the whole group at once, as a crash would."""
        self._signal(signal.SIGKILL)
        self._reap()

    def stop(self) -> None:
        """End the child politely, or by force if it does not go. Idempotent."""
        if self._process.returncode is None:
            self._signal(signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(STOP_SECONDS)
        # The group may outlive its leader: a server that was killed can leave children of its own.
        self._signal(signal.SIGKILL)
        self._reap()

    def _signal(self, number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, number)

    def _reap(self) -> None:
        self._process.wait()
        for reader in self._readers:
            reader.join(STOP_SECONDS)
        for stream in (self._process.stdin, self._process.stdout, self._process.stderr):
            self._close(stream)

    @staticmethod
    def _close(stream: IO[str] | None) -> None:
        # What we had still to say to it does not matter any more.
        with contextlib.suppress(BrokenPipeError):
            if stream is not None:
                stream.close()

    def _heard(self, line: str) -> None:
        try:
            heard = json.loads(line)
        except ValueError:  # servers chat on stdout too
            return
        if isinstance(heard, dict):
            self._on_json(heard)

    def _reading(
        self, stream: IO[str] | None, use: Callable[[str], None], at_end: Callable[[None], None] | None
    ) -> threading.Thread:
        def read() -> None:
            assert stream is not None
            for line in stream:
                use(line)
            if at_end is not None:
                at_end(None)

        reader = threading.Thread(target=read, name=f"reading {self.pid}", daemon=True)
        reader.start()
        return reader


class Server:
    """A child that serves HTTP on loopback and has said on which port. `restart` brings it up again on the same one."""

    def __init__(self, command: Sequence[str], *, path: str = "/mcp", env: Mapping[str, str] | None = None) -> None:
        self._command = [*command]
        self._env = dict(env or {})
        self.path = path
        self.port = 0
        self.child = self._start()

    def __repr__(self) -> str:
        return f"<Server {self.url} {self.child!r}>"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.stop()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}{self.path}"

    def kill(self) -> None:
        self.child.kill()

    def stop(self) -> None:
        self.child.stop()

    def restart(self) -> None:
        """Kill it and start it again on its port: what it kept in memory is lost."""
        self.kill()
        self.start()

    def start(self) -> None:
        """Start it again on the same port, after `kill` or `stop` or its own death."""
        self.child.stop()
        self.child = self._start()

    def _start(self) -> Child:
        child = Child(self._command, env={**self._env, "PORT": str(self.port)})
        try:
            self.port = int(child.next_json()["port"])
        except BaseException:
            child.stop()
            raise
        return child
