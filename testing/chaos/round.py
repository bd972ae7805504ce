"""One round: an exchange, its load, the faults of a plan, recovery, and the verdict."""

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import msgspec

from cli import datadir
from core.errors import StartError, TcgxError
from core.settings import Settings
from testing.chaos import faults
from testing.chaos.checker import Evidence, Violation, check
from testing.chaos.evidence import gather
from testing.chaos.exchange import RECOVERY_SECONDS, Exchange
from testing.chaos.load import Door, Load
from testing.chaos.machine import POSTGRES_DISK_BYTES, REDIS_DISK_BYTES, Clock, SmallDisk, Unsynced, compiler
from testing.chaos.plan import CLOCKS, Fault, Plan
from testing.chaos.reads import Reader, Reads
from testing.chaos.setups import SETUPS, exchange_of

AFTER_SECONDS = 0.5
"""The load goes on for so long after recovery, so that orders meet the recovered exchange."""


READ_SECONDS = 20.0
"""A read after recovery is answered within this time."""


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """What came of a round. `recovery_seconds` is None where there was no fault, or no recovery."""

    seed: int
    faults: Sequence[Fault]
    sent: int
    acknowledged: int
    repeats: int
    commands: int
    trades: int
    load_seconds: float
    recovery_seconds: float | None
    violations: Sequence[Violation]
    ended: dict[str, int]
    tracebacks: Sequence[str]
    notes: Sequence[str]
    api_processes: int = 1
    setup: str = "single"
    conflicts: Sequence[str] = ()

    def count(self, *rules: str) -> int:
        """How many violations there are of these rules."""
        return len([violation for violation in self.violations if violation.rule in rules])


def run(plan: Plan, *, programs: Settings, library: Path | None, stopping: threading.Event) -> Outcome:
    """Runs a round. `programs`: as `Exchange` takes it. `library`: libfaketime, needed by steps of a clock.

    Raises:
        Stopped: `stopping` was set.
        TcgxError: the exchange does not start.
    """
    with datadir.ephemeral() as data_dir:
        exchange = exchange_of(plan)(data_dir, plan, programs=programs, stopping=stopping)
        with ExitStack() as stack:
            _equip(exchange, plan, library, stack)
            stack.callback(exchange.stop)
            exchange.start()
            door = Door(exchange.client_port, exchange.settings.jwt_secret, exchange.settings.cards)
            load = Load(door, plan.seed)
            exchange.in_batch = load.in_batch
            stack.callback(load.abandon)
            return _judged(exchange, load, door, plan)


def _equip(exchange: Exchange, plan: Plan, library: Path | None, stack: ExitStack) -> None:
    """Gives the exchange the clocks, disks and libraries that the faults of its plan need."""
    for part in CLOCKS:
        if library and f"clock step of {part}" in plan.kinds:
            exchange.clocks[part] = Clock(library, exchange.data_dir / f"{part}.clock")
    for server, size in (("redis", REDIS_DISK_BYTES), ("postgres", POSTGRES_DISK_BYTES)):
        if plan.kinds & {f"disk of {server} full", "both disks full"}:
            place = (exchange.data_dir / server).resolve()
            exchange.disks[server] = stack.enter_context(_mounted(place, size))
    program = compiler()
    if program and "AOF can't be synced" in plan.kinds:
        exchange.unsynced = Unsynced(exchange.data_dir, program)


@contextmanager
def _mounted(folder: Path, size: int) -> Iterator[SmallDisk]:
    disk = SmallDisk(folder, size)
    disk.mount()
    try:
        yield disk
    finally:
        disk.unmount()


def _judged(exchange: Exchange, load: Load, door: Door, plan: Plan) -> Outcome:
    began = time.monotonic()
    load.start()
    found: list[Violation] = []
    reads: Reads | None = None
    recovery: float | None = None
    try:
        last_end = _break(exchange, plan, began)
        exchange.recover()
        recovery = time.monotonic() - last_end if plan.faults else None
        exchange.run_until(time.monotonic() + AFTER_SECONDS)
        load.stop()
        exchange.wait_until(lambda: not load.works(), "clients get no answers", seconds=RECOVERY_SECONDS)
        exchange.archive()
        reads = Reader(door, _insisting(exchange)).read(load.ledger, plan.seed)
    except StartError as error:
        found.append(Violation("answer", f"the exchange has not recovered: {error}"))
    found += [Violation("start", text) for text in exchange.broken]
    seconds = time.monotonic() - began
    load.abandon()
    evidence: Evidence = {}
    try:
        conflicts = frozenset(exchange.conflicts)
        evidence = gather(exchange.judged_settings, without_replay=conflicts)
        if SETUPS[plan.setup].keeps:
            found += [Violation("conflict", f"{card} had a history conflict") for card in sorted(conflicts)]
        found += check(load.ledger, evidence, reads, conflicts=conflicts)
    except TcgxError as error:
        found.append(Violation("state", f"the log can't be judged: {error}"))
    return Outcome(
        seed=plan.seed,
        faults=plan.faults,
        sent=len(load.ledger.placed),
        acknowledged=load.ledger.acknowledged,
        repeats=load.ledger.repeats,
        commands=sum(card.sequence for card in evidence.values()),
        trades=sum(len(card.trades) for card in evidence.values()),
        load_seconds=round(seconds, 3),
        recovery_seconds=None if recovery is None else round(recovery, 3),
        violations=found,
        ended=dict(exchange.ended),
        tracebacks=exchange.tracebacks(),
        notes=exchange.notes,
        api_processes=plan.api_processes,
        setup=plan.setup,
        conflicts=sorted(exchange.conflicts),
    )


def _insisting(exchange: Exchange) -> Callable[[Callable[[], bool], str], None]:
    def insist(holds: Callable[[], bool], why: str) -> None:
        exchange.wait_until(holds, why, seconds=READ_SECONDS)

    return insist


def _break(exchange: Exchange, plan: Plan, began: float) -> float:
    """Begins and ends every fault at its time; the time at which the end of the last one began."""
    moments = sorted(
        [(fault.begins, 0, number) for number, fault in enumerate(plan.faults)]
        + [(fault.ends, 1, number) for number, fault in enumerate(plan.faults)]
    )
    running: dict[int, ExitStack] = {}
    last_end = began
    try:
        for at, is_end, number in moments:
            exchange.run_until(began + at)
            if is_end:
                last_end = time.monotonic()
                running.pop(number).close()
            else:
                running[number] = ExitStack()
                running[number].enter_context(faults.begin(exchange, plan.faults[number]))
    finally:
        for stack in running.values():
            with suppress(TcgxError):
                stack.close()
    return last_end
