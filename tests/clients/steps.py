"""The language in which tests say what an MCP client does, whichever SDK the client is made of.

A *script* is a dict: {"transport": "http" | "sse" | "stdio", "url", "headers", "command", "answers", "steps"}. Its
session is opened, its steps run one after the other, and each gives an *outcome*. A step is a dict, too:

    {"do": "initialize"}                                       the result of the handshake
    {"do": "list", "what": "tools"}                            all pages; also resources, resourceTemplates, prompts
    {"do": "call", "tool", "arguments"}
    {"do": "call_until", "tool", "arguments", "heard"}         call until a notification of that method has come
    {"do": "cancel", "tool", "arguments"}                      call, and cancel after the first progress
    {"do": "read" | "subscribe" | "unsubscribe", "uri"}
    {"do": "prompt", "name", "arguments"}
    {"do": "complete", "ref", "argument", "context"}
    {"do": "set_level", "level"}   {"do": "ping"}

An outcome is {"do", "result"} or {"do", "error": {"code", "message"}}, in the wire's own spelling, with what came in while
the step ran: "progress" [[progress, total, message]], "notifications" [{method, params}], "asked" [{method, params}].

This module runs under both SDKs, so it imports neither.
"""

from __future__ import annotations

import asyncio
from typing import Any, Protocol

Json = dict[str, Any]

STEP_SECONDS = 15.0
ROUND_SECONDS = 0.3
ANSWERS: Json = {
    "elicitation": {"action": "accept", "content": {"name": "Ada"}},
    "sampling": {"role": "assistant", "model": "test-model", "content": {"type": "text", "text": "sampled"}},
    "roots": [{"uri": "file:///srv/ada", "name": "ada"}],
}


class Refused(Exception):
    """The server answered with a JSON-RPC error."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code


class OnProgress(Protocol):
    """Is told of each progress notification of a call."""

    async def __call__(self, progress: float, total: float | None, message: str | None) -> None: ...


class Session(Protocol):
    """An open session of one SDK. Results are in the wire's spelling; errors are `Refused`."""

    welcome: Json

    async def list_page(self, what: str, cursor: str | None) -> Json: ...

    async def call(self, tool: str, arguments: Json, on_progress: OnProgress) -> Json: ...

    async def call_and_cancel(self, tool: str, arguments: Json, on_progress: OnProgress, when: asyncio.Event) -> None: ...

    async def plain(self, step: Json) -> Json:
        """Do one of the steps that are a single request: read, subscribe, unsubscribe, prompt, complete, set_level, ping."""


class Heard:
    """What comes in from the server while a step runs."""

    def __init__(self) -> None:
        self.notifications: list[Json] = []
        self.asked: list[Json] = []
        self.progress: list[list[Any]] = []
        self._news = asyncio.Event()

    def notified(self, method: str, params: Json) -> None:
        self.notifications.append({"method": method, "params": params})
        self._news.set()

    def question(self, method: str, params: Json) -> None:
        self.asked.append({"method": method, "params": params})

    async def progressed(self, progress: float, total: float | None, message: str | None) -> None:
        self.progress.append([progress, total, message])

    def collect(self) -> Json:
        """All since the last time."""
        taken = {"progress": self.progress, "notifications": self.notifications, "asked": self.asked}
        self.progress, self.notifications, self.asked = [], [], []
        return taken

    async def wait_for(self, method: str, seconds: float) -> bool:
        """Whether a notification of that method is there, or comes within `seconds`."""
        try:
            async with asyncio.timeout(seconds):
                while not any(entry["method"] == method for entry in self.notifications):
                    self._news.clear()
                    await self._news.wait()
        except TimeoutError:
            return False
        return True


async def run_steps(session: Session, heard: Heard, steps: list[Json]) -> list[Json]:
    """The outcome of each step, in order."""
    return [await run_step(session, heard, step) for step in steps]


async def run_step(session: Session, heard: Heard, step: Json) -> Json:
    """The outcome of one step. A step that takes too long raises TimeoutError, which says what was heard until then."""
    outcome: Json = {"do": step["do"]}
    try:
        async with asyncio.timeout(STEP_SECONDS):
            outcome["result"] = await _do(session, heard, step)
    except Refused as error:
        outcome["error"] = {"code": error.code, "message": str(error)}
    except TimeoutError:
        raise TimeoutError(f"{step} took over {STEP_SECONDS} seconds; heard until then: {heard.collect()}") from None
    return outcome | heard.collect()


async def _do(session: Session, heard: Heard, step: Json) -> Json:
    match step["do"]:
        case "initialize":
            return session.welcome
        case "list":
            return await _list(session, step["what"])
        case "call":
            return await session.call(step["tool"], step.get("arguments", {}), heard.progressed)
        case "call_until":
            return await _call_until(session, heard, step)
        case "cancel":
            return await _cancel(session, heard, step)
    return await session.plain(step)


async def _list(session: Session, what: str) -> Json:
    page = await session.list_page(what, None)
    items = list(page[what])
    while (cursor := page.get("nextCursor")) is not None:
        page = await session.list_page(what, cursor)
        items += page[what]
    return {what: items}


async def _call_until(session: Session, heard: Heard, step: Json) -> Json:
    # What a server says outside calls is lost while nobody has opened the stream for it, and no message tells the client
    # when the stream is open all the way. So the client makes the server say it again.
    while True:
        result = await session.call(step["tool"], step.get("arguments", {}), heard.progressed)
        if await heard.wait_for(step["heard"], ROUND_SECONDS):
            return result


async def _cancel(session: Session, heard: Heard, step: Json) -> Json:
    begun = asyncio.Event()

    async def on_progress(progress: float, total: float | None, message: str | None) -> None:
        await heard.progressed(progress, total, message)
        begun.set()

    await session.call_and_cancel(step["tool"], step.get("arguments", {}), on_progress, begun)
    return {"cancelled": True}
