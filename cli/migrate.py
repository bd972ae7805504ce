"""`tcgx migrate`: brings the database, and data of earlier versions, up to date."""

import argparse
import asyncio
from typing import Any

from archiver import candles, recovery, schema
from cli.database import open_database
from cli.progress import Progress
from core.errors import Unavailable
from core.service import wait_at_start
from core.settings import Settings
from engine import connection, library, loading


async def run(_: argparse.Namespace, configured: Settings) -> int:
    """Runs the migrations that have not been run, and prints their names.

    It waits for servers that do not answer yet as services do (`TCGX_START_SECONDS`).
    """
    never = asyncio.Event()
    await wait_at_start("waiting for PostgreSQL", lambda: _why_no_database(configured), configured.start_seconds, never)
    async with connection.connect(configured.redis_url) as redis:
        await loading.wait_until_loaded(redis, never, seconds=configured.start_seconds)
    async with open_database(configured) as database:
        done = await schema.migrate(database, configured.cards)
        done += await _make_candles(configured, database)
        done += await _mark_histories(configured, database)
    print("\n".join(f"ran {name}" for name in done) or "the database is up to date")
    return 0


async def _why_no_database(configured: Settings) -> str:
    try:
        async with open_database(configured):
            return ""
    except Unavailable as error:
        return str(error)


async def _make_candles(configured: Settings, database: Any) -> list[str]:
    """Makes the candles of trades that a version without candles has archived; returns a line if there were any."""
    missing = await candles.missing(database, configured.cards)
    if not missing:
        return []
    progress = Progress("candles", missing, unit="trades")
    try:
        added = await candles.catch_up(database, configured.cards, progress.add)
    finally:
        progress.end()
    return [f"candles of {added:,} trades"]


async def _mark_histories(configured: Settings, database: Any) -> list[str]:
    """Gives a history to the data of versions that had none; returns a line for each card."""
    async with connection.connect(configured.redis_url) as redis:
        await library.load(redis)
        marked = await recovery.mark_histories(redis, database, configured.cards)
    return [f"a history for the data of {card}" for card in marked]
