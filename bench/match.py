"""`make bench`: the match call against one script call an order, on the same server, in the same run.

What is measured: from orders that lie in the log to orders that are matched, with books, lists, trades, events and
cursor written, durable as `--durability` says. Both read the log inside Redis; the baseline is called once an order,
500 calls a pipeline, encoded beforehand. Appending to the log is measured on its own (`append`), since in the exchange
it happens in another moment.
"""

import argparse
import asyncio
import contextlib
import os
import socket
import statistics
import sys
import time
from collections.abc import Iterator, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal

import msgspec
from redis import Redis

from bench.order_flow import FLOWS
from cli import embedded
from engine import codec, keys, library
from engine.model import COMMANDS_MAX, Command, PlaceOrder
from engine.settings import read

PIPELINE = 500
BACKLOG_MAX = 1_000_000_000

Durability = Literal["always", "everysec"]


class Round(msgspec.Struct, frozen=True):
    """One measurement of each."""

    baseline_orders_per_second: float
    orders_per_second: float
    append_orders_per_second: float
    longest_call_ms: float
    redis_memory_bytes: int
    trades: int


class Result(msgspec.Struct, frozen=True):
    """What `--json` writes; the figures are the medians of the rounds."""

    flow: str
    orders: int
    batch: int
    durability: str
    server: str
    orders_per_second: float
    baseline_orders_per_second: float
    ratio: float
    longest_call_ms: float
    redis_memory_bytes: int
    rounds: list[Round]


@contextlib.contextmanager
def empty_server(durability: Durability) -> Iterator[Redis]:
    """A client of a throw-away server."""
    with embedded.ephemeral_data_dir() as data_dir:
        settings = msgspec.structs.replace(read(os.environ), data_dir=str(data_dir), durability=durability)
        server = embedded.RedisServer(settings, embedded.load_secrets(data_dir))
        asyncio.run(server.start())
        try:
            with Redis.from_url(server.socket_url, socket_timeout=60) as client:
                yield client
        finally:
            asyncio.run(server.stop())


def one_order_per_call(durability: Durability, commands: Sequence[Command]) -> float:
    """Orders per second of the baseline, from its log to matched."""
    script = (files("bench") / "one_order_per_call.lua").read_text()
    with empty_server(durability) as client:
        sha = client.script_load(script)
        for start in range(0, len(commands), PIPELINE):
            pipeline = client.pipeline(transaction=False)
            for command in commands[start : start + PIPELINE]:
                pipeline.xadd(keys.key(command.card, "orders"), _baseline_entry(command))
            pipeline.execute()
        packer: Any = client.connection_pool.make_connection()
        chunks = []
        for start in range(0, len(commands), PIPELINE):
            calls = [("EVALSHA", sha, 1, keys.tag(command.card)) for command in commands[start : start + PIPELINE]]
            chunks.append((len(calls), b"".join(packer.pack_commands(calls))))
        with socket.socket(socket.AF_UNIX) as connection:
            about = client.get_connection_kwargs()
            connection.connect(about["path"])
            _exchange(connection, f"AUTH {about['password']}\r\n".encode(), 1)
            started = time.perf_counter()
            for count, chunk in chunks:
                _exchange(connection, chunk, count)
            return len(commands) / (time.perf_counter() - started)


def _baseline_entry(command: Command) -> dict[Any, Any]:
    if not isinstance(command, PlaceOrder):
        raise TypeError("the baseline knows no cancels: use a flow without them")
    return {
        "trader": command.trader_id,
        "side": command.side.value,
        "price": command.price_cents,
        "quantity": command.quantity,
        "at": "2026-01-01T00:00:00.000Z",
    }


def _exchange(connection: socket.socket, request: bytes, replies: int) -> None:
    """Sends, and waits for as many one-line replies."""
    connection.sendall(request)
    while replies > 0:
        received = connection.recv(65_536)
        if not received or received.startswith(b"-"):
            raise RuntimeError(f"the server answered {received[:200]!r}")
        replies -= received.count(b"\n")


def match(durability: Durability, commands: Sequence[Command], *, batch: int) -> tuple[float, float, float, int, int]:
    """Orders per second matched and appended, the longest call in ms, the server's memory, how many trades."""
    by_card: dict[str, list[Command]] = {}
    for command in commands:
        by_card.setdefault(command.card, []).append(command)
    with empty_server(durability) as client:
        client.function_load(library.source())
        chunks = [
            (keys.tag(card), len(chunk), codec.encode(chunk))
            for card, of_card in by_card.items()
            for chunk in (of_card[start : start + COMMANDS_MAX] for start in range(0, len(of_card), COMMANDS_MAX))
        ]
        started = time.perf_counter()
        for tag, count, encoded in chunks:
            client.fcall("append", 1, tag, count, BACKLOG_MAX, "allow", *encoded)
        append_seconds = time.perf_counter() - started

        client.config_set("slowlog-log-slower-than", 1_000)
        client.config_set("slowlog-max-len", len(commands))
        waiting = [keys.tag(card) for card in by_card]
        done = trades = 0
        started = time.perf_counter()
        while waiting:
            # One call of each card is under way at a time, as the engine does it.
            pipeline = client.pipeline(transaction=False)
            for tag in waiting:
                pipeline.fcall("match", 1, tag, batch)
            replies = pipeline.execute()
            done += sum(reply[0] for reply in replies)
            trades += sum(reply[3] for reply in replies)
            waiting = [tag for tag, reply in zip(waiting, replies, strict=True) if reply[5]]
        seconds = time.perf_counter() - started
        if done != len(commands):
            raise RuntimeError(f"{done} of {len(commands)} commands were matched")
        calls: Any = client.slowlog_get(len(commands))
        longest = max((call["duration"] for call in calls if b"match" in call["command"]), default=0) / 1_000
        memory = int(client.info("memory")["used_memory"])
    return len(commands) / seconds, len(commands) / append_seconds, longest, memory, trades


def measure(arguments: argparse.Namespace) -> Result:
    """Both, one after the other, round by round."""
    rounds = []
    for number in range(1, arguments.rounds + 1):
        commands = list(FLOWS[arguments.flow](arguments.seed + number, arguments.orders))
        baseline = one_order_per_call(arguments.durability, commands)
        matched, appended, longest, memory, trades = match(arguments.durability, commands, batch=arguments.batch)
        rounds.append(Round(baseline, matched, appended, longest, memory, trades))
        print(
            f"round {number}/{arguments.rounds}: baseline {baseline:,.0f}/s, match {matched:,.0f}/s, "
            f"ratio {matched / baseline:.2f}, append {appended:,.0f}/s, longest call {longest:.1f} ms",
            file=sys.stderr,
        )
    with empty_server(arguments.durability) as client:
        about = client.info("server")
    name = about.get("server_name", "redis")
    return Result(
        flow=arguments.flow,
        orders=arguments.orders,
        batch=arguments.batch,
        durability=arguments.durability,
        server=f"{name} {about.get('valkey_version', about['redis_version'])}",
        orders_per_second=statistics.median(one.orders_per_second for one in rounds),
        baseline_orders_per_second=statistics.median(one.baseline_orders_per_second for one in rounds),
        ratio=statistics.median(one.orders_per_second / one.baseline_orders_per_second for one in rounds),
        longest_call_ms=max(one.longest_call_ms for one in rounds),
        redis_memory_bytes=max(one.redis_memory_bytes for one in rounds),
        rounds=rounds,
    )


def main() -> int:
    """Measures and prints a table."""
    parser = argparse.ArgumentParser(prog="bench.match", description=__doc__)
    parser.add_argument("--orders", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--batch", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--flow", choices=("uniform",), default="uniform")
    parser.add_argument("--durability", choices=("always", "everysec"), default="always")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    result = measure(arguments)
    print(f"{result.server}, {result.flow}, {result.orders:,} orders, {result.batch} a call, {result.durability}")
    print(f"  one order a call  {result.baseline_orders_per_second:>10,.0f} orders/s")
    print(f"  match             {result.orders_per_second:>10,.0f} orders/s")
    print(f"  ratio             {result.ratio:>10.2f}")
    print(f"  longest call      {result.longest_call_ms:>10.1f} ms")
    print(f"  Redis memory      {result.redis_memory_bytes / 1e6:>10.0f} MB")
    if arguments.json:
        arguments.json.write_bytes(msgspec.json.format(msgspec.json.encode(result)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
