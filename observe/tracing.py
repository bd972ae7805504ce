"""Traces for OpenTelemetry (the extra `otel`): the stages of a followed order as spans of one trace.

A span is made once its times are known, so no code runs within a stage, and what is not followed costs nothing.
"""

import contextlib
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from core.errors import StartError
from core.settings import Settings

NANOSECONDS = 1_000_000_000


class Span(NamedTuple):
    """A stage: its name, and its times in seconds since 1970."""

    name: str
    began_at: float
    ended_at: float
    attributes: Mapping[str, str | int | float] = {}


class Traces:
    """Sends spans to a collector, in batches, by a thread of the SDK."""

    def __init__(self, url: str, service: str) -> None:
        """Raises:
        StartError: the packages of the extra `otel` are missing.
        """
        try:
            from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter  # noqa: PLC0415
            from opentelemetry.sdk.resources import Resource  # noqa: PLC0415
            from opentelemetry.sdk.trace import TracerProvider  # noqa: PLC0415
            from opentelemetry.sdk.trace.export import BatchSpanProcessor  # noqa: PLC0415
            from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator  # noqa: PLC0415
        except ImportError as error:
            raise StartError("TCGX_OTLP_URL needs OpenTelemetry: pip install 'tcgx[otel]'") from error
        self._provider = TracerProvider(resource=Resource.create({"service.name": service}), shutdown_on_exit=False)
        self._provider.add_span_processor(
            BatchSpanProcessor(OTLPSpanExporter(url, timeout=5), schedule_delay_millis=1_000)
        )
        self._tracer = self._provider.get_tracer("tcgx")
        self._propagator = TraceContextTextMapPropagator()

    def send(self, traceparent: str, root: Span, stages: list[Span]) -> None:
        """Sends a trace: a root span, and the stages below it. `traceparent`: that of the request, or empty."""
        from opentelemetry.trace import SpanKind, set_span_in_context  # noqa: PLC0415

        parent = self._propagator.extract({"traceparent": traceparent}) if traceparent else None
        top = self._tracer.start_span(
            root.name,
            parent,
            kind=SpanKind.SERVER,
            attributes=dict(root.attributes),
            start_time=int(root.began_at * NANOSECONDS),
        )
        below = set_span_in_context(top)
        for stage in stages:
            span = self._tracer.start_span(
                stage.name, below, attributes=dict(stage.attributes), start_time=int(stage.began_at * NANOSECONDS)
            )
            span.end(int(stage.ended_at * NANOSECONDS))
        top.end(int(root.ended_at * NANOSECONDS))

    def close(self) -> None:
        """Sends what waits, and ends the thread."""
        self._provider.shutdown()


@contextlib.contextmanager
def connected(settings: Settings, service: str) -> Iterator[Traces | None]:
    """The traces of these settings during the context; None if they name no collector."""
    if not settings.otlp_url:
        yield None
        return
    traces = Traces(settings.otlp_url, service)
    try:
        yield traces
    finally:
        traces.close()
