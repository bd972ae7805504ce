"""`tcgx bench archive`: from matched orders, whose events lie in Redis, to rows in PostgreSQL.

The orders are matched before, with no archiver at work; then one archiver is started, and time counts from when it
holds its lock until the last row is committed. Counted are rows: completed orders and trades.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence

from archiver import postgres
from bench import matching
from bench.machine import machine, usage
from bench.options import Options
from bench.plot_style import COLORS, NAMES, Bar, Head, Sheet, curves, micros, role_of
from bench.progress import Board, Task
from bench.result import Failed, Result, Row, common
from bench.servers import Exchange, exchange, long_client, server_name
from testing.flows import FLOWS

LOOK_SECONDS = 0.05
STALLED_SECONDS = 120.0

Point = tuple[float, int]
"""Seconds since the start, and commands whose rows are committed by then."""


class ArchiveResult(Result, kw_only=True):
    """`rows_per_second` counts rows that are committed; CPU in microseconds a row, by process."""

    orders: int
    archived_rows: int
    archived_orders: int
    archived_trades: int
    seconds: float
    rows_per_second: float
    orders_per_second: float
    cpu_us_per_row: dict[str, float]
    archiver_peak_bytes: int
    points: list[Point]

    def headline(self) -> str:
        return f"{self.rows_per_second:,.0f} rows/s archived, {self.orders_per_second:,.0f} orders/s"

    def rows(self) -> list[Row]:
        return [
            ("archived", f"{self.rows_per_second:,.0f} rows/s"),
            ("orders whose rows are archived", f"{self.orders_per_second:,.0f}/s"),
            ("rows", f"{self.archived_orders:,} orders, {self.archived_trades:,} trades"),
            ("after", f"{self.seconds:.2f} s"),
            *((f"CPU a row, {name}", f"{us:.1f} µs") for name, us in self.cpu_us_per_row.items()),
            ("memory of the archiver at its peak", f"{self.archiver_peak_bytes / 1e6:.0f} MB"),
        ]

    def head(self) -> Head:
        return Head(
            title=f"tcgx archive: {self.rows_per_second:,.0f} rows a second into PostgreSQL",
            subtitle=f"From events in Redis to rows that are committed, one archiver: {self.archived_orders:,} "
            f"completed orders and {self.archived_trades:,} trades in {self.seconds:,.1f} s, "
            f"{self.orders_per_second:,.0f} of the {self.orders:,} orders a second.",
        )

    def draw(self, sheet: Sheet) -> None:
        ((progress, cpu),) = sheet.panels(1, 2, inches=2.7, width_ratios=(3, 2))
        progress.plot(*zip(*self.points, strict=True), color=COLORS["archiver"])
        progress.set(title="Orders whose rows are archived", xlabel="seconds")
        curves(progress)
        progress.set_xlim(0, self.points[-1][0] or 1)
        cpu.set_title("CPU a row")
        most = max(self.cpu_us_per_row.values())
        roles = {role_of(name): us for name, us in self.cpu_us_per_row.items()}
        sheet.bars(cpu, [[Bar(NAMES[role], us, role, micros(us, most))] for role, us in roles.items()])


async def run(options: Options, board: Board) -> ArchiveResult:
    """One run."""
    here = machine()
    board.step(f"making {options.orders:,} orders, starting servers")
    commands = list(FLOWS[options.flow](options.seed, options.orders))
    async with exchange(options) as running:
        async with long_client(running.settings.redis_url) as client:
            server = await server_name(client)
            await matching.append(client, commands, board.task("to the log", len(commands)))
            matched = board.task("matched", len(commands))
            await matching.match_all(client, running.settings.cards, batch=options.batch, task=matched)
        await running.start("archiver")
        before = await running.cpu_seconds()
        points = await _watch(running, board.task("archived", len(commands)))
        cpu = {name: used - before[name] for name, used in (await running.cpu_seconds()).items()}
        peak = usage(running.services["archiver"].pid).peak_bytes
        opened = await postgres.connect(running.settings.database_url)
        try:
            orders, trades = [int(await opened.fetchval(query)) for query in COUNTS]
        finally:
            await opened.close()
    seconds = points[-1][0]
    return ArchiveResult(
        **common(options, here, server),
        orders=options.orders,
        archived_rows=orders + trades,
        archived_orders=orders,
        archived_trades=trades,
        seconds=seconds,
        rows_per_second=(orders + trades) / seconds,
        orders_per_second=options.orders / seconds,
        cpu_us_per_row={name: 1e6 * used / (orders + trades) for name, used in cpu.items()},
        archiver_peak_bytes=peak,
        points=points,
    )


COUNTS: Sequence[str] = ("SELECT count(*) FROM orders", "SELECT count(*) FROM trades")


async def _watch(running: Exchange, task: Task) -> list[Point]:
    """Until all is archived."""
    opened = await postgres.connect(running.settings.database_url)
    started = changed_at = time.monotonic()
    points: list[Point] = []
    look: Callable[[str], Awaitable[int]] = opened.fetchval
    try:
        while not points or points[-1][1] < task.total:
            done = int(await look("SELECT coalesce(sum(sequence), 0) FROM archive_cursor"))
            now = time.monotonic()
            if points and done != points[-1][1]:
                changed_at = now
            if now - changed_at > STALLED_SECONDS:
                raise Failed(f"archiving stands still at {done} of {task.total} commands")
            points.append((now - started, done))
            task.reach(done)
            await asyncio.sleep(LOOK_SECONDS)
    finally:
        await opened.close()
    return points
