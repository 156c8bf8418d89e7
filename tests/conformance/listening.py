"""What both fixtures need around their SDK: memory for streams that are resumed, and a port on loopback."""

from __future__ import annotations

import itertools
import json
import os
import socket
from collections.abc import Awaitable, Callable
from typing import Any

RETRY_MILLISECONDS = 100
"""How soon a client is asked to come back for the rest of a stream that was closed before its end."""


class Events:
    """An event store as either line of the SDK wants it: all that was said on each stream, for who resumes it.

    `event` makes the SDK's own kind of event of a message and its id.
    """

    def __init__(self, event: Callable[[Any, str], Any]) -> None:
        self._event = event
        self._numbers = itertools.count(1)
        self._kept: dict[str, tuple[str, Any]] = {}

    def __repr__(self) -> str:
        return f"<Events {len(self._kept)} kept>"

    async def store_event(self, stream_id: str, message: Any) -> str:
        """The id of an event that is now kept. No message: the event with which a stream begins."""
        id = f"event-{next(self._numbers)}"
        self._kept[id] = (stream_id, message)
        return id

    async def replay_events_after(self, last_event_id: str, send: Callable[[Any], Awaitable[None]]) -> str | None:
        """Send what came later on the same stream; which stream that is, None if the id is unknown."""
        if last_event_id not in self._kept:
            return None
        stream = self._kept[last_event_id][0]
        ids = list(self._kept)
        for id in ids[ids.index(last_event_id) + 1 :]:
            of, message = self._kept[id]
            if of == stream and message is not None:
                await send(self._event(message, id))
        return stream


def loopback() -> socket.socket:
    """A socket that listens on the port in PORT or on one of the system's choice, which is said as one JSON line."""
    listener = socket.create_server(("127.0.0.1", int(os.environ.get("PORT") or 0)))
    # asyncio does this only for sockets that name their protocol; without it each event waits for an acknowledgement.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    print(json.dumps({"port": listener.getsockname()[1]}), flush=True)
    return listener
