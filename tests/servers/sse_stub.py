"""An HTTP+SSE server (2024-11-05) written by hand.

    python -m tests.servers.sse_stub

It serves on loopback, on the port in PORT or on one of the system's choice, and prints which as one JSON line. The path
of the GET decides how it behaves: `/sse` as it should; `/held` never answers the POSTs of calls; `/elsewhere` names an
endpoint of another origin; `/silent` names none; `/plain` answers with JSON; `/401`, `/404` and such answer with that
status. A POST with `Authorization: stale` is refused with 401.
"""

from __future__ import annotations

import asyncio
import json
import os

from tests.servers.http11 import Request, chunk, head, read_request, reply
from tests.servers.stub import Message, Stub

STREAM = {"content-type": "text/event-stream; charset=utf-8", "transfer-encoding": "chunked"}
CHALLENGE = {"www-authenticate": 'Bearer realm="stub"'}


class SseServer:
    """Sessions by the name in their endpoint; each lives as long as its stream."""

    def __init__(self) -> None:
        self._sessions: dict[str, tuple[Stub, asyncio.StreamWriter]] = {}
        self._minted = 0

    def __repr__(self) -> str:
        return f"<SseServer {len(self._sessions)} sessions>"

    async def connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while (request := await read_request(reader)) is not None:
                if request.method == "GET":
                    await self._get(request, reader, writer)
                else:
                    await self._post(request, writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass  # the client has gone
        finally:
            writer.close()

    async def _get(self, request: Request, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        name = request.path.strip("/")
        if name.isdigit():
            await reply(writer, int(name), b"{}", CHALLENGE)
        elif name == "plain":
            await reply(writer, 200, b"{}")
        else:
            await self._stream(name, reader, writer)

    async def _stream(self, name: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._minted += 1
        session = f"{name}-{self._minted}"
        self._sessions[session] = Stub(lambda message: say(writer, message)), writer
        host = "http://other.invalid" if name == "elsewhere" else ""
        writer.write(head(200, STREAM) + chunk(b": welcome\n\n"))
        if name != "silent":
            writer.write(chunk(f"event: endpoint\ndata: {host}/messages?session={session}\n\n".encode()))
        await writer.drain()
        await reader.read()
        self._sessions.pop(session, None)

    async def _post(self, request: Request, writer: asyncio.StreamWriter) -> None:
        name = request.path.rpartition("=")[2]
        message = json.loads(request.body)
        if name not in self._sessions:
            await reply(writer, 404)
            return
        if request.headers.get("authorization") == "stale":
            await reply(writer, 401, b"{}", CHALLENGE)
            return
        if not (name.startswith("held") and message.get("method") == "tools/call"):
            await reply(writer, 202, b"Accepted", {"content-type": "text/plain"})
        self._take(name, message, request)

    def _take(self, name: str, message: Message, request: Request) -> None:
        stub, stream = self._sessions[name]
        match message.get("params", {}).get("name"):
            case "end":
                stream.write(chunk(b""))
                stream.close()
            case "forget":
                # Only the endpoint is forgotten; the stream stays, as behind a balancer that lost its way.
                del self._sessions[name]
                stub.take({**message, "params": {"name": "echo", "arguments": {"text": "forgotten"}}})
            case _:
                stub.take(message, request.headers)


def say(writer: asyncio.StreamWriter, message: Message) -> None:
    data = json.dumps(message).encode()
    writer.write(chunk(b"event: message\ndata: %b\n\n" % data) + chunk(b"event: message\ndata:\n\n: ping\n\n"))


async def main() -> None:
    server = await asyncio.start_server(SseServer().connected, "127.0.0.1", int(os.environ.get("PORT") or 0))
    print(json.dumps({"port": server.sockets[0].getsockname()[1]}), flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main())
