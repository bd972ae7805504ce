"""The archiver process: it copies rows from {card}:events into PostgreSQL, then trims archived commands in Redis.

Delivery contract: rows and cursor are committed in one transaction, on the connection that holds the lock. If the
archiver is killed before the commit, the next run reads the same events again. If it is killed after the commit, the
cursor is already behind them. A second archiver waits for the lock. An archiver that loses its connection also loses
the lock, so it cannot write.
"""

import asyncio
import contextlib
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import asyncpg
import structlog
from redis.asyncio import Redis

from archiver import candles, history, lag, metrics, postgres, queries, schema, writer
from archiver.queries import Cursor
from archiver.reader import RowBuffer, feed, read_rows
from archiver.writer import RowBatch
from core.errors import HistoryConflict, StartError, TcgxError, Unavailable
from core.heartbeat import Progress
from core.log_limit import RateLimitedLog
from core.service import Backoff, cancel_and_wait, tell_ready, until_stopped, wait_at_start
from core.settings import Settings
from engine import heartbeat, keys, library, nodes, replica_acks
from engine.connection import redis_errors
from engine.events import EventGap, EventReader
from engine.history import read_log_state
from engine.nodes import Nodes
from observe import exposition

log = structlog.get_logger()
rate_limited_log = RateLimitedLog(log)

TRIM_COMMANDS = 1_000
"""A card is trimmed after this many further archived commands."""

TRIM_SECONDS = 3.0
"""Each card is trimmed at the start and then at this interval, also while nothing is archived. So a lower retention, or
a server whose memory is full, needs no further transaction."""

LOCK_SECONDS = 0.2
"""The interval at which a waiting archiver tries to take the lock."""

CONNECTING, STANDBY, RETRYING = "connecting", "standby", "retrying"
READING, WRITING, TRIMMING = "reading", "writing", "trimming"
"""The activities of an archiver. `WRITING` waits for PostgreSQL, `READING` and `TRIMMING` for Redis."""

ARCHIVING = (READING, WRITING, TRIMMING)
"""The activities of the archiver that holds the lock."""

STEADY_SECONDS = 5.0
"""A round of at least this length resets the backoff. A shorter one may have done no work."""


class Archiver:
    """Writes the rows of all cards, one transaction at a time, and trims Redis."""

    def __init__(
        self,
        settings: Settings,
        nodes: Nodes,
        database: asyncpg.Connection,
        *,
        pool: asyncpg.Pool,
        lag_reporter: lag.LagReporter | None = None,
        progress: Progress | None = None,
    ) -> None:
        """`database`: the connection that holds the lock and writes. `pool`: connections for reads.

        `lag_reporter`: the reporter that was used while this archiver waited for the lock. `progress` gets each step.
        """
        self._settings = settings
        self._nodes = nodes
        self._redis = nodes.commands
        self._database = database
        self._pool = pool
        self._lag_reporter = lag_reporter or lag.LagReporter(bound_seconds=settings.archive_lag_seconds)
        self._progress = progress or Progress()
        self._archived: dict[str, Cursor] = {}
        self._histories: dict[str, str] = {}
        self._marks: dict[str, str] = {}
        self._faults: dict[str, str] = {}
        self._trimmed: dict[str, int] = {}
        self._is_trim_due = asyncio.Event()
        self._acks = replica_acks.AcksOfNodes(settings, nodes)

    @property
    def cards(self) -> Iterable[str]:
        """The cards that are archived, without those that have a fault."""
        return self._archived

    async def run(self, stopping: asyncio.Event) -> None:
        """Archives until the stop, and then the rows that exist at that moment. `compare` must be called before.

        Raises:
            HistoryConflict: the history of a card in Redis has changed.
            Unavailable: a server does not answer; a new run continues at the stored cursors.
        """
        settings = self._settings
        buffer = RowBuffer(bytes_max=settings.archive_batch_bytes)
        pause_seconds = settings.archive_batch_ms / 1_000
        metrics.state.begin(self._archived)
        tasks = [
            asyncio.create_task(feed(buffer, self._events(card), pause_seconds=pause_seconds), name=f"read {card}")
            for card in self._archived
        ]
        tasks += [
            asyncio.create_task(postgres.watch_termination(self._database), name="end of the connection"),
            asyncio.create_task(lag.report_continuously(self._redis, self._archived, self._lag_reporter), name="lag"),
            asyncio.create_task(self._watch_histories(), name="histories"),
            asyncio.create_task(self._trim_continuously(), name="trim"),
        ]
        try:
            while not stopping.is_set():
                self._progress.begin(READING)
                batch = await until_stopped(_next_batch(buffer, tasks), stopping)
                if batch:
                    await self._write(batch)
                elif not stopping.is_set():
                    self._progress.begin(WRITING)
                    await postgres.send_heartbeat(self._database)
        finally:
            await cancel_and_wait(*tasks)
        await self.flush()

    def _events(self, card: str) -> EventReader:
        after, batch_bytes = self._archived[card].event_id, self._settings.archive_batch_bytes
        return EventReader(self._nodes.of(card).blocking, card, after=after, batch_bytes=batch_bytes)

    async def _write(self, batch: Sequence[RowBatch]) -> None:
        """Writes a batch in one transaction."""
        cards = {rows.card for rows in batch}
        await self._acks.confirm(cards)  # after a failover, Redis must still have all that the archive has
        await self._check_histories(cards)  # after that, since another server may have confirmed
        self._progress.begin(WRITING)
        began_at = time.perf_counter()
        await writer.insert(self._database, batch, {card: self._histories[card] for card in cards})
        metrics.state.wrote(batch, began_at)
        self._progress.begin(TRIMMING)
        self._archived |= {rows.card: rows.cursor for rows in batch}
        for card in cards:
            if self._archived[card].sequence - self._trimmed.get(card, 0) >= TRIM_COMMANDS:
                self._is_trim_due.set()

    async def _trim_continuously(self) -> None:
        """Trims all cards at once, after `TRIM_COMMANDS` commands of a card, and every `TRIM_SECONDS`."""
        while True:
            self._is_trim_due.clear()
            for card in list(self._archived):
                await self._trim(card)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(TRIM_SECONDS):
                    await self._is_trim_due.wait()

    async def _trim(self, card: str) -> None:
        """Trims events and log of a card. Each call drops a bounded number of entries, and others are served between.

        Raises:
            HistoryConflict: Redis has another history, which the archive does not have.
            Unavailable: Redis does not answer, or is another server.
        """
        archived = self._archived[card].sequence
        retentions = self._settings.event_retention, self._settings.log_retention
        has_more = True
        while has_more:
            await self._check_histories([card])
            with redis_errors():
                _, _, has_more = await library.call(self._redis, "trim", keys.tag(card), archived, *retentions)
        self._trimmed[card] = archived

    async def flush(self) -> None:
        """Archives remaining rows when the service stops, for at most half of `stop_seconds`.

        Rows that were read and not committed are read again.
        """
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
        """Compares log and archive of each card, and reads the cursors.

        Returns a sentence for each card with a fault. Such a card is not archived.

        Raises:
            HistoryConflict: every card has a fault.
            Unavailable: a server does not answer.
        """
        comparisons = await history.compare(self._redis, self._database, self._settings.cards)
        for card, comparison in comparisons.items():
            reconciled = await history.reconcile(self._redis, self._database, card, comparison)
            log_state, archive_state, verdict = reconciled.log_state, reconciled.archive_state, reconciled.verdict
            # Of a log that has lost its end, the archive gets what is left, before `tcgx recover` continues above it.
            is_left = verdict.fault is history.Fault.OLDER and history.is_archivable(log_state, archive_state)
            if verdict.fault and not is_left:
                self._faults[card] = verdict.sentence
                continue
            self._archived[card] = history.start_cursor(log_state, archive_state)
            self._histories[card] = log_state.history_id
            self._marks[card] = log_state.mark
        if not self._archived:
            raise HistoryConflict("; ".join(self._faults.values()))
        return self._faults

    async def _watch_histories(self) -> None:
        """Watches the histories of all cards, so that changes lead to a new comparison.

        Raises:
            HistoryConflict: a history has changed, or a card with a fault has none any more.
        """
        while True:
            await asyncio.sleep(history.COMPARE_SECONDS)
            await self._check_histories(self._histories)
            if self._faults:
                comparisons = await history.compare(self._redis, self._pool, list(self._faults))
                consistent = [card for card, comparison in comparisons.items() if not comparison.verdict.fault]
                if consistent:
                    raise HistoryConflict(f"log and archive of {', '.join(consistent)} belong together again")

    async def _check_histories(self, cards: Iterable[str]) -> None:
        """Checks that these cards still have the history that the archive has, on the server of the comparison.

        What was read from a server that is replaced meanwhile may be missing on the new one.
        """
        for card in cards:
            log_state = await read_log_state(self._redis, card)
            if log_state.history_id != self._histories[card]:
                raise HistoryConflict(f"Redis has another history of {card} than when the archiver began")
            if log_state.mark != self._marks[card]:
                raise Unavailable("Redis was restarted or replaced, and is compared with the archive again")


async def _next_batch(buffer: RowBuffer, others: Sequence["asyncio.Task[None]"]) -> list[RowBatch]:
    """Waits for rows and takes all of them. Empty after `postgres.HEARTBEAT_SECONDS`.

    An error that ended one of the other tasks is raised here.
    """
    take = asyncio.ensure_future(buffer.take())
    try:
        while not take.done():
            for task in others:
                if task.done():
                    task.result()
            running = [task for task in others if not task.done()]
            done, _ = await asyncio.wait(
                {take, *running}, timeout=postgres.HEARTBEAT_SECONDS, return_when=asyncio.FIRST_COMPLETED
            )
            if not done:
                return []
        return await take
    finally:
        take.cancel()


async def work(settings: Settings, stopping: asyncio.Event, progress: Progress | None = None) -> None:
    """The archiver service. `progress` gets each step.

    Raises:
        StartError: a server fails a check, or migrations are missing.
    """
    backoff = Backoff(stopping)
    progress = progress or Progress()
    reported = _Reported({}, set())
    now = asyncio.get_running_loop().time
    async with (
        nodes.connect(settings) as servers,
        postgres.pool(settings.database_url) as pool,
        heartbeat.sent_to_redis(settings, "archiver", progress),
        exposition.serving(settings, "archiver", [metrics.state.archive_state], progress),
    ):
        while not stopping.is_set():
            began = now()
            try:
                await _archive(settings, (servers, pool), stopping, (reported, progress))
            except StartError:
                raise
            except HistoryConflict as error:
                progress.begin(RETRYING)
                metrics.state.ended(failed=True)
                _report_faults(reported.faults, {"all": str(error)})
                await backoff.wait()
            except TcgxError as error:
                progress.begin(RETRYING)
                metrics.state.ended(failed=True)
                rate_limited_log.warning("archiving will be tried again", reason=str(error))
                if now() - began >= STEADY_SECONDS:
                    backoff.succeeded()
                await backoff.wait()
    log.info("stopped")


class _Reported(NamedTuple):
    """Log lines that must not be repeated: the reported fault of each card, and the reported untraded cards."""

    faults: dict[str, str]
    untraded_cards: set[str]


async def _archive(
    settings: Settings,
    clients: tuple[Nodes, asyncpg.Pool],
    stopping: asyncio.Event,
    states: tuple[_Reported, Progress],
) -> None:
    """One round: connects, waits for the lock, and archives until the stop or an error."""
    servers, pool = clients
    reported, progress = states
    progress.begin(CONNECTING)
    database = await postgres.connect(settings.database_url)
    try:
        await _wait_for_migrations(settings, database, stopping, progress)
        if stopping.is_set():
            return
        await schema.check(database, settings.cards)
        await _report_untraded_cards(settings, database, reported.untraded_cards)
        await servers.refuse_replicas()
        await servers.load_library()
        await postgres.set_session_timeouts(database)
        tell_ready(settings, progress)  # all that follows waits for the lock, which the predecessor may hold
        reporter = lag.LagReporter(bound_seconds=settings.archive_lag_seconds)
        await until_stopped(_lock(settings, servers.commands, (database, reporter), progress), stopping)
        if stopping.is_set():
            return
        await _catch_up_candles(database, settings.cards, progress)
        archiver = Archiver(settings, servers, database, pool=pool, lag_reporter=reporter, progress=progress)
        progress.begin(CONNECTING)
        _report_faults(reported.faults, await archiver.compare())
        rate_limited_log.info("archiving", cards=list(archiver.cards))
        await archiver.run(stopping)
    finally:
        with contextlib.suppress(TimeoutError, OSError, asyncpg.InterfaceError):
            await database.close(timeout=1)


async def _catch_up_candles(database: asyncpg.Connection, cards: Sequence[str], progress: Progress) -> None:
    """Adds to candles what an earlier version has archived without them. `tcgx migrate` leaves nothing to do."""
    progress.begin(WRITING)
    await candles.prepare(database)
    left = await candles.missing(database, cards)
    if not left:
        return

    def added(count: int) -> None:
        nonlocal left
        left -= count
        progress.begin(WRITING)
        rate_limited_log.info("making candles of earlier trades", left=left)

    await candles.catch_up(database, cards, added)


async def _report_untraded_cards(settings: Settings, database: asyncpg.Connection, reported: set[str]) -> None:
    """Logs cards that have archived orders and are not traded, each once."""
    new = set(await queries.untraded_cards(database, settings.cards)) - reported
    if new:
        reported |= new
        log.warning("cards with orders are not traded any more, see TCGX_CARDS", cards=sorted(new))


def _report_faults(reported: dict[str, str], faults: Mapping[str, str]) -> None:
    """Logs faults that are not in `reported`, which then has the current ones."""
    for card, reason in faults.items():
        if reported.get(card) != reason:
            log.error("archiving stands still", card=card, reason=reason)
    reported.clear()
    reported.update(faults)


async def _wait_for_migrations(
    settings: Settings, database: asyncpg.Connection, stopping: asyncio.Event, progress: Progress
) -> None:
    async def find_reason() -> str:
        progress.begin(CONNECTING)
        return await schema.why_not(database, settings.cards)

    await wait_at_start("waiting for migrations", find_reason, settings.start_seconds, stopping)


async def _lock(
    settings: Settings, redis: Redis, waiting: tuple[asyncpg.Connection, lag.LagReporter], progress: Progress
) -> None:
    """Waits until this connection holds the lock. Reports the lag meanwhile, since the holder of the lock may hang."""
    database, reporter = waiting
    now = asyncio.get_running_loop().time
    measured_at = now()
    if await writer.lock_archiver(database):
        return
    rate_limited_log.info("waiting to be the one that archives")
    while not await writer.lock_archiver(database):
        progress.begin(STANDBY)
        if now() - measured_at >= lag.MEASURE_SECONDS:
            measured_at = now()
            cursors = await queries.cursors(database)
            archived = {card: cursors.get(card, queries.START) for card in settings.cards}
            await lag.report_once(redis, archived, reporter)
        await asyncio.sleep(LOCK_SECONDS)
