"""A relay of TCP connections that cuts each after a random number of bytes, in the middle of whatever it carries."""

import asyncio
import random
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

READ_BYTES = 4_096
START_SECONDS = 10.0


class CuttingRelay:
    """The relay, on an event loop of a thread of its own. While `is_cutting` is off, connections stay whole."""

    def __init__(self, host: str, port: int, *, seed: int, bytes_min: int, bytes_max: int) -> None:
        self.cuts = 0
        self.is_cutting = True
        self.port = 0
        self._target = (host, port)
        self._choose = random.Random(seed)
        self._bytes = (bytes_min, bytes_max)
        self._loop = asyncio.new_event_loop()
        self._ready = threading.Event()
        self._stop = asyncio.Event()
        self._thread = threading.Thread(target=self._run, name="relay")

    def start(self) -> None:
        """Begins to listen."""
        self._thread.start()
        assert self._ready.wait(START_SECONDS), "the relay does not start"

    def stop(self) -> None:
        """Ends the relay and all connections."""
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(START_SECONDS)

    def _run(self) -> None:
        with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
            runner.run(self._serve())

    async def _serve(self) -> None:
        server = await asyncio.start_server(self._relay, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        self._ready.set()
        await self._stop.wait()
        server.close()

    async def _relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError, asyncio.CancelledError):  # the task ends with the relay, and asyncio logs others
            to_read, to_write = await asyncio.open_connection(*self._target)
            budget = self._choose.randint(*self._bytes)
            up = asyncio.create_task(self._copy(reader, to_write, None))
            down = asyncio.create_task(self._copy(to_read, writer, budget))
            try:
                await asyncio.wait({up, down}, return_when=asyncio.FIRST_COMPLETED)
            finally:
                up.cancel()
                down.cancel()
                to_write.transport.abort()
                writer.transport.abort()

    async def _copy(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, budget: int | None) -> None:
        with suppress(ConnectionError):
            while data := await reader.read(READ_BYTES):
                writer.write(data if budget is None or not self.is_cutting else data[: max(0, budget)])
                await writer.drain()
                if budget is not None and self.is_cutting:
                    budget -= len(data)
                    if budget <= 0:
                        self.cuts += 1
                        return


@contextmanager
def cutting_relay(url: str, *, seed: int, bytes_min: int = 2_000, bytes_max: int = 40_000) -> Iterator[CuttingRelay]:
    """A relay to the server of a URL."""
    host, _, port = url.removeprefix("http://").partition(":")
    relay = CuttingRelay(host, int(port), seed=seed, bytes_min=bytes_min, bytes_max=bytes_max)
    relay.start()
    try:
        yield relay
    finally:
        relay.stop()
