"""What operators look at: /healthz, /readyz, /status and /metrics."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import msgspec

from mcpgateway import __version__
from mcpgateway.auth.access import Rights
from mcpgateway.downstream.resource_metadata import documents, metadata_url
from mcpgateway.downstream.sessions import Sessions
from mcpgateway.metrics import CONTENT_TYPE, Figures
from mcpgateway.services.gateway_service import GatewayService
from mcpgateway.services.leasing import SessionPool

JSON_TYPE = b"application/json"
TEXT_TYPE = b"text/plain; charset=utf-8"

Rendered = tuple[int, bytes, bytes]
"""Status, content type, body."""


class Page(NamedTuple):
    """One page, as whoever has these rights sees it. `protected`: it needs authentication where there is any."""

    render: Callable[[Rights], Rendered]
    protected: bool


class Pages:
    def __init__(self, gateway: GatewayService, pool: SessionPool, sessions: Sessions, figures: Figures) -> None:
        self._gateway = gateway
        self._pool = pool
        self._sessions = sessions
        self._figures = figures
        self.draining: Callable[[], bool] = bool
        self._public_url = ""
        self._metadata: dict[str, bytes] = {}
        self._pages = {
            "/healthz": Page(self._alive, False),
            "/readyz": Page(self._ready, False),
            "/status": Page(self._status, True),
            "/metrics": Page(self._metrics, True),
        }

    def describe(self, public_url: str, paths: Iterable[str], issuers: Sequence[str]) -> None:
        """Tell clients where they get tokens: from these issuers. Without any there is nothing to tell."""
        self._public_url = public_url if issuers else ""
        self._metadata = documents(public_url, paths, issuers) if issuers else {}

    def metadata_url(self, path: str) -> str:
        """Where a client learns how to get a token for the endpoint at `path`; '' where there is nothing to learn."""
        return metadata_url(self._public_url, path) if self._public_url else ""

    def find(self, path: str) -> Page | None:
        """The page at a path."""
        metadata = self._metadata.get(path)
        if metadata is not None:
            return Page(lambda rights: (200, JSON_TYPE, metadata), False)
        return self._pages.get(path)

    def _alive(self, rights: Rights) -> Rendered:
        return 200, TEXT_TYPE, b"ok\n"

    def _ready(self, rights: Rights) -> Rendered:
        """Ready once each upstream was tried: one that is down stops nobody, so it does not count."""
        if self.draining():
            return 503, TEXT_TYPE, b"draining\n"
        if not self._gateway.settled:
            return 503, TEXT_TYPE, b"connecting\n"
        return 200, TEXT_TYPE, b"ready\n"

    def _status(self, rights: Rights) -> Rendered:
        principals: dict[str, int] = {}
        for session in self._sessions.all():
            principals[session.principal.short] = principals.get(session.principal.short, 0) + 1
        status = {
            "version": __version__,
            "upstreams": self._gateway.reports(rights),
            "pool": self._pool.get_metrics(),
            "client_sessions": {"total": len(self._sessions), "by_principal": principals},
        }
        return 200, JSON_TYPE, msgspec.json.format(msgspec.json.encode(status), indent=2) + b"\n"

    def _metrics(self, rights: Rights) -> Rendered:
        return 200, CONTENT_TYPE, self._figures.text()
