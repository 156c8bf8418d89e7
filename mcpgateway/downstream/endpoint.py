"""The ASGI application: limits, who calls, which endpoint, which edge."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress

from mcpgateway.auth.access import Access
from mcpgateway.downstream.door import Door
from mcpgateway.downstream.event_stream import Receive, Scope, Send
from mcpgateway.downstream.pages import Pages
from mcpgateway.downstream.problems import problem_of, unexpected
from mcpgateway.downstream.rate_limit import RateLimit
from mcpgateway.downstream.reply import JSON, respond
from mcpgateway.downstream.resource_metadata import challenge
from mcpgateway.downstream.streamable_http import Headers, StreamableHTTP
from mcpgateway.errors import Draining, GatewayError, NotFound, TooLarge, Unauthenticated
from mcpgateway.services.views import View

_log = logging.getLogger("mcpgateway.http")

CLOSE = (b"connection", b"close")

DISCARDED_BYTES = 64 * 1024 * 1024
"""How much of a body that is too large is read to its end."""


class ClientLeft(Exception):
    """The client went away before its request was complete: there is nobody to answer."""


class Endpoint:
    """Serves `/mcp`, `/servers/<server>/mcp`, and the pages for operators. `lifespan` starts and stops the gateway."""

    def __init__(
        self,
        door: Door,
        edge: StreamableHTTP,
        pages: Pages,
        access: Access,
        rate: RateLimit,
        views: dict[str, View],
        body_bytes: int,
        count_refusal: Callable[[str], None],
        start: Callable[[], Awaitable[None]],
        stop: Callable[[], Awaitable[None]],
    ) -> None:
        self._door = door
        self._edge = edge
        self._pages = pages
        self._access = access
        self._rate = rate
        self.views = views
        """By path. Changed as a whole when the configuration changes."""
        self._body_bytes = body_bytes
        self._count_refusal = count_refusal
        self._start = start
        self._stop = stop
        self.draining = False

    def __repr__(self) -> str:
        return f"<Endpoint with {len(self.views)} paths{' draining' if self.draining else ''}>"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._lifespan(receive, send)
        elif scope["type"] == "http":
            await self._http(scope, receive, send)

    async def _http(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers: Headers = dict(scope["headers"])
        try:
            self._door.check_origin(headers)
            view = self.views.get(scope["path"])
            if view is None:
                await self._page(scope, headers, send)
            else:
                await self._mcp(scope, headers, view, receive, send)
        except GatewayError as error:
            await self._refuse(error, scope["path"], send)
        except ClientLeft:
            _log.debug("a client left before its request was complete")
        except Exception:
            request_id = self._edge.request_id(headers)
            _log.exception("request %s failed unexpectedly", request_id)
            problem = unexpected(request_id, None)
            # An answer that has begun cannot be taken back: the server then breaks it off.
            with suppress(RuntimeError):
                await respond(send, problem.status, problem.body, (JSON, CLOSE))

    async def _page(self, scope: Scope, headers: Headers, send: Send) -> None:
        page = self._pages.find(scope["path"])
        if page is None:
            raise not_served()
        if page.protected:
            _ = self._door.known(headers) or await self._door.verify(headers)
        if scope["method"] not in ("GET", "HEAD"):
            await respond(send, 405, b"", ((b"allow", b"GET, HEAD"),))
            return
        status, kind, body = page.render()
        await respond(send, status, body if scope["method"] == "GET" else b"", ((b"content-type", kind),))

    async def _mcp(self, scope: Scope, headers: Headers, view: View, receive: Receive, send: Send) -> None:
        principal = self._door.known(headers) or await self._door.verify(headers)
        if view.single and not self._access.of(principal).server(view.only.slug):
            raise not_served()
        self._rate.check(principal.id)
        method = scope["method"]
        if method == "POST":
            body = await self._body(headers, receive)
            if self.draining and not self._edge.may_finish_a_call(body):
                raise Draining
            await self._edge.post(scope, headers, body, principal, view, receive, send)
        elif method == "GET" and self.draining:
            raise Draining
        elif method == "GET":
            await self._edge.get(headers, principal, view, receive, send)
        elif method == "DELETE":
            await self._edge.delete(headers, principal, view, send)
        else:
            await respond(send, 405, b"", ((b"allow", b"POST, GET, DELETE"),))

    async def _body(self, headers: Headers, receive: Receive) -> bytes:
        """The whole body. Raises TooLarge, ClientLeft."""
        declared = headers.get(b"content-length", b"")
        if declared.isdigit() and (len(declared) > 18 or int(declared) > self._body_bytes):
            if b"expect" not in headers:
                await _discard(receive)
            raise self._too_large()
        try:
            message = await receive()
        except RuntimeError as error:  # asked to go on sending, and gone already
            raise ClientLeft from error
        body: bytes = message.get("body", b"")
        while message.get("more_body") and len(body) <= self._body_bytes:
            message = await receive()
            body += message.get("body", b"")
        if message["type"] == "http.disconnect":
            raise ClientLeft
        if len(body) > self._body_bytes:
            if message.get("more_body"):
                await _discard(receive)
            raise self._too_large()
        return body

    def _too_large(self) -> TooLarge:
        return TooLarge(f"the body is larger than {self._body_bytes} bytes (gateway.limits.body_bytes)")

    async def _refuse(self, error: GatewayError, path: str, send: Send) -> None:
        """Answer a request that no edge took."""
        self._count_refusal(type(error).__name__)
        problem = problem_of(error, None)
        headers = [JSON, *problem.headers]
        status = problem.status if problem.status != 200 else 400
        if isinstance(error, Unauthenticated):
            headers.append(
                (b"www-authenticate", challenge(error, self._pages.metadata_url(path if path in self.views else "")))
            )
        if isinstance(error, TooLarge | Draining):
            headers.append(CLOSE)
        await respond(send, status, problem.body, headers)

    async def _lifespan(self, receive: Receive, send: Send) -> None:
        while True:
            message = await receive()
            if message["type"] == "lifespan.startup":
                await self._start()
                await send({"type": "lifespan.startup.complete"})
            elif message["type"] == "lifespan.shutdown":
                await self._stop()
                await send({"type": "lifespan.shutdown.complete"})
                return


def not_served() -> NotFound:
    """What is said of a path at which nothing is served, or nothing that the caller may use: nobody learns which."""
    return NotFound("nothing is served at this path; MCP is at /mcp and /servers/<server>/mcp")


async def _discard(receive: Receive) -> None:
    """Read the rest of a body, within reason: who is still sending would meet a broken connection instead of the answer."""
    left = DISCARDED_BYTES
    while left > 0 and (message := await receive()).get("more_body"):
        left -= len(message.get("body", b""))
    if left > 0 and message["type"] == "http.disconnect":
        raise ClientLeft
