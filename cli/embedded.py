"""Servers for one machine: what the Redis and the PostgreSQL that live in a data directory (datadir.py) share.

Of each there is `<name>.json`, which remembers port and socket folder, `<name>.log` and `<name>.lock`. The lock is
inherited by the server itself: it is free when the last process of the server has ended, however its `tcgx up` ended.
"""

import asyncio
import importlib.util
import os
import shutil
import socket
import stat
import tempfile
from contextlib import suppress
from pathlib import Path

import msgspec
import structlog

from cli import datadir
from cli.supervisor import Account, Process
from core.errors import StartError, reason
from core.settings import Settings
from engine.connection import NO_SPACE

START_SECONDS = 10
LOAD_SECONDS = 120  # reading a large AOF, or recovering PostgreSQL after kill -9
EARLIER_SECONDS = 30  # how long a server of an earlier, killed `tcgx up` may take to end
CHECK_SECONDS = 0.02
LOG_LINES = 5
CAUSE_LINES = 20
SOCKET_NAME_MAX = ".s.PGSQL.5432.probe"  # no name of a socket of ours is longer
SOCKET_FOLDER_BYTES_MAX = 65  # a socket's path has at most 107 bytes (macOS: 103), its name and our folder included
MEMORABLE_BYTES_MAX = 10_000
CAUSES = {
    NO_SPACE: "its disk is full; ",
    "Bad file format reading the append only file": "the end of its log is damaged, `tcgx repair` shows where; ",
}
"""Texts in a server's log, and what they mean."""

log = structlog.get_logger()


class Place(msgspec.Struct, frozen=True, kw_only=True):
    """Where a server was reached last, so that it can be reached there again."""

    run_dir: str = ""
    port: int = 0


def _remembered(path: Path) -> Place:
    try:
        return msgspec.json.decode(path.read_bytes()[:MEMORABLE_BYTES_MAX], type=Place)
    except (OSError, msgspec.DecodeError):
        return Place()


async def _lock_for_child(path: Path) -> int:
    """A locked descriptor for a server to inherit. Waits for the end of an earlier server that still holds it."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        deadline = _now() + EARLIER_SECONDS
        while not datadir.try_lock(descriptor):
            if _now() > deadline:
                raise StartError(f"an earlier server still holds {path}; `fuser {path}` names it: stop it first")
            await asyncio.sleep(CHECK_SECONDS)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _now() -> float:
    return asyncio.get_running_loop().time()


def _run_dir(data_dir: Path, name: str, remembered: str, account: Account | None) -> Path:
    """A private folder for a socket: in the data directory, where nobody tidies up, if a socket works there. Its path
    may be too long, its file system may have none (that of a container on macOS), or the account may not reach it.
    Else a short one elsewhere, that of the last time if it is still ours."""
    uid = account.uid if account else os.geteuid()
    inside = data_dir / f"{name}.socket"
    if reaches(account, data_dir):
        inside.mkdir(mode=0o700, exist_ok=True)
        if account and inside.lstat().st_uid == os.geteuid():
            os.chown(inside, account.uid, account.gid)
        if _is_private(inside, uid) and _takes_sockets(inside):
            return inside
    if remembered and _is_private(Path(remembered), uid):
        return Path(remembered)
    for parent in (tempfile.gettempdir(), "/tmp"):  # noqa: S108 -- mkdtemp makes a private folder in it
        if len(os.fsencode(parent)) > SOCKET_FOLDER_BYTES_MAX or not reaches(account, Path(parent)):
            continue
        made = Path(tempfile.mkdtemp(prefix=datadir.SOCKETS, dir=parent))
        if account:
            os.chown(made, account.uid, account.gid)
        return made
    raise StartError("no folder for sockets: TMPDIR is too long or out of reach, and there is no /tmp")


def _takes_sockets(folder: Path) -> bool:
    """Whether a server can listen on a socket in this folder, whatever its name, and a URL can name it: a comma in the
    address of PostgreSQL stands between two hosts."""
    path = folder / SOCKET_NAME_MAX
    if "," in str(folder):
        return False
    try:
        with socket.socket(socket.AF_UNIX) as probe:
            path.unlink(missing_ok=True)
            probe.bind(os.fsencode(path))
        path.unlink()
    except OSError:
        return False
    return True


def _make_again(folder: Path, account: Account | None) -> None:
    """Makes the folder of a socket where somebody has removed it, at the same path: the services know that one."""
    with suppress(FileExistsError):
        folder.mkdir(mode=0o700)
        if account:
            os.chown(folder, account.uid, account.gid)
    if not _is_private(folder, account.uid if account else os.geteuid()):
        raise StartError(f"{folder}, the folder of a socket, belongs to somebody else now: start `tcgx up` again")


def _is_private(folder: Path, uid: int) -> bool:
    try:
        about = folder.lstat()
    except OSError:
        return False
    return stat.S_ISDIR(about.st_mode) and about.st_uid == uid and stat.S_IMODE(about.st_mode) == 0o700


def reaches(account: Account | None, folder: Path) -> bool:
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


class ServerLog:
    """A server's log file; `tail` shows what was written since the server was started."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.file = os.fdopen(os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600), "ab")
        self._start = self.file.seek(0, os.SEEK_END)

    def tail(self) -> str:
        """Its last lines, as an error repeats them."""
        with self.path.open("rb") as file:
            file.seek(max(self._start, file.seek(0, os.SEEK_END) - MEMORABLE_BYTES_MAX))
            lines = file.read().decode(errors="replace").splitlines()
        cause = next((CAUSES[text] for line in lines[-CAUSE_LINES:] for text in CAUSES if text in line), "")
        return "\n  ".join([f"{cause}the end of {self.path}:", *lines[-LOG_LINES:]])


class Running(msgspec.Struct, frozen=True):
    """A server that was started, and its log."""

    process: Process
    log: ServerLog

    def check(self, name: str, deadline: float) -> None:
        """Raises: StartError, it has ended, or should have answered by now."""
        if self.process.ended():
            raise StartError(f"{name} ended while starting; {self.log.tail()}")
        if _now() > deadline:
            raise StartError(f"{name} does not answer; {self.log.tail()}")


class Loading(Exception):
    """It answers that it is not ready yet: it reads its data."""


class Silent(Exception):
    """It does not answer yet."""


class EmbeddedServer:
    """The life that both servers share; it fits a `cli.supervisor.Supervisor`.

    `start` after an unexpected end brings the server back to the same port and socket. `stop` removes the socket.
    """

    name: str
    serves = True

    def __init__(self, settings: Settings) -> None:
        self._data_dir = Path(settings.data_dir).resolve()
        self._stop_seconds = settings.stop_seconds
        self._place: Place | None = None
        self._running: Running | None = None

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
                raise StartError(f"{self.name} cannot be started in {self._data_dir}: {reason(error)}") from error
            raise

    def last_words(self) -> str:
        """The end of its log."""
        return self._running.log.tail() if self._running else ""

    async def wait(self) -> int:
        """Waits until it has ended; its exit code."""
        return await self._running.process.wait() if self._running else 0

    async def stop(self) -> None:
        """Asks it to write what it has and to end; SIGKILL after `stop_seconds`."""
        await self._end()
        self._forget()

    async def _launch(self, lock: int) -> Running:
        raise NotImplementedError

    async def _try(self) -> None:
        """Returns when it answers. Raises: `StartError`, it never will; `Loading`; `Silent`."""
        raise NotImplementedError

    async def _answers(self, running: Running) -> None:
        deadline, load_deadline = _now() + START_SECONDS, _now() + LOAD_SECONDS
        while True:
            try:
                return await self._try()
            except Loading:
                deadline = load_deadline
            except Silent:
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

    def _keep_place(self, *, port: int, account: Account | None) -> Place:
        """Where it is reached while this `tcgx up` runs: it stays the same over restarts."""
        if self._place is None:
            self._place = self._find_place(port=port, account=account)
        _make_again(Path(self._place.run_dir), account)
        return self._place

    def _find_place(self, *, port: int, account: Account | None) -> Place:
        """The place of the last start, as far as it is still free. `port` 0: any."""
        path = self._data_dir / f"{self.name}.json"
        earlier = _remembered(path)
        run_dir = _run_dir(self._data_dir, self.name, earlier.run_dir, account)
        found = Place(run_dir=str(run_dir), port=port or _free_port(earlier.port))
        datadir.write_private(path, msgspec.json.encode(found))
        return found


def _free_port(preferred: int) -> int:
    for port in (preferred, 0):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            with suppress(OSError):
                probe.bind(("127.0.0.1", port))
                chosen: int = probe.getsockname()[1]
                return chosen
    raise StartError("no port of 127.0.0.1 is free")


def package_folder(name: str) -> Path | None:
    """Where a package is installed; none of its code is run."""
    found = importlib.util.find_spec(name)
    return Path(found.origin).resolve().parent if found and found.origin else None
