"""Reading {card}:events ahead of the writer, as rows that COPY takes as they are."""

import asyncio
from typing import Any

import structlog
from redis.asyncio import Redis

from archiver.store import Cursor, RowBatch
from core.errors import TcgxError
from engine import keys
from engine.connection import BLOCK_MS, redis_errors

log = structlog.get_logger()

ENTRIES_MAX = 64
READS_A_BATCH = 4
"""A read takes about this part of a transaction's bytes at most."""


class ArchiveGap(TcgxError):
    """Events between the archive and what Redis still holds are missing; archiving the card stops."""


class RowBuffer:
    """What is read and not yet taken by a transaction: about one transaction's worth at most, then readers wait."""

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
        """All that is there, at least one."""
        await self._arrived.wait()
        rows, self._rows, self._bytes = self._rows, [], 0
        self._arrived.clear()
        self._taken.set()
        return rows


class Reader:
    """Reads one card's events after a position."""

    def __init__(self, blocking: Redis, card: str, cursor: Cursor, *, batch_bytes: int) -> None:
        self._blocking: Any = blocking
        self._card = card
        self._event_id = cursor.event_id
        self._read_bytes = batch_bytes // READS_A_BATCH
        self._count = 1
        self._key = keys.key(card, "events")
        self.has_more = True
        """Whether the last read may have left something."""

    async def read(self, *, wait: bool) -> RowBatch | None:
        """The next entries as rows; None where there is none, if wanted after waiting for one.

        Raises:
            ArchiveGap: what comes next is not what follows.
            Unavailable: Redis does not answer.
        """
        with redis_errors():
            reply = await self._blocking.xread(
                {self._key: self._event_id}, count=self._count, block=BLOCK_MS if wait else None
            )
        if not reply:
            self.has_more = False
            return None
        ((_, entries),) = reply
        for event_id, fields in entries:
            self._follow(event_id.decode(), int(fields[b"first"]))
        trades = [fields.get(b"trades", b"") for _, fields in entries]
        orders = [fields.get(b"orders", b"") for _, fields in entries]
        self.has_more = len(entries) == self._count
        largest = max(len(one) + len(other) for one, other in zip(trades, orders, strict=True))
        self._count = max(1, min(2 * self._count, ENTRIES_MAX, self._read_bytes // max(largest, 1)))
        return RowBatch(
            card=self._card,
            trades=b"".join(trades),
            orders=b"".join(orders),
            cursor=Cursor(self._event_id, entries[-1][1][b"log"].decode()),
        )

    async def run(self, gathered: RowBuffer, *, pause_seconds: float) -> None:
        """Feeds the writer, until events are missing: then this card stands still, and the others go on.

        After it has read all that there was, it lets more gather for a while: an event that comes alone is read at
        once, and many small ones do not make a transaction each.
        """
        while True:
            try:
                rows = await self.read(wait=True)
            except ArchiveGap as error:
                log.error("archiving stands still", card=self._card, reason=str(error))
                return
            if rows is not None:
                await gathered.put(rows)
                if not self.has_more:
                    await asyncio.sleep(pause_seconds)

    def _follow(self, event_id: str, first: int) -> None:
        """Every event begins with the command after the last one of the event before."""
        reached = Cursor(self._event_id, "").sequence
        if first != reached + 1:
            raise ArchiveGap(
                f"the archive of {self._card} stands at command {reached}, but the next event begins at {first}: "
                "what is between was trimmed, or the archive is an older one"
            )
        self._event_id = event_id
