"""What the two generations say in different ways of the same result or error, put into the words of the other.

Everything else passes as it came: a result that already has the right form is given back byte for byte.
"""

from __future__ import annotations

import re

import msgspec
from msgspec import UNSET, Raw, UnsetType

from mcpgateway.errors import BadAnswer, InvalidParams, RpcError
from mcpgateway.protocol import jsonrpc
from mcpgateway.protocol.call import Answerer
from mcpgateway.protocol.modern import (
    CACHEABLE,
    HEADER_MISMATCH,
    MISSING_CAPABILITY,
    SERVER_INFO_META,
    UNSUPPORTED_VERSION,
)
from mcpgateway.protocol.revisions import is_modern

INVALID_PARAMS = -32602
INTERNAL = -32603
RESOURCE_NOT_FOUND = -32002
"""Of legacy revisions; modern ones must not use it."""

URL_REQUIRED = -32042
"""2025-11-25: the request needs the user to visit a URL first. Modern servers ask instead."""

INPUT_REQUIRED = "input_required"

_COMPLETE = b'"resultType":"complete"'
_UNCACHED = _COMPLETE + b',"ttlMs":0,"cacheScope":"private"'
_complete = {"resultType": Raw(b'"complete"')}
_uncached = _complete | {"ttlMs": Raw(b"0"), "cacheScope": Raw(b'"private"')}


class _Head(msgspec.Struct, rename="camel", gc=False):
    """The members of a result that differ between the generations."""

    result_type: Raw | UnsetType = UNSET
    ttl_ms: Raw | UnsetType = UNSET
    cache_scope: Raw | UnsetType = UNSET
    meta: Raw | UnsetType = msgspec.field(default=UNSET, name="_meta")


_head = msgspec.json.Decoder(_Head)
_empty = re.compile(rb"\{\s*\}")
_BARE = _Head()


def by_modern(answerer: Answerer | None) -> bool:
    """Whether a result is as a modern server sent it."""
    return answerer is not None and is_modern(answerer.protocol_version)


def kind_of(result: bytes) -> str:
    """The `resultType` of a modern result. Servers of earlier drafts give none: then it is complete."""
    said = _head.decode(result).result_type
    return "complete" if said is UNSET else str(msgspec.json.decode(said))


def to_modern(method: str, result: bytes, server_info: bytes) -> bytes:
    """The result of a legacy server, or of the gateway itself, as modern clients read it.

    Nothing of it may be kept, for nobody said for how long and for whom. `server_info` is raw, empty for none.
    """
    head = _head.decode(result)
    if head == _BARE:
        added = _UNCACHED if method in CACHEABLE else _COMPLETE
        if server_info:
            added += b',"_meta":{"%b":%b}' % (SERVER_INFO_META.encode(), server_info)
        return _with(result, added)
    changes = dict(_uncached if method in CACHEABLE else _complete)
    if server_info:
        meta = _meta_of(head, server_info)
        changes["_meta"] = jsonrpc.raw({SERVER_INFO_META: Raw(server_info)} | meta)
    return msgspec.json.encode(jsonrpc.object_of(result) | changes)


def checked(method: str, result: bytes) -> bytes:
    """The result of a modern server as it may be passed on: complete in form, and never for others than who asked.

    What a server calls public may differ from user to user all the same, and then it would be kept for all of them.
    """
    head = _head.decode(result)
    missing = dict(_uncached if method in CACHEABLE else _complete)
    for name, said in (("resultType", head.result_type), ("ttlMs", head.ttl_ms), ("cacheScope", head.cache_scope)):
        if said is not UNSET:
            missing.pop(name, None)
    if isinstance(head.cache_scope, Raw) and bytes(head.cache_scope) != b'"private"':
        missing["cacheScope"] = _uncached["cacheScope"]
        return msgspec.json.encode(jsonrpc.object_of(result) | missing)
    return _with(result, msgspec.json.encode(missing)[1:-1]) if missing else result


def to_legacy(result: bytes) -> bytes:
    """The result of a modern server as legacy clients read it."""
    head = _head.decode(result)
    identified = isinstance(head.meta, Raw) and SERVER_INFO_META.encode() in bytes(head.meta)
    if head.result_type is UNSET and head.ttl_ms is UNSET and head.cache_scope is UNSET and not identified:
        return result
    fields = jsonrpc.object_of(result)
    for name in _uncached:
        fields.pop(name, None)
    if identified:
        fields.pop("_meta")
        meta = _meta_of(head, b"{}")
        meta.pop(SERVER_INFO_META, None)
        if meta:
            fields["_meta"] = jsonrpc.raw(meta)
    return msgspec.json.encode(fields)


def _meta_of(head: _Head, server_info: bytes) -> jsonrpc.Params:
    """The fields of a result's `_meta`. Raises BadAnswer where it is no object: the fault is the server's, not its caller's."""
    if not isinstance(head.meta, Raw):
        return {}
    try:
        return jsonrpc.object_of(head.meta)
    except InvalidParams as error:
        raise BadAnswer(_name_in(server_info), "the _meta of its result is no object") from error


def _name_in(server_info: bytes) -> str:
    """What a server calls itself, for an error that is about it."""
    try:
        return jsonrpc.string_of(jsonrpc.object_of(server_info), "name")[:100]
    except InvalidParams:
        return "unknown"


def _with(result: bytes, members: bytes) -> bytes:
    """A raw object with more members in front. Nothing of it is decoded: it may be large."""
    return b"".join((b"{", members, b"" if _empty.match(result) else b",", memoryview(result)[1:]))


def error_to_modern(error: RpcError) -> RpcError:
    """A server's error in codes that modern clients may be told."""
    if error.code == RESOURCE_NOT_FOUND:
        return _recoded(error, INVALID_PARAMS)
    # The last is about what the gateway sent, in a revision that the client knows nothing of.
    return _recoded(error, INTERNAL) if error.code in (URL_REQUIRED, UNSUPPORTED_VERSION) else error


def error_to_legacy(method: str, error: RpcError) -> RpcError:
    """A modern server's error in codes that legacy clients know."""
    if error.code == INVALID_PARAMS and method == "resources/read":
        return _recoded(error, RESOURCE_NOT_FOUND)
    about_the_form = (HEADER_MISMATCH, MISSING_CAPABILITY, UNSUPPORTED_VERSION)
    return _recoded(error, INTERNAL) if error.code in about_the_form else error


def _recoded(error: RpcError, code: int) -> RpcError:
    return RpcError(msgspec.json.encode(jsonrpc.object_of(error.error) | {"code": jsonrpc.raw(code)}))
