"""Waiting until a command has been matched: one subscription for all waiters of a process."""

import asyncio
import heapq
from collections import deque
from collections.abc import Sequence
from typing import Any

import structlog
from redis.asyncio import Redis

from core.errors import TcgxError
from core.model import Accepted, Fill, Order, PlaceOrder, Status
from core.service import Backoff
from engine import codec, keys
from engine.connection import redis_errors

log = structlog.get_logger()

LISTEN_SECONDS = 5.0
FORGOTTEN_MAX = 100
KEPT_MESSAGES = 64
"""Of a card: an order's append may be answered after its match was told, on another connection."""


class Message:
    """What a match call told: which commands it did and, if they were few, its trades and completed orders."""

    def __init__(self, text: bytes) -> None:
        head, *lines = text.split(b"\n")
        first, last, *trades = head.split()
        self.first, self.last = int(first), int(last)
        self.is_whole = bool(trades)
        self._trades = lines[: int(trades[0])] if trades else []
        self._orders = lines[int(trades[0]) :] if trades else []

    def outcome(self, command: PlaceOrder, entered: Accepted) -> tuple[Order, list[Fill]]:
        """An order of these as it stood after the call, and its fills by then."""
        own = codec.sequence_text(entered.sequence).encode()
        trades = [codec.trade(command.card, line.decode()) for line in self._trades if own in line.split(b",", 3)[1:3]]
        fills = [Fill(trade, trade.taker_sequence == entered.sequence) for trade in trades]
        for line in self._orders:
            if line.startswith(own):
                return codec.order(command.card, line.decode().split(",")), fills
        filled = sum(trade.quantity for trade in trades)
        order = Order(
            card=command.card,
            sequence=entered.sequence,
            trader_id=command.trader_id,
            side=command.side,
            price_cents=command.price_cents,
            quantity=command.quantity,
            filled_quantity=filled,
            status=Status.PARTIALLY_FILLED if filled else Status.OPEN,
            time_in_force=command.time_in_force,
            client_order_id=command.client_order_id,
            accepted_at=entered.accepted_at or "",
            closed_at=None,
        )
        return order, fills


class MatchNotifier:
    """Knows how far each card is matched, from what match calls publish.

    A message that is lost with its connection is made up for by reading the cursors after subscribing again.
    """

    def __init__(self, redis: Redis, cards: Sequence[str]) -> None:
        self._redis: Any = redis
        self._cards = {keys.matched_channel(card).encode(): card for card in cards}
        self._matched = dict.fromkeys(cards, 0)
        self._messages: dict[str, deque[Message]] = {card: deque(maxlen=KEPT_MESSAGES) for card in cards}
        self._waiters: dict[str, list[tuple[int, int, asyncio.Future[None]]]] = {card: [] for card in cards}
        self._count = 0

    async def wait(self, card: str, sequence: int, seconds: float) -> bool:
        """Whether the command was matched before the time was over."""
        if sequence <= self._matched[card]:
            return True
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._count += 1
        heapq.heappush(self._waiters[card], (sequence, self._count, future))
        try:
            await asyncio.wait_for(future, seconds)
        except TimeoutError:
            self._forget(card)
            return False
        return True

    def outcome(self, command: PlaceOrder, entered: Accepted) -> tuple[Order, list[Fill]] | None:
        """An order that is matched as it stood after that, and its fills by then; None where that was not told, or too
        long ago."""
        if entered.accepted_at is None:
            return None
        for message in reversed(self._messages[command.card]):
            if message.first <= entered.sequence <= message.last:
                return message.outcome(command, entered) if message.is_whole else None
        return None

    async def run(self, stopping: asyncio.Event) -> None:
        """Listens until canceled."""
        backoff = Backoff(stopping)
        while not stopping.is_set():
            try:
                await self._listen(backoff)
            except TcgxError as error:
                log.warning("listening for matches will be tried again", reason=str(error))
                await backoff.wait()

    async def _listen(self, backoff: Backoff) -> None:
        with redis_errors():
            async with self._redis.pubsub() as channel:
                await channel.subscribe(*self._cards)
                await self._look()
                backoff.succeeded()
                while True:
                    message = await channel.get_message(ignore_subscribe_messages=True, timeout=LISTEN_SECONDS)
                    if message is None:
                        await self._look()
                    else:
                        self.take(self._cards[message["channel"]], Message(message["data"]))

    def take(self, card: str, told: Message) -> None:
        """Keeps what a match call told, and wakes who waited for it."""
        self._messages[card].append(told)
        self._advance(card, told.last)

    async def _look(self) -> None:
        """Takes the positions from the cursors: after messages may have been missed, and where Redis came back with
        an older state."""
        for card in self._matched:
            self._messages[card].clear()
            self._matched[card] = int(await self._redis.hget(keys.key(card, "cursor"), "sequence") or 0)
            self._advance(card, self._matched[card])

    def _forget(self, card: str) -> None:
        """Drops waiters that are gone, once they are many."""
        waiters = self._waiters[card]
        alive = [waiter for waiter in waiters if not waiter[2].done()]
        if len(waiters) > 2 * len(alive) + FORGOTTEN_MAX:
            heapq.heapify(alive)
            self._waiters[card] = alive

    def _advance(self, card: str, sequence: int) -> None:
        self._matched[card] = max(self._matched[card], sequence)
        waiters = self._waiters[card]
        while waiters and (waiters[0][0] <= self._matched[card] or waiters[0][2].done()):
            _, _, future = heapq.heappop(waiters)
            if not future.done():
                future.set_result(None)
