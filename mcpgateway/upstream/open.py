"""Opens a session by the kind of its target, and remembers which kind a URL turned out to be."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager, aclosing
from typing import Any
from urllib.parse import urlsplit

from mcpgateway.config.values import TlsConfig
from mcpgateway.errors import ConfigError, ConnectFailed, GatewayError, HttpRefused, RpcError, UpstreamError, UpstreamTimeout
from mcpgateway.pool.session import TransportType
from mcpgateway.protocol import revisions
from mcpgateway.protocol.call import Call, HeaderBlock, NoChannel
from mcpgateway.runtime import Sweep
from mcpgateway.upstream.base import GATEWAY_INFO, Hello, Target, UpstreamSession
from mcpgateway.upstream.connection import Origin
from mcpgateway.upstream.era import explain_refusal, may_be_sse, may_have_changed
from mcpgateway.upstream.foreign import ForeignClient
from mcpgateway.upstream.http import HttpClient, path_of
from mcpgateway.upstream.sse import open_sse
from mcpgateway.upstream.stdio import open_stdio
from mcpgateway.upstream.streamable_http import open_streamable_http
from mcpgateway.upstream.tls import TlsContexts

OPEN_SECONDS = 30.0
FETCH_SECONDS = 10.0
FETCH_BYTES = 1024 * 1024
ACCEPT_JSON = b"Accept: application/json\r\n"
Context = AbstractAsyncContextManager[Any, Any]


class Opener:
    """Opens sessions. Keeps one HTTP client per upstream, one TLS context per TLS settings, and what each URL speaks."""

    def __init__(self, sweep: Sweep, contexts: TlsContexts | None = None) -> None:
        self._sweep = sweep
        self._contexts = contexts or TlsContexts()
        self._clients: dict[tuple[str, str, TlsConfig | None], tuple[int, Origin]] = {}
        self._found: dict[str, TransportType] = {}

    def __repr__(self) -> str:
        return f"<Opener {len(self._clients)} HTTP clients>"

    def http(self, name: str, url: str, tls: TlsConfig | None = None) -> HttpClient:
        """The HTTP client of the upstream `name` at `url`. A new one when the certificates have changed."""
        parts = urlsplit(url)
        generation = self.tls_generation(name, tls) if parts.scheme == "https" else 0
        key = (name, f"{parts.scheme}://{parts.netloc}", tls)
        known = self._clients.get(key)
        if known is not None and known[0] == generation:
            return known[1]
        if known is not None:
            known[1].let_go()
        context = self._contexts.context(tls) if parts.scheme == "https" else None
        client = Origin(name, url, self._sweep, context)
        self._clients[key] = generation, client
        return client

    def tls_generation(self, name: str, tls: TlsConfig | None) -> int:
        """Goes up when the certificates change. Raises ConnectFailed where they cannot be used."""
        try:
            return self._contexts.generation(tls)
        except ConfigError as error:
            raise ConnectFailed(name, f"its TLS settings cannot be used: {error}") from error

    async def fetch(self, name: str, url: str) -> bytes:
        """What a GET of `url` gives. Redirects are not followed. Raises UpstreamError."""
        try:
            async with asyncio.timeout(FETCH_SECONDS):
                response = await self.http(name, url).send(b"GET", path_of(url), ACCEPT_JSON, b"", FETCH_SECONDS)
        except TimeoutError as error:
            raise UpstreamTimeout(name, f"no answer within {FETCH_SECONDS:g} s") from error
        if response.streaming:
            response.close()
        if response.status != 200 or response.streaming or len(response.body) > FETCH_BYTES:
            raise HttpRefused(name, f"it answered HTTP {response.status}, or too much", status=response.status)
        return response.body

    async def open(self, target: Target, hello: Hello, headers: HeaderBlock) -> UpstreamSession:
        """A new session with `target`, within its `open_timeout_seconds`. Raises UpstreamError."""
        try:
            async with asyncio.timeout(target.open_timeout_seconds):
                return await self._open(target, hello, headers)
        except TimeoutError as error:
            raise ConnectFailed(target.name, f"no session within {target.open_timeout_seconds:g} s; is it up?") from error

    async def _open(self, target: Target, hello: Hello, headers: HeaderBlock) -> UpstreamSession:
        if target.transport == TransportType.STDIO:
            return await open_stdio(target, hello, sweep=self._sweep)
        http = self.http(target.name, target.url, target.tls)
        transport = self.transport_of(target)
        if transport == "auto":
            return await self._find_out(target, http, hello, headers)
        try:
            if transport == TransportType.SSE:
                return await open_sse(target, http, hello, headers, sweep=self._sweep)
            return await open_streamable_http(target, http, hello, headers)
        except UpstreamError as error:
            if target.transport == "auto" and may_have_changed(error):
                self._found.pop(target.url, None)
                return await self._find_out(target, http, hello, headers)
            raise await explain_refusal(target, http, headers, error) from error

    def transport_of(self, target: Target) -> str:
        """The target's transport: as configured, else as found out earlier, else 'auto'."""
        return target.transport if target.transport != "auto" else self._found.get(target.url, "auto")

    async def _find_out(self, target: Target, http: HttpClient, hello: Hello, headers: HeaderBlock) -> UpstreamSession:
        try:
            session: UpstreamSession = await open_streamable_http(target, http, hello, headers)
        except UpstreamError as error:
            if not may_be_sse(error):
                raise await explain_refusal(target, http, headers, error) from error
            session = await self._try_sse(target, http, hello, headers, error)
            self._found[target.url] = TransportType.SSE
            return session
        self._found[target.url] = TransportType.STREAMABLE_HTTP
        return session

    async def _try_sse(
        self, target: Target, http: HttpClient, hello: Hello, headers: HeaderBlock, refused: UpstreamError
    ) -> UpstreamSession:
        try:
            return await open_sse(target, http, hello, headers, sweep=self._sweep)
        except UpstreamError as error:
            # The first refusal says more than the second: a URL that is no SSE endpoint either was never meant to be one.
            raise await explain_refusal(target, http, headers, refused) from error

    async def open_url(
        self,
        url: str,
        headers: Mapping[str, str],
        transport_type: TransportType,
        client_factory: Callable[..., Any] | None = None,
        timeout_seconds: float | None = None,
    ) -> tuple[UpstreamSession, Context]:
        """A session with nothing known but a URL, and the context whose end closes it.

        `client_factory` makes its HTTP client; without one it is our own.
        """
        target = Target(
            name=urlsplit(url).netloc.rpartition("@")[2] or url,
            url=url,
            transport=transport_type.value,
            open_timeout_seconds=timeout_seconds or OPEN_SECONDS,
        )
        if client_factory is None:
            session = await self.open(target, Hello(), render(headers))
            return session, aclosing(session)
        return await self._open_foreign(target, headers, client_factory)

    async def _open_foreign(
        self, target: Target, headers: Mapping[str, str], factory: Callable[..., Any]
    ) -> tuple[UpstreamSession, Context]:
        http = ForeignClient(target.name, target.url, factory)
        try:
            async with asyncio.timeout(target.open_timeout_seconds):
                if target.transport == TransportType.SSE:
                    session: UpstreamSession = await open_sse(target, http, Hello(), render(headers), sweep=self._sweep)
                else:
                    session = await open_streamable_http(target, http, Hello(), render(headers))
        except TimeoutError as error:
            await http.aclose()
            raise ConnectFailed(target.name, f"no session within {target.open_timeout_seconds:g} s") from error
        except BaseException:
            await http.aclose()
            raise
        return session, _Both(session, http)

    async def aclose(self) -> None:
        """Close every HTTP client."""
        for _, client in self._clients.values():
            await client.aclose()
        self._clients.clear()


class _Both(AbstractAsyncContextManager[Any, Any]):
    """A session, and the HTTP client that is its alone."""

    def __init__(self, session: UpstreamSession, http: HttpClient) -> None:
        self._session = session
        self._http = http

    async def __aexit__(self, *exc: object) -> None:
        try:
            await self._session.aclose()
        finally:
            await self._http.aclose()


def render(headers: Mapping[str, str]) -> HeaderBlock:
    """Header lines as they go over the wire. Values were checked for line breaks when they were configured."""
    for name, value in headers.items():
        if "\r" in value or "\n" in value or "\r" in name or "\n" in name:
            raise GatewayError(f"the value of header {name!r} holds a line break")
    try:
        return b"".join(f"{name}: {value}\r\n".encode("latin-1") for name, value in headers.items())
    except UnicodeEncodeError:
        # From nothing: the error that was caught holds the value, which may be a credential.
        raise GatewayError("a header holds a character that HTTP cannot carry") from None


class _Nobody:
    """The client of calls that the gateway makes for itself."""

    id = ""
    version = revisions.NEWEST_LEGACY
    capabilities = b"{}"
    client_info = GATEWAY_INFO


NOBODY = _Nobody()


async def ping(session: UpstreamSession, timeout_seconds: float) -> bool:
    """Whether the session is alive. An error answer is an answer; a time-out is a failure."""
    call = Call("ping", client=NOBODY, headers=session.own_headers, timeout_seconds=timeout_seconds)
    try:
        async with asyncio.timeout(timeout_seconds):
            await session.request(call, NoChannel())
    except RpcError:
        return True
    except (UpstreamError, TimeoutError):
        return False
    return True
