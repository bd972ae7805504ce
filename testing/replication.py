"""Groups of servers: a Redis primary with replicas and sentinels, and a PostgreSQL primary with a standby."""

import asyncio
import os
import signal
import subprocess
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import parse_qs, urlsplit

import asyncpg
import redis.exceptions
from redis import Redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from cli import datadir
from cli.embedded_postgres import PostgresServer
from cli.embedded_redis import _redis_program
from core.settings import Settings
from testing.certificates import Certificate
from testing.faults import crash
from testing.hosts import THIS_HOST, Host
from testing.servers import copy_template, folder, free_port
from testing.waiting import until, until_async

NAME = "cards"
PASSWORD = "words-of-the-servers"  # noqa: S105 - of servers that live as long as a test
SENTINEL_PASSWORD = "words-of-the-sentinels"  # noqa: S105 - likewise
DOWN_AFTER_MS = 1_000
CLIENT_SECONDS = 2.0
STOP_SECONDS = 20.0


class RedisProcess:
    """A Redis on a port of its own. Its data stay in its folder when it is killed and started again."""

    def __init__(
        self, where: Path, port: int, *lines: str, tls: Certificate | None = None, host: Host | None = None
    ) -> None:
        """`tls`: it takes connections with TLS alone, and has this certificate. `host`: where it runs."""
        self.port = port
        self.host = host or THIS_HOST
        self._where = where
        self._tls = tls
        self._lines = [*(_tls_lines(port, tls) if tls else [f"port {port}"]), *lines]
        self._process: subprocess.Popen[bytes] | None = None
        where.mkdir()

    @property
    def pid(self) -> int:
        """The process id."""
        assert self._process, "it does not run"
        return self._process.pid

    @property
    def is_running(self) -> bool:
        """Whether it was started and not stopped."""
        return self._process is not None

    def start(self, *lines: str) -> None:
        """Starts it with further lines of configuration, and waits until it answers."""
        file = self._where / "redis.conf"
        file.write_text("\n".join([f"dir {self._where}", *self._lines, *lines]) + "\n")
        self._run()

    def _run(self) -> None:
        file = self._where / "redis.conf"
        with (self._where / "output").open("ab") as output, self.host.inside():
            self._process = subprocess.Popen(
                [_redis_program(os.environ.get("TCGX_REDIS_BIN", "")), str(file), *self._options()],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
            )
        until(self.answers, f"Redis on port {self.port} does not answer")

    def _options(self) -> Sequence[str]:
        return ()

    def answers(self) -> bool:
        """Whether it answers, and has loaded its data."""
        with self.client() as client, suppress(redis.exceptions.ConnectionError, redis.exceptions.TimeoutError):
            return bool(client.ping())
        return False

    def client(self) -> Redis:
        """A client of this server, whatever its role is."""
        return Redis(
            host=self.host.address,
            port=self.port,
            password=self._password(),
            retry=Retry(NoBackoff(), 0),
            socket_timeout=CLIENT_SECONDS,
            socket_connect_timeout=CLIENT_SECONDS,
            ssl=self._tls is not None,
            ssl_ca_certs=str(self._tls.cert) if self._tls else None,
        )

    def _password(self) -> str:
        return PASSWORD

    def kill(self, number: signal.Signals = signal.SIGKILL) -> None:
        """Ends it, by default without a warning."""
        assert self._process
        self._process.send_signal(number)
        self._process.send_signal(signal.SIGCONT)
        self._process.wait(STOP_SECONDS)
        self._process = None

    def pause(self) -> None:
        """Makes it stand still, with its connections open."""
        os.kill(self.pid, signal.SIGSTOP)

    def go_on(self) -> None:
        """Ends a pause."""
        os.kill(self.pid, signal.SIGCONT)

    def role(self) -> str:
        """`master`, `slave`, or nothing if it does not answer."""
        with self.client() as client, suppress(redis.exceptions.RedisError):
            return str(client.execute_command("ROLE")[0].decode())
        return ""

    def output(self) -> str:
        """All that it has written."""
        return (self._where / "output").read_text()


class SentinelProcess(RedisProcess):
    """A sentinel."""

    def start_again(self) -> None:
        """Starts it with the configuration that it has written itself."""
        self._run()

    def _options(self) -> Sequence[str]:
        return ("--sentinel",)

    def _password(self) -> str:
        return SENTINEL_PASSWORD


def _tls_lines(port: int, tls: Certificate) -> list[str]:
    return [
        *("port 0", f"tls-port {port}", f"tls-cert-file {tls.cert}", f"tls-key-file {tls.key}"),
        *(f"tls-ca-cert-file {tls.cert}", "tls-auth-clients no", "tls-replication yes"),
    ]


class RedisGroup:
    """A primary, replicas of it, and three sentinels. Every server writes each command to disk before its answer.

    Servers and sentinels have passwords of their own.
    """

    def __init__(
        self, where: Path, *, replicas: int = 1, lines: Sequence[str] = (), tls: Certificate | None = None
    ) -> None:
        """`lines`: further configuration of the servers. `tls`: the certificate of all of them."""
        self._tls = tls
        of_sentinels = (
            "bind 127.0.0.1",
            f"requirepass {SENTINEL_PASSWORD}",
            f"sentinel sentinel-pass {SENTINEL_PASSWORD}",
        )
        shared = [
            *("bind 127.0.0.1", "appendonly yes", "appendfsync always", 'save ""', "maxmemory-policy noeviction"),
            *(f"requirepass {PASSWORD}", f"masterauth {PASSWORD}", "repl-diskless-sync-delay 0", "repl-timeout 5"),
            *("repl-ping-replica-period 1", *lines),
        ]
        self.servers = [
            RedisProcess(where / f"redis-{number}", free_port(), *shared, tls=tls) for number in range(1, replicas + 2)
        ]
        self.sentinels = [
            SentinelProcess(where / f"sentinel-{number}", free_port(), *of_sentinels, tls=tls) for number in range(1, 4)
        ]

    @property
    def url(self) -> str:
        """The address that names the sentinels."""
        hosts = ",".join(f"127.0.0.1:{sentinel.port}" for sentinel in self.sentinels)
        options = f"sentinel_password={SENTINEL_PASSWORD}" + (f"&ssl_ca_certs={self._tls.cert}" if self._tls else "")
        return f"redis{'s' if self._tls else ''}+sentinel://:{PASSWORD}@{hosts}/{NAME}/0?{options}"

    def start(self, *, sentinels: bool = True) -> None:
        """Starts all of them; the replicas are in step and known to the sentinels when this returns."""
        first, *others = self.servers
        first.start()
        for other in others:
            other.start(f"replicaof 127.0.0.1 {first.port}")
        self.in_step()
        if not sentinels:
            return
        for sentinel in self.sentinels:
            sentinel.start(
                f"sentinel monitor {NAME} 127.0.0.1 {first.port} 2",
                f"sentinel auth-pass {NAME} {PASSWORD}",
                f"sentinel down-after-milliseconds {NAME} {DOWN_AFTER_MS}",
                f"sentinel failover-timeout {NAME} 2000",
                f"sentinel parallel-syncs {NAME} 1",
            )
        until(self._know_each_other, "the sentinels do not know each other")

    def _know_each_other(self) -> bool:
        for sentinel in self.sentinels:
            with sentinel.client() as client:
                state: Any = client.sentinel_master(NAME)
                replicas: Any = client.sentinel_slaves(NAME)
            usable = [each for each in replicas if not each["is_sdown"] and not each["is_disconnected"]]
            if state["num-other-sentinels"] != len(self.sentinels) - 1 or len(usable) != len(self.servers) - 1:
                return False
        return True

    def in_step(self) -> None:
        """Waits until every running replica of the primary has its data and sends acknowledgements."""
        until(self._is_in_step, "the replicas are not in step")

    def _is_in_step(self) -> bool:
        running = sum(server.is_running for server in self.servers)
        with self.primary.client() as client:
            client.publish("test", "")  # gives replicas something to acknowledge
            return client.execute_command("WAIT", running - 1, 100) == running - 1 and self._have_aof()

    def _have_aof(self) -> bool:
        for server in self.servers:
            with server.client() as client:
                about: Any = client.info("persistence") if server.is_running else {}
            if about.get("aof_rewrite_in_progress") or about.get("aof_rewrite_scheduled"):
                return False
        return True

    @property
    def primary(self) -> RedisProcess:
        """The running server that is primary. If there are several, the one that the sentinels name."""
        found = [server for server in self.servers if server.is_running and server.role() == "master"]
        assert found, "there is no primary"
        return found[0] if len(found) == 1 else self.named()

    def named(self) -> RedisProcess:
        """The server that the sentinels name."""
        with self.sentinels[0].client() as client:
            _, port = client.sentinel_get_master_addr_by_name(NAME)
        return next(server for server in self.servers if server.port == int(port))

    @property
    def replicas(self) -> list[RedisProcess]:
        """The other running servers."""
        primary = self.primary
        return [server for server in self.servers if server.is_running and server is not primary]

    def fail_over(self) -> RedisProcess:
        """Kills the primary, and waits until the sentinels name another one. Returns the killed one."""
        killed = self.primary
        killed.kill()
        until(lambda: self.named() is not killed and self.named().role() == "master", "nobody is promoted")
        return killed

    def rejoin(self, server: RedisProcess) -> None:
        """Starts a killed server as a replica, and waits until it is in step and known to the sentinels."""
        server.start(f"replicaof 127.0.0.1 {self.primary.port}")
        self.in_step()
        until(self._know_each_other, "the sentinels do not see the replica")

    def stop(self) -> None:
        """Stops all that runs."""
        for each in (*self.sentinels, *self.servers):
            if each.is_running:
                each.kill()


@contextmanager
def redis_group(*, sentinels: bool = True, **options: Any) -> Iterator[RedisGroup]:
    """A running group, gone at the end."""
    with folder() as where:
        group = RedisGroup(where, **options)
        try:
            group.start(sentinels=sentinels)
            yield group
        finally:
            group.stop()


class SeveralServers(Protocol):
    """A group with sentinels, or a cluster."""

    @property
    def url(self) -> str:
        """The address that leads to all of them."""

    def start(self) -> None:
        """Starts all of them."""

    def stop(self) -> None:
        """Stops all that runs."""


class InPlaceOfRedis:
    """Several servers in the place of a single Redis, for `testing.servers.Servers`. They have an owner."""

    def __init__(self, servers: SeveralServers) -> None:
        self._servers = servers

    @property
    def socket_url(self) -> str:
        """The address that leads to all of them."""
        return self._servers.url

    async def start(self) -> None:
        """Does nothing: they run."""

    async def stop(self) -> None:
        """Does nothing: they go on."""


def plain_url(server: RedisProcess) -> str:
    """The address of one server, without sentinels."""
    return f"redis://:{PASSWORD}@127.0.0.1:{server.port}/0"


def cut_off(primary: RedisProcess, *replicas: RedisProcess) -> None:
    """Ends the replication of these replicas, of all at once. The sentinels may still promote them."""
    for replica in replicas:
        with replica.client() as client:
            client.config_set("masterauth", "wrong")
    with primary.client() as client:
        client.execute_command("CLIENT", "KILL", "TYPE", "replica")
    for replica in replicas:
        until(lambda replica=replica: _link(replica) == "down", "the replica still replicates")  # type: ignore[misc]


def allow_replication(*replicas: RedisProcess) -> None:
    """Ends the effect of `cut_off`, and does not wait."""
    for replica in replicas:
        with replica.client() as client:
            client.config_set("masterauth", PASSWORD)


def connect_again(replica: RedisProcess) -> None:
    """Ends the effect of `cut_off`."""
    allow_replication(replica)
    until(lambda: _link(replica) == "up", "the replica does not replicate again")


def _link(replica: RedisProcess) -> Any:
    with replica.client() as client:
        return client.info("replication").get("master_link_status")


class PostgresPair:
    """A PostgreSQL primary and a standby, in the place of a single PostgreSQL for `testing.servers.Servers`."""

    name = "postgres"

    def __init__(self, where: Path) -> None:
        self._folders = [where / "first", where / "second"]
        for folder_ in self._folders:
            folder_.mkdir(mode=0o755)
            copy_template(folder_)
        # Both have the password of the template, and the same identity: one data directory, copied twice.
        self.servers = [
            PostgresServer(Settings(data_dir=str(folder_)), datadir.load_secrets(folder_)) for folder_ in self._folders
        ]

    @property
    def url(self) -> str:
        """The address with both hosts."""
        return self._url(self.servers)

    @property
    def url_with_the_standby_first(self) -> str:
        """The same, in the other order."""
        return self._url(self.servers[::-1])

    def _url(self, servers: Sequence[PostgresServer]) -> str:
        parts = [urlsplit(server.url) for server in servers]
        hosts = ",".join(parse_qs(part.query)["host"][0] for part in parts)
        return f"{parts[0].scheme}://{parts[0].netloc}{parts[0].path}?host={hosts}&port=5432,5432"

    async def start(self) -> None:
        """Starts both; the second follows the first."""
        first, second = self.servers
        await first.start()
        part = urlsplit(first.url)
        cluster = (self._folders[1] / "postgres").resolve()
        about = cluster.stat()
        follows = f"host={parse_qs(part.query)['host'][0]} port=5432 user={part.username} password={part.password}"
        with (cluster / "postgresql.auto.conf").open("a") as file:
            file.write(f"primary_conninfo = '{follows}'\n")
        signal_file = cluster / "standby.signal"
        signal_file.touch()
        os.chown(signal_file, about.st_uid, about.st_gid)
        await second.start()

    async def stop(self) -> None:
        """Stops both."""
        for server in reversed(self.servers):
            await server.stop()

    async def in_step(self) -> None:
        """Waits until the standby has all that the primary has."""
        first, second = [await asyncpg.connect(server.url) for server in self.servers]
        try:
            reached = await first.fetchval("SELECT pg_current_wal_flush_lsn()::text")
            query = "SELECT pg_last_wal_replay_lsn() >= $1::text::pg_lsn"
            await until_async(lambda: second.fetchval(query, reached), "the standby is not in step")
        finally:
            await first.close()
            await second.close()

    async def promote(self) -> None:
        """Kills the primary, and makes the standby one."""
        await crash(self.servers[0])
        second = await asyncpg.connect(self.servers[1].url)
        try:
            assert await second.fetchval("SELECT pg_promote()")
        finally:
            await second.close()


@contextmanager
def postgres_pair() -> Iterator[PostgresPair]:
    """Both, not started yet; gone at the end."""
    with folder() as where:
        pair = PostgresPair(where)
        try:
            yield pair
        finally:
            asyncio.run(pair.stop())


class MovingAddress:
    """An address that leads to one server. If it moves, connections of before stay where they are."""

    def __init__(self, port: int) -> None:
        self.target = port
        self._tasks: set[asyncio.Task[None]] = set()
        self._opening: set[asyncio.Task[Any]] = set()

    @asynccontextmanager
    async def url(self) -> AsyncIterator[str]:
        """The address, as long as the context lasts."""
        server = await asyncio.start_server(self._carry, "127.0.0.1", 0)
        try:
            yield f"redis://:{PASSWORD}@127.0.0.1:{server.sockets[0].getsockname()[1]}/0"
        finally:
            server.close()
            await asyncio.gather(*self._opening, return_exceptions=True)
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        own = asyncio.current_task()
        assert own
        self._opening.add(own)
        there, back = await asyncio.open_connection("127.0.0.1", self.target)
        for source, target in ((reader, back), (there, writer)):
            self._tasks.add(asyncio.create_task(_copy(source, target)))


async def _copy(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
    try:
        while piece := await source.read(65_536):
            target.write(piece)
            await target.drain()
    finally:
        target.close()
