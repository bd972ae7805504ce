"""A failure that lasts writes at most a line a second for each of its events, however many requests it concerns."""

import re
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager

import httpx
import pytest

from testing.exchange import SERVICES, ExchangeServer, exchange_server
from testing.faults import without_memory, without_redis, without_server

pytestmark = pytest.mark.server

FAULT_SECONDS = 4.0
CLIENTS = 4
EVENT = re.compile(r"^\S+Z \[(?:warning|error|info) *\] (.*?)(?:  +|$| \w+=)")


@pytest.fixture(scope="module")
def exchange() -> Iterator[ExchangeServer]:
    with exchange_server() as server:
        server.ready()
        yield server


def without_postgres(exchange: ExchangeServer) -> AbstractContextManager[None]:
    """PostgreSQL has crashed."""
    return without_server(exchange.servers.postgres)


def keep_asking(client: httpx.Client, until: float) -> int:
    """Places orders and reads the archive, as fast as answers come; the number of answers."""
    asked = 0
    while time.monotonic() < until:
        client.post("/orders", json={"card": "pikachu", "side": "buy", "price": "1.00", "time_in_force": "ioc"})
        client.get("/history/trades?card=squirtle")
        asked += 2
    return asked


@pytest.mark.parametrize("fault", [without_redis, without_postgres, without_memory])
def test_a_failure_that_lasts_writes_a_line_a_second(
    exchange: ExchangeServer, fault: Callable[[ExchangeServer], AbstractContextManager[None]]
) -> None:
    before = {name: exchange.log_of(name) for name in SERVICES}
    with fault(exchange), ThreadPoolExecutor(CLIENTS) as pool:
        deadline = time.monotonic() + FAULT_SECONDS
        clients = [exchange.client(trader_id) for trader_id in range(1, CLIENTS + 1)]
        asked = sum(pool.map(lambda client: keep_asking(client, deadline), clients))
    exchange.ready()

    assert asked > 10 * FAULT_SECONDS
    seconds = time.monotonic() - deadline + FAULT_SECONDS
    for name in SERVICES:
        lines = exchange.log_of(name).removeprefix(before[name]).splitlines()
        found = Counter(matched[1] for line in lines if (matched := EVENT.match(line)))
        assert sum(found.values()) == len(lines), lines
        assert max(found.values(), default=0) <= seconds + 1, (name, found)
