"""The command `tcgx`."""

import argparse
import json
import os
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import uvloop
from redis.asyncio import Redis

from archiver import lag, schema, store, traders
from archiver.store import Archive
from bench import command as benches
from bench.options import add_benches
from cli import datadir, ladder, replay
from cli.embedded_redis import RedisServer
from cli.up import running, up
from engine import connection, library, life, trust
from engine.books import Books
from engine.errors import StartError, TcgxError
from engine.settings import Settings, check, read, table, variable

CHECKS = ("redis", "functions", "engine", "database", "archiver")

Command = Callable[[argparse.Namespace, Settings], Awaitable[int]]


def main() -> int:
    """Runs a command; the exit code is 1 for an error of ours, which is printed as a sentence."""
    arguments = _parser().parse_args()
    try:
        configured = _configured(arguments)
        life.configure_logging(configured, "tcgx")
        command: Command = arguments.command
        return uvloop.run(_awaited(command(arguments, configured)))
    except TcgxError as error:
        print(f"tcgx: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


async def _awaited(work: Awaitable[int]) -> int:
    return await work


def _configured(arguments: argparse.Namespace) -> Settings:
    """Settings from the environment, options, and the exchange that runs in the data directory, in this order."""
    configured = read(os.environ)
    options = {
        name: getattr(arguments, name) for name in ("data_dir", "port") if getattr(arguments, name, None) is not None
    }
    configured = msgspec.structs.replace(configured, **options)
    check(configured)
    if arguments.name in ("up", "bench"):
        return configured
    here = running(configured.data_dir)
    if here is not None:
        found = {"redis_url": here.redis, "database_url": here.database, "jwt_secret": here.jwt_secret}
        missing = {name: value for name, value in found.items() if variable(name) not in os.environ}
        configured = msgspec.structs.replace(configured, **missing)
    return configured


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="tcgx", description="A trading platform for Pokémon cards.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND", dest="name")

    def add(name: str, command: Command, summary: str) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=summary, description=summary)
        sub.set_defaults(command=command)
        sub.add_argument("--data-dir", help="where `tcgx up` keeps its data (TCGX_DATA_DIR, ./.tcgx)")
        return sub

    sub = add("up", _up, "run the whole exchange on this machine until Ctrl-C")
    sub.add_argument("--ephemeral", action="store_true", help="keep nothing")
    sub.add_argument("--port", type=int, help="the port of the API (TCGX_PORT, 8000)")
    add("urls", _urls, "where the running exchange is reached").add_argument("--json", action="store_true")
    sub = add("book", _book, "draw a card's order book")
    sub.add_argument("card")
    sub.add_argument("--depth", type=_positive, default=15, help="levels a side")
    sub = add("traders", _traders, "create traders, or make access tokens for them")
    actions = sub.add_subparsers(required=True, dest="action", metavar="ACTION")
    seed = actions.add_parser("seed", help="create traders with random API keys")
    seed.add_argument("--count", type=_positive, default=10_000)
    seed.add_argument("--out", type=Path, required=True, help="the CSV file that gets trader_id,api_key")
    token = actions.add_parser("token", help="print an access token a line")
    token.add_argument("ids", type=_positive, nargs="+", metavar="ID")
    token.add_argument("--admin", action="store_true", help="with the role admin")
    sub = add("replay", _replay, "run a log through an empty server and compare the state hash")
    sub.add_argument("--file", type=Path, help="a file that --export wrote, instead of the live server")
    sub.add_argument("--export", type=Path, help="write the live server's log to this file, and replay nothing")
    sub.add_argument(
        "--batch", type=_positive, help=f"commands a match call (TCGX_MATCH_BATCH, {Settings().match_batch:,})"
    )
    add("state-hash", _state_hash, "a hash over each card's books, open orders and cursor")
    add("migrate", _migrate, "bring the database up to date")
    add("settings", _settings, "every setting with its value, default and source")
    sub = add("doctor", _doctor, "check the servers, the database and how far everything is")
    sub.add_argument("--only", choices=CHECKS, help="this check alone")
    summary = "benchmarks, on throw-away servers"
    sub = commands.add_parser("bench", help=summary, description=summary)
    sub.set_defaults(command=benches.bench)
    add_benches(sub)
    return parser


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text} must be at least 1")
    return number


async def _up(arguments: argparse.Namespace, configured: Settings) -> int:
    await up(configured, ephemeral=arguments.ephemeral)
    return 0


async def _urls(arguments: argparse.Namespace, configured: Settings) -> int:
    here = running(configured.data_dir)
    if here is None:
        raise StartError(f"no exchange runs in {configured.data_dir}: start one with `tcgx up`")
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
        print(ladder.ladder(arguments.card, await Books(redis).depth(arguments.card, arguments.depth)))
    return 0


async def _traders(arguments: argparse.Namespace, configured: Settings) -> int:
    if arguments.action == "token":
        if not configured.jwt_secret:
            raise StartError("no key to sign with: start `tcgx up` in this data directory, or set TCGX_JWT_SECRET")
        for trader_id in arguments.ids:
            role: trust.Role = "admin" if arguments.admin else "trader"
            print(trust.token(configured.jwt_secret, trader_id, role, configured.token_seconds))
        return 0
    async with _database(configured) as database:
        await schema.check(database, configured.cards)
        created = await traders.seed(database, arguments.count, arguments.out)
    where = f"; their API keys are in {arguments.out}" if created else ""
    print(f"created {created} traders, {arguments.count - created} existed{where}")
    return 0


async def _replay(arguments: argparse.Namespace, configured: Settings) -> int:
    batch = arguments.batch or configured.match_batch
    if arguments.export:
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
            print(f"{card:<12} {await Books(redis).state_hash(card)}")
    return 0


async def _migrate(_: argparse.Namespace, configured: Settings) -> int:
    async with _database(configured) as database:
        done = await schema.migrate(database, configured.cards)
    print("\n".join(f"ran {name}" for name in done) or "the database is up to date")
    return 0


async def _settings(_: argparse.Namespace, configured: Settings) -> int:
    rows = [("SETTING", "VALUE", "DEFAULT", "SOURCE", "WHAT IT DOES"), *table(configured, os.environ)]
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
        books = Books(redis)
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

    checks: dict[str, Callable[[], Awaitable[str]]] = {
        "redis": lambda: on_redis(servers),
        "functions": lambda: on_redis(functions),
        "engine": lambda: on_redis(engine),
        "database": database,
        "archiver": archiver,
    }
    failures = 0
    for name in [arguments.only] if arguments.only else CHECKS:
        try:
            print(f"ok    {name:<10} {await checks[name]()}")
        except TcgxError as error:
            failures += 1
            print(f"FAIL  {name:<10} {error}")
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


if __name__ == "__main__":
    sys.exit(main())
