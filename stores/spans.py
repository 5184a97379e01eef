"""Spans of requests for OpenTelemetry: which route, how it went, how long each step took; never what was sent.

The provider is our own and never the process's: a library that finds a global one writes paths and texts of
errors into it, and those hold ids and values.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SimpleSpanProcessor, SpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_ON, ParentBased
from opentelemetry.trace import NonRecordingSpan, Span, SpanContext, SpanKind, Status, StatusCode, TraceFlags

from transforms.errors import UsageError

# W3C Trace Context, version 00. What else comes with it (`tracestate`, `baggage`) is free text, and left out.
_TRACEPARENT = re.compile(r"00-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})")
_SERVER_ERROR = 500


class RequestSpan:
    """The span of one request."""

    def __init__(self, tracer: trace.Tracer, parent: Context) -> None:
        """Begin it; its name is not known before the route is."""
        self._tracer = tracer
        self._span: Span = tracer.start_span("request", parent, SpanKind.SERVER)
        # Handed on by hand, not through the context: a stream is closed in another one than it began in.
        self._inside = trace.set_span_in_context(self._span, Context())

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Take the time of a step within the request; of an error only that there was one."""
        span = self._tracer.start_span(name, self._inside)
        try:
            yield
        except BaseException:
            span.set_status(Status(StatusCode.ERROR))
            raise
        finally:
            span.end()

    def end(self, method: str, route: str, status: int, request_id: str, tenant: str | None) -> None:
        """End it with what may be known of it: the route's template, never the path."""
        self._span.update_name(f"{method} {route}")
        self._span.set_attribute("http.request.method", method)
        self._span.set_attribute("http.route", route)
        self._span.set_attribute("http.response.status_code", status)
        self._span.set_attribute("lockhouse.request.id", request_id)
        if tenant is not None:
            self._span.set_attribute("lockhouse.tenant", tenant)
        if status >= _SERVER_ERROR or status == 0:
            self._span.set_status(Status(StatusCode.ERROR))
        self._span.end()


class Spans:
    """Makes the spans of requests, and hands them to an exporter."""

    def __init__(self, exporter: SpanExporter, is_batched: bool = True) -> None:
        """Take the exporter; in batches, a thread of its own sends, and no request waits for it."""
        # Without the environment's attributes, which name hosts and people's folders.
        self._provider = TracerProvider(
            ParentBased(ALWAYS_ON), Resource({"service.name": "lockhouse"}), shutdown_on_exit=False
        )
        processor = BatchSpanProcessor(exporter) if is_batched else SimpleSpanProcessor(exporter)
        self._provider.add_span_processor(processor)
        self._tracer = self._provider.get_tracer("lockhouse")

    def begin(self, traceparent: str | None) -> RequestSpan:
        """Begin the span of a request, within the trace that its caller named, else in one of its own."""
        return RequestSpan(self._tracer, _parent_of(traceparent))

    def close(self) -> None:
        """Send what is left."""
        self._provider.shutdown()


def open_spans(address: str) -> Spans:
    """Make spans that go to a collector, over OTLP/HTTP.

    Raises: UsageError where that is no address of one.
    """
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

    parts = urlsplit(address)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise UsageError(
            "service_spans_url is the address of a collector, such as http://127.0.0.1:4318/v1/traces"
        )
    return Spans(OTLPSpanExporter(address))


def _parent_of(traceparent: str | None) -> Context:
    found = _TRACEPARENT.fullmatch(traceparent or "")
    if found is None:
        return Context()
    trace_id, span_id, flags = (int(one, 16) for one in found.groups())
    context = SpanContext(trace_id, span_id, is_remote=True, trace_flags=TraceFlags(flags & TraceFlags.SAMPLED))
    return trace.set_span_in_context(NonRecordingSpan(context), Context())
