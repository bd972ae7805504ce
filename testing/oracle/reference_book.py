"""The oracle of the tests and of `tcgx bench million`: one card's order book, as naive and as obviously right as it can
be where a million orders have to be judged in seconds.

Every rule is written as it is said in the design: resting orders lie by price and, within a price, in order of arrival;
the best price is searched among all of them each time, nothing is batched or remembered. It shares no code with lua/,
only the names of engine.model.
"""

from collections.abc import Iterator
from typing import Literal

import msgspec
from msgspec import structs

from core.model import (
    COMPLETED,
    LATEST,
    Command,
    Order,
    PlaceOrder,
    Reason,
    ReplaceOrder,
    Side,
    Status,
    TimeInForce,
    Trade,
)

SelfTrade = Literal["allow", "cancel_taker"]


class BookOrder(msgspec.Struct, kw_only=True):
    """An order of the reference book; changes as it fills. `filled` begins with what it carries from replaced ones."""

    sequence: int
    placed: PlaceOrder
    accepted_at: str
    filled: int = 0
    status: Status = Status.OPEN
    closed_at: str | None = None
    carried: int = 0
    reason: Reason | None = None
    replaced_by: int | None = None

    @property
    def is_open(self) -> bool:
        """Whether it rests."""
        return self.status not in COMPLETED

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
            post_only=self.placed.post_only,
            replaces=self.placed.replaces if isinstance(self.placed, ReplaceOrder) else None,
            carried_quantity=self.carried,
            reason=self.reason,
            replaced_by=self.replaced_by,
        )


class BookSide:
    """The resting orders of one side: by price, and within a price the oldest first."""

    def __init__(self, side: Side) -> None:
        self._side = side
        self._levels: dict[int, dict[int, BookOrder]] = {}

    def add(self, order: BookOrder) -> None:
        """The order rests from now on."""
        self._levels.setdefault(order.placed.price_cents, {})[order.sequence] = order

    def remove(self, order: BookOrder) -> None:
        """It rests no more."""
        level = self._levels[order.placed.price_cents]
        del level[order.sequence]
        if not level:
            del self._levels[order.placed.price_cents]

    def best(self) -> BookOrder | None:
        """The order with the best price, of these the earliest."""
        if not self._levels:
            return None
        price_cents = max(self._levels) if self._side is Side.BUY else min(self._levels)
        return next(iter(self._levels[price_cents].values()))

    def in_priority(self) -> Iterator[BookOrder]:
        """All, the best price first, at one price the earliest."""
        for price_cents in sorted(self._levels, reverse=self._side is Side.BUY):
            yield from self._levels[price_cents].values()

    def levels(self) -> list[tuple[int, int]]:
        """Price and quantity of each price with orders, the best first."""
        prices = sorted(self._levels, reverse=self._side is Side.BUY)
        return [(price, sum(order.remaining for order in self._levels[price].values())) for price in prices]


class ReferenceBook:
    """Takes a card's commands one by one, in the order of their sequences."""

    def __init__(self, card: str, *, self_trade: SelfTrade = "allow") -> None:
        self.card = card
        self.trades: list[Trade] = []
        self.completed: list[Order] = []
        self.sequence = 0
        self._self_trade = self_trade
        self._orders: dict[int, BookOrder] = {}
        self._by_trader: dict[int, list[BookOrder | None]] = {}
        self._bids = BookSide(Side.BUY)
        self._asks = BookSide(Side.SELL)

    def apply(self, sequence: int, at: str, command: Command) -> None:
        """Applies the next command of the log, which was appended at this time."""
        if sequence != self.sequence + 1:
            raise ValueError(f"command {sequence} of {self.card} does not follow {self.sequence}")
        self.sequence = sequence
        if isinstance(command, ReplaceOrder):
            self._replace(sequence, at, command)
        elif isinstance(command, PlaceOrder):
            self._place(self._new_order(sequence, at, command), at)
        elif command.sequence == 0:
            for order in self._resting():
                if order.placed.trader_id == command.trader_id:
                    self._cancel(order, at)
        else:
            target = self._own_open(command.sequence, command)
            if target:
                self._cancel(target, at)

    def order(self, sequence: int) -> Order | None:
        """The order with this sequence; None for a cancel, a replace whose order keeps its place, or a sequence not
        reached."""
        order = self._orders.get(sequence)
        return order.snapshot() if order else None

    def orders(self) -> list[Order]:
        """All orders there have been, oldest first."""
        return [order.snapshot() for order in self._orders.values()]

    def bids(self) -> list[Order]:
        """Resting buys in priority order: the highest price first, at one price the earliest."""
        return [order.snapshot() for order in self._bids.in_priority()]

    def asks(self) -> list[Order]:
        """Resting sells in priority order: the lowest price first, at one price the earliest."""
        return [order.snapshot() for order in self._asks.in_priority()]

    def levels(self) -> tuple[list[tuple[int, int]], list[tuple[int, int]]]:
        """Price and quantity of each price with orders, bids and asks, the best first."""
        return self._bids.levels(), self._asks.levels()

    def latest_orders(self, trader_id: int) -> list[Order]:
        """The trader's latest 50 orders, newest first. A replace whose order keeps its place counts, and is none."""
        return [order.snapshot() for order in reversed(self._by_trader.get(trader_id, [])[-LATEST:]) if order]

    def open_orders(self, trader_id: int) -> list[Order]:
        """All of the trader's resting orders, newest first."""
        own = reversed(self._by_trader.get(trader_id, []))
        return [order.snapshot() for order in own if order and order.is_open]

    def traders(self) -> list[int]:
        """Everybody who has placed an order."""
        return list(self._by_trader)

    def latest_trades(self) -> list[Trade]:
        """The latest 50 trades, newest first."""
        return self.trades[-LATEST:][::-1]

    def _own_open(self, sequence: int, command: Command) -> BookOrder | None:
        """The order that a command names, if it rests and is the trader's own."""
        target = self._orders.get(sequence)
        return target if target and target.is_open and target.placed.trader_id == command.trader_id else None

    def _new_order(self, sequence: int, at: str, placed: PlaceOrder) -> BookOrder:
        order = BookOrder(sequence=sequence, placed=placed, accepted_at=at)
        self._orders[sequence] = order
        self._by_trader.setdefault(placed.trader_id, []).append(order)
        return order

    def _replace(self, sequence: int, at: str, command: ReplaceOrder) -> None:
        target = self._own_open(command.replaces, command)
        if target is None or target.placed.side is not command.side:
            self._complete(self._new_order(sequence, at, command), Status.CANCELED, at, Reason.ORDER_COMPLETED)
            return
        before = target.placed
        total = before.quantity if command.keeps_quantity else command.quantity
        keeps_place = (
            command.price_cents == before.price_cents
            and command.post_only == before.post_only
            and total <= before.quantity
        )
        if keeps_place:
            self._by_trader.setdefault(command.trader_id, []).append(None)
        if keeps_place and total > target.filled:
            target.placed = structs.replace(before, quantity=total)
            return
        if total <= target.filled:
            self._cancel(target, at, Reason.ALREADY_FILLED)
            if not keeps_place:
                order = self._new_order(sequence, at, structs.replace(command, quantity=total))
                self._complete(order, Status.CANCELED, at, Reason.ALREADY_FILLED)
            return
        target.replaced_by = sequence
        self._cancel(target, at, Reason.REPLACED)
        order = self._new_order(sequence, at, structs.replace(command, quantity=total))
        order.carried = order.filled = target.filled
        self._place(order, at)

    def _place(self, taker: BookOrder, at: str) -> None:
        placed = taker.placed
        if placed.time_in_force is TimeInForce.FOK and self._available(placed) < placed.quantity:
            self._complete(taker, Status.EXPIRED, at)
            return
        best = self._other_side(placed.side).best()
        if placed.post_only and best is not None and _crosses(placed, best):
            self._complete(taker, Status.EXPIRED, at, Reason.WOULD_CROSS)
            return
        while taker.remaining > 0:
            maker = self._other_side(placed.side).best()
            if maker is None or not _crosses(placed, maker):
                break
            if self._meets_itself(placed, maker):
                self._complete(taker, Status.CANCELED, at)
                return
            self._trade(taker, maker, at)
        if taker.remaining == 0:
            self._complete(taker, Status.FILLED, at)
        elif placed.time_in_force is TimeInForce.GTC:
            taker.status = Status.PARTIALLY_FILLED if taker.filled else Status.OPEN
            self._own_side(placed.side).add(taker)
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

    def _cancel(self, order: BookOrder, at: str, reason: Reason | None = None) -> None:
        self._own_side(order.placed.side).remove(order)
        self._complete(order, Status.CANCELED, at, reason)

    def _complete(self, order: BookOrder, status: Status, at: str, reason: Reason | None = None) -> None:
        order.status = status
        order.closed_at = at
        order.reason = reason
        self.completed.append(order.snapshot())

    def _available(self, placed: PlaceOrder) -> int:
        """What an order could trade at once, best price first, up to the first order it must not meet."""
        found = 0
        for maker in self._other_side(placed.side).in_priority():
            if found >= placed.quantity or not _crosses(placed, maker) or self._meets_itself(placed, maker):
                break
            found += maker.remaining
        return found

    def _meets_itself(self, placed: PlaceOrder, maker: BookOrder) -> bool:
        return self._self_trade == "cancel_taker" and maker.placed.trader_id == placed.trader_id

    def _own_side(self, side: Side) -> BookSide:
        """Where an order of this side rests."""
        return self._bids if side is Side.BUY else self._asks

    def _other_side(self, side: Side) -> BookSide:
        """The resting orders that an order of this side may trade with."""
        return self._asks if side is Side.BUY else self._bids

    def _resting(self) -> list[BookOrder]:
        both = [*self._bids.in_priority(), *self._asks.in_priority()]
        return sorted(both, key=lambda order: order.sequence)


def _crosses(placed: PlaceOrder, maker: BookOrder) -> bool:
    """Whether the prices allow a trade: a buy pays its price or less, a sell gets its price or more."""
    if placed.side is Side.BUY:
        return maker.placed.price_cents <= placed.price_cents
    return maker.placed.price_cents >= placed.price_cents
