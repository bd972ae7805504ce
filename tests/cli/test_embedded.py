"""The servers of `tcgx up`: really started, stopped, killed, and started again."""

import asyncio
import os
import re
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import asyncpg
import pytest
import redis.exceptions

from cli import datadir, embedded, embedded_postgres, embedded_redis
from cli.datadir import Secrets
from cli.embedded_postgres import PostgresServer
from cli.embedded_redis import RedisServer
from core.errors import StartError
from core.settings import Settings
from engine.connection import check, connect

pytestmark = pytest.mark.server
is_root = os.geteuid() == 0
PACKAGED = embedded_redis._packaged_redis()
# redis-py gives the refusal as an AuthenticationError or wraps it in a ConnectionError, depending on the address.
REFUSED = r"HELLO must be|invalid username-password|NOAUTH|WRONGPASS"


@pytest.fixture
def data_dir(tmp_path: Path) -> Iterator[Path]:
    """pytest's folders have mode 0700: as root, PostgreSQL cannot reach this one."""
    yield from locked(tmp_path / "data")


@pytest.fixture
def reachable_dir() -> Iterator[Path]:
    parent = Path(tempfile.mkdtemp(prefix="tcgx-test-"))
    parent.chmod(0o755)
    yield from locked(parent / "a 'data' dir")
    shutil.rmtree(parent)


def locked(path: Path) -> Iterator[Path]:
    with datadir.lock(path):
        yield path
    datadir.remove(path)


@asynccontextmanager
async def running(*servers: RedisServer | PostgresServer) -> AsyncIterator[None]:
    try:
        for server in servers:
            await server.start()
        yield
    finally:
        for server in servers:
            await server.stop()


def redis_in(data_dir: Path, **changes: Any) -> RedisServer:
    return RedisServer(Settings(data_dir=str(data_dir), **changes), datadir.load_secrets(data_dir))


def postgres_in(data_dir: Path, **changes: Any) -> PostgresServer:
    return PostgresServer(Settings(data_dir=str(data_dir), **changes), datadir.load_secrets(data_dir))


async def redis_says(url: str, *command: str) -> Any:
    client: Any = connect(url)
    try:
        return await client.execute_command(*command)
    finally:
        await client.aclose()


async def postgres_says(url: str, query: str) -> Any:
    connection = await asyncpg.connect(url)
    try:
        return await connection.fetchval(query)
    finally:
        await connection.close()


def lives(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def about(pid: int | None, file: str) -> str:
    return Path(f"/proc/{pid}/{file}").read_text()


def program(pid: int | None) -> Path:
    return Path(f"/proc/{pid}/exe").readlink()


def owner(path: Path | str) -> int:
    return Path(path).stat().st_uid


def foreign_process(uid: int) -> subprocess.Popen[bytes]:
    return subprocess.Popen(["/bin/sleep", "60"], user=uid if is_root else None)


def make_zombie(process: subprocess.Popen[bytes]) -> None:
    """Kills a process, and does not wait for it."""
    process.kill()
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    assert not lives(process.pid)


def socket_folder(server: RedisServer | PostgresServer) -> Path:
    return Path(server._known().run_dir)


def kill(pid: int | None) -> None:
    assert pid is not None
    os.kill(pid, signal.SIGKILL)


# -- data directory


def test_a_second_tcgx_up_on_the_same_data_directory_is_told_which_process_has_it(data_dir: Path) -> None:
    with (
        pytest.raises(StartError, match=rf"another `tcgx up` \(process {os.getpid()}\)"),
        datadir.lock(data_dir),
    ):
        pass


def test_the_lock_is_free_after_use(tmp_path: Path) -> None:
    for _ in range(2):
        with datadir.lock(tmp_path / "data"):
            assert (tmp_path / "data" / "lock").exists()


def test_a_data_directory_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()

    with (
        pytest.raises(StartError, match="file/data cannot be used"),
        datadir.lock(tmp_path / "file" / "data"),
    ):
        pass


def test_secrets_are_made_once_and_are_private(data_dir: Path) -> None:
    made = datadir.load_secrets(data_dir)

    assert datadir.load_secrets(data_dir) == made
    assert stat.S_IMODE((data_dir / "secrets.json").stat().st_mode) == 0o600
    assert len(bytes.fromhex(made.jwt_secret)) == 32
    assert len({made.jwt_secret, made.redis_password, made.postgres_password}) == 3


def test_damaged_secrets_stop_the_start(data_dir: Path) -> None:
    (data_dir / "secrets.json").write_text("{}")

    with pytest.raises(StartError, match=r"secrets\.json cannot be read"):
        datadir.load_secrets(data_dir)


def test_an_ephemeral_data_directory_leaves_nothing() -> None:
    async def scenario(data_dir: Path) -> Path:
        server = postgres_in(data_dir)
        async with running(server):
            return (data_dir / "postgres").resolve()

    with datadir.ephemeral() as data_dir:
        cluster = asyncio.run(scenario(data_dir))
        assert cluster.exists()
    assert not data_dir.exists()
    assert not cluster.exists()


# -- Redis


def test_redis_is_fit_for_orders_on_both_addresses(data_dir: Path) -> None:
    async def scenario() -> None:
        server = redis_in(data_dir)
        async with running(server):
            for url in (server.url, server.socket_url):
                client = connect(url)
                await check(client, durability="always")
                await client.aclose()
            assert (await redis_says(server.url, "CONFIG", "GET", "lazyfree-lazy-expire"))[
                b"lazyfree-lazy-expire"
            ] == b"yes"

    asyncio.run(scenario())


def test_redis_asks_for_the_password(data_dir: Path) -> None:
    async def scenario() -> None:
        server = redis_in(data_dir)
        async with running(server):
            password = datadir.load_secrets(data_dir).redis_password
            for url in (server.url, server.socket_url):
                with pytest.raises(redis.exceptions.ConnectionError, match=REFUSED):
                    await redis_says(re.sub("(?<=://).*?@", "", url), "PING")
                with pytest.raises(redis.exceptions.ConnectionError, match=REFUSED):
                    await redis_says(url.replace(password, "wrong"), "PING")

    asyncio.run(scenario())


def test_no_password_is_in_the_process_list(data_dir: Path) -> None:
    async def scenario() -> None:
        redis_server, postgres = redis_in(data_dir), postgres_in(data_dir)
        async with running(redis_server, postgres):
            for pid in (redis_server.pid, postgres.pid):
                for file in ("cmdline", "environ"):
                    assert not any(secret in about(pid, file) for secret in vars_of(datadir.load_secrets(data_dir)))

    asyncio.run(scenario())


def vars_of(loaded: Secrets) -> list[str]:
    return [loaded.redis_password, loaded.postgres_password, loaded.jwt_secret]


def test_redis_keeps_its_data_and_its_port_over_a_restart(data_dir: Path) -> None:
    async def scenario() -> None:
        first, second = redis_in(data_dir), redis_in(data_dir)
        async with running(first):
            url = first.url
            await redis_says(url, "SET", "order", "1")
        async with running(second):
            assert second.url == url
            assert await redis_says(second.socket_url, "GET", "order") == b"1"

    asyncio.run(scenario())


@pytest.mark.parametrize("restarts", [1, 3])
def test_killed_redis_comes_back_to_the_same_addresses(data_dir: Path, restarts: int) -> None:
    async def scenario() -> None:
        server = redis_in(data_dir)
        async with running(server):
            urls = server.url, server.socket_url
            await redis_says(server.url, "SET", "order", "1")
            for _ in range(restarts):
                kill(server.pid)
                assert await server.wait() == -signal.SIGKILL
                assert server.pid is None
                await server.start()
            assert (server.url, server.socket_url) == urls
            assert await redis_says(server.socket_url, "GET", "order") == b"1"

    asyncio.run(scenario())


def test_redis_reads_a_log_that_takes_a_while(data_dir: Path) -> None:
    async def scenario() -> None:
        server = redis_in(data_dir, durability="everysec")
        async with running(server):
            fill = "for i = 1, 200000 do redis.call('RPUSH', 'l' .. i % 100, ('x'):rep(200)) end"
            for _ in range(3):
                await redis_says(server.url, "EVAL", fill, "0")
        async with running(server):
            assert await redis_says(server.url, "LLEN", "l1") == 6_000

    asyncio.run(scenario())


@pytest.mark.parametrize(("excess", "is_moved"), [(0, False), (1, True)])
def test_a_large_log_is_moved_aside_when_its_server_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, excess: int, is_moved: bool
) -> None:
    monkeypatch.setattr(embedded, "LOG_BYTES_MAX", 100)
    path, aside = tmp_path / "redis.log", tmp_path / "redis.log.1"
    aside.write_text("earlier")
    path.write_bytes(b"x" * (100 + excess))

    written = embedded.ServerLog(path)
    with written.file:
        written.file.write(b"a line")

    assert path.read_bytes().startswith(b"a line") == is_moved
    assert (aside.stat().st_size == 101) == is_moved
    assert "a line" in written.tail()


def test_a_path_with_spaces_and_quotes_works(reachable_dir: Path) -> None:
    async def scenario() -> None:
        redis_server, postgres = redis_in(reachable_dir), postgres_in(reachable_dir)
        async with running(redis_server, postgres):
            assert await redis_says(redis_server.url, "PING")
            assert await postgres_says(postgres.url, "SELECT 1") == 1
            assert not (reachable_dir / "postgres").is_symlink()

    asyncio.run(scenario())


@pytest.mark.skipif(not Path("/usr/bin/redis-server").exists(), reason="needs Debian's redis-server")
def test_the_redis_of_the_distribution_works_too(data_dir: Path) -> None:
    async def scenario() -> None:
        server = redis_in(data_dir, redis_bin="/usr/bin/redis-server")
        async with running(server):
            client = connect(server.socket_url)
            await check(client, durability="always")
            assert program(server.pid).name.startswith("redis-")
            assert program(server.pid).parent == Path("/usr/bin")
            assert "mimalloc" not in about(server.pid, "maps"), "it has an allocator of its own"
            await client.aclose()

    asyncio.run(scenario())


@pytest.mark.skipif(not PACKAGED or sys.platform != "linux", reason="needs the packaged server, on Linux")
def test_the_packaged_redis_has_mimalloc_and_rewrites_its_log_while_orders_come(data_dir: Path) -> None:
    """The log is rewritten by a copy of the process, made by fork: the allocator must be sound in both."""
    rewrites, values = 20, 500

    async def scenario() -> None:
        server = redis_in(data_dir)
        async with running(server):
            assert "libmimalloc.so" in about(server.pid, "maps")
            client = connect(server.socket_url)
            for number in range(rewrites):
                await client.bgrewriteaof()
                rewriting = True
                while rewriting:
                    await client.hset("numbers", mapping={str(field): number for field in range(values)})
                    state = await client.info("persistence")
                    rewriting = bool(state["aof_rewrite_in_progress"] or state["aof_rewrite_scheduled"])
                assert state["aof_last_bgrewrite_status"] == "ok"
            await client.aclose()
        async with running(server):
            client = connect(server.socket_url)
            assert await client.hvals("numbers") == [str(rewrites - 1).encode()] * values
            await client.aclose()

    asyncio.run(scenario())


@pytest.mark.skipif(not PACKAGED or sys.platform != "linux", reason="needs the packaged server, on Linux")
def test_where_the_allocator_lacks_a_library_redis_has_that_of_the_system(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As on a Debian without libatomic1, where a server with that allocator ends before it is one."""
    libraries = data_dir / "libraries"
    libraries.mkdir()
    (libraries / "libatomic.so.1").touch()
    monkeypatch.setenv("LD_LIBRARY_PATH", str(libraries))

    async def scenario() -> None:
        server = redis_in(data_dir)
        async with running(server):
            assert "libmimalloc.so" not in about(server.pid, "maps")
            client = connect(server.socket_url)
            assert await client.ping()
            await client.aclose()

    asyncio.run(scenario())
    assert "apt install libatomic1" in capsys.readouterr().out


def test_a_redis_program_that_is_not_there_is_named(data_dir: Path) -> None:
    with pytest.raises(StartError, match="TCGX_REDIS_BIN=/no/redis"):
        asyncio.run(redis_in(data_dir, redis_bin="/no/redis").start())


def test_a_full_disk_is_named(data_dir: Path) -> None:
    program = data_dir / "full"
    program.write_text(
        "#!/bin/sh\ncat > /dev/null\necho 'Error writing to the AOF file: No space left on device'\nexit 1\n"
    )
    program.chmod(0o755)

    with pytest.raises(StartError, match=r"redis ended while starting; its disk is full; the end of .*redis\.log"):
        asyncio.run(redis_in(data_dir, redis_bin=str(program)).start())


def test_whether_a_data_directory_is_used_cannot_be_told_where_its_lock_is_none(tmp_path: Path) -> None:
    (tmp_path / "lock").mkdir()

    with pytest.raises(StartError, match="lock is a folder"):
        datadir.is_locked(tmp_path)


def test_a_taken_port_is_told_with_the_end_of_the_log(data_dir: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        server = RedisServer(Settings(data_dir=str(data_dir)), datadir.load_secrets(data_dir), port=port)

        with pytest.raises(StartError, match=rf"redis ended while starting(?s:.*)redis\.log(?s:.*){port}"):
            asyncio.run(server.start())


# -- PostgreSQL


def test_postgres_is_a_durable_private_archive(data_dir: Path) -> None:
    async def scenario() -> None:
        server = postgres_in(data_dir)
        async with running(server):
            assert await postgres_says(server.url, "SELECT current_user || '@' || current_database()") == "tcgx@tcgx"
            for name, value in {"fsync": "on", "synchronous_commit": "on", "listen_addresses": ""}.items():
                assert await postgres_says(server.url, f"SHOW {name}") == value
            cluster = (data_dir / "postgres").resolve()
            assert stat.S_IMODE(cluster.stat().st_mode) == 0o700
            assert owner(f"/proc/{server.pid}") == owner(cluster) != 0

    asyncio.run(scenario())


def test_postgres_asks_for_the_password(data_dir: Path) -> None:
    async def scenario() -> None:
        server = postgres_in(data_dir)
        async with running(server):
            password = datadir.load_secrets(data_dir).postgres_password
            with pytest.raises(asyncpg.InvalidPasswordError):
                await asyncpg.connect(server.url.replace(password, "wrong"))

    asyncio.run(scenario())


def test_psql_takes_the_url(data_dir: Path) -> None:
    async def scenario() -> str:
        server = postgres_in(data_dir)
        async with running(server):
            psql = program(server.pid).with_name("psql")
            child = await asyncio.create_subprocess_exec(
                psql, "-X", "-A", "-t", "-c", "SELECT 40 + 2", server.url, stdout=asyncio.subprocess.PIPE
            )
            return (await child.communicate())[0].decode().strip()

    assert asyncio.run(scenario()) == "42"


def test_postgres_keeps_its_data_over_a_restart(data_dir: Path) -> None:
    async def scenario() -> None:
        for expected in (1, 2):
            server = postgres_in(data_dir)
            async with running(server):
                await postgres_says(server.url, "CREATE TABLE IF NOT EXISTS trades (id serial)")
                await postgres_says(server.url, "INSERT INTO trades DEFAULT VALUES")
                assert await postgres_says(server.url, "SELECT count(*) FROM trades") == expected

    asyncio.run(scenario())


def test_killed_postgres_comes_back_to_the_same_address_while_clients_are_connected(data_dir: Path) -> None:
    async def scenario() -> None:
        server = postgres_in(data_dir)
        async with running(server):
            url = server.url
            await postgres_says(url, "CREATE TABLE trades AS SELECT 7 AS id")
            for _ in range(3):
                client = await asyncpg.connect(url)
                busy = asyncio.create_task(client.fetchval("SELECT pg_sleep(60)"))
                while not await postgres_says(
                    url, "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep'"
                ):
                    assert not busy.done()
                kill(server.pid)
                assert await server.wait() == -signal.SIGKILL
                await server.start()
                with pytest.raises((asyncpg.PostgresError, OSError)):
                    await busy
                client.terminate()
            assert server.url == url
            assert await postgres_says(url, "SELECT id FROM trades") == 7

    asyncio.run(scenario())


@pytest.mark.parametrize("is_dead", [False, True], ids=["lives", "zombie"])
@pytest.mark.parametrize("name", ["postmaster.pid", ".s.PGSQL.5432.lock"])
def test_a_pid_file_that_names_a_foreign_process_does_not_stop_the_start(
    data_dir: Path, name: str, *, is_dead: bool
) -> None:
    async def scenario() -> None:
        server = postgres_in(data_dir)
        async with running(server):
            kill(server.pid)
            await server.wait()
            pid_file = (socket_folder(server) if name.startswith(".") else (data_dir / "postgres").resolve()) / name
            with foreign_process(owner(pid_file)) as foreign:
                try:
                    if is_dead:
                        make_zombie(foreign)
                    lines = pid_file.read_text().splitlines()
                    pid_file.write_text("\n".join([str(foreign.pid), *lines[1:]]) + "\n")
                    await server.start()
                finally:
                    foreign.kill()
            assert await postgres_says(server.url, "SELECT 1") == 1

    asyncio.run(scenario())


# -- sockets


@pytest.fixture
def long_dir() -> Iterator[Path]:
    """A data directory whose path is too long for a socket in it."""
    parent = Path(tempfile.mkdtemp(prefix="tcgx-test-"))
    parent.chmod(0o755)
    yield from locked(parent / ("long" * 25))
    shutil.rmtree(parent)


@pytest.fixture
def comma_dir() -> Iterator[Path]:
    """A data directory with a comma, that would be two hosts in a URL."""
    parent = Path(tempfile.mkdtemp(prefix="tcgx-test-"))
    parent.chmod(0o755)
    yield from locked(parent / "one,two")
    shutil.rmtree(parent)


def test_sockets_are_in_the_data_directory_where_nobody_tidies_up(reachable_dir: Path) -> None:
    async def scenario() -> None:
        redis_server, postgres = redis_in(reachable_dir), postgres_in(reachable_dir)
        async with running(redis_server, postgres):
            for server in (redis_server, postgres):
                assert socket_folder(server).parent == reachable_dir
            assert await redis_says(redis_server.socket_url, "PING")

    asyncio.run(scenario())


@pytest.mark.parametrize("fixture", ["long_dir", "comma_dir"])
def test_sockets_are_elsewhere_where_they_do_not_work(fixture: str, request: pytest.FixtureRequest) -> None:
    folder: Path = request.getfixturevalue(fixture)

    async def scenario() -> None:
        redis_server, postgres = redis_in(folder), postgres_in(folder)
        async with running(redis_server, postgres):
            for server in (redis_server, postgres):
                assert not socket_folder(server).is_relative_to(folder)
            assert await redis_says(redis_server.socket_url, "PING")
            assert await postgres_says(postgres.url, "SELECT 1") == 1

    asyncio.run(scenario())
    assert list(folder.glob("*.socket/*")) == []


@pytest.mark.parametrize("place", ["reachable_dir", "long_dir"])
def test_a_server_whose_socket_folder_was_removed_comes_back_to_the_same_address(
    place: str, request: pytest.FixtureRequest
) -> None:
    folder: Path = request.getfixturevalue(place)

    async def scenario() -> None:
        redis_server, postgres = redis_in(folder), postgres_in(folder)
        async with running(redis_server, postgres):
            urls = redis_server.socket_url, postgres.url
            for server in (redis_server, postgres):
                shutil.rmtree(socket_folder(server))
                kill(server.pid)
                await server.wait()
                await server.start()
            assert (redis_server.socket_url, postgres.url) == urls
            assert await redis_says(redis_server.socket_url, "PING")
            assert await postgres_says(postgres.url, "SELECT 1") == 1

    asyncio.run(scenario())


def test_a_socket_folder_that_somebody_else_has_made_is_not_used(long_dir: Path) -> None:
    async def scenario() -> None:
        server = redis_in(long_dir)
        async with running(server):
            kill(server.pid)
            await server.wait()
            socket_folder(server).chmod(0o777)
            with pytest.raises(StartError, match="belongs to somebody else"):
                await server.start()

    asyncio.run(scenario())


@pytest.mark.skipif(not is_root, reason="only root runs PostgreSQL as somebody else")
def test_data_that_its_user_cannot_reach_goes_outside_and_is_found_again(tmp_path: Path) -> None:
    hidden = tmp_path / "hidden"
    hidden.mkdir(mode=0o700)
    modes = [folder.stat().st_mode for folder in (hidden, *hidden.parents)]

    async def scenario(data_dir: Path) -> None:
        server = postgres_in(data_dir)
        async with running(server):
            await postgres_says(server.url, "CREATE TABLE trades AS SELECT 7 AS id")
        async with running(server):
            assert await postgres_says(server.url, "SELECT id FROM trades") == 7

    for data_dir in locked(hidden / "data"):
        asyncio.run(scenario(data_dir))
        home = (data_dir / "postgres").resolve().parent
        assert home.parent == datadir.OUTSIDE
    assert not home.exists()
    assert [folder.stat().st_mode for folder in (hidden, *hidden.parents)] == modes


@pytest.mark.skipif(not is_root, reason="only root runs PostgreSQL as somebody else")
def test_packaged_programs_that_nobody_else_may_read_are_copied_not_linked(tmp_path: Path) -> None:
    package = tmp_path / "site" / "embedded_postgres"
    for name in ("bin/postgres", "bin/initdb", "lib/plpgsql.so", "share/postgres.bki"):
        file = package / "pginstall" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch(mode=0o700 if name.startswith("bin") else 0o600)
    (package / "pginstall" / "lib" / "plpgsql.so").chmod(0o644)

    made = embedded_postgres._reachable_copy(package, tmp_path)

    assert stat.S_IMODE((made / "postgres").stat().st_mode) == 0o755
    assert stat.S_IMODE((package / "pginstall" / "bin" / "postgres").stat().st_mode) == 0o700
    assert (made.parent / "lib" / "plpgsql.so").samefile(package / "pginstall" / "lib" / "plpgsql.so")
    assert stat.S_IMODE((made.parent / "share" / "postgres.bki").stat().st_mode) == 0o644


@pytest.mark.skipif(not list(Path("/usr/lib/postgresql").glob("*/bin/initdb")), reason="needs Debian's PostgreSQL")
def test_the_postgres_of_the_distribution_works_too(data_dir: Path) -> None:
    folder = next(Path("/usr/lib/postgresql").glob("*/bin/initdb")).parent

    async def scenario() -> None:
        server = postgres_in(data_dir, pg_bin=str(folder))
        async with running(server):
            assert await postgres_says(server.url, "SELECT 1") == 1
            assert program(server.pid).parent == folder.resolve()

    asyncio.run(scenario())


def test_a_folder_without_postgres_is_named(data_dir: Path) -> None:
    with pytest.raises(StartError, match="TCGX_PG_BIN=/usr/share"):
        asyncio.run(postgres_in(data_dir, pg_bin="/usr/share").start())


def test_lost_secrets_are_told(data_dir: Path) -> None:
    async def scenario() -> None:
        async with running(postgres_in(data_dir)):
            pass
        (data_dir / "secrets.json").unlink()
        with pytest.raises(StartError, match=r"another password than secrets\.json"):
            await postgres_in(data_dir).start()

    asyncio.run(scenario())


# -- both


def test_after_a_stop_no_process_and_no_socket_is_left(data_dir: Path) -> None:
    async def scenario() -> None:
        redis_server, postgres = redis_in(data_dir), postgres_in(data_dir)
        async with running(redis_server, postgres):
            pids = [pid for pid in (redis_server.pid, postgres.pid) if pid]
            folders = [Path(server._known().run_dir) for server in (redis_server, postgres)]
            assert all(stat.S_IMODE(folder.stat().st_mode) == 0o700 for folder in folders)
        assert len(pids) == 2
        assert not any(lives(pid) for pid in pids)
        assert not any(folder.exists() for folder in folders)

    asyncio.run(scenario())


def test_servers_end_with_a_killed_tcgx_up_and_the_next_one_starts_at_once(data_dir: Path) -> None:
    script = textwrap.dedent(
        f"""
        import asyncio
        from pathlib import Path
        from tests.cli.test_embedded import postgres_in, postgres_says, redis_in, redis_says

        async def main():
            redis, postgres = redis_in(Path({str(data_dir)!r})), postgres_in(Path({str(data_dir)!r}))
            await redis.start()
            await postgres.start()
            await redis_says(redis.url, "SET", "order", "1")
            await postgres_says(postgres.url, "CREATE TABLE trades AS SELECT 7 AS id")
            print("pids", redis.pid, postgres.pid, flush=True)
            await redis.wait()

        asyncio.run(main())
        """
    )
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True) as first:
        assert first.stdout is not None
        said = next(line for line in first.stdout if line.startswith("pids "))
        pids = [int(word) for word in said.split()[1:]]
        first.kill()

    async def scenario() -> None:
        redis_server, postgres = redis_in(data_dir), postgres_in(data_dir)
        async with running(redis_server, postgres):
            assert await redis_says(redis_server.url, "GET", "order") == b"1"
            assert await postgres_says(postgres.url, "SELECT id FROM trades") == 7
        assert len(pids) == 2
        assert not any(lives(pid) for pid in pids)

    asyncio.run(scenario())
