"""Histories: the identity of a card's data, and the mark with which each append is fenced.

A history begins with the first append to a card, and only `tcgx recover` ends it. Redis and the archive both store its
id, and archiver/history.py compares them. A mark consists of the id of the history and the run of the server's library
(lua/parts/history.lua). A server that was restarted, restored or replaced has another run. It refuses appends with the
old mark, so a process compares log and archive again before it appends.
"""

import secrets
from collections.abc import Sequence
from typing import Any, Protocol

import msgspec
from redis.asyncio import Redis
from redis.exceptions import ResponseError

from core.errors import HistoryConflict, StartError
from core.model import COMMANDS_MAX
from engine import keys, library
from engine.connection import redis_errors

FORMAT = 3
"""The format of keys and log entries that this version uses. lua/parts/history.lua has the same number."""

CONVERTED_FORMATS = frozenset({1, 2})
"""The formats that `tcgx migrate` converts to `FORMAT` (archiver/conversion.py)."""

RESTORING_FORMAT = 0
RESTORING_ID = "0" * 32
"""Format and history of a card whose keys are being restored. No service works with them."""

ID_BYTES = 16

UNKNOWN_MAX = 20 * COMMANDS_MAX
"""The largest number of sequences of a card that are given out without an answer: one append of 20 API processes.

A failover uses up so many sequences of each card.
"""


class LogState(msgspec.Struct, frozen=True, kw_only=True):
    """The history of a card in Redis, and the positions of its log.

    `mark`: the mark that an append must have. `history_id`: empty if the card has no history.
    `base`: the sequence before the first command of the history. `sequence`: the last appended one.
    `event_log_id`: the log entry of the event that was asked for; empty if Redis does not have the event.
    `next_first`: the first command of the event after it; 0 if there is none.
    `lost`: the last acknowledged command that a promoted replica lacked; 0 if it lacked none. `kept`: the last that it
    had.
    """

    mark: str
    history_id: str
    format: int
    base: int
    sequence: int
    matched: int
    event_log_id: str
    next_first: int
    is_known_format: bool
    lost: int = 0
    kept: int = 0

    @property
    def run_at(self) -> float:
        """When the run of the library began, in seconds since 1970 by the server's clock. 0 if unknown."""
        seconds, dot, microseconds = self.mark.rpartition(" ")[2].partition(".")
        return float(seconds) + float(microseconds) / 1e6 if dot else 0.0


class History(Protocol):
    """The source of marks for an `OrderLog`. It also records the sequences of appends."""

    last_ms: int
    """The latest time of an append, in milliseconds since 1970."""

    async def mark(self, card: str) -> str:
        """The mark for an append to a card.

        Raises:
            HistoryConflict: log and archive have different histories.
            Overloaded: the archive must first record the sequences of earlier appends.
            Unavailable: a server that must be asked does not answer.
        """

    def forget(self, card: str) -> None:
        """Discards the mark of a card, because the server has refused it."""

    def record_sequence(self, card: str, sequence: int, mark: str = "") -> None:
        """Records that appends have used all sequences up to this one. `mark`: the mark of the last append."""

    def record_unconfirmed(self, card: str, sequence: int) -> None:
        """Records that an append has used a sequence, and is not acknowledged."""

    def record_confirmed(self, card: str) -> None:
        """Records that replicas have what was not acknowledged before."""


class StandaloneHistory:
    """The history of a server without an archive, for benchmarks, tests and replays."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis
        self._marks: dict[str, str] = {}
        self.last_ms = 0

    async def mark(self, card: str) -> str:
        """The mark of the server. A card without a history gets a new one.

        Raises:
            HistoryConflict: the data of the card has another format.
            Unavailable: Redis does not answer.
        """
        known = self._marks.get(card)
        if known is None:
            state = await read_log_state(self._redis, card)
            if not state.history_id:
                check_format(card, state)
                await begin(self._redis, card, ended="", history_id=new_id())
                state = await read_log_state(self._redis, card)
            known = self._marks[card] = state.mark
        return known

    def forget(self, card: str) -> None:
        """Makes the next `mark` ask the server again."""
        self._marks.pop(card, None)

    def record_sequence(self, card: str, sequence: int, mark: str = "") -> None:
        """Does nothing, since there is no archive."""

    def record_unconfirmed(self, card: str, sequence: int) -> None:
        """Does nothing, since there is no archive."""

    def record_confirmed(self, card: str) -> None:
        """Does nothing, since there is no archive."""


def new_id() -> str:
    """The id of a new history: 32 hex digits."""
    return secrets.token_hex(ID_BYTES)


async def read_log_state(redis: Redis, card: str, event_id: str = "0-0") -> LogState:
    """Reads history and positions of a card from Redis. `event_id`: the last archived event.

    Raises:
        Unavailable: Redis does not answer.
    """
    return log_state_of(await _call(redis, "history", card, event_id))


def log_state_of(reply: Sequence[Any]) -> LogState:
    """Decodes a reply of lua/history.lua."""
    mark, history_id, format_, base, sequence, matched, log_id, next_first, known, lost, kept = reply
    return LogState(
        mark=mark.decode(),
        history_id=history_id.decode(),
        format=format_,
        base=base,
        sequence=sequence,
        matched=matched,
        event_log_id=log_id.decode(),
        next_first=next_first,
        is_known_format=bool(known),
        lost=lost,
        kept=kept,
    )


async def begin(redis: Redis, card: str, *, ended: str, history_id: str, base: int = 0, trades: int = 0) -> str:
    """Begins a history if the current one of the card is `ended` (lua/begin.lua).

    Returns the id of the history that the card then has.
    """
    reply = await _call(redis, "begin", card, ended, history_id, base, trades)
    return str(reply.decode())


async def adopt(redis: Redis, card: str, mark: str, *, acknowledged: int, known: int) -> tuple[int, int]:
    """Readies a card for appends to a server that may be a promoted replica (lua/adopt.lua).

    `acknowledged`: the last sequence of an earlier run that was acknowledged. `known`: the last one that is known.
    Returns the last sequence that the server had, and the last acknowledged one that it lacked (0: none).

    Raises:
        Unavailable: Redis does not answer, or has another mark.
    """
    kept, lost = await _call(redis, "adopt", card, mark, acknowledged, known, UNKNOWN_MAX)
    return int(kept), int(lost)


async def mark_restoring(redis: Redis, card: str) -> None:
    """Marks a card whose keys will be written one after the other, until `begin` ends `RESTORING_ID`."""
    client: Any = redis
    with redis_errors():
        await client.hset(
            keys.key(card, "history"), mapping={"id": RESTORING_ID, "format": RESTORING_FORMAT, "base": 0}
        )


def fault_of_format(card: str, state: LogState) -> str | None:
    """The reason why this version cannot use the data of a card. None if it can."""
    if state.history_id and state.format in CONVERTED_FORMATS:
        return f"the data of {card} in Redis has the format of an earlier version of tcgx: `tcgx migrate` converts it"
    if state.history_id and state.format == RESTORING_FORMAT:
        return f"{card} was not restored to the end: run `tcgx restore --overwrite` again"
    if state.history_id and state.format != FORMAT:
        return (
            f"the data of {card} in Redis has format {state.format}, and this version of tcgx works with format "
            f"{FORMAT}: run the version that wrote it"
        )
    if not state.history_id and not state.is_known_format:
        return (
            f"the log of {card} in Redis was written by an early version of tcgx, which this one cannot read: run that "
            "version until everything is archived, then begin with an empty Redis"
        )
    return None


def check_format(card: str, state: LogState) -> None:
    """Checks that this version can use the data of a card.

    Raises:
        HistoryConflict: the data has another format.
    """
    fault = fault_of_format(card, state)
    if fault:
        raise HistoryConflict(fault)


async def check_matchable(redis: Redis, cards: Sequence[str]) -> None:
    """Checks that an engine of this version can match these cards.

    Raises:
        StartError: the data of a card has another format.
    """
    for card in cards:
        fault = fault_of_format(card, await read_log_state(redis, card))
        if fault:
            raise StartError(fault[0].upper() + fault[1:])


async def _call(redis: Redis, function: str, card: str, *arguments: str | int) -> Any:
    call = redis.fcall if function in library.WRITING else redis.fcall_ro
    texts = [str(argument) for argument in arguments]
    with redis_errors():
        try:
            return await call(function, 1, keys.tag(card), *texts)
        except ResponseError as error:
            if not library.is_missing(error):
                raise
            # A replaced server has no library yet. The call had no effect.
            await library.load(redis)
            return await call(function, 1, keys.tag(card), *texts)
