"""What a scrape of each process gives."""

import re
import socket

import pytest
from prometheus_client.parser import text_string_to_metric_families

from observe import values
from testing.observed import ObservedExchange
from testing.waiting import until

pytestmark = pytest.mark.server

OF_SERVICE = {"api": values.OF_API, "engine": values.OF_ENGINE, "archiver": values.OF_ARCHIVER}


def samples(text: str) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    """The samples of a scrape by name and labels."""
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def value(text: str, name: str, **labels: str) -> float:
    """A sample."""
    return samples(text)[name, frozenset(labels.items())]


@pytest.mark.parametrize("service", OF_SERVICE)
def test_each_process_gives_the_values_of_its_kind(observed: ObservedExchange, service: str) -> None:
    if service == "archiver":
        observed.trader().submit("pikachu", "buy", "5.00")
        observed.archived()
    names = {name.removesuffix("_total") for name, _ in samples(observed.metrics(service))}

    assert {*values.COMMON, *OF_SERVICE[service]} - names <= ({"tcgx_activity_seconds"} if service == "api" else set())
    assert {"process_cpu_seconds", "process_open_fds", "process_resident_memory_bytes"} <= names


def test_an_order_is_counted_at_each_of_its_stages(observed: ObservedExchange) -> None:
    before = {service: observed.metrics(service) for service in OF_SERVICE}
    observed.trader().submit("bulbasaur", "buy", "5.00")
    observed.archived()
    until(lambda: "tcgx_order_stage_seconds" in observed.metrics("api"))
    after = {service: observed.metrics(service) for service in OF_SERVICE}

    def gained(service: str, name: str, **labels: str) -> float:
        return value(after[service], name, **labels) - samples(before[service]).get(
            (name, frozenset(labels.items())), 0
        )

    assert gained("api", "tcgx_appended_commands_total", card="bulbasaur") == 1
    assert gained("api", "tcgx_http_requests_total", operation="place_order", status="202") == 1
    assert gained("api", "tcgx_append_commands_sum") == 1
    assert gained("engine", "tcgx_matched_commands_total", card="bulbasaur") == 1
    assert gained("archiver", "tcgx_archived_commands_total", card="bulbasaur") == 1
    assert value(after["engine"], "tcgx_matched_sequence", card="bulbasaur") == observed.sequences()["bulbasaur"]


def test_a_refused_order_is_counted_by_its_code(observed: ObservedExchange) -> None:
    trader = observed.trader()
    trader.submit("pikachu", "buy", "5.00", client_order_id="the-same")

    refused = trader.http.post(
        "/orders", json={"card": "pikachu", "side": "buy", "price": "5.01", "client_order_id": "the-same"}
    )

    assert refused.status_code == 409
    assert value(observed.metrics("api"), "tcgx_refused_commands_total", code=refused.json()["code"]) == 1


def test_labels_are_bounded(observed: ObservedExchange) -> None:
    before = len(samples(observed.metrics("api")))
    for number in range(50):
        observed.http.get(f"/nothing/{number}")
        observed.http.request(f"ODD{number}", "/orders")

    assert len(samples(observed.metrics("api"))) - before <= 40  # one operation with a status or two


def test_a_scrape_tells_no_secret(observed: ObservedExchange) -> None:
    settings = observed.settings
    text = "".join(observed.metrics(service) for service in OF_SERVICE)

    for secret in (settings.jwt_secret, settings.redis_url, settings.database_url, observed.api_key(1)):
        assert secret not in text


@pytest.mark.parametrize(
    ("request_bytes", "status"),
    [
        (b"GET /else HTTP/1.1\r\n\r\n", 404),
        (b"POST /metrics HTTP/1.1\r\n\r\n", 404),
        (b"GET /metrics HTTP/1.1\r\n\r\n", 200),
    ],
)
def test_odd_requests_are_answered(observed: ObservedExchange, request_bytes: bytes, status: int) -> None:
    with socket.create_connection(("127.0.0.1", observed.ports["engine"][0]), timeout=10) as connection:
        connection.sendall(request_bytes)
        answer = connection.makefile("rb").read()

    assert re.match(rb"HTTP/1\.1 (\d+) ", answer)[1] == str(status).encode()  # type: ignore[index]
