"""The feed of a card: one reader of its events for all subscribers of a process, while there are any."""

import asyncio
from collections.abc import Callable
from contextlib import aclosing
from enum import StrEnum
from typing import Protocol

import structlog

from core.errors import TcgxError
from core.log_limit import RateLimitedLog
from core.service import Backoff, cancel_and_wait
from engine.book_reader import BookReader
from engine.events import EventGap, EventReader
from engine.nodes import Node
from streams.book import KNOWN, Book
from streams.ring import MatchCall, Ring

log = structlog.get_logger()
rate_limited_log = RateLimitedLog(log)

WATCH_MS = 15_000
RENEW_SECONDS = 5.0
"""Match writes levels into its events for `WATCH_MS` after each renewal."""

PUBLISH_SECONDS = 0.1
"""The shortest time between two versions of a book, unless a subscriber wants each match call."""

READ_BYTES = 4_000_000
LAST_OF_SEQUENCE = 2**64 - 1
"""Beyond the second part of every event id."""


class Kind(StrEnum):
    """What a subscriber wants of a card."""

    BOOK = "book"
    TRADES = "trades"
    ORDERS = "orders"
    TICKER = "ticker"
    CANDLES = "candles"


class Subscriber(Protocol):
    """A stream that waits for news."""

    def wake(self) -> None:
        """Called when there is news."""


class Listener(Protocol):
    """A part that gets every match call of a card."""

    def take(self, call: MatchCall) -> None:
        """Called with each match call, in order."""

    def lose(self) -> None:
        """Called when match calls are missing; the listener is then no longer called."""


class Feed:
    """The book and the latest match calls of one card, as long as somebody follows them.

    `on_lost` is called with the card when the positions of subscribers no longer exist.
    """

    def __init__(
        self, card: str, node: Node, books: BookReader, *, commands_max: int, on_lost: Callable[[str], None]
    ) -> None:
        self.card = card
        self.book = Book(card)
        self.ring = Ring(commands_max=commands_max, position=0)
        self.position = 0
        """The last command that was read."""
        self.matched = 0
        """The last command that is known to be matched. A reader that stands still stays behind it."""
        self.failed_at: float | None = None
        """When reading began to fail; None while it works."""
        self.idle_since = 0.0
        self.listeners: list[Listener] = []
        self.call_waiters: set[Subscriber] = set()
        self.book_waiters: set[Subscriber] = set()
        self._node = node
        self._books = books
        self._commands_max = commands_max
        self._on_lost = on_lost
        self._users: dict[Kind, dict[Subscriber, float]] = {kind: {} for kind in Kind}
        self._tasks: list[asyncio.Task[None]] = []
        self._is_ready = asyncio.Event()
        self._is_due = asyncio.Event()
        self._stopping = asyncio.Event()
        self._published_at = 0.0
        self._publishing: asyncio.TimerHandle | None = None

    # -- life

    def add(self, subscriber: Subscriber, kind: Kind, *, interval: float) -> None:
        """Adds a subscriber, and starts the feed with the first one."""
        self._users[kind][subscriber] = interval
        self._is_due.set()
        if not self._tasks:
            self._stopping.clear()
            self._tasks = [asyncio.create_task(self._keep(), name=f"watch {self.card}")]

    def remove(self, subscriber: Subscriber, kind: Kind) -> None:
        """Removes a subscriber."""
        self._users[kind].pop(subscriber, None)
        self.call_waiters.discard(subscriber)
        self.book_waiters.discard(subscriber)
        if not self._wants_book:
            self.book.stop()
        if not self.is_used:
            self.idle_since = asyncio.get_running_loop().time()

    @property
    def is_running(self) -> bool:
        """Whether the feed reads events."""
        return bool(self._tasks)

    @property
    def is_used(self) -> bool:
        """Whether somebody follows the feed."""
        return any(self._users.values())

    async def ready(self) -> None:
        """Waits until the position is known."""
        await self._is_ready.wait()

    async def stop(self) -> None:
        """Ends the reading, and forgets everything."""
        tasks, self._tasks = self._tasks, []
        self._stopping.set()
        if self._publishing is not None:
            self._publishing.cancel()
            self._publishing = None
        await cancel_and_wait(*tasks)
        self._is_ready.clear()
        self._lose()
        self.ring.restart(0)
        self.position = self.matched = 0
        self.failed_at = None

    def _lose(self) -> None:
        self.book.stop()
        for listener in tuple(self.listeners):
            listener.lose()

    def _wants(self, kind: Kind) -> bool:
        return bool(self._users[kind])

    @property
    def _wants_book(self) -> bool:
        return self._wants(Kind.BOOK) or self._wants(Kind.TICKER)

    # -- the watch: position, and the snapshots of the book

    async def _keep(self) -> None:
        """Renews the watch, and gets snapshots for a book that is not live."""
        backoff = Backoff(self._stopping)
        while True:
            self._is_due.clear()
            try:
                await self._watch()
                backoff.succeeded()
            except TcgxError as error:
                self._failed(error)
                self.book.stop()
                await backoff.wait()
                continue
            if not (self._wants_book and not self.book.is_live):
                await self._wait_until_due()

    async def _wait_until_due(self) -> None:
        try:
            async with asyncio.timeout(RENEW_SECONDS):
                await self._is_due.wait()
        except TimeoutError:
            return

    async def _watch(self) -> None:
        needs_book = self._wants_book and not self.book.is_live
        if needs_book:
            self.book.await_snapshot()
        before = self.position
        depth = await self._books.watch(
            self.card, KNOWN if needs_book else 0, milliseconds=WATCH_MS, orders=self._wants(Kind.ORDERS)
        )
        self.failed_at = None
        self.matched = max(self.matched, depth.sequence)
        if not self._is_ready.is_set():
            self._begin(depth.sequence)
        elif depth.sequence < before:
            log.error("a card is at an earlier state than before", card=self.card, was=before, sequence=depth.sequence)
            self._jump(depth.sequence)
        if needs_book and self.book.take(depth):
            self._wake(self.book_waiters)

    def _begin(self, position: int) -> None:
        self.position = position
        self.ring.restart(position)
        self._is_ready.set()
        self._tasks.append(asyncio.create_task(self._read(), name=f"events of {self.card}"))

    def _jump(self, position: int) -> None:
        """Goes on at another position. The positions of subscribers do not exist any more."""
        self.position = self.matched = position
        self.ring.restart(position)
        self._lose()
        self._is_due.set()
        self._on_lost(self.card)

    # -- the events

    async def _read(self) -> None:
        backoff = Backoff(self._stopping)
        while True:
            try:
                await self._follow(backoff)
            except EventGap as error:
                log.warning("events of a card are missing for streams", card=self.card, reason=str(error))
                await self._skip_gap(backoff)
            except TcgxError as error:
                self._failed(error)
                await backoff.wait()

    async def _follow(self, backoff: Backoff) -> None:
        start = self.position
        after = f"{start}-{LAST_OF_SEQUENCE}"
        reader = EventReader(self._node.blocking, self.card, after=after, batch_bytes=READ_BYTES)
        while self.position >= start:  # until a jump to an earlier state
            events = await reader.read(wait=True)
            self.failed_at = None
            backoff.succeeded()
            for event in events:
                if event.last <= self.position:
                    continue  # entries that were rejected, without a command
                self.position = event.last
                self.book.apply(event)
                call = MatchCall(event)
                self.ring.add(call)
                for listener in tuple(self.listeners):
                    listener.take(call)
            if events:
                start = self.position
                self.matched = max(self.matched, self.position)
                self._changed()

    async def _skip_gap(self, backoff: Backoff) -> None:
        try:
            position = await self._books.position(self.card)
        except TcgxError as error:
            self._failed(error)
            await backoff.wait()
            return
        self._jump(position.matched)

    def _failed(self, error: TcgxError) -> None:
        if self.failed_at is None:
            self.failed_at = asyncio.get_running_loop().time()
        rate_limited_log.warning("reading for streams will be tried again", card=self.card, reason=str(error))

    def _changed(self) -> None:
        self._wake(self.call_waiters)
        if not self._wants_book:
            return
        if not self.book.is_live:
            self._is_due.set()
            return
        pause = min(PUBLISH_SECONDS, *self._users[Kind.BOOK].values()) if self._wants(Kind.BOOK) else PUBLISH_SECONDS
        loop = asyncio.get_running_loop()
        if loop.time() >= self._published_at + pause:
            self._publish()
        elif self._publishing is None:
            self._publishing = loop.call_at(self._published_at + pause, self._publish)

    def _publish(self) -> None:
        if self._publishing is not None:
            self._publishing.cancel()
            self._publishing = None
        self._published_at = asyncio.get_running_loop().time()
        if self.book.publish():
            self._wake(self.book_waiters)

    def _wake(self, waiters: set[Subscriber]) -> None:
        for waiter in waiters:
            waiter.wake()
        waiters.clear()

    # -- the past

    async def backfill(self, sequence: int) -> None:
        """Reads the calls after a sequence that are older than the ring: as many as Redis has and the ring holds.

        Raises:
            Unavailable: Redis does not answer.
        """
        floor = self.ring.floor
        after = max(sequence, floor - self._commands_max)
        if after >= floor:
            return
        calls: list[MatchCall] = []
        async with aclosing(self._books.events(self.card, after=after)) as events:
            async for event in events:
                if event.first <= event.last <= floor:
                    calls.append(MatchCall(event))
        # Another subscriber may have read some of them meanwhile.
        self.ring.prepend([call for call in calls[::-1] if call.last <= self.ring.floor])
