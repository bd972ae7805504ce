"""Faults: processes that pause, servers that crash, services that are stopped for a while, data that is replaced."""

import asyncio
import os
import shutil
import signal
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from cli.embedded import EmbeddedServer
from testing.processes import descendants
from testing.waiting import until

if TYPE_CHECKING:
    from testing.exchange import ExchangeServer

FULL_BYTES = 1


async def crash(server: EmbeddedServer) -> None:
    """Kills a server with -9. `start()` brings it back to the same place, on the data that it has."""
    pid = server.pid
    assert pid, f"{server.name} does not run"
    os.kill(pid, signal.SIGKILL)
    await server.wait()


async def restart(server: EmbeddedServer, *, data: Path | None = None, place: Path | None = None) -> None:
    """Kills a server and starts it again; in between, the folder `place` gets the contents of `data`, if given."""
    await crash(server)
    if data is not None and place is not None:
        shutil.rmtree(place)
        shutil.copytree(data, place)
    await server.start()


@contextmanager
def paused(pids: Iterable[int]) -> Iterator[None]:
    """These processes stand still."""
    stopped = [*pids]
    try:
        for pid in stopped:
            with suppress(ProcessLookupError):  # a session of PostgreSQL may end by itself
                os.kill(pid, signal.SIGSTOP)
        yield
    finally:
        for pid in stopped:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)


def all_of(server: EmbeddedServer) -> list[int]:
    """The process ids of a server and of all that it has started."""
    assert server.pid
    return [server.pid, *descendants(server.pid)]


@contextmanager
def without(exchange: "ExchangeServer", *names: str) -> Iterator[None]:
    """These services are stopped, in this order, and then started in the reverse order."""
    for name in names:
        assert exchange.stop_service(name) == 0
    try:
        yield
    finally:
        for name in reversed(names):
            exchange.start_service(name)


@contextmanager
def without_server(server: EmbeddedServer) -> Iterator[None]:
    """A server has crashed, and is then started again."""
    asyncio.run(crash(server))
    try:
        yield
    finally:
        asyncio.run(server.start())


@contextmanager
def without_postgres(exchange: "ExchangeServer") -> Iterator[None]:
    """PostgreSQL has crashed, and readiness says so."""
    with without_server(exchange.servers.postgres):
        # The first queries on connections that broke just now may end in a 500 (asyncpg.InternalClientError).
        until(lambda: "postgresql" in exchange.missing(), "nobody notices that PostgreSQL is gone")
        yield
    # An archiver without work notices its lost connection with the next event only.
    exchange.trader().expired("pikachu", 1)


@contextmanager
def without_redis(exchange: "ExchangeServer") -> Iterator[None]:
    """Redis has crashed."""
    with without_server(exchange.servers.redis):
        yield


@contextmanager
def without_memory(exchange: "ExchangeServer") -> Iterator[None]:
    """Redis has no memory left for any command that writes."""
    exchange.redis.config_set("maxmemory", FULL_BYTES)
    try:
        yield
    finally:
        exchange.redis.config_set("maxmemory", 0)
