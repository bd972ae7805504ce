"""`tcgx doctor`: says of each part whether it works, and why not; the judgement is that of `/health/ready`."""

import argparse
import asyncio
import sys
from collections.abc import Awaitable, Callable, Mapping

from archiver import history, queries, schema
from cli import configuration
from cli.arguments import CHECKS
from cli.database import open_database
from core.errors import StartError, TcgxError
from core.settings import Settings, variable
from engine import connection
from exchange import health_report, readiness
from exchange.health_report import MISSING, WARNING, ArchiverPart, EnginePart, Part, RedisPart, Report

PART_OF = {"database": "postgresql"}
"""The parts of a report that have another name here."""

ANSWER_SECONDS = 2.0

Check = Callable[[Settings], Awaitable[str]]
"""Returns a sentence about what works; raises a TcgxError for a fault."""


async def run(arguments: argparse.Namespace, configured: Settings) -> int:
    """Runs every check, even after a failure; the exit code is 1 if one fails. A warning is no failure."""
    failures = 0
    report = await _report(configured)
    for name in [arguments.only] if arguments.only else CHECKS:
        part = report.parts()[PART_OF.get(name, name)]
        try:
            if not part.works:
                raise await _explained(configured, name, part)
            more = await MORE[name](configured) if name in MORE else _details(part)
            word, text = ("WARN", part.reason) if part.status == WARNING else ("ok", more)
            print(f"{word:<5} {name:<10} {text}")
        except TcgxError as error:
            failures += 1
            print(f"FAIL  {name:<10} {error}")
    if failures and variable("redis_url") not in arguments.sources:
        print(f"tcgx: {configuration.not_running_text(configured)}", file=sys.stderr)
    return 1 if failures else 0


async def _report(configured: Settings) -> Report:
    """A report. Where commands wait, a second one shows whether the engine matches them."""
    async with readiness.connect(configured, None, answer_seconds=ANSWER_SECONDS) as health:
        report = await health.report()
        if report.engine.works and report.engine.waiting_commands:
            await asyncio.sleep(health_report.STILL_SECONDS_MAX + readiness.CACHE_SECONDS)
            report = await health.report()
    return report


async def _explained(configured: Settings, name: str, part: Part) -> TcgxError:
    """The error of a part that does not work. A server that refuses a password is asked once more for its reason."""
    if part.status == MISSING and name in ("redis", "database"):
        try:
            await _REFUSALS[name](configured)
        except TcgxError as error:
            return error
    reason = part.reason or "Redis, which knows it, does not answer"
    if part.cause.startswith(reason):  # the text of an error, of which the reason is the beginning
        return StartError(part.cause)
    return StartError(f"{reason} ({part.cause})" if part.cause else reason)


async def _check_redis(configured: Settings) -> None:
    async with connection.connect(configured.redis_url) as redis:
        await connection.check(redis, durability=configured.durability)


async def _check_database(configured: Settings) -> None:
    async with open_database(configured) as opened:
        await schema.check(opened, configured.cards)


_REFUSALS: Mapping[str, Callable[[Settings], Awaitable[None]]] = {"redis": _check_redis, "database": _check_database}


def _details(part: Part) -> str:
    """What a part that works is doing."""
    if isinstance(part, EnginePart):
        return f"heartbeat {_seconds(part.heartbeat_seconds)} old; commands that wait: {part.waiting_commands}"
    if isinstance(part, ArchiverPart):
        behind = f"{part.lag_commands} ({_seconds(part.lag_seconds)})"
        return f"heartbeat {_seconds(part.heartbeat_seconds)} old; commands not archived: {behind}"
    return "there is room for commands that wait" if not isinstance(part, RedisPart) else _memory(part)


def _memory(part: RedisPart) -> str:
    used = f"{(part.memory_used_bytes or 0) / 1_000_000:,.1f}"
    bound = f" of {part.memory_max_bytes / 1_000_000:,.1f}" if part.memory_max_bytes else ""
    return f"{part.role or 'server'}, AOF {part.aof or 'unknown'}, evicts nothing; {used}{bound} MB are used"


def _seconds(seconds: float | None) -> str:
    return "unknown" if seconds is None else f"{seconds:.1f} s"


async def _functions(_: Settings) -> str:
    return "loaded"


async def _database(configured: Settings) -> str:
    async with open_database(configured) as opened:
        await schema.check(opened, configured.cards)
        others = await queries.untraded_cards(opened, configured.cards)
    lost = f"; orders of cards that are not traded (TCGX_CARDS): {', '.join(others)}" if others else ""
    return f"answers, every migration has been run{lost}"


async def _history(configured: Settings) -> str:
    async with open_database(configured) as opened, connection.connect(configured.redis_url) as redis:
        compared = await history.compare(redis, opened, configured.cards)
    faults = [comparison.verdict.sentence for comparison in compared.values() if comparison.verdict.fault]
    if faults:
        raise StartError("; ".join(faults))
    return "log and archive of every card belong together"


MORE: Mapping[str, Check] = {"functions": _functions, "database": _database, "history": _history}
"""Checks beyond the report, which take longer than a probe may."""
