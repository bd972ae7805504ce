"""The data directory of `tcgx up`: its files, its lock and its secrets.

<data_dir>/lock            held by the running `tcgx up`
           control.socket/ the socket that takes `tcgx restart` (control.py)
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
"""The prefix of the names of ephemeral data directories."""

TEMPORARY_LOCK = "temporary.lock"
"""The lock of the process that made an ephemeral directory. A `tcgx up` in the directory holds another lock."""

SOCKETS = "tcgx-"
"""The prefix of the names of folders for sockets."""

OUTSIDE = Path("/var/lib/tcgx")
"""The folder for PostgreSQL's data if PostgreSQL's user cannot reach the data directory."""


class Secrets(msgspec.Struct, frozen=True, kw_only=True):
    """The secrets of a data directory, made at its first start and kept in `secrets.json`."""

    redis_password: str
    postgres_password: str
    jwt_secret: str


@contextmanager
def lock(data_dir: Path) -> Iterator[None]:
    """Makes the folder if it is missing, and locks it against every other `tcgx up`.

    Raises:
        StartError: another `tcgx up` uses the folder, or the folder cannot be written.
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
        StartError: the path is no data directory, or this user may not read it.
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
    """Returns the process id of the `tcgx up` that has locked a data directory."""
    return (data_dir / "lock").read_text(errors="replace")[:20].strip() or "unknown"


def unusable(data_dir: Path, error: OSError) -> StartError:
    """Makes the error that says why a data directory can't be used."""
    return StartError(f"the data directory {data_dir} cannot be used: {_reason(data_dir, error)}")


def _reason(data_dir: Path, error: OSError) -> str:
    if isinstance(error, NotADirectoryError | FileExistsError):
        return "it is a file, or lies in one"
    if isinstance(error, IsADirectoryError):
        return f"{data_dir / 'lock'} is a folder"
    return error.strerror or str(error)


@contextmanager
def ephemeral() -> Iterator[Path]:
    """Makes a data directory for the duration of the context, and removes it with all its data at the end.

    Leftovers of killed processes are removed first.
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
    """Holds a lock that no process ever sees free: the file gets its name once it is locked."""
    with tempfile.NamedTemporaryFile(dir=data_dir, delete=False) as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        Path(file.name).rename(data_dir / TEMPORARY_LOCK)
        yield


def sweep() -> None:
    """Removes the ephemeral data directories that killed processes of this user have left."""
    for data_dir in Path(tempfile.gettempdir()).glob(f"{EPHEMERAL}*"):
        # Another user may own a file, and another sweep may remove it at the same time.
        with suppress(OSError), ExitStack() as locks:
            about = data_dir.lstat()
            if stat.S_ISDIR(about.st_mode) and about.st_uid == os.geteuid() and _is_dead(data_dir, locks):
                _remove_sockets(data_dir)
                remove(data_dir)


def _is_dead(data_dir: Path, locks: ExitStack) -> bool:
    """Whether the maker of the directory and all its servers have ended. `locks` then holds their locks."""
    for name in (TEMPORARY_LOCK, "lock", "redis.lock", "postgres.lock"):
        try:
            descriptor = os.open(data_dir / name, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
        except FileNotFoundError:
            if name == TEMPORARY_LOCK:
                return False  # the directory is being made
            continue
        locks.callback(os.close, descriptor)
        if not try_lock(descriptor):
            return False
    return True


def _remove_sockets(data_dir: Path) -> None:
    """Removes the socket folders of the directory's servers (embedded.Place) that lie outside of it."""
    for path in (data_dir / "redis.json", data_dir / "postgres.json"):
        with suppress(OSError, msgspec.DecodeError):
            run_dir = Path(msgspec.json.decode(path.read_bytes(), type=_SocketPlace).run_dir)
            if run_dir.name.startswith(SOCKETS) and not run_dir.is_symlink():
                shutil.rmtree(run_dir, ignore_errors=True)


class _SocketPlace(msgspec.Struct):
    run_dir: str


def remove(data_dir: Path) -> None:
    """Deletes a data directory, and its PostgreSQL data in `OUTSIDE`. The servers must have been stopped."""
    cluster = data_dir / "postgres"
    if cluster.is_symlink() and cluster.resolve().is_relative_to(OUTSIDE.resolve()):
        shutil.rmtree(cluster.resolve().parent, ignore_errors=True)
    shutil.rmtree(data_dir, ignore_errors=True)


def load_secrets(data_dir: Path) -> Secrets:
    """Reads the secrets of a data directory; makes them the first time. The caller must hold the lock.

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
    # Root's PostgreSQL runs as another user, which must be able to enter its own folder.
    return 0o711 if os.geteuid() == 0 else 0o700


def write_private(path: Path, text: bytes) -> None:
    """Writes a file with mode 0600, wholly or not at all, even if the power fails."""
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
    """Tries to lock an open file; False if another process holds the lock."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
