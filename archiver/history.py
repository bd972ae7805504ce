"""Whether a card's log in Redis and its archive in PostgreSQL belong together.

They are compared wherever they meet: when a process starts, whenever the server's library is another run than before
(a restart, a restored copy, a promoted replica), every two seconds, and with each batch of the archiver. Where they do
not belong together nothing is mixed: orders are refused, the archiver waits, and `tcgx recover` is the way out.
"""

import asyncio
import contextlib
from collections.abc import Sequence
from enum import StrEnum

import asyncpg
import msgspec
import structlog
from redis.asyncio import Redis

from archiver import queries, writer
from archiver.queries import START, Cursor, Registered
from core import service
from core.errors import HistoryConflict, Overloaded, TcgxError, Unavailable
from engine import history
from engine.history import Found

log = structlog.get_logger()

LOOK_SECONDS = 2.0
FAULTY_LOOK_SECONDS = 0.5
REGISTER_SECONDS = 0.2
"""How often an API process tells the archive which sequences were given out, at most."""

UNREGISTERED_MAX = 1_000_000
"""So many sequences may be given out that the archive does not know of: `tcgx recover` goes on above them."""

JUMP = 100 * UNREGISTERED_MAX
"""How far above all that is known a history begins that follows a loss: the archive may be an old copy, too."""

ANSWER_SECONDS = 1.0
"""How long orders wait for PostgreSQL before its answer is done without."""


class Fault(StrEnum):
    """What is wrong between a card's log and its archive."""

    FORMAT = "format"
    UNMARKED = "unmarked"
    EMPTY = "empty"
    OTHER = "other"
    OLDER = "older"
    DIVERGED = "diverged"
    ARCHIVE_OLDER = "archive_older"


class Verdict(msgspec.Struct, frozen=True):
    """What a comparison has found. Without a fault they belong together, as soon as what is named here is done:
    `begins` a history in Redis with this id, `registers` the one of Redis in the archive."""

    fault: Fault | None = None
    sentence: str = ""
    begins: str = ""
    registers: bool = False


def start(found: Found, registered: Registered) -> Cursor:
    """Where the archive of a card stands: at its cursor, or before the history's first command."""
    if registered.cursor is not None and registered.cursor_history_id == found.history_id:
        return registered.cursor
    return Cursor(f"{found.base}-0", START.log_id) if found.base else START


def judge(card: str, found: Found, registered: Registered) -> Verdict:
    """Compares a card's log with its archive, of which the archive was read first.

    `registered`: what the archive has; `found`: what Redis has, asked for the event that the archive's cursor names.
    """
    fault = history.fault_of_format(card, found)
    if fault:
        return Verdict(Fault.FORMAT, fault)
    if not found.history_id:
        return _judge_unmarked(card, found, registered)
    if not registered.history_id:
        return _judge_unregistered(card, found, registered)
    if registered.history_id != found.history_id:
        return Verdict(
            Fault.OTHER,
            f"Redis has another history of {card} than the archive ({_short(found.history_id)} with {found.sequence} "
            f"commands, and {_short(registered.history_id)} with {registered.last}): TCGX_REDIS_URL or "
            "TCGX_DATABASE_URL names a server of another exchange, or one of them was set up anew; correct it, or run "
            "`tcgx recover`",
        )
    if found.sequence < registered.last:
        return _older(card, found, registered.last)
    return _judge_events(card, found, registered)


def _judge_unmarked(card: str, found: Found, registered: Registered) -> Verdict:
    """Redis names no history: it is new, emptied, or from before there were any."""
    if found.sequence:
        return Verdict(
            Fault.UNMARKED,
            f"the data of {card} in Redis was written before histories were kept: `tcgx migrate` gives it one",
        )
    if not registered.last:
        return Verdict(begins=registered.history_id or history.new_id())
    return Verdict(
        Fault.EMPTY,
        f"Redis has nothing of {card}, and the archive knows of {registered.last} commands: TCGX_REDIS_URL names "
        "another server, or its data was lost; restore it, or run `tcgx recover`",
    )


def _judge_unregistered(card: str, found: Found, registered: Registered) -> Verdict:
    """The archive names no history: it is new, or from before there were any."""
    if registered.cursor is not None:
        return Verdict(
            Fault.UNMARKED, f"the archive of {card} was written before histories were kept: run `tcgx migrate`"
        )
    if _is_complete(found, found.base):
        return Verdict(registers=True)
    return _archive_older(card, found, found.base)


def _judge_events(card: str, found: Found, registered: Registered) -> Verdict:
    reached = start(found, registered)
    if reached.sequence > found.base and found.event_log_id and found.event_log_id != reached.log_id:
        return Verdict(
            Fault.DIVERGED,
            f"the archive of {card} ends with event {reached.event_id} of log entry {reached.log_id}, which Redis made "
            f"of another one ({found.event_log_id}): they parted before; run `tcgx recover`",
        )
    if _is_complete(found, reached.sequence):
        return Verdict()
    return _archive_older(card, found, reached.sequence)


def _is_complete(found: Found, archived: int) -> bool:
    """Whether Redis still has all events after the archived command."""
    return found.next_first == archived + 1 if found.next_first else found.matched == archived


def _archive_older(card: str, found: Found, archived: int) -> Verdict:
    return Verdict(
        Fault.ARCHIVE_OLDER,
        f"the archive of {card} ends with command {archived}, and Redis has no longer what comes next (only from "
        f"{found.next_first or found.matched + 1} on): the archive is older than the log; restore a newer copy of "
        "PostgreSQL, or run `tcgx recover`",
    )


def _short(history_id: str) -> str:
    return history_id[:8]


class Comparison(msgspec.Struct, frozen=True):
    """A card's log and archive as they were seen, and what that means."""

    found: Found
    registered: Registered
    verdict: Verdict


async def compare(
    redis: Redis, database: asyncpg.Connection | asyncpg.Pool, cards: Sequence[str]
) -> dict[str, Comparison]:
    """Compares log and archive of these cards. A fault is looked at twice: what lies between the two reads is none.

    Raises:
        Unavailable: a server does not answer.
    """
    compared = await _compare(redis, database, cards)
    faulty = [card for card, comparison in compared.items() if comparison.verdict.fault]
    return compared | await _compare(redis, database, faulty) if faulty else compared


async def _compare(
    redis: Redis, database: asyncpg.Connection | asyncpg.Pool, cards: Sequence[str]
) -> dict[str, Comparison]:
    # The archive first: whatever it knows, Redis must have by then.
    archive = await queries.registered(database, cards)
    compared = {}
    for card in cards:
        registered = archive[card]
        event_id = registered.cursor.event_id if registered.cursor else ""
        found = await history.find(redis, card, event_id or "0-0")
        if not registered.cursor and found.base:
            found = await history.find(redis, card, f"{found.base}-0")
        compared[card] = Comparison(found, registered, judge(card, found, registered))
    return compared


async def settle(
    redis: Redis, database: asyncpg.Connection | asyncpg.Pool, card: str, compared: Comparison
) -> Comparison:
    """Does what a comparison without a fault has named: begins a history, or registers one. How they stand then.

    The archive is told first: a process that is killed in between is followed by one that begins what is registered.
    """
    verdict, found = compared.verdict, compared.found
    if verdict.begins:
        history_id = await writer.register(database, card, verdict.begins, base=0, given=0)
        await history.begin(redis, card, ended="", history_id=history_id)
    elif verdict.registers:
        await writer.register(database, card, found.history_id, base=found.base, given=found.sequence)
    else:
        return compared
    return (await _compare(redis, database, [card]))[card]


class ArchivedHistory:
    """The history of an exchange, for its order log: no mark is given before log and archive were compared.

    Without an answer from PostgreSQL a process that has compared before goes on by what it knows itself: which history
    it was, and which sequences it has seen given out.
    """

    def __init__(self, redis: Redis, pool: asyncpg.Pool, cards: Sequence[str]) -> None:
        self._redis = redis
        self._pool = pool
        self._cards = tuple(cards)
        self._marks: dict[str, str] = {}
        self._known: dict[str, Found] = {}  # as it was when it was compared last
        self._given = dict.fromkeys(cards, 0)
        self._registered = dict.fromkeys(cards, 0)
        self._archived_as: dict[str, str] = {}  # the history that the archive has
        self._looking = asyncio.Lock()
        self._blind_until = 0.0
        self._to_register = asyncio.Event()
        self.last_ms = 0
        self.faults: dict[str, str] = {}
        """What is wrong, by card; a sentence."""

    async def mark(self, card: str) -> str:
        """What an append to this card must name."""
        known = self._marks.get(card)
        if known is None and card not in self.faults:
            await self._look(card)
            known = self._marks.get(card)
        if known is None:
            raise HistoryConflict(self.faults.get(card, f"the history of {card} is not known yet"))
        if self._given[card] - self._registered[card] > UNREGISTERED_MAX:
            raise Overloaded(
                f"PostgreSQL has not heard of the last {UNREGISTERED_MAX} commands of {card}, and must answer first"
            )
        return known

    def forget(self, card: str) -> None:
        """The server is another one, or was restarted: it is compared again."""
        self._marks.pop(card, None)

    def given(self, card: str, sequence: int) -> None:
        """Notes what the archive is to be told."""
        if sequence > self._given[card]:
            self._given[card] = sequence
            self._to_register.set()

    async def run(self, stopping: asyncio.Event) -> None:
        """Compares every two seconds, and tells the archive what was given out, until told to stop."""
        await asyncio.gather(self._compare_always(stopping), self._register_always(stopping))
        with contextlib.suppress(TcgxError, TimeoutError):
            async with asyncio.timeout(ANSWER_SECONDS):
                await self.register()

    async def _compare_always(self, stopping: asyncio.Event) -> None:
        while not stopping.is_set():
            try:
                async with self._looking:
                    await self._look_at_both(self._cards)
            except TcgxError as error:
                log.debug("log and archive could not be compared", reason=str(error))
            pause_seconds = FAULTY_LOOK_SECONDS if self.faults else LOOK_SECONDS
            await service.until_stopped(asyncio.sleep(pause_seconds), stopping)

    async def _look(self, card: str) -> None:
        """Compares a card, and keeps what follows. An order waits for this: without PostgreSQL it is done alone.

        Raises:
            Unavailable: Redis does not answer, or PostgreSQL does not and has never.
        """
        now = asyncio.get_running_loop().time
        if now() >= self._blind_until:
            try:
                async with asyncio.timeout(ANSWER_SECONDS), self._looking:
                    await self._look_at_both([card])
                    return
            except (Unavailable, TimeoutError):
                await history.find(self._redis, card)  # if it is Redis that does not answer, that is the reason
                self._blind_until = now() + ANSWER_SECONDS
        await self._look_alone(card)

    async def _look_at_both(self, cards: Sequence[str]) -> None:
        given = dict(self._given)  # before Redis is asked: what is given out meanwhile, it need not have said
        for card, compared in (await compare(self._redis, self._pool, cards)).items():
            self._keep(card, await settle(self._redis, self._pool, card, compared), given[card])

    def _keep(self, card: str, compared: Comparison, given: int) -> None:
        found, verdict = compared.found, compared.verdict
        self._archived_as[card] = compared.registered.history_id
        self._registered[card] = compared.registered.last
        if self._given[card] > compared.registered.last:
            self._to_register.set()  # an older archive does not know what it was told
        if not verdict.fault and found.sequence < given:
            verdict = _older(card, found, given)
        if verdict.fault:
            self._refuse(card, verdict)
            return
        if self.faults.pop(card, None):
            log.info("orders are taken again", card=card)
        self._known[card] = found
        self._given[card] = max(self._given[card], found.sequence)
        self._marks[card] = found.mark

    async def _look_alone(self, card: str) -> None:
        """What can be said without the archive."""
        known = self._known.get(card)
        if known is None:
            raise Unavailable(
                f"PostgreSQL has not answered since this process started, and it alone knows which order ids of {card} "
                "were given out"
            )
        if card in self.faults:
            return
        given = self._given[card]
        found = await history.find(self._redis, card)
        if found.history_id == known.history_id and found.sequence >= given:
            self._marks[card] = found.mark
        else:
            self._refuse(card, _older(card, found, given))

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
                await service.until_stopped(asyncio.sleep(LOOK_SECONDS), stopping)
            await service.until_stopped(asyncio.sleep(REGISTER_SECONDS), stopping)

    async def register(self) -> None:
        """Tells the archive which sequences were given out, as far as it does not know.

        Raises:
            Unavailable: PostgreSQL does not answer.
        """
        news = {
            card: (self._archived_as[card], given)
            for card, given in self._given.items()
            if given > self._registered[card] and self._archived_as.get(card)
        }
        if news:
            await writer.raise_given(self._pool, news)
            for card, (_, given) in news.items():
                self._registered[card] = max(self._registered[card], given)


def _older(card: str, found: Found, given: int) -> Verdict:
    return Verdict(
        Fault.OLDER,
        f"Redis has lost the end of the log of {card}: it ends with command {found.sequence}, and {given} were given "
        "out; restore a newer copy of Redis, or run `tcgx recover`",
    )
