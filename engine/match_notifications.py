"""Notifications of match calls: one subscription serves all waiters of a process."""

import asyncio
import heapq
from collections import deque
from typing import Any

import structlog

from core.errors import TcgxError
from core.log_limit import RateLimitedLog
from core.model import Accepted, Fill, Order, PlaceOrder, Status
from core.service import Backoff
from engine import codec, keys
from engine.connection import redis_errors
from engine.nodes import Node, Nodes

log = structlog.get_logger()
rate_limited_log = RateLimitedLog(log)

LISTEN_SECONDS = 5.0
CANCELED_WAITERS_MAX = 100
NOTIFICATIONS_MAX = 64
"""Notifications that are kept per card. The reply to an append may arrive after the notification of its match, since
they use different connections."""


class MatchNotification:
    """The notification of a match call: first and last command and, for a small call, trades and completed orders."""

    def __init__(self, text: bytes) -> None:
        head, *lines = text.split(b"\n")
        first, last, *trades = head.split()
        self.first, self.last = int(first), int(last)
        self.has_details = bool(trades)
        self._trades = lines[: int(trades[0])] if trades else []
        self._orders = lines[int(trades[0]) :] if trades else []

    def result(self, command: PlaceOrder, accepted: Accepted) -> tuple[Order, list[Fill]]:
        """The state of an order after the match call, and its fills. The order must be one of this call."""
        own = codec.sequence_text(accepted.sequence).encode()
        trades = [codec.trade(command.card, line.decode()) for line in self._trades if own in line.split(b",", 3)[1:3]]
        fills = [Fill(trade, trade.taker_sequence == accepted.sequence) for trade in trades]
        for line in self._orders:
            if line.startswith(own):
                return codec.order(command.card, line.decode().split(",")), fills
        filled = sum(trade.quantity for trade in trades)
        order = Order(
            card=command.card,
            sequence=accepted.sequence,
            trader_id=command.trader_id,
            side=command.side,
            price_cents=command.price_cents,
            quantity=command.quantity,
            filled_quantity=filled,
            status=Status.PARTIALLY_FILLED if filled else Status.OPEN,
            time_in_force=command.time_in_force,
            client_order_id=command.client_order_id,
            accepted_at=accepted.accepted_at or "",
            closed_at=None,
            post_only=command.post_only,
        )
        return order, fills


class MatchNotifier:
    """Tracks the last matched sequence of each card from notifications, and wakes waiters.

    Redis does not repeat messages that a lost connection missed. So the cursors are read after each subscription.
    """

    def __init__(self, nodes: Nodes) -> None:
        self._nodes = nodes
        cards = [card for node in nodes for card in node.cards]
        self._matched = dict.fromkeys(cards, 0)
        self._notifications: dict[str, deque[MatchNotification]] = {
            card: deque(maxlen=NOTIFICATIONS_MAX) for card in cards
        }
        self._waiters: dict[str, list[tuple[int, int, asyncio.Future[bool]]]] = {card: [] for card in cards}
        self._count = 0
        self._has_ended_waits = False

    async def wait(self, card: str, sequence: int, seconds: float) -> bool:
        """Waits until a command is matched. False if that takes longer than `seconds`, or `end_waits` is called."""
        if sequence <= self._matched[card]:
            return True
        if self._has_ended_waits:
            return False
        future: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._count += 1
        heapq.heappush(self._waiters[card], (sequence, self._count, future))
        try:
            return await asyncio.wait_for(future, seconds)
        except TimeoutError:
            self._drop_canceled_waiters(card)
            return False

    def end_waits(self) -> None:
        """Ends all waits, now and later."""
        self._has_ended_waits = True
        for waiters in self._waiters.values():
            for _, _, future in waiters:
                if not future.done():
                    future.set_result(False)

    def result(self, command: PlaceOrder, accepted: Accepted) -> tuple[Order, list[Fill]] | None:
        """The state of an order after its match, and its fills. None if no kept notification has them."""
        if accepted.accepted_at is None:
            return None
        for notification in reversed(self._notifications[command.card]):
            if notification.first <= accepted.sequence <= notification.last:
                return notification.result(command, accepted) if notification.has_details else None
        return None

    async def run(self, stopping: asyncio.Event) -> None:
        """Listens on all nodes until the stop or a cancellation."""
        await asyncio.gather(*(self._run(node, stopping) for node in self._nodes))

    async def _run(self, node: Node, stopping: asyncio.Event) -> None:
        backoff = Backoff(stopping)
        while not stopping.is_set():
            try:
                await self._listen(node, backoff)
            except TcgxError as error:
                rate_limited_log.warning("listening for matches will be tried again", reason=str(error))
                await backoff.wait()

    async def _listen(self, node: Node, backoff: Backoff) -> None:
        card_of = {keys.matched_channel(card).encode(): card for card in node.cards}
        with redis_errors():
            async with node.commands.pubsub() as channel:
                await channel.subscribe(*card_of)
                await self._read_cursors(node)
                backoff.succeeded()
                while True:
                    message = await channel.get_message(ignore_subscribe_messages=True, timeout=LISTEN_SECONDS)
                    if message is None:
                        await self._read_cursors(node)
                    else:
                        self.handle(card_of[message["channel"]], MatchNotification(message["data"]))

    def handle(self, card: str, notification: MatchNotification) -> None:
        """Keeps a notification, and wakes the callers that wait for its commands."""
        self._notifications[card].append(notification)
        self._advance(card, notification.last)

    async def _read_cursors(self, node: Node) -> None:
        """Reads the positions from the cursors, since messages may be lost or Redis may have an older state."""
        redis: Any = node.commands
        for card in node.cards:
            self._notifications[card].clear()
            self._matched[card] = int(await redis.hget(keys.key(card, "cursor"), "sequence") or 0)
            self._advance(card, self._matched[card])

    def _drop_canceled_waiters(self, card: str) -> None:
        """Drops waiters that have timed out, once they outnumber the others. So the cost per waiter stays constant."""
        waiters = self._waiters[card]
        alive = [waiter for waiter in waiters if not waiter[2].done()]
        if len(waiters) > 2 * len(alive) + CANCELED_WAITERS_MAX:
            heapq.heapify(alive)
            self._waiters[card] = alive

    def _advance(self, card: str, sequence: int) -> None:
        self._matched[card] = max(self._matched[card], sequence)
        waiters = self._waiters[card]
        while waiters and (waiters[0][0] <= self._matched[card] or waiters[0][2].done()):
            _, _, future = heapq.heappop(waiters)
            if not future.done():
                future.set_result(True)
