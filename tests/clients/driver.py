"""Runs scripts through either client, so that a test need not know which it has."""

from __future__ import annotations

import asyncio
import concurrent.futures
import itertools
from typing import Any, Protocol

from tests.clients import client_2x
from tests.clients.steps import Json
from tests.fakes.process import Child
from tests.fakes.programs import python_1x

SCRIPT_SECONDS = 20.0


class ScriptFailed(Exception):
    """The client broke down; the text is what it said."""


class Driver(Protocol):
    """A client that can be told what to do."""

    name: str

    async def run(self, script: Json) -> list[Json]:
        """The outcomes of a script (see steps.py), in a session of its own."""


class Driver2x:
    """The client of the SDK's 2.x line, in this process."""

    name = "2x"

    async def run(self, script: Json) -> list[Json]:
        async with asyncio.timeout(SCRIPT_SECONDS):
            return await client_2x.run_script(script)


class Driver1x:
    """The client of the SDK's 1.x line, in a process that serves all tests. `stop` it."""

    name = "1x"

    def __init__(self) -> None:
        self._waiting: dict[int, concurrent.futures.Future[Json]] = {}
        self._ids = itertools.count(1)
        self._child = Child([python_1x(), "-m", "tests.clients.client_1x"], on_json=self._heard)

    def __repr__(self) -> str:
        return f"<Driver1x {len(self._waiting)} scripts running, {self._child!r}>"

    async def run(self, script: Json) -> list[Json]:
        id = next(self._ids)
        future = self._waiting[id] = concurrent.futures.Future()
        self._child.tell({"id": id, "script": script})
        try:
            async with asyncio.timeout(SCRIPT_SECONDS):
                reply = await asyncio.wrap_future(future)
        except TimeoutError:
            raise self._child.failed("did not finish a script") from None
        finally:
            del self._waiting[id]
        if "failed" in reply:
            raise ScriptFailed(reply["failed"])
        outcomes: list[Json] = reply["outcomes"]
        return outcomes

    def stop(self) -> None:
        self._child.stop()

    def _heard(self, message: dict[str, Any]) -> None:
        """Called by the thread that reads the child."""
        future = self._waiting.get(message.get("id", 0))
        if future is not None and not future.cancelled():
            future.set_result(message)
