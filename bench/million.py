"""`tcgx bench million`: from REST clients to SQL, every row checked.

An empty exchange (one API process, one engine, one archiver, Redis, PostgreSQL), then a million orders by two
keep-alive clients, in batches of 1,000, until the last completed row is committed. The clients are processes of their
own on the same machine, with their requests encoded beforehand. Each batch is one trader's; 1,000 traders take turns.
All times count from the first request sent. Without a verified result there is none.
"""

import asyncio
import contextlib
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from archiver import postgres
from bench.machine import Usage, machine, usage
from bench.options import Options
from bench.plot_style import COLORS, NAMES, Head, Role, Sheet, curves, role_of
from bench.progress import Board
from bench.requests import TOKENS, access_tokens, batch_body, post
from bench.result import Failed, Result, Row, common
from bench.servers import Exchange, exchange, server_name
from bench.verification import Sent, verify
from cli import datadir
from core.model import COMMANDS_MAX
from engine import connection, keys
from testing.clients.batch import put
from testing.flows import FLOWS

if TYPE_CHECKING:
    from matplotlib.axes import Axes

CLIENTS = 2
STAGES: Mapping[str, Role] = {"accepted": "api", "matched": "engine", "archived": "archiver"}
"""Each by the service that brings orders so far."""
LOOK_SECONDS = 0.05
SAMPLE_SECONDS = 0.25
MEMORY_SECONDS = 1.0
STALLED_SECONDS = 120.0


class Told(msgspec.Struct, frozen=True):
    """What a client says at its end; times of the machine's monotonic clock."""

    started: float
    ended: float
    refusals: int
    cpu_seconds: float
    peak_bytes: int


class Sample(msgspec.Struct, frozen=True):
    """How far everything is at a moment, and how much memory is in use by then."""

    seconds: float
    accepted: int
    matched: int
    archived: int
    memory_bytes: dict[str, int]


class MillionResult(Result, kw_only=True):
    """`orders_per_second`: orders by the seconds until the last row. `verified`: trades and completed orders in SQL are
    those of the reference book, counted and hashed. `refusals`: batches that were told to wait and sent again."""

    orders: int
    accept_seconds: float
    match_seconds: float
    archive_seconds: float
    orders_per_second: float
    verified: bool
    trades: int
    completed_orders: int
    sha256: dict[str, str]
    refusals: int
    peak_memory_bytes: dict[str, int]
    cpu_us_per_order: dict[str, float]
    samples: list[Sample]

    def headline(self) -> str:
        return f"{self.orders:,} orders from REST to SQL in {self.archive_seconds:.1f} s, verified"

    def rows(self) -> list[Row]:
        ends = {"accepted": self.accept_seconds, "matched": self.match_seconds, "archived": self.archive_seconds}
        return [
            *((f"last order {name} after", f"{seconds:.2f} s") for name, seconds in ends.items()),
            ("orders per second, by the last row archived", f"{self.orders_per_second:,.0f}"),
            ("trades and completed orders, all as the reference", f"{self.trades:,} and {self.completed_orders:,}"),
            ("batches told to wait", f"{self.refusals}"),
            *((f"memory at the peak, {name}", f"{n / 1e6:.0f} MB") for name, n in self.peak_memory_bytes.items()),
            *((f"CPU an order, {name}", f"{us:.1f} µs") for name, us in self.cpu_us_per_order.items()),
        ]

    def head(self) -> Head:
        return Head(
            title=f"tcgx: {self.orders:,} orders from REST to SQL in {self.archive_seconds:,.1f} s, all verified",
            subtitle=f"REST batches of {COMMANDS_MAX:,}, two clients; {self.orders_per_second:,.0f} orders a second by "
            f"the last row of {self.trades:,} trades and {self.completed_orders:,} completed orders, each as the "
            "reference book has it.",
            key={
                "api": f"accepted: {self.accept_seconds:,.1f} s",
                "engine": f"matched: {self.match_seconds:,.1f} s",
                "archiver": f"archived: {self.archive_seconds:,.1f} s",
            },
        )

    def draw(self, sheet: Sheet) -> None:
        (orders,), (memory,) = sheet.panels(2, 1, inches=4.4, height_ratios=(3, 2), sharex=True)
        at = [max(0.0, sample.seconds) for sample in self.samples]
        for name, role in STAGES.items():
            orders.plot(at, [getattr(sample, name) for sample in self.samples], color=COLORS[role])
        orders.set_title("Orders")
        curves(orders)
        orders.set_xlim(0, at[-1] or 1)
        self._draw_memory(sheet, memory)
        memory.set_xlabel("seconds from the first request")

    def _draw_memory(self, sheet: Sheet, ax: "Axes") -> None:
        """Engine and archiver take nearly the same: of two lines on one way both can be seen, as one is dashed."""
        measured = [sample for sample in self.samples if sample.memory_bytes]
        at = [max(0.0, sample.seconds) for sample in measured]
        ends = []
        for name in measured[-1].memory_bytes:
            megabytes, role = [sample.memory_bytes[name] / 1e6 for sample in measured], role_of(name)
            ax.plot(at, megabytes, color=COLORS[role], linestyle="dashed" if role == "archiver" else "solid")
            ends.append((megabytes[-1], f"{NAMES[role]} {megabytes[-1]:,.0f}", role))
        ax.set_title("Memory of each service in MB (of Redis: as it counts its own)")
        curves(ax)
        sheet.line_ends(ax, ends)


async def run(options: Options, board: Board) -> MillionResult:
    """One run.

    Raises:
        Failed: an order was refused, nothing moved for a long time, or a row is not what it must be.
    """
    here = machine()
    with datadir.ephemeral() as folder:
        board.step("starting servers")
        async with exchange(options, "engine", "archiver", "api") as running:
            async with connection.connect(running.settings.redis_url) as redis:
                server = await server_name(redis)
            board.step(f"making requests of {options.orders:,} orders")
            sent = _prepare(options, running.settings.jwt_secret, folder)
            before = await running.cpu_seconds()
            watch = Watch(running, options.orders, board)
            clients = [asyncio.create_task(_client(running, files, watch)) for files in sent]
            try:
                await watch.run(clients)
            finally:
                for client in clients:
                    client.cancel()
                await asyncio.gather(*clients, return_exceptions=True)
            told = [client.result() for client in clients]
            cpu = {name: used - before[name] for name, used in (await running.cpu_seconds()).items()}
            cpu["clients"] = sum(one.cpu_seconds for one in told)
            peaks = await watch.peaks()
            peaks["client"] = max(one.peak_bytes for one in told)
            task = board.task("verified", options.orders)
            verdicts = await verify(running.settings.database_url, running.settings.cards, sent, task)
    wrong = [verdict for verdict in verdicts if not verdict.same]
    if wrong:
        raise Failed(f"the archive is not what the reference book says: {wrong}")
    started = min(one.started for one in told)
    return MillionResult(
        **common(options, here, server),
        orders=options.orders,
        accept_seconds=max(one.ended for one in told) - started,
        match_seconds=watch.matched_at - started,
        archive_seconds=watch.archived_at - started,
        orders_per_second=options.orders / (watch.archived_at - started),
        verified=sum(verdict.commands for verdict in verdicts) == options.orders,
        trades=sum(verdict.found.trades for verdict in verdicts),
        completed_orders=sum(verdict.found.orders for verdict in verdicts),
        sha256={
            f"{table} of {verdict.card}": digest
            for verdict in verdicts
            for table, digest in (
                ("orders", verdict.found.orders_sha256),
                ("trades", verdict.found.trades_sha256),
            )
        },
        refusals=sum(one.refusals for one in told),
        peak_memory_bytes=peaks,
        cpu_us_per_order={name: 1e6 * used / options.orders for name, used in cpu.items()},
        samples=[msgspec.structs.replace(one, seconds=one.seconds - started) for one in watch.samples],
    )


def _prepare(options: Options, secret: str, folder: Path) -> list[Sent]:
    """The files of requests, one a client."""
    sent = [Sent(folder / f"requests-{n}", folder / f"answers-{n}", []) for n in range(CLIENTS)]
    known = access_tokens(secret)
    commands = list(FLOWS[options.flow](options.seed, options.orders))
    with contextlib.ExitStack() as stack:
        outputs = [stack.enter_context(files.requests.open("wb")) for files in sent]
        for number, start in enumerate(range(0, len(commands), COMMANDS_MAX)):
            body = batch_body(commands[start : start + COMMANDS_MAX])
            put(outputs[number % CLIENTS], post("/orders/batch", body, known[number % TOKENS]))
            sent[number % CLIENTS].traders.append(number % TOKENS + 1)
    return [files for files in sent if files.traders]


async def _client(running: Exchange, files: Sent, watch: "Watch") -> Told:
    """One client's process, which starts to send when all are ready."""
    host, port = running.api
    process = await asyncio.create_subprocess_exec(
        *(
            sys.executable,
            "-P",
            "-m",
            "testing.clients.batch",
            host,
            str(port),
            str(files.requests),
            str(files.answers),
        ),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        if process.stdin is None or process.stdout is None:
            raise RuntimeError("the pipes of a client are missing")
        await process.stdout.readline()
        await watch.all_ready()
        process.stdin.write(b"go\n")
        last_line = await process.stdout.readline()
        if await process.wait() or not last_line:
            raise Failed("a client gave up; the lines above say why")
        return msgspec.json.decode(last_line, type=Told)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


class Watch:
    """Looks how far everything is, without asking the API."""

    def __init__(self, running: Exchange, orders: int, board: Board) -> None:
        self.samples: list[Sample] = []
        self.matched_at = self.archived_at = 0.0
        self._running = running
        self._orders = orders
        self._tasks = [board.task(name, orders) for name in ("accepted", "matched", "archived")]
        self._peaks: dict[str, int] = {}
        self._ready = asyncio.Barrier(min(CLIENTS, -(-orders // COMMANDS_MAX)))

    async def all_ready(self) -> None:
        """Returns when all clients have called this."""
        await self._ready.wait()

    async def run(self, clients: Sequence["asyncio.Task[Told]"]) -> None:
        """Until all is archived and the clients have ended."""
        settings = self._running.settings
        before, changed_at, next_memory = (0, 0, 0), time.monotonic(), 0.0
        opened = await postgres.connect(settings.database_url)
        try:
            async with connection.connect(settings.redis_url) as redis:
                while not self.archived_at or not all(client.done() for client in clients):
                    for client in clients:
                        if client.done():
                            client.result()
                    done = await self._look(redis, opened)
                    now = time.monotonic()
                    if done != before:
                        before, changed_at = done, now
                    if not self.samples or now >= self.samples[-1].seconds + SAMPLE_SECONDS or self.archived_at:
                        memory = {}
                        if now >= next_memory or self.archived_at:
                            memory, next_memory = await self._memory(redis), now + MEMORY_SECONDS
                        self.samples.append(Sample(now, *done, memory))
                    for task, count in zip(self._tasks, done, strict=True):
                        task.reach(count)
                    if now - changed_at > STALLED_SECONDS:
                        raise Failed(f"nothing moved for {STALLED_SECONDS:.0f} s: accepted, matched, archived {done}")
                    await asyncio.sleep(LOOK_SECONDS)
        finally:
            await opened.close()

    async def peaks(self) -> dict[str, int]:
        """The most memory of each process: its own peak; for PostgreSQL the largest sample of all its processes."""
        own = {name: usage(service.pid).peak_bytes for name, service in self._running.services.items()}
        async with connection.connect(self._running.settings.redis_url) as redis:
            memory: dict[str, Any] = await redis.info("memory")
        postgres = {"postgres": self._peaks["postgres"]} if "postgres" in self._peaks else {}
        return {**own, "redis": int(memory["used_memory_peak"]), **postgres}

    async def _look(self, redis: Any, opened: Any) -> tuple[int, int, int]:
        cards = self._running.settings.cards
        rows = await opened.fetch("SELECT sequence FROM archive_cursor")
        pipeline = redis.pipeline(transaction=False)
        for card in cards:
            pipeline.get(keys.key(card, "sequence"))
            pipeline.hget(keys.key(card, "cursor"), "sequence")
        replies = [int(value or 0) for value in await pipeline.execute()]
        accepted, matched, archived = sum(replies[::2]), sum(replies[1::2]), sum(row["sequence"] for row in rows)
        now = time.monotonic()
        if matched >= self._orders and not self.matched_at:
            self.matched_at = now
        if archived >= self._orders and not self.archived_at:
            self.archived_at = now
        return accepted, matched, archived

    async def _memory(self, redis: Any) -> dict[str, int]:
        found: dict[str, Usage] = {name: usage(service.pid) for name, service in self._running.services.items()}
        if self._running.postgres_pid:
            found["postgres"] = usage(self._running.postgres_pid)
        memory = {name: used.now_bytes for name, used in found.items()}
        memory["redis"] = int((await redis.info("memory"))["used_memory"])
        for name, size in memory.items():
            self._peaks[name] = max(self._peaks.get(name, 0), size)
        return memory
