"""`tcgx bench append`: orders into the log, durable, the two ways in which the API appends them.

`batch`: 1,000 orders handed over at once, as `POST /orders/batch` does, two such requests at a time. `single`: 64
callers that each hand over one order and wait for it, as 64 connections with `POST /orders` do; what arrives while an
append is under way goes together in the next. Nothing matches meanwhile.
"""

import asyncio
import statistics
import time
from collections.abc import Iterator, Sequence
from itertools import islice

import msgspec
from redis.asyncio import Redis

from bench import matching
from bench.machine import machine
from bench.options import Options
from bench.plot_style import BAR_INCHES, Bar, Head, Sheet, counted, micros, rated
from bench.progress import Board, Task
from bench.result import Failed, Result, Row, common
from bench.servers import redis_cpu_seconds, server_name
from core.errors import TcgxError
from core.model import COMMANDS_MAX, Command
from engine.order_log import OrderLog
from testing.flows import FLOWS

BATCHES_AT_ONCE = 2
CALLERS = 64
SINGLE_SHARE = 4
"""One order in so many is appended by the callers that bring one each, which takes longer."""


class Way(msgspec.Struct, frozen=True):
    """One way of appending; CPU in microseconds an order, of the server and of the process that appends."""

    orders_per_second: float
    redis_cpu_us_per_order: float
    client_cpu_us_per_order: float


class AppendResult(Result, kw_only=True):
    """Medians of the rounds. `orders_per_second` counts orders that are accepted and durable, in batches."""

    orders: int
    rounds: int
    orders_per_second: float
    single_orders_per_second: float
    batch: Way
    single: Way

    def headline(self) -> str:
        return (
            f"{self.orders_per_second:,.0f} orders/s accepted in batches, {self.single_orders_per_second:,.0f} singly"
        )

    def columns(self) -> Row:
        return ("", "batches of 1,000", f"{CALLERS} callers, one each")

    def rows(self) -> list[Row]:
        both = (self.batch, self.single)
        return [
            ("orders a round", f"{self.orders:,}", f"{single_orders(self.orders):,} (1 in {SINGLE_SHARE})"),
            ("accepted", *(f"{way.orders_per_second:,.0f} orders/s" for way in both)),
            ("server CPU an order", *(f"{way.redis_cpu_us_per_order:.1f} µs" for way in both)),
            ("client CPU an order", *(f"{way.client_cpu_us_per_order:.1f} µs" for way in both)),
        ]

    def head(self) -> Head:
        return Head(
            title=f"tcgx append: {self.orders_per_second:,.0f} orders a second in batches",
            subtitle="Orders into the log, durable before they count as accepted, while nothing matches; medians "
            f"of {counted(self.rounds, 'round')}: {self.orders:,} orders in batches, "
            f"{single_orders(self.orders):,} singly.",
            key={"api": "what appends (part of the API)", "redis": "Redis"},
        )

    def draw(self, sheet: Sheet) -> None:
        ways = {"batches of 1,000,\n2 at a time": self.batch, f"single orders,\n{CALLERS} at a time": self.single}
        ((rates, cpu),) = sheet.panels(1, 2, inches=0.5 + BAR_INCHES * 6)
        rates.set_title("Accepted orders per second")
        sheet.bars(
            rates,
            [[rated(name, way.orders_per_second, "api")] for name, way in ways.items()],
        )
        cpu.set_title("CPU an order")
        most = max(max(way.client_cpu_us_per_order, way.redis_cpu_us_per_order) for way in ways.values())
        sheet.bars(
            cpu,
            [
                (
                    Bar("", way.client_cpu_us_per_order, "api", micros(way.client_cpu_us_per_order, most)),
                    Bar("", way.redis_cpu_us_per_order, "redis", micros(way.redis_cpu_us_per_order, most)),
                )
                for way in ways.values()
            ],
            names=list(ways),
        )


def single_orders(orders: int) -> int:
    """How many of so many orders are appended singly, too."""
    return min(orders, max(CALLERS, orders // SINGLE_SHARE))


async def run(options: Options, board: Board) -> AppendResult:
    """Both ways in turn, round by round."""
    here, batches, singles, server = machine(), [], [], ""
    for number in range(1, options.rounds + 1):
        board.step(f"round {number}: making {options.orders:,} orders, starting servers")
        commands = list(FLOWS[options.flow](options.seed + number, options.orders))
        few = commands[: single_orders(len(commands))]
        async with matching.empty_exchange(options) as (_, client):
            server = await server_name(client)
            task = board.task(f"round {number}: batches accepted", len(commands))
            batches.append(await _measure(client, commands, task, size=COMMANDS_MAX, at_once=BATCHES_AT_ONCE))
            task = board.task(f"round {number}: single orders accepted", len(few))
            singles.append(await _measure(client, few, task, size=1, at_once=CALLERS))
    batch, single = _median(batches), _median(singles)
    return AppendResult(
        **common(options, here, server),
        orders=options.orders,
        rounds=options.rounds,
        orders_per_second=batch.orders_per_second,
        single_orders_per_second=single.orders_per_second,
        batch=batch,
        single=single,
    )


async def _measure(client: Redis, commands: Sequence[Command], task: Task, *, size: int, at_once: int) -> Way:
    chunks = _chunks(commands, size)

    async def caller(log: OrderLog) -> None:
        for chunk in chunks:
            for outcome in [await log.append(chunk[0])] if size == 1 else await log.append_all(chunk):
                if isinstance(outcome, TcgxError):
                    raise Failed(f"an order was refused: {outcome}") from outcome
            task.advance(len(chunk))

    cpu, own, started = await redis_cpu_seconds(client), time.process_time(), time.perf_counter()
    async with matching.order_log(client) as log, asyncio.TaskGroup() as callers:
        for _ in range(at_once):
            callers.create_task(caller(log))
    seconds = time.perf_counter() - started
    own = time.process_time() - own
    cpu = await redis_cpu_seconds(client) - cpu
    count = len(commands)
    return Way(count / seconds, 1e6 * cpu / count, 1e6 * own / count)


def _chunks(commands: Sequence[Command], size: int) -> Iterator[list[Command]]:
    rest = iter(commands)
    while chunk := list(islice(rest, size)):
        yield chunk


def _median(ways: list[Way]) -> Way:
    return Way(*(statistics.median(getattr(way, name) for way in ways) for name in Way.__struct_fields__))
