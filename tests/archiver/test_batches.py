"""What a transaction takes, and when: by size, by age, and at the stop."""

import asyncio
import time

import asyncpg
import pytest
from redis import Redis

from archiver.queries import START
from archiver.reader import RowBuffer, read_rows
from archiver.writer import RowBatch
from core.model import Side
from engine import connection
from engine.events import ENTRIES_MAX, EventGap, EventReader
from testing.market import Market, many
from testing.oracle.judge import assert_archived, judged
from testing.servers import LoadedRedis, Servers, fetch
from testing.services import Service
from testing.waiting import until

EVENTS = 100
LONG_MS = 10_000
MANY_BYTES = 1_000_000


def working(pair: Servers, **changes: int) -> Service:
    """An archiver that has the lock."""
    service = pair.service("archiver", **changes)
    until(lambda: " archiving " in service.output(), "start")
    return service


def transactions(pair: Servers) -> list[int]:
    """How many orders each transaction archived, in order: rows of one have the same xmin."""
    query = "SELECT count(*) AS orders FROM orders GROUP BY xmin::text::int8 ORDER BY xmin::text::int8"
    return [row["orders"] for row in fetch(pair.settings.database_url, query)]


def rows(size: int) -> RowBatch:
    """As many bytes of orders."""
    return RowBatch(card="pikachu", trades=b"", orders=b"x" * size, cursor=START)


# -- hand-over from the readers to the writer


def test_a_transaction_takes_all_that_is_gathered() -> None:
    async def taken() -> list[RowBatch]:
        gathered = RowBuffer(bytes_max=MANY_BYTES)
        for size in (1, 2, 3):
            await gathered.put(rows(size))
        return await gathered.take()

    assert [len(one.orders) for one in asyncio.run(taken())] == [1, 2, 3]


def test_readers_wait_while_a_transaction_is_full_and_go_on_in_order() -> None:
    async def takes() -> list[list[int]]:
        gathered = RowBuffer(bytes_max=MANY_BYTES)

        async def read() -> None:
            for size in range(6):
                await gathered.put(rows(MANY_BYTES // 2 + size))

        reading = asyncio.create_task(read())
        found: list[list[int]] = []
        while sum(len(taken) for taken in found) < 6:
            found.append([len(one.orders) - MANY_BYTES // 2 for one in await gathered.take()])
        await reading
        return found

    found = asyncio.run(takes())

    assert [size for taken in found for size in taken] == list(range(6))
    assert max(len(taken) for taken in found) == 2


# -- reads


@pytest.mark.server
@pytest.mark.parametrize("batch_bytes", [1, 4_000, 100_000_000])
def test_reads_grow_to_their_bytes_and_miss_nothing(
    redis_server: LoadedRedis, market: Market, batch_bytes: int
) -> None:
    market.trade(events=EVENTS)
    sizes = [len(fields[b"orders"]) + len(fields[b"trades"]) for _, fields in market.events()]

    async def reads() -> list[RowBatch]:
        async with connection.connect_blocking(redis_server.url) as blocking:
            events = EventReader(blocking, market.card, after=START.event_id, batch_bytes=batch_bytes)
            found = []
            while one := await read_rows(events, wait=False):
                found.append(one)
            assert not events.has_more
            return found

    found = asyncio.run(reads())

    assert b"".join(one.orders for one in found).count(b"\n") == 4 * EVENTS
    assert found[-1].cursor.sequence == 4 * EVENTS
    read_bytes = [len(one.orders) + len(one.trades) for one in found]
    assert max(read_bytes) <= max(batch_bytes // 4, *sizes)
    if batch_bytes == 1:
        assert len(found) == EVENTS
    if batch_bytes == 100_000_000:
        assert len(found) == 7  # 1, 2, 4, 8, 16, 32 and the rest
        assert ENTRIES_MAX >= 37


# -- the service


@pytest.mark.server
def test_what_comes_alone_is_archived_at_once_however_long_others_gather(pair: Servers, pair_client: Redis) -> None:
    market = Market(pair_client)
    archiver = working(pair, archive_batch_ms=LONG_MS)
    try:
        started = time.monotonic()
        market.trade()
        until(lambda: pair.archived() == {"pikachu": 4}, "archiving")
        assert time.monotonic() - started < LONG_MS / 2_000
    finally:
        assert archiver.stop() == 0


@pytest.mark.server
def test_what_comes_soon_after_gathers_for_one_transaction_and_the_stop_archives_it(
    pair: Servers, pair_client: Redis
) -> None:
    market = Market(pair_client)
    archiver = working(pair, archive_batch_ms=LONG_MS)
    market.trade()
    until(lambda: pair.archived() == {"pikachu": 4}, "archiving")

    market.trade(events=20)
    assert archiver.stop() == 0

    assert pair.archived() == {"pikachu": 84}
    assert transactions(pair)[0] == 4
    assert sum(transactions(pair)) == 84
    assert len(transactions(pair)) <= 2 + 5  # the reads of the stop: 1, 2, 4, 8 and the rest
    assert_archived(pair.settings.database_url, judged(pair.settings.redis_url, ["pikachu"]))


@pytest.mark.server
def test_a_transaction_is_bounded_by_its_bytes(pair: Servers, pair_client: Redis) -> None:
    Market(pair_client).trade(events=EVENTS)

    archiver = working(pair, archive_batch_bytes=1)
    try:
        until(lambda: pair.archived() == {"pikachu": 4 * EVENTS}, "archiving")
    finally:
        assert archiver.stop() == 0

    assert transactions(pair) == [4] * EVENTS


@pytest.mark.server
def test_a_backlog_is_archived_in_few_transactions(pair: Servers, pair_client: Redis) -> None:
    markets = [Market(pair_client, card) for card in ("pikachu", "bulbasaur")]
    for market in markets:
        market.trade(events=EVENTS)

    archiver = working(pair, archive_batch_ms=LONG_MS)
    try:
        until(lambda: pair.archived() == {market.card: 4 * EVENTS for market in markets}, "archiving")
    finally:
        assert archiver.stop() == 0

    assert len(transactions(pair)) <= 14  # at most one for each read: 1, 2, 4, 8, 16, 32 and the rest, of two cards


# -- lag


@pytest.mark.server
def test_the_log_says_when_the_archive_lags_and_when_it_has_caught_up(pair: Servers, pair_client: Redis) -> None:
    market = Market(pair_client)
    archiver = working(pair, archive_lag_seconds=1)

    async def held_up() -> None:
        database = await asyncpg.connect(pair.settings.database_url)
        try:
            async with database.transaction():
                await database.execute("LOCK TABLE orders_pikachu IN ACCESS EXCLUSIVE MODE")
                market.append(many(1, count=2))
                market.match()
                market.append(many(1, count=2, trader=2, side=Side.SELL))
                market.match()
                await asyncio.to_thread(until, lambda: "the archive lags" in archiver.output(), "the warning")
        finally:
            await database.close()

    try:
        asyncio.run(held_up())
        until(lambda: "the archive has caught up" in archiver.output(), "the end of the lag")
        assert pair.archived() == {"pikachu": 4}
    finally:
        assert archiver.stop() == 0
    (warning,) = [line for line in archiver.output().splitlines() if "the archive lags" in line]
    assert "warning" in warning
    assert "card=pikachu" in warning
    assert "commands=4" in warning or "commands=2" in warning
    assert "caught_up_in_seconds=" in warning


@pytest.mark.server
def test_a_reader_stops_at_a_gap_between_events(redis_server: LoadedRedis, market: Market) -> None:
    market.trade(events=3)
    ids = [event_id for event_id, _ in market.events()]
    market.redis.xdel(market.key("events"), ids[1])

    async def read() -> None:
        async with connection.connect_blocking(redis_server.url) as blocking:
            events = EventReader(blocking, market.card, after=START.event_id, batch_bytes=1)
            assert [event.id for event in await events.read(wait=False)] == ids[:1]
            await events.read(wait=False)

    with pytest.raises(EventGap, match="what is between was trimmed"):
        asyncio.run(read())
