"""`tcgx rebuild-archive`: rows that the archive has lost, made of the log again."""

import argparse
from collections.abc import Sequence

import asyncpg
import msgspec
from redis.asyncio import Redis

from archiver import rebuild, schema
from archiver.history import Fault, compare
from archiver.rebuild import RebuildPlan
from cli import datadir
from cli.database import open_database
from cli.embedded_redis import RedisServer
from cli.progress import Progress
from core.errors import StartError
from core.settings import Settings
from engine import connection, library


async def run(_: argparse.Namespace, configured: Settings) -> int:
    """Rebuilds the archive of each card whose archive is older than its log; the others stay as they are.

    Raises:
        StartError: log and archive of a card have parted in another way, or a log does not reach back to its beginning.
        Unavailable: a server does not answer.
    """
    async with open_database(configured) as database, connection.connect(configured.redis_url) as redis:
        await schema.check(database, configured.cards)
        await library.load(redis)
        plans = await _plans(redis, database, configured.cards)
        if not plans:
            print("the archive of every card continues its log: there is nothing to rebuild")
            return 0
        for plan in plans:
            await _rebuild(redis, database, plan, configured)
            print(f"{plan.card}: archived what commands {plan.archived + 1} to {plan.last} completed")
    return 0


async def _plans(redis: Redis, database: asyncpg.Connection, cards: Sequence[str]) -> list[RebuildPlan]:
    """The plans of all cards. All are checked before the first one is carried out."""
    plans = []
    for card, comparison in (await compare(redis, database, cards)).items():
        verdict = comparison.verdict
        if verdict.fault is None:
            continue
        if verdict.fault is not Fault.ARCHIVE_OLDER:
            raise StartError(verdict.sentence)
        plans.append(rebuild.plan(card, comparison))
    for plan in plans:
        await rebuild.check(redis, plan)
    return plans


async def _rebuild(redis: Redis, database: asyncpg.Connection, plan: RebuildPlan, configured: Settings) -> None:
    """Runs the log of a card through a throw-away server."""
    with datadir.ephemeral() as data_dir:
        local = msgspec.structs.replace(configured, data_dir=str(data_dir), durability="everysec", redis_core="any")
        server = RedisServer(local, datadir.load_secrets(data_dir))
        await server.start()
        progress = Progress(plan.card, plan.last, unit="commands")
        try:
            async with connection.connect(server.socket_url) as empty:
                await library.load(empty)
                await rebuild.rebuild(redis, empty, database, plan, progress.add)
        finally:
            progress.end()
            await server.stop()
