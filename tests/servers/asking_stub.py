"""A legacy server by hand that asks its callers while their calls run, as often and whatever it is told to."""

from __future__ import annotations

import asyncio
import itertools
import json

from tests.servers.http11 import Request, chunk, head, reply
from tests.servers.raw_stub import Message, Stub, event

TOOLS: list[Message] = [
    {"name": name, "inputSchema": {"type": "object"}} for name in ("ask", "counter", "fails", "hang", "says", "whoami")
]
ROUTED = {"region": {"type": "string", "x-mcp-header": "Region"}, "text": {"type": "string"}}
TOOLS.append({"name": "routed", "inputSchema": {"type": "object", "properties": ROUTED}})


class AskingStub(Stub):
    """Runs in the test's own loop.

    Its tool `ask` asks what `rounds` holds, and answers with what it was told: with an error where an answer is one and it is
    `strict`, never where it is to `hang`. `fails` gives the error in its argument, `says` sends messages before it answers.
    """

    def __init__(self) -> None:
        super().__init__()
        self._numbers = itertools.count(1)
        self._waiting: dict[str, asyncio.Future[Message]] = {}
        self.cancelled: list[Message] = []
        self.calls = 0

    @property
    def asking(self) -> int:
        """How many questions wait for their answer."""
        return len(self._waiting)

    async def _serve_mcp(self, request: Request, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        message = json.loads(request.body) if request.body else {}
        if message.get("method") == "notifications/cancelled":
            self.cancelled.append(message["params"])
        elif "id" in message and "method" not in message:
            waiting = self._waiting.pop(message["id"], None)
            if waiting is not None and not waiting.done():
                waiting.set_result(message)
            self._record(request, message)
            await reply(writer, 202)
            return
        await super()._serve_mcp(request, reader, writer)

    async def _answer(self, request: Request, message: Message, writer: asyncio.StreamWriter) -> None:
        params = message.get("params", {})
        tool = params.get("name") if message["method"] == "tools/call" else None
        arguments = params.get("arguments", {})
        if tool == "ask":
            await self._ask(message, arguments, writer)
        elif tool == "fails":
            await reply(writer, 200, json.dumps({"jsonrpc": "2.0", "id": message["id"], "error": arguments["error"]}).encode())
        elif tool == "says":
            self._begin(writer, [{"jsonrpc": "2.0", **each} for each in arguments["messages"]])
            self._end(writer, message["id"], {"content": [{"type": "text", "text": "said"}]})
            await writer.drain()
        elif tool == "hang":
            self.calls += 1
            await asyncio.Event().wait()
        else:
            await super()._answer(request, message, writer)

    async def _ask(self, message: Message, arguments: Message, writer: asyncio.StreamWriter) -> None:
        """Ask round after round; the answer is what was answered, or the error that was."""
        self.calls += 1
        told: list[Message] = []
        begun = False
        for questions in arguments["rounds"]:
            asked = {f"q-{next(self._numbers)}": each for each in questions}
            for id in asked:
                self._waiting[id] = asyncio.get_running_loop().create_future()
            waiting = [self._waiting[id] for id in asked]
            messages = [{"jsonrpc": "2.0", "id": id, **each} for id, each in asked.items()]
            if begun:
                writer.write(b"".join(chunk(event(each)) for each in messages))
            else:
                self._begin(writer, messages)
            begun = True
            await writer.drain()
            for answer in await asyncio.gather(*waiting):
                told.append(answer.get("result", answer.get("error")))
                if arguments.get("strict") and "error" in answer:
                    writer.write(chunk(event({"jsonrpc": "2.0", "id": message["id"], "error": answer["error"]})) + chunk(b""))
                    return
        if arguments.get("hang"):
            await asyncio.Event().wait()
        self._end(writer, message["id"], {"content": [{"type": "text", "text": json.dumps(told)}]})
        await writer.drain()

    @staticmethod
    def _begin(writer: asyncio.StreamWriter, messages: list[Message]) -> None:
        writer.write(head(200, {"content-type": "text/event-stream", "transfer-encoding": "chunked"}))
        writer.write(b"".join(chunk(event(each)) for each in messages))

    @staticmethod
    def _end(writer: asyncio.StreamWriter, id: object, result: Message) -> None:
        writer.write(chunk(event({"jsonrpc": "2.0", "id": id, "result": result})) + chunk(b""))

    async def _result(self, request: Request, message: Message) -> str | None:
        match message["method"]:
            case "initialize":
                offered: Message = {
                    "tools": {"listChanged": True},
                    "resources": {"subscribe": True, "listChanged": True},
                    "logging": {},
                }
                revision = message["params"]["protocolVersion"]
                info = {"name": "asking", "version": "1"}
                return json.dumps({"protocolVersion": revision, "capabilities": offered, "serverInfo": info})
            case "tools/list":
                return json.dumps({"tools": TOOLS})
            case "resources/list":
                return json.dumps({"resources": [{"uri": "note://1", "name": "one"}, {"uri": "note://2", "name": "two"}]})
            case "resources/templates/list":
                return json.dumps({"resourceTemplates": []})
            case "resources/subscribe" | "resources/unsubscribe" | "logging/setLevel":
                return "{}"
        return await super()._result(request, message)
