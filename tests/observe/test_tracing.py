"""Traces: a followed order is one trace, and a `traceparent` is continued."""

import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from core.errors import StartError
from observe import tracing
from testing.observed import ObservedExchange
from testing.waiting import until

TRACE_ID = "0af7651916cd43dd8448eb211c80319c"
PARENT = "b7ad6b7169203331"


class Collector:
    """A collector of OTLP over HTTP that keeps all spans."""

    def __init__(self) -> None:
        self.spans: list[Any] = []
        self.services: set[str] = set()
        collector = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                collector.take(body)
                self.send_response(200)
                self.send_header("content-length", "0")
                self.end_headers()

            def log_message(self, *_: Any) -> None:
                """Says nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/v1/traces"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def take(self, body: bytes) -> None:
        """Keeps the spans of a request."""
        for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
            self.services |= {
                each.value.string_value for each in resource.resource.attributes if each.key == "service.name"
            }
            for scope in resource.scope_spans:
                self.spans += scope.spans

    def trace(self, trace_id: str) -> dict[str, Any]:
        """The spans of a trace by name."""
        return {span.name: span for span in self.spans if span.trace_id.hex() == trace_id}

    def close(self) -> None:
        """Ends it."""
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture(scope="module")
def collector() -> Iterator[Collector]:
    made = Collector()
    yield made
    made.close()


@pytest.fixture(scope="module")
def traced(observed: ObservedExchange, collector: Collector) -> Iterator[ObservedExchange]:
    """The exchange, whose API sends traces."""
    observed.stop_service("api")
    observed.servers.change(otlp_url=collector.url, trace_one_in=0)
    observed.start_service("api")
    yield observed
    observed.stop_service("api")
    observed.servers.change(otlp_url="", trace_one_in=1)
    observed.start_service("api")


@pytest.mark.server
def test_an_order_with_a_traceparent_is_one_trace_of_all_its_stages(
    traced: ObservedExchange, collector: Collector
) -> None:
    trader = traced.trader()
    order = {"card": "pikachu", "side": "buy", "price": "5.00", "time_in_force": "ioc"}
    trader.request("POST", "/orders", order, traceparent=f"00-{TRACE_ID}-{PARENT}-01")

    spans = until(lambda: found if len(found := collector.trace(TRACE_ID)) == 4 else None, "the trace does not come")

    root = spans["place_order"]
    assert root.parent_span_id.hex() == PARENT
    assert {spans[name].parent_span_id for name in ("append", "match", "archive")} == {root.span_id}
    assert root.start_time_unix_nano <= spans["append"].start_time_unix_nano
    assert spans["append"].end_time_unix_nano == spans["match"].start_time_unix_nano
    assert spans["match"].end_time_unix_nano == spans["archive"].start_time_unix_nano
    assert spans["archive"].start_time_unix_nano < spans["archive"].end_time_unix_nano
    attributes = {each.key: each.value for each in root.attributes}
    assert attributes["tcgx.order"].string_value.startswith("pikachu-")
    assert attributes["tcgx.trader"].int_value == trader.trader_id
    assert collector.services == {"tcgx-api"}


@pytest.mark.server
def test_a_read_with_a_traceparent_is_a_span(traced: ObservedExchange, collector: Collector) -> None:
    trace_id = TRACE_ID[::-1]
    traced.trader().request("GET", "/orders", traceparent=f"00-{trace_id}-{PARENT}-01")

    until(lambda: list(collector.trace(trace_id)) == ["list_orders"], "the span does not come")


@pytest.mark.server
def test_a_malformed_traceparent_begins_a_trace_of_its_own(traced: ObservedExchange, collector: Collector) -> None:
    before = len(collector.spans)
    answer = traced.trader().request("GET", "/orders", traceparent="zz-not-one")

    assert answer.status == 200
    until(lambda: len(collector.spans) > before, "the request with a malformed traceparent has no trace of its own")


def test_the_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.trace", None)

    with pytest.raises(StartError, match=r"pip install 'tcgx\[otel\]'"):
        tracing.Traces("http://127.0.0.1:1", "tcgx-api")
