"""Reading events ahead of the writer, as rows that COPY takes as they are."""

import asyncio

import structlog

from archiver.queries import Cursor
from archiver.writer import RowBatch
from engine.events import EventGap, EventReader

log = structlog.get_logger()


class RowBuffer:
    """Rows that are read and not yet taken by a transaction: about one transaction's worth; then readers wait."""

    def __init__(self, *, bytes_max: int) -> None:
        self._bytes_max = bytes_max
        self._bytes = 0
        self._rows: list[RowBatch] = []
        self._arrived = asyncio.Event()
        self._taken = asyncio.Event()

    async def put(self, rows: RowBatch) -> None:
        """Adds rows, once there is room."""
        while self._bytes >= self._bytes_max:
            self._taken.clear()
            await self._taken.wait()
        self._rows.append(rows)
        self._bytes += rows.bytes
        self._arrived.set()

    async def take(self) -> list[RowBatch]:
        """All rows that are there, at least one batch."""
        await self._arrived.wait()
        rows, self._rows, self._bytes = self._rows, [], 0
        self._arrived.clear()
        self._taken.set()
        return rows


async def read_rows(events: EventReader, *, wait: bool) -> RowBatch | None:
    """The rows of the next events; None where there is none, if wanted after waiting for one.

    Raises:
        EventGap, Unavailable: as `EventReader.read`.
    """
    found = await events.read(wait=wait)
    if not found:
        return None
    return RowBatch(
        card=events.card,
        trades=b"".join(event.trade_lines for event in found),
        orders=b"".join(event.order_lines for event in found),
        cursor=Cursor(found[-1].id, found[-1].log_id),
    )


async def feed(buffer: RowBuffer, events: EventReader, *, pause_seconds: float) -> None:
    """Fills the buffer with a card's rows, until events are missing: then this card stands still, the others go on.

    After the reader has read all events, it lets more come for a while: an event that comes alone is read at once, and
    many small ones do not make a transaction each.
    """
    while True:
        try:
            rows = await read_rows(events, wait=True)
        except EventGap as error:
            log.error("archiving stands still", card=events.card, reason=str(error))
            return
        if rows is not None:
            await buffer.put(rows)
            if not events.has_more:
                await asyncio.sleep(pause_seconds)
