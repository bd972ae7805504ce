"""Which history of the exchange a card's keys belong to (lua/parts/history.lua), and what an append must name.

A history is begun once, with the first append, and ends only when a person says so (`tcgx recover`). Redis and archive
both keep its id; `archiver/history.py` compares them. A mark is the id and the run of the server's library: a server
that was restarted, restored or replaced has another run, so nothing is appended before somebody has compared again.
"""

import secrets
from collections.abc import Sequence
from typing import Any, Protocol

import msgspec
from redis.asyncio import Redis
from redis.exceptions import ResponseError

from core.errors import HistoryConflict, StartError
from engine import keys, library
from engine.connection import redis_errors

FORMAT = 2
"""Of the keys and log entries that this version reads and writes; as in lua/parts/history.lua."""

CONVERTED_FORMAT = 1
"""What `tcgx migrate` makes `FORMAT` of (archiver/conversion.py)."""

ID_BYTES = 16


class Found(msgspec.Struct, frozen=True, kw_only=True):
    """What a card's Redis says: `mark` is what an append must name, `history_id` is empty where there is none.

    `base` is the sequence before the history's first command. `event_log_id` and `next_first` speak of the event that
    was asked for: the log entry it was made of, and the first command of the event after it; empty and 0 where that is
    gone.
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


class History(Protocol):
    """What an `OrderLog` asks before it appends."""

    last_ms: int
    """The latest time that an append was given, in milliseconds since 1970."""

    async def mark(self, card: str) -> str:
        """What an append to this card must name.

        Raises:
            HistoryConflict: nothing may be appended.
            Unavailable: that is not known now.
        """

    def forget(self, card: str) -> None:
        """The server has said that the mark is another one."""

    def given(self, card: str, sequence: int) -> None:
        """An append has given out sequences up to this one."""


class OwnHistory:
    """The history of a server that nobody compares with an archive: of benchmarks, tests and replays."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis
        self._marks: dict[str, str] = {}
        self.last_ms = 0

    async def mark(self, card: str) -> str:
        """What the server says; begins a history where there is none."""
        known = self._marks.get(card)
        if known is None:
            found = await find(self._redis, card)
            if not found.history_id:
                check_format(card, found)
                await begin(self._redis, card, ended="", history_id=new_id())
                found = await find(self._redis, card)
            known = self._marks[card] = found.mark
        return known

    def forget(self, card: str) -> None:
        """Asks again."""
        self._marks.pop(card, None)

    def given(self, card: str, sequence: int) -> None:
        """Nobody else has to know."""


def new_id() -> str:
    """The id of a new history: 32 hex digits."""
    return secrets.token_hex(ID_BYTES)


async def find(redis: Redis, card: str, event_id: str = "0-0") -> Found:
    """What the card's Redis says of itself, and of an event that the archive ends with.

    Raises:
        Unavailable: Redis does not answer.
    """
    mark, history_id, format_, base, sequence, matched, log_id, next_first, known = await _call(
        redis, "history", card, event_id
    )
    return Found(
        mark=mark.decode(),
        history_id=history_id.decode(),
        format=format_,
        base=base,
        sequence=sequence,
        matched=matched,
        event_log_id=log_id.decode(),
        next_first=next_first,
        is_known_format=bool(known),
    )


async def begin(redis: Redis, card: str, *, ended: str, history_id: str, base: int = 0, trades: int = 0) -> str:
    """Begins a history where the card has the one that ends (lua/begin.lua). The id that the card has then."""
    reply = await _call(redis, "begin", card, ended, history_id, base, trades)
    return str(reply.decode())


def fault_of_format(card: str, found: Found) -> str | None:
    """Why this version must not touch a card's keys; None where it may."""
    if found.history_id and found.format == CONVERTED_FORMAT:
        return f"the data of {card} in Redis has the format of an earlier version of tcgx: `tcgx migrate` converts it"
    if found.history_id and found.format != FORMAT:
        return (
            f"the data of {card} in Redis has format {found.format}, and this version of tcgx works with format "
            f"{FORMAT}: run the version that wrote it"
        )
    if not found.history_id and not found.is_known_format:
        return (
            f"the log of {card} in Redis was written by an early version of tcgx, which this one cannot read: run that "
            "version until everything is archived, then begin with an empty Redis"
        )
    return None


def check_format(card: str, found: Found) -> None:
    """That this version may touch a card's keys.

    Raises:
        HistoryConflict: it may not.
    """
    fault = fault_of_format(card, found)
    if fault:
        raise HistoryConflict(fault)


async def check_matchable(redis: Redis, cards: Sequence[str]) -> None:
    """That an engine may match these cards.

    Raises:
        StartError: one has data of another format.
    """
    for card in cards:
        fault = fault_of_format(card, await find(redis, card))
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
            # A server that was replaced has no library yet; nothing was run.
            await library.load(redis)
            return await call(function, 1, keys.tag(card), *texts)
