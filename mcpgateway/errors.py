"""The error tree. The first question is always *ours or theirs*.

Errors know nothing of HTTP: `downstream/problems.py` holds the one table that turns each of them into a status and a
JSON-RPC code. Every error has a text that says what happened, to which upstream, and what to do; none carries a secret.
"""

from __future__ import annotations

import msgspec


class GatewayError(Exception):
    """Anything this gateway raises on purpose. `str()` is never empty."""

    def __init__(self, message: str = "") -> None:
        super().__init__(message or (type(self).__doc__ or type(self).__name__).strip().splitlines()[0])


class ConfigError(GatewayError):
    """The configuration cannot be used. The text names the place, the value and what would be right."""


class ClientError(GatewayError):
    """The request cannot be served as it was sent. `code` is the JSON-RPC error code that the answer carries."""

    code = -32600

    def __init__(self, message: str = "", *, data: object = None) -> None:
        super().__init__(message)
        self.data = data


class ParseError(ClientError):
    """The body is not JSON."""

    code = -32700


class InvalidRequest(ClientError):
    """The body is not a JSON-RPC message that this endpoint takes."""


class MethodNotFound(ClientError):
    """No such method here."""

    code = -32601


class InvalidParams(ClientError):
    """The parameters do not fit the method."""

    code = -32602


class ResourceNotFound(ClientError):
    """No upstream offers this resource."""

    code = -32002


class UnsupportedVersion(ClientError):
    """The protocol version is not spoken here."""

    code = -32022


class UnknownSession(ClientError):
    """Session not found. It ended, or never was this caller's: send initialize to begin a new one."""


class StateLost(UnknownSession):
    """An upstream lost this session's state, and is configured to say so rather than to go on without."""


class NotAcceptable(ClientError):
    """The Accept header rules out every form of answer this endpoint has."""


class UnsupportedMedia(ClientError):
    """The body must be application/json."""


class TooLarge(ClientError):
    """The request is larger than the limit."""


class TooSlow(ClientError):
    """The request did not arrive in time."""


class Unauthenticated(ClientError):
    """A valid bearer token is needed."""


class InvalidToken(Unauthenticated):
    """The bearer token is not accepted. The text says why, and never shows the token."""


class TokenExpired(InvalidToken):
    """The token has expired."""


class Forbidden(ClientError):
    """This Origin or Host may not use the gateway."""


class Busy(ClientError):
    """The gateway is at a limit; try again shortly."""

    def __init__(self, message: str = "", *, retry_after_seconds: float = 1.0) -> None:
        super().__init__(message)
        self.retry_after_seconds = retry_after_seconds


class Draining(ClientError):
    """The gateway is shutting down; connect again."""


class NotFound(ClientError):
    """Nothing is served at this path."""


class KeysUnavailable(GatewayError):
    """An issuer's keys cannot be fetched just now, so that its tokens cannot be checked; try again shortly."""


class RpcError(GatewayError):
    """A peer answered with a JSON-RPC error. Not a failure of the path: it travels on as it came.

    `error` is the raw JSON of the error object.
    """

    def __init__(self, error: bytes) -> None:
        self.error = error
        # The code alone: what a server says in its error may repeat what it was shown, and this text is logged.
        super().__init__(f"JSON-RPC error {self.code}")

    @classmethod
    def of(cls, code: int, message: str, data: object = None) -> RpcError:
        """The error object built from its parts."""
        fields: dict[str, object] = {"code": code, "message": message}
        if data is not None:
            fields["data"] = data
        return cls(msgspec.json.encode(fields))

    @property
    def code(self) -> int:
        """The error's code; 0 where the peer sent none."""
        try:
            code = msgspec.json.decode(self.error).get("code", 0)
        except (msgspec.DecodeError, AttributeError):
            return 0
        return code if isinstance(code, int) else 0


class PoolError(GatewayError):
    """No lease: no upstream was asked."""


class PoolClosed(PoolError):
    """The session pool is closed."""


class PoolExhausted(PoolError):
    """No session came free in time. The text says which limit held."""


class CircuitOpen(PoolError):
    """The upstream failed repeatedly and is left alone for a moment."""

    def __init__(self, message: str, *, retry_after_seconds: float) -> None:
        super().__init__(message)
        self.retry_after_seconds = retry_after_seconds


class UpstreamError(GatewayError):
    """The upstream broke off, refused, or talked nonsense.

    `refused_before_dispatch`: the request certainly did not run, so repeating it is safe.
    `connection_level`: the trouble is with reaching the upstream at all; only these count for the circuit breaker.
    """

    refused_before_dispatch = False
    connection_level = False

    def __init__(self, upstream: str, message: str) -> None:
        super().__init__(f"upstream {upstream!r}: {message}")
        self.upstream = upstream


class ConnectFailed(UpstreamError):
    """No connection could be made."""

    refused_before_dispatch = True
    connection_level = True


class ConnectionLost(UpstreamError):
    """The connection broke while the request was under way; it may have run."""

    connection_level = True


class UpstreamTimeout(UpstreamError):
    """No sign of life within the time-out; the request may have run."""


class SessionLost(UpstreamError):
    """The upstream no longer knows the session; it refused the request before running it."""

    refused_before_dispatch = True


class AuthRefused(UpstreamError):
    """The upstream answered 401 or 403: the credential is missing, wrong or too weak. Never counts against it."""

    refused_before_dispatch = True

    def __init__(self, upstream: str, message: str, *, status: int, challenge: str = "") -> None:
        super().__init__(upstream, message)
        self.status = status
        self.challenge = challenge
        self.refreshable = False
        """Whether a fresh credential can be had, so that the call is worth repeating."""


class CredentialMissing(UpstreamError):
    """The caller has no credential for this upstream; the text says what to configure. The upstream was not asked."""

    refused_before_dispatch = True


class CredentialFailed(UpstreamError):
    """No token for this upstream could be obtained: its token endpoint failed or refused. The upstream was not asked."""

    refused_before_dispatch = True


class HttpRefused(UpstreamError):
    """The upstream answered with an HTTP status that is no answer to an MCP request."""

    def __init__(self, upstream: str, message: str, *, status: int) -> None:
        super().__init__(upstream, message)
        self.status = status


class BadAnswer(UpstreamError):
    """The upstream's answer is not MCP."""


class Incompatible(UpstreamError):
    """The upstream speaks no protocol revision that this gateway speaks."""
