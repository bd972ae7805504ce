"""The faults: a context manager a kind. Entering it begins the fault, and leaving it ends the fault."""

import os
import random
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path

from core.errors import StartError
from testing.chaos.exchange import CLIENTS, Exchange
from testing.chaos.links import Cut
from testing.chaos.plan import KINDS, PARTS, SERVICES, Fault
from testing.faults import FULL_BYTES

STEPS_SECONDS = (-7_200, -3_600, -5, 5, 3_600, 7_200)
TAIL_BYTES_MAX = 4_096
CHECK_SECONDS = 60
REWRITE_SECONDS = 0.1
"""A rewrite of the AOF of a round takes about this long."""

Action = Callable[[Exchange, Fault], AbstractContextManager[None]]


def begin(exchange: Exchange, fault: Fault) -> AbstractContextManager[None]:
    """The fault, not yet begun."""
    return ACTIONS[fault.kind](exchange, fault)


def _down(part: str) -> Action:
    """SIGKILL, and a start after the fault's time."""

    @contextmanager
    def act(exchange: Exchange, _: Fault) -> Iterator[None]:
        exchange.held.add(part)
        exchange.kill(part)
        yield
        exchange.start_again(part)

    return act


def _paused(part: str) -> Action:
    """SIGSTOP of all processes, and SIGCONT."""

    @contextmanager
    def act(exchange: Exchange, _: Fault) -> Iterator[None]:
        stopped = exchange.pids(part)
        for pid in stopped:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGSTOP)
        yield
        for pid in stopped:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)

    return act


def _restarted(service: str) -> Action:
    """SIGTERM, as at an upgrade, and a start."""

    @contextmanager
    def act(exchange: Exchange, _: Fault) -> Iterator[None]:
        exchange.held.add(service)
        exchange.end_service(service)
        yield
        exchange.start_again(service)

    return act


def _second(service: str) -> Action:
    """One more of a service, which then ends by SIGTERM or SIGKILL."""

    @contextmanager
    def act(exchange: Exchange, fault: Fault) -> Iterator[None]:
        name = f"{service}-2"
        exchange.start_service(name)
        yield
        if fault.value < 0.5:
            exchange.kill(name)
        else:
            exchange.end_service(name)

    return act


def _cut(link: str, cut: Cut) -> Action:
    """A share of the messages ends its connection instead of passing."""

    @contextmanager
    def act(exchange: Exchange, _: Fault) -> Iterator[None]:
        exchange.links[link].cut = cut
        yield
        exchange.links[link].cut = "nothing"

    return act


@contextmanager
def _killed_in_rewrite(exchange: Exchange, fault: Fault) -> Iterator[None]:
    """A rewrite of the AOF begins, and SIGKILL follows at any moment of it."""
    exchange.rewrite_aof()
    exchange.run_until(time.monotonic() + fault.value * REWRITE_SECONDS)
    exchange.held.add("redis")
    exchange.kill("redis")
    yield
    exchange.start_again("redis")


@contextmanager
def _disconnected(exchange: Exchange, _: Fault) -> Iterator[None]:
    """PostgreSQL ends the connections of all clients, as an administrator may."""
    exchange.end_database_connections()
    yield


@contextmanager
def _memory_full(exchange: Exchange, _: Fault) -> Iterator[None]:
    exchange.limit_memory(FULL_BYTES)
    yield
    exchange.limit_memory(0)


@contextmanager
def _clock_step(exchange: Exchange, fault: Fault) -> Iterator[None]:
    """Two steps: one away from this machine's clock, and one back to it."""
    assert exchange.clock, "there is no clock to set"
    exchange.clock.step(STEPS_SECONDS[int(fault.value * len(STEPS_SECONDS))])
    yield
    exchange.clock.step(0)


@contextmanager
def _disk_full(exchange: Exchange, _: Fault) -> Iterator[None]:
    """Redis ends at a write that fails, and is started again once there is space."""
    assert exchange.disk, "there is no small disk"
    exchange.held.add("redis")
    exchange.disk.fill()
    yield
    exchange.disk.free()
    exchange.start_again("redis")


def _tail(make: Callable[[random.Random, int], bytes]) -> Action:
    """Redis is killed, and bytes are added to its AOF, as a loss of power may leave them."""

    @contextmanager
    def act(exchange: Exchange, fault: Fault) -> Iterator[None]:
        exchange.held.add("redis")
        programs = [Path(f"/proc/{pid}/exe").readlink() for pid in exchange.pids("redis")[:1]]
        exchange.kill("redis")
        folder = exchange.data_dir / "redis" / "appendonlydir"
        newest = max(folder.glob("*.incr.aof"), key=lambda path: int(path.name.split(".")[-3]))
        before = newest.stat().st_size
        choose = random.Random(f"tail {fault.value}")
        with newest.open("ab") as file:
            file.write(make(choose, choose.randint(1, TAIL_BYTES_MAX)))
        yield
        try:
            exchange.start_again("redis")
        except StartError:
            how = _repaired(newest, programs[0]) if programs else ""
            if not how:
                os.truncate(newest, before)
                how = "what was added was cut off, because no tool repaired it"
            exchange.notes.append(f"Redis did not start with the damaged AOF; {how}")
            exchange.start_again("redis")

    return act


def _repaired(file: Path, program: Path) -> str:
    """Repairs an AOF with the tool of the server, which is the server itself under another name; empty if it fails.

    The tool gets the last file alone: of a manifest it also checks the base, whose format it does not know.
    """
    tool = file.parent.parent.with_name("valkey-check-aof" if "valkey" in program.name else "redis-check-aof")
    shutil.copy2(program, tool)
    done = subprocess.run([tool, "--fix", file], input=b"y\n", capture_output=True, timeout=CHECK_SECONDS, check=False)
    return f"{tool.name} --fix repaired it" if done.returncode == 0 else ""


def _zeros(_: random.Random, count: int) -> bytes:
    return bytes(count)


def _garbage(choose: random.Random, count: int) -> bytes:
    return choose.randbytes(count)


ACTIONS: Mapping[str, Action] = {
    **{f"kill {part}": _down(part) for part in PARTS},
    **{f"pause {part}": _paused(part) for part in PARTS},
    **{f"restart {service}": _restarted(service) for service in SERVICES},
    "second engine": _second("engine"),
    "second archiver": _second("archiver"),
    "cut requests of clients": _cut(CLIENTS, "requests"),
    "cut answers to clients": _cut(CLIENTS, "answers"),
    **{f"cut requests of {service}": _cut(service, "requests") for service in SERVICES},
    **{f"cut answers to {service}": _cut(service, "answers") for service in SERVICES},
    "postgres away": _down("postgres"),
    "postgres hung": _paused("postgres"),
    "redis away": _down("redis"),
    "redis hung": _paused("redis"),
    "kill redis while it rewrites its AOF": _killed_in_rewrite,
    "postgres ends all connections": _disconnected,
    "memory full": _memory_full,
    "zeros at the end of the AOF": _tail(_zeros),
    "garbage at the end of the AOF": _tail(_garbage),
    "clock step of redis": _clock_step,
    "disk full": _disk_full,
}
assert {kind.name for kind in KINDS} == {*ACTIONS}, "a kind of fault has no action"
