"""`python -m testing.doors`: accepted orders a second, and CPU an order by process, over REST and gRPC in one run.

One API process and one gRPC process of one exchange are loaded in turn from this process: single orders and batches of
100 over REST, and batches of 100 over one gRPC stream of one client.
"""

import argparse
import os
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, NamedTuple

import grpc
import msgspec
import uvloop

from core.model import PlaceOrder, price_text
from exchange import tokens
from rpc.v1 import exchange_pb2 as pb
from rpc.v1 import exchange_pb2_grpc
from testing.clients.closed_loop import closed_loop
from testing.exchange import ExchangeServer, exchange_server
from testing.flows import FLOWS
from testing.servers import free_port

BATCH = 100
BATCHES = 200
"""So many different batches are made, and sent again and again."""
CONNECTIONS = 64
TICKS = os.sysconf("SC_CLK_TCK")
SERVICES = ("api", "grpc", "engine", "archiver")


class Measured(NamedTuple):
    """What came of a load. `cpu_us`: of an order, by process; `client` is this process."""

    name: str
    orders_per_second: float
    p50_ms: float
    p99_ms: float
    cpu_us: dict[str, float]


class Loaded(NamedTuple):
    """A load: accepted orders, and the delays of its requests."""

    orders: int
    p50_ms: float
    p99_ms: float


def commands(count: int) -> list[PlaceOrder]:
    """Orders of the uniform flow."""
    return [each for each in FLOWS["uniform"](1, count) if isinstance(each, PlaceOrder)]


def fields_of(command: PlaceOrder) -> dict[str, Any]:
    """The fields that a client sends."""
    return {
        "card": command.card,
        "side": command.side.value,
        "price": price_text(command.price_cents),
        "quantity": command.quantity,
    }


def post(path: str, body: Any, token: str) -> bytes:
    """A whole request."""
    encoded = msgspec.json.encode(body)
    head = (
        f"POST {path} HTTP/1.1\r\nhost: doors\r\nauthorization: Bearer {token}\r\n"
        f"content-type: application/json\r\ncontent-length: {len(encoded)}\r\n\r\n"
    )
    return head.encode() + encoded


async def rest(server: ExchangeServer, requests: list[bytes], connections: int, orders: int, seconds: float) -> Loaded:
    """Requests of so many orders each over REST.

    Raises:
        RuntimeError: one was not accepted.
    """
    address = ("127.0.0.1", server.settings.port)
    found = await closed_loop(address, requests, connections=connections, seconds=seconds, folder=Path())
    if found.errors:
        raise RuntimeError(f"{found.errors} requests were not accepted")
    return Loaded(found.requests * orders, found.p50_ms, found.p99_ms)


async def grpc_stream(
    server: ExchangeServer, batches: list[pb.StreamOrdersRequest], token: str, seconds: float
) -> Loaded:
    """Batches over one stream. The client has two of them under way, so that the server need not wait for it.

    Raises:
        RuntimeError: an order was not accepted.
    """
    delays: list[float] = []
    orders = 0
    async with grpc.aio.insecure_channel(f"127.0.0.1:{server.settings.grpc_port}") as channel:
        stub: Any = exchange_pb2_grpc.ExchangeServiceStub(channel)  # type: ignore[no-untyped-call]
        call = stub.StreamOrders(metadata=[("authorization", f"Bearer {token}")])
        ends, number = time.perf_counter() + seconds, 0
        sent_at: list[float] = []
        while time.perf_counter() < ends or sent_at:
            while len(sent_at) < 2 and time.perf_counter() < ends:
                sent_at.append(time.perf_counter())
                await call.write(batches[number % len(batches)])
                number += 1
            response = await call.read()
            delays.append(time.perf_counter() - sent_at.pop(0))
            accepted = sum(result.WhichOneof("outcome") == "order" for result in response.results)
            if accepted != BATCH:
                raise RuntimeError(f"{accepted} of {BATCH} orders were accepted: {response.error}")
            orders += accepted
        await call.done_writing()
    delays.sort()
    return Loaded(orders, 1e3 * delays[len(delays) // 2], 1e3 * delays[int(len(delays) * 0.99)])


async def measure(
    server: ExchangeServer, name: str, load: Callable[[float], Awaitable[Loaded]], seconds: float
) -> Measured:
    """Runs a load after a second of it that does not count."""
    await load(1.0)
    before, began = used(server), time.perf_counter()
    found = await load(seconds)
    spent = time.perf_counter() - began
    cpu = {part: 1e6 * (now - before[part]) / found.orders for part, now in used(server).items()}
    return Measured(name, found.orders / spent, found.p50_ms, found.p99_ms, cpu)


def used(server: ExchangeServer) -> dict[str, float]:
    """CPU seconds by process."""
    cpu = server.redis.info("cpu")
    return {
        **{name: cpu_seconds(server.pid(name)) for name in SERVICES},
        "redis": float(cpu["used_cpu_user"]) + float(cpu["used_cpu_sys"]),
        "client": time.process_time(),
    }


def cpu_seconds(pid: int) -> float:
    """User and system time of a process."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return sum(int(field) for field in fields[11:13]) / TICKS


async def run(server: ExchangeServer, seconds: float, rounds: int) -> list[Measured]:
    """All loads, round by round."""
    token = tokens.issue_token(server.settings.jwt_secret, 1, "trader", 86_400)
    fields = [fields_of(each) for each in commands(BATCH * BATCHES)]
    groups = [fields[at : at + BATCH] for at in range(0, len(fields), BATCH)]
    single = [post("/orders", each, token) for each in fields]
    batched = [post("/orders/batch", {"orders": group}, token) for group in groups]
    streamed = [
        pb.StreamOrdersRequest(items=[pb.Item(place=pb.NewOrder(**each)) for each in group]) for group in groups
    ]
    loads: dict[str, Callable[[float], Awaitable[Loaded]]] = {
        f"REST, single, {CONNECTIONS} connections": lambda each: rest(server, single, CONNECTIONS, 1, each),
        f"REST, batches of {BATCH}, 1 connection": lambda each: rest(server, batched, 1, BATCH, each),
        f"REST, batches of {BATCH}, 2 connections": lambda each: rest(server, batched, 2, BATCH, each),
        f"gRPC, one stream, batches of {BATCH}": lambda each: grpc_stream(server, streamed, token, each),
    }
    found = []
    for _ in range(rounds):
        for name, load in loads.items():
            found.append(await measure(server, name, load, seconds))
            print_row(found[-1])
    return found


def print_row(measured: Measured) -> None:
    """A line of the table."""
    cpu = ", ".join(f"{part} {us:.1f}" for part, us in measured.cpu_us.items() if us >= 0.05)
    rate = f"{measured.orders_per_second:>10,.0f}/s"
    print(
        f"{measured.name:<36}{rate}  p50 {measured.p50_ms:.1f}, p99 {measured.p99_ms:.1f} ms  CPU in µs: {cpu}",
        flush=True,
    )


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=5.0, help="of each load")
    parser.add_argument("--rounds", type=int, default=2, help="of all loads")
    arguments = parser.parse_args()
    room = {"backlog_max": 1_000_000, "log_retention": 100_000}
    with exchange_server("engine", "archiver", "api", "grpc", grpc_port=free_port(), **room) as server:
        uvloop.run(run(server, arguments.seconds, arguments.rounds))


if __name__ == "__main__":
    main()
