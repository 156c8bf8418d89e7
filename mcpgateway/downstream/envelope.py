"""A modern request (2026-07-28) as it came: checked, and taken apart into the neutral call and what it says of itself.

Header and body must say the same; what counts is the body. The order of the checks is that of the specification, so that a
client is told first of what it must mend first.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
from msgspec import Raw

from mcpgateway.downstream.described import description
from mcpgateway.downstream.exchange import HeaderList, Headers
from mcpgateway.downstream.media import accepts, check_json
from mcpgateway.errors import ClientError, InvalidParams, InvalidRequest, NotAcceptable, RpcError, UnsupportedVersion
from mcpgateway.protocol import headers as mirrored
from mcpgateway.protocol import jsonrpc, revisions
from mcpgateway.protocol.jsonrpc import Params
from mcpgateway.protocol.levels import LEVELS
from mcpgateway.protocol.modern import (
    CAPABILITIES_META,
    CLIENT_INFO_META,
    ENVELOPE,
    HEADER_MISMATCH,
    LOG_LEVEL_META,
    SERVED,
    VERSION_META,
)

NEEDED = (VERSION_META, CAPABILITIES_META)
_nothing = Raw(b"{}")
_legacy_headers = frozenset({None, *(version.encode() for version in revisions.LEGACY)})


class Envelope:
    """One request: `params` as the client wrote them, `neutral` without what only this generation says.

    `answers` are what a modern server is told of earlier rounds beside that.
    """

    __slots__ = (
        "answers",
        "capabilities",
        "client_info",
        "headers",
        "id",
        "log_level",
        "method",
        "neutral",
        "params",
        "place",
        "state",
    )

    def __init__(self, message: jsonrpc.Message, meta: Params, headers: Headers) -> None:
        self.headers = headers
        """Those that repeat parts of the body."""
        self.id = id_of(message)
        self.method = str(message.method)
        self.params: Params = message.params if isinstance(message.params, dict) else {}
        self.capabilities = description(meta[CAPABILITIES_META], CAPABILITIES_META)
        self.client_info = description(meta.get(CLIENT_INFO_META, _nothing), CLIENT_INFO_META)
        self.log_level = _level(meta.get(LOG_LEVEL_META))
        self.state = jsonrpc.string_of(self.params, "requestState") if "requestState" in self.params else None
        self.neutral = _neutral(self.params, meta)
        self.answers: Params = {}
        self.place = ""
        """The one server whose endpoint it came to; '' at the endpoint of all."""

    def __repr__(self) -> str:
        return f"<Envelope {self.method} {self.id}>"


def is_modern(headers: Headers, body: bytes) -> bool:
    """Whether a POST is of the modern generation: by its header, or without one by its body."""
    if headers.get(b"mcp-protocol-version") not in _legacy_headers and version_in(headers) not in revisions.LEGACY:
        return True
    # JSON may write the slash as \/, so the key is looked for without what is in front of it; then it must be in its place.
    if body.find(b"/protocolVersion") < 0:  # `in` would first try to read the needle as a number
        return False
    try:
        return VERSION_META in _meta_of(jsonrpc.decode(body))
    except ClientError:  # which the legacy edge will find out, and say
        return False


def names_modern(headers: Headers) -> bool:
    """Whether a request without a body is of the modern generation."""
    return version_in(headers) in revisions.MODERN


def check_media(headers: Headers) -> None:
    """Raises UnsupportedMedia, NotAcceptable."""
    check_json(headers)
    if not (accepts(headers, b"application/json") and accepts(headers, b"text/event-stream")):
        raise NotAcceptable("Accept must list both application/json and text/event-stream")


def decode(body: bytes, json_depth: int, version: str = "") -> jsonrpc.Message:
    """The one request or notification in a body, whose headers name this revision. Raises ClientError."""
    if body.lstrip()[:1] == b"[":
        check_version(version)
        raise InvalidRequest(f"revision {revisions.NEWEST_MODERN} has no batches: send one message per request")
    message = jsonrpc.decode(body)
    if message.jsonrpc != "2.0":
        raise InvalidRequest('not a JSON-RPC message: "jsonrpc" must be "2.0"')
    if message.method is msgspec.UNSET:
        raise InvalidRequest("the body must be a request or a notification: clients are asked nothing here, so answer nothing")
    if jsonrpc.too_deep(body, json_depth):
        raise InvalidRequest(f"the body is nested more than {json_depth} levels deep (gateway.limits.json_depth)")
    return message


def id_of(message: jsonrpc.Message) -> jsonrpc.Id:
    """A request's id. Raises InvalidRequest where it is none."""
    if not isinstance(message.id, int | str):
        raise InvalidRequest("a request's id must be a string or an integer")
    return message.id


def read(message: jsonrpc.Message, header_list: HeaderList) -> Envelope:
    """The request in a message that came with these headers. Raises ClientError, and RpcError where they contradict it."""
    headers = mirrors_in(header_list)
    version = version_in(headers)
    meta = _meta_of(message)
    if VERSION_META not in meta:
        check_version(version)
    missing = [key for key in NEEDED if key not in meta]
    if missing:
        raise InvalidParams(_without(missing, message.method))
    _check_headers(message, meta, version, headers)
    check_version(version)
    return Envelope(message, meta, headers)


def mirrors_in(header_list: HeaderList) -> Headers:
    """The headers that repeat parts of the body, without the blanks around their values. Raises RpcError for duplicates."""
    mirrors: Headers = {}
    for name, value in header_list:
        if name.startswith(b"mcp-"):
            if name in mirrors:
                raise mismatch(f"the {name.decode('latin-1')[:60]} header came more than once")
            mirrors[name] = value.strip(b" \t")
    return mirrors


def version_in(headers: Headers) -> str:
    """The revision that the headers name; empty for none."""
    return headers.get(b"mcp-protocol-version", b"").strip(b" \t").decode("latin-1")


def check_version(version: str) -> None:
    """Raises UnsupportedVersion for what is no modern revision that is spoken here; none at all is no such revision."""
    if version and version not in revisions.MODERN:
        data = {"supported": list(SERVED), "requested": version[:100]}
        raise UnsupportedVersion(
            f"protocol version {version[:100]!r} is not spoken here in this form; supported: {', '.join(SERVED)}", data=data
        )


def check_mirrored(request: Envelope, schema: Raw | bytes | None) -> None:
    """Raises RpcError where Mcp-Param-* say something else than the arguments of a tool with this input schema."""
    fault = mirrored.check(request.headers, request.method, request.params, schema)
    if fault is not None:
        raise mismatch(fault)


def mismatch(what: str) -> RpcError:
    """The error for headers and a body that contradict each other."""
    return RpcError.of(HEADER_MISMATCH, f"Header mismatch: {what}")


def _without(missing: Sequence[str], method: object) -> str:
    text = f"params._meta lacks {' and '.join(missing)}, which every request of {revisions.NEWEST_MODERN} carries"
    if method == "initialize":
        text += "; for a session of an earlier revision send initialize without an MCP-Protocol-Version header"
    return text


def _check_headers(message: jsonrpc.Message, meta: Params, version: str, headers: Headers) -> None:
    if meta[VERSION_META] != msgspec.json.encode(version):
        said = jsonrpc.string_of(meta, VERSION_META)
        if said != version:
            raise mismatch(f"MCP-Protocol-Version is {version[:40]!r}, and {VERSION_META} in the body is {said[:40]!r}")
    params = message.params if isinstance(message.params, dict) else {}
    fault = mirrored.check(headers, str(message.method), params)
    if fault is not None:
        raise mismatch(fault)


def _meta_of(message: jsonrpc.Message) -> Params:
    params = message.params
    raw = params.get("_meta") if isinstance(params, dict) else None
    return {} if raw is None else jsonrpc.object_of(raw)


def _level(raw: Raw | None) -> str | None:
    if raw is None:
        return None
    level = jsonrpc.string_of({LOG_LEVEL_META: raw}, LOG_LEVEL_META)
    if level not in LEVELS:
        raise InvalidParams(f"{LOG_LEVEL_META} must be one of {', '.join(LEVELS)}, not {level[:100]!r}")
    return level


def _neutral(params: Params, meta: Params) -> Params:
    """`params` with nothing in them that only this generation says."""
    neutral = {name: value for name, value in params.items() if name not in ("_meta", "inputResponses", "requestState")}
    kept = {name: value for name, value in meta.items() if name not in ENVELOPE}
    if kept:
        neutral["_meta"] = jsonrpc.raw(kept)
    return neutral
