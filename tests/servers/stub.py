"""What the stub servers for SSE and stdio have in common: tools that do one odd thing each, on request."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from typing import Any

Message = dict[str, Any]


class Stub:
    """One session. `say` sends a message to the client; `take` handles one of the client's, sent with `headers`."""

    def __init__(self, say: Callable[[Message], None]) -> None:
        self._say = say
        self._seen: list[Message] = []
        self._asked: dict[str, object] = {}
        self._hanging: list[object] = []

    def __repr__(self) -> str:
        return f"<Stub {len(self._seen)} messages seen>"

    def take(self, message: Message, headers: dict[str, str] | None = None) -> None:
        self._seen.append(message)
        if "method" not in message:
            self._finish_ask(message)
        elif message["method"] == "notifications/cancelled":
            self._end_late_ones(message["params"]["requestId"])
        elif message["method"] == "initialize":
            self._answer(message["id"], self._welcome(message["params"]["protocolVersion"]))
        elif message["method"] == "tools/call":
            self._call(message["id"], message["params"], headers or {})
        elif "id" in message:
            self._say({"jsonrpc": "2.0", "id": message["id"], "error": {"code": -32601, "message": "Method not found"}})

    def _welcome(self, revision: str) -> Message:
        info = {"name": "stub", "version": "1"}
        return {"protocolVersion": revision, "capabilities": {"tools": {}}, "serverInfo": info}

    def _call(self, id: object, params: Message, headers: dict[str, str]) -> None:
        arguments = params.get("arguments", {})
        token = params.get("_meta", {}).get("progressToken")
        match params["name"]:
            case "echo":
                self._text(id, arguments["text"])
            case "headers":
                self._text(id, json.dumps(headers))
            case "environment":
                self._text(id, json.dumps(dict(os.environ)))
            case "seen":
                self._text(id, json.dumps(self._seen))
            case "progress":
                for step in range(3):
                    self._notify("notifications/progress", {"progressToken": token, "progress": step})
                self._text(id, "done")
            case "log":
                self._notify("notifications/message", {"level": "info", "data": "working"})
                self._text(id, "done")
            case "ask":
                self._asked[f"question-{id}"] = id
                self._say({"jsonrpc": "2.0", "id": f"question-{id}", **arguments})
            case "hang":
                self._hanging.append(id)
                self._notify("notifications/progress", {"progressToken": token, "progress": 0})
            case "release":
                for hanging in self._hanging:
                    self._text(hanging, "released")
                self._text(id, "done")
            case "huge":
                self._text(id, "x" * arguments["size"])
            case "crash":
                print("out of cheese", file=sys.stderr, flush=True)
                os._exit(3)

    def _finish_ask(self, response: Message) -> None:
        if (id := self._asked.pop(response["id"], None)) is not None:
            self._text(id, json.dumps(response.get("result", response.get("error"))))

    def _end_late_ones(self, id: object) -> None:
        """Answer a cancelled call all the same, as careless servers do."""
        if id in self._hanging:
            self._hanging.remove(id)
            self._text(id, "too late")

    def _notify(self, method: str, params: Message) -> None:
        self._say({"jsonrpc": "2.0", "method": method, "params": params})

    def _text(self, id: object, text: str) -> None:
        self._answer(id, {"content": [{"type": "text", "text": text}]})

    def _answer(self, id: object, result: Message) -> None:
        self._say({"jsonrpc": "2.0", "id": id, "result": result})
