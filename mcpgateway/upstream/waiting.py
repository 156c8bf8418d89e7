"""A request that waits for its answer in a session of which an owner reads the wire."""

from __future__ import annotations

import asyncio
import math

from msgspec import Raw

from mcpgateway.errors import UpstreamError, UpstreamTimeout
from mcpgateway.protocol import jsonrpc
from mcpgateway.protocol.call import Channel, HeaderBlock


class Waiting:
    """A request under way: who gets its answer, and when its silence has lasted too long.

    `token` is the progress token the client gave. While a question to the client is open the server is not silent.
    """

    __slots__ = ("answer", "channel", "deadline", "headers", "id", "questions", "timeout_seconds", "token", "upstream")

    def __init__(
        self, upstream: str, id: int, channel: Channel, headers: HeaderBlock, timeout_seconds: float, token: Raw | None
    ) -> None:
        self.upstream = upstream
        self.id = id
        self.channel = channel
        self.headers = headers
        self.timeout_seconds = timeout_seconds
        self.token = token
        self.deadline = math.inf
        self.questions: set[asyncio.Task[bytes]] = set()
        # Errors travel as results: a failed future whose caller is gone would complain that nobody looked at it.
        self.answer: asyncio.Future[jsonrpc.Message | UpstreamError] = asyncio.get_running_loop().create_future()

    def __repr__(self) -> str:
        return f"<Waiting {self.id} at {self.upstream}, {len(self.questions)} questions open>"

    def renew(self, now: float) -> None:
        self.deadline = math.inf if self.questions else now + self.timeout_seconds

    def settle(self, outcome: jsonrpc.Message | UpstreamError) -> None:
        if not self.answer.done():
            self.answer.set_result(outcome)

    def expire(self) -> None:
        self.settle(UpstreamTimeout(self.upstream, f"no sign of life for {self.timeout_seconds:g} seconds"))

    def sent(self, error: UpstreamError | None) -> None:
        # Some servers answer the POST only when the call is over. That it timed out says nothing of the call, whose
        # own deadline is renewed by each sign of life.
        if error is not None and not isinstance(error, UpstreamTimeout):
            self.settle(error)
