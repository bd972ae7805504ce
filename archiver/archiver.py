"""The archiver process: moves what {card}:events tells into PostgreSQL, then trims what is archived.

Delivery contract: rows and cursor are committed in one transaction, on the connection that holds the lock.
Killed before the commit, nothing of it is there and the next run reads the same events again; killed after it,
the cursor says so. A second archiver waits for the lock; a first one that lost its connection lost the lock
with it and cannot write.
"""

import asyncio
import contextlib
from collections.abc import Sequence
from typing import Any

import asyncpg
import structlog
from redis.asyncio import Redis

from archiver import schema, store
from archiver.store import Cursor, Rows
from engine import connection, keys
from engine.connection import BLOCK_MS, understood
from engine.errors import StartError, TcgxError
from engine.life import Retry, ended, unless_stopped
from engine.settings import Settings

log = structlog.get_logger()

QUEUED_MAX = 2
"""How many reads of a card wait for their transaction: the next is read while one is written."""


class ArchiveGap(TcgxError):
    """Events between the archive and what Redis still holds are missing; archiving the card stops."""


class Reader:
    """Reads one card's events after its archived position, ahead of the writer."""

    def __init__(self, blocking: Redis, card: str, *, event_id: str, entries: int) -> None:
        self._blocking: Any = blocking
        self._card = card
        self._event_id = event_id
        self._entries = entries
        self._key = keys.key(card, "events")

    async def read(self) -> Rows | None:
        """The next entries as rows; None when none came for a while."""
        with understood():
            reply = await self._blocking.xread({self._key: self._event_id}, count=self._entries, block=BLOCK_MS)
        if not reply:
            return None
        ((_, entries),) = reply
        for event_id, fields in entries:
            self._follow(event_id.decode(), int(fields[b"first"]))
        return Rows(
            card=self._card,
            trades=b"".join(fields.get(b"trades", b"") for _, fields in entries),
            orders=b"".join(fields.get(b"orders", b"") for _, fields in entries),
            event_id=self._event_id,
            sequence=_sequence(self._event_id),
            log_id=entries[-1][1][b"log"].decode(),
        )

    async def run(self, queue: "asyncio.Queue[Rows]") -> None:
        """Feeds the queue, until events are missing: then this card stands still, and the others go on."""
        while True:
            try:
                rows = await self.read()
            except ArchiveGap as error:
                log.error("archiving stands still", card=self._card, reason=str(error))
                return
            if rows is not None:
                await queue.put(rows)

    def _follow(self, event_id: str, first: int) -> None:
        """Every event begins with the command after the last one of the event before."""
        reached = _sequence(self._event_id)
        if first != reached + 1:
            raise ArchiveGap(
                f"the archive of {self._card} stands at command {reached}, but the next event begins at {first}: "
                "what is between was trimmed, or the archive is an older one"
            )
        self._event_id = event_id


def _sequence(event_id: str) -> int:
    return int(event_id.partition("-")[0])


class Archiver:
    """Writes what the readers queue, one transaction at a time, and trims."""

    def __init__(self, settings: Settings, redis: Redis, blocking: Redis, database: asyncpg.Connection) -> None:
        self._settings = settings
        self._redis = redis
        self._blocking = blocking
        self._database = database

    async def run(self, stopping: asyncio.Event) -> None:
        """Archives until told to stop; a transaction that is under way is finished.

        Raises:
            Unavailable: a server went away; starting again from the stored cursors is safe.
        """
        cursors = await store.cursors(self._database)
        for card, cursor in cursors.items():
            if card in self._settings.cards:
                await self._check_same_history(card, cursor)
        archived = {card: cursor.event_id for card, cursor in cursors.items()}
        queue: asyncio.Queue[Rows] = asyncio.Queue(QUEUED_MAX * len(self._settings.cards))
        readers = [
            asyncio.create_task(
                Reader(
                    self._blocking, card, event_id=archived.get(card, "0-0"), entries=self._settings.archive_entries
                ).run(queue),
                name=f"read {card}",
            )
            for card in self._settings.cards
        ]
        gone = asyncio.create_task(store.end_of(self._database), name="end of the connection")
        try:
            while not stopping.is_set():
                batch = await unless_stopped(_next(queue, [*readers, gone]), stopping)
                if batch:
                    await store.insert(self._database, batch)
                    await self._trim(batch)
        finally:
            await ended(gone, *readers)

    async def _trim(self, batch: Sequence[Rows]) -> None:
        settings = self._settings
        with understood():
            for rows in {rows.card: rows for rows in batch}.values():
                await self._redis.fcall(
                    "trim", 1, keys.tag(rows.card), rows.sequence, settings.event_retention, settings.log_retention
                )

    async def _check_same_history(self, card: str, cursor: Cursor) -> None:
        """The last archived event must still be there, made of the same log entry (its id holds a time). Another or
        an older Redis gives the same sequences to other orders; archiving it would lose or mix up orders."""
        events: Any = self._redis
        with understood():
            found = await events.xrange(keys.key(card, "events"), min=cursor.event_id, max=cursor.event_id)
        if not found or found[0][1][b"log"].decode() != cursor.log_id:
            raise StartError(
                f"The archive of {card} ends with event {cursor.event_id} of log entry {cursor.log_id}, which this "
                "Redis does not have: it is another or an older Redis than the one that was archived"
            )


async def _next(queue: "asyncio.Queue[Rows]", others: Sequence["asyncio.Task[None]"]) -> list[Rows]:
    """All that is queued, at least one; raises what one of the other tasks died of."""
    get = asyncio.ensure_future(queue.get())
    try:
        while not get.done():
            for task in others:
                if task.done():
                    task.result()
            running = [task for task in others if not task.done()]
            await asyncio.wait({get, *running}, return_when=asyncio.FIRST_COMPLETED)
        batch = [await get]
    finally:
        get.cancel()
    while not queue.empty():
        batch.append(queue.get_nowait())
    return batch


async def work(settings: Settings, stopping: asyncio.Event) -> None:
    """The archiver service.

    Raises:
        StartError: a server is not fit for it, or migrations are missing.
    """
    retry = Retry(stopping)
    async with (
        connection.connect(settings.redis_url) as redis,
        connection.connect_blocking(settings.redis_url) as blocking,
    ):
        while not stopping.is_set():
            try:
                await _archive(settings, redis, blocking, stopping, retry)
            except StartError:
                raise
            except TcgxError as error:
                log.warning("archiving will be tried again", reason=str(error))
                await retry.pause()
    log.info("stopped")


async def _archive(settings: Settings, redis: Redis, blocking: Redis, stopping: asyncio.Event, retry: Retry) -> None:
    database = await store.connect(settings.database_url)
    try:
        await schema.check(database, settings.cards)
        retry.succeeded()
        log.info("waiting to be the one that archives")
        await unless_stopped(store.lock_archiver(database), stopping)
        if stopping.is_set():
            return
        log.info("archiving", cards=settings.cards)
        await Archiver(settings, redis, blocking, database).run(stopping)
    finally:
        with contextlib.suppress(TimeoutError, OSError, asyncpg.InterfaceError):
            await database.close(timeout=1)
