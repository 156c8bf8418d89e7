"""HTTP+SSE downstream, the transport of 2024-11-05: one GET stream carries all that a client is told, its messages are POSTs.

The first event names where those POSTs go: a path that nobody can guess, and that serves its own principal alone. The
session begins and ends with the stream.
"""

from __future__ import annotations

import secrets
from typing import NamedTuple
from urllib.parse import quote

from mcpgateway.auth.principals import Principal
from mcpgateway.downstream.conversing import Conversing
from mcpgateway.downstream.event_stream import EventStream
from mcpgateway.downstream.exchange import Exchange
from mcpgateway.downstream.media import accepts, check_json
from mcpgateway.downstream.piped import Pipe, PipedSession
from mcpgateway.errors import Busy, NotAcceptable, UnknownSession
from mcpgateway.protocol import sse
from mcpgateway.runtime import Sweep
from mcpgateway.services.views import View


class Place(NamedTuple):
    """What a path stands for: a stream, or, where there is an id, the messages of the client who reads that stream."""

    view: View
    stream: str
    """The path of the stream."""
    id: str = ""

    @property
    def method(self) -> str:
        return "POST" if self.id else "GET"


class HttpSse:
    """One edge for all clients of this transport."""

    def __init__(self, conversing: Conversing, sweep: Sweep, views: dict[str, View]) -> None:
        self.views = views
        """By the path of the stream. Changed as a whole when the configuration changes."""
        self.base = ""
        """The path of the public URL, behind which clients find everything."""
        self._conversing = conversing
        self._sessions = conversing.sessions
        self._sweep = sweep
        self._clients: dict[str, tuple[Pipe, EventStream]] = {}

    def __repr__(self) -> str:
        return f"<HttpSse {len(self._clients)} streams>"

    def find(self, path: str) -> Place | None:
        """What a path stands for here. A reverse proxy may or may not hand on the public URL's own path."""
        view = self.views.get(path)
        if view is not None:
            return Place(view, path)
        before, messages, id = path.removeprefix(self.base).rpartition("/messages/")
        view = self.views.get(f"{before}/sse") if messages and id else None
        return Place(view, f"{before}/sse", id) if view is not None else None

    async def get(self, exchange: Exchange, principal: Principal, place: Place) -> None:
        """A stream and its session, until the client leaves or the session is ended. Raises Busy, NotAcceptable."""
        if b"accept" in exchange.headers and not accepts(exchange.headers, b"text/event-stream"):
            raise NotAcceptable("a GET is answered with an event stream: Accept must list text/event-stream")
        session = PipedSession(principal, place.view, self._sweep)
        self._sessions.add(session)
        id = secrets.token_urlsafe(24)
        stream = EventStream(exchange, self._sweep)
        stream.send(sse.encode(self._endpoint(place, id), event=b"endpoint"))
        session.attach(stream)
        self._clients[id] = Pipe(self._conversing, session, stream), stream
        stream.start()
        exchange.when_left(stream.end_at_once)
        try:
            await stream.ended()
        finally:
            del self._clients[id]
            self._sessions.end(session)
            await stream.cut()

    def _endpoint(self, place: Place, id: str) -> bytes:
        return quote(f"{self.base}{place.stream.removesuffix('/sse')}/messages/{id}").encode()

    async def post(self, exchange: Exchange, body: bytes, principal: Principal, place: Place) -> None:
        """Take a message. Raises UnknownSession where this caller has no such stream, ClientError for what is none."""
        check_json(exchange.headers)
        pipe, stream = self._clients.get(place.id) or _unknown()
        session = self._sessions.get(pipe.session.id, principal.id, place.view)
        session.act_as(principal)
        if stream.behind:
            raise Busy("the stream's reader is too far behind: read what there is before asking for more")
        pipe.take(body, exchange)
        await exchange.respond(202, b"", ())


def _unknown() -> tuple[Pipe, EventStream]:
    raise UnknownSession
