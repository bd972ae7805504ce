"""Who runs on which core: the servers and the engine are real processes, and the kernel is asked."""

import asyncio
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cli import datadir
from cli.embedded_redis import RedisServer
from core.settings import Settings
from engine import cpu_affinity
from engine.connection import connect
from testing.exchange import ExchangeServer

MINE = os.sched_getaffinity(0) if sys.platform == "linux" else set()
pytestmark = [pytest.mark.server, pytest.mark.skipif(len(MINE) < 2, reason="needs Linux and two cores")]
LAST = max(MINE, default=0)


@pytest.fixture
def data_dir(tmp_path: Path) -> Iterator[Path]:
    with datadir.lock(tmp_path / "data"):
        yield tmp_path / "data"


def server_in(data_dir: Path, **changes: Any) -> RedisServer:
    return RedisServer(Settings(data_dir=str(data_dir), **changes), datadir.load_secrets(data_dir))


def of(process: int | None) -> set[int]:
    assert process is not None
    return os.sched_getaffinity(process)


def test_redis_of_an_exchange_has_a_core_that_its_engine_does_not_use(exchange: ExchangeServer) -> None:
    assert of(exchange.servers.redis.pid) == {LAST}
    assert of(exchange.pid("engine")) == MINE - {LAST}
    assert of(exchange.pid("api")) == of(exchange.pid("archiver")) == MINE


def test_the_cores_of_a_server_on_this_machine_are_left(data_dir: Path) -> None:
    async def scenario() -> None:
        server = server_in(data_dir)
        await server.start()
        try:
            assert of(server.pid) == {LAST}
            client, over_tcp = connect(server.socket_url), connect(server.url)
            for name in ("aof_rewrite_cpulist", "bgsave_cpulist"):
                (listed,) = (await client.config_get(name)).values()
                assert listed == ",".join(str(core) for core in sorted(MINE - {LAST})), name
            with cpu_affinity.avoid_server_cores(client):
                assert of(0) == MINE - {LAST}
                with cpu_affinity.avoid_server_cores(client):
                    assert of(0) == MINE - {LAST}, "it is off that core already"
            assert of(0) == MINE
            with cpu_affinity.avoid_server_cores(over_tcp):
                assert of(0) == MINE, "nobody knows which process that is"
            await client.aclose()
            await over_tcp.aclose()
        finally:
            await server.stop()
        with cpu_affinity.avoid_server_cores(client):
            assert of(0) == MINE, "nobody is there"

    asyncio.run(scenario())


def test_a_server_that_shares_all_cores_is_left_none(data_dir: Path) -> None:
    async def scenario() -> None:
        server = server_in(data_dir, redis_core="any")
        await server.start()
        client = connect(server.socket_url)
        try:
            assert of(server.pid) == MINE
            with cpu_affinity.avoid_server_cores(client):
                assert of(0) == MINE
        finally:
            await client.aclose()
            await server.stop()

    asyncio.run(scenario())


def test_where_there_is_one_core_everybody_has_it(data_dir: Path) -> None:
    os.sched_setaffinity(0, {LAST})
    try:
        assert cpu_affinity.split_cores() is None

        async def scenario() -> None:
            server = server_in(data_dir)
            await server.start()
            client = connect(server.socket_url)
            try:
                assert of(server.pid) == {LAST}
                with cpu_affinity.avoid_server_cores(client):
                    assert of(0) == {LAST}
            finally:
                await client.aclose()
                await server.stop()

        asyncio.run(scenario())
    finally:
        os.sched_setaffinity(0, MINE)
