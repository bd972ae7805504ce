"""Order flows that other engines agree on, sent as mixed batches over REST; each modify is one replace.

A flow has new orders, cancels and modifies of orders by ids of its own; a modify is a cancel and a new order at once.
A plain book says what must come of each message. The exchange gets items of `POST /orders/batch`, and its archive says
what came of them. A modify that would keep the place of its order cannot be one replace, so it is two items.

`python -m testing.consensus FLOW.csv.xz…` sends flows of files, a line a message: type (0 new, 1 cancel, 2 modify),
side (0 buy, 1 sell), ioc, quantity, order id, price in cents.
"""

import argparse
import hashlib
import lzma
import random
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from core.model import COMMANDS_MAX, Reason, price_text
from testing.clients.trader import Trader
from testing.exchange import ExchangeServer, exchange_server
from testing.oracle.judge import settle
from testing.servers import fetch

CARD = "pikachu"
NEW, CANCEL, MODIFY = 0, 1, 2
ACCEPTED, TRADED, CANCELED, MODIFIED, CANCEL_REJECTED, MODIFY_REJECTED = range(6)
SIDES = ("buy", "sell")

Json = dict[str, Any]
Report = tuple[int, ...]
"""The number of a message, the kind of the report, and its values."""


class Message(NamedTuple):
    """A message of a flow."""

    kind: int
    side: int
    ioc: int
    quantity: int
    order_id: int
    price: int


class Resting(msgspec.Struct):
    """An order of the plain book. `filled` counts from the order that its replaces began with."""

    order_id: int
    side: int
    price: int
    left: int
    arrival: int
    filled: int = 0

    @property
    def total(self) -> int:
        """What it has filled, and has left."""
        return self.filled + self.left


class Book:
    """A price-time book: the best order of a side is searched among all of its best price."""

    def __init__(self) -> None:
        self.resting: dict[int, Resting] = {}
        self._levels: tuple[dict[int, dict[int, Resting]], dict[int, dict[int, Resting]]] = ({}, {})
        self._arrivals = 0

    def place(self, message: Message, filled: int = 0) -> tuple[list[tuple[int, int, int]], int]:
        """Trades of a new order (price, quantity, id of the maker), and what it has left."""
        trades, left, others = [], message.quantity, self._levels[1 - message.side]
        while left and others:
            price = min(others) if message.side == 0 else max(others)
            if price > message.price if message.side == 0 else price < message.price:
                break
            maker = next(iter(others[price].values()))
            quantity = min(left, maker.left)
            trades.append((price, quantity, maker.order_id))
            left -= quantity
            maker.left -= quantity
            maker.filled += quantity
            if not maker.left:
                self.remove(maker.order_id)
        if left and not message.ioc:
            self._arrivals += 1
            order = Resting(message.order_id, message.side, message.price, left, self._arrivals)
            order.filled = filled + message.quantity - left
            self.resting[message.order_id] = order
            self._levels[message.side].setdefault(message.price, {})[order.arrival] = order
        return trades, left

    def remove(self, order_id: int) -> Resting | None:
        """Removes an order; None if it does not rest."""
        order = self.resting.pop(order_id, None)
        if order is not None:
            level = self._levels[order.side][order.price]
            del level[order.arrival]
            if not level:
                del self._levels[order.side][order.price]
        return order


class Sent(msgspec.Struct):
    """What was sent for a message: its items, and the sequences of their orders; 0 for one that was refused."""

    number: int
    message: Message
    items: list[Json]
    target: int
    sequences: list[int] = []


def flow(seed: int, count: int) -> Iterator[Message]:
    """A flow around a middle that moves: half of the messages are new orders, the others name recent ones."""
    choose = random.Random(seed)
    recent: list[Message] = []
    middle = 550
    for order_id in range(1, count + 1):
        middle = max(300, min(800, middle + choose.choice((-1, 0, 0, 1))))
        side = choose.randint(0, 1)
        away = int(choose.expovariate(1 / 6)) - 2
        price = middle + (away if side else -away)
        if recent and choose.random() < 0.5:
            order = choose.choice(recent[-200:])
            kind = choose.choice((CANCEL, MODIFY, MODIFY))
            away = int(choose.expovariate(1 / 6)) - 2
            price = order.price if choose.random() < 0.3 else middle + (away if order.side else -away)
            yield Message(kind, order.side, 0, choose.randint(1, 30), order.order_id, price)
            continue
        message = Message(NEW, side, int(choose.random() < 0.1), choose.randint(1, 30), order_id, price)
        recent.append(message)
        yield message


def read(path: Path) -> Iterator[Message]:
    """The messages of a file."""
    with lzma.open(path, "rt") as lines:
        for line in lines:
            yield Message(*map(int, line.split(",")))


def judged(messages: Iterable[Message]) -> tuple[list[Report], list[tuple[Message, Resting | None]]]:
    """The reports that are right; and each message with the order that it names, as it is before the message."""
    book, named = Book(), []
    reports: list[Report] = []
    for number, message in enumerate(messages):
        target = book.resting.get(message.order_id) if message.kind != NEW else None
        before = msgspec.structs.replace(target) if target else None
        named.append((message, before))
        if message.kind != NEW:
            book.remove(message.order_id)
        if message.kind == CANCEL:
            reports.append((number, CANCELED, message.order_id) if before else (number, CANCEL_REJECTED))
        elif message.kind == MODIFY and not before:
            reports.append((number, MODIFY_REJECTED))
        else:
            trades, left = book.place(message, before.filled if before else 0)
            reports.append((number, ACCEPTED if message.kind == NEW else MODIFIED, message.order_id))
            reports += [(number, TRADED, price, quantity, maker) for price, quantity, maker in trades]
            if message.ioc and left:
                reports.append((number, CANCELED, message.order_id))
    return reports, named


class Sender:
    """Sends messages as one trader, in batches that end where an item names an order of the same batch."""

    def __init__(self, trader: Trader) -> None:
        self.batches = 0
        self.sent: list[Sent] = []
        self._trader = trader
        self._pending: list[Sent] = []
        self._items = 0
        self._order_of: dict[int, str] = {}
        self._waits_for: set[int] = set()

    def send(self, number: int, message: Message, before: Resting | None) -> None:
        """Adds a message to the batch. `before`: the order that it names, as the plain book has it."""
        if message.order_id in self._waits_for or self._items >= COMMANDS_MAX - 1:
            self.flush()
        name = self._order_of.get(message.order_id, f"{CARD}-999999999999")
        items = _items(message, before, name)
        self._items += len(items)
        sent = Sent(number, message, items, int(name.rpartition("-")[2]))
        self._pending.append(sent)
        self.sent.append(sent)
        if message.kind != CANCEL:
            self._waits_for.add(message.order_id)

    def flush(self) -> None:
        """Sends the batch."""
        items = [item for sent in self._pending for item in sent.items]
        if not items:
            return
        answer = self._trader.http.post("/orders/batch", content=msgspec.json.encode({"orders": items}))
        assert answer.status_code == 202, answer.text
        results = iter(answer.json()["results"])
        for sent in self._pending:
            for item in sent.items:
                result = next(results)
                sent.sequences.append(int(result["order_id"].rpartition("-")[2]) if "order_id" in result else 0)
                if "error" not in result and item.get("action") != "cancel":
                    self._order_of[sent.message.order_id] = result["order_id"]
        self.batches += 1
        self._pending, self._items = [], 0
        self._waits_for.clear()


def _items(message: Message, before: Resting | None, name: str) -> list[Json]:
    """The items of a batch for a message. A modify that comes too late is a replace, which must be refused."""
    order: Json = {
        "card": CARD,
        "side": SIDES[message.side],
        "price": price_text(message.price),
        "quantity": message.quantity,
        "time_in_force": "ioc" if message.ioc else "gtc",
    }
    cancel = {"action": "cancel", "order_id": name}
    if message.kind == NEW:
        return [order]
    if message.kind == CANCEL:
        return [cancel]
    total = message.quantity + (before.filled if before else 0)
    if before and (
        before.side != message.side or message.ioc or (before.price == message.price and total <= before.total)
    ):
        return [cancel, order]
    return [{"action": "replace", "order_id": name, "price": order["price"], "quantity": total}]


def reported(sent: Sequence[Sent], trades: Sequence[Json], orders: Sequence[Json]) -> list[Report]:
    """What the archive says about the messages."""
    fills: dict[int, list[tuple[int, int, int]]] = {}
    for trade in trades:
        fills.setdefault(trade["taker_sequence"], []).append(
            (trade["price_cents"], trade["quantity"], trade["maker_sequence"])
        )
    rows = {row["sequence"]: row for row in orders}
    owner = {each.sequences[-1]: each.message.order_id for each in sent if each.message.kind != CANCEL}
    reports: list[Report] = []
    ended: set[int] = set()
    for each in sent:
        number, message, own = each.number, each.message, each.sequences[-1]
        row = rows.get(each.target, {})
        is_canceled = row.get("status") == "canceled" and row["reason"] is None and each.target not in ended
        if len(each.items) == 2 or (message.kind == CANCEL and is_canceled):
            ended.add(each.target)
        if message.kind == CANCEL:
            reports.append((number, CANCELED, message.order_id) if is_canceled else (number, CANCEL_REJECTED))
            continue
        # A replace that was expected to keep its order's place came too late, since no such replace is sent.
        is_late = own in (0, each.target) or rows.get(own, {}).get("reason") == Reason.ORDER_COMPLETED
        if message.kind == MODIFY and is_late:
            reports.append((number, MODIFY_REJECTED))
            continue
        reports.append((number, ACCEPTED if message.kind == NEW else MODIFIED, message.order_id))
        reports += [(number, TRADED, price, quantity, owner[maker]) for price, quantity, maker in fills.get(own, ())]
        if rows.get(own, {}).get("status") == "expired":
            reports.append((number, CANCELED, message.order_id))
    return reports


def digest(reports: Iterable[Report]) -> str:
    """The SHA-256 of reports, those of a message by kind."""
    lines = [",".join(map(str, report)) for report in sorted(reports, key=lambda report: report[:2])]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


class Outcome(NamedTuple):
    """What was sent, and both lists of reports."""

    replaces: int
    batches: int
    right: list[Report]
    found: list[Report]


def send(exchange: ExchangeServer, messages: Iterable[Message]) -> Outcome:
    """Sends a flow to an exchange whose card is empty, and reads what came of it from the archive."""
    right, named = judged(messages)
    sender = Sender(exchange.trader())
    for number, (message, before) in enumerate(named):
        sender.send(number, message, before)
    sender.flush()
    settings = exchange.settings
    settle(settings.redis_url, settings.database_url, (CARD,))
    trades = fetch(settings.database_url, "SELECT * FROM trades WHERE card = $1 ORDER BY trade_number", CARD)
    orders = fetch(settings.database_url, "SELECT * FROM orders WHERE card = $1", CARD)
    replaces = sum(item.get("action") == "replace" for sent in sender.sent for item in sent.items)
    return Outcome(replaces, sender.batches, right, reported(sender.sent, trades, orders))


def main() -> None:
    """Sends the flows of the command line, each to an exchange of its own."""
    parser = argparse.ArgumentParser(prog="python -m testing.consensus", description=__doc__)
    parser.add_argument("flows", nargs="+", type=Path)
    parser.add_argument("--messages", type=int, default=None, help="the first messages alone")
    arguments = parser.parse_args()
    for path in arguments.flows:
        messages = list(read(path))[: arguments.messages]
        prices = [message.price for message in messages]
        with exchange_server(price_cents_min=1, price_cents_max=max(prices) + 1, max_quantity=1_000_000) as exchange:
            started = time.monotonic()
            outcome = send(exchange, messages)
        agrees = digest(outcome.right) == digest(outcome.found)
        print(
            f"{path.name}: {len(messages)} messages, {outcome.replaces} replaces, {outcome.batches} batches, "
            f"{len(outcome.found)} reports, {digest(outcome.found)[:16]} {'agrees' if agrees else 'DIFFERS'}, "
            f"{time.monotonic() - started:.0f} s"
        )
        if not agrees:
            raise SystemExit(1)


if __name__ == "__main__":
    main()
