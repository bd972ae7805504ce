"""The oracle: one card's order book, as naive and as obviously right as it can be.

Every rule is written as it is said in the design: resting orders are lists, the best one is searched from the start
each time, nothing is batched or remembered. It shares no code with lua/, only the names of engine.model.
"""

from collections.abc import Callable
from typing import Literal

import msgspec

from engine.model import LATEST, Command, Order, PlaceOrder, Side, Status, TimeInForce, Trade

SelfTrade = Literal["allow", "cancel_taker"]


class BookOrder(msgspec.Struct, kw_only=True):
    """An order of the reference book; changes as it fills."""

    sequence: int
    placed: PlaceOrder
    accepted_at: str
    filled: int = 0
    status: Status = Status.OPEN
    closed_at: str | None = None

    @property
    def remaining(self) -> int:
        """What is not filled."""
        return self.placed.quantity - self.filled

    def snapshot(self) -> Order:
        """The order as the platform shows it."""
        return Order(
            card=self.placed.card,
            sequence=self.sequence,
            trader_id=self.placed.trader_id,
            side=self.placed.side,
            price_cents=self.placed.price_cents,
            quantity=self.placed.quantity,
            filled_quantity=self.filled,
            status=self.status,
            time_in_force=self.placed.time_in_force,
            client_order_id=self.placed.client_order_id,
            accepted_at=self.accepted_at,
            closed_at=self.closed_at,
        )


class ReferenceBook:
    """Takes a card's commands one by one, in the order of their sequences."""

    def __init__(self, card: str, *, self_trade: SelfTrade = "allow") -> None:
        self.card = card
        self.trades: list[Trade] = []
        self.completed: list[Order] = []
        self.sequence = 0
        self._self_trade = self_trade
        self._orders: dict[int, BookOrder] = {}
        self._by_trader: dict[int, list[BookOrder]] = {}
        self._bids: list[BookOrder] = []
        self._asks: list[BookOrder] = []

    def apply(self, sequence: int, at: str, command: Command) -> None:
        """Applies the next command of the log, which was appended at this time."""
        assert sequence == self.sequence + 1
        self.sequence = sequence
        if isinstance(command, PlaceOrder):
            self._place(sequence, at, command)
        elif command.sequence == 0:
            for order in self._resting():
                if order.placed.trader_id == command.trader_id:
                    self._cancel(order, at)
        else:
            for order in self._resting():
                if order.sequence == command.sequence and order.placed.trader_id == command.trader_id:
                    self._cancel(order, at)

    def order(self, sequence: int) -> Order | None:
        """The order with this sequence; None for a cancel or a sequence not reached."""
        order = self._orders.get(sequence)
        return order.snapshot() if order else None

    def orders(self) -> list[Order]:
        """All orders there have been, oldest first."""
        return [order.snapshot() for order in self._orders.values()]

    def bids(self) -> list[Order]:
        """Resting buys in priority order: the highest price first, at one price the earliest."""
        return [order.snapshot() for order in sorted(self._bids, key=lambda o: (-o.placed.price_cents, o.sequence))]

    def asks(self) -> list[Order]:
        """Resting sells in priority order: the lowest price first, at one price the earliest."""
        return [order.snapshot() for order in sorted(self._asks, key=lambda o: (o.placed.price_cents, o.sequence))]

    def latest_orders(self, trader_id: int) -> list[Order]:
        """The trader's latest 50 orders, newest first."""
        return [order.snapshot() for order in reversed(self._by_trader.get(trader_id, [])[-LATEST:])]

    def open_orders(self, trader_id: int) -> list[Order]:
        """All of the trader's resting orders, newest first."""
        resting = [order.snapshot() for order in self._resting() if order.placed.trader_id == trader_id]
        return resting[::-1]

    def traders(self) -> list[int]:
        """Everybody who has placed an order."""
        return list(self._by_trader)

    def latest_trades(self) -> list[Trade]:
        """The latest 50 trades, newest first."""
        return self.trades[-LATEST:][::-1]

    def _place(self, sequence: int, at: str, placed: PlaceOrder) -> None:
        taker = BookOrder(sequence=sequence, placed=placed, accepted_at=at)
        self._orders[sequence] = taker
        self._by_trader.setdefault(placed.trader_id, []).append(taker)
        if placed.time_in_force is TimeInForce.FOK and self._available(placed) < placed.quantity:
            self._complete(taker, Status.EXPIRED, at)
            return
        while taker.remaining > 0:
            maker = self._best(placed, self._other_side(placed.side))
            if maker is None:
                break
            if self._meets_itself(placed, maker):
                self._complete(taker, Status.CANCELED, at)
                return
            self._trade(taker, maker, at)
        if taker.remaining == 0:
            self._complete(taker, Status.FILLED, at)
        elif placed.time_in_force is TimeInForce.GTC:
            (self._bids if placed.side is Side.BUY else self._asks).append(taker)
        else:
            self._complete(taker, Status.EXPIRED, at)

    def _trade(self, taker: BookOrder, maker: BookOrder, at: str) -> None:
        quantity = min(taker.remaining, maker.remaining)
        taker.filled += quantity
        maker.filled += quantity
        taker.status = maker.status = Status.PARTIALLY_FILLED
        self.trades.append(
            Trade(
                card=self.card,
                number=len(self.trades) + 1,
                taker_sequence=taker.sequence,
                maker_sequence=maker.sequence,
                taker_trader_id=taker.placed.trader_id,
                maker_trader_id=maker.placed.trader_id,
                price_cents=maker.placed.price_cents,
                quantity=quantity,
                taker_side=taker.placed.side,
                executed_at=at,
            )
        )
        if maker.remaining == 0:
            self._other_side(taker.placed.side).remove(maker)
            self._complete(maker, Status.FILLED, at)

    def _cancel(self, order: BookOrder, at: str) -> None:
        (self._bids if order.placed.side is Side.BUY else self._asks).remove(order)
        self._complete(order, Status.CANCELED, at)

    def _complete(self, order: BookOrder, status: Status, at: str) -> None:
        order.status = status
        order.closed_at = at
        self.completed.append(order.snapshot())

    def _available(self, placed: PlaceOrder) -> int:
        """What an order could trade at once, best price first, up to the first order it must not meet."""
        others = list(self._other_side(placed.side))
        found = 0
        while found < placed.quantity:
            maker = self._best(placed, others)
            if maker is None or self._meets_itself(placed, maker):
                return found
            found += maker.remaining
            others.remove(maker)
        return found

    def _best(self, placed: PlaceOrder, others: list[BookOrder]) -> BookOrder | None:
        """The resting order that trades next: best price, then earliest; None if no price crosses."""
        better = _lower if placed.side is Side.BUY else _higher
        best: BookOrder | None = None
        for order in others:
            if best is None or better(order.placed.price_cents, best.placed.price_cents):
                best = order
        if best is None or better(placed.price_cents, best.placed.price_cents):
            return None
        return best

    def _meets_itself(self, placed: PlaceOrder, maker: BookOrder) -> bool:
        return self._self_trade == "cancel_taker" and maker.placed.trader_id == placed.trader_id

    def _other_side(self, side: Side) -> list[BookOrder]:
        """The resting orders that an order of this side may trade with, oldest first."""
        return self._asks if side is Side.BUY else self._bids

    def _resting(self) -> list[BookOrder]:
        return sorted(self._bids + self._asks, key=lambda order: order.sequence)


Better = Callable[[int, int], bool]


def _lower(price: int, than: int) -> bool:
    return price < than


def _higher(price: int, than: int) -> bool:
    return price > than
