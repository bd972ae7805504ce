"""Starts that wait while a server reads its data, however long that takes, and give up once nothing moves."""

import asyncio
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from cli import datadir, embedded
from cli.embedded_postgres import PostgresServer
from cli.embedded_redis import RedisServer
from core import loading
from core.errors import StartError
from core.loading import LoadProgress
from core.settings import Settings
from testing.servers import ConfiguredRedis, free_port
from testing.services import Service
from testing.waiting import until_async
from tests.cli.test_embedded import locked, postgres_says, redis_says

COMMANDS = 40_000
DELAY_MICROSECONDS = 120
"""The server answers after each 1,024th command that it loads; a client's first reply takes several such answers."""
STALL_SECONDS = 4.0


@pytest.fixture
def data_dir(tmp_path: Path) -> Iterator[Path]:
    tmp_path.chmod(0o755)
    yield from locked(tmp_path / "data")


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """The bounds of starts are seconds."""
    monkeypatch.setattr(embedded, "START_SECONDS", 3.0)
    monkeypatch.setattr(loading, "STALL_SECONDS", STALL_SECONDS)
    monkeypatch.setattr(loading, "REPORT_SECONDS", 0.5)


def settings(data_dir: Path) -> Settings:
    return Settings(data_dir=str(data_dir), durability="everysec", redis_core="any", jwt_secret="k" * 32)


def filled_redis(data_dir: Path) -> RedisServer:
    """A Redis that takes some seconds to load what it has."""
    local, secrets = settings(data_dir), datadir.load_secrets(data_dir)

    async def fill() -> None:
        server = RedisServer(local, secrets)
        await server.start()
        for start in range(0, COMMANDS, 1_000):
            script = f"for i = {start + 1}, {start + 1_000} do redis.call('SET', 'k' .. i, ('x'):rep(100)) end"
            await redis_says(server.url, "EVAL", script, "0")
        await server.stop()

    asyncio.run(fill())
    return ConfiguredRedis(local, secrets, f"key-load-delay {DELAY_MICROSECONDS}")


@pytest.mark.server
@pytest.mark.usefixtures("hasty")
def test_redis_is_awaited_while_its_load_goes_on(data_dir: Path) -> None:
    server = filled_redis(data_dir)

    async def scenario() -> tuple[float, Any]:
        began = asyncio.get_running_loop().time()
        try:
            await server.start()
            return asyncio.get_running_loop().time() - began, await redis_says(server.url, "DBSIZE")
        finally:
            await server.stop()

    with capture_logs() as lines:
        seconds, count = asyncio.run(scenario())

    reports = [line for line in lines if line["event"] == "redis reads its data"]
    assert seconds > STALL_SECONDS
    assert count == COMMANDS
    percents = [report["percent"] for report in reports]
    assert percents == sorted(percents)
    assert percents[0] < 100
    assert reports[-1]["seconds_left"] < seconds


@pytest.mark.server
@pytest.mark.usefixtures("hasty")
def test_a_redis_whose_load_stands_still_is_given_up(data_dir: Path) -> None:
    server = filled_redis(data_dir)

    async def stop_it() -> None:
        await until_async(lambda: any(line["event"] == "redis reads its data" for line in lines))
        assert server.pid
        os.kill(server.pid, signal.SIGSTOP)

    async def scenario() -> None:
        stopping = asyncio.create_task(stop_it())
        try:
            await server.start()
        finally:
            await stopping

    text = r"redis reads its data, and nothing has moved for 4 s after \d+ bytes: it is given up; .*redis.log:"
    with capture_logs() as lines, pytest.raises(StartError, match=text):
        asyncio.run(scenario())


@pytest.mark.server
@pytest.mark.parametrize("name", ["engine", "api"])
def test_a_service_waits_for_a_redis_that_loads(data_dir: Path, tmp_path: Path, name: str) -> None:
    server = filled_redis(data_dir)

    async def scenario() -> str:
        starting = asyncio.create_task(server.start())
        await until_async(lambda: server.pid)
        local = Settings(redis_url=server.socket_url, jwt_secret="k" * 32, port=free_port(), durability="everysec")
        service = Service(name, local, tmp_path / "output")
        try:
            await until_async(lambda: _accepts(local.port) if name == "api" else _matches(service))
            await asyncio.wait_for(asyncio.shield(starting), 5)
            assert not service.process.ended()
        finally:
            await service.process.stop(seconds=10)
            await starting
            await server.stop()
        return service.output()

    output = asyncio.run(scenario())

    assert "Redis reads its data" in output
    assert "stopped" in output


async def _accepts(port: int) -> bool:
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError:
        return False
    writer.close()
    return True


def _matches(service: Service) -> bool:
    assert not service.process.ended(), service.output()
    return "matching " in service.output()


# -- PostgreSQL


def recovering_postgres(data_dir: Path, command: str) -> PostgresServer:
    """A PostgreSQL that runs this command for each file of the WAL at its next start, before it answers."""
    server = PostgresServer(settings(data_dir), datadir.load_secrets(data_dir))

    async def make() -> None:
        await server.start()
        await server.stop()

    asyncio.run(make())
    cluster = (data_dir / "postgres").resolve()
    (cluster / "recovery.signal").touch()
    owner = cluster.stat()
    os.chown(cluster / "recovery.signal", owner.st_uid, owner.st_gid)
    with (cluster / "postgresql.auto.conf").open("a") as file:
        file.write(f"restore_command = '{command}'\n")
    return server


@pytest.mark.server
@pytest.mark.usefixtures("hasty")
def test_postgresql_is_awaited_while_its_recovery_goes_on(data_dir: Path) -> None:
    server = recovering_postgres(data_dir, "sleep 1; exit 1")

    async def scenario() -> tuple[float, Any]:
        began = asyncio.get_running_loop().time()
        try:
            await server.start()
            return asyncio.get_running_loop().time() - began, await postgres_says(server.url, "SELECT 1")
        finally:
            await server.stop()

    with capture_logs() as lines:
        seconds, answer = asyncio.run(scenario())

    assert seconds > 2
    assert answer == 1
    reports = [line for line in lines if line["event"] == "postgres reads its data"]
    assert reports
    assert all("FATAL" not in line["line"] for line in reports)


@pytest.mark.server
@pytest.mark.usefixtures("hasty")
def test_a_postgresql_whose_recovery_stands_still_is_given_up(data_dir: Path) -> None:
    server = recovering_postgres(data_dir, "exec sleep 100")

    with pytest.raises(
        StartError, match=r"postgres reads its data, and nothing has moved for 4 s since '.*': it is given up; the"
    ):
        asyncio.run(server.start())


# -- the rule


@pytest.mark.parametrize(
    "advance",
    [
        lambda progress, now: progress.check(now),
        lambda progress, now: progress.at_bytes(5, 10, now),
        lambda progress, now: progress.at_bytes(0, 0, now),
        lambda progress, now: progress.at_position("a line", now),
    ],
)
def test_a_load_that_stands_still_is_given_up_after_a_minute(advance: Callable[[LoadProgress, float], None]) -> None:
    progress = LoadProgress("Redis", 100.0)
    progress.at_bytes(4, 10, 110.0)
    advance(progress, 120.0)
    advance(progress, 169.9)

    with pytest.raises(StartError, match="Redis reads its data, and nothing has moved for 60 s"):
        advance(progress, 180.0)


def test_a_load_that_moves_is_never_given_up_and_its_rate_is_told() -> None:
    progress = LoadProgress("Redis", 0.0)
    with capture_logs() as lines:
        for number in range(101):
            progress.at_bytes(number * 50_000_000, 5_000_000_000, 50.0 * number)

    assert len(lines) == 100
    assert lines[49] == {
        "event": "Redis reads its data",
        "log_level": "info",
        "seconds": 2_500,
        "percent": 50,
        "megabytes": 5_000,
        "megabytes_per_second": 1.0,
        "seconds_left": 2_500,
    }
