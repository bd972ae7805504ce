"""Candles of the archive: each transaction adds its trades, and an archive of before is caught up in steps."""

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import Any

import asyncpg
import pytest

from archiver import candles, postgres, schema, writer
from archiver.queries import Archive, Cursor
from archiver.writer import RowBatch
from core.candles import CANDLE_SECONDS, DAY_SECONDS, MINUTE, Candle, Window, time_text
from core.errors import Unavailable
from testing.flows import CARDS
from testing.servers import Servers
from tests.core.test_candles import Deal, naive

pytestmark = pytest.mark.server

SEED = 6_174
BEGIN = 1_767_225_000
"""2025-12-31T23:50:00Z, ten minutes before the end of an hour, a day and a year."""
EVER = Window(0, 2**62)
COUNT = 600


def flow() -> list[Deal]:
    """Trades with pauses between them, many of one second."""
    choose = random.Random(SEED)
    at, trades = BEGIN, []
    for _ in range(COUNT):
        at += choose.choice([0, 0, 1, 20, 59, 60, 400, 2_000])
        trades.append((at, choose.randint(100, 1_000), choose.randint(1, 9)))
    return trades


TRADES = flow()


def batch(first: int, last: int, card: str = "pikachu") -> RowBatch:
    """The trades with these numbers as a batch of the archiver, each at the last millisecond of its second."""
    lines = []
    for number in range(first, last + 1):
        at, price, quantity = TRADES[number - 1]
        moment = time_text(at).replace(".000Z", ".999Z")
        lines.append(f"{number:012},{number:012},{number:012},7,8,{price},{quantity},buy,{moment}\n")
    return RowBatch(card=card, trades="".join(lines).encode(), orders=b"", cursor=Cursor(f"{last}-0", f"5-{last}"))


def on(pair: Servers, work: Callable[[asyncpg.Connection], Awaitable[Any]]) -> Any:
    """What some work on a database with empty tables gives."""

    async def connected() -> Any:
        database = await postgres.connect(pair.settings.database_url)
        try:
            return await work(database)
        finally:
            await database.close()

    return asyncio.run(connected())


async def found(database: asyncpg.Connection, seconds: int, card: str = "pikachu") -> list[Candle]:
    """All candles of an interval."""
    return (await Archive(database).candles(card, seconds, EVER)).candles


@pytest.mark.parametrize("interval", CANDLE_SECONDS.values())
def test_transactions_of_any_size_give_the_candles_of_all_trades(pair: Servers, interval: int) -> None:
    async def archived(database: asyncpg.Connection) -> list[Candle]:
        choose, first = random.Random(SEED), 1
        while first <= COUNT:
            last = min(first + choose.choice([0, 1, 7, 80]), COUNT)
            middle = (first + last) // 2
            await writer.insert(database, [batch(first, middle), *([batch(middle + 1, last)] if middle < last else [])])
            first = last + 1
        assert await candles.missing(database, CARDS) == 0
        assert await found(database, MINUTE, "squirtle") == []
        return await found(database, interval)

    assert on(pair, archived) == naive(TRADES, interval)


def test_the_trades_of_an_interrupted_transaction_count_once(pair: Servers) -> None:
    async def archived(database: asyncpg.Connection) -> list[Candle]:
        await writer.insert(database, [batch(1, 100)])
        with pytest.raises(Unavailable, match="duplicate key"):
            await writer.insert(database, [batch(101, 200), batch(100, 100, "pikachu")])
        await writer.insert(database, [batch(101, COUNT)])
        return await found(database, 3_600)

    assert on(pair, archived) == naive(TRADES, 3_600)


def test_an_archive_of_before_is_caught_up_in_steps_that_go_on_after_a_stop(
    pair: Servers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(candles, "CATCH_UP_TRADES", 70)
    steps: list[int] = []

    def interrupted(count: int) -> None:
        steps.append(count)
        if len(steps) == 3:
            raise KeyboardInterrupt

    async def caught_up(database: asyncpg.Connection) -> list[Candle]:
        await writer.insert(database, [batch(1, COUNT)])
        await database.execute(
            "TRUNCATE candles; UPDATE archive_cursor SET candles_to = 0"
        )  # as the migration leaves it
        assert await candles.missing(database, CARDS) == COUNT
        with pytest.raises(Unavailable, match="0 of 600 trades"):
            await found(database, MINUTE)
        with pytest.raises(KeyboardInterrupt):
            await candles.catch_up(database, CARDS, interrupted)
        with pytest.raises(Unavailable, match="210 of 600 trades"):
            await Archive(database).days(["pikachu"], BEGIN)
        assert await candles.catch_up(database, CARDS, steps.append) == COUNT - 210
        assert await candles.catch_up(database, CARDS, steps.append) == 0
        return await found(database, MINUTE)

    assert on(pair, caught_up) == naive(TRADES, MINUTE)
    assert steps == [70] * 8 + [40]


def test_two_that_catch_up_at_once_count_each_trade_once(pair: Servers, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(candles, "CATCH_UP_TRADES", 20)

    async def caught_up(database: asyncpg.Connection) -> list[Candle]:
        other = await postgres.connect(pair.settings.database_url)
        try:
            await writer.insert(database, [batch(1, 500)])
            await database.execute("TRUNCATE candles; UPDATE archive_cursor SET candles_to = 0")
            done = await asyncio.gather(
                candles.catch_up(database, CARDS),
                candles.catch_up(other, CARDS),
            )
            await writer.insert(database, [batch(501, COUNT)])
        finally:
            await other.close()
        assert sum(done) == 500
        return await found(database, 300)

    assert on(pair, caught_up) == naive(TRADES, 300)


def test_a_window_has_its_start_and_not_its_end_and_the_candle_before(pair: Servers) -> None:
    whole = naive(TRADES, MINUTE)
    window = Window(whole[10].start, whole[20].start)

    async def read(database: asyncpg.Connection) -> None:
        await writer.insert(database, [batch(1, COUNT)])
        archive = Archive(database)
        rows = await archive.candles("pikachu", MINUTE, window)
        assert (rows.before, rows.candles) == (whole[9], whole[10:20])
        assert (rows.sequence, rows.number) == (COUNT, COUNT)
        assert (await archive.candles("pikachu", MINUTE, window, limit=3)).candles == whole[10:13]
        assert (await archive.candles("pikachu", MINUTE, window, limit=3, newest=True)).candles == whole[17:20]
        nothing = await archive.candles("bulbasaur", MINUTE, window)
        assert (nothing.sequence, nothing.number, nothing.candles, nothing.before) == (0, 0, [], None)

    on(pair, read)


def test_a_day_has_the_minutes_of_24_hours(pair: Servers) -> None:
    now = TRADES[-1][0] + 0.5

    async def read(database: asyncpg.Connection) -> None:
        await writer.insert(database, [batch(1, COUNT)])
        days = await Archive(database).days(CARDS, now)
        minutes = [candle for candle in naive(TRADES, MINUTE) if candle.start + MINUTE > now - DAY_SECONDS]
        assert 10 < len(minutes) < len(naive(TRADES, MINUTE))
        day = days["pikachu"].day
        assert day is not None
        assert (day.start, day.open, day.close) == (minutes[0].start, minutes[0].open, minutes[-1].close)
        assert (day.high, day.low) == (max(one.high for one in minutes), min(one.low for one in minutes))
        assert (day.volume, day.trades) == (sum(one.volume for one in minutes), sum(one.trades for one in minutes))
        assert days["squirtle"].day is None

    on(pair, read)


def test_a_migrated_archive_lacks_candles_until_it_is_caught_up(pair: Servers) -> None:
    async def migrated(database: asyncpg.Connection) -> list[Candle]:
        await writer.insert(database, [batch(1, COUNT)])
        await database.execute(
            "DROP TABLE candles; ALTER TABLE archive_cursor DROP COLUMN candles_to; "
            "DELETE FROM schema_migrations WHERE name = '0008_candles'"
        )
        assert await schema.migrate(database, CARDS) == ["0008_candles"]
        assert await candles.catch_up(database, CARDS) == COUNT
        return await found(database, DAY_SECONDS)

    assert on(pair, migrated) == naive(TRADES, DAY_SECONDS)
