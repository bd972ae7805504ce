"""`tcgx bench reads`: how long each read takes over a large archive, alone and while the archiver writes.

The archive is filled first. Then each read is asked for one after the other over HTTP, with other places, cards and
traders each time: first on an exchange that rests, then while orders flow as fast as the engine matches them. An export
of 250,000 trades is timed to its first byte and to its end. At last rows are archived with and without candles in turn,
for what candles cost.
"""

import asyncio
import random
import sys
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, cast

import asyncpg
import httpx
import msgspec

from archiver import candles, postgres, writer
from archiver.queries import Cursor
from archiver.writer import RowBatch
from bench import archive_fill
from bench.machine import cpu_seconds, machine
from bench.options import Options
from bench.plot_style import COLORS, Head, Sheet
from bench.progress import Board
from bench.requests import access_tokens
from bench.result import Failed, Result, Row, common
from bench.servers import Exchange, exchange, server_name
from core.candles import DAY_SECONDS, time_text
from engine import connection
from testing.clients.closed_loop import percentile

BOUND_MS = 50.0
"""The time that a read may take."""

EXPORTED = 250_000
COST_ROUNDS = 5
COST_TRADES = 10_000
WARM_UP = 3
PAGE = 4_096
LARGE_TRADER, SMALL_TRADER = 1, 900

Ask = Callable[[random.Random], tuple[str, int]]
"""Makes a path, and the trader that asks; 0 for nobody."""


class ReadFigures(msgspec.Struct, frozen=True):
    """Milliseconds of one read: CPU of API, PostgreSQL and Redis, its time alone, and while the archiver writes."""

    name: str
    cpu_ms: float
    p50_ms: float
    p99_ms: float
    busy_p50_ms: float
    busy_p99_ms: float


class ReadsResult(Result, kw_only=True):
    """Figures of every read, of the export, and of what candles cost."""

    archived_rows: int
    commands_per_second: float
    reads: list[ReadFigures]
    export_rows: int
    export_first_byte_ms: float
    export_seconds: float
    export_memory_bytes: int
    candles_made_per_second: float
    row_us: float
    row_us_without_candles: float
    small_transaction_us: float
    small_transaction_us_without_candles: float

    def headline(self) -> str:
        slowest = max(read.busy_p99_ms for read in self.reads)
        return f"slowest read over {self.archived_rows:,} rows: p99 {slowest:.0f} ms while the archiver writes"

    def columns(self) -> Row:
        return ("", "CPU", "p50", "p99", "p50 while archiving", "p99 while archiving")

    def rows(self) -> list[Row]:
        def of(read: ReadFigures) -> Row:
            values = (read.cpu_ms, read.p50_ms, read.p99_ms, read.busy_p50_ms, read.busy_p99_ms)
            return (read.name, *(f"{value:.1f} ms" for value in values))

        def alone(name: str, text: str) -> Row:
            return (name, text, "", "", "", "")

        return [
            *map(of, self.reads),
            alone("commands archived meanwhile", f"{self.commands_per_second:,.0f}/s"),
            alone(f"CSV of {self.export_rows:,} trades, first byte", f"{self.export_first_byte_ms:.0f} ms"),
            alone("… to the end", f"{self.export_seconds:.1f} s"),
            alone("… memory of the API grew by", f"{self.export_memory_bytes / 1e6:.1f} MB"),
            alone("candles of earlier trades", f"{self.candles_made_per_second:,.0f} trades/s"),
            alone("CPU of PostgreSQL a row, bulk", f"{self.row_us:.2f} µs"),
            alone("… without candles", f"{self.row_us_without_candles:.2f} µs"),
            alone("CPU of a transaction of 3 rows", f"{self.small_transaction_us:.0f} µs"),
            alone("… without candles", f"{self.small_transaction_us_without_candles:.0f} µs"),
        ]

    def head(self) -> Head:
        return Head(
            title=f"tcgx reads over {self.archived_rows / 1e6:,.0f} million archived rows",
            subtitle=f"99 % of each read within so many ms, on an exchange that rests and while "
            f"{self.commands_per_second:,.0f} commands a second are archived beside it.",
        )

    def draw(self, sheet: Sheet) -> None:
        ((ax,),) = sheet.panels(1, 1, inches=0.6 + 0.32 * len(self.reads))
        places = range(len(self.reads))
        ax.barh([at + 0.2 for at in places], [read.busy_p99_ms for read in self.reads], 0.38, color=COLORS["archiver"])
        ax.barh([at - 0.2 for at in places], [read.p99_ms for read in self.reads], 0.38, color=COLORS["tcgx"])
        ax.axvline(BOUND_MS, color="0.4", linewidth=1)
        ax.set_yticks([*places], [read.name for read in self.reads])
        ax.invert_yaxis()
        ax.set(xlabel="ms, p99: above at rest, below while the archiver writes")


async def run(options: Options, board: Board) -> ReadsResult:
    """One run."""
    here = machine()
    board.step("starting servers")
    async with exchange(options) as running, connection.connect(running.settings.redis_url) as redis:
        server = await server_name(redis)
        database = await postgres.connect(running.settings.database_url)
        try:
            filled = board.task("rows", options.rows)
            trades = await archive_fill.fill(database, redis, running.settings.cards, options.rows, filled.advance)
            made = board.task("trades in candles", sum(trades.values()))
            candle_seconds = await archive_fill.make_candles(database, running.settings.cards, made.advance)
            await running.start("engine", "archiver", "api")
            asks = _asks(trades)
            rest, cpu = await _measure(running, asks, options, board, "reads at rest")
            async with _load(running, options) as written:
                busy, _ = await _measure(running, asks, options, board, "reads while the archiver writes")
                rate = await written()
            board.step("the export")
            export = await _export(running, min(EXPORTED, *trades.values()))
            await running.stop()
            board.step("rows with and without candles")
            costs = await _costs(database, running.settings.cards[0])
        finally:
            await database.close()
    return ReadsResult(
        **common(options, here, server),
        archived_rows=3 * sum(trades.values()),
        commands_per_second=rate,
        reads=[ReadFigures(name, cpu[name], *_percentiles(rest[name]), *_percentiles(busy[name])) for name in asks],
        export_rows=export.rows,
        export_first_byte_ms=export.first_byte_ms,
        export_seconds=export.seconds,
        export_memory_bytes=export.memory_bytes,
        candles_made_per_second=sum(trades.values()) / candle_seconds,
        row_us=costs[0],
        row_us_without_candles=costs[1],
        small_transaction_us=costs[2],
        small_transaction_us_without_candles=costs[3],
    )


# -- the reads


def _asks(trades: dict[str, int]) -> dict[str, Ask]:
    cards = [*trades]

    def moment(choose: random.Random) -> str:
        return time_text(time.time() - choose.uniform(1, archive_fill.DAYS) * DAY_SECONDS)

    def trade_id(choose: random.Random) -> str:
        card = choose.choice(cards)
        return f"card={card}&{{}}={card}-t{choose.randint(1, trades[card])}"

    def candles_of(query: str) -> Ask:
        return lambda choose: (f"/cards/{choose.choice(cards)}/candles?{query.format(at=moment(choose))}", 0)

    def orders_of(trader_id: int, query: str = "") -> Ask:
        return lambda choose: (f"/history/orders?{query.format(at=moment(choose))}", trader_id)

    def any_trader(query: str) -> Ask:
        return lambda choose: (
            f"/history/orders?{query.format(at=moment(choose))}",
            choose.randint(1, archive_fill.TRADERS),
        )

    return {
        "nothing: /health/live": lambda _: ("/health/live", 0),
        "candles 1m, latest 500": candles_of("interval=1m"),
        "candles 1m, 1,000 in the past, filled": candles_of("interval=1m&fill=previous&limit=1000&start={at}"),
        "candles 5m, in the past": candles_of("interval=5m&start={at}"),
        "candles 1h, latest 500": candles_of("interval=1h"),
        "candles 1d, all": candles_of("interval=1d"),
        "ticker of a card": lambda choose: (f"/cards/{choose.choice(cards)}/ticker", 0),
        "ticker of all cards": lambda _: ("/ticker", 0),
        "trades, newest": lambda choose: (f"/history/trades?card={choose.choice(cards)}", 0),
        "trades before an id, 500": lambda choose: (
            f"/history/trades?limit=500&{trade_id(choose).format('before')}",
            0,
        ),
        "trades after an id": lambda choose: (f"/history/trades?{trade_id(choose).format('after')}", 0),
        "trades since, one side": lambda choose: (
            f"/history/trades?card={choose.choice(cards)}&side=buy&until={moment(choose)}",
            0,
        ),
        "orders, newest, any trader": any_trader(""),
        "orders, newest 500, largest trader": orders_of(LARGE_TRADER, "limit=500"),
        "orders until a time": any_trader("until={at}"),
        "orders of a card, side, status, time": any_trader("card=pikachu&side=sell&status=canceled&until={at}"),
        "orders of a rare status, largest trader": orders_of(LARGE_TRADER, "status=expired&until={at}"),
        "fills, largest trader": lambda _: ("/fills", LARGE_TRADER),
        "fills, small trader": lambda _: ("/fills", SMALL_TRADER),
        "all orders of a side, any trader": lambda choose: (
            "/orders?side=sell",
            choose.randint(1, archive_fill.TRADERS),
        ),
    }


async def _measure(
    running: Exchange, asks: dict[str, Ask], options: Options, board: Board, what: str
) -> tuple[dict[str, list[float]], dict[str, float]]:
    """Milliseconds of each read, by its name, and of CPU of API, PostgreSQL and Redis a read on average."""
    host, port = running.api
    tokens = access_tokens(running.settings.jwt_secret, archive_fill.TRADERS)
    task = board.task(what, len(asks) * options.rounds)
    choose = random.Random(options.seed)
    found: dict[str, list[float]] = {name: [] for name in asks}
    cpu: dict[str, float] = {}
    async with httpx.AsyncClient(base_url=f"http://{host}:{port}", trust_env=False, timeout=60) as client:
        for name, ask in asks.items():
            before = await _used(running)
            for number in range(-WARM_UP, options.rounds):
                path, trader_id = ask(choose)
                headers = {"authorization": f"Bearer {tokens[trader_id - 1]}"} if trader_id > 0 else {}
                began = time.perf_counter()
                answer = await client.get(path, headers=headers)
                spent = 1_000 * (time.perf_counter() - began)
                if answer.status_code != 200:
                    raise Failed(f"{path} was answered with {answer.status_code}: {answer.text[:300]}")
                if number >= 0:
                    found[name].append(spent)
                    task.advance(1)
            cpu[name] = 1_000 * (await _used(running) - before) / (options.rounds + WARM_UP)
    return found, cpu


async def _used(running: Exchange) -> float:
    used = await running.cpu_seconds()
    return sum(used.get(name, 0.0) for name in ("api", "postgres", "redis"))


def _percentiles(values: Sequence[float]) -> tuple[float, float]:
    ordered = sorted(values)
    return percentile(ordered, 50.0), percentile(ordered, 99.0)


@asynccontextmanager
async def _load(running: Exchange, options: Options) -> AsyncIterator[Callable[[], "asyncio.Future[float]"]]:
    """Orders flow while the context lasts. The value gives the commands that were archived a second since its start."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-P", "-m", "bench.reads_load", running.settings.redis_url, str(options.seed)),
        stdin=asyncio.subprocess.PIPE,
    )
    database = await postgres.connect(running.settings.database_url)
    try:
        began, before = time.perf_counter(), await _counted(database)

        async def rate() -> float:
            return (await _counted(database) - before) / (time.perf_counter() - began)

        yield lambda: asyncio.ensure_future(rate())
    finally:
        await database.close()
        if process.stdin is not None:
            process.stdin.close()
        if await process.wait():
            raise Failed("the orders beside the reads could not be appended")


async def _counted(database: asyncpg.Connection) -> int:
    """How many commands are archived."""
    return int(await database.fetchval("SELECT sum(sequence) FROM archive_cursor"))


# -- the export


class _Export(msgspec.Struct, frozen=True):
    rows: int
    first_byte_ms: float
    seconds: float
    memory_bytes: int


async def _export(running: Exchange, rows: int) -> _Export:
    """An export of the latest trades of a card, about so many, as a client reads it at its own pace."""
    host, port = running.api
    card = running.settings.cards[0]
    async with httpx.AsyncClient(base_url=f"http://{host}:{port}", trust_env=False, timeout=60) as client:
        newest = (await client.get(f"/history/trades?card={card}&limit=1")).json()["trades"][0]["trade_id"]
        at = int(newest.rpartition("t")[2]) - rows
        page = (await client.get(f"/history/trades?card={card}&limit=1&after={card}-t{max(at, 1)}")).json()
        query = f"card={card}&since={page['trades'][0]['executed_at']}"
        before = peak = _rss(running)
        began, first, lines = time.perf_counter(), 0.0, 0
        async with client.stream("GET", f"/history/trades.csv?{query}") as answer:
            async for chunk in answer.aiter_raw():
                first = first or time.perf_counter() - began
                lines += chunk.count(b"\r\n")
                peak = max(peak, _rss(running))
    return _Export(lines - 1, 1_000 * first, time.perf_counter() - began, peak - before)


def _rss(running: Exchange) -> int:
    return int(Path(f"/proc/{running.services['api'].pid}/statm").read_text().split()[1]) * PAGE


# -- the costs


async def _costs(database: asyncpg.Connection, card: str) -> tuple[float, float, float, float]:
    """CPU of the backend in µs: a row in bulk and a transaction of three rows, each with and without candles.

    Medians of rounds that alternate.
    """
    await candles.prepare(database)
    found: dict[tuple[bool, bool], list[float]] = {}
    add = candles.add
    for number in range(2 * COST_ROUNDS):
        with_candles = number % 2 == 0
        candles.add = add if with_candles else cast(Any, _nothing)
        try:
            for is_bulk in (True, False):
                found.setdefault((is_bulk, with_candles), []).append(await _cost(database, card, is_bulk=is_bulk))
        finally:
            candles.add = add
        await candles.catch_up(database, [card])
    middle = {key: sorted(values)[len(values) // 2] for key, values in found.items()}
    return middle[True, True], middle[True, False], middle[False, True], middle[False, False]


async def _nothing(*_: object) -> None:
    """Stands in for the candles of a transaction."""


async def _cost(database: asyncpg.Connection, card: str, *, is_bulk: bool) -> float:
    """µs a row of bulk transactions, or a small transaction."""
    transactions, trades = (2, COST_TRADES) if is_bulk else (100, 1)
    trade = await database.fetchval(f"SELECT max(trade_number) FROM trades_{card}")  # noqa: S608 - our own names
    sequence = await database.fetchval("SELECT sequence FROM archive_cursor WHERE card = $1", card)
    batches = [
        _batch(card, trade + number * trades, sequence + number * trades * 2, trades) for number in range(transactions)
    ]
    backend = database.get_server_pid()
    before = cpu_seconds(backend)
    for batch in batches:
        await writer.insert(database, [batch])
    used = 1e6 * (cpu_seconds(backend) - before)
    return used / (3 * trades * transactions) if is_bulk else used / transactions


def _batch(card: str, trade: int, sequence: int, count: int) -> RowBatch:
    """Rows as a match call makes them, behind these numbers."""
    at = time_text(time.time())
    trades = "".join(
        f"{trade + n:012},{sequence + 2 * n:012},{sequence + 2 * n - 1:012},{n % 1_000 + 1},{n % 997 + 1},"
        f"{500 + n % 100},1,buy,{at}\n"
        for n in range(1, count + 1)
    )
    orders = "".join(
        f"{sequence + n:012},{n % 1_000 + 1},buy,{500 + n % 100},1,gtc,,{at},1,filled,{at}\n"
        for n in range(1, 2 * count + 1)
    )
    last = sequence + 2 * count
    return RowBatch(card, trades.encode(), orders.encode(), Cursor(f"{last}-0", f"1-{last}"))
