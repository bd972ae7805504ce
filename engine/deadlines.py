"""Deadlines of traders: unless a client says in time that it lives, engines cancel the trader's orders on all cards.

A trader has a switch, set over REST, and a lease, held by one stream. Each card keeps its own deadlines, since a Lua
function has the keys of one card (lua/parts/deadlines.lua). The time counts by the clock of Redis.
"""

import asyncio
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from enum import IntEnum
from typing import Any

import msgspec
import structlog
from redis.asyncio import Redis

from core.errors import HistoryConflict, TcgxError
from core.log_limit import RateLimitedLog
from core.service import until_stopped
from engine import keys, library
from engine.connection import redis_errors
from engine.history import History
from engine.replica_acks import AcksOfNodes

log = structlog.get_logger()
rate_limited_log = RateLimitedLog(log)

LEASES_MAX = 1_000
"""Leases of one call, at most (lua/lease.lua)."""

TELL_SECONDS = 1.0
"""How often a process looks whether it has told each card which run of the server it has compared with the archive."""

Arguments = Sequence[str | int]


class Held(IntEnum):
    """What a card says of a lease that was to be renewed or ended."""

    GONE = 0
    """Its time was over, and the orders were canceled."""
    DONE = 1
    TAKEN = 2
    """Another stream has the lease of the trader."""


class Lease(msgspec.Struct, frozen=True, kw_only=True):
    """A lease of a stream. `holder`: hex digits that name the stream. `milliseconds`: until when, from the call on."""

    trader_id: int
    holder: str
    grace_seconds: int
    milliseconds: int


class Deadlines(msgspec.Struct, frozen=True, kw_only=True):
    """The deadlines of a trader, the earliest of all cards, in ms since 1970; 0 where there is none.

    `now_ms`: the time of the server. `grace_seconds`: of the lease.
    """

    now_ms: int
    switch_ms: int
    lease_ms: int
    grace_seconds: int

    @property
    def switch_seconds(self) -> int:
        """Seconds until the switch cancels orders, rounded up; 0 if it is off."""
        return max(0, -((self.now_ms - self.switch_ms) // 1_000)) if self.switch_ms else 0


def time_text(time_ms: int) -> str:
    """A time as RFC 3339 in UTC, to the millisecond."""
    text = datetime.fromtimestamp(time_ms / 1_000, UTC).isoformat(timespec="milliseconds")
    return text.replace("+00:00", "Z")


class DeadlineKeeper:
    """Sets and reads deadlines on all cards, for the processes of doors."""

    def __init__(self, redis: Redis, cards: Sequence[str], history: History, acks: AcksOfNodes | None = None) -> None:
        """`history` supplies the mark of each card. `acks`: replicas that must have what was set before an answer."""
        self._redis = redis
        self._cards = tuple(cards)
        self._history = history
        self._acks = acks
        self._told: dict[str, str] = {}  # the mark that each card was told last

    async def set_switch(self, trader_id: int, seconds: int) -> None:
        """Cancels a trader's orders after so many seconds; 0 turns the switch off.

        Raises:
            HistoryConflict, Overloaded, Unavailable: the switch is as before, or set on a part of the cards.
        """
        await self._write("cancel_after", [trader_id, seconds * 1_000])

    async def read(self, trader_id: int) -> Deadlines:
        """Reads the deadlines of a trader.

        Raises:
            Unavailable: Redis does not answer.
        """
        replies = await self._call("deadlines_of", lambda _: [trader_id])
        return Deadlines(
            now_ms=max(reply[0] for reply in replies),
            switch_ms=min((reply[1] for reply in replies if reply[1]), default=0),
            lease_ms=min((reply[2] for reply in replies if reply[2]), default=0),
            grace_seconds=max(reply[3] for reply in replies),
        )

    async def take(self, lease: Lease) -> None:
        """Takes the lease of a trader, whoever has it.

        Raises:
            HistoryConflict, Overloaded, Unavailable: the lease is taken on a part of the cards, or on none.
        """
        await self._write("lease", ["take", *_fields(lease)])

    async def keep(self, leases: Sequence[Lease]) -> list[Held]:
        """Renews leases, or ends those with 0 milliseconds. Returns what became of each, the worst of all cards.

        Raises:
            HistoryConflict, Overloaded, Unavailable: the leases are renewed on a part of the cards, or on none.
        """
        found: list[Held] = []
        for start in range(0, len(leases), LEASES_MAX):
            fields = [field for lease in leases[start : start + LEASES_MAX] for field in _fields(lease)]
            replies = await self._marked("lease", ["keep", *fields])
            found += [_worst([Held(reply) for reply in of_lease]) for of_lease in zip(*replies, strict=True)]
        return found

    async def run(self, stopping: asyncio.Event) -> None:
        """Tells each card, until the stop, that this process has compared its run of the server with the archive.

        A restarted server cancels nothing before that (lua/cancel_due.lua).
        """
        while not stopping.is_set():
            try:
                marks = [await self._history.mark(card) for card in self._cards]
                if marks != [self._told.get(card) for card in self._cards]:
                    await self._marked("lease", ["keep"])
            except TcgxError as error:
                log.debug("deadlines of traders wait", reason=str(error))
            await until_stopped(asyncio.sleep(TELL_SECONDS), stopping)

    async def _write(self, function: str, arguments: Arguments) -> None:
        if self._acks:
            await self._acks.check(self._cards)
        await self._marked(function, arguments)
        if self._acks:
            await self._acks.confirm(self._cards)

    async def _marked(self, function: str, arguments: Arguments) -> list[Any]:
        """Calls a function for each card with its mark. It is repeated once where a mark was refused."""
        for is_last in (False, True):
            marks = {card: await self._history.mark(card) for card in self._cards}
            try:
                replies = await self._call(function, lambda card: [marks[card], *arguments])  # noqa: B023 - called here
            except HistoryConflict:
                if is_last:
                    raise
                for card in self._cards:
                    self._history.forget(card)
                continue
            self._told = marks
            return replies
        raise AssertionError  # the second attempt returns or raises

    async def _call(self, function: str, arguments_of: Callable[[str], Arguments]) -> list[Any]:
        """The replies of all cards to a function, in one pipeline.

        Raises:
            HistoryConflict: a card refused its mark.
            Overloaded, Unavailable: a call failed, perhaps after others had an effect.
        """
        replies = await self._pipeline(function, arguments_of)
        if any(library.is_missing(reply) for reply in replies):
            with redis_errors():
                await library.load_again(self._redis)
            replies = await self._pipeline(function, arguments_of)
        for reply in replies:
            if isinstance(reply, Exception):
                if str(reply).startswith("HISTORY "):
                    raise HistoryConflict("the log began another history") from reply
                with redis_errors():
                    raise reply
        return replies

    async def _pipeline(self, function: str, arguments_of: Callable[[str], Arguments]) -> list[Any]:
        pipeline = self._redis.pipeline(transaction=False)
        call = pipeline.fcall_ro if function in library.READING else pipeline.fcall
        for card in self._cards:
            call(function, 1, keys.tag(card), *map(str, arguments_of(card)))
        with redis_errors():
            replies: list[Any] = await pipeline.execute(raise_on_error=False)
        return replies


def _fields(lease: Lease) -> Arguments:
    return [lease.trader_id, lease.holder, lease.grace_seconds, lease.milliseconds]


def _worst(found: Sequence[Held]) -> Held:
    """What became of a lease over all cards: where one has canceled the orders, the lease is gone."""
    return Held.GONE if Held.GONE in found else max(found)
