"""`tcgx bench overload`: three times the load that the exchange can take, from clients that honour nothing.

A closed loop with more and more connections finds the goodput that is possible. Then batches come at fixed times (open
loop): at half of that goodput, at three times it, and at half again. Refusals (503, 429) are answers; a connection that
breaks is an error. Goodput counts acknowledged orders alone.
"""

import math
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec

from bench import client_process
from bench.client_process import ClientProcess
from bench.machine import cpu_seconds, machine
from bench.options import Options
from bench.plot_style import COLORS, Head, Sheet, curves, logarithmic
from bench.progress import Board
from bench.result import Failed, Result, Row, common
from bench.servers import Exchange, exchange, server_name
from bench.witness import Account, Ledger, Witness, account, settled
from cli import datadir
from engine import connection
from testing.clients import sequences
from testing.clients.flood import ORDERS_A_REQUEST, Job, Phase, Told, Window
from testing.flows import TRADERS
from testing.servers import KEEP_ALL

RAMP = (4, 16, 64)
RAMP_SECONDS = 8.0
PHASE_SECONDS_MIN = 1.5  # three windows
BEFORE_SECONDS, AFTER_SECONDS = 10.0, 20.0
OVERLOAD = 3.0
NORMAL = 0.5
CONNECTIONS = 5_000
"""More than the append queues have room for, so that what is offered is mostly sent."""
WINDOW_SECONDS = 0.5
GOODPUT_SHARE = 0.8
"""Of the possible goodput, what must be left under overload."""
JUDGED_SECONDS = 30
"""A shorter overload is too short for a verdict on goodput; the ledger is checked all the same."""
BACK_SECONDS = 5.0
BACK_TIMES, BACK_MS = 2.0, 25.0
NEIGHBORS = 2
"""All is as before when p99 is at most this many times that of before, or so many ms, and nothing is refused."""


class Part(msgspec.Struct, frozen=True):
    """A phase, its windows, and the CPU time of each process in it."""

    name: str
    rate: float
    windows: list[Window]
    cpu_seconds: dict[str, float]

    @property
    def seconds(self) -> float:
        """How long it took."""
        return self.windows[-1].seconds if self.windows else 0.0

    def per_second(self, field: str) -> float:
        """Orders a second."""
        return float(sum(getattr(window, field) for window in self.windows)) / max(self.seconds, 0.001)


class Moment(NamedTuple):
    """A window in the plot."""

    at: float
    due: float
    acknowledged: float
    refused: float
    p99_ms: float


class OverloadResult(Result, kw_only=True):
    """Rates are orders a second. `back_seconds`: after the overload, until all was as before; None: it never was."""

    seconds: int
    orders_a_request: int
    possible: float
    offered: float
    sent: float
    goodput: float
    refused: float
    p99_before_ms: float
    p99_ms: float
    refused_p99_ms: float
    back_seconds: float | None
    told: Told
    account: Account
    parts: list[Part]
    faults: list[str]

    def failures(self) -> Sequence[str]:
        return self.faults

    def headline(self) -> str:
        share = self.goodput / max(self.possible, 1)
        back = "never" if self.back_seconds is None else f"after {self.back_seconds:.1f} s"
        found = f"at {self.offered / max(self.possible, 1):.1f} times the load goodput is {share:.0%}, as before {back}"
        return f"FAILED: {'; '.join(self.faults)} ({found})" if self.faults else f"{found}, nothing lost"

    def rows(self) -> list[Row]:
        return [
            ("possible goodput", f"{self.possible:,.0f} orders/s, in batches of {self.orders_a_request}"),
            ("offered; of these sent", f"{self.offered:,.0f}; {self.sent:,.0f} orders/s"),
            ("goodput under overload", f"{self.goodput:,.0f} orders/s, {self.goodput / max(self.possible, 1):.0%}"),
            ("refused (503, 429)", f"{self.refused:,.0f} orders/s"),
            ("p99 before, under overload", f"{self.p99_before_ms:,.1f} ms, {self.p99_ms:,.0f} ms"),
            ("p99 of a refusal", f"{self.refused_p99_ms:,.0f} ms"),
            ("as before", "never" if self.back_seconds is None else f"after {self.back_seconds:.1f} s"),
            ("errors, not answered", f"{self.told.errors}, {self.told.unanswered}"),
            ("orders acknowledged; in the logs", f"{self.account.acknowledged:,}; {self.account.logged:,}"),
            ("replay leads to the same state", "yes" if self.account.replay_same else "NO"),
        ]

    def head(self) -> Head:
        times, share = self.offered / max(self.possible, 1), self.goodput / max(self.possible, 1)
        return Head(
            title=f"tcgx overload: {share:.0%} of the possible goodput at {times:.1f} times the load",
            subtitle=f"Batches of {self.orders_a_request:,} at fixed times: half of the possible "
            f"{self.possible:,.0f} orders a second, then {OVERLOAD:g} times it from clients that honour nothing, then "
            f"half again. {self.sent:,.0f} a second found a connection and were sent. Errors: {self.told.errors:,}.",
        )

    def draw(self, sheet: Sheet) -> None:
        (rates,), (latency,) = sheet.panels(2, 1, inches=5.2, height_ratios=(3, 2), sharex=True)
        moments = self._moments()
        at = [one.at for one in moments]
        rates.plot(at, [one.due for one in moments], color=COLORS["client"])
        rates.plot(at, [one.acknowledged for one in moments], color=COLORS["tcgx"])
        rates.plot(at, [one.refused for one in moments], color=COLORS["tcgx"], linestyle="dashed")
        rates.set_title("Orders a second")
        curves(rates)
        overloaded = next((one for one in reversed(moments) if one.refused), moments[-1])
        sheet.line_ends(
            rates,
            [
                (overloaded.due, "offered", "client"),
                (overloaded.acknowledged, "acknowledged", "tcgx"),
                (overloaded.refused, "refused", "tcgx"),
            ],
        )
        latency.plot(at, [one.p99_ms or math.nan for one in moments], color=COLORS["tcgx"])
        logarithmic(latency)
        latency.set_title("p99 of acknowledged batches, from the time they were due (ms)")
        latency.set_xlabel("seconds")
        latency.set_xlim(0, at[-1] or 1)

    def _moments(self) -> list[Moment]:
        found, passed = [], 0.0
        for part in self.parts:
            before = 0.0
            for one in part.windows:
                seconds = max(one.seconds - before, 0.001)
                due, acknowledged, refused = (count / seconds for count in (one.due, one.acknowledged, one.refused))
                found.append(Moment(passed + one.seconds, due, acknowledged, refused, one.p99_ms))
                before = one.seconds
            passed += part.seconds
        return found or [Moment(0.0, 0.0, 0.0, 0.0, 0.0)]


async def run(options: Options, board: Board) -> OverloadResult:
    """One run.

    Raises:
        Failed: the clients did not run to their end, or nothing was acknowledged.
    """
    here = machine()
    with datadir.ephemeral() as folder:
        board.step("starting servers")
        async with (
            exchange(options, "engine", "archiver", "api", log_retention=KEEP_ALL) as running,
            connection.connect(running.settings.redis_url) as redis,
        ):
            server = await server_name(redis)
            parts, told = await _load(options, running, folder, board)
            ended = [name for name, service in running.services.items() if service.process.ended()]
            board.step("matching and archiving the rest")
            await settled(redis, running.settings)
            witness = Witness(redis, running.settings.cards, folder)
            await witness.read()
            cards = running.settings.cards
            ledger = Ledger(
                sequences.read(f"{folder}/ledger.ordered", cards),
                {},
                ORDERS_A_REQUEST * (told.unanswered + told.errors),
            )
            found = await account(witness, running.settings, ledger, board.task("checked", told.acknowledged))
    before, overload, after = parts[-3:]
    possible = max(part.per_second("acknowledged") for part in parts[:-3])
    if not possible:
        raise Failed(f"nothing was acknowledged: {told}")
    p99_before = statistics.median(window.p99_ms for window in before.windows)
    back = back_after(after.windows, p99_before)
    result = OverloadResult(
        seconds=options.seconds,
        **common(options, here, server),
        orders_a_request=ORDERS_A_REQUEST,
        possible=possible,
        offered=overload.per_second("due"),
        sent=overload.per_second("sent"),
        goodput=overload.per_second("acknowledged"),
        refused=overload.per_second("refused"),
        p99_before_ms=p99_before,
        p99_ms=statistics.median(window.p99_ms for window in overload.windows),
        refused_p99_ms=statistics.median(window.refused_p99_ms for window in overload.windows),
        back_seconds=back,
        told=told,
        account=found,
        parts=parts,
        faults=[],
    )
    return msgspec.structs.replace(result, faults=[*_faults(result), *(f"{name} has ended" for name in ended)])


def _faults(result: OverloadResult) -> list[str]:
    faults = [*result.told.faults, *result.account.faults]
    if result.told.unanswered:
        faults.append(f"{result.told.unanswered:,} requests were never answered")
    if result.seconds < JUDGED_SECONDS:
        return faults
    if result.goodput < GOODPUT_SHARE * result.possible:
        faults.append(f"goodput falls to {result.goodput / result.possible:.0%}")
    if result.back_seconds is None or result.back_seconds > BACK_SECONDS:
        faults.append(f"it was not as before within {BACK_SECONDS:g} s")
    return faults


def back_after(windows: Sequence[Window], p99_before_ms: float) -> float | None:
    """Seconds until p99 is as before and nothing is refused, from then on; None: never.

    p99 is the median of a window and up to `NEIGHBORS` on each side: a rewrite of the AOF makes one window slow at any
    load, before the overload as well.
    """
    allowed = max(BACK_TIMES * p99_before_ms, BACK_MS)
    p99s = [one.p99_ms for one in windows]
    bad = [
        number
        for number, one in enumerate(windows)
        if statistics.median(p99s[max(0, number - NEIGHBORS) : number + NEIGHBORS + 1]) > allowed
        or one.refused
        or not one.acknowledged
    ]
    if not bad:
        return 0.0
    return windows[bad[-1]].seconds if bad[-1] + 1 < len(windows) else None


async def _load(options: Options, running: Exchange, folder: Path, board: Board) -> tuple[list[Part], Told]:
    """All phases in turn."""
    host, port = running.api
    job = Job(
        host=host,
        port=port,
        secret=running.settings.jwt_secret,
        cards=[*running.settings.cards],
        traders=TRADERS,
        connections=CONNECTIONS,
        window_seconds=WINDOW_SECONDS,
        seed=options.seed,
        ledger=str(folder / "ledger"),
    )
    async with client_process.started("testing.clients.flood", job) as process:
        clients = Clients(running, process, board)
        parts = []
        scale = min(1.0, options.seconds / 60)
        for connections in RAMP:
            phase = Phase(0, max(PHASE_SECONDS_MIN, RAMP_SECONDS * scale), connections)
            parts.append(await clients.run(f"closed loop, {connections} connections", phase))
        possible = max(part.per_second("acknowledged") for part in parts) / ORDERS_A_REQUEST
        for name, times, seconds in (
            ("half of it", NORMAL, max(PHASE_SECONDS_MIN, BEFORE_SECONDS * scale)),
            (f"{OVERLOAD:g} times it", OVERLOAD, float(options.seconds)),
            ("half of it again", NORMAL, max(PHASE_SECONDS_MIN, AFTER_SECONDS * scale)),
        ):
            parts.append(await clients.run(name, Phase(max(1.0, possible * times), seconds)))
        process.stdin.close()
        return parts, msgspec.json.decode(await process.stdout.readline(), type=Told)


class Clients:
    """The process of the clients."""

    def __init__(self, running: Exchange, process: ClientProcess, board: Board) -> None:
        self._running = running
        self._process = process
        self._board = board

    async def run(self, name: str, phase: Phase) -> Part:
        """One phase.

        Raises:
            Failed: the clients gave up.
        """
        task = self._board.task(f"{name}: windows", max(1, round(phase.seconds / WINDOW_SECONDS)))
        before, windows = await self._cpu_seconds(), list[Window]()
        self._process.tell(phase)
        while line := await self._process.stdout.readline():
            if line == b"\n":
                task.reach(task.total)
                cpu = {role: used - before[role] for role, used in (await self._cpu_seconds()).items()}
                return Part(name, phase.rate * ORDERS_A_REQUEST, windows, cpu)
            windows.append(msgspec.json.decode(line, type=Window))
            task.advance(1)
        raise Failed("the clients gave up; the lines above say why")

    async def _cpu_seconds(self) -> dict[str, float]:
        return {**await self._running.cpu_seconds(), "client": cpu_seconds(self._process.pid)}
