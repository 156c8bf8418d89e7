"""The headers that repeat a request's body: written from it, read back, and checked against it. The SDK is the oracle."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mcp.shared.inbound import (
    decode_header_value,
    encode_header_value,
    find_invalid_x_mcp_header,
    mcp_param_headers,
    validate_mcp_param_headers,
    x_mcp_header_map,
)
from msgspec import Raw

from mcpgateway.protocol import headers, jsonrpc
from mcpgateway.protocol.jsonrpc import Params

TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=20) | st.sampled_from(
    ["", " ", " a", "a ", "a b", "\t", "a\r\nX: 1", "=?base64?YQ==?=", "=?base64??=", "=?BASE64?YQ==?=", "grüß", "~", "\x7f"]
)
ARGUMENTS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXTS
NESTED = {
    "type": "object",
    "properties": {
        "region": {"type": "string", "x-mcp-header": "Region"},
        "count": {"type": "integer", "x-mcp-header": "Count"},
        "deep": {"type": "object", "properties": {"dry": {"type": "boolean", "x-mcp-header": "Dry-Run"}}},
        "free": {"type": "string"},
    },
}


def params(**fields: Any) -> Params:
    return {name: jsonrpc.raw(value) for name, value in fields.items()}


def call(arguments: dict[str, Any]) -> Params:
    return params(name="locate", arguments=arguments)


def raw(schema: object) -> bytes:
    return json.dumps(schema).encode()


def parsed(block: bytes) -> dict[bytes, bytes]:
    lines = [line.partition(b": ") for line in block.removesuffix(b"\r\n").split(b"\r\n")]
    return {name.lower(): value for name, _, value in lines}


@given(TEXTS)
def test_a_value_is_written_as_the_oracle_writes_it_and_comes_back(value: str) -> None:
    written = headers.encode(value)
    assert written.decode("ascii") == encode_header_value(value)
    assert headers.decode(written) == value
    assert b"\r" not in written and b"\n" not in written


@given(
    st.text(st.characters(max_codepoint=255), max_size=20)
    | st.sampled_from(["=?base64?YR==?=", "=?base64?_w==?=", "=?base64?/w==?="])
)
def test_a_value_is_read_as_the_oracle_reads_it(value: str) -> None:
    # The oracle takes a marker with a line break inside for plain text; no header holds one.
    if "\n" not in value and "\r" not in value:
        assert headers.decode(value.encode("latin-1")) == decode_header_value(value)


@given(
    st.fixed_dictionaries(
        {}, optional={"region": ARGUMENTS, "count": ARGUMENTS, "deep": st.none() | st.fixed_dictionaries({"dry": ARGUMENTS})}
    )
)
def test_what_is_written_satisfies_the_oracle_and_ourselves(arguments: dict[str, Any]) -> None:
    schema = headers.schema_of(raw(NESTED))
    written = parsed(headers.lines("tools/call", call(arguments), schema.mirrors))
    as_text = {name.decode(): value.decode() for name, value in written.items()}
    assert validate_mcp_param_headers(NESTED, arguments, as_text) is None
    assert headers.check(written, "tools/call", call(arguments), raw(NESTED)) is None


@given(
    st.fixed_dictionaries({}, optional={"region": ARGUMENTS, "count": ARGUMENTS}),
    st.dictionaries(st.sampled_from(["Region", "Count"]), TEXTS | st.from_regex(r"-?[0-9]{1,3}(\.[0-9])?", fullmatch=True)),
)
def test_a_mismatch_is_found_where_the_oracle_finds_one(arguments: dict[str, Any], said: dict[str, str]) -> None:
    as_text = {f"Mcp-Param-{name}": encode_header_value(value) for name, value in said.items()}
    lines = {name.lower().encode(): value.encode() for name, value in as_text.items()}
    lines |= {b"mcp-method": b"tools/call", b"mcp-name": b"locate"}
    found = headers.check(lines, "tools/call", call(arguments), raw(NESTED))
    assert (found is None) == (validate_mcp_param_headers(NESTED, arguments, as_text) is None)


@given(
    st.fixed_dictionaries(
        {}, optional={"region": TEXTS, "count": st.integers(), "deep": st.fixed_dictionaries({"dry": st.booleans()})}
    )
)
def test_arguments_of_their_declared_types_are_written_as_the_oracle_writes_them(arguments: dict[str, Any]) -> None:
    written = parsed(headers.lines("tools/call", call(arguments), headers.schema_of(raw(NESTED)).mirrors))
    expected = mcp_param_headers(x_mcp_header_map(NESTED), arguments)
    ours = {name: value for name, value in written.items() if name.startswith(b"mcp-param-")}
    assert ours == {name.lower().encode(): value.encode() for name, value in expected.items()}


MARKED = {"type": "string", "x-mcp-header": "Region"}
SCHEMAS: dict[str, object] = {
    "none": {"type": "object"},
    "valid": NESTED,
    "at the root": {"x-mcp-header": "A", "type": "string"},
    "no token": {"properties": {"a": {"type": "string", "x-mcp-header": "a b"}}},
    "empty": {"properties": {"a": {"type": "string", "x-mcp-header": ""}}},
    "no text": {"properties": {"a": {"type": "string", "x-mcp-header": 1}}},
    "number": {"properties": {"a": {"type": "number", "x-mcp-header": "A"}}},
    "types": {"properties": {"a": {"type": ["string", "null"], "x-mcp-header": "A"}}},
    "no type": {"properties": {"a": {"x-mcp-header": "A"}}},
    "twice": {"properties": {"a": MARKED, "b": {"type": "string", "x-mcp-header": "REGION"}}},
    "in items": {"properties": {"a": {"type": "array", "items": MARKED}}},
    "in properties of items": {"properties": {"a": {"items": {"properties": {"b": MARKED}}}}},
    "in anyOf": {"anyOf": [{"properties": {"a": MARKED}}]},
    "in a definition": {"$defs": {"a": MARKED}},
    "in additionalProperties": {"additionalProperties": MARKED},
    "in patternProperties": {"patternProperties": {"^a": MARKED}},
    "in an example": {"properties": {"a": {"type": "string", "examples": [MARKED], "default": MARKED}}},
    "in a property of that name": {"properties": {"x-mcp-header": {"type": "string"}}},
    "a list": [MARKED],
    "true": True,
    "behind a reference": {"properties": {"a": {"$ref": "#/$defs/x-mcp-header"}}},
}


@pytest.mark.parametrize("kind", SCHEMAS)
def test_a_schema_is_valid_where_the_oracle_says_so(kind: str) -> None:
    schema = SCHEMAS[kind]
    found = headers.schema_of(raw(schema))
    if isinstance(schema, list):
        return  # no schema at all: nothing is asked of it
    assert (found.fault is None) == (find_invalid_x_mcp_header(schema) is None)
    if found.fault is None:
        assert {mirror.path: mirror.name for mirror in found.mirrors} == x_mcp_header_map(schema)


def test_a_schema_that_nobody_can_read_declares_nothing() -> None:
    assert headers.schema_of(None) == headers.schema_of(b'{"x-mcp-header') == headers.Schema()
    assert headers.schema_of(b'{"x-mcp-header":' * 5000 + b"1" + b"}" * 5000) == headers.Schema()


@pytest.mark.parametrize(
    ("method", "fields", "name"),
    [
        ("tools/call", {"name": "echo"}, b"echo"),
        ("prompts/get", {"name": "grüß"}, b"=?base64?Z3LDvMOf?="),
        ("resources/read", {"uri": "demo://a b"}, b"demo://a b"),
        ("tasks/get", {"taskId": "t-1"}, b"t-1"),
        ("tasks/cancel", {"taskId": "t-1"}, b"t-1"),
        ("tools/list", {"name": "echo"}, None),
        ("tools/call", {"name": 5}, None),
        ("tools/call", {}, None),
    ],
)
def test_the_method_and_the_name_are_repeated(method: str, fields: dict[str, Any], name: bytes | None) -> None:
    written = parsed(headers.lines(method, params(**fields)))
    assert written.pop(b"mcp-method") == method.encode()
    assert written == ({} if name is None else {b"mcp-name": name})


FINE = {b"mcp-method": b"tools/call", b"mcp-name": b"locate", b"mcp-param-region": b"eu"}
WRONG: dict[str, tuple[dict[bytes, bytes | None], str]] = {
    "method": ({b"mcp-method": b"tools/list"}, "Mcp-Method"),
    "no method": ({b"mcp-method": None}, "Mcp-Method"),
    "name": ({b"mcp-name": b"Locate"}, "Mcp-Name"),
    "no name": ({b"mcp-name": None}, "Mcp-Name"),
    "argument": ({b"mcp-param-region": b"us"}, "is not its argument"),
    "no argument": ({b"mcp-param-region": None}, "is missing"),
    "argument that is not there": ({b"mcp-param-count": b"1"}, "not there"),
    "base64": ({b"mcp-param-region": b"=?base64?ZXV?="}, "base64"),
}


@pytest.mark.parametrize("kind", WRONG)
def test_headers_that_do_not_repeat_the_body_are_named(kind: str) -> None:
    changes, words = WRONG[kind]
    changed = {name: value for name, value in (FINE | changes).items() if value is not None}
    arguments = call({"region": "eu"})
    assert headers.check(FINE, "tools/call", arguments, raw(NESTED)) is None
    assert words in str(headers.check(changed, "tools/call", arguments, raw(NESTED)))


@pytest.mark.parametrize(
    ("said", "fits"), [("42", True), ("42.0", True), ("042", True), ("42.5", False), ("4.2e1", False), ("43", False)]
)
def test_integers_are_compared_as_numbers(said: str, fits: bool) -> None:
    lines = {b"mcp-method": b"tools/call", b"mcp-name": b"locate", b"mcp-param-count": said.encode()}
    for arguments in (b'{"count":42}', b'{"count":42.0}'):
        fields = call({}) | {"arguments": jsonrpc.raw(json.loads(arguments))}
        assert (headers.check(lines, "tools/call", fields, raw(NESTED)) is None) == fits


def test_an_integer_without_end_is_nobodys_trouble() -> None:
    fields = {"name": jsonrpc.raw("locate"), "arguments": Raw(b'{"count":%b}' % (b"9" * 5000))}
    written = headers.lines("tools/call", fields, headers.schema_of(raw(NESTED)).mirrors)
    assert headers.check(parsed(written), "tools/call", fields, raw(NESTED)) is None
