"""The servers and services that are measured: throw-away ones of this machine, or others that must be empty.

Others are left as they were found: what a benchmark wrote there it removes, and it starts only where nothing of tcgx
lies, so nothing else can be removed.
"""

import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import redis.exceptions
from redis.asyncio import Redis

from archiver import postgres, schema
from archiver.queries import Archive
from bench.machine import cpu_seconds
from bench.options import Options
from cli import datadir
from core.errors import StartError, TcgxError
from core.settings import Settings
from engine import connection, keys
from engine.book_reader import BookReader
from testing.flows import CARDS
from testing.servers import free_port, load_library, throwaway_postgres, throwaway_redis
from testing.services import Service
from testing.waiting import NotInTime, until_async

START_SECONDS = 60
LONG_SECONDS = 600.0
ARCHIVE = ("orders", "trades", "archive_cursor", "histories", "candles")
KEYS_A_SCAN = 1_000
YARDSTICK = "yardstick_"
"""Before a card's name, so that the yardstick's keys lie beside the exchange's on one server."""


def long_client(url: str) -> Redis:
    """A client for calls that may take long, and must not be made twice."""
    client = connection.connect(url)
    client.connection_pool.connection_kwargs["socket_timeout"] = LONG_SECONDS
    return client


@asynccontextmanager
async def empty_redis(options: Options, cards: Sequence[str] = CARDS) -> AsyncIterator[Settings]:
    """Settings of these cards that point at an empty Redis, gone or empty again at the end.

    Raises:
        StartError: the one that was named holds an exchange, or one works on it.
    """
    if options.redis_url:
        local = msgspec.structs.replace(options.settings, redis_url=options.redis_url, cards=tuple(cards))
        await _refuse_used_redis(local)
        try:
            yield local
        finally:
            await _remove_keys(local)
        return
    local = msgspec.structs.replace(options.settings, cards=tuple(cards))
    async with throwaway_redis(local) as server:
        yield msgspec.structs.replace(local, redis_url=server.socket_url)


@asynccontextmanager
async def empty_database(options: Options, local: Settings) -> AsyncIterator[tuple[Settings, int | None]]:
    """The same for PostgreSQL, with its tables made; its process id if it is ours."""
    if options.database_url:
        local = msgspec.structs.replace(local, database_url=options.database_url)
        await _refuse_used_database(local)
        await _migrate(local)
        try:
            yield local, None
        finally:
            await _remove_rows(local)
        return
    async with throwaway_postgres(local) as server:
        local = msgspec.structs.replace(local, database_url=server.url)
        await _migrate(local)
        yield local, server.pid


class Exchange:
    """Servers, and the services that were started on them."""

    def __init__(self, local: Settings, postgres_pid: int | None, folder: Path) -> None:
        self.settings = local
        self.postgres_pid = postgres_pid
        self.services: dict[str, Service] = {}
        self._folder = folder

    @property
    def api(self) -> tuple[str, int]:
        """Host and port."""
        return self.settings.host, self.settings.port

    async def start(self, *names: str, module: str = "", **changes: Any) -> None:
        """Starts services (`engine`, `archiver`, `api`, also `engine-2`), and returns when they work.

        Raises:
            StartError: one does not; with the end of what it wrote.
        """
        for name in names:
            local = msgspec.structs.replace(self.settings, **self._own_port_of_metrics(), **changes)
            self.services[name] = Service(name, local, self._folder / f"{name}.output", module=module)
            await self._works(self.services[name])

    def _own_port_of_metrics(self) -> dict[str, int]:
        """With `TCGX_METRICS_PORT` each service has a port of its own, from there on."""
        first = self.settings.metrics_port
        return {"metrics_port": first + len(self.services)} if first else {}

    async def stop(self, *names: str) -> None:
        """Stops these services; all of them without names."""
        for name in names or [*reversed(self.services)]:
            await self.services.pop(name).process.stop(seconds=self.settings.stop_seconds)

    async def cpu_seconds(self) -> dict[str, float]:
        """Of every process since its start, by name; of Redis as it tells, so also of one elsewhere."""
        used = {name: cpu_seconds(service.pid) for name, service in self.services.items()}
        async with connection.connect(self.settings.redis_url) as client:
            used["redis"] = await redis_cpu_seconds(client)
        if self.postgres_pid:
            used["postgres"] = cpu_seconds(self.postgres_pid)
        return used

    async def _works(self, service: Service) -> None:
        port = service.settings.port
        serving = [other for name, other in self.services.items() if name.partition("-")[0] not in READY]
        sharing = sum(other.settings.port == port for other in serving)

        async def ready() -> bool:
            if service.process.ended():
                raise StartError(f"{service.name} ended while starting:\n{service.output()[-2_000:]}")
            check = READY.get(service.name.partition("-")[0])
            return await check(service.settings) if check else listeners(port) >= sharing

        try:
            await until_async(ready, f"{service.name} does not work", seconds=START_SECONDS)
        except NotInTime as error:
            raise StartError(f"{error}:\n{service.output()[-2_000:]}") from error


async def _has_engine(local: Settings) -> bool:
    async with connection.connect(local.redis_url) as client:
        return await BookReader(client).has_engine()


async def _has_archiver(local: Settings) -> bool:
    async with postgres.pool(local.database_url) as pool:
        return await Archive(pool).has_archiver()


def listeners(port: int) -> int:
    """How many sockets listen on a port; several processes may share one."""
    listening = f":{port:04X} 00000000:0000 0A "
    return Path("/proc/net/tcp").read_text().count(listening)


READY: dict[str, Callable[[Settings], Awaitable[bool]]] = {"engine": _has_engine, "archiver": _has_archiver}


@asynccontextmanager
async def exchange(options: Options, *services: str, **changes: Any) -> AsyncIterator[Exchange]:
    """An exchange on empty servers, with these services; `changes` are settings by their field's name."""
    async with AsyncExitStack() as stack:
        local = await stack.enter_async_context(empty_redis(options))
        local, postgres_pid = await stack.enter_async_context(empty_database(options, local))
        folder = stack.enter_context(datadir.ephemeral())
        changes = {"port": free_port(), "jwt_secret": secrets.token_hex(32)} | changes
        running = Exchange(msgspec.structs.replace(local, **changes), postgres_pid, folder)
        await load_library(local.redis_url)
        stack.push_async_callback(running.stop)
        await running.start(*services)
        yield running


async def server_name(client: Redis) -> str:
    """What it is, and its version."""
    about: dict[str, Any] = await client.info("server")
    return f"{about.get('server_name', 'redis')} {about.get('valkey_version', about['redis_version'])}"


async def redis_cpu_seconds(client: Redis) -> float:
    """User and system time of the server, its background threads included."""
    used: dict[str, Any] = await client.info("cpu")
    return float(used["used_cpu_user"]) + float(used["used_cpu_sys"])


async def _refuse_used_redis(local: Settings) -> None:
    async with connection.connect(local.redis_url) as client:
        try:
            parts = ("history", "orders", "sequence", "cursor", "events")
            held = await client.exists(*(keys.key(card, part) for card in local.cards for part in parts))
            works = await BookReader(client).has_engine()
            await connection.check(client, durability=local.durability)
        except (redis.exceptions.RedisError, OSError, TcgxError) as error:
            raise StartError(f"--redis-url cannot be used: {error}") from error
    if held or works:
        what = "holds orders of an exchange" if held else "has an engine at work"
        raise StartError(f"--redis-url {what}: a benchmark needs a Redis of its own, and touches nothing in this one")


async def _remove_keys(local: Settings) -> None:
    async with connection.connect(local.redis_url) as client:
        for name in (*local.cards, *(YARDSTICK + card for card in local.cards)):
            async for key in client.scan_iter(match=f"{{{name}}}:*", count=KEYS_A_SCAN):
                await client.unlink(key)


async def _refuse_used_database(local: Settings) -> None:
    try:
        opened = await postgres.connect(local.database_url)
    except TcgxError as error:
        raise StartError(f"--database-url cannot be used: {error}") from error
    try:
        for table in ARCHIVE:
            if await opened.fetchval("SELECT to_regclass($1) IS NULL", table):
                continue
            if await opened.fetchval(f"SELECT EXISTS (SELECT 1 FROM {table})"):  # noqa: S608 - our own names
                raise StartError(
                    f"--database-url has rows in {table}: a benchmark needs a database of its own, and touches nothing "
                    "in this one"
                )
    finally:
        await opened.close()


async def _migrate(local: Settings) -> None:
    opened = await postgres.connect(local.database_url)
    try:
        await schema.migrate(opened, local.cards)
    finally:
        await opened.close()


async def _remove_rows(local: Settings) -> None:
    opened = await postgres.connect(local.database_url)
    try:
        await opened.execute(f"TRUNCATE {', '.join(ARCHIVE)}")
    finally:
        await opened.close()
