"""The archiver process: moves what {card}:events tells into PostgreSQL, then trims what is archived.

Delivery contract: rows and cursor are committed in one transaction, on the connection that holds the lock.
Killed before the commit, nothing of it is there and the next run reads the same events again; killed after it,
the cursor says so. A second archiver waits for the lock; a first one that lost its connection lost the lock
with it and cannot write.
"""

import asyncio
import contextlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import asyncpg
import structlog
from redis.asyncio import Redis

from archiver import history, lag, postgres, queries, schema, writer
from archiver.queries import Cursor
from archiver.reader import RowBuffer, feed, read_rows
from archiver.writer import RowBatch
from core.errors import HistoryConflict, StartError, TcgxError
from core.service import Backoff, cancel_and_wait, until_stopped
from core.settings import Settings
from engine import keys, library, nodes
from engine.connection import redis_errors
from engine.events import EventGap, EventReader
from engine.nodes import Nodes

log = structlog.get_logger()

TRIM_COMMANDS = 1_000
"""A card is trimmed when that many more of its commands are archived."""

LOCK_SECONDS = 0.2
"""How often an archiver that waits for the lock asks for it."""

STEADY_SECONDS = 5.0
"""After a round of so long the next failure pauses briefly again. A shorter one may have connected and read nothing."""


class Archiver:
    """Writes what the readers gather, one transaction at a time, and trims."""

    def __init__(
        self,
        settings: Settings,
        nodes: Nodes,
        database: asyncpg.Connection,
        *,
        pool: asyncpg.Pool,
        lines: lag.LagLines | None = None,
    ) -> None:
        """`database` is the connection that has the lock, and writes; `pool` reads beside it. `lines`: what was said of
        the lag before, while this one waited for the lock."""
        self._settings = settings
        self._nodes = nodes
        self._redis = nodes.commands
        self._database = database
        self._pool = pool
        self._lines = lines or lag.LagLines(bound_seconds=settings.archive_lag_seconds)
        self._archived: dict[str, Cursor] = {}
        self._histories: dict[str, str] = {}
        self._faults: dict[str, str] = {}
        self._trimmed: dict[str, int] = {}

    @property
    def cards(self) -> Iterable[str]:
        """Those that are archived."""
        return self._archived

    async def run(self, stopping: asyncio.Event) -> None:
        """Archives until told to stop, and then what is there at that moment. Call `compare` before.

        Raises:
            HistoryConflict: Redis has another history than it had.
            Unavailable: a server went away; starting again from the stored cursors is safe.
        """
        settings = self._settings
        buffer = RowBuffer(bytes_max=settings.archive_batch_bytes)
        pause_seconds = settings.archive_batch_ms / 1_000
        tasks = [
            asyncio.create_task(feed(buffer, self._events(card), pause_seconds=pause_seconds), name=f"read {card}")
            for card in self._archived
        ]
        tasks += [
            asyncio.create_task(postgres.end_of(self._database), name="end of the connection"),
            asyncio.create_task(lag.watch(self._redis, self._archived, self._lines), name="lag"),
            asyncio.create_task(self._watch_histories(), name="histories"),
        ]
        try:
            while not stopping.is_set():
                batch = await until_stopped(_next(buffer, tasks), stopping)
                if batch:
                    await self._write(batch)
                elif not stopping.is_set():
                    await postgres.beat(self._database)
        finally:
            await cancel_and_wait(*tasks)
        await self.flush()

    def _events(self, card: str) -> EventReader:
        after, batch_bytes = self._archived[card].event_id, self._settings.archive_batch_bytes
        return EventReader(self._nodes.of(card).blocking, card, after=after, batch_bytes=batch_bytes)

    async def _write(self, batch: Sequence[RowBatch]) -> None:
        """One transaction; then drops from Redis what need not be kept."""
        settings = self._settings
        cards = {rows.card for rows in batch}
        await self._check_histories(cards)
        await writer.insert(self._database, batch, {card: self._histories[card] for card in cards})
        self._archived |= {rows.card: rows.cursor for rows in batch}
        for card in cards:
            reached = self._archived[card].sequence
            if reached - self._trimmed.get(card, 0) < TRIM_COMMANDS:
                continue
            with redis_errors():
                await library.call(
                    self._redis, "trim", keys.tag(card), reached, settings.event_retention, settings.log_retention
                )
            self._trimmed[card] = reached

    async def flush(self) -> None:
        """Archives what is still there when the service stops, for half of the time that it may take to stop. What
        was read and not committed is read again."""
        now = asyncio.get_running_loop().time
        deadline = now() + self._settings.stop_seconds / 2
        for card in self._archived:
            events = self._events(card)
            try:
                while now() < deadline and (rows := await read_rows(events, wait=False)):
                    await self._write([rows])
            except EventGap as error:
                log.warning("not archived before the stop", card=card, reason=str(error))

    async def compare(self) -> dict[str, str]:
        """Learns where the archive of each card stands. What is wrong, by card; of those nothing is archived.

        Raises:
            HistoryConflict: something is wrong with every card.
        """
        compared_cards = await history.compare(self._redis, self._database, self._settings.cards)
        for card, compared in compared_cards.items():
            settled = await history.settle(self._redis, self._database, card, compared)
            if settled.verdict.fault:
                self._faults[card] = settled.verdict.sentence
                continue
            self._archived[card] = history.start(settled.found, settled.registered)
            self._histories[card] = settled.found.history_id
        if not self._archived:
            raise HistoryConflict("; ".join(self._faults.values()))
        return self._faults

    async def _watch_histories(self) -> None:
        """Ends, with a `HistoryConflict`, as soon as a card has another history than at the comparison, or one that had
        a fault has none any more: all is compared again then."""
        while True:
            await asyncio.sleep(history.LOOK_SECONDS)
            await self._check_histories(self._histories)
            if self._faults:
                compared = await history.compare(self._redis, self._pool, list(self._faults))
                settled = [card for card, comparison in compared.items() if not comparison.verdict.fault]
                if settled:
                    raise HistoryConflict(f"log and archive of {', '.join(settled)} belong together again")

    async def _check_histories(self, cards: Iterable[str]) -> None:
        """That these cards have the history that the archive has."""
        redis: Any = self._redis
        for card in cards:
            with redis_errors():
                found = await redis.hget(keys.key(card, "history"), "id")
            if (found or b"").decode() != self._histories[card]:
                raise HistoryConflict(f"Redis has another history of {card} than when the archiver began")


async def _next(buffer: RowBuffer, others: Sequence["asyncio.Task[None]"]) -> list[RowBatch]:
    """All rows of the buffer; nothing after `postgres.BEAT_SECONDS`; raises what one of the other tasks died of."""
    take = asyncio.ensure_future(buffer.take())
    try:
        while not take.done():
            for task in others:
                if task.done():
                    task.result()
            running = [task for task in others if not task.done()]
            done, _ = await asyncio.wait(
                {take, *running}, timeout=postgres.BEAT_SECONDS, return_when=asyncio.FIRST_COMPLETED
            )
            if not done:
                return []
        return await take
    finally:
        take.cancel()


async def work(settings: Settings, stopping: asyncio.Event) -> None:
    """The archiver service.

    Raises:
        StartError: a server is not fit for it, or migrations are missing.
    """
    backoff = Backoff(stopping)
    told: dict[str, str] = {}
    untraded: set[str] = set()
    now = asyncio.get_running_loop().time
    async with (
        nodes.connect(settings) as servers,
        postgres.pool(settings.database_url) as pool,
    ):
        while not stopping.is_set():
            began = now()
            try:
                await _archive(settings, (servers, pool), stopping, told, untraded)
            except StartError:
                raise
            except HistoryConflict as error:
                _tell(told, {"all": str(error)})
                await backoff.wait()
            except TcgxError as error:
                log.warning("archiving will be tried again", reason=str(error))
                if now() - began >= STEADY_SECONDS:
                    backoff.succeeded()
                await backoff.wait()
    log.info("stopped")


async def _archive(
    settings: Settings,
    clients: tuple[Nodes, asyncpg.Pool],
    stopping: asyncio.Event,
    told: dict[str, str],
    untraded: set[str],
) -> None:
    """One round. `told`: what stands still, as far as it was said; `untraded`: cards that were named already because
    they are not traded."""
    servers, pool = clients
    database = await postgres.connect(settings.database_url)
    try:
        await schema.check(database, settings.cards)
        others = set(await queries.untraded(database, settings.cards)) - untraded
        if others:
            untraded |= others
            log.warning("cards with orders are not traded any more, see TCGX_CARDS", cards=sorted(others))
        await servers.refuse_replicas()
        await servers.load_library()
        await postgres.end_with_client(database)
        lines = lag.LagLines(bound_seconds=settings.archive_lag_seconds)
        await until_stopped(_lock(settings, servers.commands, database, lines), stopping)
        if stopping.is_set():
            return
        archiver = Archiver(settings, servers, database, pool=pool, lines=lines)
        _tell(told, await archiver.compare())
        log.info("archiving", cards=list(archiver.cards))
        await archiver.run(stopping)
    finally:
        with contextlib.suppress(TimeoutError, OSError, asyncpg.InterfaceError):
            await database.close(timeout=1)


def _tell(told: dict[str, str], faults: Mapping[str, str]) -> None:
    """Says what stands still, once each."""
    for card, reason in faults.items():
        if told.get(card) != reason:
            log.error("archiving stands still", card=card, reason=reason)
    told.clear()
    told.update(faults)


async def _lock(settings: Settings, redis: Redis, database: asyncpg.Connection, lines: lag.LagLines) -> None:
    """Waits until this connection is the one that archives. How far the archive is behind is told meanwhile: whoever
    has the lock may be gone."""
    now = asyncio.get_running_loop().time
    looked = now()
    if await writer.lock_archiver(database):
        return
    log.info("waiting to be the one that archives")
    while not await writer.lock_archiver(database):
        if now() - looked >= lag.LOOK_SECONDS:
            looked = now()
            cursors = await queries.cursors(database)
            await lag.tell(redis, {card: cursors.get(card, queries.START) for card in settings.cards}, lines)
        await asyncio.sleep(LOCK_SECONDS)
