"""Trace context goes through, and spans come out where a collector is configured."""

from __future__ import annotations

import asyncio
import json
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from mcpgateway.errors import UpstreamError
from tests.clients.wire import Wire
from tests.fakes.gateway import serving
from tests.fakes.stub_server import StubServer
from tests.servers.answering import AnsweringServer
from tests.servers.http11 import Request, reply

PLACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
HEADERS = {"traceparent": PLACE, "tracestate": "vendor=1", "baggage": "team=a"}


async def last_call(stub: StubServer) -> dict[str, Any]:
    """The last tools/call that reached the server."""
    return (await stub.of("tools/call"))[-1]


def fields_of(request: dict[str, Any], name: str) -> str | None:
    value: str | None = request["headers"].get(name)
    return value


async def test_a_trace_in_the_headers_goes_on_in_headers_and_meta(stub: StubServer) -> None:
    async with serving({"mcpServers": {"up": {"url": stub.url}}}) as gateway, Wire(gateway.server("up")) as client:
        await client.initialize()
        await client.call("echo", headers=HEADERS)
        request = await last_call(stub)
        assert {name: fields_of(request, name) for name in HEADERS} == HEADERS
        assert request["message"]["params"]["_meta"] == HEADERS


async def test_a_trace_in_meta_goes_on_and_meta_stays_as_it_is(stub: StubServer) -> None:
    async with serving({"mcpServers": {"up": {"url": stub.url}}}) as gateway, Wire(gateway.server("up")) as client:
        await client.initialize()
        meta = {"traceparent": PLACE, "com.example/x": [1, 1.0]}
        await client.request("tools/call", {"name": "echo", "arguments": {}, "_meta": meta})
        request = await last_call(stub)
        assert fields_of(request, "traceparent") == PLACE and request["message"]["params"]["_meta"] == meta


async def test_p19_traces_do_not_part_what_is_pooled(stub: StubServer) -> None:
    async with serving({"mcpServers": {"up": {"url": stub.url}}}) as gateway, Wire(gateway.server("up")) as client:
        await client.initialize()
        for number in range(3):
            await client.call(
                "counter", headers={"traceparent": PLACE.replace("b7ad", f"b7a{number}"), "baggage": f"n={number}"}
            )
        requests = await stub.of("tools/call")
        assert len({each["session"] for each in requests}) == 1


async def test_spans_of_the_call_the_wait_and_the_request_reach_a_collector(stub: StubServer) -> None:
    async with Collector() as collector:
        document = {"gateway": {"tracing": {"endpoint": collector.url}}, "mcpServers": {"up": {"url": stub.url}}}
        async with serving(document) as gateway, Wire(gateway.server("up")) as client:
            await client.initialize()
            await client.call("echo", headers=HEADERS)
            await client.call("echo", headers=HEADERS)
            request = await last_call(stub)
        first, second = [span for span in collector.spans if span.name == "tools/call" and span.kind == Span.SPAN_KIND_SERVER]
        assert {span.trace_id.hex() for span in collector.spans} == {PLACE.split("-")[1]}
        assert first.parent_span_id.hex() == second.parent_span_id.hex() == PLACE.split("-")[2]
        (wait,) = [span for span in collector.spans if span.name == "wait for a session"]
        assert wait.parent_span_id == first.span_id
        upstream = [span for span in collector.spans if span.kind == Span.SPAN_KIND_CLIENT]
        assert [span.parent_span_id for span in upstream] == [first.span_id, second.span_id]
        own = f"00-{upstream[1].trace_id.hex()}-{upstream[1].span_id.hex()}-01"
        assert fields_of(request, "traceparent") == request["message"]["params"]["_meta"]["traceparent"] == own
        assert fields_of(request, "baggage") == "team=a"


async def test_p19_with_a_collector_the_same_session_serves_every_call(stub: StubServer) -> None:
    async with Collector() as collector:
        document = {"gateway": {"tracing": {"endpoint": collector.url}}, "mcpServers": {"up": {"url": stub.url}}}
        async with serving(document) as gateway, Wire(gateway.server("up")) as client:
            await client.initialize()
            answers = [await client.call("counter", headers=HEADERS) for _ in range(3)]
        counted = [json.loads(answer["result"]["content"][0]["text"]) for answer in answers]
        assert [each["count"] for each in counted] == [1, 2, 3] and len({each["session"] for each in counted}) == 1


async def test_a_failed_call_is_a_failed_span(stub: StubServer) -> None:
    async with Collector() as collector:
        document = {"gateway": {"tracing": {"endpoint": collector.url}}, "mcpServers": {"up": {"url": stub.url}}}
        async with serving(document) as gateway, Wire(gateway.server("up")) as client:
            await client.initialize()
            await client.call("counter", headers=HEADERS)
            await stub.do(status=500, body="broken", times=1)
            assert "error" in await client.call("counter", headers=HEADERS)
        failed = {span.kind for span in collector.spans if span.status.code == 2}
        assert failed == {Span.SPAN_KIND_SERVER, Span.SPAN_KIND_CLIENT}
        kinds = {field.value.string_value for span in collector.spans for field in span.attributes if field.key == "error.type"}
        assert kinds <= {kind.__name__ for kind in _all_of(UpstreamError)}


def _all_of(kind: type) -> set[type]:
    return {kind} | {below for child in kind.__subclasses__() for below in _all_of(child)}


class Collector(AnsweringServer):
    """Takes spans over OTLP/HTTP; it has them all once the gateway has stopped."""

    def __init__(self) -> None:
        super().__init__()
        self.spans: list[Span] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1/traces"

    async def _respond(self, request: Request, writer: asyncio.StreamWriter) -> None:
        message = ExportTraceServiceRequest.FromString(_plain(request.headers, request.body))
        self.spans += [span for each in message.resource_spans for scope in each.scope_spans for span in scope.spans]
        await reply(writer, 200, headers={"content-type": "application/x-protobuf"})


def _plain(headers: dict[str, str], body: bytes) -> bytes:
    assert headers.get("content-encoding", "identity") == "identity"
    return body
