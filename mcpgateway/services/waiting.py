"""Those who stand in line for an upstream session."""

from __future__ import annotations

import asyncio
from itertools import count

from mcpgateway.errors import PoolExhausted
from mcpgateway.pool.key import shown
from mcpgateway.pool.session import Lease
from mcpgateway.pool.shelf import Shelf
from mcpgateway.services.leasing import Open

SCOPES = {
    "key": "session_pool.max_sessions_per_key",
    "principal": "session_pool.max_sessions_per_principal",
    "upstream": "session_pool.max_sessions_per_upstream",
    "total": "session_pool.max_sessions",
}
"""The setting behind each limit."""

_turns = count()


class Waiting:
    """One caller in line; a `pool.shelf.Waiter`. Served with a lease, refused with an error, or gone."""

    def __init__(self, shelf: Shelf, open: Open, generation: int, deadline: float) -> None:
        self.open = open
        self.generation = generation
        self.deadline = deadline
        self.turn = next(_turns)
        self.future: asyncio.Future[Lease] = asyncio.get_running_loop().create_future()
        self._shelf = shelf
        shelf.waiters[self] = None

    def __repr__(self) -> str:
        return f"<Waiting {'done' if self.done() else 'in line'}>"

    def done(self) -> bool:
        return self.future.done()

    def grant(self, lease: Lease) -> None:
        self.future.set_result(lease)

    def refuse(self, error: BaseException) -> None:
        self.future.set_exception(error)

    def expire(self) -> None:
        """The time to wait is over. The sweep calls this."""
        if not self.done():
            scope = self._shelf.blocked_by
            why = f"{SCOPES[scope]} is reached" if scope else "none was opened in time"
            name = shown(self._shelf.key)
            self.refuse(PoolExhausted(f"no session for upstream {name!r} came free: {why}; try again shortly"))
