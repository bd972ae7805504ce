"""`tcgx bench baseline`: the design that others use, on the same PostgreSQL.

One transaction an order, statement by statement, as an application server makes it: the card's row is locked, the best
opposite order is looked up, orders and trades are written, and the commit waits for the disk. Indexes as a careful
person would make them; prepared statements; a pool of 4, then of 8 connections, of which the better counts. There is no
HTTP and no token in it, so it is an upper bound of what that design can do here.
"""

import asyncio
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any

import asyncpg
import msgspec

from archiver import store
from bench.machine import cpu_seconds, machine
from bench.options import Options
from bench.order_flow import CARDS, FLOWS
from bench.progress import Board, Task
from bench.result import COLORS, Result, Row, common
from bench.servers import empty_database
from engine.model import PlaceOrder, Side
from engine.settings import Settings

if TYPE_CHECKING:
    from matplotlib.figure import Figure

POOLS = (4, 8)
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


class Pool(msgspec.Struct, frozen=True):
    """One measurement. CPU of PostgreSQL, in microseconds an order; None where it runs elsewhere."""

    connections: int
    orders_per_second: float
    trades: int
    postgres_cpu_us_per_order: float | None


class BaselineResult(Result, kw_only=True):
    """`orders_per_second`: committed with their trades, by the better pool."""

    orders: int
    orders_per_second: float
    pools: list[Pool]

    def headline(self) -> str:
        return f"{self.orders_per_second:,.0f} orders/s with a PostgreSQL transaction each"

    def columns(self) -> Row:
        return ("connections", "orders/s", "trades", "PostgreSQL CPU an order")

    def rows(self) -> list[Row]:
        return [
            (
                f"{pool.connections}",
                f"{pool.orders_per_second:,.0f}",
                f"{pool.trades:,}",
                "unknown" if pool.postgres_cpu_us_per_order is None else f"{pool.postgres_cpu_us_per_order:.0f} µs",
            )
            for pool in self.pools
        ]

    def draw(self, figure: "Figure") -> None:
        ax = figure.subplots()
        rates = [pool.orders_per_second for pool in self.pools]
        bars = ax.bar([f"{pool.connections} connections" for pool in self.pools], rates, 0.5, color=COLORS["other"])
        ax.bar_label(bars, [f"{rate:,.0f}" for rate in rates], padding=2)
        ax.set(ylabel="orders committed per second", title="baseline: one PostgreSQL transaction an order")
        ax.margins(y=0.15)


async def run(options: Options, board: Board) -> BaselineResult:
    """Each pool with tables of its own."""
    here = machine()
    async with empty_database(options, options.settings) as (local, pid), AsyncExitStack() as stack:
        opened = await store.connect(local.database_url)
        stack.push_async_callback(opened.close)
        version = await opened.fetchval("SHOW server_version")
        pools = [
            await _measure(options, board, opened, server=(local, pid), connections=connections)
            for connections in POOLS
        ]
    return BaselineResult(
        **common(options, here, f"PostgreSQL {version.split()[0]}"),
        orders=options.orders,
        orders_per_second=max(pool.orders_per_second for pool in pools),
        pools=pools,
    )


async def _measure(
    options: Options, board: Board, opened: Any, *, server: tuple[Settings, int | None], connections: int
) -> Pool:
    local, pid = server
    commands: list[Any] = list(FLOWS[options.flow](options.seed + connections, options.orders))
    await opened.execute(TABLES)
    try:
        await opened.executemany("INSERT INTO cards (card) VALUES ($1)", [(card,) for card in CARDS])
        async with asyncpg.create_pool(
            local.database_url,
            min_size=connections,
            max_size=connections,
            server_settings={"search_path": SCHEMA},
        ) as pool:
            task = board.task(f"{connections} connections: committed", len(commands))
            cpu, started = cpu_seconds(pid) if pid else 0.0, time.perf_counter()
            await _place_all(pool, commands, connections, task)
            seconds = time.perf_counter() - started
            cpu = cpu_seconds(pid) - cpu if pid else 0.0
        return Pool(
            connections=connections,
            orders_per_second=len(commands) / seconds,
            trades=await opened.fetchval("SELECT count(*) FROM trades"),
            postgres_cpu_us_per_order=1e6 * cpu / len(commands) if pid else None,
        )
    finally:
        await opened.execute(f"DROP SCHEMA {SCHEMA} CASCADE")


async def _place_all(pool: asyncpg.Pool, commands: Sequence[PlaceOrder], connections: int, task: Task) -> None:
    rest = iter(commands)

    async def worker() -> None:
        async with pool.acquire() as opened:
            for command in rest:
                await _place(opened, command)
                task.advance(1)

    async with asyncio.TaskGroup() as workers:
        for _ in range(connections):
            workers.create_task(worker())


async def _place(opened: Any, placed: PlaceOrder) -> None:
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
