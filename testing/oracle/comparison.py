"""A flow through a server and through the reference book, compared in everything as it goes."""

import itertools
import random
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import msgspec
from redis import Redis

from core.model import Command, Order, PlaceOrder, Reason, ReplaceOrder, Side, Status, Trade
from testing.flows import Flow
from testing.market import Market, draw_reference, orders_in
from testing.oracle.reference_book import ReferenceBook, SelfTrade

GROUP_MAX = 1_000
LEVELS = (1, 3, 20, 1_000)
CHECK_EVERY = 2_500
BatchSize = Callable[[random.Random], int]


class Comparison:
    """A card on the server and its reference book, fed with the same commands."""

    def __init__(self, redis: Redis, card: str, self_trade: SelfTrade) -> None:
        self.market = Market(redis, card, self_trade=self_trade)
        self.reference = ReferenceBook(card, self_trade=self_trade)
        self._appended: list[tuple[str, Command]] = []
        self._last_event: str | None = None
        self._trades = 0
        self._completed = 0
        self._checked = 0

    def append(self, commands: Sequence[Command]) -> None:
        """Appends to the log; the reference gets them when the server has matched them."""
        appended = self.market.append(commands)

        assert appended.first == len(self._appended) + 1
        self._appended += [(appended.at, command) for command in commands]

    def match(self, limit: int, hold_ms: int | None = None) -> bool:
        """One match call on the server, the same commands on the reference; whether more wait."""
        matched = self.market.match_once(limit, hold_ms)
        while self.reference.sequence < matched.sequence:
            sequence = self.reference.sequence + 1
            self.reference.apply(sequence, *self._appended[sequence - 1])

        assert matched.commands <= limit
        assert matched.more or matched.sequence == len(self._appended)
        if matched.sequence % 4 == 0:
            self.compare_depth(LEVELS[matched.sequence % 16 // 4])
        if matched.sequence - self._checked >= CHECK_EVERY:
            self._checked = matched.sequence
            self.compare()
        return matched.more

    def compare(self) -> None:
        """Everything but the lists of the traders, which `compare_traders` compares."""
        market, reference = self.market, self.reference
        self._compare_events()
        bids, asks = market.bids(), market.asks()
        assert bids == reference.bids()
        assert asks == reference.asks()
        assert market.book() == draw_reference(reference)
        assert market.open() == {order.sequence: order for order in bids + asks}
        assert market.latest_trades() == reference.latest_trades()
        if bids and asks:
            assert bids[0].price_cents < asks[0].price_cents

    def compare_depth(self, limit: int) -> None:
        """The best levels of both sides. Between two looks the server only counts what moves."""
        sequence, *sides = self.market.redis.fcall_ro("depth", 1, self.market.tag, limit)
        assert sequence == self.reference.sequence
        for side, orders in zip(sides, (self.reference.bids(), self.reference.asks()), strict=True):
            assert list(zip(side[::2], side[1::2], strict=True)) == levels(orders)[:limit]

    def compare_traders(self) -> None:
        """The latest orders of every trader, and all that each has open."""
        traders = self.reference.traders()
        completed = {order.sequence: order for order in self.market.completed()}
        pipeline = self.market.redis.pipeline(transaction=False)
        for trader_id in traders:
            pipeline.fcall_ro("trader_orders", 1, self.market.tag, trader_id, 50, "all")
        replies: list[Any] = pipeline.execute()
        for trader_id, reply in zip(traders, replies, strict=True):
            latest = orders_in(self.market.card, reply, completed)
            assert latest == self.reference.latest_orders(trader_id), f"orders of {trader_id}"
            assert self.market.open_orders(trader_id) == self.reference.open_orders(trader_id), f"open of {trader_id}"

    def check_invariants(self) -> None:
        """What must hold whatever the reference says."""
        completed, trades, resting = self.market.completed(), self.market.trades(), self.market.open()
        check_invariants([command for _, command in self._appended], completed, trades, resting)

    def _compare_events(self) -> None:
        """Trades and completed orders of the events since the last look, in order."""
        trades, completed = self.reference.trades, self.reference.completed
        for event_id, event in self.market.events(self._last_event):
            self._last_event = event_id
            new_trades, new_completed = events_of(self.market.card, event)
            assert new_trades == trades[self._trades : self._trades + len(new_trades)]
            assert new_completed == completed[self._completed : self._completed + len(new_completed)]
            self._trades += len(new_trades)
            self._completed += len(new_completed)
        assert self._trades == len(trades)
        assert self._completed == len(completed)


def levels(orders: Iterable[Order]) -> list[tuple[int, int]]:
    """Price levels of resting orders in priority order: (price_cents, quantity)."""
    return [
        (price_cents, sum(order.quantity - order.filled_quantity for order in level))
        for price_cents, level in itertools.groupby(orders, key=lambda order: order.price_cents)
    ]


def events_of(card: str, event: dict[bytes, bytes]) -> tuple[list[Trade], list[Order]]:
    """Trades and completed orders of one event, parsed here and not by engine.codec."""
    trades = [line.split(",") for line in event.get(b"trades", b"").decode().splitlines()]
    orders = [line.split(",") for line in event.get(b"orders", b"").decode().splitlines()]
    return (
        [
            Trade(
                card=card,
                number=int(number),
                taker_sequence=int(taker),
                maker_sequence=int(maker),
                taker_trader_id=int(taker_trader),
                maker_trader_id=int(maker_trader),
                price_cents=int(price),
                quantity=int(quantity),
                taker_side=Side(side),
                executed_at=at,
            )
            for number, taker, maker, taker_trader, maker_trader, price, quantity, side, at in trades
        ],
        [
            msgspec.convert(
                {
                    "card": card,
                    "sequence": int(sequence),
                    "filled_quantity": filled,
                    "trader_id": trader,
                    "side": side,
                    "price_cents": price,
                    "quantity": quantity,
                    "client_order_id": client or None,
                    "accepted_at": accepted_at,
                    "closed_at": closed_at,
                }
                | chain_of(time_in_force, status),
                Order,
                strict=False,
            )
            for (
                sequence, trader, side, price, quantity, time_in_force, client, accepted_at, filled, status, closed_at,
            ) in orders
        ],
    )  # fmt: skip


def chain_of(time_in_force: str, status: str) -> dict[str, Any]:
    """The values within time in force and status that lua/parts/order_line.lua describes."""
    force, post_only, replaces, carried = (*time_in_force.split("/"), "", "", "")[:4]
    plain_status, reason, replaced_by = (*status.split("/"), "", "")[:3]
    values = {
        "time_in_force": force,
        "post_only": post_only == "p",
        "replaces": replaces,
        "carried_quantity": carried,
        "status": plain_status,
        "reason": reason,
        "replaced_by": replaced_by,
    }
    return {name: value for name, value in values.items() if value != ""}


def check_invariants(
    commands: Sequence[Command], completed: list[Order], trades: list[Trade], resting: dict[int, Order]
) -> None:
    """Every order is somewhere exactly once, and nothing is made or lost.

    A replace that leaves its order in its place is no order.
    """
    placed = {i: command for i, command in enumerate(commands, 1) if isinstance(command, PlaceOrder)}
    replaced = {command.replaces for command in placed.values() if isinstance(command, ReplaceOrder)}
    orders = {order.sequence: order for order in [*completed, *resting.values()]}
    assert len(orders) == len(completed) + len(resting)
    assert all(isinstance(placed[sequence], ReplaceOrder) for sequence in placed.keys() - orders.keys())
    assert orders.keys() <= placed.keys()

    filled = dict.fromkeys(placed, 0)
    for trade in trades:
        filled[trade.taker_sequence] += trade.quantity
        filled[trade.maker_sequence] += trade.quantity
    assert [trade.number for trade in trades] == list(range(1, len(trades) + 1))
    for order in orders.values():
        command = placed[order.sequence]
        assert order.filled_quantity - order.carried_quantity == filled[order.sequence]
        assert order.filled_quantity <= order.quantity
        if not isinstance(command, ReplaceOrder) or not command.keeps_quantity:
            assert order.quantity <= command.quantity
            assert order.quantity == command.quantity or order.sequence in replaced
        assert (order.status is Status.FILLED) == (order.filled_quantity == order.quantity)
        check_chain(order, orders)
    bought = sum(quantity for sequence, quantity in filled.items() if placed[sequence].side is Side.BUY)
    assert 2 * bought == sum(filled.values())


def check_chain(order: Order, orders: Mapping[int, Order]) -> None:
    """Both orders of a replace name each other, and the later one begins with what the earlier one had filled."""
    if order.replaced_by is not None:
        assert orders[order.replaced_by].replaces == order.sequence
        assert orders[order.replaced_by].carried_quantity == order.filled_quantity
        assert (order.status, order.reason) == (Status.CANCELED, Reason.REPLACED)
    if order.replaces is None:
        assert order.carried_quantity == 0
    elif order.reason not in (Reason.ORDER_COMPLETED, Reason.ALREADY_FILLED) or order.carried_quantity:
        assert orders[order.replaces].replaced_by == order.sequence


def run(
    redis: Redis,
    *,
    flow: Flow,
    seed: int,
    count: int,
    batch_size: BatchSize,
    self_trade: SelfTrade = "allow",
) -> dict[str, Comparison]:
    """Appends and matches a flow in groups and batches of random sizes, and compares as it goes."""
    print(f"flow {flow.__name__} seed {seed} commands {count}")
    choose = random.Random(seed)
    comparisons: dict[str, Comparison] = {}
    for card, commands in groups(flow(seed, count), choose):
        comparison = comparisons.setdefault(card, Comparison(redis, card, self_trade))
        comparison.append(commands)
        for _ in range(choose.choice((0, 0, 1, 3, 1_000))):
            if not comparison.match(batch_size(choose)):
                break
    for comparison in comparisons.values():
        while comparison.match(batch_size(choose)):
            pass
        comparison.compare()
        comparison.compare_traders()
        comparison.check_invariants()
    return comparisons


def groups(commands: Iterator[Command], choose: random.Random) -> Iterator[tuple[str, list[Command]]]:
    """The commands card by card in groups of random size, each card's in order."""
    waiting: dict[str, list[Command]] = {}
    sizes: dict[str, int] = {}
    for command in commands:
        group = waiting.setdefault(command.card, [])
        group.append(command)
        if len(group) == sizes.setdefault(command.card, _group_size(choose)):
            yield command.card, waiting.pop(command.card)
            del sizes[command.card]
    yield from waiting.items()


def _group_size(choose: random.Random) -> int:
    return choose.choice((1, 1, 2, choose.randint(1, 50), choose.randint(1, GROUP_MAX)))
