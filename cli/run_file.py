"""The run file, `<data dir>/run.json` (0600): the addresses and settings of a running exchange."""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import msgspec

from cli import datadir
from core.errors import StartError
from core.settings import Settings, texts_of, variable

EXCLUDED = ("redis_url", "database_url", "jwt_secret", "data_dir", "listen_fd", "ready_fd")
"""Settings that the run file does not list: addresses and key have fields of their own, descriptors are of one
process."""


class RunFile(msgspec.Struct, frozen=True):
    """The contents of a run file. `settings` has variables with values; older versions have written none."""

    api: str
    redis: str
    database: str
    jwt_secret: str
    settings: dict[str, str] = {}
    control: str = ""
    """The path of the socket that takes `tcgx restart` (`cli/control.py`)."""

    def variables(self) -> dict[str, str]:
        """Returns the environment of a command that works on this exchange, without unknown variables."""
        known = {variable(field) for field in Settings.__struct_fields__}
        reached = {"redis_url": self.redis, "database_url": self.database, "jwt_secret": self.jwt_secret}
        kept = {name: text for name, text in self.settings.items() if name in known}
        return kept | {variable(field): text for field, text in reached.items()}

    def is_meant_by(self, environment: Mapping[str, str]) -> bool:
        """Whether the variables name no server of another exchange."""
        addresses = {"redis_url": self.redis, "database_url": self.database}
        return all(environment.get(variable(field), url) == url for field, url in addresses.items())


def of_exchange(local: Settings, *, api: str, redis: str, control: str = "") -> RunFile:
    """Makes the run file of an exchange. `api`, `redis` and `control` are its addresses for other programs."""
    kept = {name: text for name, text in texts_of(local).items() if name not in map(variable, EXCLUDED)}
    return RunFile(api, redis, local.database_url, local.jwt_secret, kept, control)


def path_in(data_dir: str | Path) -> Path:
    """Returns the path of the run file in a data directory."""
    return Path(data_dir) / "run.json"


def find_running(data_dir: str | Path) -> RunFile | None:
    """Reads the run file of the exchange that runs in this data directory; None if no exchange runs.

    Raises:
        StartError: the run file can't be read.
    """
    path = path_in(data_dir)
    try:
        announced = msgspec.json.decode(path.read_bytes(), type=RunFile)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise StartError(f"{path} can't be read: {error.strerror}") from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise StartError(f"{path} can't be understood: {error}") from error
    # An exchange that was killed with -9 has left its run file behind.
    return announced if datadir.is_locked(Path(data_dir)) else None


@contextmanager
def announce(data_dir: Path, here: RunFile) -> Iterator[None]:
    """Writes the run file for the duration of the context. A reader finds the whole file, or none.

    Raises:
        StartError: the file can't be written.
    """
    path = path_in(data_dir)
    try:
        part = path.with_suffix(".part")
        part.unlink(missing_ok=True)
        with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(msgspec.json.encode(here))
        part.replace(path)
    except OSError as error:
        raise StartError(f"{path} can't be written: {error.strerror}") from error
    try:
        yield
    finally:
        path.unlink(missing_ok=True)
