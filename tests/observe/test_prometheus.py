"""A real Prometheus over a live exchange: every query has data; alerts fire when something is wrong, and end after."""

import os
import re
import signal
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from observe.alerts import ALERTS, Alert
from observe.panels import Query, filled, panels
from testing.observed import ObservedExchange
from testing.prometheus import Prometheus
from testing.waiting import until

pytestmark = pytest.mark.server

WINDOW = "10s"
FIRES_SECONDS = 40
ONLY_WITH_A_BOUND = "max(tcgx_redis_memory_max_bytes) > 0"
"""A line that is drawn only if Redis has a maxmemory."""

QUERIES = [query for panel in panels() for query in panel.queries]


@pytest.fixture(scope="module")
def busy(observed: ObservedExchange, prometheus: Prometheus) -> Prometheus:
    """The Prometheus, after orders of each stage and a refusal were scraped at least twice."""
    trader = observed.trader()

    def has_rates() -> bool:
        trader.submit("pikachu", "buy", "5.00")
        trader.submit("pikachu", "sell", "5.00")
        observed.http.get("/health")
        stages = prometheus.query("sum by (stage) (rate(tcgx_order_stage_seconds_count[10s])) > 0")
        return len(stages) == 3 and prometheus.value("sum(rate(tcgx_archived_commands_total[10s])) > 0") is not None

    until(has_rates, "the metrics of orders do not reach Prometheus", seconds=FIRES_SECONDS)
    return prometheus


@pytest.mark.parametrize("query", QUERIES, ids=[query.expression[:60] for query in QUERIES])
def test_every_query_of_a_panel_has_data(busy: Prometheus, query: Query) -> None:
    if query.expression == ONLY_WITH_A_BOUND:
        assert busy.query(filled(query, WINDOW)) == []
        assert busy.query("tcgx_redis_memory_max_bytes") != []
        return
    found = until(lambda: busy.query(filled(query, WINDOW)), "there is no data", seconds=FIRES_SECONDS)

    assert len(found) <= 60
    labels = {word.partition("}}")[0] for word in query.legend.split("{{")[1:]}
    assert all(labels <= {*series["metric"]} or not series["metric"] for series in found)


@pytest.mark.parametrize("alert", ALERTS, ids=[alert.name for alert in ALERTS])
def test_every_metric_of_an_alert_exists(busy: Prometheus, alert: Alert) -> None:
    """An alert has no result while all is well, so its selectors are asked for, and each has a result."""
    names = set(re.findall(r"\b(tcgx_\w+|process_\w+|up)\b(?!-)", alert.expression))

    assert names
    for name in names:
        assert busy.query(name) != [], name


def test_nothing_fires_while_all_is_well(busy: Prometheus, observed: ObservedExchange) -> None:
    observed.ready()

    until(lambda: busy.firing() <= {"TcgxSlowAnswers"}, "an alert fires")


@contextmanager
def fire(prometheus: Prometheus, *names: str) -> Iterator[None]:
    """These alerts fire after the context has begun, and no more after its end."""
    assert prometheus.firing().isdisjoint(names)
    yield
    until(lambda: prometheus.firing().isdisjoint(names), f"one of {names} does not end", seconds=FIRES_SECONDS)


def fires(prometheus: Prometheus, *names: str) -> None:
    """Returns when these alerts fire."""
    until(lambda: prometheus.firing().issuperset(names), f"not all of {names} fire", seconds=FIRES_SECONDS)


def test_a_stopped_archiver_is_told(busy: Prometheus, observed: ObservedExchange) -> None:
    with fire(busy, "TcgxArchiverDown", "TcgxProcessDown"):
        observed.stop_service("archiver")
        try:
            fires(busy, "TcgxArchiverDown", "TcgxProcessDown")
        finally:
            observed.start_service("archiver")


def test_a_frozen_engine_is_told_by_the_api_and_by_its_own_silence(
    busy: Prometheus, observed: ObservedExchange
) -> None:
    engine = observed.pid("engine")
    with fire(busy, "TcgxEngineDown", "TcgxProcessDown"):
        os.kill(engine, signal.SIGSTOP)
        try:
            fires(busy, "TcgxEngineDown", "TcgxProcessDown")
        finally:
            os.kill(engine, signal.SIGCONT)


def test_a_redis_that_fills_up_is_told(busy: Prometheus, observed: ObservedExchange) -> None:
    used = int(observed.redis.info("memory")["used_memory"])
    with fire(busy, "TcgxRedisMemory"):
        observed.redis.config_set("maxmemory", int(used / 0.85))
        try:
            fires(busy, "TcgxRedisMemory")
        finally:
            observed.redis.config_set("maxmemory", 0)
