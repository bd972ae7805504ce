"""Processes: commands of `tcgx` run to their end, children of a process, and the end of any process."""

import os
import select
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path

from core import settings
from core.settings import Settings

PROGRAM = Path(sys.executable).with_name("tcgx")
COMMAND_SECONDS = 60


def environment(**variables: str) -> dict[str, str]:
    """The variables of this process without any setting of tcgx, and these."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(settings.PREFIX)}
    return kept | variables


def finished(
    arguments: Iterable[str | Path],
    *,
    where: Path | None = None,
    variables: Mapping[str, str] | None = None,
    seconds: float = COMMAND_SECONDS,
) -> subprocess.CompletedProcess[str]:
    """A program, run to its end; its exit code may be any."""
    return subprocess.run(
        [*arguments],
        cwd=where,
        env=environment(**(variables or {})),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=seconds,
        check=False,
    )


def module(name: str, *arguments: str, local: Settings) -> subprocess.CompletedProcess[str]:
    """`python -m name` with these settings, run to its end."""
    return finished([sys.executable, "-P", "-m", name, *arguments], variables=settings.environment_of(local))


def tcgx(
    where: Path, *arguments: str, program: Path | None = None, variables: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """A `tcgx` command in a folder, run to its end."""
    return finished([program or PROGRAM, *arguments], where=where, variables=variables)


def children(pid: int) -> list[int]:
    """The direct children of a process."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            state, parent = path.read_text().rpartition(")")[2].split()[:2]
            if int(parent) == pid and state != "Z":
                found.append(int(path.parent.name))
    return found


def descendants(pid: int) -> list[int]:
    """All processes that a process has started, and those that they have started."""
    direct = children(pid)
    return direct + [below for child in direct for below in descendants(child)]


def member_name(pid: int) -> str:
    """The role of a child of `tcgx up`: api, archiver, engine, postgres, redis, or the name of its program."""
    arguments = Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").split("\0")
    for number, argument in enumerate(arguments):
        if argument == "-m" or argument.endswith("/tcgx/__main__.py"):
            return arguments[number + 1]
    name = Path(f"/proc/{pid}/exe").readlink().name
    return "redis" if name in ("redis-server", "valkey-server") else name


def ended(pids: Iterable[int], *, seconds: float) -> bool:
    """Waits for the end of these processes, which need not be children of this one; whether they ended in time."""
    deadline = time.monotonic() + seconds
    for pid in pids:
        try:
            descriptor = os.pidfd_open(pid)
        except ProcessLookupError:
            continue
        try:
            waiting = select.poll()
            waiting.register(descriptor, select.POLLIN)
            if not waiting.poll(max(0.0, deadline - time.monotonic()) * 1000):
                return False
        finally:
            os.close(descriptor)
    return True
