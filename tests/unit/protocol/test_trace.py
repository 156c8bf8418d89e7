"""Which place in a trace a request names, and how it is passed on."""

from __future__ import annotations

import json

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcpgateway.protocol import jsonrpc
from mcpgateway.protocol.trace import Trace, trace_of

PLACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
OTHER = "00-11111111111111111111111111111111-2222222222222222-00"


def params_of(value: object) -> jsonrpc.Params:
    return msgspec.json.decode(json.dumps(value).encode(), type=dict[str, msgspec.Raw])


def test_an_ordinary_request_names_no_place() -> None:
    assert trace_of({}, jsonrpc.NO_PARAMS) is None
    assert trace_of({b"tracestate": b"a=1"}, params_of({"_meta": {"progressToken": 1}})) is None


def test_a_place_in_the_headers_is_continued_with_what_stands_beside_it() -> None:
    headers = {b"traceparent": PLACE.encode(), b"tracestate": b"vendor=1", b"baggage": b"team=a"}
    trace = trace_of(headers, jsonrpc.NO_PARAMS)
    assert trace == Trace(PLACE, "vendor=1", "team=a")
    assert trace.lines() == b"traceparent: %b\r\ntracestate: vendor=1\r\nbaggage: team=a\r\n" % PLACE.encode()


def test_a_place_in_meta_goes_before_one_in_the_headers() -> None:
    meta = params_of({"_meta": {"traceparent": PLACE, "tracestate": "v=1"}})
    assert trace_of({b"traceparent": OTHER.encode(), b"baggage": b"x=1"}, meta) == Trace(PLACE, "v=1")


@pytest.mark.parametrize(
    "value",
    ["", "00", PLACE.upper(), PLACE + "-00", PLACE.replace("b7ad6b7169203331", "0" * 16), "ff" + PLACE[2:], PLACE + "\r\nx: y"],
)
def test_what_is_no_place_is_not_continued(value: str) -> None:
    assert trace_of({b"traceparent": value.encode()}, jsonrpc.NO_PARAMS) is None
    assert trace_of({}, params_of({"_meta": {"traceparent": value}})) is None


@given(st.text(), st.text())
def test_no_value_of_meta_can_end_a_header_line(state: str, baggage: str) -> None:
    trace = trace_of({}, params_of({"_meta": {"traceparent": PLACE, "tracestate": state, "baggage": baggage}}))
    assert trace is not None
    assert trace.lines().count(b"\r\n") == len(trace.fields()) == trace.lines().count(b"\n")


@pytest.mark.parametrize("meta", [1, None, {"traceparent": 1}, {"traceparent": PLACE, "baggage": 7}, ["traceparent"]])
def test_meta_of_any_shape_is_borne(meta: object) -> None:
    assert trace_of({}, params_of({"_meta": meta})) in (None, Trace(PLACE))


def test_a_place_is_put_beside_what_meta_holds() -> None:
    params = Trace(PLACE, "v=1").put_into(params_of({"name": "t", "_meta": {"progressToken": 1, "traceparent": OTHER}}))
    assert json.loads(msgspec.json.encode(params)) == {
        "name": "t",
        "_meta": {"progressToken": 1, "traceparent": PLACE, "tracestate": "v=1"},
    }


@pytest.mark.parametrize("meta", [5, None, "x", ["traceparent"]])
def test_meta_that_is_no_object_is_left_alone(meta: object) -> None:
    params = params_of({"name": "t", "_meta": meta})
    assert Trace(PLACE).put_into(params) == params
