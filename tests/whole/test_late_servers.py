"""Services that start before their servers do, as on a cluster whose nodes come back in any order."""

import asyncio
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import msgspec
import pytest

from archiver import postgres
from core.settings import Settings, environment_of
from testing.cluster_servers import RedisCluster, redis_cluster, slot_of
from testing.flows import CARDS
from testing.processes import environment, module
from testing.replication import PASSWORD, RedisProcess, plain_url
from testing.servers import Servers, folder, free_port, servers
from testing.services import Service
from testing.waiting import until

pytestmark = pytest.mark.server

START_SECONDS = 60


@pytest.fixture(scope="module")
def running() -> Iterator[Servers]:
    with servers() as made:
        yield made


@pytest.fixture
def late() -> Iterator[RedisProcess]:
    """A Redis that is not started yet."""
    with folder() as where:
        made = RedisProcess(
            where / "redis", free_port(), "appendonly yes", "appendfsync always", f"requirepass {PASSWORD}"
        )
        yield made
        if made.is_running:
            made.kill()


def of_late(running: Servers, late: RedisProcess, **changes: object) -> Settings:
    """The settings of services on a Redis that comes late."""
    return msgspec.structs.replace(
        running.settings, redis_url=plain_url(late), port=free_port(), start_seconds=START_SECONDS, **changes
    )


@pytest.mark.parametrize("name", ["engine", "api", "grpc"])
def test_a_service_waits_for_a_redis_that_comes_late(
    name: str, running: Servers, late: RedisProcess, tmp_path: Path
) -> None:
    local = of_late(running, late, grpc_port=free_port())
    service = Service(name, local, tmp_path / "output")
    try:
        until(lambda: "Redis does not answer yet" in service.output(), "it does not say that it waits")
        late.start()
        _works(local, service)
    finally:
        assert service.stop() == 0


@pytest.mark.parametrize("name", ["api", "grpc"])
def test_a_door_opens_once_postgresql_is_there_and_migrated(
    name: str, running: Servers, late: RedisProcess, tmp_path: Path
) -> None:
    late.start()
    database_url = running.settings.database_url.replace("/tcgx?", f"/late_{name}?")
    local = of_late(running, late, grpc_port=free_port(), database_url=database_url)
    service = Service(name, local, tmp_path / "output")

    def waits_for(reason: str) -> None:
        until(lambda: reason in service.output(), f"it does not say that it waits: {service.output()}")
        with socket.socket() as client:
            assert client.connect_ex(("127.0.0.1", local.grpc_port if name == "grpc" else local.port)) != 0

    try:
        waits_for("does not exist")
        asyncio.run(_execute(running.settings.database_url, f"CREATE DATABASE late_{name}"))
        waits_for("tcgx migrate")
        assert module("tcgx", "migrate", local=local).returncode == 0
        _works(local, service)
    finally:
        assert service.stop() == 0


def test_an_engine_waits_for_a_cluster_that_comes_late(running: Servers, tmp_path: Path) -> None:
    with folder() as where:
        cluster = RedisCluster(where)
        local = msgspec.structs.replace(running.settings, redis_url=cluster.url, start_seconds=START_SECONDS)
        service = Service("engine", local, tmp_path / "output")
        try:
            until(lambda: "Redis does not answer yet" in service.output(), "it does not say that it waits")
            cluster.start()
            service.works()
        finally:
            cluster.stop()
            assert service.stop() == 0


def test_an_engine_waits_until_each_slot_has_a_server(running: Servers, tmp_path: Path) -> None:
    with redis_cluster() as cluster:
        slot = slot_of(CARDS[0])
        server = cluster.primary_of(slot)
        for each in cluster.servers:
            each.call("CLUSTER", "DELSLOTS", slot)
        local = msgspec.structs.replace(running.settings, redis_url=cluster.url, start_seconds=START_SECONDS)
        service = Service("engine", local, tmp_path / "output")
        try:
            until(lambda: "slots of the cluster have no server" in service.output(), "it does not say that it waits")
            server.call("CLUSTER", "ADDSLOTS", slot)
            service.works()
        finally:
            assert service.stop() == 0


def test_a_wrong_password_is_told_at_once(running: Servers, late: RedisProcess, tmp_path: Path) -> None:
    late.start()
    local = of_late(running, late)
    service = Service(
        "engine",
        msgspec.structs.replace(local, redis_url=local.redis_url.replace(PASSWORD, "wrong")),
        tmp_path / "output",
    )

    assert service.wait() == 1
    assert "refuses the password" in service.output()


def test_without_the_setting_a_service_ends_at_once(running: Servers, late: RedisProcess, tmp_path: Path) -> None:
    service = Service("engine", msgspec.structs.replace(of_late(running, late), start_seconds=0), tmp_path / "output")

    assert service.wait() == 1
    assert "Redis does not answer at TCGX_REDIS_URL" in service.output()


def test_a_stop_ends_the_wait(running: Servers, late: RedisProcess, tmp_path: Path) -> None:
    service = Service("engine", of_late(running, late), tmp_path / "output")
    until(lambda: "Redis does not answer yet" in service.output(), "it does not say that it waits")

    assert service.stop() == 0


def test_an_archiver_waits_for_migrations_and_these_for_redis(
    running: Servers, late: RedisProcess, tmp_path: Path
) -> None:
    local = of_late(running, late)
    asyncio.run(_execute(running.settings.database_url, "DROP SCHEMA public CASCADE; CREATE SCHEMA public"))
    archiver = Service("archiver", local, tmp_path / "output")
    command = [sys.executable, "-P", "-m", "tcgx", "migrate"]
    with subprocess.Popen(
        command, env=environment(**environment_of(local)), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as migrate:
        try:
            until(lambda: "waiting for migrations" in archiver.output(), "it does not say that it waits")
            assert migrate.poll() is None
            late.start()
            said, _ = migrate.communicate(timeout=START_SECONDS)
            assert migrate.returncode == 0, said
            assert "ran 0001" in said
            archiver.works()
        finally:
            migrate.kill()
            assert archiver.stop() == 0
    assert module("tcgx", "migrate", local=local).stdout.strip() == "the database is up to date"


def _works(local: Settings, service: Service) -> None:
    if service.name == "api":
        until(lambda: _lives(local, service), "it does not begin to work")
    else:
        service.works()


def _lives(local: Settings, service: Service) -> bool:
    assert not service.process.ended(), service.output()
    try:
        return httpx.get(f"http://127.0.0.1:{local.port}/health/live", timeout=2, trust_env=False).status_code == 200
    except httpx.TransportError:
        return False


async def _execute(database_url: str, statement: str) -> None:
    database = await postgres.connect(database_url)
    try:
        await database.execute(statement)
    finally:
        await database.close()
