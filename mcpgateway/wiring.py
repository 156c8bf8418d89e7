"""Makes of configuration values the objects that act on them. `app.py` puts these together."""

from __future__ import annotations

from collections.abc import Callable

from mcpgateway import logs
from mcpgateway.auth.authenticators import Authenticators
from mcpgateway.auth.credentials import Credentials, StaticCredentials
from mcpgateway.auth.jwt import JwtTokens
from mcpgateway.auth.oauth import OAuthCredentials
from mcpgateway.auth.tokens import StaticTokens
from mcpgateway.config import AuthConfig, Config, LimitsConfig, ServerConfig
from mcpgateway.downstream.door import Tokens
from mcpgateway.downstream.rate_limit import NoRateLimit, RateLimit, TokenBuckets
from mcpgateway.runtime import Sweep
from mcpgateway.services.audit import Audit, FileAudit, NullAudit
from mcpgateway.upstream.connection import Origin
from mcpgateway.upstream.open import Opener
from mcpgateway.upstream.tls import TlsContexts
from mcpgateway.upstream.token_endpoint import HttpTokenEndpoint


def enabled_servers(config: Config) -> dict[str, ServerConfig]:
    """The servers that are to be served, by slug."""
    return {server.slug: server for server in config.servers if server.enabled}


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
