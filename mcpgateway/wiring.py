"""Makes of configuration values the objects that act on them. `app.py` puts these together."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from mcpgateway import logs
from mcpgateway.auth.authenticators import Authenticators, Issued, NoneIssued
from mcpgateway.auth.credentials import Credentials, StaticCredentials
from mcpgateway.auth.oauth import OAuthCredentials
from mcpgateway.auth.principals import ANONYMOUS, Principal
from mcpgateway.auth.tokens import StaticTokens
from mcpgateway.config import AuthConfig, Config, LimitsConfig, ServerConfig
from mcpgateway.config.values import STATIC_ISSUER, OAuthConfig
from mcpgateway.downstream.door import Tokens
from mcpgateway.downstream.rate_limit import NoRateLimit, RateLimit, TokenBuckets
from mcpgateway.errors import ConfigError
from mcpgateway.pool.key import Terms
from mcpgateway.protocol.call import HeaderBlock
from mcpgateway.services.audit import Audit, FileAudit, NullAudit
from mcpgateway.services.forward import Forward
from mcpgateway.services.leasing import SessionPool
from mcpgateway.upstream.http import HttpClient, Response
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
    """The audit log. Raises ConfigError where its file cannot be opened."""
    settings = config.gateway.audit
    if not settings.path:
        return NullAudit()
    try:
        return FileAudit(settings.path, arguments=settings.arguments, hide=logs.redacted)
    except OSError as error:
        raise ConfigError(f"{config.path}: gateway.audit.path: {settings.path} cannot be opened: {error.strerror}") from error


def credentials_of(server: ServerConfig, contexts: TlsContexts, opener: Opener) -> Credentials:
    """What calls to a server show of who they are. Raises ConfigError for certificates that cannot be used."""
    headers, oauth = _headers_of(server), server.oauth
    if oauth is None:
        return headers
    if oauth.token_url.startswith("https:"):
        contexts.context(oauth.tls)  # for a try
    endpoint = HttpTokenEndpoint(server.name, oauth.token_url, _TokenClient(server.name, oauth, opener))
    return OAuthCredentials(server.name, server.url, oauth, headers, endpoint)


def rotated(credentials: Credentials, server: ServerConfig) -> Credentials:
    """What calls show once nothing but the headers of a server has changed: tokens that were fetched before are kept."""
    headers = _headers_of(server)
    return credentials.beside(headers) if isinstance(credentials, OAuthCredentials) else headers


def _headers_of(server: ServerConfig) -> StaticCredentials:
    return StaticCredentials(
        server.headers,
        server.forward_headers,
        upstream=server.name,
        callers=server.credentials,
        required=server.credentials_required,
    )


class _TokenClient:
    """A token endpoint's HTTP client: the opener's, asked for with each request, since its certificates may have changed."""

    def __init__(self, upstream: str, settings: OAuthConfig, opener: Opener) -> None:
        self._upstream = upstream
        self._settings = settings
        self._opener = opener

    def __repr__(self) -> str:
        return f"<_TokenClient for {self._upstream}>"

    @property
    def _http(self) -> HttpClient:
        return self._opener.http(self._upstream, self._settings.token_url, self._settings.tls)

    async def send(self, method: bytes, path: bytes, headers: HeaderBlock, body: bytes, timeout_seconds: float) -> Response:
        return await self._http.send(method, path, headers, body, timeout_seconds)

    def distrust(self) -> None:
        self._http.distrust()

    async def aclose(self) -> None:
        """The opener closes its own, which may serve others as well."""


def tokens_of(auth: AuthConfig | None, opener: Opener) -> Authenticators | None:
    """What tells whose a bearer token is; None where no authentication is configured. Raises ConfigError for bad keys."""
    return None if auth is None else Authenticators(StaticTokens(auth.tokens), _issued(auth, opener))


def _issued(auth: AuthConfig, opener: Opener) -> Issued:
    if not auth.jwt:
        return NoneIssued()
    # Not at the top: what verifies JWTs takes 9 MiB, which a gateway without issuers need not have.
    from mcpgateway.auth.jwt import JwtTokens

    async def fetch(url: str) -> bytes:
        return await opener.fetch("issuer's keys", url)

    return JwtTokens(auth.jwt, fetch)


def is_let_in(principal: Principal, auth: AuthConfig | None) -> bool:
    """Whether somebody who was let in once would be still, going by who vouches for them."""
    if auth is None:
        return principal == ANONYMOUS
    if principal.issuer == STATIC_ISSUER:
        return any(token.name == principal.subject for token in auth.tokens)
    return any(issuer.issuer == principal.issuer for issuer in auth.jwt)


async def close_tokens(tokens: Tokens | None) -> None:
    """End what looking after tokens has under way."""
    if tokens is not None:
        await tokens.aclose()


def rate_limit_of(limits: LimitsConfig, now: Callable[[], float]) -> RateLimit:
    """How often a principal may call."""
    if not limits.calls_per_second:
        return NoRateLimit()
    return TokenBuckets(limits.calls_per_second, limits.calls_burst, now)
