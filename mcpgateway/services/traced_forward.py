"""The path of a call, with a span for the call, for its wait for a session, and for each request upstream."""

from __future__ import annotations

from collections.abc import Awaitable
from typing import Any

from mcpgateway.pool.session import Lease
from mcpgateway.protocol.call import Call, Channel
from mcpgateway.protocol.trace import Trace
from mcpgateway.services.binding import Binding
from mcpgateway.services.conversation import Conversation
from mcpgateway.services.forward import Forward
from mcpgateway.services.upstream import Upstream
from mcpgateway.tracing import SpanKind, Spans
from mcpgateway.upstream.base import UpstreamSession


class TracedForward(Forward):
    """A `Forward` whose clients' calls are told to a collector. What is pooled, and under which keys, is the same."""

    def __init__(self, *args: Any, spans: Spans, **settings: Any) -> None:
        super().__init__(*args, **settings)
        self._spans = spans

    async def send(self, upstream: Upstream, conversation: Conversation, call: Call, channel: Channel) -> bytes:
        if conversation.principal is None:
            return await super().send(upstream, conversation, call, channel)
        parent = call.trace.traceparent if call.trace is not None else ""
        with self._spans.span(call.method, SpanKind.SERVER, parent, _attributes(upstream.name, call)) as own:
            call.trace = _moved(call.trace, own)
            return await super().send(upstream, conversation, call, channel)

    async def _lease(self, upstream: Upstream, conversation: Conversation, binding: Binding, call: Call) -> Lease:
        if call.trace is None:
            return await super()._lease(upstream, conversation, binding, call)
        with self._spans.span("wait for a session", SpanKind.INTERNAL, call.trace.traceparent, {"mcp.server": upstream.name}):
            return await super()._lease(upstream, conversation, binding, call)

    def _request(self, session: UpstreamSession, call: Call, channel: Channel) -> Awaitable[bytes]:
        return (
            super()._request(session, call, channel) if call.trace is None else self._traced(session, call, channel, call.trace)
        )

    async def _traced(self, session: UpstreamSession, call: Call, channel: Channel, trace: Trace) -> bytes:
        with self._spans.span(call.method, SpanKind.CLIENT, trace.traceparent, _attributes(session.upstream, call)) as own:
            sent = _moved(trace, own)
            call.headers = call.headers.removesuffix(trace.lines()) + sent.lines()
            call.params = sent.put_into(call.params)
            return await session.request(call, channel)


def _moved(trace: Trace | None, traceparent: str) -> Trace:
    """The same trace at a place of ours."""
    return Trace(traceparent) if trace is None else trace._replace(traceparent=traceparent)


def _attributes(upstream: str, call: Call) -> dict[str, str]:
    """Nothing of what was asked: arguments, names and URIs may hold what is nobody's business."""
    return {"mcp.server": upstream, "mcp.method.name": call.method, "mcp.request.id": call.request_id}
