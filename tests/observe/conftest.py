"""An exchange whose processes have metrics, and a Prometheus that scrapes them; one for all tests of this folder."""

from collections.abc import Iterator

import pytest

from observe import files
from observe.alerts import ALERTS
from testing.observed import ObservedExchange, observed_exchange
from testing.prometheus import MISSING, PROGRAM, Prometheus, running_prometheus
from testing.servers import folder


@pytest.fixture(scope="session")
def observed() -> Iterator[ObservedExchange]:
    """The exchange."""
    with observed_exchange() as running:
        yield running


@pytest.fixture(scope="session")
def prometheus(observed: ObservedExchange) -> Iterator[Prometheus]:
    """The Prometheus. Its alerts wait for a second at most."""
    if PROGRAM is None:
        pytest.skip(MISSING)
    quick = files.rules([alert._replace(seconds=min(alert.seconds, 1)) for alert in ALERTS])
    with folder() as place, running_prometheus(place, observed.ports, rules=quick, seconds=0.5) as running:
        yield running
