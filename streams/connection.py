"""The life of a stream on a connection of any transport: one task writes, one reads, and the first end ends both."""

import asyncio
from collections.abc import Coroutine, Sequence
from typing import Any, Protocol

import structlog

from core.service import cancel_and_wait
from streams.hub import Hub
from streams.messages import Bye, Message
from streams.session import Session

log = structlog.get_logger()


class Sink(Protocol):
    """Where a stream is written to."""

    async def send(self, found: Sequence[Message], positions: str) -> None:
        """Writes messages, and waits until the connection can take more. `positions`: what the client has then."""

    async def close(self, bye: Bye) -> None:
        """Writes the end."""

    def cut(self, bye: Bye) -> None:
        """Ends a connection that takes nothing."""


async def serve(hub: Hub, session: Session, sink: Sink, reading: Coroutine[Any, Any, None]) -> None:
    """Serves a stream until it ends or the client is gone. `reading` returns when the client is gone."""
    writer = asyncio.create_task(_write(session, sink), name="stream writer")
    reader = asyncio.create_task(reading, name="stream reader")
    is_cut = False

    def abort() -> None:
        nonlocal is_cut
        is_cut = True
        writer.cancel()

    session.abort = abort
    try:
        await asyncio.wait({writer, reader}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        hub.remove(session)
        for task in (writer, reader):
            if task.done() and not task.cancelled() and (error := task.exception()) is not None:
                log.error("a stream failed", exc_info=error)
        await cancel_and_wait(writer, reader)
        if is_cut and session.bye is not None:
            sink.cut(session.bye)


async def _write(session: Session, sink: Sink) -> None:
    clock = asyncio.get_running_loop().time
    while True:
        found = await session.next()
        session.sending_since = clock()
        if found:
            await sink.send(found, session.positions_text)
        elif session.bye is not None:
            await sink.close(session.bye)
            return
        session.sending_since = None
