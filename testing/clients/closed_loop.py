"""HTTP/1.1 clients over keep-alive connections that cost as little as Python allows, since they run on the measured
machine: requests are ready bytes, and of an answer the status and the length are read, and the body is only counted."""

import asyncio
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol, cast

import msgspec

LENGTH = b"content-length: "


class Load(msgspec.Struct, frozen=True):
    """What came of a load. `errors`: no answer, or one that is not 2xx."""

    requests: int
    seconds: float
    p50_ms: float
    p99_ms: float
    errors: int


class Connection(asyncio.Protocol):
    """One keep-alive connection, with one request under way at a time. `answered` gets the status; 0: it broke."""

    def __init__(self, answered: "Callable[[Connection, int], None]") -> None:
        self._answered = answered
        self._transport: asyncio.Transport | None = None
        self._buffer = b""
        self.sent_at = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keeps the transport."""
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is none by its class

    def send(self, request: bytes) -> None:
        """Sends a whole request."""
        if self._transport is None or self._transport.is_closing():
            self._answered(self, 0)
            return
        self.sent_at = time.perf_counter()
        self._transport.write(request)

    def data_received(self, data: bytes) -> None:
        """Waits for a whole answer."""
        self._buffer = self._buffer + data if self._buffer else data
        head_end = self._buffer.find(b"\r\n\r\n")
        if head_end < 0:
            return
        head = self._buffer[:head_end].lower()
        at = head.find(LENGTH)
        length = int(head[at + len(LENGTH) :].split(b"\r\n", 1)[0]) if at >= 0 else 0
        if len(self._buffer) < head_end + 4 + length:
            return
        status = int(self._buffer[9:12])
        self._buffer = b""
        self._answered(self, status)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - whatever it was
        """The request that was under way has no answer."""
        self._answered(self, 0)

    def close(self) -> None:
        """Ends it."""
        if self._transport:
            self._transport.close()


async def open_connections(
    address: tuple[str, int], count: int, answered: Callable[[Connection, int], None]
) -> list[Connection]:
    """So many, connected."""
    loop = asyncio.get_running_loop()
    return [(await loop.create_connection(lambda: Connection(answered), *address))[1] for _ in range(count)]


class Client(Protocol):
    """Whatever loads a server in a closed loop: each connection sends the next request when it has its answer."""

    async def __call__(
        self, address: tuple[str, int], requests: Sequence[bytes], *, connections: int, seconds: float, folder: Path
    ) -> Load:
        """Loads it for so many seconds."""


async def closed_loop(
    address: tuple[str, int],
    requests: Sequence[bytes],
    *,
    connections: int,
    seconds: float,
    folder: Path,  # noqa: ARG001 - other clients need one
) -> Load:
    """Loads it from this process."""
    latencies: list[float] = []
    errors = sent = 0
    ends = time.perf_counter() + seconds
    alive = connections
    all_ended = asyncio.Event()

    def answered(connection: Connection, status: int) -> None:
        nonlocal errors, sent, alive
        now = time.perf_counter()
        if 200 <= status < 300:
            latencies.append(now - connection.sent_at)
        elif now < ends:
            errors += 1
        if status and now < ends:
            sent += 1
            connection.send(requests[sent % len(requests)])
            return
        alive -= 1
        if alive <= 0:
            all_ended.set()

    opened = await open_connections(address, connections, answered)
    started = time.perf_counter()
    for connection in opened:
        sent += 1
        connection.send(requests[sent % len(requests)])
    await all_ended.wait()
    spent = time.perf_counter() - started
    for connection in opened:
        connection.close()
    latencies.sort()
    return Load(len(latencies), spent, 1e3 * percentile(latencies, 50), 1e3 * percentile(latencies, 99), errors)


def percentile(ordered: Sequence[float], percent: float) -> float:
    """Of sorted values, the smallest that so many percent do not exceed; 0.0 of none."""
    if not ordered:
        return 0.0
    return ordered[min(len(ordered) - 1, int(len(ordered) * percent / 100))]
