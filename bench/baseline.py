"""`tcgx bench baseline`: the design that others use (transactions.py), on the same PostgreSQL.

First without a door, by pools of 4 and of 8 connections: with no HTTP and no token in it that is an upper bound of what
the design can do here. Then as its users meet it, and as `million` is measured: over HTTP, behind a handler of Litestar
(baseline_app.py) under the same HTTP server as ours, in one process and in two, with the client of `http`. Of each the
better counts.
"""

import asyncio
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from functools import partial
from typing import Any

import asyncpg
import msgspec

from archiver import postgres
from bench import transactions
from bench.load import WARM_SECONDS, load, rate
from bench.machine import cpu_seconds, machine
from bench.options import Options
from bench.plot_style import BAR_INCHES, Head, Sheet, rated
from bench.progress import Board, Task
from bench.requests import REQUESTS, single_orders
from bench.result import Result, Row, common
from bench.servers import Exchange, exchange
from bench.wrk import closed_loop_client
from core.model import PlaceOrder
from testing.clients.closed_loop import Client
from testing.flows import CARDS, FLOWS

POOLS = (4, 8)
PROCESSES = (1, 2)


class Pool(msgspec.Struct, frozen=True):
    """One measurement without a door. CPU of PostgreSQL, in microseconds an order; None where it runs elsewhere."""

    connections: int
    orders_per_second: float
    trades: int
    postgres_cpu_us_per_order: float | None


class Door(msgspec.Struct, frozen=True):
    """One measurement over HTTP. `errors`: no answer, or one that is not 2xx."""

    processes: int
    orders_per_second: float
    p50_ms: float
    p99_ms: float
    errors: int
    trades: int


class BaselineResult(Result, kw_only=True):
    """`orders_per_second`: committed with their trades, by the better pool; `http_orders_per_second`: the same, and
    answered over HTTP, by the better number of processes."""

    orders: int
    orders_per_second: float
    http_orders_per_second: float
    pools: list[Pool]
    client: str
    doors: list[Door]

    def headline(self) -> str:
        return (
            f"{self.orders_per_second:,.0f} orders/s with a PostgreSQL transaction each, "
            f"{self.http_orders_per_second:,.0f} over HTTP"
        )

    def columns(self) -> Row:
        return ("", "orders/s", "trades", "PostgreSQL CPU", "p50", "p99", "errors")

    def rows(self) -> list[Row]:
        pools = [
            (
                f"pool of {pool.connections}",
                f"{pool.orders_per_second:,.0f}",
                f"{pool.trades:,}",
                "unknown" if pool.postgres_cpu_us_per_order is None else f"{pool.postgres_cpu_us_per_order:.0f} µs",
                *("", "", ""),
            )
            for pool in self.pools
        ]
        doors = [
            (
                f"HTTP, {_processes(door)}",
                f"{door.orders_per_second:,.0f}",
                f"{door.trades:,}",
                "",
                f"{door.p50_ms:.1f} ms",
                f"{door.p99_ms:.1f} ms",
                f"{door.errors}",
            )
            for door in self.doors
        ]
        return [*pools, *doors]

    def head(self) -> Head:
        return Head(
            title=f"tcgx baseline: the usual design takes {self.http_orders_per_second:,.0f} orders a second",
            subtitle="Orders committed per second with their trades, each in a PostgreSQL transaction that locks the "
            f"card's row: {self.orders:,} without HTTP, then behind a Litestar handler, one order a request, sent "
            f"by {self.client}.",
        )

    def draw(self, sheet: Sheet) -> None:
        pools = [rated(f"pool of {pool.connections:,}", pool.orders_per_second, "other") for pool in self.pools]
        doors = [
            rated(
                _processes(door),
                door.orders_per_second,
                "other",
                f", p50 {door.p50_ms:,.1f} ms, p99 {door.p99_ms:,.1f} ms",
            )
            for door in self.doors
        ]
        parts = {"Without HTTP, by connections to PostgreSQL": pools, "Over HTTP, by API processes": doors}
        heights = [len(bars) for bars in parts.values()]
        axes = sheet.panels(
            len(parts), 1, inches=1.0 + 1.2 * BAR_INCHES * sum(heights), height_ratios=heights, sharex=True
        )
        for (ax,), (title, bars) in zip(axes, parts.items(), strict=True):
            ax.set_title(title)
            sheet.bars(ax, [[bar] for bar in bars])


def _processes(door: Door) -> str:
    return "1 process" if door.processes == 1 else f"{door.processes:,} processes"


async def run(options: Options, board: Board) -> BaselineResult:
    """Each measurement with tables of its own."""
    here = machine()
    name, client = closed_loop_client()
    board.step("starting servers")
    async with exchange(options) as running, AsyncExitStack() as stack:
        opened = await postgres.connect(running.settings.database_url)
        stack.push_async_callback(opened.close)
        version = await opened.fetchval("SHOW server_version")
        pools = [await _pool(options, board, opened, running, connections=connections) for connections in POOLS]
        doors = [await _door(options, board, opened, running, client, processes=processes) for processes in PROCESSES]
    return BaselineResult(
        **common(options, here, f"PostgreSQL {version.split()[0]}"),
        orders=options.orders,
        orders_per_second=max(pool.orders_per_second for pool in pools),
        http_orders_per_second=max(door.orders_per_second for door in doors),
        pools=pools,
        client=name,
        doors=doors,
    )


async def _pool(options: Options, board: Board, opened: Any, running: Exchange, *, connections: int) -> Pool:
    commands: list[Any] = list(FLOWS[options.flow](options.seed + connections, options.orders))
    pid = running.postgres_pid
    async with transactions.tables(opened, CARDS):
        async with transactions.pool(running.settings.database_url, connections) as pool:
            task = board.task(f"{connections} connections: committed", len(commands))
            cpu, started = cpu_seconds(pid) if pid else 0.0, time.perf_counter()
            await _place_all(pool, commands, connections, task)
            seconds = time.perf_counter() - started
            cpu = cpu_seconds(pid) - cpu if pid else 0.0
        return Pool(
            connections=connections,
            orders_per_second=len(commands) / seconds,
            trades=await transactions.trades(opened),
            postgres_cpu_us_per_order=1e6 * cpu / len(commands) if pid else None,
        )


async def _place_all(pool: asyncpg.Pool, commands: Sequence[PlaceOrder], connections: int, task: Task) -> None:
    rest = iter(commands)

    async def worker() -> None:
        async with pool.acquire() as opened:
            for command in rest:
                await transactions.place(opened, command)
                task.advance(1)

    async with asyncio.TaskGroup() as workers:
        for _ in range(connections):
            workers.create_task(worker())


async def _door(
    options: Options, board: Board, opened: Any, running: Exchange, client: Client, *, processes: int
) -> Door:
    board.step(f"starting API processes: {processes}")
    requests = single_orders(options, running.settings.jwt_secret, REQUESTS)
    names = [f"baseline-{number}" for number in range(processes)]
    async with transactions.tables(opened, CARDS):
        await running.start(*names, module="bench.baseline_app", api_workers=processes)
        try:
            task = board.task(f"HTTP, {processes} processes: seconds", options.seconds)
            loaded = partial(load, client, running.api, requests, connections=options.connections)
            await loaded(seconds=WARM_SECONDS)
            found = await loaded(seconds=options.seconds)
            task.reach(options.seconds)
        finally:
            await running.stop(*names)
        return Door(
            processes=processes,
            orders_per_second=rate(found),
            p50_ms=found.p50_ms,
            p99_ms=found.p99_ms,
            errors=found.errors,
            trades=await transactions.trades(opened),
        )
