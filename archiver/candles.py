"""Candles in the archive: each archive transaction adds its trades to the candles of every interval.

`archive_cursor.candles_to` is the last trade that the candles of a card contain. It moves in the transaction that adds
trades to the candles, so no trade counts twice or is left out. An archive of an earlier version has trades beyond it:
`catch_up` adds them in steps, and a step that was interrupted is repeated.
"""

from collections.abc import Callable, Sequence

import asyncpg

from archiver.postgres import RECOVER_SECONDS, postgres_errors
from core.candles import CANDLE_SECONDS, Candle

CATCH_UP_TRADES = 100_000
"""Trades of one step of `catch_up`."""

COLUMNS = "start, open_cents, high_cents, low_cents, close_cents, volume, trades"

OnTrades = Callable[[int], None]


async def add(connection: asyncpg.Connection, card: str, last: int) -> None:
    """Adds the trades up to the number `last` to the candles of a card, within a transaction.

    The transaction must have changed or locked the card's row of `archive_cursor` before.
    """
    await connection.execute(_add(card), card, last, timeout=RECOVER_SECONDS)


async def prepare(connection: asyncpg.Connection) -> None:
    """Makes PostgreSQL keep the plan of `add`, which is the same for all numbers."""
    with postgres_errors():
        await connection.execute("SET plan_cache_mode = force_generic_plan")


async def missing(connection: asyncpg.Connection, cards: Sequence[str]) -> int:
    """The number of archived trades that candles of these cards lack."""
    with postgres_errors():
        return sum([last - reached for card in cards for reached, last in [await _state(connection, card)]])


async def catch_up(connection: asyncpg.Connection, cards: Sequence[str], on_trades: OnTrades | None = None) -> int:
    """Adds all archived trades to the candles that lack them, and returns how many there were.

    `on_trades` is called with the number of trades of each step. A step is a transaction of its own.

    Raises:
        Unavailable: PostgreSQL does not answer; a new call goes on with the step that was not done.
    """
    added = 0
    for card in cards:
        while count := await _step(connection, card):
            added += count
            if on_trades is not None:
                on_trades(count)
    return added


async def _step(connection: asyncpg.Connection, card: str) -> int:
    with postgres_errors():
        async with connection.transaction():
            await connection.execute("SELECT FROM archive_cursor WHERE card = $1 FOR UPDATE", card)
            reached, last = await _state(connection, card)
            count = min(last - reached, CATCH_UP_TRADES)
            if count > 0:
                await add(connection, card, reached + count)
    return max(count, 0)


async def _state(connection: asyncpg.Connection, card: str) -> tuple[int, int]:
    """The last trade that the candles of a card contain, and the last archived trade."""
    row = await connection.fetchrow(
        f"SELECT candles_to, (SELECT coalesce(max(trade_number), 0) FROM trades_{card}) AS last "
        "FROM archive_cursor WHERE card = $1",
        card,
    )
    return (row["candles_to"], row["last"]) if row else (0, 0)


def candle_of(row: asyncpg.Record) -> Candle:
    """The candle of a row with `COLUMNS`."""
    return Candle(
        row["start"],
        row["open_cents"],
        row["high_cents"],
        row["low_cents"],
        row["close_cents"],
        row["volume"],
        row["trades"],
    )


_INTERVALS = ", ".join(f"({seconds})" for seconds in CANDLE_SECONDS.values())


def _add(card: str) -> str:
    """The statement of `add`. Whatever PostgreSQL knows of the table, it can only be led by the key.

    The numbers have both bounds, and prices are looked up one by one: a join might read the whole table.
    """
    return f"""
        WITH moved AS (
            UPDATE archive_cursor SET candles_to = $2 WHERE card = $1 AND candles_to < $2
        ), new_minutes AS (
            SELECT date_trunc('minute', executed_at, 'UTC') AS at, min(trade_number) AS first_number,
                max(trade_number) AS last_number, max(price_cents) AS high, min(price_cents) AS low,
                sum(quantity)::bigint AS volume, count(*) AS trades
            FROM trades_{card}
            WHERE trade_number > (SELECT candles_to FROM archive_cursor WHERE card = $1) AND trade_number <= $2
            GROUP BY 1
        ), priced_minutes AS MATERIALIZED (
            SELECT extract(epoch FROM at)::bigint AS start, high, low, volume, trades, first_number,
                (SELECT price_cents FROM trades_{card} WHERE trade_number = first_number) AS open,
                (SELECT price_cents FROM trades_{card} WHERE trade_number = last_number) AS close
            FROM new_minutes
        )
        INSERT INTO candles AS known (card, seconds, {COLUMNS})
        SELECT $1, seconds, start - start % seconds, (array_agg(open ORDER BY first_number))[1], max(high), min(low),
            (array_agg(close ORDER BY first_number DESC))[1], sum(volume)::bigint, sum(trades)::bigint
        FROM priced_minutes CROSS JOIN (VALUES {_INTERVALS}) AS intervals (seconds)
        GROUP BY seconds, start - start % seconds
        ON CONFLICT (card, seconds, start) DO UPDATE SET
            high_cents = greatest(known.high_cents, excluded.high_cents),
            low_cents = least(known.low_cents, excluded.low_cents), close_cents = excluded.close_cents,
            volume = known.volume + excluded.volume, trades = known.trades + excluded.trades
    """
