"""An exchange whose processes have metrics, and a Prometheus that scrapes them; one for all tests of this folder."""

from collections.abc import Iterator

import pytest

from observe import files
from observe.alerts import ALERTS
from testing.collector import Collector
from testing.observed import ObservedExchange, observed_exchange
from testing.prometheus import MISSING, PROGRAM, Prometheus, running_prometheus
from testing.servers import folder, free_port


@pytest.fixture(scope="session")
def collector() -> Iterator[Collector]:
    """What gets the traces of the exchange."""
    made = Collector()
    yield made
    made.close()


@pytest.fixture(scope="session")
def observed(collector: Collector) -> Iterator[ObservedExchange]:
    """The exchange. It shows the data of a Prometheus that may not be there."""
    url = f"http://127.0.0.1:{free_port()}"
    with (
        folder() as lines,
        observed_exchange(otlp_url=collector.url, prometheus_url=url, log_dir=str(lines)) as running,
    ):
        yield running


@pytest.fixture(scope="session")
def prometheus(observed: ObservedExchange) -> Iterator[Prometheus]:
    """The Prometheus. Its alerts wait for a second at most."""
    if PROGRAM is None:
        pytest.skip(MISSING)
    quick = files.rules([alert._replace(seconds=min(alert.seconds, 1)) for alert in ALERTS])
    port = int(observed.settings.prometheus_url.rpartition(":")[2])
    with (
        folder() as place,
        running_prometheus(place, observed.ports, rules=quick, seconds=0.5, port=port) as running,
    ):
        yield running
