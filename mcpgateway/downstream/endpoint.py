"""The ASGI application: limits, who calls, which endpoint, which edge."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress

from mcpgateway.auth.access import NOTHING, Access
from mcpgateway.auth.principals import Principal
from mcpgateway.downstream.door import Door
from mcpgateway.downstream.envelope import is_modern, names_modern
from mcpgateway.downstream.exchange import JSON, AsgiExchange, ClientLeft, Exchange, Receive, Scope, Send
from mcpgateway.downstream.modern_http import ModernHTTP
from mcpgateway.downstream.pages import Pages
from mcpgateway.downstream.problems import problem_of, unexpected
from mcpgateway.downstream.rate_limit import RateLimit
from mcpgateway.downstream.resource_metadata import challenge
from mcpgateway.downstream.sse import HttpSse, Place
from mcpgateway.downstream.streamable_http import StreamableHTTP
from mcpgateway.errors import Draining, GatewayError, NotFound, TooLarge, Unauthenticated
from mcpgateway.services.views import View

_log = logging.getLogger("mcpgateway.http")

CLOSE = (b"connection", b"close")


class Endpoint:
    """Serves `/mcp`, `/servers/<server>/mcp`, both also with `sse` at their end, and the pages for operators.

    `lifespan` starts and stops the gateway.
    """

    def __init__(
        self,
        door: Door,
        edge: StreamableHTTP,
        modern: ModernHTTP,
        sse: HttpSse,
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
        self._modern = modern
        self._sse = sse
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
            await self.serve(AsgiExchange(scope, receive, send))

    async def serve(self, exchange: Exchange) -> None:
        """Answer one request, whatever becomes of it."""
        try:
            self._door.check_origin(exchange.headers)
            view = self.views.get(exchange.path)
            if view is not None:
                await self._mcp(exchange, view)
            elif (place := self._sse.find(exchange.path)) is not None:
                await self._old_sse(exchange, place)
            else:
                await self._page(exchange)
        except GatewayError as error:
            await self._refuse(error, exchange)
        except ClientLeft:
            _log.debug("a client left before its request was complete")
        except Exception:
            request_id = self._edge.request_id(exchange.headers)
            _log.exception("request %s failed unexpectedly", request_id)
            problem = unexpected(request_id, None)
            # An answer that has begun cannot be taken back: the server then breaks it off.
            with suppress(RuntimeError):
                await exchange.respond(problem.status, problem.body, (JSON, CLOSE))

    async def _page(self, exchange: Exchange) -> None:
        page = self._pages.find(exchange.path)
        if page is None:
            raise not_served()
        rights = NOTHING
        if page.protected:
            rights = self._access.of(self._door.known(exchange.headers) or await self._door.verify(exchange.headers))
        if exchange.method not in ("GET", "HEAD"):
            await exchange.respond(405, b"", ((b"allow", b"GET, HEAD"),))
            return
        status, kind, body = page.render(rights)
        await exchange.respond(status, body if exchange.method == "GET" else b"", ((b"content-type", kind),))

    async def _mcp(self, exchange: Exchange, view: View) -> None:
        principal = self._door.known(exchange.headers) or await self._door.verify(exchange.headers)
        self._admit(principal, view, exchange.method)
        method = exchange.method
        if method == "POST":
            body = await exchange.body(self._body_bytes)
            edge = self._modern if is_modern(exchange.headers, body) else self._edge
            if self.draining and not edge.may_finish_a_call(body):
                raise Draining
            await edge.post(exchange, body, principal, view)
        elif names_modern(exchange.headers):
            await exchange.respond(405, b"", ((b"allow", b"POST"),))
        elif method == "GET" and self.draining:
            raise Draining
        elif method == "GET":
            await self._edge.get(exchange, principal, view)
        elif method == "DELETE":
            await self._edge.delete(exchange, principal, view)
        else:
            await exchange.respond(405, b"", ((b"allow", b"POST, GET, DELETE"),))

    async def _old_sse(self, exchange: Exchange, place: Place) -> None:
        principal = self._door.known(exchange.headers) or await self._door.verify(exchange.headers)
        self._admit(principal, place.view, exchange.method)
        if exchange.method != place.method:
            await exchange.respond(405, b"", ((b"allow", place.method.encode()),))
        elif place.id:
            body = await exchange.body(self._body_bytes)
            if self.draining and not self._edge.may_finish_a_call(body):
                raise Draining
            await self._sse.post(exchange, body, principal, place)
        elif self.draining:
            raise Draining
        else:
            await self._sse.get(exchange, principal, place)

    def _admit(self, principal: Principal, view: View, method: str) -> None:
        """Raises NotFound, Busy. Ending a session is always free: it gives back what it held."""
        rights = self._access.of(principal)
        if view.single and not rights.all and not rights.server(view.only.slug):
            raise not_served()
        if method != "DELETE":
            self._rate.check(principal.id)

    async def _refuse(self, error: GatewayError, exchange: Exchange) -> None:
        """Answer a request that no edge took."""
        self._count_refusal(type(error).__name__)
        problem = problem_of(error, None)
        headers = [JSON, *problem.headers]
        status = problem.status if problem.status != 200 else 400
        if isinstance(error, Unauthenticated):
            place = self._sse.find(exchange.path)
            described = place.stream if place is not None else exchange.path if exchange.path in self.views else ""
            headers.append((b"www-authenticate", challenge(error, self._pages.metadata_url(described))))
        if isinstance(error, TooLarge | Draining):
            headers.append(CLOSE)
        await exchange.respond(status, problem.body, headers)

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
    return NotFound("nothing is served at this path; MCP is at /mcp and /servers/<server>/mcp, of the older kind at /sse")
