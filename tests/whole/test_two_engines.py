"""Two engines and two archivers on the same servers: everything is matched and archived once."""

import itertools

import pytest

from testing.clients.appender import Appender
from testing.flows import market
from testing.oracle.judge import assert_archived, assert_books, judged, settle
from testing.servers import Servers
from testing.services import Service
from testing.waiting import until

pytestmark = pytest.mark.server

SEED = 20_261_123
COUNT = 12_000


def archives(service: Service) -> bool:
    """Whether it holds the lock: it says so."""
    return " archiving " in service.output()


def test_two_of_each_do_everything_once_and_the_standby_takes_over(pair: Servers) -> None:
    settings = pair.settings
    services = [pair.service(name) for name in ("engine", "engine", "archiver", "archiver")]
    engines, archivers = services[:2], services[2:]
    flow = market(SEED, COUNT)
    try:
        with Appender(settings.redis_url, itertools.islice(flow, COUNT // 2), seed=SEED, pause_seconds=0.05) as load:
            load.finish()
        settle(settings.redis_url, settings.database_url)
        books = judged(settings.redis_url)
        assert_books(settings.redis_url, books)
        assert_archived(settings.database_url, books)

        working = until(lambda: [one for one in archivers if archives(one)], "archiving")
        assert len(working) == 1
        (standby,) = (one for one in archivers if one not in working)
        until(lambda: "waiting to be the one" in standby.output(), "start of the standby")
        with Appender(settings.redis_url, flow, seed=SEED + 1, pause_seconds=0.05) as load:
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
