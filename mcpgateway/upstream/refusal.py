"""What an HTTP status other than 200 means, and which of the many ways of saying 'session lost' is meant."""

from __future__ import annotations

import re

from msgspec import Raw

from mcpgateway.errors import AuthRefused, BadAnswer, HttpRefused, RpcError, SessionLost, UpstreamError
from mcpgateway.protocol import jsonrpc
from mcpgateway.upstream.http import Response

LOST = re.compile(r"session|not initialized", re.IGNORECASE)
METHOD_NOT_FOUND = -32601

WORDS = {
    404: "there is nothing at this path; check the URL in the configuration",
    405: "it takes no such request at this URL; check the URL in the configuration",
    406: "it has no form of answer that this gateway takes",
    429: "it is asked too often; try again later",
    502: "something before it cannot reach it",
    503: "it is overloaded or down for the moment; try again later",
    504: "something before it waited too long for it",
}
"""What to do about the statuses that say more than that it failed."""


def refusal(upstream: str, response: Response, *, named: bool) -> UpstreamError | RpcError:
    """The error that `response` stands for. `named`: the request carried a session id, so that it can be a lost one.

    A JSON-RPC error in the body is the server's own word, and travels on as it came.
    """
    status = response.status
    if status in (401, 403):
        return _auth_refused(upstream, response)
    error = _rpc_error(response.body)
    if named and _session_lost(status, error):
        return SessionLost(upstream, f"it no longer knows the session (HTTP {status})")
    if error is not None and status >= 400:
        return error
    if 300 <= status < 400:
        text = f"it redirects (HTTP {status}); put the URL it points to into the configuration"
        return HttpRefused(upstream, text, status=status)
    if status < 300:
        return BadAnswer(upstream, f"it answered HTTP {status} without an answer to the request")
    return HttpRefused(upstream, f"it answered HTTP {status}: {WORDS.get(status, 'see its own log')}", status=status)


def _auth_refused(upstream: str, response: Response) -> AuthRefused:
    status = response.status
    challenge = response.headers.get(b"www-authenticate", b"").decode("latin-1")
    what = "the credential is missing or wrong" if status == 401 else "the credential does not suffice"
    text = f"it answered HTTP {status}: {what}; check the server's headers in the configuration"
    return AuthRefused(upstream, text, status=status, challenge=challenge)


def _session_lost(status: int, error: RpcError | None) -> bool:
    """Whether the answer to a request with a session id says that there is no such session."""
    if status == 404:
        # Some answer an unknown method like this, which says nothing of the session.
        return error is None or error.code != METHOD_NOT_FOUND
    return status == 400 and error is not None and _speaks_of_session(error)


def _speaks_of_session(error: RpcError) -> bool:
    return error.code in (-32000, -32600) and LOST.search(error.error.decode("utf-8", "replace")) is not None


def _rpc_error(body: bytes) -> RpcError | None:
    """The JSON-RPC error in the body of a refusal, if there is one."""
    try:
        error = jsonrpc.decode(body).error
    except Exception:
        return None
    return RpcError(bytes(error)) if isinstance(error, Raw) and bytes(error).startswith(b"{") else None
