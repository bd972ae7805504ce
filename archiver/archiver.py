"""The archiver process: moves what {card}:events tells into PostgreSQL, then trims what is archived.

Delivery contract: rows and cursor are committed in one transaction, on the connection that holds the lock.
Killed before the commit, nothing of it is there and the next run reads the same events again; killed after it,
the cursor says so. A second archiver waits for the lock; a first one that lost its connection lost the lock
with it and cannot write.
"""

import asyncio
from collections.abc import Sequence
from typing import Any

import asyncpg
import structlog
from redis.asyncio import Redis

from archiver import schema, store
from archiver.store import Rows
from engine import connection, keys
from engine.connection import BLOCK_MS, understood
from engine.errors import StartError, TcgxError
from engine.life import Retry, unless_stopped
from engine.settings import Settings

log = structlog.get_logger()

QUEUED_MAX = 2
"""How many reads of a card wait for their transaction: the next is read while one is written."""


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
        self._event_id = entries[-1][0].decode()
        return Rows(
            card=self._card,
            trades=b"".join(fields.get(b"trades", b"") for _, fields in entries),
            orders=b"".join(fields.get(b"orders", b"") for _, fields in entries),
            event_id=self._event_id,
            sequence=int(self._event_id.partition("-")[0]),
        )

    async def run(self, queue: "asyncio.Queue[Rows]") -> None:
        """Feeds the queue for ever."""
        while True:
            rows = await self.read()
            if rows is not None:
                await queue.put(rows)


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
        archived = await store.cursors(self._database)
        await self._check_not_ahead(archived)
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
            for task in (gone, *readers):
                task.cancel()
            await asyncio.gather(gone, *readers, return_exceptions=True)

    async def _trim(self, batch: Sequence[Rows]) -> None:
        settings = self._settings
        with understood():
            for rows in {rows.card: rows for rows in batch}.values():
                await self._redis.fcall(
                    "trim", 1, keys.tag(rows.card), rows.sequence, settings.event_retention, settings.log_retention
                )

    async def _check_not_ahead(self, archived: dict[str, str]) -> None:
        """An archive that knows more than Redis would skip what Redis matches next."""
        for card, event_id in archived.items():
            if card not in self._settings.cards:
                continue
            with understood():
                matched = int(await self._redis.hget(keys.key(card, "cursor"), "sequence") or 0)
            sequence = int(event_id.partition("-")[0])
            if sequence > matched:
                raise StartError(
                    f"The archive of {card} stands at command {sequence} but Redis only at {matched}: this is another "
                    "or an older Redis than the one that was archived; archiving it would lose or mix up orders"
                )


async def _next(queue: "asyncio.Queue[Rows]", others: Sequence["asyncio.Task[None]"]) -> list[Rows]:
    """All that is queued, at least one; raises what one of the other tasks died of."""
    get = asyncio.ensure_future(queue.get())
    try:
        await asyncio.wait({get, *others}, return_when=asyncio.FIRST_COMPLETED)
        for task in others:
            if task.done():
                task.result()
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
        await database.close(timeout=1)
