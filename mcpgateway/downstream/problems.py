"""The one table: our error → HTTP status and JSON-RPC code.

What went wrong upstream is told in a JSON-RPC error at HTTP 200: to the client, this server works.
"""

from __future__ import annotations

from math import ceil
from typing import NamedTuple

from mcpgateway import errors, logs
from mcpgateway.errors import ClientError, GatewayError, RpcError
from mcpgateway.protocol import jsonrpc

INTERNAL = -32603
CANCELLED = -32800

STATUS: dict[type[GatewayError], int] = {
    errors.ParseError: 400,
    errors.InvalidRequest: 400,
    errors.UnsupportedVersion: 400,
    errors.Unauthenticated: 401,
    errors.Forbidden: 403,
    errors.NotFound: 404,
    errors.UnknownSession: 404,
    errors.NotAcceptable: 406,
    errors.TooSlow: 408,
    errors.TooLarge: 413,
    errors.UnsupportedMedia: 415,
    errors.Busy: 429,
    errors.PoolExhausted: 429,
    errors.Draining: 503,
    errors.KeysUnavailable: 503,
    errors.PoolClosed: 503,
}
"""Everything else is answered with 200."""

RETRY_AFTER_SECONDS = 1


class Problem(NamedTuple):
    """An error as the client sees it."""

    status: int
    body: bytes
    headers: tuple[tuple[bytes, bytes], ...] = ()


def problem_of(error: GatewayError, id: jsonrpc.Id | None) -> Problem:
    """How `error` is told to the client whose request has this id."""
    status = next((STATUS[kind] for kind in type(error).__mro__ if kind in STATUS), 200)
    headers: tuple[tuple[bytes, bytes], ...] = ()
    if status in (429, 503):
        seconds = error.retry_after_seconds if isinstance(error, errors.Busy) else RETRY_AFTER_SECONDS
        headers = ((b"retry-after", b"%d" % ceil(seconds)),)
    return Problem(status, jsonrpc.error(id, rpc_error(error).error), headers)


def unexpected(request_id: str, id: jsonrpc.Id | None) -> Problem:
    """What a client is told of a fault of ours: enough to find it in the log, and nothing of what is in the log."""
    text = f"internal error; the gateway's log has it under request {request_id}"
    error = RpcError.of(INTERNAL, text, {"kind": "InternalError", "requestId": request_id})
    return Problem(200 if id is not None else 500, jsonrpc.error(id, error.error))


def rpc_error(error: GatewayError) -> RpcError:
    """The JSON-RPC error for one of ours; an upstream's own passes as it came."""
    if isinstance(error, RpcError):
        return error
    if isinstance(error, ClientError):
        return RpcError.of(error.code, str(error), error.data)
    # What a server says of its trouble may repeat what it was shown.
    text = logs.redacted(str(error))
    if isinstance(error, errors.UpstreamError):
        return RpcError.of(INTERNAL, text, {"kind": type(error).__name__, "upstream": error.upstream})
    return RpcError.of(INTERNAL, text, {"kind": type(error).__name__})
