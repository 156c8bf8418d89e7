"""Spoiled messages and streams: `tests/unit/protocol` says what the decoders do; here is how much they stand."""

from __future__ import annotations

import json

from hypothesis import given
from hypothesis import strategies as st

from mcpgateway.errors import GatewayError, InvalidParams, InvalidRequest, ParseError
from mcpgateway.protocol import jsonrpc, sse
from tests.fuzz.profile import fuzzed
from tests.fuzz.spoiling import CUTS, pieces, spoiled

MESSAGES = [
    json.dumps(message).encode()
    for message in (
        {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": "x", "_meta": {"progressToken": "t"}}},
        {"jsonrpc": "2.0", "id": "a\u00e9", "result": {"content": [{"type": "text", "text": '"\\ud83d\\ude00[{'}]}},
        {"jsonrpc": "2.0", "id": None, "error": {"code": -32600, "message": "m", "data": [1e300, 2**70]}},
        [{"jsonrpc": "2.0", "method": "notifications/progress", "params": {}}] * 3,
    )
]
JSON_TOKENS = [
    *b'" { } [ ] , : \\ \\u0000 \\ud800 null 1e999 -0 NaN \xff \xc3\x28 \xef\xbb\xbf'.split(),
    b"9" * 400,
    b"[" * 2000,
]
STREAMS = [
    b"event: message\r\nid: 1\r\ndata: {}\r\n\r\n: comment\n\ndata: a\ndata: b\n\nretry: 5\rid\r\r",
    b"\xef\xbb\xbfdata:x\n\nevent: endpoint\ndata: /messages?id=1\n\n",
]
STREAM_TOKENS = [
    b"\r",
    b"\n",
    b"\r\n",
    b"\r\r",
    b":",
    b"data",
    b"data:",
    b"id: \0\n",
    b"retry: 99999999999\n",
    b"\xef\xbb\xbf",
    b"\xff",
]


@fuzzed(300)
@given(spoiled(st.sampled_from(MESSAGES), JSON_TOKENS))
def test_a_spoiled_message_is_decoded_or_refused_with_one_of_three_errors(body: bytes) -> None:
    try:
        message = jsonrpc.decode(body)
    except (ParseError, InvalidRequest, InvalidParams) as error:
        assert 0 < len(str(error)) < 1000
    else:
        assert [message.is_request, message.is_notification, message.is_response].count(True) <= 1
        for raw in (message.result, message.error):
            assert not isinstance(raw, bytes) or bytes(raw) in body


@fuzzed(300)
@given(spoiled(st.sampled_from(MESSAGES), JSON_TOKENS))
def test_all_that_looks_into_a_spoiled_message_ends_in_our_errors(body: bytes) -> None:
    try:
        jsonrpc.check_utf8(body)
    except ParseError:
        return  # that is as far as it comes
    for look in (jsonrpc.decode_batch, jsonrpc.object_of, lambda text: jsonrpc.too_deep(text, 10)):
        try:
            look(body)
        except GatewayError as error:
            assert str(error)


@fuzzed(300)
@given(spoiled(st.sampled_from(STREAMS), STREAM_TOKENS), CUTS)
def test_a_spoiled_stream_gives_the_same_events_however_it_is_cut(stream: bytes, cuts: list[int]) -> None:
    whole = [(event.type, event.data, event.id, event.retry_ms) for event in sse.Decoder().feed(stream)]
    decoder = sse.Decoder()
    parts = [event for piece in pieces(stream, cuts) for event in decoder.feed(piece)]
    assert [(event.type, event.data, event.id, event.retry_ms) for event in parts] == whole


@fuzzed(200)
@given(spoiled(st.sampled_from(STREAMS), STREAM_TOKENS), CUTS, st.integers(1, 40))
def test_no_spoiled_stream_is_kept_beyond_the_limit(stream: bytes, cuts: list[int], limit: int) -> None:
    decoder = sse.Decoder(limit)
    try:
        for piece in pieces(stream, cuts):
            assert all(len(event.data) <= len(stream) for event in decoder.feed(piece))
            assert len(decoder._buffer) <= limit
    except sse.EventTooLarge as error:
        assert str(limit) in str(error)
