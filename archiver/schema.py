"""Migrations: SQL files that run once each, in order, under a lock. Then each card gets its partitions."""

from collections.abc import Sequence
from importlib.resources import files

import asyncpg

from archiver.postgres import postgres_errors
from core.errors import StartError

LOCK = 0x7463_6778_0001
"""The advisory lock of PostgreSQL that a migrating process holds."""

MIGRATE_SECONDS = 3_600
"""The timeout of a migration, and of the wait for the lock. A migration may index all rows of a table."""

PRIMARY_KEYS = {"orders": "sequence", "trades": "trade_number"}
"""The primary key of each table's partitions."""


def migrations() -> list[tuple[str, str]]:
    """The name and the SQL of every migration, in order."""
    folder = files("archiver") / "migrations"
    scripts = [
        (entry.name.removesuffix(".sql"), entry.read_text()) for entry in folder.iterdir() if entry.name[0].isdigit()
    ]
    return sorted(scripts)


async def migrate(connection: asyncpg.Connection, cards: Sequence[str]) -> list[str]:
    """Runs the missing migrations and returns their names. Creates the missing partitions of the cards.

    Raises:
        Unavailable: PostgreSQL does not answer.
    """
    with postgres_errors():
        return await _migrate(connection, cards)


async def _migrate(connection: asyncpg.Connection, cards: Sequence[str]) -> list[str]:
    await connection.execute("SELECT pg_advisory_lock($1)", LOCK, timeout=MIGRATE_SECONDS)
    try:
        async with connection.transaction():
            await connection.execute(
                "CREATE TABLE IF NOT EXISTS schema_migrations "
                "(name TEXT PRIMARY KEY, applied_at TIMESTAMPTZ NOT NULL DEFAULT now())"
            )
        applied = await _applied(connection)
        pending = [(name, sql) for name, sql in migrations() if name not in applied]
        for name, sql in pending:
            async with connection.transaction():
                await connection.execute(sql, timeout=MIGRATE_SECONDS)
                await connection.execute("INSERT INTO schema_migrations (name) VALUES ($1)", name)
        for card in cards:
            await _create_partitions(connection, card)
    finally:
        await connection.execute("SELECT pg_advisory_unlock($1)", LOCK)
    return [name for name, _ in pending]


async def why_not(connection: asyncpg.Connection, cards: Sequence[str]) -> str:
    """What `check` finds missing; empty if nothing is.

    Raises:
        Unavailable: PostgreSQL does not answer.
    """
    try:
        await check(connection, cards)
    except StartError as error:
        return str(error)
    return ""


async def check(connection: asyncpg.Connection, cards: Sequence[str]) -> None:
    """Checks that every migration has been run and every card has its partitions.

    Raises:
        StartError: a migration or a partition is missing.
        Unavailable: PostgreSQL does not answer.
    """
    with postgres_errors():
        await _check(connection, cards)


async def _check(connection: asyncpg.Connection, cards: Sequence[str]) -> None:
    exists = await connection.fetchval("SELECT to_regclass('schema_migrations') IS NOT NULL")
    applied = await _applied(connection) if exists else set()
    missing = [name for name, _ in migrations() if name not in applied]
    if missing:
        raise StartError(f"The database lacks the migrations {', '.join(missing)}: run `tcgx migrate`")
    for card in cards:
        if await connection.fetchval("SELECT to_regclass($1) IS NULL", f"orders_{card}"):
            raise StartError(f"The database has no partition for the card {card}: run `tcgx migrate`")


async def _applied(connection: asyncpg.Connection) -> set[str]:
    return {row["name"] for row in await connection.fetch("SELECT name FROM schema_migrations")}


async def _create_partitions(connection: asyncpg.Connection, card: str) -> None:
    # The name of a card has only lower-case letters, digits and _, which core/settings.py checks.
    for table, key in PRIMARY_KEYS.items():
        await connection.execute(
            f"CREATE TABLE IF NOT EXISTS {table}_{card} PARTITION OF {table} (card DEFAULT '{card}', "
            f"PRIMARY KEY ({key})) FOR VALUES IN ('{card}')"
        )
