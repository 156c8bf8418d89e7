"""Child processes in the test's own event loop, for tests that read what one says while it runs (see also process.py)."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from asyncio.subprocess import DEVNULL, PIPE, Process

from tests.fakes.process import PROJECT

STOP_SECONDS = 20.0


async def start(*command: str) -> Process:
    """A program in a process group of its own. Whoever starts it reads what it says, and calls `end`."""
    env = os.environ | {"PYTHONUNBUFFERED": "1"}
    return await asyncio.create_subprocess_exec(
        *command, cwd=PROJECT, env=env, stdin=DEVNULL, stdout=PIPE, stderr=PIPE, start_new_session=True, preexec_fn=_heed_ctrl_c
    )


def _heed_ctrl_c() -> None:
    """Shells have what they run in the background ignore Ctrl-C, and so would all that it starts: tests, and their children."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


async def end(process: Process) -> None:
    """End the program, if it has not ended yet, and its whole group."""
    # Politely first: what a program started in groups of their own goes only with its help.
    with contextlib.suppress(ProcessLookupError, TimeoutError):
        process.terminate()
        async with asyncio.timeout(STOP_SECONDS):
            await process.wait()
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    async with asyncio.timeout(STOP_SECONDS):
        await process.wait()
