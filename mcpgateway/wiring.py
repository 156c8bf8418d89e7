"""Makes of configuration values the objects that act on them. `app.py` puts these together."""

from __future__ import annotations

from mcpgateway import logs
from mcpgateway.auth.credentials import Credentials, StaticCredentials
from mcpgateway.auth.oauth import OAuthCredentials
from mcpgateway.config import Config, ServerConfig
from mcpgateway.runtime import Sweep
from mcpgateway.services.audit import Audit, FileAudit, NullAudit
from mcpgateway.upstream.connection import Origin
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
