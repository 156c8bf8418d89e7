"""The headers in which a 2026-07-28 request repeats parts of its body, so that what stands between can route by them.

The body is what counts: a client writes these lines from it, and a server refuses a request whose lines say something else
(specification, `basic/transports/streamable-http`).
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import msgspec
from msgspec import Raw

from mcpgateway.protocol.call import HeaderBlock
from mcpgateway.protocol.jsonrpc import Params

NAMED = {
    "tools/call": "name",
    "prompts/get": "name",
    "resources/read": "uri",
    "tasks/get": "taskId",
    "tasks/update": "taskId",
    "tasks/cancel": "taskId",
}
"""Methods with an Mcp-Name, and the parameter that it repeats."""

ANNOTATION = "x-mcp-header"
MIRRORED_TYPES = frozenset({"string", "integer", "boolean"})
REMEMBERED_SCHEMAS = 1024

_plain = re.compile(r"[\x20-\x7e]*")
_wrapped = re.compile(r"=\?base64\?(.*)\?=", re.DOTALL)
_token = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_decimal = re.compile(r"(-?[0-9]+)(?:\.0+)?")

_HOLDING_SCHEMAS = frozenset(
    """additionalItems additionalProperties allOf anyOf contains contentSchema else if items not oneOf prefixItems
    propertyNames then unevaluatedItems unevaluatedProperties""".split()
)
"""JSON Schema's keywords whose value is a schema, or a list of schemas."""

_HOLDING_NAMED_SCHEMAS = frozenset("$defs definitions dependencies dependentSchemas patternProperties".split())
"""Keywords whose value is an object of schemas. `properties` is another such, and the only one that headers go through."""


class Mirror(NamedTuple):
    """An argument of a tool that is repeated in a header: where it is, the header's name, and the argument's type."""

    path: tuple[str, ...]
    name: str
    type: str


class Schema(NamedTuple):
    """What a tool's input schema says of headers. With a `fault` it may not be used over HTTP at all."""

    mirrors: tuple[Mirror, ...] = ()
    fault: str | None = None


def encode(value: str) -> bytes:
    """`value` as it may stand in a header: as it is, or wrapped where HTTP would not carry it unaltered."""
    if _plain.fullmatch(value) and value == value.strip(" ") and not _wrapped.fullmatch(value):
        return value.encode("ascii")
    return b"=?base64?%b?=" % base64.b64encode(value.encode())


def decode(value: bytes) -> str | None:
    """The value that a header stands for; None where it is wrapped badly, so that it equals nothing."""
    text = value.decode("latin-1")
    wrapped = _wrapped.fullmatch(text)
    if wrapped is None:
        return text
    try:
        content = base64.b64decode(wrapped[1], validate=True)
        # One value, one form: what decodes alike but is written in another way is none of ours.
        return content.decode() if base64.b64encode(content).decode() == wrapped[1] else None
    except (binascii.Error, ValueError):
        return None


def schema_of(raw: Raw | bytes | None) -> Schema:
    """What a tool's raw `inputSchema` says of headers."""
    body = b"" if raw is None else bytes(raw)
    return _schema(body) if ANNOTATION.encode() in body else Schema()


@lru_cache(REMEMBERED_SCHEMAS)
def _schema(body: bytes) -> Schema:
    try:
        root = msgspec.json.decode(body)
    except (msgspec.DecodeError, RecursionError):
        return Schema()
    mirrors: dict[str, Mirror] = {}
    for path, position in _positions(root):
        if ANNOTATION not in position:
            continue
        if not path:
            return Schema(fault=f"{ANNOTATION} stands where no chain of properties leads")
        mirror = _mirror(path, position)
        if isinstance(mirror, str):
            return Schema(fault=f"property {'.'.join(path)!r}: {mirror}")
        if mirrors.setdefault(mirror.name.lower(), mirror) is not mirror:
            return Schema(fault=f"property {'.'.join(path)!r}: {ANNOTATION} {mirror.name!r} is taken by another property")
    return Schema(tuple(mirrors.values()))


def _positions(root: Any) -> Iterator[tuple[tuple[str, ...] | None, dict[str, Any]]]:
    """Every schema in `root`, itself included, with the chain of properties that leads to it; None where none does."""
    open: list[tuple[tuple[str, ...] | None, Any]] = [((), root)]
    while open:
        path, node = open.pop()
        if isinstance(node, list):
            open += [(None, each) for each in node]
        elif isinstance(node, dict):
            yield path, node
            for keyword, value in node.items():
                if keyword == "properties" and isinstance(value, dict):
                    open += [(None if path is None else (*path, name), each) for name, each in value.items()]
                elif keyword in _HOLDING_SCHEMAS:
                    open.append((None, value))
                elif keyword in _HOLDING_NAMED_SCHEMAS and isinstance(value, dict):
                    open += [(None, each) for each in value.values()]


def _mirror(path: tuple[str, ...], position: dict[str, Any]) -> Mirror | str:
    """The mirror that is declared at a position, or what is wrong with it."""
    name, type = position[ANNOTATION], position.get("type")
    if not isinstance(name, str) or not _token.fullmatch(name):
        return f"{ANNOTATION} is no name of a header"
    if not isinstance(type, str) or type not in MIRRORED_TYPES:
        return f"{ANNOTATION} is for strings, integers and booleans only"
    return Mirror(path, name, type)


def lines(method: str, params: Params, mirrors: Sequence[Mirror] = ()) -> HeaderBlock:
    """Mcp-Method, Mcp-Name and Mcp-Param-* of a request, as rendered lines. `mirrors` are those of the tool it calls."""
    block = b"Mcp-Method: %b\r\n" % encode(method)
    name = named_by(method, params)
    if name is not None:
        block += b"Mcp-Name: %b\r\n" % encode(name)
    if mirrors:
        arguments = _arguments(params)
        for mirror in mirrors:
            text = _rendered(_value(arguments, mirror.path), mirror.type)
            if text is not None:
                block += b"Mcp-Param-%b: %b\r\n" % (mirror.name.encode(), encode(text))
    return block


def named_by(method: str, params: Params) -> str | None:
    """What a request's Mcp-Name repeats; None for requests without one."""
    raw = params.get(NAMED.get(method, ""))
    value = None if raw is None else _decoded(raw)
    return value if isinstance(value, str) else None


def check(headers: Mapping[bytes, bytes], method: str, params: Params, schema: Raw | bytes | None = None) -> str | None:
    """What is wrong with the headers of a request; None where they repeat its body faithfully.

    `headers` have names in lower case; one that came twice is to be refused before. `schema` is the called tool's raw
    `inputSchema`. The revision's header is not looked at.
    """
    if decode(headers.get(b"mcp-method", b"")) != method:
        return "the Mcp-Method header is missing, or is not the request's method"
    name = named_by(method, params)
    if name is not None and decode(headers.get(b"mcp-name", b"")) != name:
        return f"the Mcp-Name header is missing, or is not params.{NAMED[method]}"
    mirrors = schema_of(schema).mirrors
    if mirrors:
        arguments = _arguments(params)
        for mirror in mirrors:
            fault = _mirror_fault(headers.get(b"mcp-param-" + mirror.name.lower().encode()), arguments, mirror)
            if fault is not None:
                return f"the Mcp-Param-{mirror.name} header {fault} ({'.'.join(mirror.path)})"
    return None


def _mirror_fault(header: bytes | None, arguments: Any, mirror: Mirror) -> str | None:
    value = _value(arguments, mirror.path)
    text = _rendered(value, mirror.type)
    if text is None:
        return None if header is None else "repeats an argument that is not there"
    if header is None:
        return "is missing, though its argument is there"
    said = decode(header)
    if said is None:
        return "is not well-formed base64"
    return None if said == text or _same_integer(said, text, mirror.type) else "is not its argument"


def _same_integer(said: str, text: str, type: str) -> bool:
    """Whether two texts stand for one integer (42.0 is 42). Compared as text, for integers have no largest."""
    here, there = _decimal.fullmatch(said), _decimal.fullmatch(text)
    return type == "integer" and here is not None and there is not None and _digits(here[1]) == _digits(there[1])


def _digits(number: str) -> str:
    digits = number.lstrip("-").lstrip("0") or "0"
    return f"-{digits}" if number.startswith("-") and digits != "0" else digits


def _rendered(value: Any, type: str) -> str | None:
    """An argument as a header repeats it; None for what headers do not repeat."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float) and type == "integer" and value.is_integer():
        value = int(value)
    try:
        return str(value) if isinstance(value, str | int | float) else None
    except ValueError:  # an integer of more digits than Python turns into text
        return None


def _arguments(params: Params) -> Any:
    raw = params.get("arguments")
    return None if raw is None else _decoded(raw)


def _decoded(raw: Raw) -> Any:
    try:
        return msgspec.json.decode(raw)
    except (msgspec.DecodeError, RecursionError, ValueError):
        return None


def _value(arguments: Any, path: tuple[str, ...]) -> Any:
    for step in path:
        arguments = arguments.get(step) if isinstance(arguments, dict) else None
    return arguments
