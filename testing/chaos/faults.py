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
from engine.connection import NO_SPACE
from testing.chaos.cluster import OnCluster
from testing.chaos.exchange import CLIENTS, Exchange
from testing.chaos.links import Cut
from testing.chaos.plan import ALL_KINDS, CLOCKS, PARTS, READERS, SERVERS, SERVICES, Fault
from testing.chaos.sentinel import OnSentinels
from testing.chaos.several import OnSeveralServers
from testing.chaos.supervised import Supervised
from testing.faults import FULL_BYTES
from testing.waiting import NotInTime

STEPS_SECONDS = (-7_200, -3_600, -5, 5, 3_600, 7_200)
TAIL_BYTES_MAX = 4_096
CHECK_SECONDS = 60
BATCH_SECONDS = 3.0
"""How long a fault waits for a batch under way."""
SLOW_SECONDS = (0.05, 0.3)
"""How late a slow link carries a message."""
CUT_OFF_SECONDS = 0.5
PROMOTION_SECONDS = 10.0
"""How long replicas get nothing before the primary is killed."""
REWRITE_SECONDS = 0.1
"""A rewrite of the AOF of a round takes about this long."""

Action = Callable[[Exchange, Fault], AbstractContextManager[None]]


def begin(exchange: Exchange, fault: Fault) -> AbstractContextManager[None]:
    """The fault, not yet begun."""
    return ACTIONS[fault.kind](exchange, fault)


def _down(part: str, *, in_batch: bool = False) -> Action:
    """SIGKILL, and a start after the fault's time."""

    @contextmanager
    def act(exchange: Exchange, _: Fault) -> Iterator[None]:
        if in_batch:
            _wait_for_batch(exchange)
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


def _restarted(service: str, *, in_batch: bool = False) -> Action:
    """SIGTERM, as at an upgrade, and a start."""

    @contextmanager
    def act(exchange: Exchange, _: Fault) -> Iterator[None]:
        if in_batch:
            _wait_for_batch(exchange)
        exchange.held.add(service)
        exchange.end_service(service)
        yield
        exchange.start_again(service)

    return act


def _second(service: str, number: int = 2) -> Action:
    """One more of a service, which then ends by SIGTERM or SIGKILL."""

    @contextmanager
    def act(exchange: Exchange, fault: Fault) -> Iterator[None]:
        name = f"{service}-{number}"
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


def _wait_for_batch(exchange: Exchange) -> None:
    """Returns within a batch: its request is sent, and its answer has not come."""
    deadline = time.monotonic() + BATCH_SECONDS
    while not exchange.in_batch():
        if time.monotonic() > deadline:
            exchange.notes.append("no batch was under way")
            return


def _mute(link: str) -> Action:
    """Connections swallow what they carry, and nobody is told; new ones pass. The server's halves end at the end."""

    @contextmanager
    def act(exchange: Exchange, _: Fault) -> Iterator[None]:
        exchange.links[link].mute()
        yield
        exchange.links[link].end_mute()

    return act


def _slow(link: str) -> Action:
    """Every message passes late."""

    @contextmanager
    def act(exchange: Exchange, fault: Fault) -> Iterator[None]:
        low, high = SLOW_SECONDS
        exchange.links[link].delay_seconds = low + fault.value * (high - low)
        yield
        exchange.links[link].delay_seconds = 0.0

    return act


@contextmanager
def _all_killed(exchange: Exchange, _: Fault) -> Iterator[None]:
    """SIGKILL to all servers and services, and a start of all of them."""
    names = [*SERVERS, *exchange.services()]
    exchange.held.update(names)
    for name in names:
        exchange.kill(name)
    yield
    for name in names:
        exchange.start_again(name)


@contextmanager
def _unsynced(exchange: Exchange, _: Fault) -> Iterator[None]:
    """Every sync of Redis fails with EIO. Redis ends, and is started again once its disk works."""
    assert exchange.unsynced, "there is no library for it"
    exchange.held.add("redis")
    exchange.unsynced.begin()
    yield
    exchange.unsynced.end()
    if exchange.server("redis").pid is not None:
        exchange.notes.append("Redis has not noticed that its AOF can't be synced")
    exchange.start_again("redis")


@contextmanager
def _second_up(exchange: Exchange, _: Fault) -> Iterator[None]:
    supervised(exchange).start_second()
    yield


def _up_killed(*, everything: bool) -> Action:
    """SIGKILL to `tcgx up`, and a start of another one on its folder."""

    @contextmanager
    def act(exchange: Exchange, _: Fault) -> Iterator[None]:
        exchange.held.add("tcgx up")
        supervised(exchange).kill_supervisor(everything=everything)
        yield
        supervised(exchange).begin()
        exchange.held.discard("tcgx up")

    return act


def supervised(exchange: Exchange) -> Supervised:
    """The exchange of a round whose plan is supervised."""
    assert isinstance(exchange, Supervised), "the plan is not supervised"
    return exchange


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


def _clock_step(part: str) -> Action:
    """Two steps: one away from this machine's clock, and one back to it."""

    @contextmanager
    def act(exchange: Exchange, fault: Fault) -> Iterator[None]:
        clock = exchange.clocks[part]
        clock.step(STEPS_SECONDS[int(fault.value * len(STEPS_SECONDS))])
        yield
        clock.step(0)

    return act


def _has_noticed(exchange: Exchange, server: str) -> bool:
    """Whether a server has ended or complained since its disk was full."""
    log = exchange.data_dir / f"{server}.log"
    return exchange.server(server).pid is None or NO_SPACE in log.read_text(errors="replace")


def _disk_full(*names: str) -> Action:
    """A server ends at a write that fails, or refuses it. It is started again once there is space."""

    @contextmanager
    def act(exchange: Exchange, _: Fault) -> Iterator[None]:
        exchange.held.update(names)
        for name in names:
            exchange.disks[name].fill()
        yield
        for name in names:
            exchange.disks[name].free()
        exchange.notes += [
            f"{name} has not noticed its full disk" for name in names if not _has_noticed(exchange, name)
        ]
        for name in names:
            exchange.start_again(name)

    return act


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


def on_sentinels(exchange: Exchange) -> OnSentinels:
    """The exchange of a round whose set-up has sentinels."""
    assert isinstance(exchange, OnSentinels), "the set-up has no sentinels"
    return exchange


@contextmanager
def _cut_off(exchange: Exchange, _: Fault) -> Iterator[None]:
    with on_sentinels(exchange).replicas_cut_off():
        yield


@contextmanager
def _cut_off_and_killed(exchange: Exchange, _: Fault) -> Iterator[None]:
    """Replicas get nothing any more, then SIGKILL: one that lacks the end is promoted before the killed one returns."""
    group = on_sentinels(exchange).group
    with on_sentinels(exchange).replicas_cut_off():
        exchange.run_until(time.monotonic() + CUT_OFF_SECONDS)
        killed = group.named()
        exchange.held.add("redis")
        exchange.kill("redis")
    yield
    try:
        exchange.wait_until(lambda: group.named() is not killed, "no replica is promoted", seconds=PROMOTION_SECONDS)
    except NotInTime:  # of two faults at once, the other one may have left no majority of sentinels
        exchange.notes.append("no replica was promoted")
    exchange.start_again("redis")


@contextmanager
def _sentinel_down(exchange: Exchange, fault: Fault) -> Iterator[None]:
    with on_sentinels(exchange).sentinel_down(fault.value):
        yield


@contextmanager
def _replica_down(exchange: Exchange, fault: Fault) -> Iterator[None]:
    assert isinstance(exchange, OnSeveralServers), "the set-up has no replicas"
    with exchange.replica_down(fault.value):
        yield


def on_cluster(exchange: Exchange) -> OnCluster:
    """The exchange of a round whose set-up is a cluster."""
    assert isinstance(exchange, OnCluster), "the set-up is no cluster"
    return exchange


@contextmanager
def _killed_until_promotion(exchange: Exchange, _: Fault) -> Iterator[None]:
    """SIGKILL to a primary, and a start once another server has its slots."""
    exchange.held.add("redis")
    exchange.kill("redis")
    yield
    try:
        on_cluster(exchange).wait_for_promotion()
    except NotInTime:
        exchange.notes.append("no replica was promoted")
    exchange.start_again("redis")


@contextmanager
def _slot_moved(exchange: Exchange, _: Fault) -> Iterator[None]:
    with on_cluster(exchange).slot_moves():
        yield


@contextmanager
def _slot_moved_at_once(exchange: Exchange, _: Fault) -> Iterator[None]:
    on_cluster(exchange).move_at_once()
    yield


ACTIONS: Mapping[str, Action] = {
    **{f"kill {part}": _down(part) for part in PARTS},
    **{f"pause {part}": _paused(part) for part in PARTS},
    **{f"restart {service}": _restarted(service) for service in SERVICES},
    "restart api in a batch": _restarted("api", in_batch=True),
    "kill redis in a batch": _down("redis", in_batch=True),
    "kill everything and start at once": _all_killed,
    "second engine": _second("engine"),
    "second archiver": _second("archiver"),
    "second api": _second("api", number=3),
    "cut requests of clients": _cut(CLIENTS, "requests"),
    "cut answers to clients": _cut(CLIENTS, "answers"),
    **{f"cut requests of {service}": _cut(service, "requests") for service in SERVICES},
    **{f"cut answers to {service}": _cut(service, "answers") for service in SERVICES},
    **{f"mute link of {service} to redis": _mute(service) for service in SERVICES},
    **{f"cut requests of {service} to postgres": _cut(f"{service} to postgres", "requests") for service in READERS},
    **{f"cut answers to {service} of postgres": _cut(f"{service} to postgres", "answers") for service in READERS},
    **{f"mute link of {service} to postgres": _mute(f"{service} to postgres") for service in READERS},
    **{f"slow link of {service} to postgres": _slow(f"{service} to postgres") for service in READERS},
    "postgres away": _down("postgres"),
    "postgres hung": _paused("postgres"),
    "redis away": _down("redis"),
    "redis hung": _paused("redis"),
    "kill redis while it rewrites its AOF": _killed_in_rewrite,
    "postgres ends all connections": _disconnected,
    "memory full": _memory_full,
    "zeros at the end of the AOF": _tail(_zeros),
    "garbage at the end of the AOF": _tail(_garbage),
    **{f"clock step of {name}": _clock_step(name) for name in CLOCKS},
    "disk of redis full": _disk_full("redis"),
    "disk of postgres full": _disk_full("postgres"),
    "both disks full": _disk_full(*SERVERS),
    "AOF can't be synced": _unsynced,
    "second tcgx up is refused": _second_up,
    "kill tcgx up and start another": _up_killed(everything=False),
    "kill tcgx up with all of its processes": _up_killed(everything=True),
    "cut replicas off and kill redis": _cut_off_and_killed,
    "cut replicas off": _cut_off,
    "kill a replica": _replica_down,
    "kill a sentinel": _sentinel_down,
    "kill redis until a replica is promoted": _killed_until_promotion,
    "move a slot key by key": _slot_moved,
    "move a slot at once": _slot_moved_at_once,
}
assert {kind.name for kind in ALL_KINDS} == {*ACTIONS}, "a kind of fault has no action"
