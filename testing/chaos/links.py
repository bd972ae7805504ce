"""Links: small proxies between clients, services and servers.

Their connections can be cut before or after an act, go mute, or carry each message late.
"""

import asyncio
import random
import socket
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Literal

CHUNK_BYTES = 65_536
CUT_SHARE = 0.3
"""Of the messages in the direction of the cut; others pass, so that work is under way when the next one is cut."""
JOIN_SECONDS = 10.0

Cut = Literal["nothing", "requests", "answers"]
Address = Path | int
"""A Unix socket, or a port of 127.0.0.1."""


class Carried:
    """One connection of a link. Once mute, it carries nothing more, not even the end of either half."""

    def __init__(self, client: asyncio.StreamWriter, server: asyncio.StreamWriter) -> None:
        self.client = client
        self.server = server
        self.mute = False


class Link:
    """One proxy. `cut` says which messages end their connection instead of passing.

    A cut request has not reached the server. A cut answer belongs to a request that the server has acted on.
    `delay_seconds` is how late each message passes.
    """

    def __init__(self, listens: Path | socket.socket, leads_to: Address, seed: str) -> None:
        """`listens`: where a Unix socket is made, or a bound socket."""
        self.cut: Cut = "nothing"
        self.delay_seconds = 0.0
        self._carried: set[Carried] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._listens = listens
        self._leads_to = leads_to
        self._choose = random.Random(seed)

    def mute(self) -> None:
        """All present connections go mute. Neither side is told, and new connections pass."""
        self._call(self._mute)

    def end_mute(self) -> None:
        """The server's halves of mute connections end, as its keepalives end those of a lost host."""
        self._call(self._end_mute)

    def _call(self, work: Callable[[], None]) -> None:
        assert self._loop, "the link does not listen"
        self._loop.call_soon_threadsafe(work)

    def _mute(self) -> None:
        for carried in self._carried:
            carried.mute = True

    def _end_mute(self) -> None:
        for carried in self._carried:
            if carried.mute:
                carried.server.transport.abort()

    async def listen(self) -> asyncio.Server:
        """Listens from now on."""
        self._loop = asyncio.get_running_loop()
        if isinstance(self._listens, Path):
            return await asyncio.start_unix_server(self._accept, self._listens)
        return await asyncio.start_server(self._accept, sock=self._listens)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Begins to carry a connection, which ends with its task, even with one that is canceled before it begins."""
        task = asyncio.ensure_future(self._carry(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        task.add_done_callback(lambda _: writer.transport.abort())

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Carries one connection to its end."""
        try:
            if isinstance(self._leads_to, Path):
                onward, onward_writer = await asyncio.open_unix_connection(self._leads_to)
            else:
                onward, onward_writer = await asyncio.open_connection("127.0.0.1", self._leads_to)
        except (OSError, asyncio.CancelledError):
            writer.transport.abort()
            return
        carried = Carried(writer, onward_writer)
        self._carried.add(carried)
        ways = [
            asyncio.ensure_future(self._pump(carried, reader, onward_writer, "requests")),
            asyncio.ensure_future(self._pump(carried, onward, writer, "answers")),
        ]
        try:
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
            if carried.mute:
                await asyncio.wait(ways)
        finally:
            self._carried.discard(carried)
            for way in ways:
                way.cancel()
            writer.transport.abort()
            onward_writer.transport.abort()
            await asyncio.gather(*ways, return_exceptions=True)

    async def _pump(
        self, carried: Carried, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, kind: Cut
    ) -> None:
        with suppress(OSError):
            while data := await reader.read(CHUNK_BYTES):
                if self.cut == kind and self._choose.random() < CUT_SHARE:
                    return
                if self.delay_seconds:
                    await asyncio.sleep(self.delay_seconds)
                if carried.mute:
                    continue
                writer.write(data)
                await writer.drain()


END_TURNS = 10


class Links:
    """All links of an exchange, in a thread of their own."""

    def __init__(self, links: list[Link]) -> None:
        self._links = links
        self._servers: list[asyncio.Server] = []
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)

    def start(self) -> None:
        """All links listen when this returns."""
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self._listen(), self._loop).result(JOIN_SECONDS)

    def stop(self) -> None:
        """Ends all connections, and the thread. Does nothing before the start."""
        if self._thread.is_alive():
            asyncio.run_coroutine_threadsafe(self._end(), self._loop).result(JOIN_SECONDS)
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
            self._loop.run_until_complete(self._end())  # a connection may have come as the loop stopped
        self._loop.close()

    async def _listen(self) -> None:
        for link in self._links:
            self._servers.append(await link.listen())

    async def _end(self) -> None:
        for server in self._servers:
            server.close()
        # A connection that was just accepted begins in one of the next turns, and a transport closes in another one.
        for _ in range(END_TURNS):
            await asyncio.sleep(0)
        for _ in range(END_TURNS):
            await asyncio.sleep(0)
            carried = asyncio.all_tasks() - {asyncio.current_task()}
            for task in carried:
                task.cancel()
            await asyncio.gather(*carried, return_exceptions=True)
