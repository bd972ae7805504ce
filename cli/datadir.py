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
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from engine.errors import StartError, reason

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
        raise StartError(f"the data directory {data_dir} cannot be used: {reason(error)}") from error
    with file:
        if not try_lock(file.fileno()):
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
    """Whether a `tcgx up` uses this data directory.

    Raises:
        StartError: nobody can tell.
    """
    try:
        with (data_dir / "lock").open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    except OSError as error:
        raise StartError(f"{data_dir / 'lock'} can't be read: {reason(error)}") from error
    return False


@contextmanager
def ephemeral() -> Iterator[Path]:
    """A data directory that is removed at the end, with all that belongs to it."""
    data_dir = Path(tempfile.mkdtemp(prefix="tcgx-"))
    try:
        data_dir.chmod(_mode())
        yield data_dir
    finally:
        remove(data_dir)


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
        raise StartError(f"{path} cannot be written: {error}") from error
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
