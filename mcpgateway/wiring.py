"""Makes of configuration values the objects that act on them. `app.py` puts these together."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from mcpgateway import logs
from mcpgateway.auth.authenticators import Authenticators
from mcpgateway.auth.credentials import Credentials, StaticCredentials
from mcpgateway.auth.jwt import JwtTokens
from mcpgateway.auth.oauth import OAuthCredentials
from mcpgateway.auth.tokens import StaticTokens
from mcpgateway.config import AuthConfig, Config, LimitsConfig, ServerConfig
from mcpgateway.downstream.door import Tokens
from mcpgateway.downstream.rate_limit import NoRateLimit, RateLimit, TokenBuckets
from mcpgateway.errors import ConfigError
from mcpgateway.pool.key import Terms
from mcpgateway.runtime import Sweep
from mcpgateway.services.audit import Audit, FileAudit, NullAudit
from mcpgateway.services.forward import Forward
from mcpgateway.services.leasing import SessionPool
from mcpgateway.upstream.connection import Origin
from mcpgateway.upstream.open import Opener
from mcpgateway.upstream.tls import TlsContexts
from mcpgateway.upstream.token_endpoint import HttpTokenEndpoint

if TYPE_CHECKING:
    from mcpgateway.tracing import Spans


def enabled_servers(config: Config) -> dict[str, ServerConfig]:
    """The servers that are to be served, by slug."""
    return {server.slug: server for server in config.servers if server.enabled}


def spans_of(config: Config) -> Spans | None:
    """Who is told of calls as spans, or None. Raises ConfigError where the packages for that are not installed."""
    endpoint = config.gateway.tracing.endpoint
    if not endpoint:
        return None
    try:
        # Not at the top: the packages are optional, and take their time to load.
        from mcpgateway.tracing import Spans
    except ImportError as error:
        raise ConfigError("gateway.tracing needs further packages: pip install 'mcpgateway[tracing]'") from error
    return Spans.to(endpoint)


def forward_of(spans: Spans | None, pool: SessionPool, opener: Opener, terms: Terms, **settings: Any) -> Forward:
    """The path of a call, told as spans where there is somebody to tell."""
    if spans is None:
        return Forward(pool, opener, terms, **settings)
    from mcpgateway.services.traced_forward import TracedForward

    return TracedForward(pool, opener, terms, spans=spans, **settings)


def audit_of(config: Config) -> Audit:
    """The audit log. Raises OSError where its file cannot be opened."""
    settings = config.gateway.audit
    if not settings.path:
        return NullAudit()
    return FileAudit(settings.path, arguments=settings.arguments, hide=logs.redacted)


def credentials_of(server: ServerConfig, contexts: TlsContexts, sweep: Sweep) -> Credentials:
    """What calls to a server show of who they are."""
    headers = StaticCredentials(
        server.headers,
        server.forward_headers,
        upstream=server.name,
        callers=server.credentials,
        required=server.credentials_required,
    )
    oauth = server.oauth
    if oauth is None:
        return headers
    tls = contexts.context(oauth.tls) if oauth.token_url.startswith("https:") else None
    endpoint = HttpTokenEndpoint(server.name, oauth.token_url, Origin(server.name, oauth.token_url, sweep, tls))
    return OAuthCredentials(server.name, server.url, oauth, headers, endpoint)


def tokens_of(auth: AuthConfig | None, opener: Opener) -> Authenticators | None:
    """What tells whose a bearer token is; None where no authentication is configured. Raises ConfigError for bad keys."""
    if auth is None:
        return None

    async def fetch(url: str) -> bytes:
        return await opener.fetch("issuer's keys", url)

    return Authenticators(StaticTokens(auth.tokens), JwtTokens(auth.jwt, fetch))


async def close_tokens(tokens: Tokens | None) -> None:
    """End what looking after tokens has under way."""
    if tokens is not None:
        await tokens.aclose()


def rate_limit_of(limits: LimitsConfig, now: Callable[[], float]) -> RateLimit:
    """How often a principal may call."""
    if not limits.calls_per_second:
        return NoRateLimit()
    return TokenBuckets(limits.calls_per_second, limits.calls_burst, now)
