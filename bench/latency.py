"""`tcgx bench latency`: how long an order takes to be matched, at a fixed rate.

An open loop: order n is meant to be sent at n / rate seconds, whatever became of those before, and its time is counted
from then on, also while it waits for a free connection (no coordinated omission). `Prefer: wait=5`: the answer comes
after matching, with the trades; a 202 instead of a 200 counts as dropped.
"""

import asyncio
import contextlib
import threading
import time
from collections import deque
from collections.abc import Sequence

import msgspec

from bench.machine import machine
from bench.options import Options
from bench.plot_style import COLORS, INK, Head, Sheet, curves
from bench.progress import Board, Task
from bench.requests import single_orders
from bench.result import Failed, Result, Row, common
from bench.servers import exchange, server_name
from engine import connection
from testing.clients.closed_loop import Connection, open_connections, percentile

CONNECTIONS = 256
WAIT_SECONDS = 5
WARM_SECONDS = 2
END_SECONDS = 30.0
LOOK_SECONDS = 0.5
MARKED = {"50.0": "p50", "99.0": "p99", "99.9": "p99.9"}
PERCENTS = (50.0, 75.0, 90.0, 95.0, 99.0, 99.5, 99.9, 99.95, 99.99, 100.0)


class Outcome(msgspec.Struct, frozen=True):
    """What came of an open loop. `late_ms`: how late the sender itself was, 99 % of the times; part of the latency."""

    latencies_ms: list[float]
    sent: int
    dropped: int
    errors: int
    seconds: float
    late_p99_ms: float


class LatencyResult(Result, kw_only=True):
    """Percentiles in milliseconds, from the intended send time to the answer after matching. `dropped`: not matched
    within the wait; `errors`: no answer, or another status than 2xx."""

    rate: int
    seconds: int
    requests_per_second: float
    orders: int
    p50_ms: float
    p99_ms: float
    p999_ms: float
    max_ms: float
    dropped: int
    errors: int
    sender_late_p99_ms: float
    percentiles_ms: dict[str, float]

    def headline(self) -> str:
        return f"at {self.rate:,}/s matched and answered in p50 {self.p50_ms:.1f} ms, p99 {self.p99_ms:.1f} ms"

    def rows(self) -> list[Row]:
        return [
            ("asked for", f"{self.rate:,} orders/s for {self.seconds} s"),
            ("matched and answered", f"{self.requests_per_second:,.0f} orders/s"),
            ("p50", f"{self.p50_ms:.2f} ms"),
            ("p99", f"{self.p99_ms:.2f} ms"),
            ("p99.9", f"{self.p999_ms:.2f} ms"),
            ("longest", f"{self.max_ms:.2f} ms"),
            ("dropped", f"{self.dropped}"),
            ("errors", f"{self.errors}"),
            ("of that the sender was late, p99", f"{self.sender_late_p99_ms:.2f} ms"),
        ]

    def head(self) -> Head:
        return Head(
            title=f"tcgx latency: matched and answered in {self.p50_ms:,.1f} ms, 99 % within {self.p99_ms:,.1f} ms",
            subtitle=f"{self.rate:,} orders a second for {self.seconds:,} s over HTTP, sent at fixed times (open "
            f"loop); ms from the intended time to the answer with the trades. The longest took {self.max_ms:,.1f} ms; "
            f"{self.dropped:,} not matched in time, {self.errors:,} errors.",
        )

    def draw(self, sheet: Sheet) -> None:
        ((ax,),) = sheet.panels(1, 1, inches=3.2)
        points = {
            percent: (1 / (1 - float(percent) / 100), ms)
            for percent, ms in self.percentiles_ms.items()
            if percent != "100.0"
        }
        ax.plot(*zip(*points.values(), strict=True), marker="o", color=COLORS["tcgx"])
        ax.set_xscale("log")
        ax.set_xticks([x for x, _ in points.values()], [f"{float(percent):g}" for percent in points])
        ax.minorticks_off()
        ax.set(xlabel="percentile", ylabel="ms")
        curves(ax)
        for percent, name in MARKED.items():
            x, ms = points[percent]
            ax.annotate(
                f"{name}\n{ms:,.1f} ms",
                (x, ms),
                (0, 9),
                textcoords="offset points",
                ha="center",
                va="bottom",
                color=INK,
                fontweight="bold",
                bbox={"facecolor": "white", "edgecolor": "none", "pad": 1.0},
            )


class OpenLoop:
    """Sends at fixed times, over whatever connection is free."""

    def __init__(self, requests: Sequence[bytes], rate: int) -> None:
        self._requests = requests
        self._rate = rate
        self._free: list[Connection] = []  # the last one used is the next: idle ones are closed by the server
        self._open: set[Connection] = set()
        self._opening: set[asyncio.Task[None]] = set()
        self._address = ("", 0)
        self._due: deque[tuple[float, bytes]] = deque()
        self._intended: dict[Connection, float] = {}
        self._latencies: list[float] = []
        self._late: list[float] = []
        self._dropped = 0
        self._errors = 0
        self._sent = 0
        self._under_way = 0
        self._all_answered = asyncio.Event()

    async def run(self, address: tuple[str, int], seconds: int, task: Task) -> Outcome:
        """For so many seconds, and until all are answered."""
        self._address = address
        self._free = await open_connections(address, CONNECTIONS, self._answered)
        self._open.update(self._free)
        loop = asyncio.get_running_loop()
        count = self._rate * seconds
        self._under_way = count
        started = time.perf_counter()
        # A thread that sleeps is exact to 0.1 ms; the loop's own timers go by whole milliseconds.
        clock = threading.Thread(target=self._tick, args=(loop, started, count), daemon=True)
        clock.start()
        try:
            while not self._all_answered.is_set():
                if time.perf_counter() > started + seconds + END_SECONDS:
                    self._errors += self._under_way
                    break
                task.reach(min(task.total, self._sent))
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._all_answered.wait(), LOOK_SECONDS)
            spent = time.perf_counter() - started
            task.reach(task.total)
        finally:
            for opening in [*self._opening]:
                opening.cancel()
            for connection in self._open:
                connection.close()
        clock.join()
        self._latencies.sort()
        self._late.sort()
        return Outcome(
            latencies_ms=[1e3 * one for one in self._latencies],
            sent=self._sent,
            dropped=self._dropped,
            errors=self._errors,
            seconds=spent,
            late_p99_ms=1e3 * percentile(self._late, 99),
        )

    def _tick(self, loop: asyncio.AbstractEventLoop, started: float, count: int) -> None:
        for number in range(count):
            intended = started + number / self._rate
            left = intended - time.perf_counter()
            if left > 0:
                time.sleep(left)
            loop.call_soon_threadsafe(self._send, intended, self._requests[number % len(self._requests)])

    def _send(self, intended: float, request: bytes) -> None:
        self._late.append(time.perf_counter() - intended)
        if self._free:
            self._send_on(self._free.pop(), intended, request)
            return
        self._due.append((intended, request))
        if len(self._open) + len(self._opening) < CONNECTIONS:
            opening = asyncio.ensure_future(self._open_another())
            self._opening.add(opening)
            opening.add_done_callback(self._opening.discard)

    async def _open_another(self) -> None:
        try:
            (connection,) = await open_connections(self._address, 1, self._answered)
        except OSError:
            return  # what is due waits for a connection that is open
        self._open.add(connection)
        self._use(connection)

    def _use(self, connection: Connection) -> None:
        if self._due:
            self._send_on(connection, *self._due.popleft())
        else:
            self._free.append(connection)

    def _send_on(self, connection: Connection, intended: float, request: bytes) -> None:
        self._intended[connection] = intended
        self._sent += 1
        connection.send(request)

    def _answered(self, connection: Connection, status: int) -> None:
        intended = self._intended.pop(connection, None)
        if not status:
            self._open.discard(connection)
            if connection in self._free:
                self._free.remove(connection)
        if intended is None:
            return
        self._under_way -= 1
        if status == 200:
            self._latencies.append(time.perf_counter() - intended)
        elif status == 202:
            self._dropped += 1
        else:
            self._errors += 1
        if self._under_way <= 0:
            self._all_answered.set()
        if status:
            self._use(connection)


async def run(options: Options, board: Board) -> LatencyResult:
    """One load, after two seconds of warming up."""
    here = machine()
    board.step("starting servers")
    async with exchange(options, "engine", "archiver", "api") as running:
        async with connection.connect(running.settings.redis_url) as redis:
            server = await server_name(redis)
        board.step(f"making {options.rate * options.seconds:,} requests")
        requests = single_orders(
            options,
            running.settings.jwt_secret,
            options.rate * options.seconds,
            headers=f"prefer: wait={WAIT_SECONDS}\r\n",
        )
        warming = board.task("warming up", options.rate * WARM_SECONDS)
        await OpenLoop(requests, options.rate).run(running.api, WARM_SECONDS, warming)
        task = board.task("sent", options.rate * options.seconds)
        outcome = await OpenLoop(requests, options.rate).run(running.api, options.seconds, task)
    if not outcome.latencies_ms:
        raise Failed(f"of {outcome.sent} orders none was matched: {outcome.dropped} dropped, {outcome.errors} errors")
    found = {str(percent): percentile(outcome.latencies_ms, percent) for percent in PERCENTS}
    return LatencyResult(
        **common(options, here, server),
        rate=options.rate,
        seconds=options.seconds,
        requests_per_second=len(outcome.latencies_ms) / outcome.seconds,
        orders=outcome.sent,
        p50_ms=found["50.0"],
        p99_ms=found["99.0"],
        p999_ms=found["99.9"],
        max_ms=found["100.0"],
        dropped=outcome.dropped,
        errors=outcome.errors,
        sender_late_p99_ms=outcome.late_p99_ms,
        percentiles_ms=found,
    )
