"""Requests that nobody waits for any more: their client goes away, which in revision 2026-07-28 is how it takes one back, or
the gateway ends."""

from __future__ import annotations

import asyncio


class Leaving:
    """Cancels the task that makes it, a request's, when the client of that goes away before the request is `over`.

    `stopped`: it was the gateway that ended, so that the client is still there to be told.
    """

    def __init__(self) -> None:
        self._task = asyncio.current_task()
        self._left = False
        self.over = False
        self.stopped = False

    def __repr__(self) -> str:
        return f"<Leaving{' done' if self._left else ''}>"

    def cancel(self) -> None:
        """The client left."""
        if not self.over and self._task is not None:
            self._left = True
            self._task.cancel()

    def stop(self) -> None:
        """The gateway ends."""
        if not self._left:
            self.stopped = True
            self.cancel()

    def was_all(self) -> bool:
        """Whether this is all that has cancelled the request; then the cancellation is over with this."""
        return self._left and self._task is not None and self._task.uncancel() == 0
