"""The composition root: builds every object once."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
from collections.abc import Iterable
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from mcpgateway.auth.access import Access
from mcpgateway.auth.credentials import Credentials
from mcpgateway.auth.principals import Principal
from mcpgateway.config import Config, GatewayConfig, ServerConfig
from mcpgateway.downstream.conversing import Conversing
from mcpgateway.downstream.dispatch import Dispatch
from mcpgateway.downstream.door import Door, Tokens
from mcpgateway.downstream.endpoint import Endpoint
from mcpgateway.downstream.listen import Listening
from mcpgateway.downstream.modern_http import ModernHTTP
from mcpgateway.downstream.pages import Pages
from mcpgateway.downstream.parked import Parked
from mcpgateway.downstream.rounds import Rounds
from mcpgateway.downstream.sealed import Sealer
from mcpgateway.downstream.sessions import Sessions
from mcpgateway.downstream.sse import HttpSse
from mcpgateway.downstream.standard_io import Lines, LineWriter
from mcpgateway.downstream.stdio import Stdio
from mcpgateway.downstream.streamable_http import StreamableHTTP
from mcpgateway.errors import ConfigError
from mcpgateway.metrics import Figures
from mcpgateway.pool.key import Terms
from mcpgateway.pool.limits import Limits
from mcpgateway.runtime import Sweep
from mcpgateway.services.announcements import Announcer
from mcpgateway.services.audit import Audit
from mcpgateway.services.catalog import Catalog
from mcpgateway.services.forward import Forward
from mcpgateway.services.gateway_service import GatewayService
from mcpgateway.services.handshake import Handshake
from mcpgateway.services.leasing import SessionPool
from mcpgateway.services.lists import Lists
from mcpgateway.services.mcp_session_pool import MCPSessionPool
from mcpgateway.services.null_pool import NullPool
from mcpgateway.services.prompt_service import PromptService
from mcpgateway.services.resource_service import ResourceService
from mcpgateway.services.rotation import is_rotation, rotate
from mcpgateway.services.task_service import TaskService
from mcpgateway.services.tool_service import ToolService
from mcpgateway.services.upstream import Upstream
from mcpgateway.services.utility_service import UtilityService
from mcpgateway.services.views import View, Views
from mcpgateway.upstream.open import Opener
from mcpgateway.upstream.tls import TlsContexts
from mcpgateway.wiring import (
    audit_of,
    close_tokens,
    credentials_of,
    enabled_servers,
    forward_of,
    is_let_in,
    rate_limit_of,
    rotated,
    spans_of,
    tokens_of,
)

if TYPE_CHECKING:
    from mcpgateway.tracing import Spans

_log = logging.getLogger("mcpgateway")

DRAIN_LOOK_SECONDS = 0.05
STDIO_PATIENCE_SECONDS = 5.0
"""How long a client that started us waits for the servers, which only just start too: many such clients list tools once."""


class Gateway:
    """One gateway, ready to be served by any ASGI server: `asgi`.

    `local`: it is bound to loopback only. `audit` is told of calls instead of the log that is configured.
    """

    def __init__(self, config: Config, *, local: bool = True, audit: Audit | None = None) -> None:
        self.config = config
        self.sweep = Sweep()
        self.figures = Figures()
        self._tls = TlsContexts()
        self._opener = Opener(self.sweep, self._tls)
        self._access = Access(config.gateway.access)
        self.pool = self._make_pool()
        self.upstreams = self._make_upstreams(enabled_servers(config))
        self._audit = audit or audit_of(config)
        self._views = Views(self.upstreams)
        self._build_services()
        self._build_edge(local)

    def __repr__(self) -> str:
        return f"<Gateway of {len(self.upstreams)} upstreams>"

    def _make_pool(self) -> SessionPool:
        settings = self.config.gateway.session_pool
        if not settings.enabled:
            return NullPool(self.sweep)
        return MCPSessionPool(
            settings.max_sessions_per_key,
            settings.session_ttl_seconds,
            settings.health_check_interval_seconds,
            limits=Limits(settings.max_sessions, settings.max_sessions_per_upstream, settings.max_sessions_per_principal),
            wait_seconds=settings.wait_seconds,
            opener=self._opener,
            sweep=self.sweep,
        )

    def _make_forward(self, pool: SessionPool, spans: Spans | None = None) -> Forward:
        settings = self.config.gateway.session_pool
        terms = Terms(
            max_sessions=settings.max_sessions_per_key,
            max_age_seconds=settings.session_ttl_seconds,
            max_idle_seconds=settings.session_ttl_seconds,
            probe_after_seconds=settings.health_check_interval_seconds,
        )
        return forward_of(spans, pool, self._opener, terms, audit=self._audit, keeps_sessions=settings.enabled)

    def _build_services(self) -> None:
        self._spans = spans_of(self.config)
        self.forward = self._make_forward(self.pool, self._spans)
        self.catalog = Catalog(self.forward)
        self.announcer = Announcer(self.catalog, self._access)
        self.lists = Lists(self.catalog, self._access)
        self.tasks = TaskService(self.forward, self._access)
        self.tools = ToolService(self.forward, self.catalog, self.lists, self._access, self.tasks)
        self.resources = ResourceService(self.forward, self.lists, self._access)
        self.prompts = PromptService(self.forward, self.catalog, self.lists, self._access)
        self.utilities = UtilityService(self.forward, self.prompts, self.resources)
        self.forward.listener_for = self.announcer.listener
        self.forward.may_repeat = self.tools.may_repeat
        check_seconds = self.config.gateway.health_check_interval_seconds
        self.service = GatewayService(
            self.upstreams, self.forward, self._make_watching_forward, self.catalog, self.announcer, check_seconds
        )

    def _make_watching_forward(self, pool: SessionPool) -> Forward:
        forward = self._make_forward(pool)
        forward.listener_for = self.announcer.listener
        return forward

    def _build_edge(self, local: bool) -> None:
        settings = self.config.gateway
        limits = settings.limits
        self.sessions = Sessions(
            limits.client_sessions,
            limits.client_session_idle_seconds,
            self.sweep,
            lambda session: self.conversing.ended(session),
        )
        dispatch = Dispatch(self.tools, self.resources, self.prompts, self.utilities, self.tasks)
        handshake = Handshake(self.forward, self._access)
        self.conversing = Conversing(self.sessions, dispatch, handshake, self.forward, self.announcer, limits.json_depth)
        self._edge = StreamableHTTP(self.conversing, self.sweep)
        self._modern = self._build_modern(dispatch, handshake)
        self._sse = HttpSse(self.conversing, self.sweep, self._views.paths("sse"))
        self._pages = Pages(self.service, self.pool, self.sessions, self.figures)
        self._door = Door(
            tokens_of(settings.auth, self._opener), local=local, hosts=settings.allowed_hosts, origins=settings.allowed_origins
        )
        self.asgi = Endpoint(
            self._door,
            self._edge,
            self._modern,
            self._sse,
            self._pages,
            self._access,
            rate_limit_of(limits, self.sweep.now),
            self._views.paths(),
            limits.body_bytes,
            self._count_refusal,
            self.start,
            self.stop,
        )
        self._describe()
        self._pages.draining = lambda: self.asgi.draining
        self.figures.pool = self.pool.get_metrics
        self.figures.client_sessions = lambda: len(self.sessions)
        self.figures.upstream_states = lambda: [(each.name, each.state.value) for each in self.upstreams.values()]

    def _build_modern(self, dispatch: Dispatch, handshake: Handshake) -> ModernHTTP:
        listening = Listening(self.resources, handshake, self.forward, self.announcer, self.sweep)
        parked = Parked(self.sweep)
        self.figures.parked_calls = lambda: len(parked)
        self.figures.listen_streams = lambda: len(listening)
        rounds = Rounds(Sealer(self.sweep), parked)
        depth = self.config.gateway.limits.json_depth
        return ModernHTTP(dispatch, handshake, self.tools, listening, rounds, self.sweep, depth, self.conversing.request_id)

    def _describe(self) -> None:
        """Say where tokens are to be had, where issuers are configured."""
        settings = self.config.gateway
        issuers = [each.issuer for each in settings.auth.jwt] if settings.auth is not None else []
        self._sse.base = urlsplit(settings.public_url).path
        self._pages.describe(settings.public_url, [*self.asgi.views, *self._sse.views], issuers)

    def _count_refusal(self, error: str) -> None:
        self.figures.refusals[error] += 1

    def stdio(self, server: str, source: int, sink: int) -> Stdio:
        """An edge for the client at two file descriptors. Raises ConfigError where there is no such server."""
        view = self._views.of(server)
        if view is None:
            known = ", ".join(self.upstreams) or "none"
            raise ConfigError(f"there is no server {server!r}, or it is disabled; the servers are: {known}")
        lines = Lines(source, self.config.gateway.limits.body_bytes)
        ready = functools.partial(self.settled, STDIO_PATIENCE_SECONDS)
        out = LineWriter(sink)
        self._modern.mirrored = False
        return Stdio(self.conversing, self._modern, view, self.sweep, lines, out, ready, self.config.gateway.drain_seconds)

    async def settled(self, seconds: float) -> None:
        """Wait until each upstream was tried, for so long at most."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while not self.service.settled:
                    await self.service.news.wait()
                    self.service.news.clear()

    async def start(self) -> None:
        """Begin to watch the upstreams. Returns at once."""
        self.service.start()

    async def apply(self, config: Config) -> None:
        """Put another configuration into force: servers come, go and change; calls of the others are not touched.

        Where only the headers of a server changed, callers whose own stayed the same keep their sessions. Who may call changes
        with it. Other settings of the gateway hold from the next start. Raises ConfigError, and then nothing has changed.
        """
        old, new = enabled_servers(self.config), enabled_servers(config)
        changed = {slug for slug in old.keys() | new.keys() if old.get(slug) != new.get(slug)}
        rotating = {slug for slug in old.keys() & new.keys() if is_rotation(old[slug], new[slug])}
        # All that may be refused is made first: a configuration is in force whole, or not at all.
        tokens = tokens_of(config.gateway.auth, self._opener)
        come = self._make_upstreams({slug: server for slug, server in new.items() if slug in changed - rotating})
        gone = {slug: self.upstreams[slug] for slug in old if slug in changed - rotating}
        self._switch(list(new), come, gone)
        watch_anew = [slug for slug in rotating if self._rotate(self.upstreams[slug], new[slug])]
        told = _changes(self.config.gateway, config.gateway, changed)
        old_tokens = self._take_over(config, tokens)
        self._part_with_the_gone()
        await close_tokens(old_tokens)
        for slug in (*gone, *watch_anew):
            await self.service.unwatch(slug)
            self.catalog.drop(slug)  # again: the old watch may have listed meanwhile
        for upstream in gone.values():
            await upstream.credentials.aclose()
        for slug in (*come, *watch_anew):
            self.upstreams[slug].breaker.succeeded()
            self.service.watch(self.upstreams[slug])
        _log.info("the new configuration is in force; changed: %s", told)

    def _switch(self, order: list[str], come: dict[str, Upstream], gone: dict[str, Upstream]) -> None:
        """Some upstreams take the place of others; in the end there are those of `order`."""
        for slug, upstream in gone.items():
            self.announcer.came_or_went(upstream)
            self.pool.drain(slug)
            self.catalog.drop(slug)
        ordered = {slug: come.get(slug) or self.upstreams[slug] for slug in order}
        self.upstreams.clear()
        self.upstreams.update(ordered)
        self._views.refresh()
        self.asgi.views = self._views.paths()
        self._sse.views = self._views.paths("sse")

    def _take_over(self, config: Config, tokens: Tokens | None) -> Tokens | None:
        """What else holds from now on. Returned are the tokens that hold no more, to be closed."""
        before, self.config = self.config, config
        self._access.replace(config.gateway.access)
        self._describe()
        if config.gateway.auth == before.gateway.auth:
            return tokens
        old, self._door.tokens = self._door.tokens, tokens
        return old

    def _part_with_the_gone(self) -> None:
        """End what is open of callers who are let in no more, or whose server they may not use, or is there no more."""
        for session in self.sessions.all():
            if not self._still_served(session.principal, session.view):
                self.sessions.end(session)
        self._modern.end_unless(self._still_served)

    def _still_served(self, principal: Principal, view: View) -> bool:
        if not is_let_in(principal, self.config.gateway.auth):
            return False
        if not view.single:
            return True
        slug = view.only.slug
        return slug in self.upstreams and self._access.of(principal).server(slug)

    def _rotate(self, upstream: Upstream, server: ServerConfig) -> bool:
        """Show callers under other headers. True if the gateway itself is shown under others, too."""
        conversations = {*self.sessions.all(), *self._modern.callers.all(), *self.announcer.conversations}
        return rotate(upstream, server, rotated(upstream.credentials, server), conversations, self.pool)

    def _make_upstreams(self, servers: dict[str, ServerConfig]) -> dict[str, Upstream]:
        """Raises ConfigError, and then has made none."""
        made = [(server, credentials_of(server, self._tls, self._opener)) for server in servers.values()]
        return {server.slug: self._make_upstream(server, credentials) for server, credentials in made}

    def _make_upstream(self, server: ServerConfig, credentials: Credentials) -> Upstream:
        return Upstream(server, credentials, self.pool.breaker(server.slug), self.figures.of(server.name))

    def drain(self) -> None:
        """Refuse new calls and end the streams that clients listen on. Calls in flight go on."""
        self.asgi.draining = True
        for session in self.sessions.all():
            session.drain()
        self._modern.drain()

    async def quiet(self) -> None:
        """Wait until no call is in flight, for `drain_seconds` at most."""
        end = self.sweep.now() + self.config.gateway.drain_seconds
        while self.sweep.now() < end and self._busy():  # noqa: ASYNC110
            await asyncio.sleep(DRAIN_LOOK_SECONDS)

    def give_up(self) -> None:
        """Answer the calls that are still in flight: the gateway stops, and what became of them is not known."""
        if self._busy():
            _log.warning("some calls are not done in time; their clients are told that the outcome is not known")
        for session in self.sessions.all():
            session.stop()
        self._modern.stop()

    def _busy(self) -> bool:
        return self._modern.busy or any(session.busy for session in self.sessions.all())

    async def stop(self) -> None:
        """End everything: client sessions, upstream sessions, processes."""
        self.drain()
        for session in self.sessions.all():
            self.sessions.end(session)
        self._modern.close()
        await self.service.stop()
        await self.pool.close_all()
        for upstream in self.upstreams.values():
            await upstream.credentials.aclose()
        await close_tokens(self._door.tokens)
        await self._opener.aclose()
        self._audit.close()
        if self._spans is not None:
            await asyncio.to_thread(self._spans.close)
        self.sweep.close()


FOLLOWED = frozenset({"access", "auth"})
"""Settings of the gateway that change while it runs."""


def _changes(before: GatewayConfig, after: GatewayConfig, servers: Iterable[str]) -> str:
    """What differs, and which of it holds from the next start only."""
    fields = [field for field in before.__struct_fields__ if getattr(before, field) != getattr(after, field)]
    now = [*sorted(servers), *(f"gateway.{field}" for field in fields if field in FOLLOWED)]
    later = [f"gateway.{field}" for field in fields if field not in FOLLOWED]
    told = ", ".join(now) or "nothing"
    return f"{told}; after a restart: {', '.join(later)}" if later else told
