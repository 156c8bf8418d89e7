"""OpenTelemetry: spans, and who is sent them. Imported only where an exporter is configured, for its packages are optional."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter
from opentelemetry.trace import (
    NonRecordingSpan,
    Span,
    SpanContext,
    SpanKind,
    Status,
    StatusCode,
    TraceFlags,
    set_span_in_context,
)

from mcpgateway import __version__, logs

__all__ = ["SpanKind", "Spans"]

EXPORT_SECONDS = 5.0


class Spans:
    """Makes spans and sends them in the background. Parents are given, never looked up: calls share one task now and then."""

    def __init__(self, exporter: SpanExporter) -> None:
        resource = Resource.create({"service.name": "mcpgateway", "service.version": __version__})
        self._provider = TracerProvider(resource=resource, shutdown_on_exit=False)
        self._provider.add_span_processor(BatchSpanProcessor(exporter))
        self._tracer = self._provider.get_tracer("mcpgateway", __version__)

    def __repr__(self) -> str:
        return "<Spans>"

    @classmethod
    def to(cls, endpoint: str) -> Spans:
        """Spans that are posted to `endpoint` (OTLP over HTTP)."""
        return cls(OTLPSpanExporter(endpoint=endpoint, timeout=EXPORT_SECONDS))

    @contextmanager
    def span(self, name: str, kind: SpanKind, parent: str, attributes: dict[str, str]) -> Iterator[str]:
        """A span while the block runs; yields its own `traceparent`. `parent` is one too, or '' to begin a trace.

        An exception makes it a failed one, with the error's kind and its text without known secrets.
        """
        span = self._tracer.start_span(name, _context(parent), kind, attributes)
        try:
            yield _traceparent(span)
        except BaseException as error:
            span.set_attribute("error.type", type(error).__name__)
            span.set_status(Status(StatusCode.ERROR, logs.redacted(str(error))))
            raise
        finally:
            span.end()

    def close(self) -> None:
        """Send what has not been sent, within a few seconds."""
        self._provider.shutdown()


def _context(parent: str) -> Context:
    if not parent:
        return Context()
    _, trace_id, span_id, flags = parent.split("-")
    place = SpanContext(int(trace_id, 16), int(span_id, 16), is_remote=True, trace_flags=TraceFlags(int(flags, 16)))
    return set_span_in_context(NonRecordingSpan(place), Context())


def _traceparent(span: Span) -> str:
    place = span.get_span_context()
    return f"00-{place.trace_id:032x}-{place.span_id:016x}-{place.trace_flags:02x}"
