"""Compares the log of a card in Redis with its archive in PostgreSQL: do both have the same history?

The comparison runs when a process starts, every two seconds, and with each batch of the archiver. It also runs if the
run of the server's library changes: after a restart, a restored copy, or a promoted replica. If the histories differ,
the API refuses orders and the archiver waits. `tcgx recover` then repairs the card.
"""

import asyncio
import contextlib
import time
from collections.abc import Sequence
from enum import StrEnum

import asyncpg
import msgspec
import structlog
from redis.asyncio import Redis

from archiver import queries, writer
from archiver.queries import START, ArchiveState, Cursor
from core import service
from core.errors import HistoryConflict, Overloaded, TcgxError, Unavailable
from engine import history
from engine.history import LogState

log = structlog.get_logger()

COMPARE_SECONDS = 2.0
COMPARE_SECONDS_AFTER_FAULT = 0.5
REGISTER_SECONDS = 0.2
"""The shortest interval at which an API process registers given sequences in the archive."""

UNREGISTERED_MAX = 1_000_000
"""The largest number of sequences that are given out and not registered. `tcgx recover` continues above them."""

JUMP = 100 * UNREGISTERED_MAX
"""The distance from the highest known sequence to the start of a history after a loss. It is large, since the archive
may be an old copy as well."""

SETTLE_SECONDS = 0.5
"""The time from a new run of the server to the first append. Within it the other API processes register what they were
given before, since a promoted replica may lack it."""

BESIDE_MAX = 50
"""The largest number of cards that are compared while an order of one of them waits."""

ANSWER_SECONDS = 1.0
"""The longest time that orders wait for PostgreSQL. Then the comparison continues without the archive."""

PROMOTED_SECONDS = 3.0
"""The same at a server that may be a promoted replica, where a comparison without the archive is not possible."""


class Fault(StrEnum):
    """The kinds of conflict between the log and the archive of a card."""

    FORMAT = "format"
    UNMARKED = "unmarked"
    EMPTY = "empty"
    OTHER = "other"
    OLDER = "older"
    DIVERGED = "diverged"
    ARCHIVE_OLDER = "archive_older"


class Verdict(msgspec.Struct, frozen=True):
    """The result of a comparison. Without a fault, log and archive match after the actions that the verdict requests.

    `begins`: the id of a history to begin in Redis.
    `registers`: whether to register the history of Redis in the archive.
    """

    fault: Fault | None = None
    sentence: str = ""
    begins: str = ""
    registers: bool = False


def start_cursor(log_state: LogState, archive_state: ArchiveState) -> Cursor:
    """The position after which a card is to be archived: the archive cursor, or the base of the history."""
    if archive_state.cursor is not None and archive_state.cursor_history_id == log_state.history_id:
        return archive_state.cursor
    return Cursor(f"{log_state.base}-0", START.log_id) if log_state.base else START


def judge(card: str, log_state: LogState, archive_state: ArchiveState) -> Verdict:
    """Compares log and archive of a card.

    The archive state must be read before the log state. The log state must be read with the event of the archive
    cursor.
    """
    fault = history.fault_of_format(card, log_state)
    if fault:
        return Verdict(Fault.FORMAT, fault)
    if not log_state.history_id:
        return _judge_unmarked(card, log_state, archive_state)
    if not archive_state.history_id:
        return _judge_unregistered(card, log_state, archive_state)
    if archive_state.history_id != log_state.history_id:
        return Verdict(
            Fault.OTHER,
            f"Redis has another history of {card} than the archive ({_short(log_state.history_id)} with "
            f"{log_state.sequence} commands, and {_short(archive_state.history_id)} with {archive_state.last}): "
            "TCGX_REDIS_URL or TCGX_DATABASE_URL names a server of another exchange, or one of them was set up anew; "
            "correct it, or run `tcgx recover`",
        )
    return _judge_end(card, log_state, archive_state) or _judge_events(card, log_state, archive_state)


def is_archivable(log_state: LogState, archive_state: ArchiveState) -> bool:
    """Whether the events of a card follow what is archived, although commands are lost that were not archived."""
    return (
        archive_state.history_id == log_state.history_id != ""
        and start_cursor(log_state, archive_state).sequence <= log_state.matched
        and not _judge_events("", log_state, archive_state).fault
    )


def _judge_unmarked(card: str, log_state: LogState, archive_state: ArchiveState) -> Verdict:
    """Redis has no history: it is new or emptied, or its data is older than histories."""
    if log_state.sequence:
        return Verdict(
            Fault.UNMARKED,
            f"the data of {card} in Redis was written before histories were kept: `tcgx migrate` gives it one",
        )
    if not archive_state.last:
        return Verdict(begins=archive_state.history_id or history.new_id())
    return Verdict(
        Fault.EMPTY,
        f"Redis has nothing of {card}, and the archive knows of {archive_state.last} commands: TCGX_REDIS_URL names "
        "another server, or its data was lost; restore it, or run `tcgx recover`",
    )


def _judge_unregistered(card: str, log_state: LogState, archive_state: ArchiveState) -> Verdict:
    """The archive has no history: it is new, or older than histories."""
    if archive_state.cursor is not None:
        return Verdict(
            Fault.UNMARKED, f"the archive of {card} was written before histories were kept: run `tcgx migrate`"
        )
    if _is_complete(log_state, log_state.base):
        return Verdict(registers=True)
    return _archive_older(card, log_state, log_state.base)


def _judge_end(card: str, log_state: LogState, archive_state: ArchiveState) -> Verdict | None:
    """Log and archive have the same history. A fault if the log has lost its end."""
    if log_state.sequence < archive_state.last:
        return _older(card, log_state, archive_state.last)
    if log_state.lost:
        return _lost(card, log_state.kept, log_state.lost)
    return None


def _judge_events(card: str, log_state: LogState, archive_state: ArchiveState) -> Verdict:
    reached = start_cursor(log_state, archive_state)
    if reached.sequence > log_state.base and log_state.event_log_id and log_state.event_log_id != reached.log_id:
        return Verdict(
            Fault.DIVERGED,
            f"the archive of {card} ends with event {reached.event_id} of log entry {reached.log_id}, which Redis made "
            f"of another one ({log_state.event_log_id}): they parted before; run `tcgx recover`",
        )
    if _is_complete(log_state, reached.sequence):
        return Verdict()
    if 0 < log_state.next_first <= reached.sequence:
        return Verdict(
            Fault.OLDER,
            f"the archive of {card} ends with command {reached.sequence}, within an event of Redis that begins with "
            f"{log_state.next_first}: Redis has lost events that were archived, and matched their commands again; run "
            "`tcgx recover`",
        )
    return _archive_older(card, log_state, reached.sequence)


def _is_complete(log_state: LogState, archived: int) -> bool:
    """Whether Redis still has all events after the last archived command."""
    return log_state.next_first == archived + 1 if log_state.next_first else log_state.matched == archived


def _archive_older(card: str, log_state: LogState, archived: int) -> Verdict:
    first_kept = log_state.next_first or log_state.matched + 1
    return Verdict(
        Fault.ARCHIVE_OLDER,
        f"the archive of {card} ends with command {archived}, and Redis has no longer what comes next (only from "
        f"{first_kept} on): the archive is older than the log; restore a newer copy of "
        "PostgreSQL, or run `tcgx recover`",
    )


def _short(history_id: str) -> str:
    return history_id[:8]


class Comparison(msgspec.Struct, frozen=True):
    """The states of log and archive of a card, and the verdict on them."""

    log_state: LogState
    archive_state: ArchiveState
    verdict: Verdict


async def compare(
    redis: Redis, database: asyncpg.Connection | asyncpg.Pool, cards: Sequence[str]
) -> dict[str, Comparison]:
    """Compares log and archive of cards. A fault is checked twice, since states may change between two reads.

    Raises:
        Unavailable: a server does not answer.
    """
    comparisons = await _compare(redis, database, cards)
    faulty = [card for card, comparison in comparisons.items() if comparison.verdict.fault]
    return comparisons | await _compare(redis, database, faulty) if faulty else comparisons


async def _compare(
    redis: Redis, database: asyncpg.Connection | asyncpg.Pool, cards: Sequence[str]
) -> dict[str, Comparison]:
    # The archive is read first: Redis must then have everything that the archive has.
    states = await queries.archive_states(database, cards)
    comparisons = {}
    for card in cards:
        archive_state = states[card]
        event_id = archive_state.cursor.event_id if archive_state.cursor else ""
        log_state = await history.read_log_state(redis, card, event_id or "0-0")
        if not archive_state.cursor and log_state.base:
            log_state = await history.read_log_state(redis, card, f"{log_state.base}-0")
        comparisons[card] = Comparison(log_state, archive_state, judge(card, log_state, archive_state))
    return comparisons


async def reconcile(
    redis: Redis, database: asyncpg.Connection | asyncpg.Pool, card: str, comparison: Comparison
) -> Comparison:
    """Begins or registers a history, as a verdict without a fault requests. Returns the comparison after that.

    The archive is written first. If the process is killed in between, the next one begins the registered history.
    """
    verdict, log_state = comparison.verdict, comparison.log_state
    if verdict.begins:
        history_id = await writer.register(database, card, verdict.begins, base=0, given=0)
        await history.begin(redis, card, ended="", history_id=history_id)
    elif verdict.registers:
        await writer.register(database, card, log_state.history_id, base=log_state.base, given=log_state.sequence)
    else:
        return comparison
    return (await _compare(redis, database, [card]))[card]


class ArchivedHistory:
    """Supplies marks to an order log after log and archive have been compared.

    If PostgreSQL does not answer, a process that has compared before continues with its own records. They have the
    history of each card and the given sequences.
    """

    def __init__(
        self, redis: Redis, pool: asyncpg.Pool, cards: Sequence[str], *, may_be_promoted: bool = False
    ) -> None:
        """`may_be_promoted`: a replica may take the place of the server, and lack what other processes were given.

        So PostgreSQL has to answer after each change of the run, and the new run is adopted (lua/adopt.lua).
        """
        self._redis = redis
        self._may_be_promoted = may_be_promoted
        self._pool = pool
        self._cards = tuple(cards)
        self._marks: dict[str, str] = {}
        self._last_states: dict[str, LogState] = {}  # of the last comparison
        self._began: dict[str, float] = {}  # when this process first met the run of each card
        self._given = dict.fromkeys(cards, 0)
        self._unconfirmed: dict[str, int] = {}
        self._adopted: dict[str, str] = {}  # the mark of each card's adopted run
        self._late: dict[str, int] = {}  # acknowledged by a server of an earlier run than the adopted one
        self._registered = dict.fromkeys(cards, 0)
        self._archive_history_ids: dict[str, str] = {}
        self._compare_lock = asyncio.Lock()
        self._without_archive_until = 0.0
        self._to_register = asyncio.Event()
        self.last_ms = 0
        self.faults: dict[str, str] = {}
        """A sentence for each card with a fault."""

    async def mark(self, card: str) -> str:
        """The mark for an append to a card; compares the card first if there is no mark.

        Raises:
            HistoryConflict: log and archive have different histories.
            Overloaded: too many sequences are not registered in the archive.
            Unavailable: Redis does not answer, or PostgreSQL has never answered.
        """
        mark = self._marks.get(card)
        if mark is None and card not in self.faults:
            await self._compare_card(card)
            mark = self._marks.get(card)
            if mark is None and self._settles_in(card) > 0:
                await asyncio.sleep(self._settles_in(card))
                await self._compare_card(card)
                mark = self._marks.get(card)
        if mark is None:
            raise HistoryConflict(self.faults.get(card, f"the history of {card} is not known yet"))
        if self._given[card] - self._registered[card] > UNREGISTERED_MAX:
            raise Overloaded(self._obstacle(card))
        return mark

    def obstacles(self) -> dict[str, str]:
        """For each card why its orders are refused although its history has no fault; empty if they are not."""
        return {card: self._obstacle(card) for card in self._cards}

    def _obstacle(self, card: str) -> str:
        if card not in self._last_states and card not in self.faults:
            return f"the log of {card} was not compared with the archive yet, for which PostgreSQL must answer once"
        if self._given[card] - self._registered[card] > UNREGISTERED_MAX:
            return f"PostgreSQL has not heard of the last {UNREGISTERED_MAX} commands of {card}, and must answer first"
        return ""

    def forget(self, card: str) -> None:
        """Discards the mark of a card, since the server was restarted or replaced."""
        self._marks.pop(card, None)

    def record_sequence(self, card: str, sequence: int, mark: str = "") -> None:
        """Records a given sequence, to be registered in the archive."""
        if mark and mark != self._adopted.get(card, mark):  # a demoted server has answered late
            self._late[card] = max(sequence, self._late.get(card, 0))
        elif sequence > self._given[card]:
            self._given[card] = sequence
            self._to_register.set()

    def record_unconfirmed(self, card: str, sequence: int) -> None:
        """Records a given sequence that is not acknowledged. A failover may lose it, and its id is not given again."""
        self._unconfirmed[card] = max(sequence, self._unconfirmed.get(card, 0))

    def record_confirmed(self, card: str) -> None:
        """Records that replicas have what was not acknowledged before: a repeat of it is answered from now on."""
        if card in self._unconfirmed:
            self.record_sequence(card, self._unconfirmed.pop(card))

    async def run(self, stopping: asyncio.Event) -> None:
        """Compares all cards every two seconds and registers given sequences, until the stop."""
        await asyncio.gather(self._compare_always(stopping), self._register_always(stopping))
        with contextlib.suppress(TcgxError, TimeoutError):
            async with asyncio.timeout(ANSWER_SECONDS):
                await self.register()

    async def _compare_always(self, stopping: asyncio.Event) -> None:
        while not stopping.is_set():
            try:
                async with self._compare_lock:
                    await self._compare_with_archive(self._cards)
            except TcgxError as error:
                log.debug("log and archive could not be compared", reason=str(error))
            pause_seconds = COMPARE_SECONDS_AFTER_FAULT if self.faults else COMPARE_SECONDS
            await service.until_stopped(asyncio.sleep(pause_seconds), stopping)

    async def _compare_card(self, card: str) -> None:
        """Compares a card and records the result. An order waits for it, so it may continue without PostgreSQL.

        Raises:
            Unavailable: Redis does not answer, or PostgreSQL has never answered.
        """
        now = asyncio.get_running_loop().time
        if now() >= self._without_archive_until:
            seconds = PROMOTED_SECONDS if self._may_be_promoted else ANSWER_SECONDS
            try:
                async with asyncio.timeout(seconds), self._compare_lock:
                    await self._compare_with_archive(self._beside(card))
                    return
            except (Unavailable, TimeoutError):
                await history.read_log_state(self._redis, card)  # raises if Redis is the server that does not answer
                if not self._may_be_promoted:
                    self._without_archive_until = now() + ANSWER_SECONDS
        await self._compare_without_archive(card)

    def _beside(self, card: str) -> list[str]:
        """The card, and others that were on the same server: if its run has changed, all of them settle at once."""
        run = self._run_of(card)
        others = [each for each in self._cards if each != card and each not in self.faults]
        return [card, *(each for each in others if self._run_of(each) == run)][:BESIDE_MAX]

    def _run_of(self, card: str) -> str:
        state = self._last_states.get(card)
        return state.mark.rpartition(" ")[2] if state else ""

    async def _compare_with_archive(self, cards: Sequence[str]) -> None:
        given = dict(self._given)  # read before Redis, whose reply need not include later sequences
        for card, comparison in (await compare(self._redis, self._pool, cards)).items():
            await self._record(card, await reconcile(self._redis, self._pool, card, comparison), given[card])

    async def _record(self, card: str, comparison: Comparison, given: int) -> None:
        log_state, verdict = comparison.log_state, comparison.verdict
        self._archive_history_ids[card] = comparison.archive_state.history_id
        self._registered[card] = comparison.archive_state.last
        if self._given[card] > comparison.archive_state.last:
            self._to_register.set()  # an older copy of the archive lacks registered sequences
        if not verdict.fault and log_state.sequence < given:
            verdict = _older(card, log_state, given)
        if verdict.fault:
            self._refuse(card, verdict)
            return
        if self.faults.pop(card, None):
            log.info("orders are taken again", card=card)
        self._meet(card, log_state)
        if not self._may_be_promoted:
            self._given[card] = max(self._given[card], log_state.sequence)
        if self._settles_in(card) <= 0 and await self._is_adopted(card, log_state.mark):
            self._marks[card] = log_state.mark

    async def _is_adopted(self, card: str, mark: str) -> bool:
        """Adopts the run of a server that may be a promoted replica. False if it lacks acknowledged commands."""
        late = self._late.get(card, 0)
        if not self._may_be_promoted or (self._adopted.get(card) == mark and not late):
            return True
        is_adopted, given = self._adopted.get(card) == mark, self._given[card]
        acknowledged = late if is_adopted else max(late, given)
        known = max(acknowledged, self._unconfirmed.get(card, 0))
        kept, lost = await history.adopt(self._redis, card, mark, acknowledged=acknowledged, known=known)
        self._adopted[card] = mark
        if self._late.get(card) == late:
            self._late.pop(card, None)
        if not is_adopted:
            self._unconfirmed.pop(card, None)
            if self._given[card] > given:  # meanwhile a demoted server has answered
                self._late[card] = self._given[card]
        if lost:
            self._refuse(card, _lost(card, kept, lost))
        return not lost

    def _meet(self, card: str, log_state: LogState) -> None:
        """Records the state of the log, and when its run was first met."""
        last_state = self._last_states.get(card)
        now = asyncio.get_running_loop().time()
        if last_state is None:
            # A process that starts waits only beside a server that is new as well.
            self._began[card] = now if abs(time.time() - log_state.run_at) < SETTLE_SECONDS else now - SETTLE_SECONDS
        elif last_state.mark != log_state.mark:
            self._marks.pop(card, None)
            self._began[card] = now
        self._last_states[card] = log_state

    def _settles_in(self, card: str) -> float:
        """Seconds until appends to the run of a card may begin."""
        began = self._began.get(card)
        return 0.0 if began is None else began + SETTLE_SECONDS - asyncio.get_running_loop().time()

    async def _compare_without_archive(self, card: str) -> None:
        """Compares the log with the records of this process, without the archive."""
        last_state = self._last_states.get(card)
        if last_state is None:
            raise Unavailable(
                f"PostgreSQL has not answered since this process started, and it alone knows which order ids of {card} "
                "were given out"
            )
        if card in self.faults:
            return
        given = self._given[card]
        log_state = await history.read_log_state(self._redis, card)
        if self._may_be_promoted and log_state.mark != self._adopted.get(card):
            raise Unavailable(
                f"the primary of {card} has changed, and PostgreSQL, which alone knows all order ids that were given "
                "out, could not be asked yet"
            )
        if log_state.history_id == last_state.history_id and log_state.sequence >= given:
            self._marks[card] = log_state.mark
        else:
            self._refuse(card, _older(card, log_state, given))

    def _refuse(self, card: str, verdict: Verdict) -> None:
        self._marks.pop(card, None)
        if self.faults.get(card) != verdict.sentence:
            log.error("orders are refused", card=card, fault=verdict.fault, reason=verdict.sentence)
        self.faults[card] = verdict.sentence

    async def _register_always(self, stopping: asyncio.Event) -> None:
        while not stopping.is_set():
            await service.until_stopped(self._to_register.wait(), stopping)
            self._to_register.clear()
            try:
                await self.register()
            except TcgxError as error:
                log.debug("PostgreSQL was not told what was given out", reason=str(error))
                self._to_register.set()
            await service.until_stopped(asyncio.sleep(REGISTER_SECONDS), stopping)

    async def register(self) -> None:
        """Registers given sequences in the archive.

        Raises:
            Unavailable: PostgreSQL does not answer.
        """
        news = {
            card: (self._archive_history_ids[card], given)
            for card, given in self._given.items()
            if given > self._registered[card] and self._archive_history_ids.get(card)
        }
        if news:
            await writer.record_given(self._pool, news)
            for card, (_, given) in news.items():
                self._registered[card] = max(self._registered[card], given)


def _lost(card: str, kept: int, lost: int) -> Verdict:
    return Verdict(
        Fault.OLDER,
        f"a failover has lost acknowledged commands of {card}: the promoted replica had commands up to {kept}, and "
        f"{lost} were given out; run `tcgx recover`",
    )


def _older(card: str, log_state: LogState, given: int) -> Verdict:
    return Verdict(
        Fault.OLDER,
        f"Redis has lost the end of the log of {card}: it ends with command {log_state.sequence}, and {given} were "
        "given out; restore a newer copy of Redis, or run `tcgx recover`",
    )
