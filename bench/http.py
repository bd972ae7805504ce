"""`tcgx bench http`: single orders over HTTP, against Litestar's own handler that does nothing.

A whole exchange: one API process, engine, archiver, Redis, PostgreSQL. Beside it a Litestar application with one typed
handler, which decodes the same body with msgspec, checks no token and does nothing, under the same HTTP server. The
same client loads them in turn, round by round, over keep-alive connections, with requests of 1,000 traders that were
encoded beforehand. Counted are orders that were answered: accepted and durable.
"""

import resource
import statistics
import time
from functools import partial

import msgspec

from bench.load import WARM_SECONDS, load, rate
from bench.machine import machine
from bench.options import Options
from bench.plot_style import NAMES, Bar, Head, Sheet, micros, rated, role_of
from bench.progress import Board
from bench.requests import REQUESTS, single_orders
from bench.result import Result, Row, common
from bench.servers import Exchange, exchange, server_name
from bench.wrk import closed_loop_client
from engine import connection
from testing.clients.closed_loop import Load
from testing.servers import free_port


class HttpRound(msgspec.Struct, frozen=True):
    """The two loads of a round."""

    orders: Load
    noop: Load


class HttpResult(Result, kw_only=True):
    """Medians of the rounds; errors are the sum. `cpu_us_per_order`: by process, the client's too."""

    client: str
    connections: int
    seconds: int
    requests_per_second: float
    noop_requests_per_second: float
    ratio: float
    p50_ms: float
    p99_ms: float
    noop_p50_ms: float
    noop_p99_ms: float
    errors: int
    noop_errors: int
    cpu_us_per_order: dict[str, float]
    noop_cpu_us_per_request: float
    rounds: list[HttpRound]

    def headline(self) -> str:
        return f"{self.requests_per_second:,.0f} orders/s accepted singly, {self.ratio:.2f} times an empty handler"

    def columns(self) -> Row:
        return ("", "POST /orders", "handler that does nothing")

    def rows(self) -> list[Row]:
        return [
            ("answered", f"{self.requests_per_second:,.0f}/s", f"{self.noop_requests_per_second:,.0f}/s"),
            ("ratio", f"{self.ratio:.2f}", ""),
            ("p50", f"{self.p50_ms:.1f} ms", f"{self.noop_p50_ms:.1f} ms"),
            ("p99", f"{self.p99_ms:.1f} ms", f"{self.noop_p99_ms:.1f} ms"),
            ("errors", f"{self.errors}", f"{self.noop_errors}"),
            ("CPU, API process", f"{self.cpu_us_per_order['api']:.0f} µs", f"{self.noop_cpu_us_per_request:.0f} µs"),
            *(
                (f"CPU, {name}", f"{value:.0f} µs", "")
                for name, value in self.cpu_us_per_order.items()
                if name != "api"
            ),
        ]

    def head(self) -> Head:
        return Head(
            title=f"tcgx http: single orders at {self.ratio:,.1f} times a handler that does nothing",
            subtitle=f"{self.connections:,} keep-alive connections of {self.client}, one order a request, answered "
            "once it is on disk. The other is a Litestar handler that decodes the same body, checks no token and "
            "keeps nothing.",
        )

    def draw(self, sheet: Sheet) -> None:
        ((rates, cpu),) = sheet.panels(1, 2, inches=2.1)
        rates.set_title("Answers per second")
        ours, other = self.requests_per_second, self.noop_requests_per_second
        sheet.bars(
            rates,
            [
                [rated("tcgx,\nPOST /orders", ours, "tcgx")],
                [rated("handler that\ndoes nothing", other, "other")],
            ],
        )
        cpu.set_title("CPU an order, by process")
        used = sorted(self.cpu_us_per_order.items(), key=lambda item: -item[1])
        noop = self.noop_cpu_us_per_request
        most = max(noop, *self.cpu_us_per_order.values())
        nothing = [Bar("that handler", noop, "other", micros(noop, most))]
        sheet.bars(
            cpu, [[Bar(NAMES[role_of(name)], us, role_of(name), micros(us, most))] for name, us in used] + [nothing]
        )


async def run(options: Options, board: Board) -> HttpResult:
    """Both in turn, round by round."""
    here = machine()
    name, client = closed_loop_client()
    board.step("starting servers")
    async with exchange(options, "engine", "archiver", "api") as running:
        await running.start("noop", module="bench.noop", port=free_port())
        async with connection.connect(running.settings.redis_url) as redis:
            server = await server_name(redis)
        requests = single_orders(options, running.settings.jwt_secret, REQUESTS)
        ports = {"api": running.settings.port, "noop": running.services["noop"].settings.port}
        task = board.task("seconds of load", options.rounds * 2 * (options.seconds + WARM_SECONDS))
        rounds: list[HttpRound] = []
        cpu: dict[str, float] = {}
        for _ in range(options.rounds):
            loads = {}
            for target, port in ports.items():
                loaded = partial(load, client, ("127.0.0.1", port), requests, connections=options.connections)
                await loaded(seconds=WARM_SECONDS)
                before = await _cpu(running)
                loads[target] = await loaded(seconds=options.seconds)
                task.advance(options.seconds + WARM_SECONDS)
                for process, seconds in (await _cpu(running)).items():
                    cpu[f"{target} {process}"] = cpu.get(f"{target} {process}", 0.0) + seconds - before[process]
            rounds.append(HttpRound(loads["api"], loads["noop"]))
    orders, noops = [one.orders for one in rounds], [one.noop for one in rounds]
    ours = sum(one.requests for one in orders)
    return HttpResult(
        **common(options, here, server),
        client=name,
        connections=options.connections,
        seconds=options.seconds,
        requests_per_second=statistics.median(rate(one) for one in orders),
        noop_requests_per_second=statistics.median(rate(one) for one in noops),
        ratio=statistics.median(rate(one.orders) / rate(one.noop) for one in rounds),
        p50_ms=statistics.median(one.p50_ms for one in orders),
        p99_ms=statistics.median(one.p99_ms for one in orders),
        noop_p50_ms=statistics.median(one.p50_ms for one in noops),
        noop_p99_ms=statistics.median(one.p99_ms for one in noops),
        errors=sum(one.errors for one in orders),
        noop_errors=sum(one.errors for one in noops),
        cpu_us_per_order={
            process.removeprefix("api "): round(1e6 * seconds / max(1, ours), 1)
            for process, seconds in cpu.items()
            if process.startswith("api ") and process != "api noop"
        },
        noop_cpu_us_per_request=1e6 * cpu["noop noop"] / max(1, sum(one.requests for one in noops)),
        rounds=rounds,
    )


async def _cpu(running: Exchange) -> dict[str, float]:
    """Of all processes; of the client: wrk, which has ended by then, or this process."""
    ended = resource.getrusage(resource.RUSAGE_CHILDREN)
    return await running.cpu_seconds() | {"client": ended.ru_utime + ended.ru_stime + time.process_time()}
