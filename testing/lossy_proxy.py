"""A proxy between a client and an exchange that loses, delays and doubles requests and answers.

It understands just enough of HTTP/1.1: requests with a `content-length`, answers that end with their connection.
"""

import asyncio
import random
from collections import Counter
from collections.abc import Coroutine, Mapping, Sequence
from contextlib import suppress
from types import TracebackType
from typing import Any, Self

import msgspec

HEAD_BYTES_MAX = 65_536
SPARED = b"/auth/token"
BUSY = b"HTTP/1.1 503 Service Unavailable\r\nretry-after: 0\r\ncontent-length: 0\r\n\r\n"


class Fates(msgspec.Struct, frozen=True):
    """How many of a hundred requests meet each fate; the others pass. `late_seconds`: longer than clients wait."""

    lost: int = 4
    """The request never arrives."""
    swallowed: int = 8
    """The request arrives, its answer does not."""
    late: int = 4
    """The request arrives when its client has given up, maybe after its repetition."""
    slow: int = 4
    """The answer comes when its client has given up."""
    doubled: int = 8
    """The request arrives twice at once."""
    busy: int = 4
    """A server on the way answers 503."""
    late_seconds: float = 2.2


NO_ANSWER = Fates(lost=0, swallowed=100, late=0, slow=0, doubled=0, busy=0)
ALL_PASS = Fates(lost=0, swallowed=0, late=0, slow=0, doubled=0, busy=0)


class LossyProxy:
    """The proxy. `counts` says how many requests met each fate."""

    def __init__(self, host: str, port: int, *, seed: int, fates: Fates | None = None) -> None:
        self.counts: Counter[str] = Counter()
        self.port = 0
        self._target = (host, port)
        self._choose = random.Random(seed)
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._connections: set[asyncio.Task[None] | None] = set()
        self.meet(fates or Fates())

    def meet(self, fates: Fates) -> None:
        """Sets what requests meet from now on."""
        self._fates = fates
        shares: Mapping[str, int] = {
            name: value for name, value in msgspec.structs.asdict(fates).items() if name != "late_seconds"
        }
        self._names = [*shares, "passed"]
        self._weights = [*shares.values(), 100 - sum(shares.values())]

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0, limit=HEAD_BYTES_MAX)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._server is not None:
            self._server.close()
        await self.settle()
        open_ones = [task for task in self._connections if task is not None]
        for task in open_ones:
            task.cancel()
        await asyncio.gather(*open_ones, return_exceptions=True)

    async def settle(self) -> None:
        """Waits until every request that is under way has arrived, the late ones too."""
        while self._tasks:
            await asyncio.wait(self._tasks)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        self._connections.add(task)
        try:
            while (request := await _request(reader)) is not None:
                if not await self._handle(request, writer):
                    break
        except (ConnectionError, asyncio.IncompleteReadError):
            self.counts["client gone"] += 1
        finally:
            self._connections.discard(task)
            writer.close()

    async def _handle(self, request: bytes, writer: asyncio.StreamWriter) -> bool:
        """Does to a request what fate wants. Returns whether its connection goes on."""
        is_spared = SPARED in request.partition(b"\r\n")[0]
        fate = "passed" if is_spared else self._choose.choices(self._names, self._weights)[0]
        self.counts[fate] += 1
        if fate == "lost":
            return False
        if fate == "busy":
            writer.write(BUSY)
            return True
        if fate == "late":
            self._begin(self._forward_later(request))
            return False
        if fate == "doubled":
            self._begin(self._forward_later(request, seconds=0))
        answer = await self._forward(request)
        if fate == "swallowed" or not answer:
            return False
        if fate == "slow":
            await asyncio.sleep(self._fates.late_seconds)
        writer.write(answer)
        await writer.drain()
        return False  # answers end with their connection

    def _begin(self, forwarding: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(forwarding)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _forward_later(self, request: bytes, seconds: float | None = None) -> None:
        await asyncio.sleep(self._fates.late_seconds if seconds is None else seconds)
        await self._forward(request)

    async def _forward(self, request: bytes) -> bytes:
        """The answer of the exchange; nothing if there is none."""
        with suppress(ConnectionError):
            reader, writer = await asyncio.open_connection(*self._target)
            try:
                writer.write(_closing(request))
                return await reader.read(-1)
            finally:
                writer.close()
        return b""


async def _request(reader: asyncio.StreamReader) -> bytes | None:
    """A whole request; None at the end of the connection."""
    try:
        head = await reader.readuntil(b"\r\n\r\n")
    except asyncio.IncompleteReadError as error:
        if error.partial:
            raise
        return None
    lines: Sequence[bytes] = head.lower().split(b"\r\n")
    length = next((int(line.partition(b":")[2]) for line in lines if line.startswith(b"content-length:")), 0)
    return head + await reader.readexactly(length)


def _closing(request: bytes) -> bytes:
    """The request with the wish that its connection ends after the answer."""
    first, _, rest = request.partition(b"\r\n")
    kept = rest.replace(b"connection: keep-alive\r\n", b"", 1).replace(b"Connection: keep-alive\r\n", b"", 1)
    return first + b"\r\nconnection: close\r\n" + kept
