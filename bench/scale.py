"""`tcgx bench scale`: what an order costs as something grows.

`depth`: resting orders, 1,000 to 1,000,000, of which the first 1,000 are queues at the best prices; the flow joins and
takes from those, so that the same orders trade with the same ones at every depth. `through`: the same depths, but the
flow joins the book at any price: at 1,000,000 each trade is with an order that has rested for long, at 1,000 most are
with orders of the same call. `backlog`:
commands that wait, matched in portions of that size. `cards`: 1 to 64, one flow over all. `workers`: API processes,
single orders over HTTP. `engines`: engine processes on one backlog. `nodes`: one Redis, then a cluster of three, with
12 cards, each card's calls at the node that has it; append and match alone. All on the same cores: what needs more of
them than there are cannot show.
"""

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import islice

import msgspec
from redis.asyncio import Redis

from bench import matching
from bench.cluster import by_node, cluster, spread_cards
from bench.load import WARM_SECONDS, load, rate
from bench.machine import machine
from bench.options import Options
from bench.plot_style import BAR_INCHES, Bar, Head, Role, Sheet, micros, rated
from bench.progress import Board, Task
from bench.requests import REQUESTS, single_orders
from bench.result import Failed, Result, Row, common
from bench.servers import Exchange, exchange, long_client, redis_cpu_seconds, server_name
from bench.wrk import closed_loop_client
from core.model import Command
from testing.flows import Flow, at_the_front, at_the_top, front, resting, uniform
from testing.waiting import until_async

DEPTHS = (1_000, 10_000, 100_000, 1_000_000)
FRONT = DEPTHS[0]
CARDS = (1, 4, 8, 16, 32, 64)
PROCESSES = (1, 2)
NODES = (1, 3)
CARDS_A_NODE = 4
TIMES_ORDERS = 10
"""The deepest book and the longest backlog, in orders of the flow that is measured."""
BEFORE_ORDERS = 2
"""Of the flow at a depth, so many times the measured ones come before: what making the book has left to do (traders'
lists are sorted later) is done then."""
MATCH_SECONDS_MAX = 600


class Point(msgspec.Struct, frozen=True):
    """One size. `orders_per_second`: matched; of `workers` accepted. CPU in microseconds an order: of Redis, of all
    nodes together; of `workers` of all API processes together."""

    size: int
    orders_per_second: float
    cpu_us_per_order: float
    append_orders_per_second: float | None = None


class ScaleResult(Result, kw_only=True):
    """`depth_cpu_ratio`, `through_cpu_ratio`: CPU of an order at the deepest book to that at the shallowest."""

    orders: int
    parts: dict[str, list[Point]]
    depth_cpu_ratio: float | None
    depth_time_ratio: float | None
    through_cpu_ratio: float | None

    def headline(self) -> str:
        if self.depth_cpu_ratio is None:
            return ", ".join(self.parts)
        deepest = self.parts["depth"][-1].size
        told = f"an order at {deepest:,} resting ones costs {self.depth_cpu_ratio:.2f} times one at {DEPTHS[0]:,}"
        return told + (f", {self.through_cpu_ratio:.2f} where it trades through them" if self.through_cpu_ratio else "")

    def columns(self) -> Row:
        return ("", "size", "orders/s", "CPU an order", "appended/s")

    def rows(self) -> list[Row]:
        return [
            (
                name,
                f"{point.size:,}",
                f"{point.orders_per_second:,.0f}",
                f"{point.cpu_us_per_order:.1f} µs",
                "" if point.append_orders_per_second is None else f"{point.append_orders_per_second:,.0f}",
            )
            for name, points in self.parts.items()
            for point in points
        ]

    def head(self) -> Head:
        title, depths = "tcgx scale: what an order costs as something grows", self.parts.get("depth", [])
        if self.depth_cpu_ratio is not None and len(depths) > 1:
            times = depths[-1].size / depths[0].size
            title = f"tcgx scale: {times:,.0f} times the resting orders, {self.depth_cpu_ratio:,.2f} times the CPU"
        return Head(
            title=title,
            subtitle=f"CPU an order and orders a second; {self.orders:,} orders of each size are matched, but API "
            "processes take single orders over HTTP. All of it shares the cores of one machine.",
        )

    def draw(self, sheet: Sheet) -> None:
        counts = [len(points) for points in self.parts.values()]
        inches = 0.45 + sum(0.33 + BAR_INCHES * 0.85 * count for count in counts)
        axes = sheet.panels(len(counts), 2, inches=inches, height_ratios=[count + 0.2 for count in counts])
        for (cpu, rates), (name, points) in zip(axes, self.parts.items(), strict=True):
            title, role = PANELS[name]
            cpu.set_title(title)
            most = max(point.cpu_us_per_order for point in points)
            sizes = [f"{point.size:,}" for point in points]
            pairs = list(zip(sizes, points, strict=True))
            sheet.bars(
                cpu,
                [[Bar(size, one.cpu_us_per_order, role, micros(one.cpu_us_per_order, most))] for size, one in pairs],
            )
            sheet.bars(rates, [[rated("", one.orders_per_second, role, "/s")] for _, one in pairs])


PANELS: Mapping[str, tuple[str, Role]] = {
    "depth": ("Resting orders behind the front", "engine"),
    "through": ("Resting orders, traded through", "engine"),
    "backlog": ("Commands that wait", "engine"),
    "cards": ("Cards", "engine"),
    "workers": ("API processes", "api"),
    "engines": ("Engine processes", "engine"),
    "nodes": ("Redis nodes", "engine"),
}


async def run(options: Options, board: Board) -> ScaleResult:
    """The parts that were asked for."""
    here = machine()
    board.step("starting servers")
    async with matching.empty_exchange(options) as (_, client):
        server = await server_name(client)
    parts = {name: await PARTS[name](options, board) for name in options.only}
    depth, through = parts.get("depth", []), parts.get("through", [])
    return ScaleResult(
        **common(options, here, server),
        orders=options.orders,
        parts=parts,
        depth_cpu_ratio=depth[-1].cpu_us_per_order / depth[0].cpu_us_per_order if depth else None,
        depth_time_ratio=depth[0].orders_per_second / depth[-1].orders_per_second if depth else None,
        through_cpu_ratio=through[-1].cpu_us_per_order / through[0].cpu_us_per_order if through else None,
    )


def _sizes(options: Options) -> list[int]:
    return [size for size in DEPTHS if size <= max(DEPTHS[0], TIMES_ORDERS * options.orders)]


async def _depth(options: Options, board: Board) -> list[Point]:
    def before(depth: int) -> list[Command]:
        return [*front(options.seed, FRONT), *resting(options.seed, depth - FRONT)]

    return await _at_depths(options, board, before, at_the_front)


async def _through(options: Options, board: Board) -> list[Point]:
    def before(depth: int) -> list[Command]:
        return list(resting(options.seed, depth))

    return await _at_depths(options, board, before, at_the_top)


async def _at_depths(
    options: Options, board: Board, resting_before: Callable[[int], list[Command]], trading: Flow
) -> list[Point]:
    points = []
    for depth in _sizes(options):
        async with matching.empty_exchange(options) as (local, client):
            before = BEFORE_ORDERS * options.orders
            board.step(f"{depth:,} resting orders: making them")
            flow = list(trading(options.seed, before + options.orders))
            task = board.task(f"{depth:,} resting orders", depth + len(flow))
            filling = board.task(f"{depth:,} resting orders: matched", depth + before)
            await matching.append(client, resting_before(depth), task)
            await matching.append(client, flow[:before], task)
            await matching.match_all(client, local.cards, batch=options.batch, task=filling)
            await matching.append(client, flow[before:], task)
            points.append(await _measure([client], [local.cards], options, size=depth, count=options.orders))
    return points


async def _backlog(options: Options, board: Board) -> list[Point]:
    points = []
    for backlog in _sizes(options):
        count = max(options.orders, backlog)
        async with matching.empty_exchange(options) as (local, client):
            task = board.task(f"backlog of {backlog:,}", count)
            commands, portions = uniform(options.seed, count), []
            while portion := list(islice(commands, backlog)):
                await matching.append(client, portion, task)
                portions.append(await _measure([client], [local.cards], options, size=backlog, count=len(portion)))
            points.append(_together(portions))
    return points


def _together(portions: Sequence[Point]) -> Point:
    """Of portions of nearly one size; the mean CPU, and the rate by the mean time."""
    times = [1 / portion.orders_per_second for portion in portions]
    cpu = [portion.cpu_us_per_order for portion in portions]
    return Point(portions[0].size, len(times) / sum(times), sum(cpu) / len(cpu))


async def _cards(options: Options, board: Board) -> list[Point]:
    points = []
    for count in CARDS:
        names = [f"card_{number}" for number in range(count)]
        async with matching.empty_exchange(options, names) as (local, client):
            task = board.task(f"{count} cards", options.orders)
            await matching.append(client, list(uniform(options.seed, options.orders, names)), task)
            points.append(await _measure([client], [local.cards], options, size=count, count=options.orders))
    return points


async def _measure(
    clients: Sequence[Redis], cards: Sequence[Sequence[str]], options: Options, *, size: int, count: int
) -> Point:
    """Matches what waits: `count` commands."""
    cpu = sum([await redis_cpu_seconds(client) for client in clients])
    started = time.perf_counter()
    await asyncio.gather(
        *(matching.match_all(client, names, batch=options.batch) for client, names in zip(clients, cards, strict=True))
    )
    seconds = time.perf_counter() - started
    cpu = sum([await redis_cpu_seconds(client) for client in clients]) - cpu
    return Point(size, count / seconds, 1e6 * cpu / count)


async def _workers(options: Options, board: Board) -> list[Point]:
    _, client = closed_loop_client()
    points = []
    for count in PROCESSES:
        names = [f"api-{number}" for number in range(count)]
        board.step(f"{count} API processes: starting servers")
        async with exchange(options, "engine", "archiver", *names, api_workers=count) as running:
            task = board.task(f"{count} API processes: seconds", options.seconds)
            requests = single_orders(options, running.settings.jwt_secret, REQUESTS)
            loaded = partial(load, client, running.api, requests, connections=options.connections)
            await loaded(seconds=WARM_SECONDS)
            before = await running.cpu_seconds()
            found = await loaded(seconds=options.seconds)
            used = await running.cpu_seconds()
            cpu = sum(used[name] - before[name] for name in names)
            task.reach(options.seconds)
            points.append(Point(count, rate(found), 1e6 * cpu / max(1, found.requests)))
    return points


async def _engines(options: Options, board: Board) -> list[Point]:
    points = []
    for count in PROCESSES:
        board.step(f"{count} engines: starting servers")
        async with exchange(options) as running, long_client(running.settings.redis_url) as client:
            total = TIMES_ORDERS * options.orders // 2
            task = board.task(f"{count} engines: to the log", total)
            commands: list[Command] = list(uniform(options.seed, total))
            await matching.append(client, commands, task)
            points.append(await _by_engines(running, client, count, board.task(f"{count} engines: matched", total)))
    return points


async def _by_engines(running: Exchange, client: Redis, count: int, task: Task) -> Point:
    """Counts from the first look at which anything was matched: the processes take a while to start."""
    names = ["engine", *(f"engine-{number}" for number in range(2, count + 1))]
    looks: list[tuple[float, int, float]] = []

    async def look() -> bool:
        done = await matching.matched(client, running.settings.cards)
        if done:
            looks.append((time.perf_counter(), done, await redis_cpu_seconds(client)))
        task.reach(done)
        return done >= task.total

    starting = asyncio.gather(*(running.start(name) for name in names))
    await until_async(look, "the engines do not match everything", seconds=MATCH_SECONDS_MAX)
    await starting
    (first_at, first, first_cpu), (last_at, last, last_cpu) = looks[0], looks[-1]
    if last == first:
        raise Failed(f"{task.total} orders are matched before anybody can look: use more --orders")
    return Point(count, (last - first) / (last_at - first_at), 1e6 * (last_cpu - first_cpu) / (last - first))


async def _nodes(options: Options, board: Board) -> list[Point]:
    cards = spread_cards(CARDS_A_NODE, NODES[-1])
    commands = list(uniform(options.seed, options.orders, cards))
    points = []
    for size in NODES:
        names = by_node(cards, size)
        board.step(f"{size} nodes: starting them")
        async with cluster(options, size) as clients:
            task = board.task(f"{size} nodes: to the logs", len(commands))
            parts = [[command for command in commands if command.card in of_node] for of_node in names]
            started = time.perf_counter()
            await asyncio.gather(
                *(matching.append(client, part, task) for client, part in zip(clients, parts, strict=True))
            )
            appended = len(commands) / (time.perf_counter() - started)
            point = await _measure(clients, names, options, size=size, count=len(commands))
            points.append(msgspec.structs.replace(point, append_orders_per_second=appended))
    return points


PARTS = {
    "depth": _depth,
    "through": _through,
    "backlog": _backlog,
    "cards": _cards,
    "workers": _workers,
    "engines": _engines,
    "nodes": _nodes,
}
