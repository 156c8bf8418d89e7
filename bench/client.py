"""A blocking MCP client, just enough to open the sessions that `wrk` then calls in, and to ask for one figure at a time."""

from __future__ import annotations

import json
import socket
from dataclasses import dataclass
from typing import Any, Self

VERSION = "2025-11-25"
TIMEOUT_SECONDS = 30.0


class BenchFailed(Exception):
    """Something did not do what a measurement needs. The text says what."""


@dataclass(frozen=True)
class Answer:
    """An HTTP response, its body complete."""

    status: int
    headers: dict[str, str]
    body: bytes


@dataclass(frozen=True)
class Session:
    """One session as `wrk` needs it. `prefix` stands before the names of tools there."""

    path: str
    token: str
    id: str
    prefix: str = ""

    def line(self) -> str:
        return f"{self.path} {self.token} {self.id} {self.prefix}"


class Client:
    """One connection, kept alive. Used as a context manager."""

    def __init__(self, port: int) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), TIMEOUT_SECONDS)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._buffer = b""

    def __repr__(self) -> str:
        return f"<Client {self._socket.getsockname()}>"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self._socket.close()

    def get(self, path: str, token: str = "") -> Answer:
        return self._exchange("GET", path, {"Authorization": f"Bearer {token}"} if token else {}, b"")

    def open(self, path: str, token: str) -> Session:
        """A new session, initialized."""
        params = {"protocolVersion": VERSION, "capabilities": {}, "clientInfo": {"name": "bench", "version": "1"}}
        answer = self._post(path, token, "", {"id": 0, "method": "initialize", "params": params})
        session = Session(path, token, answer.headers["mcp-session-id"])
        self._post(path, token, session.id, {"method": "notifications/initialized"})
        return session

    def call(self, session: Session, tool: str) -> dict[str, Any]:
        """The result of a tool call, in whichever form it comes."""
        request = {"id": 1, "method": "tools/call", "params": {"name": session.prefix + tool, "arguments": {}}}
        answer = self._post(session.path, session.token, session.id, request)
        body = answer.body
        if answer.headers.get("content-type", "").startswith("text/event-stream"):
            body = next(line for line in body.splitlines() if line.startswith(b"data: {")).removeprefix(b"data: ")
        message = json.loads(body)
        if "result" not in message:
            raise BenchFailed(f"{tool} answered {body[:300]!r}")
        result: dict[str, Any] = message["result"]
        return result

    def _post(self, path: str, token: str, session: str, message: dict[str, Any]) -> Answer:
        headers = {"Accept": "application/json, text/event-stream", "Content-Type": "application/json"}
        headers["Authorization"] = f"Bearer {token}"
        if session:
            headers |= {"Mcp-Session-Id": session, "MCP-Protocol-Version": VERSION}
        answer = self._exchange("POST", path, headers, json.dumps({"jsonrpc": "2.0", **message}).encode())
        if answer.status >= 300:
            raise BenchFailed(f"{message['method']} at {path} was answered {answer.status}: {answer.body[:300]!r}")
        return answer

    def _exchange(self, method: str, path: str, headers: dict[str, str], body: bytes) -> Answer:
        lines = [f"{method} {path} HTTP/1.1", f"Host: 127.0.0.1:{self._socket.getpeername()[1]}"]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        lines += [f"Content-Length: {len(body)}", "", ""]
        self._socket.sendall("\r\n".join(lines).encode() + body)
        return self._answer()

    def _answer(self) -> Answer:
        status, *lines = self._until(b"\r\n\r\n").decode("latin-1").split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        if headers.get("transfer-encoding") == "chunked":
            body = self._chunks()
        else:
            body = self._exactly(int(headers.get("content-length", 0)))
        return Answer(int(status.split()[1]), headers, body)

    def _chunks(self) -> bytes:
        parts = []
        while size := int(self._until(b"\r\n"), 16):
            parts.append(self._exactly(size))
            self._exactly(2)
        self._exactly(2)
        return b"".join(parts)

    def _until(self, mark: bytes) -> bytes:
        while mark not in self._buffer:
            self._receive()
        found, _, self._buffer = self._buffer.partition(mark)
        return found

    def _exactly(self, count: int) -> bytes:
        while len(self._buffer) < count:
            self._receive()
        found, self._buffer = self._buffer[:count], self._buffer[count:]
        return found

    def _receive(self) -> None:
        data = self._socket.recv(1 << 20)
        if not data:
            raise BenchFailed("the connection was closed before the answer was complete")
        self._buffer += data
