"""Two engines and two archivers on the same servers: everything is matched and archived once."""

import itertools
from collections.abc import Iterator

import pytest

from bench.order_flow import market
from tests.running_exchange import (
    Load,
    ServerPair,
    Service,
    assert_archived,
    assert_books,
    judged,
    server_pair,
    settle,
    until,
)

pytestmark = pytest.mark.server

SEED = 20_261_123
COUNT = 12_000


@pytest.fixture
def pair() -> Iterator[ServerPair]:
    with server_pair() as running:
        yield running


def archives(service: Service) -> bool:
    """Whether it holds the lock: it says so."""
    return " archiving " in service.output()


def test_two_of_each_do_everything_once_and_the_standby_takes_over(pair: ServerPair) -> None:
    settings = pair.settings
    services = [pair.service(name) for name in ("engine", "engine", "archiver", "archiver")]
    engines, archivers = services[:2], services[2:]
    flow = market(SEED, COUNT)
    try:
        with Load(settings.redis_url, itertools.islice(flow, COUNT // 2), seed=SEED, pause_seconds=0.05) as load:
            load.finish()
        settle(settings.redis_url, settings.database_url)
        books = judged(settings.redis_url)
        assert_books(settings.redis_url, books)
        assert_archived(settings.database_url, books)

        working = until(lambda: [one for one in archivers if archives(one)], "archiving")
        assert len(working) == 1
        (standby,) = (one for one in archivers if one not in working)
        until(lambda: "waiting to be the one" in standby.output(), "start of the standby")
        with Load(settings.redis_url, flow, seed=SEED + 1, pause_seconds=0.05) as load:
            until(lambda: "matching" in engines[0].output(), "start of the first engine")
            working[0].kill()
            engines[0].kill()
            load.finish()
        settle(settings.redis_url, settings.database_url)

        assert archives(standby)
        books = judged(settings.redis_url)
        assert sum(book.sequence for book in books.values()) == COUNT
        assert_books(settings.redis_url, books)
        assert_archived(settings.database_url, books)
        assert [service.stop() for service in (engines[1], standby)] == [0, 0]
    finally:
        for service in services:
            service.stop()
