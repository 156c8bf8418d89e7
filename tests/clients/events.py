"""Event streams as they are on the wire, with the ids and pauses that a client of messages never sees."""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Any

import httpx


@dataclass
class Event:
    """One event. `data` is '' where it had none."""

    id: str | None = None
    retry: int | None = None
    type: str = "message"
    data: str = ""

    @property
    def message(self) -> dict[str, Any]:
        decoded: dict[str, Any] = json.loads(self.data)
        return decoded


class Stream:
    """A response: its status and headers, and its events as they come."""

    def __init__(self, response: httpx.Response) -> None:
        self.status = response.status_code
        self.headers = response.headers
        self.response = response
        self._events = _events(response)

    def __aiter__(self) -> AsyncIterator[Event]:
        return self._events

    async def next(self) -> Event:
        return await anext(self._events)

    async def rest(self) -> list[Event]:
        """All events until the stream ends."""
        return [event async for event in self._events]


@contextlib.asynccontextmanager
async def stream(
    url: str, message: object = None, headers: Mapping[str, str | None] | None = None, **more: str
) -> AsyncIterator[Stream]:
    """POST a message, or GET where there is none, on a connection of its own. Leaving cuts the connection."""
    accept = {"accept": "application/json, text/event-stream", "content-type": "application/json"}
    named = {name.replace("_", "-"): value for name, value in more.items()}
    sent = {name: value for name, value in {**accept, **(headers or {}), **named}.items() if value is not None}
    method, body = ("GET", None) if message is None else ("POST", json.dumps(message).encode())
    async with (
        httpx.AsyncClient(trust_env=False, timeout=20) as client,
        client.stream(method, url, content=body, headers=sent) as response,
    ):
        yield Stream(response)


async def _events(response: httpx.Response) -> AsyncIterator[Event]:
    rest = ""
    async for part in response.aiter_text():
        *blocks, rest = (rest + part).split("\n\n")
        for block in blocks:
            if not block.startswith(":"):
                yield _event(block)


def _event(block: str) -> Event:
    fields = dict(re.findall(r"^(\w+): ?(.*)$", block, re.MULTILINE))
    retry = int(fields["retry"]) if "retry" in fields else None
    return Event(fields.get("id"), retry, fields.get("event", "message"), fields.get("data", ""))
