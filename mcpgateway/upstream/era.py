"""Which kind of server answers at a URL (specification, `basic/transports`, backwards compatibility)."""

from __future__ import annotations

import msgspec
from msgspec import Raw

from mcpgateway.errors import BadAnswer, GatewayError, HttpRefused, Incompatible
from mcpgateway.protocol import jsonrpc, revisions
from mcpgateway.protocol.call import HeaderBlock
from mcpgateway.upstream.base import GATEWAY_INFO, Target
from mcpgateway.upstream.http import HttpClient, path_of
from mcpgateway.upstream.streamable_http import POST_HEADERS, first_response

NOT_STREAMABLE = frozenset({400, 404, 405, 406, 415})
"""Statuses with which a server of 2024-11-05 answers a POST of initialize to its stream's URL."""


def may_be_sse(error: Exception) -> bool:
    """Whether a refused `initialize` still leaves the older HTTP+SSE transport possible."""
    return isinstance(error, HttpRefused) and error.status in NOT_STREAMABLE


def may_have_changed(error: Exception) -> bool:
    """Whether the refusal contradicts what was found out earlier, so that it is to be found out again."""
    return isinstance(error, HttpRefused) and (error.status in NOT_STREAMABLE or error.status < 300)


async def explain_refusal(target: Target, http: HttpClient, headers: HeaderBlock, error: Exception) -> Exception:
    """The better error for a server that takes neither handshake: Incompatible where it speaks only modern revisions.

    `server/discover` is the probe, for it has no side effects. Any answer that is not modern leaves `error` as it is.
    """
    if not isinstance(error, HttpRefused | BadAnswer):
        return error  # nothing was said about revisions: it is down, or wants another credential
    modern = revisions.MODERN[-1]
    meta = {
        "io.modelcontextprotocol/protocolVersion": modern,
        "io.modelcontextprotocol/clientCapabilities": {},
        "io.modelcontextprotocol/clientInfo": Raw(GATEWAY_INFO),
    }
    body = jsonrpc.request_raw(0, "server/discover", msgspec.json.encode({"_meta": meta}))
    lines = POST_HEADERS + b"MCP-Protocol-Version: %b\r\nMcp-Method: server/discover\r\n" % modern.encode() + headers
    try:
        response = await http.send(b"POST", path_of(target.url), lines, body, target.open_timeout_seconds)
        versions = _versions(await first_response(target.name, response))
    except (GatewayError, msgspec.DecodeError):
        return error
    if versions and not set(versions) & set(revisions.LEGACY):
        spoken = ", ".join(version[:20] for version in versions)
        return Incompatible(target.name, f"it speaks only {spoken}; this gateway speaks {', '.join(revisions.LEGACY)}")
    return error


def _versions(message: jsonrpc.Message) -> list[str]:
    """The revisions that an answer to server/discover names: in its result, or in the data of error -32022."""
    fields = jsonrpc.object_of(message.result if isinstance(message.result, Raw) else message.error or b"{}")
    versions = fields.get("supportedVersions")
    if versions is None and "data" in fields:
        versions = jsonrpc.object_of(fields["data"]).get("supported")
    return msgspec.json.decode(versions, type=list[str]) if versions is not None else []
