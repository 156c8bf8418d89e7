"""Which generation a request is of, and what is found wrong with a modern one. The SDK's own classifier is the oracle."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mcp.shared.inbound import InboundModernRoute, classify_inbound_request

from mcpgateway.downstream import envelope
from mcpgateway.downstream.envelope import Envelope
from mcpgateway.downstream.problems import rpc_error
from mcpgateway.errors import GatewayError
from mcpgateway.protocol.modern import CAPABILITIES_META, CLIENT_INFO_META, LOG_LEVEL_META, VERSION_META

VERSION = "2026-07-28"
META: dict[str, Any] = {VERSION_META: VERSION, CAPABILITIES_META: {}, CLIENT_INFO_META: {"name": "t", "version": "1"}}
Lines = list[tuple[bytes, bytes]]


def request(method: str = "tools/call", id: object = 1, **params: Any) -> dict[str, Any]:
    return {"jsonrpc": "2.0", "id": id, "method": method, "params": {"name": "echo", "_meta": META} | params}


def lines(**changes: str | None) -> Lines:
    """The headers of such a request; None leaves one out."""
    wanted = {"mcp_protocol_version": VERSION, "mcp_method": "tools/call", "mcp_name": "echo"} | changes
    return [(name.replace("_", "-").encode(), value.encode()) for name, value in wanted.items() if value is not None]


def read(body: object, headers: Lines | None = None) -> Envelope:
    message = envelope.decode(json.dumps(body).encode(), 64)
    return envelope.read(message, lines() if headers is None else headers)


def error_of(body: object, headers: Lines | None = None) -> dict[str, Any]:
    """The error that a request is refused with."""
    with pytest.raises(GatewayError) as refused:
        read(body, headers)
    error: dict[str, Any] = json.loads(rpc_error(refused.value).error)
    return error


def test_a_request_is_taken_apart() -> None:
    own = {"progressToken": 7, "com.example/chat": "a", LOG_LEVEL_META: "warning"}
    taken = read(request(arguments={"x": 1}, _meta=META | own))
    assert (taken.id, taken.method, taken.log_level, taken.state) == (1, "tools/call", "warning", None)
    assert taken.capabilities == b"{}" and json.loads(taken.client_info) == META[CLIENT_INFO_META]
    assert json.loads(bytes(taken.neutral["_meta"])) == {"progressToken": 7, "com.example/chat": "a"}
    assert bytes(taken.neutral["arguments"]) == b'{"x": 1}'


def test_what_only_this_generation_says_does_not_travel() -> None:
    taken = read(request(requestState="s", inputResponses={"k": {}}))
    assert taken.neutral.keys() == {"name"} and taken.state == "s"


def test_a_client_need_not_say_what_program_it_is() -> None:
    meta = {VERSION_META: VERSION, CAPABILITIES_META: {}}
    assert read(request(_meta=meta)).client_info == b"{}"


@pytest.mark.parametrize("missing", [VERSION_META, CAPABILITIES_META])
def test_what_every_request_must_say_is_named_where_it_is_missing(missing: str) -> None:
    error = error_of(request(_meta={key: value for key, value in META.items() if key != missing}))
    assert error["code"] == -32602 and missing in error["message"]


def test_a_request_without_meta_is_refused() -> None:
    body = {"jsonrpc": "2.0", "id": 1, "method": "tools/list"}
    assert error_of(body, lines(mcp_method="tools/list"))["code"] == -32602


def test_a_legacy_initialize_with_a_modern_header_is_told_what_to_do() -> None:
    body = {"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": {"protocolVersion": "2025-11-25"}}
    error = error_of(body, lines(mcp_method=None, mcp_name=None))
    assert error["code"] == -32602 and "initialize without" in error["message"]


@pytest.mark.parametrize("method", ["initialize", "tools/list"])
def test_a_header_of_an_unknown_revision_is_answered_with_those_that_are_spoken(method: str) -> None:
    body = {"jsonrpc": "2.0", "id": 1, "method": method, "params": {}}
    error = error_of(body, lines(mcp_protocol_version="2031-01-01"))
    assert error["code"] == -32022 and error["data"]["requested"] == "2031-01-01"
    assert error["data"]["supported"] == ["2026-07-28", "2025-11-25", "2025-06-18", "2025-03-26", "2024-11-05"]


@pytest.mark.parametrize(
    "changes",
    [
        {"mcp_protocol_version": None},
        {"mcp_protocol_version": "2025-11-25"},
        {"mcp_method": None},
        {"mcp_method": "tools/list"},
        {"mcp_method": "Tools/Call"},
        {"mcp_name": None},
        {"mcp_name": "other"},
        {"mcp_name": "=?base64?broken?="},
    ],
)
def test_headers_that_say_something_else_than_the_body_are_refused(changes: dict[str, str | None]) -> None:
    assert error_of(request(), lines(**changes))["code"] == -32020


@pytest.mark.parametrize("name", [b"mcp-name", b"mcp-method", b"mcp-protocol-version", b"mcp-param-x"])
def test_a_routing_header_that_comes_twice_is_refused(name: bytes) -> None:
    doubled = [*lines(mcp_param_x="1"), (name, dict(lines(mcp_param_x="1"))[name])]
    assert error_of(request(), doubled)["code"] == -32020


def test_blanks_around_a_header_are_no_part_of_it() -> None:
    assert read(request(), lines(mcp_name="  echo \t")).method == "tools/call"


@pytest.mark.parametrize(
    "meta", [{CAPABILITIES_META: []}, {CAPABILITIES_META: None}, {CLIENT_INFO_META: 5}, {LOG_LEVEL_META: "x"}]
)
def test_what_a_request_says_of_itself_must_have_its_form(meta: dict[str, Any]) -> None:
    assert error_of(request(_meta=META | meta))["code"] == -32602


def test_capabilities_that_are_too_large_to_tell_callers_apart_by_are_refused() -> None:
    assert error_of(request(_meta=META | {CAPABILITIES_META: {"x": "y" * 40_000}}))["code"] == -32602


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"{", -32700),
        (b"[]", -32600),
        (b' [{"jsonrpc":"2.0","id":1,"method":"x"}]', -32600),
        (b'{"jsonrpc":"2.0","id":1,"result":{}}', -32600),
        (b'{"jsonrpc":"1.0","id":1,"method":"x"}', -32600),
        (b'{"jsonrpc":"2.0","id":1,"method":"x","params":[]}', -32602),
        (b'{"jsonrpc":"2.0","id":1,"method":"x","params":{"a":' + b"[" * 70 + b"]" * 70 + b"}}", -32600),
    ],
)
def test_a_body_must_be_one_request_or_notification(body: bytes, code: int) -> None:
    with pytest.raises(GatewayError) as refused:
        envelope.decode(body, 64)
    assert json.loads(rpc_error(refused.value).error)["code"] == code


@pytest.mark.parametrize("id", [None, True, 1.5, []])
def test_an_id_is_a_string_or_an_integer(id: object) -> None:
    with pytest.raises(GatewayError, match=r"integer|message"):
        envelope.id_of(envelope.decode(json.dumps(request(id=id)).encode(), 64))


METAS = st.fixed_dictionaries(
    {},
    optional={
        VERSION_META: st.sampled_from([VERSION, "2025-11-25", "2031-01-01"]),
        CAPABILITIES_META: st.just({}),
        CLIENT_INFO_META: st.just({"name": "t", "version": "1"}),
    },
)
HEADERS = st.fixed_dictionaries(
    {},
    optional={
        "mcp-protocol-version": st.sampled_from([VERSION, "2025-11-25", "2031-01-01"]),
        "mcp-method": st.sampled_from(["tools/call", "tools/list"]),
        "mcp-name": st.sampled_from(["echo", "=?base64?ZWNobw==?=", "=?base64?w6k=?=", "x"]),
    },
)


@given(METAS, HEADERS, st.sampled_from(["tools/call", "tools/list"]), st.sampled_from(["echo", "é", None]))
def test_the_verdicts_are_those_of_the_sdks_classifier(
    meta: dict[str, Any], headers: dict[str, str], method: str, name: str | None
) -> None:
    params = {"_meta": meta} | ({"name": name} if name is not None else {})
    body = {"jsonrpc": "2.0", "id": 1, "method": method, "params": params}
    verdict = classify_inbound_request(body, headers=headers)
    given_lines = [(key.encode(), value.encode()) for key, value in headers.items()]
    if isinstance(verdict, InboundModernRoute):
        assert read(body, given_lines).method == method
        return
    error = error_of(body, given_lines)
    if VERSION_META not in meta and headers.get("mcp-protocol-version", VERSION) != VERSION:
        assert error["code"] == -32022  # ours says which revisions are spoken, and not that `_meta` is missing
    else:
        assert error["code"] == verdict.code


def is_modern(body: object, **headers: str) -> bool:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    return envelope.is_modern({name.replace("_", "-").encode(): value.encode() for name, value in headers.items()}, raw)


LEGACY = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": "echo"}}


def test_a_post_is_modern_by_its_header_or_by_its_body() -> None:
    assert is_modern(LEGACY, mcp_protocol_version=VERSION)
    assert is_modern(LEGACY, mcp_protocol_version="2031-01-01")
    assert is_modern(request())
    assert is_modern(request(), mcp_protocol_version="2025-11-25")
    assert is_modern(json.dumps(request()).replace("/", "\\/").encode())
    assert not is_modern(LEGACY)
    assert not is_modern(LEGACY, mcp_protocol_version="2025-03-26")


def test_the_words_of_a_modern_request_anywhere_else_do_not_make_one() -> None:
    text = f'"{VERSION_META}"'
    assert not is_modern({**LEGACY, "params": {"name": "echo", "arguments": {VERSION_META: VERSION}}})
    assert not is_modern({**LEGACY, "params": {"name": "echo", "_meta": {"x": text}}})
    assert not is_modern(b"[" + json.dumps(request()).encode() + b"]")
    assert not is_modern(f"{{{text}".encode())
