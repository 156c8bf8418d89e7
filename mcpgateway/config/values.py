"""The configuration as values. Each setting has a paragraph in `docs/reference/settings.md`."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

Transport = Literal["auto", "streamablehttp", "sse", "stdio"]
Sharing = Literal["auto", "bound", "principal", "shared", "single_use"]
SessionLoss = Literal["renew", "end"]
Grant = Literal["client_credentials", "token_exchange"]
ClientAuth = Literal["client_secret_basic", "client_secret_post"]
Level = Literal["debug", "info", "warning", "error"]
Format = Literal["auto", "text", "json"]
HttpProtocolName = Literal["own", "uvicorn"]

ASYMMETRIC = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA")
"""Signatures that only the issuer can make."""
SYMMETRIC = ("HS256", "HS384", "HS512")
"""Signatures that whoever checks them could make as well."""

# The ceilings keep out what is certainly a slip (milliseconds, infinity), the floors what cannot work.
Seconds = Annotated[float, Meta(ge=0.01, le=604_800)]
SecondsFromZero = Annotated[float, Meta(ge=0, le=604_800)]
Count = Annotated[int, Meta(ge=1, le=10_000_000)]


class TlsConfig(msgspec.Struct, frozen=True, weakref=True):
    """Whose certificates an upstream's connections trust, and the one they show. All paths are absolute or ''."""

    ca: str = ""
    cert: str = ""
    key: str = ""
    key_password: str = ""

    def __repr__(self) -> str:
        return f"<TlsConfig ca={self.ca!r} cert={self.cert!r}>"


class OAuthConfig(msgspec.Struct, frozen=True):
    """Where and as whom the gateway obtains tokens for an upstream."""

    grant: Grant = "client_credentials"
    token_url: str = ""
    client_id: str = ""
    client_secret: str = ""
    scope: str = ""
    resource: str | None = None
    """None: the upstream's URL without its query; '': not sent."""
    audience: str = ""
    auth_method: ClientAuth = "client_secret_basic"
    allow_http: bool = False
    tls: TlsConfig | None = None

    def __repr__(self) -> str:
        return f"<OAuthConfig {self.grant} client_id={self.client_id!r}>"


STATIC_ISSUER = "static"
"""The issuer of those who come with a token of `gateway.auth.tokens`."""


class CallerHeaders(msgspec.Struct, frozen=True):
    """Headers that an upstream is sent for one principal, named by `subject`, or else for all of one `tenant`.

    A name counts only from the mouth of its `issuer`: others may give the same name to somebody else.
    """

    headers: tuple[tuple[str, str], ...]
    subject: str = ""
    tenant: str = ""
    issuer: str = STATIC_ISSUER

    def __repr__(self) -> str:
        return f"<CallerHeaders {f'tenant:{self.tenant}' if self.tenant else self.subject!r} {len(self.headers)} headers>"


class ServerConfig(msgspec.Struct, frozen=True):
    """One upstream: where it is and how to treat it. Has a `url` or a `command`, never both."""

    name: str
    slug: str
    url: str = ""
    command: str = ""
    args: tuple[str, ...] = ()
    env: tuple[tuple[str, str], ...] = ()
    cwd: str | None = None
    type: Transport = "auto"
    headers: tuple[tuple[str, str], ...] = ()
    """As written in the file, values substituted; names are unique whatever their letter case."""
    sessions: Sharing = "auto"
    timeout_seconds: Seconds = 60.0
    forward_headers: tuple[str, ...] = ()
    """In lower case."""
    enabled: bool = True
    credentials: tuple[CallerHeaders, ...] = ()
    """Those of `credentials_file` too."""
    credentials_file: str = ""
    """Absolute, or ''."""
    credentials_required: bool = False
    oauth: OAuthConfig | None = None
    tls: TlsConfig | None = None
    spares: Annotated[int, Meta(ge=0, le=1000)] = 1
    conversation_key: str = ""
    """`header:` and a name in lower case, or `meta:` and a key, or ''."""
    on_session_loss: SessionLoss = "renew"

    def __repr__(self) -> str:
        return f"<ServerConfig {self.name!r} {self.type} sessions={self.sessions}{'' if self.enabled else ' disabled'}>"


class TokenConfig(msgspec.Struct, frozen=True):
    """One bearer token that is let in, known only by its SHA-256. A name may have several, so that it can be rotated."""

    name: str
    hash: str
    """64 lower-case hex digits."""
    tenant: str = ""

    def __repr__(self) -> str:
        return f"<TokenConfig {self.name!r} tenant={self.tenant!r}>"


class JwtConfig(msgspec.Struct, frozen=True):
    """One issuer whose tokens are let in. Its keys are fetched from `jwks_url` or came out of `key_file`, never both."""

    issuer: str = ""
    audience: tuple[str, ...] = ()
    jwks_url: str = ""
    key_file: str = ""
    keys: bytes = b""
    """What stands in `key_file`."""
    algorithms: tuple[str, ...] = ASYMMETRIC
    leeway_seconds: Annotated[float, Meta(ge=0, le=300)] = 30.0
    subject_claim: str = "sub"
    tenant_claim: str = ""
    groups_claim: str = ""

    def __repr__(self) -> str:
        return f"<JwtConfig {self.issuer!r}>"


class AuthConfig(msgspec.Struct, frozen=True):
    """Who may call."""

    tokens: tuple[TokenConfig, ...] = ()
    jwt: tuple[JwtConfig, ...] = ()


class AccessRule(msgspec.Struct, frozen=True):
    """Whoever fits all of `issuers`, `principals`, `tenants` and `groups` that are not empty may use what the rest names."""

    servers: tuple[str, ...]
    """Slugs of servers."""
    tools: tuple[str, ...] = ("*",)
    resources: tuple[str, ...] = ("*",)
    prompts: tuple[str, ...] = ("*",)
    issuers: tuple[str, ...] = ()
    principals: tuple[str, ...] = ()
    tenants: tuple[str, ...] = ()
    groups: tuple[str, ...] = ()


class PoolConfig(msgspec.Struct, frozen=True):
    """How upstream sessions are kept warm, and how many."""

    enabled: bool = True
    max_sessions_per_key: Count = 10
    session_ttl_seconds: Seconds = 300.0
    health_check_interval_seconds: SecondsFromZero = 60.0
    max_sessions_per_principal: Count = 100
    max_sessions_per_upstream: Count = 1000
    max_sessions: Count = 10_000
    wait_seconds: SecondsFromZero = 30.0


class LimitsConfig(msgspec.Struct, frozen=True):
    """How much a client may send, hold and wait."""

    body_bytes: Annotated[int, Meta(ge=1024, le=1 << 30)] = 4 * 1024 * 1024
    json_depth: Annotated[int, Meta(ge=8, le=900)] = 100
    header_bytes: Annotated[int, Meta(ge=1024, le=1 << 24)] = 65_536
    client_sessions: Count = 10_000
    client_session_idle_seconds: Seconds = 1800.0
    request_read_seconds: Seconds = 30.0
    stalled_reader_seconds: Seconds = 60.0
    calls_per_second: Annotated[float, Meta(ge=0, le=1_000_000)] = 0.0
    """Per principal; 0: as many as it likes."""
    calls_burst: Count = 100


class LogsConfig(msgspec.Struct, frozen=True):
    """How much is logged, and in which form."""

    level: Level = "info"
    format: Format = "auto"


class TracingConfig(msgspec.Struct, frozen=True):
    """Where spans are posted, as OTLP over HTTP; '' for nowhere."""

    endpoint: str = ""


class AuditConfig(msgspec.Struct, frozen=True):
    """Whether calls are recorded, and how much of them."""

    path: str = ""
    arguments: bool = False


class GatewayConfig(msgspec.Struct, frozen=True):
    """What holds for the gateway as a whole."""

    auth: AuthConfig | None = None
    access: tuple[AccessRule, ...] | None = None
    """None: every authenticated caller may use everything."""
    session_pool: PoolConfig = PoolConfig()
    limits: LimitsConfig = LimitsConfig()
    logs: LogsConfig = LogsConfig()
    audit: AuditConfig = AuditConfig()
    tracing: TracingConfig = TracingConfig()
    public_url: str = ""
    allowed_hosts: tuple[str, ...] = ()
    """In lower case."""
    allowed_origins: tuple[str, ...] = ()
    """In lower case."""
    health_check_interval_seconds: Seconds = 30.0
    drain_seconds: SecondsFromZero = 10.0
    http_protocol: HttpProtocolName = "own"

    def __repr__(self) -> str:
        return f"<GatewayConfig auth={self.auth is not None} session_pool={self.session_pool.enabled}>"


class Config(msgspec.Struct, frozen=True):
    """Everything the configuration file says."""

    servers: tuple[ServerConfig, ...]
    gateway: GatewayConfig = GatewayConfig()
    path: str = ""
    secrets: tuple[str, ...] = ()
    """Strings that must never be logged: header values, and what was substituted into `env` and `url`."""

    def __repr__(self) -> str:
        return f"<Config {self.path!r} {len(self.servers)} servers>"
