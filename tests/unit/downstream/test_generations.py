"""What each generation is told of the other's results and errors."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcpgateway.downstream import generations
from mcpgateway.errors import BadAnswer, RpcError
from mcpgateway.protocol.modern import CACHEABLE, SERVER_INFO_META
from tests.schemas import validity

INFO = b'{"name":"crm","version":"3"}'
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=10),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=8,
)
OTHER_FIELDS = st.dictionaries(
    st.text(max_size=8).filter(lambda name: name not in ("resultType", "ttlMs", "cacheScope", "_meta")), JSON, max_size=4
)


def text_result(**more: Any) -> bytes:
    return json.dumps({"content": [{"type": "text", "text": "hi"}], **more}).encode()


def test_a_legacy_result_is_complete_and_says_who_answered() -> None:
    told = json.loads(generations.to_modern("tools/call", text_result(), INFO))
    assert told["resultType"] == "complete" and told["_meta"] == {SERVER_INFO_META: json.loads(INFO)}
    assert "ttlMs" not in told and told["content"] == [{"type": "text", "text": "hi"}]
    assert validity.fault({"jsonrpc": "2.0", "id": 1, "result": told}, "2026-07-28", "client", "tools/call") is None


@pytest.mark.parametrize("method", sorted(CACHEABLE))
def test_i12_what_a_legacy_server_says_is_kept_by_nobody(method: str) -> None:
    told = json.loads(generations.to_modern(method, b'{"tools":[]}', INFO))
    assert told["ttlMs"] == 0 and told["cacheScope"] == "private"


@pytest.mark.parametrize("empty", [b"{}", b"{ }", b"{\n\t}"])
def test_an_empty_result_stays_well_formed(empty: bytes) -> None:
    assert json.loads(generations.to_modern("ping", empty, b"")) == {"resultType": "complete"}


def test_the_bytes_of_a_legacy_result_are_not_written_anew() -> None:
    odd = b'{ "x" : 1.0, "n":123456789012345678901234567890,"s":"\\u2028" }'
    assert odd[1:] in generations.to_modern("tools/call", odd, INFO)


def test_what_a_legacy_result_says_in_meta_stays_beside_who_answered() -> None:
    told = json.loads(generations.to_modern("tools/call", text_result(_meta={"com.example/x": 1}), INFO))
    assert told["_meta"] == {SERVER_INFO_META: json.loads(INFO), "com.example/x": 1}


def test_a_legacy_server_cannot_pass_its_result_off_as_a_question() -> None:
    told = json.loads(generations.to_modern("tools/call", text_result(resultType="input_required"), INFO))
    assert told["resultType"] == "complete"


@given(OTHER_FIELDS)
def test_there_and_back_again_nothing_is_lost(fields: dict[str, Any]) -> None:
    result = json.dumps(fields).encode()
    for method in ("tools/call", "tools/list"):
        assert json.loads(generations.to_legacy(generations.to_modern(method, result, INFO))) == json.loads(result)


def test_a_modern_result_passes_byte_for_byte() -> None:
    result = b'{"resultType" : "complete","content":[ ],"x":1.0}'
    assert generations.checked("tools/call", result) == result
    kept = b'{"resultType":"complete","tools":[],"ttlMs":60000,"cacheScope" : "private"}'
    assert generations.checked("tools/list", kept) == kept


def test_a_modern_result_that_does_not_say_its_kind_is_complete() -> None:
    assert json.loads(generations.checked("tools/call", b'{"content":[]}')) == {"resultType": "complete", "content": []}


@pytest.mark.parametrize("scope", ["public", "everybody"])
def test_i12_what_a_server_calls_public_is_private_all_the_same(scope: str) -> None:
    result = json.dumps({"resultType": "complete", "tools": [], "ttlMs": 5, "cacheScope": scope}).encode()
    assert json.loads(generations.checked("tools/list", result))["cacheScope"] == "private"
    assert json.loads(generations.checked("tools/list", result))["ttlMs"] == 5


def test_a_legacy_client_reads_nothing_of_the_modern_form() -> None:
    info = {SERVER_INFO_META: json.loads(INFO)}
    result = json.dumps({"resultType": "complete", "ttlMs": 1, "cacheScope": "public", "tools": [], "_meta": info}).encode()
    assert json.loads(generations.to_legacy(result)) == {"tools": []}
    with_more = json.dumps({"tools": [], "_meta": {**info, "com.example/x": 1}}).encode()
    assert json.loads(generations.to_legacy(with_more)) == {"tools": [], "_meta": {"com.example/x": 1}}


def test_what_has_no_modern_form_passes_to_a_legacy_client_byte_for_byte() -> None:
    result = b'{ "content" : [ ], "_meta":{"a":1} }'
    assert generations.to_legacy(result) == result


@pytest.mark.parametrize(
    ("code", "told"), [(-32002, -32602), (-32042, -32603), (-32022, -32603), (-32602, -32602), (-32021, -32021), (7, 7)]
)
def test_a_servers_error_in_modern_codes(code: int, told: int) -> None:
    error = generations.error_to_modern(RpcError.of(code, "no", {"uri": "x"}))
    assert json.loads(error.error) == {"code": told, "message": "no", "data": {"uri": "x"}}


@pytest.mark.parametrize(
    ("method", "code", "told"),
    [
        ("resources/read", -32602, -32002),
        ("tools/call", -32602, -32602),
        ("tools/call", -32020, -32603),
        ("tools/call", -32021, -32603),
        ("tools/call", -32022, -32603),
        ("tools/call", -1, -1),
    ],
)
def test_a_servers_error_in_legacy_codes(method: str, code: int, told: int) -> None:
    assert json.loads(generations.error_to_legacy(method, RpcError.of(code, "no")).error) == {"code": told, "message": "no"}


def test_an_error_that_needs_no_other_code_passes_byte_for_byte() -> None:
    error = RpcError(b'{ "code":-32000, "message" : "x","more":1.0}')
    assert generations.error_to_modern(error) is error and generations.error_to_legacy("tools/call", error) is error


@pytest.mark.parametrize("info", [INFO, b"{}"])
def test_malformed_meta_of_a_result_is_the_servers_fault(info: bytes) -> None:
    with pytest.raises(BadAnswer, match="crm" if info is INFO else "unknown"):
        generations.to_modern("tools/call", text_result(_meta=5), info)
    with pytest.raises(BadAnswer):
        generations.to_legacy(text_result(_meta=[SERVER_INFO_META]))
