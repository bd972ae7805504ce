"""`tcgx doctor`: checks the servers, the database, and the progress of engine and archiver."""

import argparse
import sys
from collections.abc import Awaitable, Callable, Mapping

from archiver import history, lag, postgres, queries, schema
from archiver.queries import Archive
from cli import configuration
from cli.arguments import CHECKS
from cli.database import open_database
from core.errors import StartError, TcgxError
from core.settings import Settings, variable
from engine import connection, library
from engine.book_reader import BookReader

Check = Callable[[Settings], Awaitable[str]]
"""Returns a sentence about what works; raises a TcgxError for a fault."""


async def run(arguments: argparse.Namespace, configured: Settings) -> int:
    """Runs every check, even after a failure; the exit code is 1 if one fails."""
    failures = 0
    for name in [arguments.only] if arguments.only else CHECKS:
        try:
            print(f"ok    {name:<10} {await CHECK_OF[name](configured)}")
        except TcgxError as error:
            failures += 1
            print(f"FAIL  {name:<10} {error}")
    if failures and variable("redis_url") not in arguments.sources:
        print(f"tcgx: {configuration.not_running_text(configured)}", file=sys.stderr)
    return 1 if failures else 0


async def _redis(configured: Settings) -> str:
    async with connection.connect(configured.redis_url) as redis:
        await connection.check(redis, durability=configured.durability)
    return "answers, keeps an AOF and evicts nothing"


async def _functions(configured: Settings) -> str:
    async with connection.connect(configured.redis_url) as redis:
        if not await library.is_loaded(redis):
            raise StartError("the Lua library is missing or another version")
    return "loaded"


async def _engine(configured: Settings) -> str:
    async with connection.connect(configured.redis_url) as redis:
        books = BookReader(redis)
        positions = [(card, await books.position(card)) for card in configured.cards]
        waiting = ", ".join(f"{card} {place.appended - place.matched}" for card, place in positions)
        if not await books.has_engine():
            raise StartError(f"no engine; waiting: {waiting}")
    return f"commands that wait: {waiting}"


async def _database(configured: Settings) -> str:
    async with open_database(configured) as opened:
        await schema.check(opened, configured.cards)
        others = await queries.untraded_cards(opened, configured.cards)
    lost = f"; orders of cards that are not traded (TCGX_CARDS): {', '.join(others)}" if others else ""
    return f"answers, every migration has been run{lost}"


async def _archiver(configured: Settings) -> str:
    async with postgres.pool(configured.database_url) as pool, connection.connect(configured.redis_url) as redis:
        archive = Archive(pool)
        lags = await lag.lag(redis, await archive.cursors(configured.cards))
        behind = ", ".join(f"{one.card} {one.commands} ({one.seconds:.1f} s)" for one in lags)
        sentence = f"commands not archived: {behind}"
        if not await archive.has_archiver():
            raise StartError(f"no archiver; {sentence}")
    return sentence


async def _history(configured: Settings) -> str:
    async with open_database(configured) as opened, connection.connect(configured.redis_url) as redis:
        compared = await history.compare(redis, opened, configured.cards)
    faults = [comparison.verdict.sentence for comparison in compared.values() if comparison.verdict.fault]
    if faults:
        raise StartError("; ".join(faults))
    return "log and archive of every card belong together"


CHECK_OF: Mapping[str, Check] = {
    "redis": _redis,
    "functions": _functions,
    "engine": _engine,
    "database": _database,
    "archiver": _archiver,
    "history": _history,
}
