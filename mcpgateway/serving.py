"""Runs a gateway: under uvicorn, on a pipe, or just long enough to look at its servers."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import signal
import socket
from collections.abc import AsyncIterator, Callable
from types import FrameType

import uvicorn

from mcpgateway import runtime
from mcpgateway.app import Gateway
from mcpgateway.config import Config
from mcpgateway.downstream.guard import Guard
from mcpgateway.downstream.http_protocol import HttpProtocol
from mcpgateway.downstream.stdio import Stdio
from mcpgateway.downstream.uvicorn_protocol import UvicornProtocol
from mcpgateway.services.audit import NullAudit
from mcpgateway.services.gateway_service import UpstreamReport
from mcpgateway.services.reloading import ConfigFile

_log = logging.getLogger("mcpgateway")

CUT_SECONDS = 1
"""What is left of calls after draining is cut off within this time."""

OnReady = Callable[[int], None]
"""Told the port, once the gateway listens."""


class Server(uvicorn.Server):
    """uvicorn's server, which tells the gateway to drain when the signal comes rather than when all connections are gone."""

    def __init__(self, config: uvicorn.Config, gateway: Gateway, on_ready: OnReady) -> None:
        super().__init__(config)
        self._gateway = gateway
        self._on_ready = on_ready
        self._loop: asyncio.AbstractEventLoop | None = None

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """The first signal drains, with the port still open: newcomers are told, and answers that calls wait for come in.
        The second ends it."""
        if self._gateway.asgi.draining or self._loop is None:
            super().handle_exit(sig, frame)
        else:
            self._gateway.asgi.draining = True
            _log.info("draining: no new calls; those in flight have %g s", self._gateway.config.gateway.drain_seconds)
            self._loop.call_soon_threadsafe(lambda: runtime.spawn(self._drain(sig, frame), "drain"))

    async def _drain(self, sig: int, frame: FrameType | None) -> None:
        self._gateway.drain()
        await self._gateway.quiet()
        self._gateway.give_up()
        super().handle_exit(sig, frame)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        self._loop = asyncio.get_running_loop()
        await super().startup(sockets)
        if self.started:
            self._on_ready(self.servers[0].sockets[0].getsockname()[1])


def server_of(gateway: Gateway, host: str, port: int, on_ready: OnReady = lambda port: None) -> Server:
    """An HTTP server for `gateway`, not yet running."""
    limits = gateway.config.gateway.limits
    guard = Guard(gateway.sweep, limits.header_bytes, limits.request_read_seconds, limits.stalled_reader_seconds)
    own = functools.partial(HttpProtocol, serve=gateway.asgi.serve, guard=guard)
    uvicorns = functools.partial(UvicornProtocol, guard=guard)
    config = uvicorn.Config(
        gateway.asgi,
        host=host,
        port=port,
        http=own if gateway.config.gateway.http_protocol == "own" else uvicorns,  # type: ignore[arg-type]
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        date_header=False,
        timeout_keep_alive=75,
        timeout_graceful_shutdown=CUT_SECONDS,
    )
    return Server(config, gateway, on_ready)


async def serve(gateway: Gateway, host: str, port: int, on_ready: OnReady = lambda port: None) -> None:
    """Serve until SIGTERM or SIGINT; then drain and stop. A changed configuration file, or SIGHUP, is taken up."""
    file = ConfigFile(gateway.config.path, gateway.apply, gateway.sweep)
    file.follow()
    if hasattr(signal, "SIGHUP"):
        asyncio.get_running_loop().add_signal_handler(
            signal.SIGHUP, lambda: runtime.spawn(file.reload(), "reload the configuration")
        )
    runtime.spare_collections()
    await server_of(gateway, host, port, on_ready).serve()


async def serve_stdio(gateway: Gateway, server: str, source: int, sink: int) -> None:
    """Serve the client that is at the other end of two file descriptors, until it leaves or SIGTERM or SIGINT comes.

    `server` is the one to serve, as if direct, or '' for all. Raises ConfigError where there is none of that name.
    """
    edge = gateway.stdio(server, source, sink)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        with contextlib.suppress(NotImplementedError):  # Windows has none of it
            loop.add_signal_handler(number, _end_once, edge, loop)
    await gateway.start()
    try:
        await edge.serve()
    finally:
        await gateway.stop()


def _end_once(edge: Stdio, loop: asyncio.AbstractEventLoop) -> None:
    """End in order; a second signal ends at once."""
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.remove_signal_handler(number)
    edge.end()


async def check(config: Config) -> AsyncIterator[list[UpstreamReport]]:
    """Connect to every upstream. What is known of them, again whenever it changes, until all were tried."""
    gateway = Gateway(config, audit=NullAudit())
    await gateway.start()
    try:
        while True:
            yield gateway.service.reports()
            if gateway.service.settled:
                return
            await gateway.service.news.wait()
            gateway.service.news.clear()
    finally:
        await gateway.stop()
