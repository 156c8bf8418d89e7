"""The clock, tasks that are kept and reported, and one timer for all deadlines."""

from __future__ import annotations

import asyncio
import gc
import logging
import time
from collections.abc import Callable, Coroutine
from typing import Any, Protocol

_log = logging.getLogger("mcpgateway.runtime")
_tasks: set[asyncio.Task[Any]] = set()

YOUNG_OBJECTS = 25_000
"""How many more objects there must be than at the last look before garbage is looked for: some hundred calls' worth."""


class Clock:
    """Monotonic seconds. Tests hand in one that they advance."""

    now = staticmethod(time.monotonic)


def spawn(work: Coroutine[Any, Any, Any], name: str) -> asyncio.Task[Any]:
    """Run `work` in a task that is referenced until it ends, and whose failure is logged."""
    task = asyncio.get_running_loop().create_task(work, name=name)
    _tasks.add(task)
    task.add_done_callback(_ended)
    return task


def _ended(task: asyncio.Task[Any]) -> None:
    _tasks.discard(task)
    if not task.cancelled() and (error := task.exception()) is not None:
        _log.error("task %s failed: %s", task.get_name(), error, exc_info=error)


def running_tasks() -> list[str]:
    """Names of the tasks that `spawn` started and that have not ended."""
    return sorted(task.get_name() for task in _tasks)


async def end_task(task: asyncio.Task[Any] | None) -> None:
    """Cancel a task and wait until it is over. The waiter's own cancellation still goes through."""
    if task is None or task.done():
        return
    task.cancel()
    await asyncio.wait([task])


def spare_collections() -> None:
    """Let the garbage collector look less often, and never again at what there is now. For the start of a process that serves.

    A call leaves no cycles behind, so that there is nothing to find; but while many are in flight, their objects alone would
    make it look again and again, in the end through everything: a stall of tens of milliseconds for each who waits.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(YOUNG_OBJECTS, 10, 10)


class Expiring(Protocol):
    """Something with a deadline: an instant on the monotonic clock after which `expire` is called, once."""

    deadline: float

    def expire(self) -> None: ...


class Sweep:
    """One coarse timer for all deadlines: watching costs a set entry, not a timer.

    Deadlines are met with a delay of up to `tick_seconds`. The timer runs only while something is watched. A deadline may
    be moved by assigning to it; what has expired is forgotten.
    """

    def __init__(self, clock: Clock | None = None, tick_seconds: float = 0.1) -> None:
        self._clock = clock or Clock()
        self.now = self._clock.now
        self._tick = tick_seconds
        self._watched: set[Expiring] = set()
        self.forget: Callable[[Expiring], None] = self._watched.discard
        """Let an entry's deadline pass unheard."""
        self._timer: asyncio.TimerHandle | None = None

    def __repr__(self) -> str:
        return f"<Sweep watching {len(self._watched)}>"

    def __len__(self) -> int:
        return len(self._watched)

    def watch(self, entry: Expiring) -> None:
        """Call `entry.expire()` once its deadline has passed, unless it is forgotten before."""
        self._watched.add(entry)
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(self._tick, self._run)

    def expire_due(self) -> None:
        """Expire what is due now. The timer calls this; so do tests, after advancing the clock."""
        now = self.now()
        due = [entry for entry in self._watched if entry.deadline <= now]
        for entry in due:
            self._watched.discard(entry)
            try:
                entry.expire()
            except Exception:  # one entry's fault must not keep the others from their deadlines
                _log.exception("expiring %r failed", entry)

    def _run(self) -> None:
        self._timer = None
        self.expire_due()
        # What expired may have watched something anew, and with that set the timer already: a second one would never end.
        if self._watched and self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(self._tick, self._run)

    def close(self) -> None:
        """Stop the timer and forget everything."""
        self._watched.clear()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
