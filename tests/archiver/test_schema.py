"""Migrations on databases that have rows already."""

import asyncio
import io
from collections.abc import Awaitable, Callable
from typing import Any

import asyncpg
import pytest

from archiver import postgres, queries, schema, writer
from archiver.queries import Cursor
from archiver.writer import RowBatch
from core.errors import Unavailable
from engine.codec import ORDER_COLUMNS, TRADE_COLUMNS
from testing.flows import CARDS
from testing.servers import Servers

pytestmark = pytest.mark.server

AT = "2026-01-01T00:00:00.000Z"
ORDERS = f"000000000002,7,buy,500,1,gtc,mine,{AT},1,filled,{AT}\n000000000001,8,sell,500,1,gtc,,{AT},1,filled,{AT}\n"
TRADES = f"000000000001,000000000002,000000000001,7,8,500,1,buy,{AT}\n"
LATER = f"000000000003,9,buy,500,1,ioc,,{AT},0,expired,{AT}\n"
LIMITS = """
    SELECT conrelid::regclass::text AS "table", pg_get_constraintdef(oid) AS key
    FROM pg_constraint WHERE contype = 'p' AND conrelid::regclass::text ~ '^(orders|trades)' ORDER BY 1
"""
EVERYTHING = ("SELECT * FROM orders ORDER BY sequence", "SELECT * FROM trades ORDER BY trade_number")
OLD_PARTITION = "CREATE TABLE {table}_{card} PARTITION OF {table} (card DEFAULT '{card}') FOR VALUES IN ('{card}')"


def on(pair: Servers, work: Callable[[asyncpg.Connection], Awaitable[Any]]) -> Any:
    """What some work on a database without tables gives."""

    async def connected() -> Any:
        database = await postgres.connect(pair.settings.database_url)
        try:
            await database.execute("DROP SCHEMA public CASCADE; CREATE SCHEMA public")
            return await work(database)
        finally:
            await database.close()

    return asyncio.run(connected())


def rows(sequence: int, *, orders: str, trades: str = "") -> RowBatch:
    """Rows of pikachu up to a command."""
    return RowBatch(
        card="pikachu", trades=trades.encode(), orders=orders.encode(), cursor=Cursor(f"{sequence}-0", f"5-{sequence}")
    )


async def first_version(database: asyncpg.Connection) -> None:
    """The database as the first migration left it, with partitions and rows."""
    name, sql = schema.migrations()[0]
    await database.execute(
        "CREATE TABLE schema_migrations (name TEXT PRIMARY KEY, applied_at TIMESTAMPTZ NOT NULL DEFAULT now())"
    )
    await database.execute(sql)
    await database.execute("INSERT INTO schema_migrations (name) VALUES ($1)", name)
    for card in CARDS[:2]:
        for table in ("orders", "trades"):
            await database.execute(OLD_PARTITION.format(table=table, card=card))
    for table, columns, lines in (("orders", ORDER_COLUMNS, ORDERS), ("trades", TRADE_COLUMNS, TRADES)):
        source = io.BytesIO(lines.encode())
        await database.copy_to_table(f"{table}_pikachu", source=source, columns=columns, delimiter=",", null="")
    await database.execute("INSERT INTO archive_cursor VALUES ('pikachu', '2-0', 2, '5-2', now())")


def test_an_archive_of_the_first_version_is_migrated_with_its_rows(pair: Servers) -> None:
    async def migrated(database: asyncpg.Connection) -> tuple[Any, ...]:
        await first_version(database)
        before = [await database.fetch(query) for query in EVERYTHING]
        run = await schema.migrate(database, CARDS)
        again = await schema.migrate(database, CARDS)
        await schema.check(database, CARDS)
        await writer.insert(database, [rows(3, orders=LATER)])
        after = [await database.fetch(query) for query in EVERYTHING]
        return run, again, before, after, await database.fetch(LIMITS)

    run, again, before, after, keys = on(pair, migrated)

    assert run == [name for name, _ in schema.migrations()[1:]]
    assert again == []
    assert [row["sequence"] for row in before[0]] == [1, 2]
    assert [row["sequence"] for row in after[0]] == [1, 2, 3]
    assert [{name: row[name] for name in dict(before[0][0])} for row in after[0][:2]] == [
        dict(row) for row in before[0]
    ]
    assert after[1] == before[1]
    assert len(before[1]) == 1
    assert {row["table"]: row["key"] for row in keys} == {
        f"{table}_{card}": f"PRIMARY KEY ({key})"
        for table, key in (("orders", "sequence"), ("trades", "trade_number"))
        for card in CARDS
    }


def test_a_row_is_not_archived_a_second_time_and_neither_is_anything_beside_it(pair: Servers) -> None:
    async def repeated(database: asyncpg.Connection) -> tuple[int, str]:
        await schema.migrate(database, CARDS)
        await writer.insert(database, [rows(2, orders=ORDERS, trades=TRADES)])
        for twice in (rows(4, orders=LATER, trades=TRADES), rows(4, orders=LATER + ORDERS)):
            with pytest.raises(Unavailable, match="duplicate key"):
                await writer.insert(database, [twice])
        count = await database.fetchval("SELECT count(*) FROM orders")
        return count, (await queries.cursors(database))["pikachu"].event_id

    assert on(pair, repeated) == (2, "2-0")
