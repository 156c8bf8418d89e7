"""Asks a server what it speaks and offers (`server/discover`), and reads the many ways of answering."""

from __future__ import annotations

from typing import NamedTuple

import msgspec
from msgspec import Raw

from mcpgateway.errors import BadAnswer, HttpRefused, Incompatible, RpcError, UpstreamError
from mcpgateway.protocol import jsonrpc, revisions
from mcpgateway.protocol.modern import UNSUPPORTED_VERSION
from mcpgateway.upstream.base import Welcome, answer_of

SHORTEST_FRESH_SECONDS = 60.0
"""A server that wants to be asked each time is asked this often at most: sessions are opened more often than that."""

LONGEST_FRESH_SECONDS = 24 * 3600.0


class Discovery(NamedTuple):
    """What a server said of itself, and for how long that may be taken to hold."""

    welcome: Welcome
    fresh_seconds: float


class _Answer(msgspec.Struct, rename="camel"):
    """The parts of a DiscoverResult that say how to go on."""

    supported_versions: list[str]
    ttl_ms: float = 0


class _Refusal(msgspec.Struct):
    """The data of an error -32022."""

    supported: list[str]


def discovery_in(upstream: str, message: jsonrpc.Message, status: int = 200) -> Discovery:
    """What an answer to server/discover says.

    Raises HttpRefused where the server does not know the method or no modern revision, Incompatible where it speaks modern
    revisions only and none that is spoken here, BadAnswer where it talks nonsense.
    """
    try:
        result = answer_of(upstream, message)
        answer = msgspec.json.decode(result, type=_Answer)
    except RpcError as error:
        raise refused(upstream, error, status) from error
    except (msgspec.DecodeError, RecursionError) as error:
        raise BadAnswer(upstream, f"its answer to server/discover is no DiscoverResult: {error}") from error
    version = mutual(answer.supported_versions)
    if version is None:
        raise _unspoken(upstream, answer.supported_versions, status)
    fresh = min(max(answer.ttl_ms / 1000, SHORTEST_FRESH_SECONDS), LONGEST_FRESH_SECONDS)
    return Discovery(Welcome.discover(upstream, result, version), fresh)


def mutual(versions: list[str]) -> str | None:
    """The newest modern revision that both sides speak."""
    return max((version for version in versions if revisions.is_modern(version)), default=None)


def refused(upstream: str, error: RpcError, status: int) -> UpstreamError:
    """What an error in answer to server/discover means."""
    if error.code == UNSUPPORTED_VERSION and (versions := _supported(error)) is not None:
        return _unspoken(upstream, versions, status)
    return HttpRefused(upstream, f"it refused server/discover with error {error.code}; its own log says why", status=status)


def wants_another_try(error: RpcError) -> bool:
    """Whether a refusal names a modern revision that is spoken here, so that asking again is likely to be answered."""
    return error.code == UNSUPPORTED_VERSION and mutual(_supported(error) or []) is not None


def _supported(error: RpcError) -> list[str] | None:
    """The revisions that a refusal names."""
    try:
        return msgspec.json.decode(jsonrpc.object_of(error.error).get("data", Raw(b"null")), type=_Refusal).supported
    except (msgspec.DecodeError, RecursionError):
        return None


def _unspoken(upstream: str, versions: list[str], status: int) -> UpstreamError:
    spoken = ", ".join(version[:20] for version in versions[:10])
    if not versions or set(versions) & {*revisions.LEGACY, *revisions.MODERN}:
        return HttpRefused(upstream, f"it does not speak {revisions.MODERN[-1]}, but {spoken or 'nothing'}", status=status)
    ours = ", ".join((*revisions.LEGACY, *revisions.MODERN))
    return Incompatible(upstream, f"it speaks only {spoken}; this gateway speaks {ours}")
