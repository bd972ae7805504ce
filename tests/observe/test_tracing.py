"""Traces: a followed order is one trace, and a `traceparent` is continued."""

import sys

import pytest

from core.errors import StartError
from observe import tracing
from testing.collector import Collector
from testing.observed import ObservedExchange
from testing.waiting import until

TRACE_ID = "0af7651916cd43dd8448eb211c80319c"
PARENT = "b7ad6b7169203331"


@pytest.mark.server
def test_an_order_with_a_traceparent_is_one_trace_of_all_its_stages(
    observed: ObservedExchange, collector: Collector
) -> None:
    trader = observed.trader()
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
def test_a_read_with_a_traceparent_is_a_span(observed: ObservedExchange, collector: Collector) -> None:
    trace_id = TRACE_ID[::-1]
    observed.trader().request("GET", "/orders", traceparent=f"00-{trace_id}-{PARENT}-01")

    until(lambda: list(collector.trace(trace_id)) == ["list_orders"], "the span does not come")


@pytest.mark.server
def test_a_malformed_traceparent_begins_a_trace_of_its_own(observed: ObservedExchange, collector: Collector) -> None:
    before = len(collector.spans)
    answer = observed.trader().request("GET", "/orders", traceparent="zz-not-one")

    assert answer.status == 200
    until(lambda: len(collector.spans) > before, "the request with a malformed traceparent has no trace of its own")


def test_the_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.trace", None)

    with pytest.raises(StartError, match=r"pip install 'tcgx\[otel\]'"):
        tracing.Traces("http://127.0.0.1:1", "tcgx-api")
