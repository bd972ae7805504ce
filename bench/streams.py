"""`tcgx bench streams`: what streams deliver, how late, and at what cost.

`fans`: subscribers of trades on one API process while orders come at a fixed rate. Every subscriber must get every
trade, in order. The delay counts from the append of the taker, so it contains the match. `silent`: what connections
that never read cost, and how many of them the API ends, while orders come at the same rate. `storm`: clients that keep
books, come and go at random, and are compared with a reference book at every sequence that they had.
"""

import asyncio
import sys
import time
from pathlib import Path
from typing import Any

import msgspec

from bench.latency import OpenLoop
from bench.machine import machine
from bench.options import Options
from bench.plot_style import COLORS, Head, Sheet
from bench.progress import Board
from bench.requests import access_tokens, single_orders
from bench.result import Failed, Result, Row, common
from bench.servers import Exchange, exchange, server_name
from engine import connection, keys
from testing.servers import client_of
from testing.silent_sockets import SilentSockets
from testing.stream_fans import FansReport
from testing.stream_storm import Follower, Load, compare, finish_all

SILENT_SOCKETS = 100
STORM_CLIENTS = 50
STORM_KEPT = 0.1
"""The share of books that are compared."""
STORM_TRADERS = 8
SETTLE_SECONDS = 2.0
PAGE = 4_096


class StreamsResult(Result, kw_only=True):
    """Figures of the fans, and of the storm; 0 for a part that was left out."""

    subscribers: int
    rate: int
    seconds: int
    trades: int
    p50_ms: float
    p99_ms: float
    max_ms: float
    api_cpu_share: float
    memory_bytes: dict[str, int]
    silent_sockets: int
    silent_growth_bytes: int
    silent_closed: int
    storm_commands: int
    storm_books: int
    storm_reconnects: int

    def headline(self) -> str:
        return f"{self.subscribers:,} subscribers got {self.trades:,} trades each, p99 {self.p99_ms:.0f} ms"

    def rows(self) -> list[Row]:
        memory = ", ".join(f"{when} {size / 1e6:.0f} MB" for when, size in self.memory_bytes.items())
        return [
            ("subscribers of trades", f"{self.subscribers:,}"),
            ("asked for", f"{self.rate:,} orders/s for {self.seconds} s"),
            ("trades that each of a card got, all in order", f"{self.trades:,}"),
            ("append to delivery, p50", f"{self.p50_ms:.0f} ms"),
            ("append to delivery, p99", f"{self.p99_ms:.0f} ms"),
            ("append to delivery, longest", f"{self.max_ms:.0f} ms"),
            ("CPU of the API process", f"{self.api_cpu_share:.2f} cores"),
            ("memory of the API process", memory),
            (
                "sockets that never read: memory, closed as too slow",
                f"{self.silent_sockets}: {self.silent_growth_bytes / 1e6:.0f} MB, {self.silent_closed}",
            ),
            (
                "storm: commands, books compared, reconnects",
                f"{self.storm_commands:,}, {self.storm_books:,}, {self.storm_reconnects:,}",
            ),
        ]

    def head(self) -> Head:
        return Head(
            title=f"tcgx streams: {self.subscribers:,} subscribers, 99 % of deliveries within {self.p99_ms:,.0f} ms",
            subtitle=f"{self.rate:,} orders a second for {self.seconds:,} s, one API process; ms from the append of an "
            f"order to the receipt of its trade. Every subscriber got every trade.",
        )

    def draw(self, sheet: Sheet) -> None:
        ((ax,),) = sheet.panels(1, 1, inches=2.4)
        ax.barh(["longest", "p99", "p50"], [self.max_ms, self.p99_ms, self.p50_ms], color=COLORS["tcgx"])
        ax.set(xlabel="ms")


class _Silent(msgspec.Struct, frozen=True):
    sockets: int = 0
    growth_bytes: int = 0
    closed: int = 0


class _Fans(msgspec.Struct, frozen=True):
    report: FansReport
    cpu_share: float
    memory_bytes: dict[str, int]


async def run(options: Options, board: Board) -> StreamsResult:
    """All parts; the storm on an exchange of its own."""
    here = machine()
    fans, silent, storm = None, _Silent(), (0, 0, 0)
    server = ""
    limits = {"stream_address_max": 0, "stream_max": 100_000, "log_retention": 1_000_000_000}
    if {"fans", "silent"} & {*options.only}:
        async with exchange(options, "engine", "archiver", "api", **limits) as running:
            if "fans" in options.only:
                fans = await _fans(running, options, board)
            if "silent" in options.only:
                silent = await _silent(running, options, board)
            async with connection.connect(running.settings.redis_url) as redis:
                server = await server_name(redis)
    if "storm" in options.only:
        async with exchange(options, "engine", "archiver", "api", stream_heartbeat_seconds=1, **limits) as running:
            board.step(f"{STORM_CLIENTS} clients that come and go, {options.orders:,} commands")
            storm = await asyncio.to_thread(_storm, running, options)
            async with connection.connect(running.settings.redis_url) as redis:
                server = await server_name(redis)
    report = fans.report if fans else FansReport(0, 0, 0, 0.0, 0.0, 0.0, [])
    return StreamsResult(
        **common(options, here, server),
        subscribers=report.fans,
        rate=options.rate,
        seconds=options.seconds,
        trades=report.trades_max,
        p50_ms=report.p50_ms,
        p99_ms=report.p99_ms,
        max_ms=report.max_ms,
        api_cpu_share=fans.cpu_share if fans else 0.0,
        memory_bytes=fans.memory_bytes if fans else {},
        silent_sockets=silent.sockets,
        silent_growth_bytes=silent.growth_bytes,
        silent_closed=silent.closed,
        storm_commands=storm[0],
        storm_books=storm[1],
        storm_reconnects=storm[2],
    )


async def _fans(running: Exchange, options: Options, board: Board) -> _Fans:
    host, port = running.api
    board.step(f"subscribing {options.connections:,} times")
    arguments = [host, str(port), ",".join(running.settings.cards), str(options.connections)]
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-P", "-m", "testing.stream_fans", *arguments),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    if process.stdout is None or process.stdin is None:
        raise Failed("the process of the subscribers has no pipes")
    if await process.stdout.readline() != b"ready\n":
        raise Failed("the subscribers could not subscribe")
    memory = {"at the start": _rss(running)}
    count = options.rate * options.seconds
    requests = single_orders(options, running.settings.jwt_secret, count, headers="prefer: wait=5\r\n")
    before, began = (await running.cpu_seconds())["api"], time.perf_counter()
    await OpenLoop(requests, options.rate).run(
        running.api, options.seconds // 2, board.task("orders, first half", count // 2)
    )
    memory["in the middle"] = _rss(running)
    await OpenLoop(requests[count // 2 :], options.rate).run(
        running.api, options.seconds - options.seconds // 2, board.task("orders, second half", count - count // 2)
    )
    used, spent = (await running.cpu_seconds())["api"] - before, time.perf_counter() - began
    memory["at the end"] = _rss(running)
    await asyncio.sleep(SETTLE_SECONDS)
    process.stdin.write(b"\n")
    report = msgspec.json.decode(await process.stdout.read(), type=FansReport)
    await process.wait()
    if report.faults:
        raise Failed(f"a subscriber missed trades: {report.faults}")
    return _Fans(report, used / spent, memory)


async def _silent(running: Exchange, options: Options, board: Board) -> _Silent:
    board.step(f"{SILENT_SOCKETS} sockets that never read")
    before = _rss(running)
    count = options.rate * options.seconds
    requests = single_orders(options, running.settings.jwt_secret, count, headers="prefer: wait=5\r\n")
    host, port = running.api
    with await asyncio.to_thread(SilentSockets, host, port, running.settings.cards[0], SILENT_SOCKETS) as sockets:
        await OpenLoop(requests, options.rate).run(running.api, options.seconds, board.task("orders", count))
        growth = _rss(running) - before
        closed = await asyncio.to_thread(sockets.closed_as_too_slow, seconds=SETTLE_SECONDS)
    return _Silent(SILENT_SOCKETS, growth, closed)


def _rss(running: Exchange) -> int:
    return int(Path(f"/proc/{running.services['api'].pid}/statm").read_text().split()[1]) * PAGE


def _storm(running: Exchange, options: Options) -> tuple[int, int, int]:
    host, port = running.api
    url, card = f"http://{host}:{port}", running.settings.cards[0]
    headers = [
        {"authorization": f"Bearer {token}"} for token in access_tokens(running.settings.jwt_secret, STORM_TRADERS)
    ]
    followers = [Follower(url, card, f"{options.seed}-{number}", kept=STORM_KEPT) for number in range(STORM_CLIENTS)]
    load = Load(url, card, headers, options.seed)
    load.send(options.orders, batch=200)
    load.close()
    with client_of(running.settings.redis_url) as redis:
        found: Any = redis.get(keys.key(card, "sequence"))
        last = int(found)
        finish_all(followers, last)
        _, compared = compare(redis, card, followers)
    return last, compared, sum(follower.reconnects for follower in followers)
