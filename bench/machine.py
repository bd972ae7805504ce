"""The machine, what runs on it, and what its processes use: from /proc, so on Linux alone."""

import os
import platform
import subprocess
from collections.abc import Iterable
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path

import msgspec

PACKAGES = ("tcgx", "litestar", "uvicorn", "uvloop", "redis", "asyncpg", "msgspec")
TICKS = os.sysconf("SC_CLK_TCK")


class Machine(msgspec.Struct, frozen=True):
    """Where a result was measured. `load_1m` is the load average when the measurement began; `commit` that of the code,
    with `-dirty` where it was changed since, and empty outside of a checkout."""

    cores: int
    cpu: str
    load_1m: float
    memory_bytes: int
    system: str
    python: str
    versions: dict[str, str]
    commit: str = ""


class Usage(msgspec.Struct, frozen=True):
    """The peak of a process's own resident bytes; the bytes of it and its descendants now, with what they share counted
    once."""

    peak_bytes: int
    now_bytes: int


def machine() -> Machine:
    """This one, now."""
    return Machine(
        cores=len(os.sched_getaffinity(0)),
        cpu=_cpu_model(),
        load_1m=round(os.getloadavg()[0], 2),
        memory_bytes=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        system=f"{platform.system()} {platform.release()} {platform.machine()}",
        python=platform.python_version(),
        versions={name: version(name) for name in PACKAGES},
        commit=_commit(),
    )


def _commit() -> str:
    checkout = Path(__file__).parent.parent
    if not (checkout / ".git").exists():
        return ""
    command = ["git", "-C", str(checkout), "describe", "--always", "--dirty", "--exclude", "*", "--abbrev=10"]
    with suppress(OSError, subprocess.SubprocessError):
        return subprocess.run(command, capture_output=True, text=True, timeout=5, check=True).stdout.strip()
    return ""


def _cpu_model() -> str:
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or "unknown"


def stolen_seconds() -> float:
    """For how long, since its start, all processors of this machine were ready while its host did something else."""
    return int(Path("/proc/stat").read_text().splitlines()[0].split()[8]) / TICKS


def cpu_seconds(pid: int) -> float:
    """User and system time of a process and of all its descendants, ended ones too. Steps of 10 ms."""
    return sum(_ticks(one) for one in [pid, *descendants(pid)]) / TICKS


def _ticks(pid: int) -> int:
    """Own time, and that of ended children that were waited for."""
    with suppress(OSError):
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return sum(int(field) for field in fields[11:15])
    return 0


def usage(pid: int) -> Usage:
    """The memory of a process and its descendants."""
    return Usage(
        peak_bytes=_field_sum([pid], "status", "VmHWM:"),
        now_bytes=_field_sum([pid, *descendants(pid)], "smaps_rollup", "Pss:"),
    )


def anonymous_bytes(pid: int) -> int:
    """Memory of a process and its descendants that is their own: without shared buffers and files."""
    return _field_sum([pid, *descendants(pid)], "smaps_rollup", "Pss_Anon:")


def _field_sum(pids: Iterable[int], file: str, field: str) -> int:
    found = 0
    for pid in pids:
        with suppress(OSError):
            for line in Path(f"/proc/{pid}/{file}").read_text().splitlines():
                if line.startswith(field):
                    found += int(line.split()[1]) * 1024
    return found


def descendants(pid: int) -> list[int]:
    """Children, and theirs."""
    found = []
    with suppress(OSError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            for child in (task / "children").read_text().split():
                found += [int(child), *descendants(int(child))]
    return found
