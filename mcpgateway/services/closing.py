"""The end of upstream sessions: in tasks of their own, many at once, each bounded in time, nobody waiting."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

from mcpgateway import runtime
from mcpgateway.pool.session import PooledSession

_log = logging.getLogger("mcpgateway.pool")

CLOSE_SECONDS = 5.0
CLOSES_AT_ONCE = 64
FINISH_SECONDS = 10.0


class Closer:
    """Closes sessions, each within CLOSE_SECONDS, and calls `gone` once for each as soon as it is over, however it ended."""

    def __init__(self, sweep: runtime.Sweep, gone: Callable[[PooledSession], None]) -> None:
        self._sweep = sweep
        self._gone = gone
        self._tasks: set[asyncio.Task[None]] = set()
        self._gate = asyncio.Semaphore(CLOSES_AT_ONCE)

    def __repr__(self) -> str:
        return f"<Closer of {len(self._tasks)} sessions>"

    def close(self, pooled: PooledSession) -> None:
        """Begin to close a session."""
        task = runtime.spawn(self._close(pooled), f"close {pooled!r}")
        self._tasks.add(task)
        # A callback rather than a `finally`: it is called as well where the task was cancelled before it began.
        task.add_done_callback(partial(self._ended, pooled))

    async def _close(self, pooled: PooledSession) -> None:
        async with self._gate:
            limit = _TimeLimit(asyncio.current_task(), self._sweep.now() + CLOSE_SECONDS, f"closing {pooled!r}")
            self._sweep.watch(limit)
            try:
                await pooled.transport_context.__aexit__(None, None, None)
            except Exception as error:
                _log.info("closing %r: %s", pooled, error or type(error).__name__)
            finally:
                self._sweep.forget(limit)

    def _ended(self, pooled: PooledSession, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        self._gone(pooled)

    async def finish(self) -> None:
        """Wait until all that was begun is over; what is not after FINISH_SECONDS is cut off."""
        limits = [_TimeLimit(task, self._sweep.now() + FINISH_SECONDS, task.get_name()) for task in self._tasks]
        for limit in limits:
            self._sweep.watch(limit)
        try:
            while self._tasks:
                await asyncio.wait(list(self._tasks))
        finally:
            _forget_all(self._sweep, limits)


class _TimeLimit:
    """Cancels a task when its time is over."""

    def __init__(self, task: asyncio.Task[Any] | None, deadline: float, what: str) -> None:
        self._task = task
        self._what = what
        self.deadline = deadline

    def __repr__(self) -> str:
        return f"<_TimeLimit of {self._what}>"

    def expire(self) -> None:
        if self._task is not None:
            _log.info("%s took too long and was cut off", self._what)
            self._task.cancel()


def _forget_all(sweep: runtime.Sweep, limits: Iterable[_TimeLimit]) -> None:
    for limit in limits:
        sweep.forget(limit)
