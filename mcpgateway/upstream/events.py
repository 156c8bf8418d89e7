"""Reading the event streams that answer a request."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from mcpgateway.errors import BadAnswer
from mcpgateway.protocol import sse
from mcpgateway.upstream.http import Response

T = TypeVar("T")


async def first_of(upstream: str, response: Response, take: Callable[[sse.Event], T | None]) -> T | None:
    """What `take` gives for the first event for which it gives something; None at the stream's orderly end."""
    decoder = sse.Decoder()
    try:
        while chunk := await response.chunk():
            for event in decoder.feed(chunk):
                taken = take(event)
                if taken is not None:
                    return taken
    except sse.EventTooLarge as error:
        raise BadAnswer(upstream, str(error)) from error
    return None
