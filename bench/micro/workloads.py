"""What is timed: each function makes something that is called over and over."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import aclosing
from typing import Any

from msgspec import Raw

from mcpgateway.pool.key import PoolKey, Terms
from mcpgateway.pool.session import PooledSession, TransportType
from mcpgateway.protocol import jsonrpc, sse
from mcpgateway.services.leasing import Want
from mcpgateway.services.mcp_session_pool import MCPSessionPool

Work = Callable[[], object]

URL = "http://upstream.test/mcp"
HEADERS = {"Authorization": "Bearer of-the-bench"}
BATCH = 1000
"""How often the work runs that needs a running loop, each time it is called."""

CALL = (
    b'{"jsonrpc":"2.0","id":4711,"method":"tools/call","params":{"name":"search__find","arguments":{"text":"the bench asks",'
    b'"limit":10},"_meta":{"progressToken":"a-token"}}}'
)
TEXT = b'a line of \\"text\\" as tools give it\\n' * 300
RESULT = b'{"content":[{"type":"text","text":"%b"}],"isError":false}' % TEXT
ANSWER = b'{"jsonrpc":"2.0","id":4711,"result":%b}' % RESULT
EVENT = b'event: message\r\nid: 7\r\ndata: {"jsonrpc":"2.0","id":4711,"result":{"content":[],"isError":false}}\r\n\r\n'
BIG_EVENT = sse.encode(ANSWER)
CHUNK = 4096


class _Session:
    """An upstream session that nobody calls."""

    closed = False

    async def aclose(self) -> None:
        self.closed = True


class _Opener:
    """Opens sessions without a server."""

    async def open_url(self, *_: Any) -> tuple[_Session, aclosing[_Session]]:
        session = _Session()
        return session, aclosing(session)

    async def aclose(self) -> None:
        return


def reference() -> Work:
    """A bit of everything that Python does, and nothing of ours: how fast the machine is."""
    words = [f"header-{number}" for number in range(40)]

    def work() -> object:
        table = {word: len(word) * number for number, word in enumerate(words)}
        total = sum(value for key, value in table.items() if key.endswith(("1", "3", "5")))
        text = b"\r\n".join(word.encode() for word in words)
        return total, text.partition(b"header-20"), sorted(table, key=table.__getitem__)[:5]

    return work


def lease_and_give_back(loop: asyncio.AbstractEventLoop) -> Work:
    """The pool's own form of lending, as each call uses it: a warm session, nobody else wants it."""
    pool = MCPSessionPool()
    key = PoolKey("alice", URL, "an-identity", "streamablehttp", "search", "bound:a-session")

    async def open() -> PooledSession:
        session = _Session()
        return PooledSession(session, aclosing(session), URL, "an-identity", TransportType.STREAMABLE_HTTP)

    want = Want(key, Terms(exclusive=False), open)
    pool.give_back(loop.run_until_complete(pool.lease(want)))
    warm, give_back = pool.warm, pool.give_back

    def work() -> None:
        lease = warm(want)
        assert lease is not None
        give_back(lease)

    return work


def acquire_and_release(loop: asyncio.AbstractEventLoop) -> Work:
    """The exclusive form, which finds the key anew each time. Runs `BATCH` times."""
    pool = MCPSessionPool(opener=_Opener())  # type: ignore[arg-type]

    async def run() -> None:
        for _ in range(BATCH):
            await pool.release(await pool.acquire(URL, HEADERS, user_identity="alice"))

    return lambda: loop.run_until_complete(run())


def decode_request() -> Work:
    return lambda: jsonrpc.decode(CALL)


def decode_answer() -> Work:
    """10 KiB."""
    return lambda: jsonrpc.decode(ANSWER)


def encode_request() -> Work:
    params = {"name": Raw(b'"find"'), "arguments": Raw(b'{"text":"the bench asks","limit":10}')}
    return lambda: jsonrpc.request(4711, "tools/call", params)


def encode_answer() -> Work:
    """10 KiB."""
    return lambda: jsonrpc.result(4711, RESULT)


def decode_event() -> Work:
    """A stream that holds one short answer."""
    return lambda: sse.Decoder().feed(EVENT)


def decode_big_event() -> Work:
    """A stream that holds one answer of 10 KiB and comes in pieces."""
    pieces = [BIG_EVENT[start : start + CHUNK] for start in range(0, len(BIG_EVENT), CHUNK)]

    def work() -> None:
        decoder = sse.Decoder()
        for piece in pieces:
            decoder.feed(piece)

    return work
