"""Reads events ahead of the writer. Their lines are rows in the text format of COPY."""

import asyncio

import structlog

from archiver.queries import Cursor
from archiver.writer import RowBatch
from engine.events import EventGap, EventReader

log = structlog.get_logger()


class RowBuffer:
    """A bounded buffer for about the rows of one transaction. Readers wait while it is full."""

    def __init__(self, *, bytes_max: int) -> None:
        self._bytes_max = bytes_max
        self._bytes = 0
        self._rows: list[RowBatch] = []
        self._arrived = asyncio.Event()
        self._taken = asyncio.Event()

    async def put(self, rows: RowBatch) -> None:
        """Adds rows as soon as there is room."""
        while self._bytes >= self._bytes_max:
            self._taken.clear()
            await self._taken.wait()
        self._rows.append(rows)
        self._bytes += rows.bytes
        self._arrived.set()

    async def take(self) -> list[RowBatch]:
        """Waits for rows, and takes all of them."""
        await self._arrived.wait()
        rows, self._rows, self._bytes = self._rows, [], 0
        self._arrived.clear()
        self._taken.set()
        return rows


async def read_rows(events: EventReader, *, wait: bool) -> RowBatch | None:
    """The rows of the next events. None if there is no event. `wait`: waits for one first.

    Raises:
        EventGap, Unavailable: as in `EventReader.read`.
    """
    batch = await events.read(wait=wait)
    if not batch:
        return None
    return RowBatch(
        card=events.card,
        trades=b"".join(event.trade_lines for event in batch),
        orders=b"".join(event.order_lines for event in batch),
        cursor=Cursor(batch[-1].id, batch[-1].log_id),
    )


async def feed(buffer: RowBuffer, events: EventReader, *, pause_seconds: float) -> None:
    """Puts the rows of a card into the buffer until events are missing. Other cards are not affected.

    The reader pauses for `pause_seconds` after it has read all events. So a single event is archived at once, and many
    small events share a transaction.
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
