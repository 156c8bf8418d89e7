"""Envelopes: what passes through is not altered, and no bytes at all lead to another error than ours."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from msgspec import Raw

from mcpgateway.errors import ClientError, InvalidParams, InvalidRequest, ParseError
from mcpgateway.protocol import jsonrpc
from mcpgateway.protocol.jsonrpc import decode, decode_batch, object_of, string_of, too_deep

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)
SCALARS = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False, allow_infinity=False), TEXT)
JSON = st.recursive(SCALARS, lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(TEXT, inner, max_size=4)))
OBJECTS = st.dictionaries(TEXT, JSON, max_size=4)
IDS = st.one_of(st.integers(-(2**63), 2**63 - 1), TEXT)


def raw_of(value: Any, spaced: bool) -> bytes:
    """JSON text in one of the many forms that mean the same."""
    return json.dumps(value, ensure_ascii=spaced, indent=1 if spaced else None).encode()


ODD = [
    b'{"big":123456789012345678901234567890,"e":1e400,"zero":-0.0,"one":1.0}',
    b'{"same":1,"same":2}',
    b'{"escaped":"\\u00e4\\/\\ud83d\\ude00","plain":"\xc3\xa4/\xf0\x9f\x98\x80"}',
    b'{ "spaces" :\t[ 1 ,\n2 ] }',
    b"{}",
]
"""Results that a decoder and encoder in between would change."""


@given(IDS, JSON, st.booleans())
def test_c4_a_result_comes_out_as_the_bytes_it_went_in(id: jsonrpc.Id, value: Any, spaced: bool) -> None:
    text = raw_of(value, spaced)
    message = decode(jsonrpc.result(id, text))
    assert message.id == id
    assert message.is_response and not message.is_request and not message.is_notification
    assert isinstance(message.result, Raw)
    assert bytes(message.result) == text


@pytest.mark.parametrize("text", ODD)
def test_c4_what_other_decoders_change_stays_as_it_is(text: bytes) -> None:
    message = decode(b'{"jsonrpc":"2.0","id":1,"result":' + text + b"}")
    assert isinstance(message.result, Raw)
    assert bytes(message.result) == text
    assert jsonrpc.result(7, message.result) == b'{"jsonrpc":"2.0","id":7,"result":' + text + b"}"


@given(IDS, st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20), OBJECTS)
def test_a_request_comes_out_as_it_went_in(id: jsonrpc.Id, method: str, params: dict[str, Any]) -> None:
    texts = {name: raw_of(value, False) for name, value in params.items()}
    body = jsonrpc.request(id, method, {name: Raw(text) for name, text in texts.items()})
    message = decode(body)
    assert (message.id, message.method) == (id, method)
    assert message.is_request
    assert isinstance(message.params, dict)
    assert {name: bytes(value) for name, value in message.params.items()} == texts
    assert json.loads(body) == {"jsonrpc": "2.0", "id": id, "method": method, "params": params}


@given(IDS, TEXT, OBJECTS)
def test_raw_params_come_out_as_the_bytes_they_went_in(id: jsonrpc.Id, method: str, params: dict[str, Any]) -> None:
    text = raw_of(params, True)
    assert text in jsonrpc.request_raw(id, method, text)
    assert decode(jsonrpc.request_raw(id, method, text)).is_request
    assert decode(jsonrpc.notification(method, text)).is_notification
    assert decode(jsonrpc.request_raw(id, method, None)).params is not None


@given(st.one_of(st.none(), IDS), OBJECTS)
def test_an_error_comes_out_as_the_bytes_it_went_in(id: jsonrpc.Id | None, error: dict[str, Any]) -> None:
    text = raw_of(error, False)
    message = decode(jsonrpc.error(id, text))
    assert message.id == (jsonrpc.NO_ID if id is None else id)
    assert isinstance(message.error, Raw)
    assert bytes(message.error) == text


WORDS = (
    rb"""{"jsonrpc":"2.0" ,"id": 1 "a" null ,"method": ,"params": { } [ ] " \ \ud800 1e400 , : true ,"result": 1.5""".split()
)
FRAGMENTS = st.lists(st.sampled_from([*WORDS, b"\xff", b"\xc3\xa4", b"\xef\xbb\xbf", b"\0", b"9" * 30, b" "]), max_size=20).map(
    b"".join
)


@given(st.one_of(st.binary(max_size=100), FRAGMENTS, JSON.map(lambda value: raw_of(value, False))))
@example(b'{"id":' + b"9" * 5000 + b"}")
@example(b"[" * 100_000)
@example(b'{"params":{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}}")
@example(b'{"result":' + b'{"a":' * 50_000)
@example(b'{"method":"\\ud800"}')
def test_no_bytes_lead_to_another_error_than_ours(body: bytes) -> None:
    for use in (decode, decode_batch, object_of):
        try:
            use(body)
        except ClientError as error:
            assert type(error) in (ParseError, InvalidRequest, InvalidParams)
            assert str(error)
            assert len(str(error)) < 1000
    too_deep(body, 10)


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        (b"", ParseError),
        (b"{", ParseError),
        (b"\xff", ParseError),
        (b'{"jsonrpc":"2.0","id":1,"method":"a","params":{"x":"\xff"}}', ParseError),
        (b'\xef\xbb\xbf{"jsonrpc":"2.0"}', ParseError),
        (b"[]", InvalidRequest),
        (b"null", InvalidRequest),
        (b'"text"', InvalidRequest),
        (b'{"id":1.5,"method":"a"}', InvalidRequest),
        (b'{"id":true,"method":"a"}', InvalidRequest),
        (b'{"id":{},"method":"a"}', InvalidRequest),
        (b'{"id":1,"method":7}', InvalidRequest),
        (b'{"id":1,"method":"a","params":[1]}', InvalidParams),
        (b'{"id":1,"method":"a","params":null}', InvalidParams),
    ],
)
def test_each_fault_has_its_own_error(body: bytes, kind: type[ClientError]) -> None:
    with pytest.raises(kind) as caught:
        decode(body)
    assert type(caught.value) is kind


def test_a_null_id_and_a_missing_one_are_told_apart() -> None:
    assert decode(b'{"id":null,"method":"a"}').is_request
    assert decode(b'{"method":"a"}').is_notification


def depth_of(value: Any) -> int:
    if isinstance(value, list):
        return 1 + max(map(depth_of, value), default=0)
    if isinstance(value, dict):
        return 1 + max(map(depth_of, value.values()), default=0)
    return 0


BRACKETS = st.text("[]{}\"\\'a", max_size=10)
NESTED = st.recursive(
    BRACKETS, lambda inner: st.one_of(st.lists(inner, max_size=2), st.dictionaries(BRACKETS, inner, max_size=2))
)


@given(NESTED, st.integers(0, 6), st.booleans())
def test_depth_is_counted_outside_strings_alone(value: Any, limit: int, spaced: bool) -> None:
    assert too_deep(raw_of(value, spaced), limit) == (depth_of(value) > limit)


def test_a_string_without_end_is_one_string_however_many_quotes_are_in_it() -> None:
    """Were it not, each escaped quote would begin a search to the end of the body: hours for one body of the largest size."""
    assert not too_deep(b'"' + b"[" * 100, 10)
    assert not too_deep(b'"' + b'\\"' * 2_000_000 + b"[" * 100, 10)
    assert too_deep(b"[" * 11 + b'"', 10)


def test_batches_are_split_and_not_decoded() -> None:
    assert decode_batch(b'[{"id":1}, {"big":123456789012345678901234567890}]') == [
        b'{"id":1}',
        b'{"big":123456789012345678901234567890}',
    ]
    with pytest.raises(ParseError):
        decode_batch(b"{}")


def test_a_string_that_is_missing_or_none_is_named() -> None:
    assert string_of({"name": Raw(b'"\\u00e4"')}, "name") == "\u00e4"
    for params in ({}, {"name": Raw(b"1")}, {"name": Raw(b'"\\ud800"')}, {"name": Raw(b"null")}):
        with pytest.raises(InvalidParams, match=r"params\.name"):
            string_of(params, "name")
