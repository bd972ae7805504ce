"""The live tail of a card's candles: the trades that are matched and not archived yet, added up to the minute.

A process reads each event once and keeps the candles of its trades, so a read under load parses only what is new. The
archive moves on meanwhile: candles stay for longer than a read may take, and each read skips those that its own look
into the archive has.
"""

import asyncio
import time
from collections import deque
from contextlib import aclosing
from datetime import datetime
from typing import NamedTuple

from core.candles import MINUTE, Candle, first, start_of
from core.errors import TcgxError, Unavailable
from engine.book_reader import BookReader
from engine.events import Event

KEPT_SECONDS = 10.0
"""The time for which candles of archived events stay. A read of the archive takes less."""

PARTS_MAX = 100_000
"""Events with trades that are not archived, at most; each has one candle, rarely two."""

MINUTE_TEXT = len("2026-11-22T23:53")


class TailMoved(TcgxError):
    """The archive has moved so far that its state of before has no continuation in Redis any more."""


class _Part(NamedTuple):
    """The candles of an event whose last command is `last`, and when it was read."""

    last: int
    read_at: float
    candles: list[Candle]


class LiveTail:
    """The candles of one card that the archive lacks."""

    def __init__(self, card: str, books: BookReader) -> None:
        self._card = card
        self._books = books
        self._parts: deque[_Part] = deque()
        self._floor = 0
        self._position = 0
        self._lock = asyncio.Lock()

    async def after(self, archived: int) -> list[Candle]:
        """The candles of the trades after an archived command, in the order of their trades.

        A minute has a candle for each event.

        Raises:
            TailMoved: the archive must be read again.
            Unavailable: Redis does not answer, or the archive is too far behind.
        """
        async with self._lock:
            if not self._floor <= archived <= self._position:
                self._restart(archived)
            self._drop(archived)
            await self._read()
            return [candle for part in self._parts if part.last > archived for candle in part.candles]

    def _drop(self, archived: int) -> None:
        until = time.monotonic() - KEPT_SECONDS
        while self._parts and self._parts[0].last <= archived and self._parts[0].read_at < until:
            self._floor = self._parts.popleft().last

    def _restart(self, archived: int) -> None:
        self._parts.clear()
        self._floor = self._position = archived

    async def _read(self) -> None:
        async with aclosing(self._books.events_after(self._card, self._position)) as pages:
            async for events in pages:
                for event in events:
                    self._take(event)
                    await asyncio.sleep(0)  # an event may have thousands of trades

    def _take(self, event: Event) -> None:
        if event.first != self._position + 1:
            position = self._position
            self._restart(event.first - 1)
            raise TailMoved(f"events of {self._card} after command {position} are trimmed")
        if event.trade_lines:
            if len(self._parts) >= PARTS_MAX:
                raise Unavailable(f"The archive of {self._card} is too far behind: {PARTS_MAX} events are not in it")
            self._parts.append(_Part(event.last, time.monotonic(), _minutes(event.trade_lines)))
        self._position = event.last


def _minutes(trade_lines: bytes) -> list[Candle]:
    """The candles of the minutes of trade lines, oldest first."""
    found: list[Candle] = []
    minute_text = b""
    for line in trade_lines.splitlines():
        _, _, _, _, _, price_text, quantity_text, _, at = line.split(b",")
        price_cents, quantity = int(price_text), int(quantity_text)
        if at[:MINUTE_TEXT] == minute_text:
            found[-1].add(price_cents, quantity)
            continue
        minute_text = at[:MINUTE_TEXT]
        seconds = int(datetime.fromisoformat(at.decode()).timestamp())
        found.append(first(start_of(seconds, MINUTE), price_cents, quantity))
    return found
