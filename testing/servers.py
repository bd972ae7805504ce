"""Redis and PostgreSQL for tests and benchmarks, on free ports and private sockets, in temporary folders.

Several runs may use one machine at once: each server has a folder of its own and is stopped by its process id.
"""

import asyncio
import atexit
import os
import random
import secrets
import shutil
import socket
import subprocess
import tempfile
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import ExitStack, asynccontextmanager, contextmanager, suppress
from functools import cache
from itertools import count
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

import asyncpg
import msgspec
from redis import Redis, RedisCluster
from redis.backoff import NoBackoff
from redis.cluster import ClusterNode
from redis.retry import Retry

from archiver import postgres, schema
from cli import datadir
from cli.datadir import Secrets
from cli.embedded import NoAnswer
from cli.embedded_postgres import PostgresServer
from cli.embedded_redis import RedisServer
from core import urls
from core.settings import Settings
from engine import connection, keys, library
from engine.primary import NotPrimary
from testing.faults import crash
from testing.services import Service

PORTS = (15_000, 30_000)  # below those that the kernel gives to outgoing connections
CLIENT_SECONDS = 60
KEEP_ALL = 1_000_000_000
"""A retention with which the whole log is kept, so that the oracle can read it."""


def free_port() -> int:
    """A port of 127.0.0.1 on which nothing listens."""
    choose = random.SystemRandom()
    while True:
        port = choose.randrange(*PORTS)
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


@contextmanager
def folder() -> Iterator[Path]:
    """A folder that every user can pass through (root's PostgreSQL is another user), removed with what is in it."""
    made = Path(tempfile.mkdtemp(prefix="tcgx-test-"))
    made.chmod(0o755)
    try:
        yield made
    finally:
        for data_dir in {path.parent for path in made.rglob("secrets.json")}:
            datadir.remove(data_dir)
        shutil.rmtree(made)


class ConfiguredRedis(RedisServer):
    """A Redis with more lines of configuration, which may change those of before."""

    def __init__(self, local: Settings, loaded: Secrets, *lines: str) -> None:
        super().__init__(local, loaded)
        self._lines = lines

    def _configuration(self) -> str:
        return "".join([super()._configuration(), *(f"{line}\n" for line in self._lines)])

    async def _try(self) -> None:
        try:
            await super()._try()
        except NoAnswer as error:
            if not isinstance(error.__cause__, NotPrimary):  # a replica answers, too
                raise


@contextmanager
def redis_with(*lines: str, **changes: Any) -> Iterator[RedisServer]:
    """A running Redis of its own with these lines and changed settings."""
    with datadir.ephemeral() as data_dir:
        local = Settings(data_dir=str(data_dir), redis_core="any", **changes)
        server = ConfiguredRedis(local, datadir.load_secrets(data_dir), *lines)
        asyncio.run(server.start())
        try:
            yield server
        finally:
            asyncio.run(server.stop())


@asynccontextmanager
async def throwaway_redis(local: Settings, *lines: str) -> AsyncIterator[RedisServer]:
    """A running Redis with these settings, in a folder of its own that is removed at the end."""
    with datadir.ephemeral() as data_dir:
        placed = msgspec.structs.replace(local, data_dir=str(data_dir))
        server = ConfiguredRedis(placed, datadir.load_secrets(data_dir), *lines)
        await server.start()
        try:
            yield server
        finally:
            await server.stop()


@asynccontextmanager
async def throwaway_postgres(local: Settings) -> AsyncIterator[PostgresServer]:
    """The same for PostgreSQL."""
    with datadir.ephemeral() as data_dir:
        server = PostgresServer(msgspec.structs.replace(local, data_dir=str(data_dir)), datadir.load_secrets(data_dir))
        await server.start()
        try:
            yield server
        finally:
            await server.stop()


async def load_library(url: str) -> None:
    """Loads the Lua library."""
    async with connection.connect(url) as client:
        await library.load(client)


class LoadedRedis:
    """A Redis that has the Lua library, and the clients that were made for it."""

    def __init__(self, data_dir: Path, **changes: Any) -> None:
        program = os.environ.get("TCGX_REDIS_BIN", "")
        changes = {"redis_bin": program} | changes
        local = Settings(data_dir=str(data_dir), redis_core="any", durability="everysec", **changes)
        self._server = RedisServer(local, datadir.load_secrets(data_dir))
        self._clients: list[Redis] = []

    @property
    def url(self) -> str:
        """The URL of its socket. Known once started."""
        return self._server.socket_url

    def start(self) -> None:
        """Starts it on the data that it has; it answers and has the library when this returns."""
        asyncio.run(self._server.start())
        asyncio.run(load_library(self.url))

    def stop(self) -> None:
        """Stops it as a service manager does: it writes its data and ends."""
        self._close_clients()
        asyncio.run(self._server.stop())

    def kill(self) -> None:
        """Ends it without a warning. What it has acknowledged, the operating system has."""
        self._close_clients()
        asyncio.run(crash(self._server))

    def client(self) -> Redis:
        """A new client, closed when the server stops. It sends nothing twice."""
        self._clients.append(client_of(self.url))
        return self._clients[-1]

    def _close_clients(self) -> None:
        for client in self._clients:
            client.close()
        self._clients.clear()


def client_of(url: str) -> Redis:
    """A client that sends nothing twice. That of a cluster follows its servers, and has the same commands for keys."""
    if urls.names_cluster(url):
        address = urls.cluster_address(url)
        node: Any = ClusterNode  # redis-py does not type it
        seeds = [node(*seed) for seed in address.seeds]
        part = urlsplit(address.url_of(*address.seeds[0]))
        of_cluster: Any = RedisCluster  # redis-py types no options of a dictionary
        cluster: Any = of_cluster(
            startup_nodes=seeds,
            password=unquote(part.password or ""),
            ssl=part.scheme == "rediss",
            socket_timeout=CLIENT_SECONDS,
            **dict(parse_qsl(part.query)),
        )
        client: Redis = cluster
        return client
    return Redis.from_url(url, retry=Retry(NoBackoff(), 0), socket_timeout=CLIENT_SECONDS)


def sequences_of(client: Redis, cards: Sequence[str]) -> dict[str, int]:
    """How many commands each log has had. Each key is asked for by itself: two cards may be at two servers."""
    untyped: Any = client
    return {card: int(untyped.get(keys.key(card, "sequence")) or 0) for card in cards}


@contextmanager
def loaded_redis(**changes: Any) -> Iterator[LoadedRedis]:
    """A running one, gone at the end."""
    with datadir.ephemeral() as data_dir:
        server = LoadedRedis(data_dir, **changes)
        try:
            server.start()
            yield server
        finally:
            server.stop()


@cache
def _template() -> Path:
    """A data directory with an empty PostgreSQL, made once and removed with this process: initdb takes seconds."""
    stack = ExitStack()
    atexit.register(stack.close)
    data_dir = stack.enter_context(datadir.ephemeral())

    async def make() -> None:
        server = PostgresServer(Settings(data_dir=str(data_dir)), datadir.load_secrets(data_dir))
        await server.start()
        await server.stop()

    asyncio.run(make())
    return data_dir


def copy_template(data_dir: Path) -> None:
    """Gives a new data directory a PostgreSQL that is made, its password, and other secrets of its own."""
    made = datadir.load_secrets(_template())
    own = msgspec.structs.replace(made, redis_password=secrets.token_hex(24), jwt_secret=secrets.token_hex(32))
    datadir.write_private(data_dir / "secrets.json", msgspec.json.encode(own))
    subprocess.run(["cp", "-a", (_template() / "postgres").resolve(), data_dir / "postgres"], check=True)


class Servers:
    """A Redis and a PostgreSQL as `tcgx up` has them, without services."""

    def __init__(
        self,
        data_dir: Path,
        *,
        redis_lines: Sequence[str] = (),
        redis: Any = None,
        postgres: Any = None,
        **changes: Any,
    ) -> None:
        """`redis_lines` are added to the configuration of Redis, `changes` are settings by their field's name.

        `redis`, `postgres`: servers to use instead, with `start`, `stop` and `socket_url` or `url`.
        """
        copy_template(data_dir)
        loaded = datadir.load_secrets(data_dir)
        self._local = Settings(**{"data_dir": str(data_dir), "jwt_secret": loaded.jwt_secret, **changes})
        self.data_dir = data_dir
        self.redis = redis or ConfiguredRedis(self._local, loaded, *redis_lines)
        self.postgres = postgres or PostgresServer(self._local, loaded)
        self._numbers = count(1)

    @property
    def base(self) -> Settings:
        """The settings without the addresses of the servers."""
        return self._local

    @property
    def settings(self) -> Settings:
        """The settings of services on these servers. Known once started."""
        return msgspec.structs.replace(self._local, redis_url=self.redis.socket_url, database_url=self.postgres.url)

    def change(self, **changes: Any) -> None:
        """Changes settings of services that are started from now on, by their field's name."""
        self._local = msgspec.structs.replace(self._local, **changes)

    async def start(self) -> None:
        """Starts both, makes the tables of the archive, and loads the library."""
        await asyncio.gather(self.redis.start(), self.postgres.start())
        await self._prepare()

    async def stop(self) -> None:
        """Stops both."""
        await asyncio.gather(self.redis.stop(), self.postgres.stop())

    async def empty(self) -> None:
        """Makes both as they were at the start. Services must be stopped."""
        async with connection.connect(self.settings.redis_url) as client:
            await client.flushall()
        await _execute(self.settings.database_url, "DROP SCHEMA public CASCADE; CREATE SCHEMA public")
        await self._prepare()

    async def _prepare(self) -> None:
        await load_library(self.settings.redis_url)
        database = await postgres.connect(self.settings.database_url)
        try:
            await schema.migrate(database, self._local.cards)
        finally:
            await database.close()

    def archived(self) -> dict[str, int]:
        """The last archived command of each card."""
        rows = fetch(self.settings.database_url, "SELECT card, sequence FROM archive_cursor")
        return {row["card"]: row["sequence"] for row in rows}

    def service(self, name: str, **changes: Any) -> Service:
        """Starts a service on them, with these settings changed."""
        local = msgspec.structs.replace(self.settings, **changes)
        return Service(name, local, self.data_dir / f"{name}-{next(self._numbers)}.output")


async def _execute(database_url: str, sql: str) -> None:
    database = await postgres.connect(database_url)
    try:
        await database.execute(sql)
    finally:
        await database.close()


@contextmanager
def servers(**changes: Any) -> Iterator[Servers]:
    """Running ones, gone at the end. The whole log is kept unless `changes` say otherwise."""
    with datadir.ephemeral() as data_dir:
        made = Servers(data_dir, **{"log_retention": KEEP_ALL, **changes})
        try:
            asyncio.run(made.start())
            yield made
        finally:
            asyncio.run(made.stop())


def fetch(database_url: str, query: str, *arguments: object) -> list[dict[str, Any]]:
    """The rows of a query."""

    async def rows() -> list[dict[str, Any]]:
        database = await asyncpg.connect(database_url)
        try:
            return [dict(row) for row in await database.fetch(query, *arguments)]
        finally:
            await database.close()

    return asyncio.run(rows())
