"""The stdio leg: a server as a child process, newline-delimited JSON both ways, stderr to the log.

The child runs under `child.py`, which ends the server and whatever it started once this process lets go or dies.
"""

from __future__ import annotations

import asyncio
import logging
import math
import os
import signal
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import cast

from mcpgateway.errors import ConnectFailed, ConnectionLost, RpcError, UpstreamError, UpstreamTimeout
from mcpgateway.protocol.call import HeaderBlock
from mcpgateway.protocol.modern import UNSUPPORTED_VERSION
from mcpgateway.runtime import Sweep, spawn
from mcpgateway.upstream import modern_stdio
from mcpgateway.upstream.base import Hello, Target, UpstreamSession
from mcpgateway.upstream.era import LEGACY, MODERN, Era, is_refusal, most_telling
from mcpgateway.upstream.owner import OwnedSession, open_owned, refused_handshake

MAX_LINE_BYTES = 64 * 1024 * 1024
MAX_UNREAD_BYTES = 64 * 1024 * 1024
"""What a server that stops reading may leave in our memory."""

MAX_LOG_LINE_BYTES = 4096
MAX_ERROR_TEXT = 300
GRACE_SECONDS = 2.0
"""How long each step of closing waits for the process before the next, harder one."""

LAST_WORDS_SECONDS = 0.5
"""How long, after the end of its output or of itself, the rest of a server is waited for."""

INHERITED = (
    "APPDATA HOMEDRIVE HOMEPATH LOCALAPPDATA PATH PATHEXT PROCESSOR_ARCHITECTURE"
    " SYSTEMDRIVE SYSTEMROOT TEMP USERNAME USERPROFILE"
    if os.name == "nt"
    else "HOME LOGNAME PATH SHELL TERM USER"
).split()
"""What of our own environment a server sees: enough to start, and none of the gateway's secrets."""

STDIN, STDOUT, STDERR = 0, 1, 2
_CHILD = str(Path(__file__).with_name("child.py"))


async def open_stdio(
    target: Target, hello: Hello, *, sweep: Sweep, era: Era | None = None, log: logging.Logger | None = None
) -> UpstreamSession:
    """A session with a process of its own, which ends with it. Raises UpstreamError; then no process is left behind.

    `era` remembers of which generation the server is. Some servers end when they are asked what they do not know: then
    another process is asked in the other way.
    """
    log = log or logging.getLogger("mcpgateway.upstream.stdio")
    greeting = _Greeting(target, hello, era or Era(), sweep)
    while True:
        try:
            return await open_owned(target, StdioWire(target, log), sweep, greeting)
        except ConnectFailed:
            if not greeting.goes_on():
                raise


class _Greeting:
    """Finds out how a process wants to be spoken to, in the order that suits the client."""

    def __init__(self, target: Target, hello: Hello, era: Era, sweep: Sweep) -> None:
        self._target = target
        self._hello = hello
        self._era = era
        self._sweep = sweep
        self._left = era.order(hello.modern)
        self._asked = ""
        self._refusals: dict[str, UpstreamError] = {}

    def __repr__(self) -> str:
        return f"<_Greeting of {self._target.name}, {self._left} left>"

    def goes_on(self) -> bool:
        """Whether the process may have ended because of what it was asked, so that another is worth starting."""
        asked, self._asked = self._asked, ""
        return asked == MODERN and bool(self._left) and self._era.takes(MODERN) is not True

    async def __call__(self, owned: OwnedSession) -> UpstreamSession:
        await owned.opened()
        while self._left:
            kind = self._asked = self._left.pop(0)
            try:
                session = await self._open(kind, owned)
            except (RpcError, UpstreamError) as error:
                self._refused(kind, error)
            else:
                self._learned(kind)
                return session
        self._era.forget()
        raise most_telling(self._refusals)

    def _learned(self, kind: str) -> None:
        """One kind was taken: now a probe that was never answered was a refusal."""
        for other in self._refusals:
            self._era.refused(other)
        self._era.took(kind)

    async def _open(self, kind: str, owned: OwnedSession) -> UpstreamSession:
        if kind == MODERN:
            return await modern_stdio.open_on(owned, self._hello, self._probe_seconds(), self._sweep)
        await owned.handshake(self._hello, b"")
        return owned

    def _probe_seconds(self) -> float:
        """How long the answer to a probe is waited for: some servers never answer what they do not know."""
        alone = not self._left or self._era.takes(MODERN)
        return math.inf if alone else self._target.open_timeout_seconds / 3

    def _refused(self, kind: str, error: RpcError | UpstreamError) -> None:
        """Note a refusal; raise what is none."""
        if isinstance(error, RpcError):
            if kind == LEGACY and error.code == UNSUPPORTED_VERSION and isinstance(self._refusals.get(MODERN), UpstreamTimeout):
                self._left.append(MODERN)  # it was only slow to begin, and has been modern since it read the probe
            error = refused_handshake(self._target.name, error)
        elif not is_refusal(error) and not isinstance(error, UpstreamTimeout):
            raise error
        self._refusals[kind] = error
        if is_refusal(error):
            self._era.refused(kind)


class Lines:
    """Cuts chunks into lines without their ends. A line over `max_bytes` is cut there, plus one byte that tells."""

    def __init__(self, max_bytes: int) -> None:
        self._max = max_bytes
        self._parts: list[bytes] = []
        self._size = 0

    def __repr__(self) -> str:
        return f"<Lines {self._size} bytes begun>"

    def feed(self, chunk: bytes) -> list[bytes]:
        """The lines that `chunk` completes, blank ones left out."""
        *ends, rest = chunk.split(b"\n")
        lines = []
        for end in ends:
            self._add(end)
            lines.append(b"".join(self._parts).strip())
            self._parts.clear()
            self._size = 0
        self._add(rest)
        return [line for line in lines if line]

    def _add(self, part: bytes) -> None:
        kept = part[: self._max + 1 - self._size]
        if kept:
            self._parts.append(kept)
            self._size += len(kept)


class StdioWire(asyncio.SubprocessProtocol):
    """The process and its three pipes. It has ended when it closed its stdin or its stdout, or is gone."""

    def __init__(self, target: Target, log: logging.Logger) -> None:
        self._target = target
        self._log = log
        self._transport: asyncio.SubprocessTransport | None = None
        self._hear: Callable[[bytes], None] = _nobody
        self._lines = Lines(MAX_LINE_BYTES)
        self._noise = Lines(MAX_LOG_LINE_BYTES)
        self._last_words = ""
        self._fault = ""
        loop = asyncio.get_running_loop()
        self._exited: asyncio.Future[None] = loop.create_future()
        self._lost: dict[int, asyncio.Future[None]] = {fd: loop.create_future() for fd in (STDIN, STDOUT, STDERR)}

    def __repr__(self) -> str:
        pid = self._transport.get_pid() if self._transport is not None else None
        return f"<StdioWire {self._target.name} pid={pid} {'exited' if self._exited.done() else 'running'}>"

    async def start(self, hear: Callable[[bytes], None]) -> None:
        self._hear = hear
        starting = spawn(self._start(), f"start of {self._target.name}")
        try:
            error = await asyncio.shield(starting)
        except asyncio.CancelledError:
            # Broken off half-way, asyncio would kill `child.py` outright and with it the guard over the server.
            await asyncio.wait([starting])
            raise
        if error is not None:
            raise self._not_started(error) from error

    async def _start(self) -> OSError | None:
        """What kept it from starting. Not raised: it is for the one who waits, and no failure of the task's."""
        target = self._target
        try:
            self._transport, _ = await asyncio.get_running_loop().subprocess_exec(
                lambda: self,
                *command_line(target),
                env=environment(dict(target.env)),
                cwd=target.cwd,
                start_new_session=True,
            )
        except OSError as error:
            return error
        return None

    def _not_started(self, error: OSError) -> ConnectFailed:
        at = f" in {self._target.cwd!r}" if self._target.cwd is not None else ""
        return ConnectFailed(self._target.name, f"cannot start {self._target.command!r}{at}: {error.strerror}")

    async def run(self) -> str:
        ends = [self._exited, self._lost[STDIN], self._lost[STDOUT]]
        await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        if not self._fault:
            await asyncio.wait([self._exited, self._lost[STDOUT], self._lost[STDERR]], timeout=LAST_WORDS_SECONDS)
        return ": ".join(filter(None, (self._fault or self._ending(), self._last_words)))

    def _ending(self) -> str:
        code = self._transport.get_returncode() if self._transport is not None else None
        if code is None:
            return "it closed its input or its output"
        return f"its process {how_it_ended(code)}"

    def post(
        self, message: bytes, headers: HeaderBlock, timeout_seconds: float, done: Callable[[UpstreamError | None], None]
    ) -> None:
        """Write a line. Headers and time-out mean nothing here: writing never waits."""
        done(self._write(message))

    def _write(self, message: bytes) -> UpstreamError | None:
        stdin = self._stdin()
        if stdin is None or stdin.is_closing():
            return ConnectionLost(self._target.name, "it no longer reads")
        if stdin.get_write_buffer_size() > MAX_UNREAD_BYTES:
            return ConnectionLost(self._target.name, f"it does not read: {MAX_UNREAD_BYTES} bytes are waiting for it")
        stdin.write(one_line(message))
        return None

    def _stdin(self) -> asyncio.WriteTransport | None:
        if self._transport is None:
            return None
        return cast("asyncio.WriteTransport | None", self._transport.get_pipe_transport(STDIN))

    async def aclose(self) -> None:
        """Close stdin; then SIGTERM to the group; then let go of the pipes, on which `child.py` kills the group."""
        if self._transport is None:
            return
        for step in (self._close_stdin, self._terminate, self._let_go):
            step()
            await asyncio.wait([self._exited], timeout=GRACE_SECONDS)
            if self._exited.done():
                break
        self._transport.close()
        await asyncio.wait([self._exited], timeout=GRACE_SECONDS)

    def _close_stdin(self) -> None:
        if (stdin := self._stdin()) is not None:
            stdin.close()

    def _terminate(self) -> None:
        if self._transport is not None and not self._exited.done():
            self._transport.send_signal(signal.SIGTERM)

    def _let_go(self) -> None:
        for fd in (STDIN, STDOUT, STDERR):
            pipe = self._transport.get_pipe_transport(fd) if self._transport is not None else None
            if pipe is not None:
                pipe.close()

    def pipe_data_received(self, fd: int, data: bytes) -> None:
        if fd == STDERR:
            for line in self._noise.feed(data):
                self._take_noise(line)
            return
        for line in self._lines.feed(data):
            self._take_line(line)

    def _take_line(self, line: bytes) -> None:
        if len(line) > MAX_LINE_BYTES:
            # Which call it would have answered cannot be known, so all of them must hear of it.
            self._fault = f"it sent a line of more than {MAX_LINE_BYTES} bytes"
            self._has_lost(STDOUT)
            return
        self._hear(line)

    def _take_noise(self, line: bytes) -> None:
        text = line[:MAX_LOG_LINE_BYTES].decode("utf-8", "replace")
        self._last_words = text[:MAX_ERROR_TEXT]
        self._log.info("stderr of upstream %s: %s", self._target.name, text)

    def pipe_connection_lost(self, fd: int, exc: Exception | None) -> None:
        self._has_lost(fd)

    def _has_lost(self, fd: int) -> None:
        if not self._lost[fd].done():
            self._lost[fd].set_result(None)

    def process_exited(self) -> None:
        if not self._exited.done():
            self._exited.set_result(None)


def command_line(target: Target) -> list[str]:
    """What is executed for `target`: its command, under our guard where there are process groups."""
    guard = [] if os.name == "nt" else [sys.executable, "-I", "-S", _CHILD]
    return [*guard, target.command, *target.args]


def environment(own: Mapping[str, str], ours: Mapping[str, str] = os.environ) -> dict[str, str]:
    """A server's environment: the harmless part of `ours`, and its own. Exported shell functions are left out."""
    inherited = {name: ours[name] for name in INHERITED if not ours.get(name, "()").startswith("()")}
    return inherited | dict(own)


def one_line(message: bytes) -> bytes:
    """`message` and its newline. Raw line breaks in JSON are white space: inside strings they are escaped."""
    if b"\n" in message or b"\r" in message:
        message = message.replace(b"\r", b" ").replace(b"\n", b" ")
    return message + b"\n"


def how_it_ended(code: int) -> str:
    """In words: the exit code, or the signal that the code stands for."""
    number = -code if code < 0 else code - 128
    if number in signal.valid_signals():
        return f"was ended by {signal.Signals(number).name}"
    return f"ended with exit code {code}"


def _nobody(line: bytes) -> None:
    return
