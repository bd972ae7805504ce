"""Embedded servers: the common part of the Redis and the PostgreSQL of a data directory (datadir.py).

Each server has three files. `<name>.json` keeps its port and socket folder, `<name>.log` is its log, and `<name>.lock`
is its lock. The server inherits the lock: it is free once the last process of the server has ended, even if `tcgx up`
was killed.
"""

import asyncio
import importlib.util
import math
import os
import shutil
import socket
import stat
import tempfile
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path

import msgspec
import structlog

from cli import datadir
from cli.supervisor import Account, Process
from core.errors import StartError, reason
from core.loading import LoadProgress
from core.settings import Settings
from engine.connection import NO_SPACE

START_SECONDS = 10
EARLIER_SECONDS = 30  # how long a server of an earlier, killed `tcgx up` may take to end
CHECK_SECONDS = 0.02
LOADING_CHECK_SECONDS = 0.2
LOG_LINES = 5
CAUSE_LINES = 20
SOCKET_NAME_MAX = ".s.PGSQL.5432.probe"  # the longest name of a socket
SOCKET_FOLDER_BYTES_MAX = 65  # a socket's path has at most 107 bytes (macOS: 103), its name and our folder included
MEMORABLE_BYTES_MAX = 10_000
LOG_BYTES_MAX = 10_000_000  # a larger log is moved aside when its server starts
CAUSES = {
    NO_SPACE: "its disk is full; ",
    "Bad file format reading the append only file": "the end of its log is damaged, `tcgx repair` shows where; ",
}
"""Texts in a server's log, and what they mean."""

log = structlog.get_logger()


class Place(msgspec.Struct, frozen=True, kw_only=True):
    """The port and socket folder of a server, kept so that it comes back to the same place."""

    run_dir: str = ""
    port: int = 0


def _last_place(path: Path) -> Place:
    try:
        return msgspec.json.decode(path.read_bytes()[:MEMORABLE_BYTES_MAX], type=Place)
    except (OSError, msgspec.DecodeError):
        return Place()


async def _lock_for_child(path: Path) -> int:
    """Opens and locks a file for a server to inherit; waits for an earlier server that still holds the lock.

    Raises:
        StartError: the earlier server does not end within `EARLIER_SECONDS`.
    """
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


def socket_folder(data_dir: Path, name: str, remembered: str, account: Account | None) -> Path:
    """Returns a private folder for a socket.

    The first choice is in the data directory, out of reach of a clean-up of temporary files. A socket may not work
    there: its path is too long, its file system has no sockets (a container on macOS), or the account cannot reach it.
    The second choice is the remembered folder if it is still private, and the last one a new temporary folder.

    Raises:
        StartError: no folder is short enough and within reach.
    """
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
    """Whether a server can listen on a socket in this folder, and a URL can name it: in the address of PostgreSQL a
    comma separates hosts."""
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
    """Makes a removed socket folder again at the same path, which the services know.

    Raises:
        StartError: the folder belongs to another user now.
    """
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
    """A server's log file; `tail` reads only lines since the start of the server."""

    def __init__(self, path: Path) -> None:
        """Opens the log. One above `LOG_BYTES_MAX` is moved to `<name>.1` first, in place of an earlier one."""
        self.path = path
        if path.is_file() and path.stat().st_size > LOG_BYTES_MAX:
            path.replace(path.with_name(f"{path.name}.1"))
        self.file = os.fdopen(os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600), "ab")
        self._start = self.file.seek(0, os.SEEK_END)

    def tail(self) -> str:
        """Returns the last lines, formatted for an error."""
        lines = self._lines()
        cause = next((CAUSES[text] for line in lines[-CAUSE_LINES:] for text in CAUSES if text in line), "")
        return "\n  ".join([f"{cause}the end of {self.path}:", *lines[-LOG_LINES:]])

    def last_line(self, *, without: str) -> str:
        """Returns the last line that does not have this text."""
        return next((line for line in reversed(self._lines()) if without not in line), "")

    def _lines(self) -> list[str]:
        try:
            with self.path.open("rb") as file:
                file.seek(max(self._start, file.seek(0, os.SEEK_END) - MEMORABLE_BYTES_MAX))
                return file.read().decode(errors="replace").splitlines()
        except OSError:  # it was removed or cannot be read; the server writes on
            return []


class ServerProcess(msgspec.Struct, frozen=True):
    """The process of a started server, and its log."""

    process: Process
    log: ServerLog

    def check(self, name: str, deadline: float) -> None:
        """Checks a server that does not answer yet.

        Raises:
            StartError: the server has ended, or the deadline is over.
        """
        if self.process.ended():
            raise StartError(f"{name} ended while starting; {self.log.tail()}")
        if _now() > deadline:
            raise StartError(f"{name} does not answer; {self.log.tail()}")


class StillLoading(Exception):
    """The server answers that it still reads its data."""

    def __init__(self, advance: Callable[[LoadProgress, float], None]) -> None:
        """`advance` tells a progress the present position and time."""
        super().__init__()
        self.advance = advance


class NoAnswer(Exception):
    """The server does not answer yet."""


class EmbeddedServer:
    """The lifecycle of both servers; a member of a `cli.supervisor.Supervisor`.

    After an unexpected end, `start` brings the server back to the same port and socket. `stop` removes the socket.
    """

    name: str
    serves = True
    socket_name: str

    def __init__(self, settings: Settings) -> None:
        self._data_dir = Path(settings.data_dir).resolve()
        self._stop_seconds = settings.stop_seconds
        self._place: Place | None = None
        self._server: ServerProcess | None = None
        self._answered = False

    @property
    def pid(self) -> int | None:
        """The process id; None while the server does not run."""
        return self._server.process.pid if self._server and not self._server.process.ended() else None

    @property
    def is_up(self) -> bool:
        """Whether the server runs, and has answered since its start."""
        return self._answered and self.pid is not None

    async def start(self) -> None:
        """Starts the server unless it runs, and waits until it answers. A failed first start leaves no files behind.

        Raises:
            StartError: the program is missing, or the server does not start; the message has the end of its log.
        """
        if self.pid is not None:
            return
        first, self._answered = self._place is None, False
        try:
            lock = await _lock_for_child(self._data_dir / f"{self.name}.lock")
            try:
                self._server = await self._launch(lock)
            finally:
                os.close(lock)
            await self._answers(self._server)
            self._answered = True
        except BaseException as error:
            await self._end()
            if first:
                self._forget()
            if isinstance(error, OSError):
                raise StartError(f"{self.name} cannot be started in {self._data_dir}: {reason(error)}") from error
            raise

    def log_tail(self) -> str:
        """Returns the end of the server's log."""
        return self._server.log.tail() if self._server else ""

    async def wait(self) -> int:
        """Waits until the server has ended; returns its exit code."""
        return await self._server.process.wait() if self._server else 0

    async def stop(self) -> None:
        """Stops the server cleanly; kills it after `stop_seconds`."""
        await self._end()
        self._forget()

    async def end_if_unreachable(self) -> None:
        """Ends a server whose socket was removed, as a clean-up of temporary files does.

        Its open connections work, but no service that starts later reaches it. The next start makes the socket again.
        """
        if self._place is None or not self.is_up:
            return
        path = Path(self._place.run_dir) / self.socket_name
        with suppress(OSError):  # a path that cannot be looked at says nothing of the server
            if not path.exists():
                log.warning("its socket was removed, so it is started again", service=self.name, path=str(path))
                await self._end()

    async def _launch(self, lock: int) -> ServerProcess:
        raise NotImplementedError

    async def _try(self) -> None:
        """Connects once.

        Raises:
            StartError: the server will never accept this connection.
            StillLoading, NoAnswer: a later attempt may succeed.
        """
        raise NotImplementedError

    async def _answers(self, running: ServerProcess) -> None:
        """Waits until the server answers; once it says that it loads, for as long as the load goes on."""
        deadline = _now() + START_SECONDS
        progress: LoadProgress | None = None
        while True:
            try:
                return await self._try()
            except StillLoading as loading:
                progress, deadline = progress or LoadProgress(self.name, _now()), math.inf
                _follow(running, partial(loading.advance, progress))
            except NoAnswer:
                if progress:
                    _follow(running, progress.check)
            running.check(self.name, deadline)
            await asyncio.sleep(CHECK_SECONDS if progress is None else LOADING_CHECK_SECONDS)

    async def _end(self) -> None:
        if self._server and not await self._server.process.stop(seconds=self._stop_seconds):
            log.warning("killed, because it did not stop in time", service=self.name, stop_seconds=self._stop_seconds)

    def _forget(self) -> None:
        if self._place:
            shutil.rmtree(self._place.run_dir, ignore_errors=True)
        self._place = None
        self._server = None

    def _known(self) -> Place:
        if self._place is None:
            raise RuntimeError(f"{self.name} has not been started")
        return self._place

    def _keep_place(self, *, port: int, account: Account | None) -> Place:
        """Returns the place of the server, which stays the same over restarts within this `tcgx up`."""
        if self._place is None:
            self._place = self._find_place(port=port, account=account)
        _make_again(Path(self._place.run_dir), account)
        return self._place

    def _find_place(self, *, port: int, account: Account | None) -> Place:
        """Returns the place of the last start if it is still free, else a new one. `port` 0 means any port."""
        path = self._data_dir / f"{self.name}.json"
        earlier = _last_place(path)
        run_dir = socket_folder(self._data_dir, self.name, earlier.run_dir, account)
        found = Place(run_dir=str(run_dir), port=port or _free_port(earlier.port))
        datadir.write_private(path, msgspec.json.encode(found))
        return found


def _follow(running: ServerProcess, advance: Callable[[float], None]) -> None:
    try:
        advance(_now())
    except StartError as error:
        raise StartError(f"{error}; {running.log.tail()}") from error


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
    """Returns the folder of an installed package, without running its code; None if it is missing."""
    found = importlib.util.find_spec(name)
    return Path(found.origin).resolve().parent if found and found.origin else None
