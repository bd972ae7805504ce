"""One stream: its channels, its positions, and what it has to send next. It has no queue of messages of cards."""

import asyncio
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from core.errors import RateLimited, TcgxError, Unauthenticated, Unavailable
from exchange.auth import TOKEN_MISSING
from exchange.tokens import Caller
from streams import messages
from streams.channels import CHANNELS_MAX, Channel, positions_text
from streams.feed import Feed, Kind
from streams.messages import Bye, Message

if TYPE_CHECKING:
    from streams.hub import Hub

CHUNK_BYTES = 64_000
"""About the size of what is handed to a socket at once."""

READY_SECONDS = 5.0
INTERVAL_MS, INTERVAL_MS_MAX = 100, 1_000
SNAPSHOT_ORDERS_MAX = 5_000
"""Open orders of a trader that a snapshot has of each card, at most; the newest ones."""

FOLLOWED = (Kind.TRADES, Kind.ORDERS)
"""The kinds that are delivered in order and without loss, from a position on."""


class Following:
    """What a stream follows of one card: the positions that it has reached, and whether it wants the book."""

    __slots__ = ("book", "feed", "orders", "trades", "wants_book")

    def __init__(self, feed: Feed) -> None:
        self.feed = feed
        self.trades: int | None = None
        self.orders: int | None = None
        self.wants_book = False
        self.book: int | None = None

    @property
    def reached(self) -> int | None:
        """The last command of which trades and orders are sent; None where neither is followed."""
        found = [position for position in (self.trades, self.orders) if position is not None]
        return min(found) if found else None

    @property
    def position(self) -> int:
        """The position that the client has of the card."""
        reached = self.reached
        return reached if reached is not None else self.book or 0


class Session:
    """One stream of one client. `interval_ms`: the shortest time between two deliveries."""

    def __init__(self, hub: "Hub", *, address: str, caller: Caller | None = None, interval_ms: int) -> None:
        self.address = address
        self.caller = caller
        self.channels: dict[Channel, None] = {}
        self.bye: Bye | None = None
        """The end of the stream, once it is decided."""
        self.abort: Callable[[], None] = lambda: None
        """Ends a delivery that the client does not take."""
        self.sending_since: float | None = None
        self.heartbeat_at = 0.0
        self.has_warned_of_token = False
        self._hub = hub
        self._interval = interval_ms / 1000
        self._cards: dict[str, Following] = {}
        self._control: deque[Message] = deque()
        self._lost_orders: set[str] = set()
        self._conflated: dict[Channel, dict[int, bytes]] = {}
        self._news = asyncio.Event()
        self._due_at = 0.0

    # -- news

    def wake(self) -> None:
        """There may be something to send."""
        self._news.set()

    def set_interval(self, interval_ms: int) -> None:
        """Sets the shortest time between two deliveries, from the next subscription on."""
        self._interval = interval_ms / 1000

    def tell(self, message: Message) -> None:
        """Sends a message that belongs to no card."""
        self._control.append(message)
        self._news.set()

    def greet(self, lease: object = None) -> None:
        """Puts the message `hello` in front of all others. `lease`: the one that its trader has."""
        self._control.appendleft(self._hub.hello(self.positions(), lease))

    def end(self, bye: Bye) -> None:
        """Ends the stream, after what is being sent."""
        if self.bye is None:
            self.bye = bye
            self._news.set()

    # -- channels

    async def subscribe(
        self, channels: Sequence[Channel], after: Mapping[str, int], *, answer: Message | None = None
    ) -> None:
        """Adds channels. `after`: the positions that the client has, by card. `answer` comes before their messages.

        Raises:
            Unauthenticated: a channel needs a token, and the stream has none.
            RateLimited: the stream would have too many channels.
            Unavailable: Redis does not answer.
        """
        new = [channel for channel in channels if channel not in self.channels]
        if len(self.channels) + len(new) > CHANNELS_MAX:
            rule = f"a stream has at most {CHANNELS_MAX} channels"
            raise RateLimited(rule, limit=CHANNELS_MAX, retry_seconds=1, reset_seconds=1)
        if self.caller is None and any(channel.kind is Kind.ORDERS for channel in new):
            raise Unauthenticated("token_missing", TOKEN_MISSING)
        self.channels.update(dict.fromkeys(new))
        if answer is not None:
            self.tell(answer)
        try:
            await self._subscribe(new, after)
        except BaseException:
            self.unsubscribe(new)
            raise

    async def _subscribe(self, new: Sequence[Channel], after: Mapping[str, int]) -> None:
        pairs = [(channel.kind, self._following(card)) for channel in new for card in self._cards_of(channel)]
        for kind, following in pairs:
            following.feed.add(self, kind, interval=self._interval)
        try:
            async with asyncio.timeout(READY_SECONDS):
                for following in {id(each): each for _, each in pairs}.values():
                    await following.feed.ready()
        except TimeoutError:
            raise Unavailable("Redis did not answer: streams have no position yet") from None
        if any(following.feed.failed_at is not None for _, following in pairs):
            raise Unavailable("Redis did not answer")
        for card in {following.feed.card for kind, following in pairs if kind in FOLLOWED}:
            await self._start(card, {kind for kind, each in pairs if each.feed.card == card}, after.get(card))
        for kind, following in pairs:
            following.wants_book |= kind is Kind.BOOK
        await self._take_snapshots()
        self._news.set()

    async def _start(self, card: str, kinds: Iterable[Kind], after: int | None) -> None:
        """Sets the positions from which on trades and orders of a card are sent."""
        following = self._cards[card]
        start = after
        if after is not None and after > following.feed.matched:
            position = await self._hub.books.position(card)
            if after > position.matched:
                self.tell(messages.reset(card, following.feed.position))
                start = None
        if Kind.TRADES in kinds:
            following.trades = following.feed.position if start is None else start
        if Kind.ORDERS in kinds:
            following.orders = start
            if start is None:
                self._lost_orders.add(card)

    def unsubscribe(self, channels: Iterable[Channel]) -> None:
        """Removes channels; those that the stream does not have are ignored."""
        for channel in channels:
            self.channels.pop(channel, None)
            for told in [told for told in self._conflated if told._replace(card=channel.card) == channel]:
                del self._conflated[told]
        for card, following in list(self._cards.items()):
            kinds = {channel.kind for channel in self.channels if card in self._cards_of(channel)}
            for kind in Kind:
                if kind not in kinds:
                    following.feed.remove(self, kind)
            if Kind.TRADES not in kinds:
                following.trades = None
            if Kind.ORDERS not in kinds:
                following.orders = None
                self._lost_orders.discard(card)
            if Kind.BOOK not in kinds:
                following.wants_book, following.book = False, None
            if not kinds:
                del self._cards[card]

    def leave(self) -> None:
        """Ends all subscriptions."""
        self.unsubscribe(list(self.channels))

    def positions(self) -> dict[str, int]:
        """The positions of all cards, as the client has them."""
        return {card: following.position for card, following in self._cards.items()}

    @property
    def positions_text(self) -> str:
        """The positions as clients send them back."""
        return positions_text(self.positions())

    def follows(self, card: str) -> bool:
        """Whether a channel of the stream is about this card."""
        return card in self._cards

    @property
    def has_conflated(self) -> bool:
        """Whether the stream has channels that are sent once a second."""
        return any(channel.kind in (Kind.TICKER, Kind.CANDLES) for channel in self.channels)

    def _following(self, card: str) -> Following:
        if card not in self._cards:
            self._cards[card] = Following(self._hub.feed(card))
        return self._cards[card]

    def _cards_of(self, channel: Channel) -> Sequence[str]:
        return [channel.card] if channel.card else self._hub.cards

    # -- deliveries

    async def next(self) -> list[Message]:
        """Waits for the next messages. Empty only where the stream ends (`bye`)."""
        loop = asyncio.get_running_loop()
        while True:
            await self._prepare()
            found = self._collect(loop.time())
            if found or self.bye is not None:
                self._due_at = loop.time() + self._interval
                return found
            self._news.clear()
            self._wait_for_cards()
            await self._news.wait()
            pause = self._due_at + self._hub.crowd_seconds - loop.time()
            if pause > 0 and self.bye is None:
                await asyncio.sleep(pause)

    def _wait_for_cards(self) -> None:
        for following in self._cards.values():
            if following.reached is not None:
                following.feed.call_waiters.add(self)
            if following.wants_book:
                following.feed.book_waiters.add(self)

    async def _prepare(self) -> None:
        """Reads what is not in memory: older match calls, and open orders after a gap."""
        try:
            for following in self._cards.values():
                reached = following.reached
                if reached is not None and reached < following.feed.ring.floor:
                    await following.feed.backfill(reached)
            await self._take_snapshots()
        except TcgxError as error:
            self.tell(messages.error(error.code, error.detail))
            self.end(Bye(messages.UNAVAILABLE, "unavailable", error.detail, self._hub.reconnect_after_ms()))

    async def _take_snapshots(self) -> None:
        """Reads the open orders of the cards whose events are not known from a position on."""
        caller, cards = self.caller, sorted(self._lost_orders)
        if not cards or caller is None:
            return
        found = []
        is_complete = True
        positions = {}
        for card in cards:
            position, orders = await self._hub.books.open_orders(card, caller.trader_id, SNAPSHOT_ORDERS_MAX)
            positions[card] = position
            is_complete = is_complete and len(orders) < SNAPSHOT_ORDERS_MAX
            found += orders
        for card, position in positions.items():
            if card in self._cards:
                self._cards[card].orders = position
        self._lost_orders.difference_update(cards)
        self._control.append(messages.orders_snapshot(positions, found, is_complete=is_complete))

    def _collect(self, now: float) -> list[Message]:
        """Takes what there is to send, about `CHUNK_BYTES` at most."""
        found = list(self._control)
        self._control.clear()
        size = sum(len(message.json) for message in found)
        for following in self._cards.values():
            size += self._collect_calls(following, found, CHUNK_BYTES - size)
            if following.wants_book and size < CHUNK_BYTES:
                size += self._collect_book(following, found)
        if self.has_conflated:
            found += self._hub.statistics.messages(self._conflated, self.channels, now)
        if now >= self.heartbeat_at:
            self.heartbeat_at = now + self._hub.heartbeat_seconds
            found.append(self._heartbeat())
        return found

    def _collect_calls(self, following: Following, found: list[Message], room: int) -> int:
        """Adds trades and orders of a card. Returns their size."""
        start = following.reached
        if start is None or room <= 0:
            return 0
        size = 0
        trader_id = self.caller.trader_id if self.caller is not None else 0
        for call in following.feed.ring.after(start):
            if call.first > start + 1:
                self._note_gap(following, found, call.first)
            start = call.last
            if following.orders is not None and call.last > following.orders:
                if not call.has_orders:
                    self._lose_orders(following, found, call.last + 1)
                else:
                    own = call.orders(trader_id)
                    found += own
                    size += sum(len(message.json) for message in own)
                    following.orders = call.last
            if following.trades is not None and call.last > following.trades:
                trades = call.trades
                if trades is not None:
                    found.append(trades)
                    size += len(trades.json)
                following.trades = call.last
            if size >= room:
                return size
        if start < following.feed.ring.floor:
            self._note_gap(following, found, following.feed.ring.floor + 1)
        return size

    def _note_gap(self, following: Following, found: list[Message], before: int) -> None:
        """Tells that calls are missing: those after a position and before a command."""
        card = following.feed.card
        if following.orders is not None and following.orders < before - 1:
            self._lose_orders(following, found, before)
        if following.trades is not None and following.trades < before - 1:
            found.append(messages.gap("trades", card, after=following.trades, before=before))
            following.trades = before - 1

    def _lose_orders(self, following: Following, found: list[Message], before: int) -> None:
        """Tells that messages about orders are missing. A snapshot of the open orders follows."""
        card, after = following.feed.card, following.orders
        if after is None or card in self._lost_orders:
            return
        found.append(messages.gap("orders", card, after=after, before=before))
        following.orders = before - 1
        self._lost_orders.add(card)
        self._news.set()

    def _collect_book(self, following: Following, found: list[Message]) -> int:
        news = following.feed.book.message(following.book)
        if news is None:
            return 0
        following.book, text = news
        found.append(Message(b"book", text))
        return len(text)

    def _heartbeat(self) -> Message:
        positions = {card: following.feed.matched for card, following in self._cards.items()}
        levels = {
            card: following.feed.book.sizes()
            for card, following in self._cards.items()
            if following.wants_book and following.feed.book.is_live
        }
        return messages.heartbeat(positions, levels)
