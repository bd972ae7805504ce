"""The commands of `tcgx` that ask or change an exchange. What can be typed is in arguments.py."""

import argparse
import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any

import msgspec
from redis.asyncio import Redis

from archiver import history, lag, recovery, schema, store, traders
from archiver.store import Archive
from cli import configuration, datadir, ladder, paths, replay
from cli.arguments import CHECKS
from cli.embedded_redis import RedisServer
from cli.recover import recover
from cli.run_file import running
from core.errors import StartError, TcgxError
from core.settings import Settings, table, variable
from engine import connection, library
from engine.book_reader import BookReader
from exchange import tokens

DATABASE_SECONDS = 2  # how long a warning may take

Command = Callable[[argparse.Namespace, Settings], Awaitable[int]]
"""Gets what was typed, with the sources of the settings as `sources`; the exit code."""


async def _up(arguments: argparse.Namespace, configured: Settings) -> int:
    from cli.up import up  # noqa: PLC0415 - the services with all that they need

    await up(configured, ephemeral=arguments.ephemeral)
    return 0


async def _urls(arguments: argparse.Namespace, configured: Settings) -> int:
    here = running(configured.data_dir)
    if here is None:
        raise StartError(configuration.nothing_runs(configured))
    urls = {"api": here.api, "redis": here.redis, "database": here.database}
    if arguments.json:
        print(json.dumps(urls))
    else:
        for name, url in urls.items():
            print(f"{name:<9} {url}")
    return 0


async def _book(arguments: argparse.Namespace, configured: Settings) -> int:
    if arguments.card not in configured.cards:
        raise StartError(f"there is no card {arguments.card!r}; there are {', '.join(configured.cards)}")
    async with connection.connect(configured.redis_url) as redis:
        depth = await BookReader(redis).depth(arguments.card, arguments.depth)
    print(ladder.ladder(arguments.card, depth, ladder.look_of(sys.stdout, os.environ, arguments.color)))
    return 0


async def _traders(arguments: argparse.Namespace, configured: Settings) -> int:
    if arguments.action == "token":
        if not configured.jwt_secret:
            raise StartError(f"no key to sign with: {configuration.nothing_runs(configured)}, or set TCGX_JWT_SECRET")
        for trader_id in arguments.ids:
            role: tokens.Role = "admin" if arguments.admin else "trader"
            print(tokens.token(configured.jwt_secret, trader_id, role, configured.token_seconds), flush=True)
        if variable("database_url") in arguments.sources:
            await _warn_of_missing(arguments.ids, configured)
        return 0
    paths.check_file(arguments.out)
    async with _database(configured) as database:
        await schema.check(database, configured.cards)
        created = await traders.seed(database, arguments.count, arguments.out)
    where = f"; their API keys are in {arguments.out}" if created else ""
    print(f"created {created} traders, {arguments.count - created} existed{where}")
    return 0


async def _warn_of_missing(ids: Sequence[int], configured: Settings) -> None:
    """Says which traders do not exist. A token is made without the database, so one that is away is no error."""
    with suppress(TcgxError, TimeoutError):
        async with asyncio.timeout(DATABASE_SECONDS), _database(configured) as database:
            for trader_id in await traders.missing(database, ids):
                print(f"tcgx: there is no trader {trader_id}: its token is valid all the same", file=sys.stderr)


async def _replay(arguments: argparse.Namespace, configured: Settings) -> int:
    batch = arguments.batch or configured.match_batch
    if arguments.export:
        paths.check_file(arguments.export)
        async with connection.connect(configured.redis_url) as live:
            count = await replay.export(replay.of_server(live, configured.cards), arguments.export)
        print(f"wrote {count} lines to {arguments.export}")
        return 0
    with datadir.ephemeral() as data_dir:
        local = msgspec.structs.replace(configured, data_dir=str(data_dir), durability="everysec", redis_core="any")
        server = RedisServer(local, datadir.load_secrets(data_dir))
        await server.start()
        try:
            async with connection.connect(server.socket_url) as empty:
                await library.load(empty)
                if arguments.file:
                    outcome = await replay.replay(_as_async(replay.of_file(arguments.file)), empty, batch=batch)
                else:
                    async with connection.connect(configured.redis_url) as live:
                        lines = replay.of_server(live, configured.cards)
                        outcome = await replay.replay(lines, empty, batch=batch)
        finally:
            await server.stop()
    for card, expected, found in outcome:
        print(f"{card:<12} {found} {'same' if found == expected else f'DIFFERS from {expected}'}")
    return 0 if outcome and all(expected == found for _, expected, found in outcome) else 1


async def _as_async(lines: Iterator[replay.Line]) -> AsyncIterator[replay.Line]:
    for line in lines:
        yield line


async def _state_hash(_: argparse.Namespace, configured: Settings) -> int:
    async with connection.connect(configured.redis_url) as redis:
        for card in configured.cards:
            print(f"{card:<12} {await BookReader(redis).state_hash(card)}")
    return 0


async def _migrate(_: argparse.Namespace, configured: Settings) -> int:
    async with _database(configured) as database:
        done = await schema.migrate(database, configured.cards)
        done += await _marked(configured, database)
    print("\n".join(f"ran {name}" for name in done) or "the database is up to date")
    return 0


async def _marked(configured: Settings, database: Any) -> list[str]:
    """Gives histories to data from before there were any, as far as Redis can be asked."""
    async with connection.connect(configured.redis_url) as redis:
        await library.load(redis)
        marked = await recovery.mark_histories(redis, database, configured.cards)
    return [f"a history for the data of {card}" for card in marked]


async def _recover(arguments: argparse.Namespace, configured: Settings) -> int:
    return await recover(configured, yes=arguments.yes, report=arguments.report)


async def _settings(arguments: argparse.Namespace, configured: Settings) -> int:
    rows = [("SETTING", "VALUE", "DEFAULT", "SOURCE", "WHAT IT DOES"), *table(configured, arguments.sources)]
    widths = [min(44, max(len(row[column]) for row in rows)) for column in range(4)]
    for row in rows:
        print("  ".join([*(text.ljust(width) for text, width in zip(row, widths, strict=False)), row[4]]))
    return 0


async def _doctor(arguments: argparse.Namespace, configured: Settings) -> int:
    """Every check is made, whatever the others say."""

    async def on_redis(check: Callable[[Redis], Awaitable[str]]) -> str:
        async with connection.connect(configured.redis_url) as redis:
            return await check(redis)

    async def servers(redis: Redis) -> str:
        await connection.check(redis, durability=configured.durability)
        return "answers, keeps an AOF and evicts nothing"

    async def functions(redis: Redis) -> str:
        return "loaded" if await library.is_loaded(redis) else _fail("the Lua library is missing or another version")

    async def engine(redis: Redis) -> str:
        books = BookReader(redis)
        positions = [(card, await books.position(card)) for card in configured.cards]
        waiting = ", ".join(f"{card} {place.appended - place.matched}" for card, place in positions)
        return f"commands that wait: {waiting}" if await books.has_engine() else _fail(f"no engine; waiting: {waiting}")

    async def database() -> str:
        async with _database(configured) as opened:
            await schema.check(opened, configured.cards)
            others = await store.untraded(opened, configured.cards)
        lost = f"; orders of cards that are not traded (TCGX_CARDS): {', '.join(others)}" if others else ""
        return f"answers, every migration has been run{lost}"

    async def archiver() -> str:
        async with store.pool(configured.database_url) as pool, connection.connect(configured.redis_url) as redis:
            archive = Archive(pool)
            lags = await lag.lag(redis, await archive.cursors(configured.cards))
            behind = ", ".join(f"{one.card} {one.commands} ({one.seconds:.1f} s)" for one in lags)
            sentence = f"commands not archived: {behind}"
            return sentence if await archive.has_archiver() else _fail(f"no archiver; {sentence}")

    async def histories() -> str:
        async with _database(configured) as opened, connection.connect(configured.redis_url) as redis:
            compared = await history.compare(redis, opened, configured.cards)
        faults = [comparison.verdict.sentence for comparison in compared.values() if comparison.verdict.fault]
        return _fail("; ".join(faults)) if faults else "log and archive of every card belong together"

    checks: dict[str, Callable[[], Awaitable[str]]] = {
        "redis": lambda: on_redis(servers),
        "functions": lambda: on_redis(functions),
        "engine": lambda: on_redis(engine),
        "database": database,
        "archiver": archiver,
        "history": histories,
    }
    failures = 0
    for name in [arguments.only] if arguments.only else CHECKS:
        try:
            print(f"ok    {name:<10} {await checks[name]()}")
        except TcgxError as error:
            failures += 1
            print(f"FAIL  {name:<10} {error}")
    if failures and variable("redis_url") not in arguments.sources:
        print(f"tcgx: {configuration.nothing_runs(configured)}", file=sys.stderr)
    return 1 if failures else 0


def _fail(sentence: str) -> str:
    raise StartError(sentence)


@asynccontextmanager
async def _database(configured: Settings) -> AsyncIterator[Any]:
    opened = await store.connect(configured.database_url)
    try:
        yield opened
    finally:
        await opened.close()


COMMANDS: Mapping[str, Command] = {
    "up": _up,
    "urls": _urls,
    "book": _book,
    "traders": _traders,
    "replay": _replay,
    "state-hash": _state_hash,
    "migrate": _migrate,
    "recover": _recover,
    "settings": _settings,
    "doctor": _doctor,
}
