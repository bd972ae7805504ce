"""The usual design: a PostgreSQL transaction an order, statement by statement, as an application server makes it.

The card's row is locked, the best opposite order is looked up, orders and trades are written, and the commit waits for
the disk. Indexes as a careful person would make them; prepared statements.
"""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import asyncpg

from core.model import PlaceOrder, Side

SCHEMA = "tcgx_baseline"
TABLES = f"""
    CREATE SCHEMA {SCHEMA};
    SET search_path TO {SCHEMA};
    CREATE TABLE cards (card TEXT PRIMARY KEY, last_price_cents INTEGER);
    CREATE TABLE orders (
        order_id    BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
        card        TEXT NOT NULL REFERENCES cards,
        trader_id   INTEGER NOT NULL,
        side        TEXT NOT NULL CHECK (side IN ('buy', 'sell')),
        price_cents INTEGER NOT NULL,
        quantity    INTEGER NOT NULL,
        remaining   INTEGER NOT NULL,
        created_at  TIMESTAMPTZ NOT NULL DEFAULT now()
    );
    CREATE INDEX open_buys ON orders (card, price_cents DESC, order_id) WHERE side = 'buy' AND remaining > 0;
    CREATE INDEX open_sells ON orders (card, price_cents, order_id) WHERE side = 'sell' AND remaining > 0;
    CREATE INDEX orders_of_trader ON orders (trader_id, order_id);
    CREATE TABLE trades (
        trade_id    BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
        card        TEXT NOT NULL,
        taker_id    BIGINT NOT NULL,
        maker_id    BIGINT NOT NULL,
        price_cents INTEGER NOT NULL,
        quantity    INTEGER NOT NULL,
        executed_at TIMESTAMPTZ NOT NULL DEFAULT now()
    );
    CREATE INDEX trades_of_card ON trades (card, trade_id);
"""
LOCK = "SELECT card FROM cards WHERE card = $1 FOR UPDATE"
BEST = {
    Side.BUY: (
        "SELECT order_id, price_cents, remaining FROM orders WHERE card = $1 AND side = 'sell' AND remaining > 0 "
        "AND price_cents <= $2 ORDER BY price_cents, order_id LIMIT 1"
    ),
    Side.SELL: (
        "SELECT order_id, price_cents, remaining FROM orders WHERE card = $1 AND side = 'buy' AND remaining > 0 "
        "AND price_cents >= $2 ORDER BY price_cents DESC, order_id LIMIT 1"
    ),
}
INSERT = (
    "INSERT INTO orders (card, trader_id, side, price_cents, quantity, remaining) VALUES ($1, $2, $3, $4, $5, $5) "
    "RETURNING order_id"
)
FILL = "UPDATE orders SET remaining = remaining - $2 WHERE order_id = $1"
TRADE = "INSERT INTO trades (card, taker_id, maker_id, price_cents, quantity) VALUES ($1, $2, $3, $4, $5)"


@asynccontextmanager
async def tables(opened: Any, cards: Sequence[str]) -> AsyncIterator[None]:
    """Makes the tables, empty, and removes them."""
    await opened.execute(TABLES)
    try:
        await opened.executemany("INSERT INTO cards (card) VALUES ($1)", [(card,) for card in cards])
        yield
    finally:
        await opened.execute(f"DROP SCHEMA {SCHEMA} CASCADE")


async def trades(opened: Any) -> int:
    """How many there are."""
    return int(await opened.fetchval("SELECT count(*) FROM trades"))


def pool(url: str, connections: int) -> asyncpg.Pool:
    """Connections that find the tables."""
    return asyncpg.create_pool(url, min_size=connections, max_size=connections, server_settings={"search_path": SCHEMA})


async def place(opened: Any, placed: PlaceOrder) -> int:
    """Enters an order and matches it; committed when this returns. Its id."""
    async with opened.transaction():
        await opened.fetchval(LOCK, placed.card)
        order_id = await opened.fetchval(
            INSERT, placed.card, placed.trader_id, placed.side.value, placed.price_cents, placed.quantity
        )
        left = placed.quantity
        while left > 0:
            best = await opened.fetchrow(BEST[placed.side], placed.card, placed.price_cents)
            if best is None:
                break
            fill = min(left, best["remaining"])
            left -= fill
            await opened.execute(FILL, best["order_id"], fill)
            await opened.execute(FILL, order_id, fill)
            await opened.execute(TRADE, placed.card, order_id, best["order_id"], best["price_cents"], fill)
    return int(order_id)
