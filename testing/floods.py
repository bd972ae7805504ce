"""Floods of an API process, and the orders of another client beside them. `python -m testing.floods` prints a table.

The API is a process of its own that may open 1,024 files. The flood comes from another process. The other client sends
an order every 20 ms, on a connection for each order and on one that it keeps.
"""

import argparse
import asyncio
import itertools
import json
import multiprocessing
import os
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

import httpx
import msgspec
import uvloop

from core import service
from core.file_limit import raise_file_limit
from testing.exchange import ExchangeServer, exchange_server
from testing.services import Service
from testing.waiting import until

FILES = 1_024
INTERVAL_SECONDS = 0.02
REOPEN_SECONDS = 2.0
"""A holder whose connection was closed opens another one after this time."""
IDLE, SLOW_HEADS, SLOW_BODIES = 1_100, 500, 500
ORDER = b'{"card":"pikachu","side":"buy","price":"1.00"}'
GOOD_BATCH = b'{"orders":[' + b",".join([ORDER] * 1_000) + b"]}"
WRONG_BATCH = b'{"orders":[' + b",".join([b"{}"] * 1_000) + b"]}"
WRONG_FIELDS = b'{"orders":[' + b",".join([json.dumps({f"f{n}": n for n in range(90)}).encode()] * 900) + b"]}"
WRONG_LOGIN = b'{"trader_id":1,"api_key":"wrong"}'
ONE = "one at a time: "
LARGE = b" " * 998_000
FLOODER, OTHER = 9_001, 9_002
_numbers = itertools.count()


class Target(msgspec.Struct, frozen=True):
    """The address of the API, and the tokens of the trader that floods and of another one."""

    host: str
    port: int
    flooder: bytes
    other: bytes


class Probe(msgspec.Struct, frozen=True):
    """The answers that the other client got: their times in milliseconds, and how many were none of 202."""

    p50: float
    p99: float
    longest: float
    answers: int
    failed: dict[str, int]


class Outcome(msgspec.Struct, frozen=True):
    """One flood: what the other client saw, the longest hold of the loop, and the answers to the flood."""

    fresh: Probe
    kept: Probe
    hold_ms: float
    busy_ms: float
    memory_mb: float
    flood: dict[str, int]


def request(target: str, body: bytes, token: bytes = b"", length: int | None = None) -> bytes:
    """A POST; `length` is its Content-Length, where that is not the body's."""
    authorization = b"authorization: %b\r\n" % token if token else b""
    size = len(body) if length is None else length
    head = b"POST %b HTTP/1.1\r\nhost: x\r\n%bcontent-length: %d\r\n\r\n" % (target.encode(), authorization, size)
    return head + body


async def answer(reader: asyncio.StreamReader) -> int:
    """The status of the next answer."""
    head = await reader.readuntil(b"\r\n\r\n")
    length = next(line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))
    await reader.readexactly(int(length.partition(b":")[2]))
    return int(head.split(b" ", 2)[1])


# -- floods


async def _hold(target: Target, start: bytes, piece: bytes, counts: Counter[str]) -> None:
    """Holds a connection: sends the start, then a piece a second; opens it again when it is closed."""
    pauses = random.Random(next(_numbers))
    while True:
        try:
            reader, writer = await asyncio.open_connection(target.host, target.port)
            counts["opened"] += 1
            writer.write(start)
            while not reader.at_eof():
                with suppress(TimeoutError):
                    await asyncio.wait_for(reader.read(), 1.0)
                    break
                writer.write(piece)
            writer.close()
        except OSError:
            counts["refused"] += 1
        await asyncio.sleep(REOPEN_SECONDS * (0.5 + pauses.random()))


async def _repeat(target: Target, message: bytes, counts: Counter[str]) -> None:
    """Sends a request as often as it is answered."""
    while True:
        try:
            reader, writer = await asyncio.open_connection(target.host, target.port)
            try:
                while True:
                    writer.write(message)
                    counts[str(await answer(reader))] += 1
            finally:
                writer.close()
        except (OSError, asyncio.IncompleteReadError):
            counts["closed"] += 1
            await asyncio.sleep(0.01)


def _holders(target: Target, counts: Counter[str]) -> list[Awaitable[None]]:
    head = b"POST /orders HTTP/1.1\r\nhost: x\r\nx-slow: "
    body = request("/orders", b"{", target.flooder, length=500)
    kinds = [(IDLE, b"", b""), (SLOW_HEADS, head, b"x"), (SLOW_BODIES, body, b" ")]
    return [_hold(target, start, piece, counts) for count, start, piece in kinds for _ in range(count)]


def _repeaters(
    connections: int, make: Callable[[Target], bytes]
) -> Callable[[Target, Counter[str]], list[Awaitable[None]]]:
    return lambda target, counts: [_repeat(target, make(target), counts) for _ in range(connections)]


FLOODS: Mapping[str, Callable[[Target, Counter[str]], list[Awaitable[None]]]] = {
    "nothing": lambda _target, _counts: [],
    "held connections": _holders,
    "wrong batches": _repeaters(16, lambda target: request("/orders/batch", WRONG_BATCH, target.flooder)),
    "large wrong batches": _repeaters(16, lambda target: request("/orders/batch", WRONG_FIELDS, target.flooder)),
    "batches of a trader": _repeaters(100, lambda target: request("/orders/batch", GOOD_BATCH, target.flooder)),
    f"{ONE}good batch": _repeaters(1, lambda target: request("/orders/batch", GOOD_BATCH, target.flooder)),
    f"{ONE}wrong batch": _repeaters(1, lambda target: request("/orders/batch", WRONG_BATCH, target.flooder)),
    f"{ONE}large wrong batch": _repeaters(1, lambda target: request("/orders/batch", WRONG_FIELDS, target.flooder)),
    f"{ONE}wrong order": _repeaters(1, lambda target: request("/orders", WRONG_BATCH, target.flooder)),
    f"{ONE}large wrong order": _repeaters(1, lambda target: request("/orders", WRONG_FIELDS, target.flooder)),
    f"{ONE}4,000 requests in a packet": _repeaters(1, lambda _: b"GET /x HTTP/1.1\r\nhost:x\r\n\r\n" * 4_000),
    "wrong logins": _repeaters(32, lambda _: request("/auth/token", WRONG_LOGIN)),
    "bodies without a token": _repeaters(600, lambda _: request("/orders", LARGE)),
}


def _flood(name: str, target: Target, seconds: float, path: Path) -> None:
    """The flooding process."""
    raise_file_limit()
    counts: Counter[str] = Counter()

    async def work() -> None:
        tasks = [asyncio.ensure_future(task) for task in FLOODS[name](target, counts)]
        await asyncio.to_thread(path.with_suffix(".began").touch)
        await asyncio.sleep(seconds)
        await asyncio.to_thread(path.write_bytes, msgspec.json.encode(dict(counts)))
        await service.cancel_and_wait(*tasks)

    uvloop.run(work())


# -- the other client


async def _probe(target: Target, seconds: float, *, keeps: bool) -> Probe:
    times: list[float] = []
    failed: Counter[str] = Counter()
    message = request("/orders", ORDER, target.other)
    connection: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
    until_time = time.perf_counter() + seconds
    while (started := time.perf_counter()) < until_time:
        try:
            reader, writer = connection = connection or await asyncio.open_connection(target.host, target.port)
            writer.write(message)
            status = await asyncio.wait_for(answer(reader), 10)
            if status != 202:
                failed[str(status)] += 1
        except (OSError, asyncio.IncompleteReadError, TimeoutError) as error:
            failed[type(error).__name__] += 1
            if connection is not None:
                connection[1].close()
            connection = None
        times.append((time.perf_counter() - started) * 1000)
        if connection is not None and (not keeps or connection[0].at_eof()):
            connection[1].close()
            connection = None
        await asyncio.sleep(INTERVAL_SECONDS)
    if connection is not None:
        connection[1].close()
    times.sort()
    return Probe(times[len(times) // 2], times[int(len(times) * 0.99)], times[-1], len(times), dict(failed))


class FloodedApi:
    """An API process with few files, and the floods of it."""

    def __init__(self, exchange: ExchangeServer, folder: Path) -> None:
        self._hold_file = folder / "hold"
        self._folder = folder
        os.environ.update(FILES=str(FILES), HOLD_FILE=str(self._hold_file))
        self._service = Service("api", exchange.settings, folder / "api.log", module="testing.limited_api")
        until(lambda: _lives(exchange.url), "the API does not start")
        url = httpx.URL(exchange.url)
        tokens = [exchange.bearer(trader)["authorization"].encode() for trader in (FLOODER, OTHER)]
        self.target = Target(url.host, url.port or 80, *tokens)

    def output(self) -> str:
        """The log of the process."""
        return self._service.output()

    def stop(self) -> None:
        """Stops the process, which must not have ended before."""
        assert self._service.stop() == 0, self.output()

    def under(self, name: str, seconds: float, *, settle: float = 2.0) -> Outcome:
        """Floods the API and sends orders beside the flood, once the flood runs for `settle` seconds."""
        counts = self._folder / "flood"
        began = counts.with_suffix(".began")
        began.unlink(missing_ok=True)
        self._hold_ms()
        arguments = (name, self.target, settle + seconds + 1.0, counts)
        flooder = multiprocessing.get_context("spawn").Process(target=_flood, args=arguments)
        flooder.start()
        try:
            until(began.exists, "the flood does not begin")
            fresh, kept = uvloop.run(self._both(seconds, settle))
            flooder.join(30)
            memory, (hold, busy) = _memory_mb(self._service.pid), self._hold_ms()
        finally:
            flooder.kill()
            flooder.join()
        return Outcome(fresh, kept, hold, busy, memory, msgspec.json.decode(counts.read_bytes(), type=dict[str, int]))

    async def _both(self, seconds: float, settle: float) -> tuple[Probe, Probe]:
        await asyncio.sleep(settle)
        return await asyncio.gather(_probe(self.target, seconds, keeps=False), _probe(self.target, seconds, keeps=True))

    def _hold_ms(self) -> tuple[float, float]:
        """The longest holds of the loop since the last call: by the clock, and of its thread's processor time."""
        self._hold_file.unlink(missing_ok=True)
        os.kill(self._service.pid, signal.SIGUSR1)
        until(self._hold_file.exists, "the API does not tell its longest hold")
        hold, busy = self._hold_file.read_text().split()
        return float(hold), float(busy)


def _lives(url: str) -> bool:
    try:
        return httpx.get(f"{url}/health/live", trust_env=False).status_code == 200
    except httpx.TransportError:
        return False


def _memory_mb(pid: int) -> float:
    """The largest resident size of a process so far."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith("VmHWM"))) / 1024


@contextmanager
def flooded_api() -> Iterator[FloodedApi]:
    """An exchange whose API process is a `FloodedApi`."""
    with exchange_server("engine") as exchange, tempfile.TemporaryDirectory() as folder:
        api = FloodedApi(exchange, Path(folder))
        try:
            yield api
        finally:
            api.stop()


def main() -> None:
    """Prints a row for each flood."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=5.0, help="of orders beside each flood")
    parser.add_argument("floods", nargs="*", default=[*FLOODS])
    arguments = parser.parse_args()
    say = sys.stdout.write
    say("| flood | fresh connection p50/p99/max ms | kept connection | hold (busy) ms | peak MB | its answers |\n")
    say("|---|---|---|---|---|---|\n")
    with flooded_api() as api:
        for name in arguments.floods:
            seen = api.under(name, arguments.seconds)
            cells = [f"{p.p50:.1f}/{p.p99:.1f}/{p.longest:.1f} {p.failed or ''}" for p in (seen.fresh, seen.kept)]
            cells.append(f"{seen.hold_ms} ({seen.busy_ms}) | {seen.memory_mb:.0f}")
            cells.append(", ".join(f"{key}: {count}" for key, count in sorted(seen.flood.items())))
            say(f"| {name} | {' | '.join(cells)} |\n")
            sys.stdout.flush()
        say(f"\nload average: {os.getloadavg()}\n")


if __name__ == "__main__":
    main()
