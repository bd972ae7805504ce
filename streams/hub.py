"""The hub of a process: its feeds, its streams and their limits.

A hub without streams has no task and reads nothing.
"""

import asyncio
import hashlib
import random
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence

import structlog

from archiver.queries import Archive
from core.errors import Overloaded, RateLimited, TcgxError, Unauthenticated
from core.service import cancel_and_wait
from core.settings import Settings
from engine.book_reader import BookReader
from engine.deadlines import DeadlineKeeper
from engine.nodes import Nodes
from exchange.tokens import Caller
from exchange.wiring import Services
from streams import messages
from streams.channels import Channel
from streams.feed import Feed
from streams.leases import Leases
from streams.messages import Bye
from streams.session import Session
from streams.statistics import Statistics

log = structlog.get_logger()

HOUSEKEEPING_SECONDS = 0.5
LINGER_SECONDS = 10.0
"""A feed that nobody follows goes on for this long, so that a client that comes back finds it."""

UNAVAILABLE_SECONDS = 5.0
"""Streams end once Redis has not answered for this long."""

RECONNECT_MS_MAX = 5_000
"""Clients come back within this time after a restart, spread evenly."""

SECONDS_A_STREAM = 50e-6
"""Each stream of a process makes the deliveries to all of them this much rarer: 50 ms at 1,000 streams."""

CLOSE_SECONDS = 1.0
TOKEN_WARNING_SECONDS = 60


class Hub:
    """All streams of a process."""

    def __init__(
        self,
        settings: Settings,
        nodes: Nodes,
        books: BookReader,
        archive: Archive,
        *,
        check_caller: Callable[[Caller], None],
        deadlines: DeadlineKeeper,
    ) -> None:
        """`check_caller`: raises Unauthenticated once the token of a caller is not valid any more."""
        self._check_caller = check_caller
        self.cards = settings.cards
        self.books = books
        self.heartbeat_seconds = settings.stream_heartbeat_seconds
        self.leases = Leases(deadlines)
        self._settings = settings
        self._feeds = {
            card: Feed(card, nodes.of(card), books, commands_max=settings.event_retention, on_lost=self._lose_positions)
            for card in settings.cards
        }
        self.statistics = Statistics(settings.cards, self._feeds, archive, books)
        self._sessions: dict[Session, None] = {}  # in the order of their starts
        self._addresses: Counter[str] = Counter()
        self._housekeeping: asyncio.Task[None] | None = None
        self._is_closing = False
        self._all_gone = asyncio.Event()
        self._log_id = ""

    @classmethod
    def of(cls, settings: Settings, services: Services) -> "Hub":
        """The hub over the services of a door."""
        return cls(
            settings,
            services.nodes,
            services.books,
            services.archive,
            check_caller=services.authenticator.check,
            deadlines=services.deadlines,
        )

    def feed(self, card: str) -> Feed:
        """The feed of a card."""
        return self._feeds[card]

    @property
    def crowd_seconds(self) -> float:
        """By how much the deliveries to a stream are further apart, so that many streams leave room for orders."""
        return len(self._sessions) * SECONDS_A_STREAM

    @property
    def sessions(self) -> Sequence[Session]:
        """All streams, the oldest first."""
        return list(self._sessions)

    # -- streams come and go

    async def open(self, *, address: str, interval_ms: int, caller: Caller | None = None) -> Session:
        """Opens a stream.

        Raises:
            Overloaded: the process has as many streams as it may have, or ends.
            RateLimited: the address has as many streams as it may have.
            Unavailable: Redis does not answer.
        """
        self._check_room(address)
        if not self._log_id:
            self._log_id = await self._read_log_id()
        self._check_room(address)
        session = Session(self, address=address, caller=caller, interval_ms=interval_ms)
        session.heartbeat_at = asyncio.get_running_loop().time() + self.heartbeat_seconds
        self._sessions[session] = None
        self._addresses[address] += 1
        self._all_gone.clear()
        if self._housekeeping is None:
            self._housekeeping = asyncio.create_task(self._keep_house(), name="streams")
        return session

    async def begin(
        self,
        channels: Sequence[Channel],
        positions: Mapping[str, int],
        *,
        address: str,
        interval_ms: int,
        caller: Caller | None,
    ) -> Session:
        """Opens a stream that has its channels from the start, and greets it.

        Raises:
            Overloaded, RateLimited, Unavailable: see `open`.
            Unauthenticated: a channel needs a caller.
        """
        session = await self.open(address=address, interval_ms=interval_ms)
        try:
            if caller is not None:
                self.admit(session, caller)
            await session.subscribe(channels, positions)
            session.greet(await self.leases.read(caller) if caller is not None else None)
        except BaseException:
            self.remove(session)
            raise
        return session

    def hello(self, positions: Mapping[str, int], lease: object = None) -> messages.Message:
        """The first message of a stream. `lease`: the one that its trader has."""
        seconds = self.heartbeat_seconds
        return messages.hello(self._log_id, heartbeat_seconds=seconds, positions=positions, lease=lease)

    def admit(self, session: Session, caller: Caller) -> None:
        """Gives a stream its trader. The trader's oldest stream ends where it has more than it may have."""
        session.caller = caller
        session.has_warned_of_token = False
        own = [each for each in self._sessions if each.caller and each.caller.trader_id == caller.trader_id]
        live = [each for each in own if each.bye is None]
        for oldest in live[: max(0, len(live) - self._settings.stream_trader_max)]:
            detail = f"a trader has at most {self._settings.stream_trader_max} streams, and a newer one was opened"
            oldest.end(Bye(messages.TOO_MANY, "too_many", detail))

    def remove(self, session: Session) -> None:
        """Forgets a stream that has ended."""
        if session not in self._sessions:
            return
        session.leave()
        del self._sessions[session]
        self._addresses[session.address] -= 1
        if not self._addresses[session.address]:
            del self._addresses[session.address]
        if not self._sessions:
            self._all_gone.set()

    def _check_room(self, address: str) -> None:
        if self._is_closing:
            raise Overloaded("the server is about to stop")
        if len(self._sessions) >= self._settings.stream_max:
            raise Overloaded(f"there are {len(self._sessions)} streams already")
        address_max = self._settings.stream_address_max
        if address_max and self._addresses[address] >= address_max:
            raise RateLimited(
                f"an address has at most {address_max} streams", limit=address_max, retry_seconds=5, reset_seconds=5
            )

    async def _read_log_id(self) -> str:
        """A name of the histories of all cards: positions of another name are not comparable."""
        ids = [await self.books.history_id(card) for card in self.cards]
        return hashlib.sha256("\n".join(ids).encode()).hexdigest()[:16] if all(ids) else "-"

    def _lose_positions(self, card: str) -> None:
        """Ends the streams of a card whose history or state is another one now."""
        self._log_id = ""
        detail = f"positions of {card} have changed: connect again, with the positions that you have"
        for session in self._sessions:
            if session.follows(card):
                session.end(Bye(messages.RESTARTING, "restarting", detail, self.reconnect_after_ms()))

    def reconnect_after_ms(self) -> int:
        """When a client shall come back: clients that leave together come back spread over some seconds."""
        return random.randrange(RECONNECT_MS_MAX)  # noqa: S311 - no secret

    # -- housekeeping

    async def _keep_house(self) -> None:
        """Ends what has to end, until there are neither streams nor feeds."""
        while self._sessions or any(feed.is_running for feed in self._feeds.values()):
            await asyncio.sleep(HOUSEKEEPING_SECONDS)
            now = asyncio.get_running_loop().time()
            for session in self.sessions:
                self._look_after(session, now)
            for feed in self._feeds.values():
                await self._look_after_feed(feed, now)
        self._log_id = ""
        self._housekeeping = None

    def _look_after(self, session: Session, now: float) -> None:
        if session.sending_since is not None and now - session.sending_since > self._settings.stream_slow_seconds:
            detail = f"nothing could be written for {self._settings.stream_slow_seconds} s"
            session.end(Bye(messages.TOO_SLOW, "too_slow", detail))
            session.abort()
        if now >= session.heartbeat_at or session.has_conflated:
            session.wake()
        if session.caller is None:
            return
        try:
            self._check_caller(session.caller)
        except Unauthenticated as error:
            session.end(Bye(messages.UNAUTHORIZED, error.code, error.detail))
            return
        left = session.caller.expires_at - time.time()
        if left < TOKEN_WARNING_SECONDS and not session.has_warned_of_token:
            session.has_warned_of_token = True
            session.tell(messages.error("token_expiring", f"the access token ends in {left:.0f} s: send a new one"))

    async def _look_after_feed(self, feed: Feed, now: float) -> None:
        if not feed.is_running:
            return
        if not feed.is_used and now - feed.idle_since > LINGER_SECONDS:
            await feed.stop()
            return
        if feed.failed_at is None or now - feed.failed_at < UNAVAILABLE_SECONDS:
            return
        for session in self._sessions:
            if session.follows(feed.card):
                detail = "Redis does not answer"
                session.end(Bye(messages.UNAVAILABLE, "unavailable", detail, self.reconnect_after_ms()))

    # -- the end

    async def close(self) -> None:
        """Ends all streams with `restarting`, before the server stops. Streams that cannot be written to are cut."""
        self._is_closing = True
        await self.leases.close(RECONNECT_MS_MAX)
        for session in self._sessions:
            detail = "the server is about to stop"
            session.end(Bye(messages.RESTARTING, "restarting", detail, self.reconnect_after_ms()))
        if self._sessions:
            try:
                async with asyncio.timeout(CLOSE_SECONDS):
                    await self._all_gone.wait()
            except TimeoutError:
                log.warning("streams are cut", count=len(self._sessions))
                for session in self._sessions:
                    session.abort()
        if self._housekeeping is not None:
            await cancel_and_wait(self._housekeeping)
            self._housekeeping = None
        await self.statistics.stop()
        for feed in self._feeds.values():
            await feed.stop()


def is_expected(error: BaseException) -> bool:
    """Whether an error of a stream is one that clients cause or are told of."""
    return isinstance(error, (TcgxError, OSError))
