"""Around a server's app: every message that comes must be valid in the revision it is spoken in. It knows no SDK."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

import uvicorn

from tests.schemas import validity

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Message, Receive, Send], Awaitable[None]]

UNNAMED_REVISION = "2025-03-26"
"""The revision of a request that names none, says the specification."""

UNSUPPORTED_VERSION = -32022


class Checked:
    """Passes everything on to the app, and tells at /heard what was wrong, and in which revisions tools were called.

    Where it is to speak one revision `only`, what is said in others is refused, as servers do that take no handshake.
    """

    def __init__(self, app: App, only: str | None = None) -> None:
        self._app = app
        self._only = only
        self._faults: list[str] = []
        self._revisions: set[str] = set()

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] != "POST":
            await (self._tell(send) if scope.get("path") == "/heard" else self._app(scope, receive, send))
            return
        body = await _body(receive)
        revision = self._check(dict(scope["headers"]), json.loads(body))
        if self._only not in (None, revision):
            await self._refuse(send, json.loads(body).get("id"), revision)
            return
        whole: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

        async def again() -> Message:
            return whole.pop() if whole else await receive()

        await self._app(scope, again, send)

    def _check(self, headers: dict[bytes, bytes], message: Any) -> str:
        """The revision of a message, of which it is noted whether it is valid."""
        named = headers.get(b"mcp-protocol-version", b"").decode()
        revision = named or message.get("params", {}).get("protocolVersion", UNNAMED_REVISION)
        fault = validity.fault(message, revision, "server")
        if fault is not None:
            self._faults.append(fault)
        if message.get("method") == "tools/call":
            self._revisions.add(revision)
        return revision

    async def _tell(self, send: Send) -> None:
        await _respond(send, 200, {"faults": self._faults, "revisions": sorted(self._revisions)})

    async def _refuse(self, send: Send, id: object, revision: str) -> None:
        data = {"supported": [self._only], "requested": revision}
        error = {"code": UNSUPPORTED_VERSION, "message": "Unsupported protocol version", "data": data}
        await _respond(send, 400, {"jsonrpc": "2.0", "id": id, "error": error})


async def _respond(send: Send, status: int, body: object) -> None:
    await send({"type": "http.response.start", "status": status, "headers": [(b"content-type", b"application/json")]})
    await send({"type": "http.response.body", "body": json.dumps(body).encode()})


async def _body(receive: Receive) -> bytes:
    body, more = b"", True
    while more:
        message = await receive()
        body += message.get("body", b"")
        more = message.get("more_body", False)
    return body


def serve(app: App, only: str | None = None) -> None:
    """Serve on loopback, on the port in PORT or on one of the system's choice, and print which as one JSON line."""
    listener = socket.create_server(("127.0.0.1", int(os.environ.get("PORT") or 0)))
    # asyncio does this only for sockets that name their protocol; without it each event waits 40 ms for an acknowledgement.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    print(json.dumps({"port": listener.getsockname()[1]}), flush=True)
    # A polite shutdown must not wait for clients that hold a stream open.
    config = uvicorn.Config(Checked(app, only), log_level="warning", timeout_graceful_shutdown=1)
    uvicorn.Server(config).run(sockets=[listener])
