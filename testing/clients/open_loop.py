"""An open loop over HTTP/1.1: each request has a time at which it is due, whatever became of those before.

The latency of a request counts from that time, also while it waits for a free connection: no coordinated omission.
"""

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import Callable
from typing import Any, NamedTuple, cast

from testing.clients.closed_loop import LENGTH

BROKEN = 0
"""The status of a request whose connection ended without an answer."""
TICK_SECONDS = 0.001


class Request(NamedTuple):
    """The bytes of a request, the time at which it is due, and what its sender wants to remember of it."""

    data: bytes
    due: float
    about: Any


class Answer(NamedTuple):
    """A status, the body, and the time from the moment at which the request was due."""

    status: int
    body: bytes
    seconds: float


class Connection(asyncio.Protocol):
    """One keep-alive connection, with one request under way at a time."""

    def __init__(self, loop: "OpenLoop") -> None:
        self._loop = loop
        self._buffer = b""
        self.transport: asyncio.Transport | None = None
        self.request: Request | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keeps the transport."""
        self.transport = cast(asyncio.Transport, transport)  # uvloop's is none by its class

    def send(self, request: Request) -> None:
        """Sends a request; the one before is answered."""
        assert self.transport
        self.request = request
        self.transport.write(request.data)

    def data_received(self, data: bytes) -> None:
        """Waits for a whole answer."""
        self._buffer = self._buffer + data if self._buffer else data
        head_end = self._buffer.find(b"\r\n\r\n")
        if head_end < 0:
            return
        head = self._buffer[:head_end].lower()
        at = head.find(LENGTH)
        length = int(head[at + len(LENGTH) :].split(b"\r\n", 1)[0]) if at >= 0 else 0
        end = head_end + 4 + length
        if len(self._buffer) < end:
            return
        status, body = int(head[9:12]), self._buffer[head_end + 4 : end]
        self._buffer = b""
        self._loop.answered(self, status, body)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - whatever it was
        """A request that was under way has no answer."""
        self._loop.lost(self)


class OpenLoop:
    """Sends each request when it is due, on any free connection; further ones are opened up to a bound."""

    def __init__(self, address: tuple[str, int], connections_max: int, take: Callable[[Request, Answer], None]) -> None:
        """`take` gets every answer, and `BROKEN` where there is none."""
        self._address = address
        self._connections_max = connections_max
        self._take = take
        self._free: list[Connection] = []
        self._open: set[Connection] = set()
        self._opening: set[asyncio.Task[None]] = set()
        self._due: deque[Request] = deque()
        self._idle = asyncio.Event()
        self.sent = 0
        self.under_way = 0
        self.failed_connects = 0

    @property
    def waiting(self) -> int:
        """How many requests are due and wait for a connection."""
        return len(self._due)

    async def connect(self, count: int) -> None:
        """Opens so many connections beforehand."""
        for _ in range(count):
            await self._open_another()

    def send(self, request: Request) -> None:
        """Sends a request, or lets it wait for a connection."""
        if self._free:
            self._send_on(self._free.pop(), request)
            return
        self._due.append(request)
        if len(self._open) + len(self._opening) < self._connections_max:
            opening = asyncio.ensure_future(self._open_another())
            self._opening.add(opening)
            opening.add_done_callback(self._opening.discard)

    def give_up(self, before: float) -> int:
        """Forgets the requests that wait for a connection and were due before this time; how many there were."""
        count = 0
        while self._due and self._due[0].due < before:
            self._due.popleft()
            count += 1
        return count

    async def pace(self, rate: float, seconds: float, make: Callable[[int, float], Request]) -> None:
        """Sends `rate` requests a second for so long. `make` gets the number of a request and when it is due."""
        began, count = time.perf_counter(), int(rate * seconds)
        number = 0
        while number < count:
            now = time.perf_counter()
            while number < count and (due := began + number / rate) <= now:
                self.send(make(number, due))
                number += 1
            await asyncio.sleep(TICK_SECONDS)

    async def finish(self, seconds: float) -> int:
        """Waits until all are answered, and closes; returns how many were not answered in time."""
        if self.under_way or self._due:
            self._idle.clear()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._idle.wait(), seconds)
        left = self.under_way + len(self._due)
        self._due.clear()
        for opening in [*self._opening]:
            opening.cancel()
        for connection in [*self._open]:
            if connection.transport:
                connection.transport.close()
        return left

    def answered(self, connection: Connection, status: int, body: bytes) -> None:
        """A connection has a whole answer, and is free again."""
        self._tell(connection, status, body)
        if connection.transport and not connection.transport.is_closing():
            self._use(connection)

    def lost(self, connection: Connection) -> None:
        """A connection has ended."""
        self._open.discard(connection)
        if connection in self._free:
            self._free.remove(connection)
        self._tell(connection, BROKEN, b"")

    def _tell(self, connection: Connection, status: int, body: bytes) -> None:
        request, connection.request = connection.request, None
        if request is None:
            return
        self.under_way -= 1
        self._take(request, Answer(status, body, time.perf_counter() - request.due))
        if not self.under_way and not self._due:
            self._idle.set()

    async def _open_another(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            _, connection = await loop.create_connection(lambda: Connection(self), *self._address)
        except OSError:
            self.failed_connects += 1
            return  # what is due waits for a connection that is open
        self._open.add(connection)
        self._use(connection)

    def _use(self, connection: Connection) -> None:
        if self._due:
            self._send_on(connection, self._due.popleft())
        else:
            self._free.append(connection)

    def _send_on(self, connection: Connection, request: Request) -> None:
        self.sent += 1
        self.under_way += 1
        connection.send(request)
