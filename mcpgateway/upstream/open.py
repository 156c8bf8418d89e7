"""Opens a session by the kind of its target, and remembers which kind a URL turned out to be."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager, aclosing, nullcontext
from hashlib import sha256
from typing import Any
from urllib.parse import urlsplit
from weakref import WeakValueDictionary

from mcpgateway.config.values import TlsConfig
from mcpgateway.errors import ConfigError, ConnectFailed, GatewayError, HttpRefused, RpcError, UpstreamError, UpstreamTimeout
from mcpgateway.pool.session import TransportType
from mcpgateway.protocol import revisions
from mcpgateway.protocol.call import Call, HeaderBlock, NoChannel
from mcpgateway.runtime import Sweep
from mcpgateway.upstream.base import GATEWAY_INFO, Hello, Target, UpstreamSession
from mcpgateway.upstream.connection import Origin
from mcpgateway.upstream.era import LEGACY, MODERN, SSE, Era, is_refusal, may_be_sse, most_telling
from mcpgateway.upstream.foreign import ForeignClient
from mcpgateway.upstream.http import HttpClient, path_of
from mcpgateway.upstream.modern_http import Found, ModernHTTPServer
from mcpgateway.upstream.sse import open_sse
from mcpgateway.upstream.stdio import open_stdio
from mcpgateway.upstream.streamable_http import open_streamable_http
from mcpgateway.upstream.tls import TlsContexts

OPEN_SECONDS = 30.0
FETCH_SECONDS = 10.0
FETCH_BYTES = 1024 * 1024
ACCEPT_JSON = b"Accept: application/json\r\n"
REMEMBERED = 1000
"""Servers, and identities at them, of which it is remembered what was found out. Others are asked again."""

Context = AbstractAsyncContextManager[Any, Any]


class Opener:
    """Opens sessions. Keeps one HTTP client per upstream, one TLS context per TLS settings, and what each URL speaks."""

    def __init__(self, sweep: Sweep, contexts: TlsContexts | None = None, remembered: int = REMEMBERED) -> None:
        self.sweep = sweep
        self._contexts = contexts or TlsContexts()
        self._remembered = remembered
        # A client lives as long as a session or a connection uses it, so that those of servers that are gone go too.
        self._clients: WeakValueDictionary[tuple[str, str, TlsConfig | None, int], Origin] = WeakValueDictionary()
        self._eras: dict[str, Era] = {}
        self._found: dict[str, Found] = {}
        self._servers: WeakValueDictionary[tuple[str, bytes, bool, int], ModernHTTPServer] = WeakValueDictionary()

    def __repr__(self) -> str:
        return f"<Opener {len(self._clients)} HTTP clients>"

    def http(self, name: str, url: str, tls: TlsConfig | None = None) -> HttpClient:
        """The HTTP client of the upstream `name` at `url`. A new one when the certificates have changed."""
        parts = urlsplit(url)
        generation = self.tls_generation(name, tls) if parts.scheme == "https" else 0
        key = (name, f"{parts.scheme}://{parts.netloc}", tls)
        client = self._clients.get((*key, generation))
        if client is None:
            for older in [each for known, each in self._clients.items() if known[:3] == key]:
                older.let_go()
            context = self._contexts.context(tls) if parts.scheme == "https" else None
            client = self._clients[*key, generation] = Origin(name, url, self.sweep, context)
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
            raise ConnectFailed(target.name, target.unanswered()) from error

    async def _open(self, target: Target, hello: Hello, headers: HeaderBlock) -> UpstreamSession:
        era = self._era(target)
        if target.transport == TransportType.STDIO:
            return await open_stdio(target, hello, sweep=self.sweep, era=era)
        http = self.http(target.name, target.url, target.tls)
        if target.transport == TransportType.SSE:
            return await open_sse(target, http, hello, headers, sweep=self.sweep)
        async with _until_known(era, hello):
            return await self._in_turn(era, _Door(self, target, http, hello, headers))

    def _era(self, target: Target) -> Era:
        """What is known of a server, as the latest to be asked for."""
        place = _place(target)
        self._eras[place] = era = self._eras.pop(place, None) or Era()
        # Sessions may be opened by a URL alone, and of those there is no end.
        if len(self._eras) > self._remembered:
            del self._eras[next(iter(self._eras))]
        return era

    async def _in_turn(self, era: Era, door: _Door) -> UpstreamSession:
        """A session of the first kind that the server takes. Raises what stood in the way, or says most of it."""
        refusals: dict[str, UpstreamError] = {}
        for kind in era.order(door.hello.modern, sse=door.target.transport == "auto"):
            if kind == SSE and not (era.takes(SSE) or may_be_sse(refusals.get(LEGACY))):
                continue
            try:
                session = await door.open(kind)
            except UpstreamError as error:
                if not (is_refusal(error) or (kind == SSE and refusals) or _may_be_legacy(kind, error)):
                    raise
                refusals[kind] = error
                if is_refusal(error):
                    era.refused(kind)
            else:
                era.took(kind)
                return session
        era.forget()
        raise most_telling(refusals)

    def transport_of(self, target: Target) -> str:
        """The target's transport: as configured, else as found out earlier, else 'auto'."""
        era = self._eras.get(_place(target))
        if target.transport != "auto" or era is None:
            return target.transport
        if era.takes(SSE):
            return TransportType.SSE
        return TransportType.STREAMABLE_HTTP if era.takes(LEGACY) or era.takes(MODERN) else "auto"

    def modern_server(self, door: _Door) -> ModernHTTPServer:
        """The server as this identity and these client capabilities see it, the same for all their sessions."""
        identity = door.hello.identity or sha256(door.headers).hexdigest()
        place = f"{door.target.name}\n{door.target.url}\n{identity}"
        found = self._found.setdefault(place, Found(door.target.name))
        if len(self._found) > self._remembered:
            del self._found[next(iter(self._found))]
        key = (place, door.hello.capabilities, door.hello.modern, id(door.http))
        server = self._servers.get(key)
        if server is None:
            server = self._servers[key] = ModernHTTPServer(door.target, door.http, door.hello, found, self.sweep)
            server.on_contradiction = self._era(door.target).forget
        return server

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
                door = _Door(self, target, http, Hello(), render(headers))
                if target.transport == TransportType.SSE:
                    session = await door.open(SSE)
                else:
                    session = await self._in_turn(Era(), door)
        except TimeoutError as error:
            await http.aclose()
            raise ConnectFailed(target.name, target.unanswered()) from error
        except BaseException:
            await http.aclose()
            raise
        return session, _Both(session, http)

    async def aclose(self) -> None:
        """Close every HTTP client."""
        for client in list(self._clients.values()):
            await client.aclose()
        self._clients.clear()


class _Door:
    """Everything with which one session is to be opened at a URL."""

    def __init__(self, opener: Opener, target: Target, http: HttpClient, hello: Hello, headers: HeaderBlock) -> None:
        self._opener = opener
        self.target = target
        self.http = http
        self.hello = hello
        self.headers = headers

    def __repr__(self) -> str:
        return f"<_Door to {self.target.name}>"

    async def open(self, kind: str) -> UpstreamSession:
        """A session of this kind. Raises UpstreamError."""
        if kind == MODERN:
            return await self._opener.modern_server(self).session(self.headers)
        if kind == SSE:
            return await open_sse(self.target, self.http, self.hello, self.headers, sweep=self._opener.sweep)
        return await open_streamable_http(self.target, self.http, self.hello, self.headers)


def _place(target: Target) -> str:
    """Where a server is, as far as its kind goes."""
    return target.url or "\n".join((target.name, target.command, *target.args))


def _until_known(era: Era, hello: Hello) -> AbstractAsyncContextManager[None]:
    """While it is not known whether a server takes the client's generation, one session is opened before the others."""
    known = era.takes(MODERN if hello.modern else LEGACY) is not None
    return nullcontext() if known else era.turn.taken()


def _may_be_legacy(kind: str, error: UpstreamError) -> bool:
    """Whether a failed probe leaves a handshake worth trying: some servers fail over a method that they do not know."""
    return kind == MODERN and isinstance(error, HttpRefused)


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
