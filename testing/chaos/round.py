"""One round: an exchange, its load, the faults of a plan, recovery, and the verdict."""

import threading
import time
from collections.abc import Iterator, Sequence
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
from testing.chaos.machine import Clock, SmallDisk
from testing.chaos.plan import Fault, Plan

AFTER_SECONDS = 0.5
"""The load goes on for so long after recovery, so that orders meet the recovered exchange."""


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

    def count(self, *rules: str) -> int:
        """How many violations there are of these rules."""
        return len([violation for violation in self.violations if violation.rule in rules])


def run(plan: Plan, *, programs: Settings, library: Path | None, stopping: threading.Event) -> Outcome:
    """Runs a round. `programs`: as `Exchange` takes it. `library`: libfaketime, needed by steps of the clock.

    Raises:
        Stopped: `stopping` was set.
        TcgxError: the exchange does not start.
    """
    kinds = {fault.kind for fault in plan.faults}
    with datadir.ephemeral() as data_dir:
        clock = Clock(library, data_dir / "clock") if library and "clock step of redis" in kinds else None
        exchange = Exchange(data_dir, plan, programs=programs, clock=clock, stopping=stopping)
        with ExitStack() as stack:
            if "disk full" in kinds:
                exchange.disk = stack.enter_context(_mounted(data_dir / "redis"))
            stack.callback(exchange.stop)
            exchange.start()
            load = Load(Door(exchange.client_port, exchange.settings.jwt_secret, exchange.settings.cards), plan.seed)
            stack.callback(load.abandon)
            return _judged(exchange, load, plan)


@contextmanager
def _mounted(folder: Path) -> Iterator[SmallDisk]:
    disk = SmallDisk(folder)
    disk.mount()
    try:
        yield disk
    finally:
        disk.unmount()


def _judged(exchange: Exchange, load: Load, plan: Plan) -> Outcome:
    began = time.monotonic()
    load.start()
    found: list[Violation] = []
    recovery: float | None = None
    try:
        last_end = _break(exchange, plan, began)
        exchange.recover()
        recovery = time.monotonic() - last_end if plan.faults else None
        exchange.run_until(time.monotonic() + AFTER_SECONDS)
        load.stop()
        exchange.wait_until(lambda: not load.works(), "clients get no answers", seconds=RECOVERY_SECONDS)
        exchange.archive()
    except StartError as error:
        found.append(Violation("answer", f"the exchange has not recovered: {error}"))
    seconds = time.monotonic() - began
    load.abandon()
    evidence: Evidence = {}
    try:
        evidence = gather(exchange.settings)
        found += check(load.ledger, evidence)
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
    )


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
