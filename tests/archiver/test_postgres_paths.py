"""What lies between the services and PostgreSQL: a network that breaks without a word, and poolers."""

import asyncio
import os
import pwd
import random
import shutil
import subprocess
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import asyncpg
import msgspec
import pytest
from redis import Redis
from structlog.testing import capture_logs

from archiver import archiver, postgres, writer
from archiver.queries import Archive
from cli.embedded_postgres import PostgresServer
from core.errors import StartError, Unavailable
from engine import connection, library
from exchange import health_report
from testing.exchange import exchange_server
from testing.flows import CARDS
from testing.market import Market, many
from testing.servers import Servers, free_port, servers
from testing.waiting import until, until_async
from tests.archiver.test_lag import backdated

SECONDS = 30.0
POLL_SECONDS = 0.02


@pytest.fixture(scope="module")
def pair() -> Iterator[Servers]:
    """A PostgreSQL that listens on an address of this machine, too, and a Redis."""
    address = f"127.{random.SystemRandom().randrange(64, 128)}.{os.getpid() % 250}.7"
    options = PostgresServer._options
    with ExitStack() as stack:
        with pytest.MonkeyPatch.context() as patch:  # for the start of this one alone
            patch.setattr(PostgresServer, "_options", lambda server: options(server) | {"listen_addresses": address})
            made = stack.enter_context(servers())
        made.address = address  # type: ignore[attr-defined]
        yield made


def socket_of(pair: Servers) -> str:
    """The folder of PostgreSQL's socket."""
    return parse_qs(urlsplit(pair.settings.database_url).query)["host"][0]


def over_tcp(pair: Servers, host: str) -> str:
    """The address of the database by TCP."""
    parts = urlsplit(pair.settings.database_url)
    return f"postgresql://{parts.netloc.rpartition('@')[0]}@{host}{parts.path}"


# -- a network that breaks


class Network:
    """Carries connections to PostgreSQL, until it falls silent: then those of before stay open on both sides, and
    nothing comes through any more. New ones work."""

    def __init__(self, socket: str) -> None:
        self._socket = socket
        self._carrying: set[asyncio.Task[None]] = set()
        self._writers: list[asyncio.StreamWriter] = []

    async def open(self) -> int:
        """Its port."""
        self._server = await asyncio.start_server(self._carry, "127.0.0.1", 0)
        return int(self._server.sockets[0].getsockname()[1])

    def fall_silent(self) -> None:
        """Carries nothing more of what is connected now."""
        for task in self._carrying:
            task.cancel()
        self._carrying.clear()

    async def close(self) -> None:
        self.fall_silent()
        self._server.close()
        for each in self._writers:
            each.close()

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_unix_connection(f"{self._socket}/.s.PGSQL.5432")
        self._writers += [writer, back]
        for source, target in ((reader, back), (there, writer)):
            self._carrying.add(asyncio.create_task(_copy(source, target)))


async def _copy(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
    while piece := await source.read(65_536):
        target.write(piece)
        await target.drain()
    target.close()


@asynccontextmanager
async def archiving(pair: Servers, **changes: Any) -> AsyncIterator[Network]:
    """An archiver in this process, behind a network."""
    network = Network(socket_of(pair))
    port = await network.open()
    local = msgspec.structs.replace(pair.settings, database_url=over_tcp(pair, f"127.0.0.1:{port}"), **changes)
    stopping = asyncio.Event()
    working = asyncio.create_task(archiver.work(local, stopping))
    try:
        yield network
    finally:
        stopping.set()
        await asyncio.wait_for(working, SECONDS)
        await network.close()


def events(lines: Any) -> list[str]:
    return [line["event"] for line in lines]


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """An archiver and a server that notice in seconds what takes them a minute."""
    monkeypatch.setattr(postgres, "COMMAND_SECONDS", 1.5)
    monkeypatch.setattr(postgres, "HEARTBEAT_SECONDS", 0.5)
    monkeypatch.setattr(postgres, "IDLE_SECONDS", 4)


@pytest.fixture
def market(pair: Servers) -> Iterator[Market]:
    """A card of the pair's Redis."""
    with Redis.from_url(pair.settings.redis_url) as client:
        client.flushall()
        asyncio.run(_prepare(pair))
        yield Market(client)


async def _prepare(pair: Servers) -> None:
    async with connection.connect(pair.settings.redis_url) as redis:
        await library.load(redis)
    database = await asyncpg.connect(pair.settings.database_url)
    try:
        await database.execute("TRUNCATE orders, trades, archive_cursor, histories")
    finally:
        await database.close()


async def archived(pair: Servers) -> int:
    database = await asyncpg.connect(pair.settings.database_url)
    try:
        return int(await database.fetchval("SELECT coalesce(max(sequence), 0) FROM archive_cursor"))
    finally:
        await database.close()


async def archived_up_to(pair: Servers, sequence: int) -> None:
    deadline = asyncio.get_running_loop().time() + SECONDS
    while (reached := await archived(pair)) != sequence:
        assert asyncio.get_running_loop().time() < deadline, f"archived up to {reached}"
        await asyncio.sleep(POLL_SECONDS)


@pytest.mark.server
@pytest.mark.usefixtures("impatient")
def test_a_lock_that_a_broken_network_left_behind_goes_and_the_lag_is_told_until_then(
    pair: Servers, market: Market
) -> None:
    async def scenario() -> list[str]:
        with capture_logs() as lines:
            async with archiving(pair, archive_lag_seconds=1) as network:
                market.append(many(1, count=2))
                market.match()
                await archived_up_to(pair, 2)
                network.fall_silent()
                market.append(many(1, count=2))
                market.match()
                await archived_up_to(pair, 4)
        return events(lines)

    told = asyncio.run(scenario())

    assert told.count("archiving") == 2
    waiting = told.index("waiting to be the one that archives", told.index("archiving will be tried again"))
    assert "the archive lags" in told[waiting : told.index("archiving", waiting)]


@pytest.mark.server
@pytest.mark.usefixtures("impatient")
def test_an_archiver_without_work_notices_that_the_network_broke(pair: Servers, market: Market) -> None:
    async def scenario() -> list[str]:
        with capture_logs() as lines:
            async with archiving(pair) as network:
                market.append(many(1, count=2))
                market.match()
                await archived_up_to(pair, 2)
                network.fall_silent()
                await until_async(lambda: events(lines).count("archiving") == 2, "a second lock")
        return events(lines)

    assert "archiving will be tried again" in asyncio.run(scenario())


@pytest.mark.server
@pytest.mark.usefixtures("impatient")
def test_an_archiver_without_work_keeps_its_session(pair: Servers, market: Market) -> None:
    """It has none for longer than the server waits for somebody who is silent."""

    async def scenario() -> list[str]:
        with capture_logs() as lines:
            async with archiving(pair):
                await until_async(lambda: "archiving" in events(lines), "the start")
                await asyncio.sleep(postgres.IDLE_SECONDS + 1)  # nothing is to happen
                market.append(many(1, count=2))
                market.match()
                await archived_up_to(pair, 2)
        return events(lines)

    assert asyncio.run(scenario()).count("archiving") == 1


@pytest.mark.server
def test_the_server_is_told_to_look_for_the_archiver(pair: Servers) -> None:
    async def settings() -> dict[str, str]:
        connection = await postgres.connect(over_tcp(pair, pair.address))  # type: ignore[attr-defined]
        try:
            await postgres.set_session_timeouts(connection)
            rows = await connection.fetch("SELECT name, setting FROM pg_settings")
            return {row["name"]: row["setting"] for row in rows}
        finally:
            await connection.close()

    found = asyncio.run(settings())

    for name, value in postgres.SESSION_TIMEOUTS.items():
        assert found[name] == str(value), name
    assert found["idle_session_timeout"] == str(postgres.IDLE_SECONDS * 1_000)


@pytest.mark.server
@pytest.mark.usefixtures("market")
def test_a_second_archiver_takes_over_at_once(pair: Servers) -> None:
    async def scenario() -> float:
        clock = asyncio.get_running_loop().time
        database = await postgres.connect(pair.settings.database_url)
        assert await writer.lock_archiver(database)
        with capture_logs() as lines:
            async with archiving(pair):
                await until_async(lambda: "waiting to be the one that archives" in events(lines), "the wait")
                await asyncio.sleep(3 * archiver.LOCK_SECONDS)
                assert "archiving" not in events(lines)
                released = clock()
                await database.close()
                await until_async(lambda: "archiving" in events(lines), "the lock")
                return clock() - released

    assert asyncio.run(scenario()) < 2


@pytest.mark.server
def test_an_archiver_is_missed_though_an_orphaned_connection_has_the_lock() -> None:
    with exchange_server() as exchange:
        exchange.ready()
        assert exchange.stop_service("archiver") == 0

        def archiver_says(words: str) -> Any:
            body = exchange.http.get("/health").json()
            return body if words in body["parts"]["archiver"]["reason"] else None

        async def locked() -> None:
            orphan = await postgres.connect(exchange.settings.database_url)
            try:
                assert await writer.lock_archiver(orphan)
                backdated(Market(exchange.redis), 1)
                await asyncio.to_thread(until, lambda: archiver_says("no archiver is connected"))
                waiting = exchange.servers.service("archiver")
                try:
                    body = await asyncio.to_thread(until, lambda: archiver_says("holds the lock"))
                finally:
                    await asyncio.to_thread(waiting.stop)
            finally:
                await orphan.close()
            assert body["missing"] == ["archiver"]
            assert body["parts"]["archiver"]["activity"] == "standby"
            assert body["parts"]["archiver"]["lag_seconds"] > health_report.LAG_SECONDS_MAX

        asyncio.run(locked())
        exchange.start_service("archiver")
        exchange.ready()


@pytest.mark.server
def test_a_session_of_the_pool_that_takes_no_writes_ends(pair: Servers) -> None:
    async def scenario() -> None:
        async with postgres.pool(pair.settings.database_url) as pool:
            async with pool.acquire() as session:
                pid = session.get_server_pid()
                await session.execute("SET default_transaction_read_only = on")  # as at a demoted server
                with (
                    pytest.raises(Unavailable, match="no host of its address is the primary"),
                    postgres.postgres_errors(),
                ):
                    await session.execute("CREATE TABLE t (i int)")
            assert await pool.fetchval("SELECT pg_backend_pid()") != pid
            await pool.execute("CREATE TABLE t (i int); DROP TABLE t")

    asyncio.run(scenario())


@pytest.mark.server
def test_the_session_of_an_archiver_whose_host_is_gone_ends_within_10_seconds() -> None:
    found = postgres.SESSION_TIMEOUTS
    keepalives = found["tcp_keepalives_idle"] + found["tcp_keepalives_interval"] * found["tcp_keepalives_count"]

    assert max(keepalives, found["tcp_user_timeout"] / 1_000) < 10
    assert postgres.IDLE_SECONDS < 30
    assert postgres.HEARTBEAT_SECONDS * 2 < postgres.IDLE_SECONDS


# -- poolers


@contextmanager
def pgbouncer(pair: Servers, mode: str, *, size: int = 10) -> Iterator[str]:
    """The address of the database through PgBouncer."""
    program = shutil.which("pgbouncer")
    if program is None:
        pytest.skip("pgbouncer is not installed")
    parts, folder = urlsplit(pair.settings.database_url), socket_of(pair)
    port = free_port()
    settings = {
        **{"listen_addr": "127.0.0.1", "listen_port": str(port), "auth_type": "any", "pool_mode": mode},
        **{"unix_socket_dir": "", "max_client_conn": "200", "default_pool_size": str(size)},
    }
    account = pwd.getpwuid(Path(folder).stat().st_uid)
    with tempfile.TemporaryDirectory(prefix="tcgx-") as where:
        written = Path(where) / "pgbouncer.ini"
        database = f"host={folder} port=5432 user=tcgx password={parts.password}"
        lines = [
            "[databases]",
            f"tcgx = {database}",
            "[pgbouncer]",
            *(f"{name} = {settings[name]}" for name in settings),
        ]
        written.write_text("\n".join(lines) + "\n")
        for path in (Path(where), written):
            os.chown(path, account.pw_uid, account.pw_gid)
        with (Path(where) / "output").open("wb") as output:
            process = subprocess.Popen(
                [program, str(written)], stdin=subprocess.DEVNULL, stdout=output, stderr=output, user=account.pw_uid
            )
        try:
            until(lambda: "process up" in (Path(where) / "output").read_text(), why="pgbouncer does not start")
            yield f"postgresql://tcgx@127.0.0.1:{port}/tcgx"
        finally:
            process.terminate()
            process.wait(SECONDS)


@pytest.mark.server
@pytest.mark.parametrize("mode", ["transaction", "statement"])
def test_a_pooler_that_lends_sessions_is_refused(pair: Servers, mode: str) -> None:
    with pgbouncer(pair, mode) as url:
        for _ in range(3):
            with pytest.raises(StartError, match="pool_mode=session"):
                asyncio.run(postgres.connect(url))


@pytest.mark.server
def test_an_archiver_does_not_start_behind_a_pooler_that_lends_sessions(pair: Servers) -> None:
    with pgbouncer(pair, "transaction") as url:
        service = pair.service("archiver", database_url=url)
        try:
            assert service.wait() == 1
        finally:
            service.stop()

    assert "Traceback" not in service.output()
    assert "connection pooler" in service.output().splitlines()[-1]


@pytest.mark.server
@pytest.mark.parametrize("size", [1, 2, 10])
def test_a_pooler_with_a_session_for_each_client_works(
    pair: Servers, market: Market, size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postgres, "CONNECT_SECONDS", 2)
    with pgbouncer(pair, "session", size=size) as url:

        async def scenario() -> None:
            stopping = asyncio.Event()
            local = msgspec.structs.replace(pair.settings, database_url=url)
            working = asyncio.create_task(archiver.work(local, stopping))
            try:
                market.append(many(1, count=2))
                market.match()
                await archived_up_to(pair, 2)
            finally:
                stopping.set()
                await asyncio.wait_for(working, SECONDS)

        asyncio.run(scenario())


@pytest.mark.server
def test_reads_through_a_pooler_that_lends_sessions_are_unavailable_and_nothing_else(pair: Servers) -> None:
    async def scenario(url: str) -> list[Any]:
        async with postgres.pool(url) as pool:
            archive = Archive(pool)
            reads = [
                read
                for number in range(8)
                for read in (
                    archive.answers(),
                    archive.has_archiver(),
                    archive.order("pikachu", number),
                    archive.trades("pikachu", before=None, limit=5),
                    archive.cursors(CARDS),
                    archive.valid_keys(1),
                )
            ]
            return await asyncio.gather(*reads, return_exceptions=True)

    with pgbouncer(pair, "transaction") as url:
        outcomes = asyncio.run(scenario(url))

    assert {type(outcome) for outcome in outcomes} == {Unavailable}
    assert all("pooler" in str(outcome) for outcome in outcomes)


@pytest.mark.server
def test_a_read_that_is_given_up_ends_at_once_though_the_server_says_nothing(pair: Servers) -> None:
    async def scenario() -> None:
        network = Network(socket_of(pair))
        port = await network.open()
        async with postgres.pool(over_tcp(pair, f"127.0.0.1:{port}")) as pool:
            reads: dict[str, Callable[[], Awaitable[Any]]] = {
                "fetch": lambda: Archive(pool).order("pikachu", 1),
                "fetchval": lambda: pool.fetchval("SELECT 1"),
                "execute": lambda: writer.record_given(pool, {"pikachu": ("none", 1)}),
            }
            for name, read in reads.items():
                await read()
                network.fall_silent()
                started = asyncio.get_running_loop().time()
                with pytest.raises(TimeoutError):
                    async with asyncio.timeout(0.2):
                        await read()
                assert asyncio.get_running_loop().time() - started < postgres.CONNECT_SECONDS / 2, name
            await reads["fetch"]()  # on a new connection
        await network.close()

    asyncio.run(scenario())


@pytest.mark.server
def test_a_server_that_says_nothing_does_not_delay_the_end_of_a_process(pair: Servers) -> None:
    async def scenario() -> float:
        network = Network(socket_of(pair))
        port = await network.open()
        async with postgres.pool(over_tcp(pair, f"127.0.0.1:{port}")) as pool:
            await pool.fetchval("SELECT 1")
            network.fall_silent()
            started = asyncio.get_running_loop().time()
        seconds = asyncio.get_running_loop().time() - started
        await network.close()
        return seconds

    assert asyncio.run(scenario()) < postgres.CONNECT_SECONDS - 1


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (TimeoutError(), "PostgreSQL did not answer: TimeoutError"),
        (ConnectionResetError(), "PostgreSQL did not answer: ConnectionResetError"),
        (asyncpg.DiskFullError("could not extend file"), "The disk of PostgreSQL is full: could not extend file"),
        (AssertionError("insufficient data in buffer"), "can't be read: AssertionError insufficient data in buffer"),
        (BufferError(), "can't be read: BufferError"),
        (asyncpg.InternalClientError("got result for unknown protocol state"), "unknown protocol state"),
        (UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte"), "can't be read: UnicodeDecodeError"),
        (KeyError("card"), "can't be read: KeyError"),
    ],
)
def test_whatever_asyncpg_raises_is_unavailable_with_a_reason(error: Exception, said: str) -> None:
    with pytest.raises(Unavailable) as raised, postgres.postgres_errors():
        raise error

    assert said in str(raised.value)


def test_errors_of_ours_pass() -> None:
    with pytest.raises(StartError), postgres.postgres_errors():
        raise StartError("no")
