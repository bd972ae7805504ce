"""An archive of many rows, made in PostgreSQL: what an exchange leaves that has traded for a month.

Prices walk, half of the orders of a taker meet resting ones, and a few traders place most of the orders. Two of three
rows are orders. The history of each card in Redis begins behind the rows, so the exchange goes on with them.
"""

import time
from collections.abc import Callable, Sequence

import asyncpg
from redis.asyncio import Redis

from archiver import candles, writer
from engine import history

DAYS = 30
TRADERS = 1_000
ORDERS_A_TRADE = 2
ROWS_A_STEP = 200_000
STEP_SECONDS = 600
OnRows = Callable[[int], None]


async def fill(
    database: asyncpg.Connection, redis: Redis, cards: Sequence[str], rows: int, on_rows: OnRows
) -> dict[str, int]:
    """Fills empty tables with about so many rows, the latest ones of now. Returns the number of trades of each card."""
    trades = max(1, rows // (1 + ORDERS_A_TRADE) // len(cards))
    for card in cards:
        await _fill_card(database, card, trades, on_rows)
        last = ORDERS_A_TRADE * trades
        history_id = await writer.register(database, card, history.new_id(), base=last, given=last)
        await history.begin(redis, card, ended="", history_id=history_id, base=last, trades=trades)
        await database.execute(
            "INSERT INTO archive_cursor (card, event_id, sequence, log_id, history_id, archived_at) "
            "VALUES ($1, $2, $3, $4, $5, now())",
            *(card, f"{last}-0", last, f"0-{last}", history_id),
        )
        await database.execute(f"ANALYZE orders_{card}, trades_{card}", timeout=STEP_SECONDS)
    return dict.fromkeys(cards, trades)


async def make_candles(database: asyncpg.Connection, cards: Sequence[str], on_rows: OnRows) -> float:
    """Makes the candles of all trades. Returns the seconds that it took."""
    began = time.perf_counter()
    await candles.catch_up(database, cards, on_rows)
    await database.execute("ANALYZE candles", timeout=STEP_SECONDS)
    return time.perf_counter() - began


async def _fill_card(database: asyncpg.Connection, card: str, trades: int, on_rows: OnRows) -> None:
    seconds = DAYS * 86_400 / trades
    await database.execute("SELECT setseed(0.5)")
    for first in range(1, trades + 1, ROWS_A_STEP):
        last = min(first + ROWS_A_STEP - 1, trades)
        for statement, low, high in (
            (_TRADES, first, last),
            (_ORDERS, ORDERS_A_TRADE * (first - 1) + 1, ORDERS_A_TRADE * last),
        ):
            await database.execute(
                statement.format(card=card, trader=_TRADER), *(low, high, trades, seconds), timeout=STEP_SECONDS
            )
        on_rows((1 + ORDERS_A_TRADE) * (last - first + 1))


_TRADER = f"1 + floor({TRADERS} * power(random(), 3))::int"
_TRADES = """
    INSERT INTO trades_{card} (trade_number, taker_sequence, maker_sequence, taker_trader_id, maker_trader_id,
        price_cents, quantity, taker_side, executed_at)
    SELECT n, 2 * n, greatest(1, 2 * n - 1 - 2 * floor(300 * random())::bigint), {trader}, {trader},
        (550 + 300 * sin(n / 40000.0) + 20 * random())::int, 1 + floor(9 * random())::int,
        CASE WHEN random() < 0.5 THEN 'buy' ELSE 'sell' END::order_side,
        date_trunc('milliseconds', now()) - make_interval(secs => ($3 - n) * $4::float8)
    FROM generate_series($1::bigint, $2::bigint) AS n
"""
_ORDERS = """
    INSERT INTO orders_{card} (sequence, trader_id, price_cents, quantity, filled_quantity, side, time_in_force,
        status, accepted_at, closed_at, client_order_id)
    SELECT n, {trader}, (550 + 300 * sin(n / 80000.0) + 20 * random())::int, 5,
        CASE WHEN kind < 0.8 THEN 5 ELSE 0 END, CASE WHEN random() < 0.5 THEN 'buy' ELSE 'sell' END::order_side, 'gtc',
        CASE WHEN kind < 0.8 THEN 'filled' WHEN kind < 0.999 THEN 'canceled' ELSE 'expired' END::order_status, at, at,
        CASE WHEN n % 3 = 0 THEN 'order-' || n END
    FROM (
        SELECT n, random() AS kind,
            date_trunc('milliseconds', now()) - make_interval(secs => (2 * $3 - n) / 2.0 * $4::float8) AS at
        FROM generate_series($1::bigint, $2::bigint) AS n
    ) AS made
"""
