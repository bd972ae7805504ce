"""The data directory of `tcgx up`: its lock, its secrets, and what else is in it.

<data_dir>/lock            held by the running `tcgx up`
           secrets.json    passwords and the key of the tokens, made once (0600)
           redis/ redis.socket/ redis.json redis.log redis.lock   see embedded.py
           postgres/ postgres.socket/ postgres.json postgres.log postgres.lock
"""

import fcntl
import os
import secrets
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import msgspec

from core.errors import StartError

EPHEMERAL = "tcgx-temp-"
"""How the names of data directories begin that are to be removed at the end."""

TEMPORARY_LOCK = "temporary.lock"
"""Is held by the process that made such a directory. The lock of a `tcgx up` in it is another one."""

SOCKETS = "tcgx-"
"""How the names of folders with sockets begin."""

OUTSIDE = Path("/var/lib/tcgx")
"""Where PostgreSQL's data goes that its user could not reach in the data directory."""


class Secrets(msgspec.Struct, frozen=True, kw_only=True):
    """Made at the first start of a data directory and kept in its `secrets.json`."""

    redis_password: str
    postgres_password: str
    jwt_secret: str


@contextmanager
def lock(data_dir: Path) -> Iterator[None]:
    """Makes the folder where it is missing, and keeps every other `tcgx up` out of it.

    Raises:
        StartError: another one uses it, or it cannot be written.
    """
    try:
        _make(data_dir)
        file = (data_dir / "lock").open("a+")
    except OSError as error:
        raise unusable(data_dir, error) from error
    with file:
        if not try_lock(file.fileno()):
            raise StartError(
                f"another `tcgx up` (process {owner(data_dir)}) uses {data_dir}; "
                "stop it, or give this one another --data-dir"
            )
        file.truncate(0)
        file.write(f"{os.getpid()}\n")
        file.flush()
        yield


def is_locked(data_dir: Path) -> bool:
    """Whether a `tcgx up` uses this data directory.

    Raises:
        StartError: it is no data directory, or not ours to look into.
    """
    try:
        with (data_dir / "lock").open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    except OSError as error:
        raise unusable(data_dir, error) from error
    return False


def owner(data_dir: Path) -> str:
    """The process id of the `tcgx up` that has locked a data directory."""
    return (data_dir / "lock").read_text(errors="replace")[:20].strip() or "unknown"


def unusable(data_dir: Path, error: OSError) -> StartError:
    """The error that says why a data directory can't be used."""
    return StartError(f"the data directory {data_dir} cannot be used: {_reason(data_dir, error)}")


def _reason(data_dir: Path, error: OSError) -> str:
    if isinstance(error, NotADirectoryError | FileExistsError):
        return "it is a file, or lies in one"
    if isinstance(error, IsADirectoryError):
        return f"{data_dir / 'lock'} is a folder"
    return error.strerror or str(error)


@contextmanager
def ephemeral() -> Iterator[Path]:
    """A data directory that is removed at the end, with all that belongs to it.

    What a killed process has left of such directories is removed, too.
    """
    sweep()
    data_dir = Path(tempfile.mkdtemp(prefix=EPHEMERAL))
    try:
        data_dir.chmod(_mode())
        with _locked_from_the_start(data_dir):
            yield data_dir
    finally:
        remove(data_dir)


@contextmanager
def _locked_from_the_start(data_dir: Path) -> Iterator[None]:
    """Holds a lock that nobody ever sees free: the file gets its name once it is locked."""
    with tempfile.NamedTemporaryFile(dir=data_dir, delete=False) as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        Path(file.name).rename(data_dir / TEMPORARY_LOCK)
        yield


def sweep() -> None:
    """Removes what killed processes of this user have left of ephemeral data directories."""
    for data_dir in Path(tempfile.gettempdir()).glob(f"{EPHEMERAL}*"):
        # A file of another user, or one that another sweep removes at the same time.
        with suppress(OSError), ExitStack() as locks:
            about = data_dir.lstat()
            if stat.S_ISDIR(about.st_mode) and about.st_uid == os.geteuid() and _is_dead(data_dir, locks):
                _remove_sockets(data_dir)
                remove(data_dir)


def _is_dead(data_dir: Path, locks: ExitStack) -> bool:
    """Whether neither the process that made it nor a server in it lives. Their locks are held from then on."""
    for name in (TEMPORARY_LOCK, "lock", "redis.lock", "postgres.lock"):
        try:
            descriptor = os.open(data_dir / name, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
        except FileNotFoundError:
            if name == TEMPORARY_LOCK:
                return False  # it is being made
            continue
        locks.callback(os.close, descriptor)
        if not try_lock(descriptor):
            return False
    return True


def _remove_sockets(data_dir: Path) -> None:
    """Removes the folders of its servers' sockets (embedded.Place), which lie outside of it."""
    for path in (data_dir / "redis.json", data_dir / "postgres.json"):
        with suppress(OSError, msgspec.DecodeError):
            run_dir = Path(msgspec.json.decode(path.read_bytes(), type=_SocketPlace).run_dir)
            if run_dir.name.startswith(SOCKETS) and not run_dir.is_symlink():
                shutil.rmtree(run_dir, ignore_errors=True)


class _SocketPlace(msgspec.Struct):
    run_dir: str


def remove(data_dir: Path) -> None:
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
        write_private(path, msgspec.json.encode(made))
    except OSError as error:
        raise StartError(f"{path} cannot be written: {error.strerror}") from error
    return made


def _make(data_dir: Path) -> None:
    if data_dir.is_dir():
        return
    data_dir.parent.mkdir(parents=True, exist_ok=True)
    data_dir.mkdir()
    data_dir.chmod(_mode())


def _mode() -> int:
    # Root's PostgreSQL runs as another user, who has to get through to its own folder.
    return 0o711 if os.geteuid() == 0 else 0o700


def write_private(path: Path, text: bytes) -> None:
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


def try_lock(descriptor: int) -> bool:
    """Takes the lock of a file that is open; whether nobody else had it."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
