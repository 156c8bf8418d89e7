"""The one table: our error → HTTP status and JSON-RPC code.

What went wrong upstream is told in a JSON-RPC error at HTTP 200: to the client, this server works.
"""

from __future__ import annotations

from math import ceil
from typing import NamedTuple

from mcpgateway import errors, logs
from mcpgateway.downstream import generations
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

MODERN_STATUS = {
    -32700: 400,
    -32600: 400,
    -32601: 404,
    -32602: 400,
    -32020: 400,
    -32021: 400,
    -32022: 400,
}
"""By JSON-RPC code, what 2026-07-28 asks for, whoever found the fault. Everything else is answered with 200."""

RETRY_AFTER_SECONDS = 1


class Problem(NamedTuple):
    """An error as the client sees it."""

    status: int
    body: bytes
    headers: tuple[tuple[bytes, bytes], ...] = ()


def problem_of(error: GatewayError, id: jsonrpc.Id | None) -> Problem:
    """How `error` is told to the client whose request has this id."""
    status = _status_of(error)
    return Problem(status, jsonrpc.error(id, rpc_error(error).error), _headers_of(error, status))


def modern_problem(error: GatewayError, id: jsonrpc.Id) -> Problem:
    """How `error` is told to a modern client."""
    if isinstance(error, errors.StateLost):
        error = RpcError.of(INTERNAL, _lost(error), {"kind": "StateLost"})
    told = rpc_error(error)
    if isinstance(error, RpcError | errors.ResourceNotFound):
        told = generations.error_to_modern(told)
    status = _status_of(error)
    if status == 200:
        status = MODERN_STATUS.get(told.code, 200)
    return Problem(status, jsonrpc.error(id, told.error), _headers_of(error, status))


def _status_of(error: GatewayError) -> int:
    return next((STATUS[kind] for kind in type(error).__mro__ if kind in STATUS), 200)


def _headers_of(error: GatewayError, status: int) -> tuple[tuple[bytes, bytes], ...]:
    if status not in (429, 503):
        return ()
    seconds = error.retry_after_seconds if isinstance(error, errors.Busy) else RETRY_AFTER_SECONDS
    return ((b"retry-after", b"%d" % ceil(seconds)),)


def _lost(error: errors.StateLost) -> str:
    # The error's own text goes on with what a client that has a session must do.
    said = str(error).rpartition(": ")[0]
    return f"{said or str(error)}: this call did not run, and the next one begins without the state of earlier ones"


def unexpected(request_id: str, id: jsonrpc.Id | None) -> Problem:
    """What a client is told of a fault of ours: enough to find it in the log, and nothing of what is in the log."""
    text = f"internal error; the gateway's log has it under request {request_id}"
    error = RpcError.of(INTERNAL, text, {"kind": "InternalError", "requestId": request_id})
    return Problem(200 if id is not None else 500, jsonrpc.error(id, error.error))


def stopped(id: jsonrpc.Id) -> Problem:
    """What is said of a call that was still in flight when the gateway had to end."""
    text = "the gateway stops, and this call was not done in time: it may have run, and what became of it is not known"
    return Problem(200, jsonrpc.error(id, RpcError.of(INTERNAL, text, {"kind": "GatewayStopped"}).error))


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
