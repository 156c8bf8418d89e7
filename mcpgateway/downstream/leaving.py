"""Requests whose client goes away: in revision 2026-07-28 that is how a client takes one back."""

from __future__ import annotations

import asyncio


class Leaving:
    """Cancels the task that makes it, a request's, when the client of that goes away before the request is `over`."""

    def __init__(self) -> None:
        self._task = asyncio.current_task()
        self._left = False
        self.over = False

    def __repr__(self) -> str:
        return f"<Leaving{' done' if self._left else ''}>"

    def cancel(self) -> None:
        """The client left."""
        if not self.over and self._task is not None:
            self._left = True
            self._task.cancel()

    def was_all(self) -> bool:
        """Whether the client's leaving is all that has cancelled the request; then the cancellation is over with this."""
        return self._left and self._task is not None and self._task.uncancel() == 0
