"""`tcgx bench soak`: a whole exchange under a steady load for long, which must not grow, slow down or lose anything.

Singles, batches and cancels of 10,000 traders come at fixed times (open loop), from a process of their own. The books
are in a steady state: what comes to rest is traded or canceled. Windows of retention are short, so that they are full
before the verdict begins. What grows by design is measured apart: ids of clients, which Redis keeps for a day or two,
and the lists of traders, which are compacted after 512 orders of a trader on a card.
"""

import asyncio
import statistics
import time
from collections.abc import Callable, Sequence
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
from redis.asyncio import Redis

from archiver import postgres
from bench import client_process
from bench.machine import anonymous_bytes, machine, usage
from bench.options import Options
from bench.plot_style import COLORS, NAMES, Head, Sheet, curves, logarithmic, role_of
from bench.progress import Board, Task
from bench.result import Failed, Result, Row, common
from bench.servers import Exchange, exchange, server_name
from bench.witness import Account, Ledger, Witness, account, settled
from cli import datadir
from engine import connection, keys
from testing.clients import sequences
from testing.clients.steady import Job, Told, Window
from testing.flows import CARDS, TRADERS

if TYPE_CHECKING:
    from matplotlib.axes import Axes

LOG_SECONDS, EVENT_SECONDS = 60, 20
"""How long archived commands stay in log and events, so that both are full before the verdict begins."""
RETENTION_MIN = 1_000
WINDOW_SECONDS = 5.0
WARM_SECONDS, WARM_SHARE = 300.0, 1 / 3
"""The verdict leaves out the first five minutes; of a shorter run, its first third."""
JUDGED_SECONDS = 60.0
"""The verdict needs so much after that."""
FLAT_SHARE, FLAT_BYTES = 0.05, 2_000_000
"""Memory may grow by this share of its median over the whole verdict, or by so many bytes."""
LATENCY_SHARE, LATENCY_MS = 0.5, 5.0
SAMPLED_TRADERS = 200
PARTS = ("history", "sequence", "orders", "cursor", "bids", "asks", "open", "trades", "events", "compacted")
GROWING = ("client_ids", "trader")
"""Kinds of keys that grow by design."""


class Sample(msgspec.Struct, frozen=True):
    """A window of the clients, and the state at its end. `memory_bytes`: proportional set size of each process.

    `keys_bytes`: of each kind of key in Redis; of the lists of traders, what a sample of 200 traders gives.
    """

    window: Window
    memory_bytes: dict[str, int]
    used_memory_bytes: int
    keys_bytes: dict[str, int]
    aof_bytes: int
    aof_rewrites: int
    backlog: int
    archive_lag: int

    @property
    def bounded_bytes(self) -> int:
        """Memory of Redis without what grows by design."""
        return self.used_memory_bytes - sum(self.keys_bytes.get(kind, 0) for kind in GROWING)


class Trend(msgspec.Struct, frozen=True):
    """How a value has changed over the verdict, by the median of all slopes (Theil and Sen), and how far it may."""

    name: str
    unit: str
    median: float
    growth: float
    allowed: float

    @property
    def is_flat(self) -> bool:
        """Whether it has not grown farther."""
        return self.growth <= self.allowed


class SoakResult(Result, kw_only=True):
    """`faults` is empty if everything is as it must be. `trends` is empty if the run was too short for a verdict."""

    rate: int
    seconds: int
    warm_seconds: float
    log_retention: int
    event_retention: int
    told: Told
    account: Account
    trends: list[Trend]
    growth_by_design_bytes: dict[str, float]
    samples: list[Sample]
    faults: list[str]

    def failures(self) -> Sequence[str]:
        return self.faults

    def headline(self) -> str:
        if self.faults:
            return f"NOT steady: {'; '.join(self.faults)}"
        verdict = "memory and p99 flat" if self.trends else "too short for a verdict on memory"
        return f"{self.rate:,} commands/s for {_minutes(self.seconds)}: {verdict}, 0 errors, 0 lost"

    def rows(self) -> list[Row]:
        last, p99 = self.samples[-1], [one.window.p99_ms for one in self.samples]
        return [
            ("asked for", f"{self.rate:,} commands/s for {_minutes(self.seconds)}"),
            ("orders and cancels acknowledged", f"{self.told.orders:,} and {self.told.cancels:,}"),
            ("cancels of orders that had ended before (409)", f"{self.told.completed:,}"),
            ("refused, errors, not answered", f"{self.told.refused}, {self.told.errors}, {self.told.unanswered}"),
            ("orders in the logs; archived; resting", self._orders()),
            ("trades archived", f"{self.account.trades:,}"),
            ("replay leads to the same state", "yes" if self.account.replay_same else "NO"),
            ("p50, p99 of a window, median", f"{self._p50():.1f} ms, {statistics.median(p99):.1f} ms"),
            ("longest answer", f"{max(one.window.max_ms for one in self.samples):.0f} ms"),
            ("most commands not matched, not archived", self._behind()),
            ("AOF at the end, rewrites", f"{last.aof_bytes / 1e6:,.0f} MB, {last.aof_rewrites}"),
            *((f"{one.name}: {'flat' if one.is_flat else 'GROWS'}", _told(one)) for one in self.trends),
            *((f"grows by design: {kind}", _megabytes(size)) for kind, size in self.growth_by_design_bytes.items()),
        ]

    def _orders(self) -> str:
        return f"{self.account.logged:,}; {self.account.completed:,}; {self.account.resting:,}"

    def _p50(self) -> float:
        return statistics.median(one.window.p50_ms for one in self.samples)

    def _behind(self) -> str:
        return f"{max(one.backlog for one in self.samples):,}, {max(one.archive_lag for one in self.samples):,}"

    def head(self) -> Head:
        p99 = statistics.median(one.window.p99_ms for one in self.samples)
        state = "not steady" if self.faults else "steady" if self.trends else "too short to judge"
        return Head(
            title=f"tcgx soak: {_minutes(self.seconds)} at {self.rate:,} commands a second, {state}",
            subtitle=f"{self.told.orders:,} orders, singly and in batches, and {self.told.cancels:,} cancels of "
            f"{TRADERS:,} traders over HTTP, sent at fixed times; p99 of a window {p99:,.1f} ms, "
            f"{self.told.errors:,} errors. The verdict is on what comes after {self.warm_seconds:,.0f} s.",
        )

    def draw(self, sheet: Sheet) -> None:
        (memory,), (redis,), (latency,), (rate,) = sheet.panels(4, 1, inches=8.4, sharex=True)
        at = [one.window.seconds / 60 for one in self.samples]
        ends = []
        for name in self.samples[-1].memory_bytes:
            values, role = [one.memory_bytes.get(name, 0) / 1e6 for one in self.samples], role_of(name)
            memory.plot(at, values, color=COLORS[role])
            ends.append((values[-1], f"{NAMES[role]} {values[-1]:,.0f}", role))
        _titled(memory, "Memory in MB (of PostgreSQL without shared buffers)")
        sheet.line_ends(memory, ends)
        ends = []
        for label, style, size in _REDIS_LINES:
            values = [size(one) / 1e6 for one in self.samples]
            redis.plot(at, values, color=COLORS["redis"], linestyle=style)
            ends.append((values[-1], f"{label} {values[-1]:,.0f}", "redis"))
        _titled(redis, "Memory of Redis in MB: all, and what is bounded")
        sheet.line_ends(redis, ends)
        ends = []
        for label, style in (("p50", "dotted"), ("p99", "solid"), ("max", "dashed")):
            values = [getattr(one.window, f"{label}_ms") for one in self.samples]
            latency.plot(at, values, color=COLORS["tcgx"], linestyle=style, linewidth=1.4)
            ends.append((values[-1], label, "tcgx"))
        latency.set_title("From the time a request was due to its answer (ms)")
        logarithmic(latency)
        sheet.line_ends(latency, ends)
        self._draw_rate(rate, at)

    def _draw_rate(self, ax: "Axes", at: Sequence[float]) -> None:
        times = [0.0, *(one.window.seconds for one in self.samples)]
        rates = [
            (one.window.commands + one.window.completed) / max(end - start, 0.001)
            for one, start, end in zip(self.samples, times, times[1:], strict=False)
        ]
        ax.plot(at, rates, color=COLORS["api"])
        _titled(ax, "Commands answered a second")
        ax.set_xlim(0, at[-1] or 1)
        ax.set_xlabel("minutes")


_REDIS_LINES: Sequence[tuple[str, str, Callable[[Sample], float]]] = (
    ("all", "solid", lambda one: float(one.used_memory_bytes)),
    ("bounded", "dashed", lambda one: float(one.bounded_bytes)),
)


def _titled(ax: "Axes", title: str) -> None:
    ax.set_title(title)
    curves(ax)


def _minutes(seconds: float) -> str:
    return f"{seconds / 60:,.10g} min" if seconds >= 60 else f"{seconds:,.10g} s"


def _megabytes(size: float) -> str:
    return f"{size / 1e6:,.1f} MB"


def _told(trend: Trend) -> str:
    scale = 1e6 if trend.unit == "MB" else 1.0
    median, growth, allowed = (value / scale for value in (trend.median, trend.growth, trend.allowed))
    return f"median {median:,.1f} {trend.unit}, {growth:+,.2f} over the verdict, at most {allowed:,.2f}"


async def run(options: Options, board: Board) -> SoakResult:
    """One run.

    Raises:
        Failed: the clients did not run to their end.
    """
    here = machine()
    log_retention, event_retention = retentions(options.rate)
    changes = {"log_retention": log_retention, "event_retention": event_retention}
    with datadir.ephemeral() as folder:
        board.step("starting servers")
        async with (
            exchange(options, "engine", "archiver", "api", **changes) as running,
            connection.connect(running.settings.redis_url) as redis,
        ):
            server = await server_name(redis)
            board.step(f"making tokens of {TRADERS:,} traders")
            witness = Witness(redis, running.settings.cards, folder)
            watching = asyncio.create_task(witness.run())
            try:
                samples, told = await _load(options, running, redis, folder, board)
            finally:
                watching.cancel()
                await asyncio.gather(watching, return_exceptions=True)
            board.step("archiving the rest")
            await settled(redis, running.settings)
            await witness.read()
            ledger = _ledger(folder, running.settings.cards, told)
            found = await account(witness, running.settings, ledger, board.task("checked", told.orders))
    warm = min(WARM_SECONDS, options.seconds * WARM_SHARE)
    judged = [one for one in samples if one.window.seconds >= warm]
    trends = trends_of(judged) if options.seconds - warm >= JUDGED_SECONDS else []
    return SoakResult(
        **common(options, here, server),
        rate=options.rate,
        seconds=options.seconds,
        warm_seconds=warm,
        log_retention=log_retention,
        event_retention=event_retention,
        told=told,
        account=found,
        trends=trends,
        growth_by_design_bytes={
            kind: growth([(one.window.seconds, float(one.keys_bytes[kind])) for one in judged]) for kind in GROWING
        },
        samples=samples,
        faults=[*_wrong(told), *found.faults, *(f"{one.name} grows" for one in trends if not one.is_flat)],
    )


def retentions(rate: int) -> tuple[int, int]:
    """Commands of a card that log and events keep."""
    of_card = rate / len(CARDS)
    return max(RETENTION_MIN, int(LOG_SECONDS * of_card)), max(RETENTION_MIN, int(EVENT_SECONDS * of_card))


def _wrong(told: Told) -> list[str]:
    counts = {"refused": told.refused, "errors": told.errors, "not answered": told.unanswered}
    return [f"{count:,} {name}" for name, count in counts.items() if count] + told.faults


def _ledger(folder: Path, cards: Sequence[str], told: Told) -> Ledger:
    ordered = sequences.read(f"{folder}/ledger.ordered", cards)
    return Ledger(ordered, sequences.read(f"{folder}/ledger.canceled", cards), told.unanswered + told.errors)


# -- the verdict


def trends_of(samples: Sequence[Sample]) -> list[Trend]:
    """The trends of memory and latency. Shared buffers of PostgreSQL fill to their bound, so they are left out."""
    at = [one.window.seconds for one in samples]
    memory = {
        f"memory of {NAMES[role_of(name)]}": [float(one.memory_bytes.get(name, 0)) for one in samples]
        for name in samples[-1].memory_bytes
        if name not in ("client", "redis")
    }
    memory["memory of Redis but for what grows by design"] = [float(one.bounded_bytes) for one in samples]
    trends = []
    for name, values in memory.items():
        median = statistics.median(values)
        grown = growth([*zip(at, values, strict=True)])
        trends.append(Trend(name, "MB", median, grown, max(FLAT_SHARE * median, FLAT_BYTES)))
    p99 = [one.window.p99_ms for one in samples]
    median, grown = statistics.median(p99), growth([*zip(at, p99, strict=True)])
    return [*trends, Trend("p99", "ms", median, grown, max(LATENCY_SHARE * median, LATENCY_MS))]


def growth(points: Sequence[tuple[float, float]]) -> float:
    """How much a value has grown from the first point to the last, by the median of the slopes of all pairs."""
    slopes = [(y - x) / (b - a) for (a, x), (b, y) in combinations(points, 2) if b > a]
    return statistics.median(slopes) * (points[-1][0] - points[0][0]) if slopes else 0.0


# -- the run


async def _load(
    options: Options, running: Exchange, redis: Redis, folder: Path, board: Board
) -> tuple[list[Sample], Told]:
    """The samples and the last line of the clients."""
    host, port = running.api
    window = min(WINDOW_SECONDS, options.seconds / 4)
    job = Job(
        host=host,
        port=port,
        secret=running.settings.jwt_secret,
        cards=[*running.settings.cards],
        traders=TRADERS,
        rate=options.rate,
        seconds=options.seconds,
        window_seconds=window,
        seed=options.seed,
        ledger=str(folder / "ledger"),
    )
    async with client_process.started("testing.clients.steady", job) as clients:
        task = board.task("commands answered", options.rate * options.seconds)
        clients.stdin.write(b"go\n")
        return await _watch(clients.stdout, Sampler(running, redis, clients.pid), task)


async def _watch(lines: asyncio.StreamReader, sampler: "Sampler", task: Task) -> tuple[list[Sample], Told]:
    samples: list[Sample] = []
    while line := await lines.readline():
        if b'"p50_ms"' not in line:
            return samples, msgspec.json.decode(line, type=Told)
        window = msgspec.json.decode(line, type=Window)
        samples.append(await sampler.sample(window))
        task.advance(window.commands + window.completed)
    raise Failed("the clients gave up; the lines above say why")


class Sampler:
    """Takes the samples of a run."""

    def __init__(self, running: Exchange, redis: Redis, client_pid: int) -> None:
        self._running = running
        self._redis: Any = redis
        self._client_pid = client_pid
        self._redis_pid = 0
        step = TRADERS // SAMPLED_TRADERS
        self._traders = range(1, TRADERS + 1, step)

    async def sample(self, window: Window) -> Sample:
        """The state now."""
        info = await self._redis.info()
        cards = self._running.settings.cards
        backlog, archive_lag = await self._behind(cards)
        return Sample(
            window=window,
            memory_bytes=self._memory(int(info["process_id"])),
            used_memory_bytes=int(info["used_memory"]),
            keys_bytes=await self._keys(cards),
            aof_bytes=int(info["aof_current_size"]),
            aof_rewrites=int(info.get("aof_rewrites", 0)),
            backlog=backlog,
            archive_lag=archive_lag,
        )

    def _memory(self, redis_pid: int) -> dict[str, int]:
        found = {name: usage(service.pid).now_bytes for name, service in self._running.services.items()}
        if Path(f"/proc/{redis_pid}/exe").exists():
            found["redis"] = usage(redis_pid).now_bytes
        if self._running.postgres_pid:
            found["postgres"] = anonymous_bytes(self._running.postgres_pid)
        return found | {"client": usage(self._client_pid).now_bytes}

    async def _behind(self, cards: Sequence[str]) -> tuple[int, int]:
        """Commands that are not matched, and not archived."""
        opened = await postgres.connect(self._running.settings.database_url)
        try:
            archived = await opened.fetchval("SELECT coalesce(sum(sequence), 0) FROM archive_cursor")
        finally:
            await opened.close()
        pipeline = self._redis.pipeline(transaction=False)
        for card in cards:
            pipeline.get(keys.key(card, "sequence"))
            pipeline.hget(keys.key(card, "cursor"), "sequence")
        replies = [int(value or 0) for value in await pipeline.execute()]
        accepted = sum(replies[::2])
        return accepted - sum(replies[1::2]), max(0, accepted - int(archived))

    async def _keys(self, cards: Sequence[str]) -> dict[str, int]:
        """Bytes by kind of key."""
        today = int(time.time()) // 86_400
        days = [f"client_ids:{today + offset}" for offset in (-1, 0, 1)]
        names = [(part, keys.key(card, part)) for card in cards for part in PARTS]
        names += [("client_ids", keys.key(card, day)) for card in cards for day in days]
        names += [("trader", keys.key(card, f"trader:{number}")) for card in cards for number in self._traders]
        pipeline = self._redis.pipeline(transaction=False)
        for _, name in names:
            pipeline.memory_usage(name)
        found = dict.fromkeys((*PARTS, *GROWING), 0)
        for (kind, _), size in zip(names, await pipeline.execute(), strict=True):
            found[kind] += int(size or 0) * (TRADERS // SAMPLED_TRADERS if kind == "trader" else 1)
        return found
