"""Traces for OpenTelemetry: ids, counts and times, never content.

On if the extra tinsmith[telemetry] is installed and the environment names an OTLP endpoint; else
nothing of OpenTelemetry is imported. Front and engine share a request's trace with nothing on the
wire, because its id is a hash of the request's.
"""

from __future__ import annotations

import hashlib
import os
import threading
import time
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from tinsmith.telemetry import event

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SpanExporter

ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
FLUSH_MS = 2_000
"""A collector that does not answer holds up no stop for longer."""
ROOT = "request"
"""The span that the others of a request stand below."""


class Traces:
    """The spans of this process."""

    def __init__(self, role: str, exporter: SpanExporter) -> None:
        """`role` tells front and engine apart."""
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
        from opentelemetry.sdk.trace.id_generator import RandomIdGenerator

        self._telling = threading.Lock()
        self._ids: tuple[int, int] | None = None
        owner = self

        class Ids(RandomIdGenerator):
            """The ids of a root are set; the others are drawn."""

            def generate_trace_id(self) -> int:
                return owner._ids[0] if owner._ids else super().generate_trace_id()

            def generate_span_id(self) -> int:
                return owner._ids[1] if owner._ids else super().generate_span_id()

        name = os.environ.get("OTEL_SERVICE_NAME", "tinsmith")
        resource = Resource.create({"service.name": name, "tinsmith.role": role})
        self._provider: TracerProvider = TracerProvider(id_generator=Ids(), resource=resource)
        self._provider.add_span_processor(BatchSpanProcessor(exporter))
        self._tracer = self._provider.get_tracer("tinsmith")

    def tell(self, request_id: str, name: str, begun_ns: int, **attributes: Any) -> None:
        """A span of a request, from `begun_ns` (see `now`) until this moment. May be called
        from any thread."""
        from opentelemetry import trace

        digest = hashlib.sha256(request_id.encode()).digest()
        ids = int.from_bytes(digest[:16], "big"), int.from_bytes(digest[16:24], "big")
        flags = trace.TraceFlags(trace.TraceFlags.SAMPLED)
        above = trace.NonRecordingSpan(
            trace.SpanContext(*ids, is_remote=True, trace_flags=flags)
            if name != ROOT
            else trace.INVALID_SPAN_CONTEXT
        )
        with self._telling:
            self._ids = ids if name == ROOT else None
            span = self._tracer.start_span(
                name,
                trace.set_span_in_context(above),
                start_time=begun_ns,
                attributes={"tinsmith.request_id": request_id, **attributes},
            )
            self._ids = None
        span.end(now())

    def close(self) -> None:
        """Send what is left."""
        self._provider.force_flush(FLUSH_MS)
        self._provider.shutdown()


def now() -> int:
    """Nanoseconds since 1970."""
    return time.time_ns()


def start(role: str) -> Traces | None:
    """The traces of this process; None where nobody has asked for any."""
    environment = os.environ
    if (
        not any(environment.get(name) for name in ENDPOINTS)
        or environment.get("OTEL_SDK_DISABLED", "").lower() == "true"
        or environment.get("OTEL_TRACES_EXPORTER", "otlp") != "otlp"
    ):
        return None
    if find_spec("opentelemetry.exporter.otlp.proto.http") is None:
        event("no_traces", why="an OTLP endpoint is set, but tinsmith[telemetry] is not installed")
        return None
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

    return Traces(role, OTLPSpanExporter())
