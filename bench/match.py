"""`tcgx bench match`: the match call against one script call an order, in the same run.

Measured is the way from orders that lie in the log to orders that are matched, with books, trades, events and cursor
written, durable as `--durability` says. Both read the log inside
Redis. They take turns, so that what else the machine does hits both; each has a throw-away server of its own, and both
get the same orders: what an order costs grows with what is kept.
"""

import statistics
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from typing import Any

import msgspec
from redis.asyncio import Redis

from bench import matching
from bench.machine import machine, stolen_seconds
from bench.options import Options
from bench.plot_style import BAR_INCHES, Head, Sheet, counted, rated
from bench.progress import Board, Task
from bench.result import Failed, Result, Row, common
from bench.servers import empty_redis, long_client, redis_cpu_seconds, server_name
from bench.yardstick import Yardstick
from core import service
from core.model import Command
from engine import cpu_affinity
from testing.clients.closed_loop import percentile
from testing.flows import DEPTH_MAX, FLOWS, at_the_top, resting

TURNS = 12
TURN_SECONDS = 1.0
SLOW_MICROSECONDS = 1_000


class Calls(msgspec.Struct, frozen=True):
    """Match calls that took a millisecond and more, by the server's clock on the wall, and how many of them more than a
    call may. A processor that the host took away meanwhile is part of a call's time: `stolen_seconds`, of all
    processors in the whole round."""

    longest_ms: float
    p99_ms: float
    number: int
    beyond_bound: int
    stolen_seconds: float


class Round(msgspec.Struct, frozen=True):
    """One measurement of each; CPU is the server's, in microseconds an order."""

    orders_per_second: float
    baseline_orders_per_second: float
    cpu_us_per_order: float
    baseline_cpu_us_per_order: float
    calls: Calls
    redis_memory_bytes: int

    def ratio(self) -> float:
        """How many times as many orders a second are matched as with one script call an order."""
        return self.orders_per_second / self.baseline_orders_per_second


class MatchResult(Result, kw_only=True):
    """Rates, ratio and CPU are the medians of the rounds; the longest call and the memory are the largest."""

    orders: int
    resting_orders_before: int
    batch: int
    orders_per_second: float
    baseline_orders_per_second: float
    ratio: float
    cpu_us_per_order: float
    baseline_cpu_us_per_order: float
    cpu_ratio: float
    longest_call_ms: float
    redis_memory_bytes: int
    rounds: list[Round]

    def headline(self) -> str:
        return f"{self.orders_per_second:,.0f} orders/s matched, {self.ratio:.2f} times one call an order"

    def rows(self) -> list[Row]:
        return [
            ("matched, one script call an order", f"{self.baseline_orders_per_second:,.0f} orders/s"),
            ("matched, tcgx", f"{self.orders_per_second:,.0f} orders/s"),
            ("ratio", f"{self.ratio:.2f}"),
            ("ratio of the server's CPU time", f"{self.cpu_ratio:.2f}"),
            ("server CPU an order, one call each", f"{self.baseline_cpu_us_per_order:.1f} µs"),
            ("server CPU an order, tcgx", f"{self.cpu_us_per_order:.1f} µs"),
            ("longest match call", f"{self.longest_call_ms:.1f} ms"),
            ("99 % of the calls take at most", f"{max(one.calls.p99_ms for one in self.rounds):.1f} ms"),
            (f"calls above {matching.HOLD_MS} ms", self._beyond()),
            ("Redis memory", f"{self.redis_memory_bytes / 1e6:.0f} MB"),
        ]

    def _beyond(self) -> str:
        calls = [one.calls for one in self.rounds]
        beyond, number = sum(one.beyond_bound for one in calls), sum(one.number for one in calls)
        return f"{beyond} of {number:,} ({sum(one.stolen_seconds for one in calls):.2f} s stolen by the host)"

    def head(self) -> Head:
        flow = "" if self.flow == "uniform" else f", flow {self.flow}"
        before = f" on {self.resting_orders_before:,} resting ones" if self.resting_orders_before else ""
        return Head(
            title=f"tcgx match{flow}: {self.ratio:,.1f} times one call an order",
            subtitle="Orders matched per second, from the log to books, trades and events: "
            f"{self.orders_per_second:,.0f} in the median of {counted(len(self.rounds), 'round')} of "
            f"{self.orders:,} orders of the flow {self.flow}{before}.",
            key={"engine": "tcgx: a call for hundreds of orders", "other": "one script call an order, same server"},
        )

    def draw(self, sheet: Sheet) -> None:
        bars = 2 * len(self.rounds)
        ((ax,),) = sheet.panels(1, 1, inches=0.3 + BAR_INCHES * 1.25 * bars)
        sheet.bars(
            ax,
            [
                (
                    rated("", one.orders_per_second, "engine", f", {one.ratio():,.1f} times"),
                    rated("", one.baseline_orders_per_second, "other"),
                )
                for one in self.rounds
            ],
            names=[f"round {number}" for number in range(1, len(self.rounds) + 1)],
        )


async def run(options: Options, board: Board) -> MatchResult:
    """Round by round."""
    here, rounds, server = machine(), [], ""
    before = min(DEPTH_MAX, options.orders) if options.flow == "deep" else 0
    for number in range(1, options.rounds + 1):
        seed = options.seed + number
        board.step(f"round {number}: making {before + options.orders:,} orders, starting servers")
        prefix: list[Command] = list(resting(seed, before))
        flow = at_the_top if before else FLOWS[options.flow]
        commands = list(flow(seed, options.orders))
        async with AsyncExitStack() as stack:
            other = await stack.enter_async_context(empty_redis(options))
            ours, client = await stack.enter_async_context(matching.empty_exchange(options))
            yardstick = Yardstick(other.redis_url)
            stack.callback(yardstick.close)
            server = await server_name(client)
            filling = board.task(f"round {number}: to the logs", 2 * (len(prefix) + len(commands)))
            if prefix:
                await matching.append(client, prefix, filling)
                resting_task = board.task(f"round {number}: resting", len(prefix))
                await matching.match_all(client, ours.cards, batch=options.batch, task=resting_task)
                yardstick.append(prefix, filling)
                yardstick.match(yardstick.pipelines)
            await matching.append(client, commands, filling)
            yardstick.append(commands, filling)
            task = board.task(f"round {number}: matched", len(commands))
            service.freeze_garbage()  # this process is the engine, and a million orders are no part of that one
            with cpu_affinity.avoid_server_cores(client):
                rounds.append(await _measure(client, ours.cards, yardstick, options, task, base=len(prefix)))
    return MatchResult(
        **common(options, here, server),
        orders=options.orders,
        resting_orders_before=before,
        batch=options.batch,
        ratio=statistics.median(one.ratio() for one in rounds),
        cpu_ratio=statistics.median(one.baseline_cpu_us_per_order / one.cpu_us_per_order for one in rounds),
        longest_call_ms=max(one.calls.longest_ms for one in rounds),
        redis_memory_bytes=max(one.redis_memory_bytes for one in rounds),
        rounds=rounds,
        **{
            name: statistics.median(getattr(one, name) for one in rounds)
            for name in (
                "orders_per_second",
                "baseline_orders_per_second",
                "cpu_us_per_order",
                "baseline_cpu_us_per_order",
            )
        },
    )


async def _measure(
    client: Redis, cards: Sequence[str], yardstick: Yardstick, options: Options, task: Task, *, base: int
) -> Round:
    """Both in turns until both are done. `base`: commands that are matched already."""
    slow_log, stolen = await _log_slow_calls(client), stolen_seconds()
    ours_seconds = ours_cpu = other_seconds = other_cpu = 0.0
    other_done, more = 0, True
    ours = matching.Matching(client, cards, batch=options.batch)
    pipelines = max(1, -(-yardstick.pipelines // TURNS))
    async with long_client(yardstick.url) as other:
        while more or yardstick.pipelines:
            cpu = await redis_cpu_seconds(other)
            done, seconds = yardstick.match(pipelines)
            other_done, other_seconds = other_done + done, other_seconds + seconds
            other_cpu += await redis_cpu_seconds(other) - cpu

            cpu = await redis_cpu_seconds(client)
            started = time.perf_counter()
            more = more and await ours.advance(TURN_SECONDS)
            ours_seconds += time.perf_counter() - started
            ours_cpu += await redis_cpu_seconds(client) - cpu
            task.reach(await matching.matched(client, cards) - base)
    if task.done != task.total:
        raise Failed(f"{task.done} of {task.total} commands were matched")
    memory: dict[str, Any] = await client.info("memory")
    return Round(
        orders_per_second=task.total / ours_seconds,
        baseline_orders_per_second=other_done / other_seconds,
        cpu_us_per_order=1e6 * ours_cpu / task.total,
        baseline_cpu_us_per_order=1e6 * other_cpu / other_done,
        calls=await _calls(client, slow_log, stolen_seconds() - stolen),
        redis_memory_bytes=int(memory["used_memory"]),
    )


async def _log_slow_calls(client: Redis) -> Any:
    """From now on; the settings that there were."""
    before: Any = await client.config_get("slowlog-*")
    await client.config_set("slowlog-max-len", 1_000_000)
    await client.config_set("slowlog-log-slower-than", SLOW_MICROSECONDS)
    return before


async def _calls(client: Redis, before: Any, stolen: float) -> Calls:
    """The match calls in the log of slow calls. Puts the settings back."""
    slow: list[dict[str, Any]] = await client.slowlog_get(1_000_000)
    for name, value in before.items():
        await client.config_set(name, value)
    return calls_of([call["duration"] for call in slow if call["command"].startswith(b"FCALL match ")], stolen)


def calls_of(microseconds: Sequence[int], stolen: float) -> Calls:
    """What calls of these durations come to."""
    took = sorted(duration / 1_000 for duration in microseconds)
    return Calls(
        longest_ms=percentile(took, 100),
        p99_ms=percentile(took, 99),
        number=len(took),
        beyond_bound=sum(ms > matching.HOLD_MS for ms in took),
        stolen_seconds=stolen,
    )
