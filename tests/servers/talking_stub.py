"""The recording stub with one tool more, `talk`: it is answered by an event stream on which the test speaks for the server."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from tests.servers.http11 import Request, chunk, head
from tests.servers.raw_stub import Message, Stub, event


class TalkingStub(Stub):
    """Each `talk` that runs has an entry in `talks`, by the text that it was called with."""

    def __init__(self) -> None:
        super().__init__()
        self.talks: dict[str, Talk] = {}

    async def _answer(self, request: Request, message: Message, writer: asyncio.StreamWriter) -> None:
        if message["method"] != "tools/call" or message["params"]["name"] != "talk":
            await super()._answer(request, message, writer)
            return
        writer.write(head(200, {"content-type": "text/event-stream", "transfer-encoding": "chunked"}))
        talk = self.talks[message["params"]["arguments"]["text"]] = Talk(message, writer.write)
        await talk.over.wait()
        writer.write(chunk(b""))
        await writer.drain()

    def answers(self) -> list[Message]:
        """What clients answered to questions."""
        posts = [entry["message"] for entry in self.seen.requests if entry["http"] == "POST"]
        return [message for message in posts if "method" not in message]


class Talk:
    """One call of `talk`, and what the test has the server say to it."""

    def __init__(self, request: Message, write: Callable[[bytes], None]) -> None:
        self.over = asyncio.Event()
        self._id = request["id"]
        self._token = request["params"].get("_meta", {}).get("progressToken")
        self._write = write

    def progress(self, step: int) -> None:
        params = {"progressToken": self._token, "progress": step}
        self._say({"jsonrpc": "2.0", "method": "notifications/progress", "params": params})

    def ask(self, id: str = "who") -> None:
        schema = {"type": "object", "properties": {"name": {"type": "string"}}}
        params = {"mode": "form", "message": f"{id}?", "requestedSchema": schema}
        self._say({"jsonrpc": "2.0", "id": id, "method": "elicitation/create", "params": params})

    def answer(self, text: str) -> None:
        content = [{"type": "text", "text": text}]
        self._say({"jsonrpc": "2.0", "id": self._id, "result": {"content": content}})
        self.over.set()

    def _say(self, message: Message) -> None:
        self._write(chunk(event(message)))


def talk(text: str, id: object = 1, *, token: object = "p") -> Message:
    """A call of the tool, under its own name."""
    params = {"name": "talk", "arguments": {"text": text}, "_meta": {"progressToken": token}}
    return {"jsonrpc": "2.0", "id": id, "method": "tools/call", "params": params}
