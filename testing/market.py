"""BookReader as pictures, and one card of a server to trade on: what makes the scenarios readable.

A picture has one line a price level, the best asks lowest and the best bids highest, as a trader sees them; each cell
lists what remains of the level's orders, the earliest first:

    bid | price | ask
        | 5.60  | 3
    4 1 | 5.40  |
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec
from redis import Redis

from core.model import (
    CancelOrder,
    Command,
    Order,
    PlaceOrder,
    ReplaceOrder,
    Side,
    Status,
    TimeInForce,
    Trade,
    price_text,
)
from engine import codec, keys
from testing.oracle.reference_book import ReferenceBook, SelfTrade

HEADER = "bid | price | ask"
WAITING_MAX = 1_000_000
MATCH_BATCH = 500
EVERYTHING = 1_000_000
HISTORY_ID = 32 * "1"

Level = tuple[int, int]


def picture(table: str) -> str:
    """A table as it is typed into a test, in the form that `draw` gives: aligned, without empty lines."""
    rows = [tuple(cell.strip() for cell in line.split("|")) for line in table.strip().splitlines()]
    assert rows[0] == ("bid", "price", "ask"), f"a picture begins with {HEADER}"
    return _align([(bid, price, ask) for bid, price, ask in rows[1:]])


def parse(table: str, card: str, *, trader_id: int = 1) -> list[PlaceOrder]:
    """The orders that make the book of a picture, best prices first, bids before asks."""
    lines = picture(table).splitlines()[1:]
    levels = [[cell.strip() for cell in line.split("|")] for line in lines]
    bids = [(price, quantity, Side.BUY) for bid, price, _ in levels for quantity in bid.split()]
    asks = [(price, quantity, Side.SELL) for _, price, ask in reversed(levels) for quantity in ask.split()]
    return [
        PlaceOrder(trader_id=trader_id, card=card, side=side, price_cents=cents(price), quantity=int(quantity))
        for price, quantity, side in bids + asks
    ]


def draw(bids: Iterable[Level], asks: Iterable[Level]) -> str:
    """The picture of a book: (price_cents, remaining quantity) of each resting order, in priority order."""
    bid_cells, ask_cells = _cells(bids), _cells(asks)
    prices = sorted({*bid_cells, *ask_cells}, reverse=True)
    return _align([(bid_cells.get(price, ""), price_text(price), ask_cells.get(price, "")) for price in prices])


def draw_reference(book: ReferenceBook) -> str:
    """The picture of a reference book."""
    return draw(_levels(book.bids()), _levels(book.asks()))


def many(quantity: int, *, count: int, trader: int = 1, price_cents: int = 500, side: Side = Side.BUY) -> list[Command]:
    """Equal orders for pikachu."""
    order = PlaceOrder(trader_id=trader, card="pikachu", side=side, price_cents=price_cents, quantity=quantity)
    return [order] * count


def expiring(trader: int, count: int) -> list[Command]:
    """Orders for pikachu that are completed at once where nobody sells."""
    order = PlaceOrder(trader_id=trader, card="pikachu", side=Side.BUY, price_cents=500, time_in_force=TimeInForce.IOC)
    return [order] * count


def cents(price: str) -> int:
    """Dollars with two decimals as cents."""
    dollars, _, rest = price.partition(".")
    assert len(rest) == 2, f"{price} needs two decimals"
    return int(dollars) * 100 + int(rest)


def _cells(orders: Iterable[Level]) -> dict[int, str]:
    cells: dict[int, str] = {}
    for price, remaining in orders:
        cells[price] = f"{cells[price]} {remaining}" if price in cells else str(remaining)
    return cells


def _align(rows: Sequence[tuple[str, str, str]]) -> str:
    table = [("bid", "price", "ask"), *rows]
    widths = [max(len(row[column]) for row in table) for column in range(3)]
    return "\n".join(
        f"{bid:>{widths[0]}} | {price:>{widths[1]}} | {ask:<{widths[2]}}".rstrip() for bid, price, ask in table
    )


class Appended(msgspec.Struct, frozen=True):
    """What an append replied: the first sequence and the time of all of its commands."""

    first: int
    at: str


class Matched(msgspec.Struct, frozen=True):
    """What a match call replied."""

    commands: int
    sequence: int
    log_id: str
    trades: int
    rejected: int
    more: bool


class Market:
    """One card of a server whose library is loaded, driven as the services drive it."""

    def __init__(
        self, redis: Redis, card: str = "pikachu", *, self_trade: SelfTrade = "allow", history_id: str = HISTORY_ID
    ) -> None:
        self.redis: Any = redis  # redis-py types replies as unions of all that its options allow
        self.card = card
        self.tag = keys.tag(card)
        self.self_trade = self_trade
        self.history_id = history_id

    def key(self, part: str) -> str:
        """A key of the card."""
        return keys.key(self.card, part)

    def append_reply(
        self, commands: Sequence[Command], *, waiting_max: int = WAITING_MAX, limits: str = ""
    ) -> list[Any]:
        """Appends in one call; the reply as it comes."""
        arguments: list[str | int] = [len(commands), self.mark(), waiting_max, 0, self.self_trade, limits]
        arguments += codec.encode(commands).arguments()
        for place, command in enumerate(commands):
            if isinstance(command, PlaceOrder) and command.client_order_id is not None:
                arguments += [place, f"{command.trader_id}:{command.client_order_id}", codec.order_terms(command)]
        reply: list[Any] = self.redis.fcall("append", 1, self.tag, *arguments)
        return reply

    def mark(self) -> str:
        """What an append must name; begins a history where there is none."""
        mark: bytes = self.redis.fcall_ro("history", 1, self.tag)[0]
        if mark.startswith(b" "):
            self.redis.fcall("begin", 1, self.tag, "", self.history_id)
            return self.mark()
        return mark.decode()

    def append(self, commands: Sequence[Command]) -> Appended:
        """Appends in one call; nothing may repeat a client_order_id."""
        reply = self.append_reply(commands)
        assert reply[0] > 0, f"refused as repeated: {reply}"
        return Appended(reply[0], reply[1].decode())

    def place(
        self,
        side: Side,
        price: str,
        quantity: int = 1,
        *,
        trader: int = 1,
        time_in_force: TimeInForce = TimeInForce.GTC,
        client_order_id: str | None = None,
        post_only: bool = False,
    ) -> int:
        """Appends an order; its sequence."""
        order = PlaceOrder(
            trader_id=trader,
            card=self.card,
            side=side,
            price_cents=cents(price),
            quantity=quantity,
            time_in_force=time_in_force,
            client_order_id=client_order_id,
            post_only=post_only,
        )
        return self.append([order]).first

    def replace(
        self,
        sequence: int,
        side: Side,
        price: str,
        quantity: int,
        *,
        trader: int = 1,
        post_only: bool = False,
        keeps_quantity: bool = False,
        client_order_id: str | None = None,
    ) -> int:
        """Appends a replace of an order; its own sequence."""
        command = ReplaceOrder(
            trader_id=trader,
            card=self.card,
            side=side,
            price_cents=cents(price),
            quantity=quantity,
            post_only=post_only,
            replaces=sequence,
            keeps_quantity=keeps_quantity,
            client_order_id=client_order_id,
        )
        return self.append([command]).first

    def buy(
        self, price: str, quantity: int = 1, *, trader: int = 1, time_in_force: TimeInForce = TimeInForce.GTC
    ) -> int:
        """Appends a buy; its sequence."""
        return self.place(Side.BUY, price, quantity, trader=trader, time_in_force=time_in_force)

    def sell(
        self, price: str, quantity: int = 1, *, trader: int = 2, time_in_force: TimeInForce = TimeInForce.GTC
    ) -> int:
        """Appends a sell; its sequence."""
        return self.place(Side.SELL, price, quantity, trader=trader, time_in_force=time_in_force)

    def cancel(self, sequence: int, *, trader: int = 1) -> int:
        """Appends a cancel, of all of the trader's orders with sequence 0; its own sequence."""
        return self.append([CancelOrder(trader_id=trader, card=self.card, sequence=sequence)]).first

    def given(self, table: str, *, trader: int = 1) -> None:
        """Makes the book look like this, matched."""
        self.append(parse(table, self.card, trader_id=trader))
        self.match()

    def trade(self, *, events: int = 1) -> None:
        """Orders, of which one side is completed, in that many events."""
        for _ in range(events):
            self.append(many(1, count=2) + many(1, count=2, trader=2, side=Side.SELL))
            self.match()

    def match_once(self, limit: int = MATCH_BATCH, hold_ms: int | None = None) -> Matched:
        """One match call; without a bound in time unless given."""
        reply = self.redis.fcall("match", 1, self.tag, limit, *([] if hold_ms is None else [hold_ms]))
        return Matched(reply[0], reply[1], reply[2].decode(), reply[3], reply[4], bool(reply[5]))

    def match(self, limit: int = MATCH_BATCH) -> int:
        """Matches until nothing waits; how many trades that made."""
        trades = 0
        while True:
            matched = self.match_once(limit)
            trades += matched.trades
            if not matched.more:
                return trades

    def cancel_all(self, *, trader: int = 1, calls_max: int = 1_000) -> list[int]:
        """Appends a cancel for each order that may be open, in so many calls at most; the orders, oldest first."""
        canceled: list[int] = []
        after = before = 0
        for _ in range(calls_max):
            arguments = (trader, self.mark(), WAITING_MAX, 0, after, before)
            _, _, _, after, before, targets = self.redis.fcall("cancel_all", 1, self.tag, *arguments)
            canceled += targets
            if not after:
                break
        return canceled

    def items(self, trader: int) -> list[str]:
        """A trader's list as it is."""
        return [item.decode() for item in self.redis.lrange(self.key(f"trader:{trader}"), 0, -1)]

    def listed(self, trader: int) -> list[int]:
        """The sequences in a trader's list."""
        runs = [[int(part) for part in run.split("-")] for item in self.items(trader) for run in item.split()]
        return [sequence for run in runs for sequence in range(run[0], run[-1] + 1)]

    def book(self) -> str:
        """The picture of the book."""
        return draw(_levels(self.bids()), _levels(self.asks()))

    def bids(self) -> list[Order]:
        """The resting buys, in the order of {card}:bids."""
        return self._side("bids")

    def asks(self) -> list[Order]:
        """The resting sells, in the order of {card}:asks."""
        return self._side("asks")

    def open(self) -> dict[int, Order]:
        """All of {card}:open by sequence."""
        stored: dict[bytes, bytes] = self.redis.hgetall(self.key("open"))
        return {int(field): _order(self.card, line) for field, line in stored.items()}

    def order(self, sequence: int) -> Order | None:
        """An order as `FCALL_RO order` knows it."""
        reply = self.redis.fcall_ro("order", 1, self.tag, sequence)
        if reply is None:
            return None
        state, *values = [value.decode() for value in reply[1::2]]
        return codec.order(self.card, values, accepted=state == "accepted")

    def state(self, sequence: int) -> tuple[Status, int]:
        """Status and filled quantity of an order that must be there."""
        order = self.order(sequence)
        assert order is not None, f"{sequence} is not found"
        return order.status, order.filled_quantity

    def orders_of(self, trader: int, *, limit: int = 50, only: str = "all") -> list[Order]:
        """A trader's orders, newest first. `only` is "all", "accepted" or "open"."""
        if only == "open":
            return self.open_orders(trader)[:limit]
        reply = self.redis.fcall_ro("trader_orders", 1, self.tag, trader, limit, only)
        is_told_whole = all(b"," in line for line in reply)
        completed = {} if is_told_whole else {order.sequence: order for order in self.completed()}
        return orders_in(self.card, reply, completed)

    def open_orders(self, trader: int) -> list[Order]:
        """A trader's orders that rest in the book, newest first."""
        listed = self.redis.fcall_ro("trader_orders", 1, self.tag, trader, EVERYTHING, "unfinished")
        lines = self.redis.hmget(self.key("open"), listed) if listed else []
        return [_order(self.card, line) for line in lines if line]

    def latest_trades(self) -> list[Trade]:
        """All of {card}:trades, newest first."""
        return [codec.trade(self.card, line.decode()) for line in self.redis.lrange(self.key("trades"), 0, -1)]

    def events(self, after: str | None = None) -> list[tuple[str, dict[bytes, bytes]]]:
        """The entries of {card}:events after an id."""
        entries: Any = self.redis.xrange(self.key("events"), min=f"({after}" if after else "-")
        return [(entry_id.decode(), fields) for entry_id, fields in entries]

    def trades(self) -> list[Trade]:
        """Every trade in {card}:events, in order."""
        return [trade for _, event in self.events() for trade in codec.trades(self.card, event.get(b"trades", b""))]

    def pairs(self) -> list[tuple[int, int, int, int]]:
        """Taker, maker, price_cents and quantity of every trade."""
        return [
            (trade.taker_sequence, trade.maker_sequence, trade.price_cents, trade.quantity) for trade in self.trades()
        ]

    def completed(self) -> list[Order]:
        """Every completed order in {card}:events, in the order of completion."""
        return [order for _, event in self.events() for order in codec.orders(self.card, event.get(b"orders", b""))]

    def rejected(self) -> list[str]:
        """The ids of the log entries that events tell as rejected."""
        lines = [line for _, event in self.events() for line in event.get(b"rejected", b"").decode().splitlines()]
        return [line.partition(" ")[0] for line in lines]

    def log_entries(self) -> list[tuple[bytes, dict[bytes, bytes]]]:
        """The raw log."""
        entries: Any = self.redis.xrange(self.key("orders"))
        return list(entries)

    def state_hash(self) -> str:
        """What `FCALL_RO state_hash` says."""
        digest: bytes = self.redis.fcall_ro("state_hash", 1, self.tag)
        return digest.decode()

    def _side(self, part: str) -> list[Order]:
        members: Any = self.redis.zrange(self.key(part), 0, -1, withscores=True)
        if not members:
            return []
        records = self.redis.hmget(self.key("open"), [member for member, _ in members])
        orders = []
        for (member, score), record in zip(members, records, strict=True):
            assert len(member) == 12, f"{member!r} sorts wrongly among members of 12 digits"
            assert record is not None, f"{member!r} is in {part} but not in open"
            order = _order(self.card, record)
            assert score == (-order.price_cents if order.side is Side.BUY else order.price_cents)
            assert (part == "bids") == (order.side is Side.BUY)
            orders.append(order)
        return orders


def orders_in(card: str, reply: Sequence[bytes], completed: Mapping[int, Order]) -> list[Order]:
    """The reply of `FCALL_RO trader_orders`, which names completed orders, and replaces that are no orders, by their
    sequences alone."""
    found = [_order(card, line) if b"," in line else completed.get(int(line)) for line in reply]
    return [order for order in found if order is not None]


def _order(card: str, line: bytes) -> Order:
    return codec.order(card, line.decode().split(","))


def _levels(orders: Iterable[Order]) -> list[Level]:
    return [(order.price_cents, order.quantity - order.filled_quantity) for order in orders]
