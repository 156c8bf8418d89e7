"""Enough HTTP/1.1 to write a server of one's own for a test: read a request, send a response. No wire is more raw."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

CRLF = b"\r\n"


@dataclass
class Request:
    """One HTTP request, read to its end. Header names are in lower case."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def session(self) -> str | None:
        return self.headers.get("mcp-session-id")


async def read_request(reader: asyncio.StreamReader) -> Request | None:
    """The next request of a connection, None where the client has closed it."""
    line = await reader.readline()
    if not line:
        return None
    method, path, _version = line.decode().split()
    headers = {}
    while (line := await reader.readline()).strip():
        name, _, value = line.decode("latin-1").partition(":")
        headers[name.strip().lower()] = value.strip()
    return Request(method, path, headers, await read_body(reader, headers))


async def read_body(reader: asyncio.StreamReader, headers: dict[str, str]) -> bytes:
    if "chunked" not in headers.get("transfer-encoding", ""):
        return await reader.readexactly(int(headers.get("content-length", 0)))
    body = b""
    while size := int(await reader.readline(), 16):
        body += await reader.readexactly(size)
        await reader.readline()
    await reader.readline()
    return body


def head(status: int, headers: dict[str, str]) -> bytes:
    """The status line and headers of a response, with the blank line after them."""
    lines = [f"HTTP/1.1 {status} -", *(f"{name}: {value}" for name, value in headers.items())]
    return "\r\n".join(lines).encode("latin-1") + CRLF + CRLF


def chunk(data: bytes) -> bytes:
    """One chunk of a chunked body; the last one where `data` is empty."""
    return b"%x\r\n%b\r\n" % (len(data), data)


async def reply(writer: asyncio.StreamWriter, status: int, body: bytes = b"", headers: dict[str, str] | None = None) -> None:
    """Send a whole response; its body is JSON unless `headers` say otherwise."""
    plain = {"content-type": "application/json"} if body else {}
    writer.write(head(status, {**plain, "content-length": str(len(body)), **(headers or {})}) + body)
    await writer.drain()
