"""A flow through HTTP from eight clients at once, judged by the reference book in the order of the log."""

import random
import threading
from collections import Counter
from collections.abc import Iterator
from decimal import ROUND_HALF_UP, Decimal
from typing import Any

import pytest

from bench.reference_book import ReferenceBook
from core.model import Order, Trade, price_text
from tests.comparison import levels
from tests.running_exchange import (
    CARDS,
    Exchange,
    Trader,
    archived_trades,
    assert_archived,
    exchange,
    folder,
    judged,
    settle,
)

pytestmark = pytest.mark.server

SEED = 90_210
CLIENTS = 8
TRADERS_A_CLIENT = 4
REQUESTS_A_CLIENT = 1_050
ORDERS_SAMPLED = 400
TRADERS_SAMPLED = 12


@pytest.fixture(scope="module")
def shared() -> Iterator[Exchange]:
    with folder() as where, exchange(where) as running:
        yield running


class Client:
    """Places and cancels orders as several traders, over one connection after another."""

    def __init__(self, traders: list[Trader], number: int) -> None:
        self.answers: Counter[tuple[str, int]] = Counter()
        self.failure: BaseException | None = None
        self._traders = traders
        self._number = number
        self._choose = random.Random(SEED + number)
        self.thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        try:
            self._trade()
        except BaseException as error:  # noqa: BLE001 - it is raised where the thread is joined
            self.failure = error

    def _trade(self) -> None:
        choose = self._choose
        placed: list[tuple[Trader, str]] = []
        for request in range(REQUESTS_A_CLIENT):
            if placed and choose.random() < 0.2:
                trader, order_id = choose.choice(placed[-60:])
                answer = trader.request("DELETE", f"/orders/{order_id}")
                self.answers["DELETE", answer.status] += 1
                continue
            order: dict[str, Any] = {
                "card": choose.choice(CARDS),
                "side": choose.choice(("buy", "sell")),
                "price": f"{choose.randint(480, 520) / 100:.2f}",
                "quantity": choose.randint(1, 20),
                "time_in_force": choose.choices(("gtc", "ioc", "fok"), weights=(8, 1, 1))[0],
            }
            if choose.random() < 0.2:
                order["client_order_id"] = f"{self._number}:{request}"
            trader = choose.choice(self._traders)
            answer = trader.request("POST", "/orders", order)
            self.answers["POST", answer.status] += 1
            placed.append((trader, answer.body["order_id"]))


def shown(order: Order) -> dict[str, Any]:
    """An order as the API shows it to its trader."""
    return {
        "order_id": f"{order.card}-{order.sequence}",
        "client_order_id": order.client_order_id,
        "card": order.card,
        "side": order.side.value,
        "price": price_text(order.price_cents),
        "quantity": order.quantity,
        "filled_quantity": order.filled_quantity,
        "status": order.status.value,
        "time_in_force": order.time_in_force.value,
        "accepted_at": order.accepted_at,
        "closed_at": order.closed_at,
    }


def shown_trade(trade: Trade) -> dict[str, Any]:
    """A trade as the API shows it to everybody."""
    return {
        "trade_id": f"{trade.card}-t{trade.number}",
        "card": trade.card,
        "price": price_text(trade.price_cents),
        "quantity": trade.quantity,
        "taker_side": trade.taker_side.value,
        "executed_at": trade.executed_at,
    }


def shown_fills(trades: list[Trade], *, trader_id: int = 0, order: Order | None = None) -> list[dict[str, Any]]:
    """The fills of a trader, or of an order, oldest first, as the API shows them."""
    fills = []
    for trade in trades:
        for liquidity, owner, sequence in (
            ("maker", trade.maker_trader_id, trade.maker_sequence),
            ("taker", trade.taker_trader_id, trade.taker_sequence),
        ):
            if owner == trader_id or (order and sequence == order.sequence):
                is_buy = (trade.taker_side.value == "buy") == (liquidity == "taker")
                own = {"order_id": f"{trade.card}-{sequence}", "side": "buy" if is_buy else "sell"}
                fills.append(shown_trade(trade) | own | {"liquidity": liquidity})
    return fills


def shown_alone(order: Order, book: ReferenceBook) -> dict[str, Any]:
    """An order with its fills."""
    fills = shown_fills(book.trades, order=order)
    dollars = sum(Decimal(fill["price"]) * fill["quantity"] for fill in fills)
    average = None
    if fills:
        exact = (dollars / order.filled_quantity).quantize(Decimal("0.0001"), ROUND_HALF_UP)
        whole, _, decimals = str(exact).partition(".")
        average = f"{whole}.{decimals[:2]}{decimals[2:].rstrip('0')}"
    return shown(order) | {"average_price": average, "trades": fills}


def paged(trader: Trader, path: str, items: str, limit: int) -> list[dict[str, Any]]:
    """Everything that the pages of a list have."""
    found: list[dict[str, Any]] = []
    before = ""
    while True:
        page = trader.get(f"{path}limit={limit}{before}")
        assert len(page[items]) <= limit
        found += page[items]
        if page["next"] is None:
            return found
        before = f"&before={page['next']}"


def shown_levels(orders: list[Order]) -> list[list[Any]]:
    return [[price_text(price_cents), quantity] for price_cents, quantity in levels(orders)]


def assert_reads(trader: Trader, trader_id: int, books: dict[str, ReferenceBook]) -> None:
    """That the pages of a trader's orders, open orders and fills have all of them, in order."""
    every = [order for book in books.values() for order in book.orders() if order.trader_id == trader_id]
    every.sort(key=lambda order: (order.accepted_at, order.card, order.sequence), reverse=True)
    resting = [order for order in every if order.status.value in ("open", "partially_filled")]
    assert paged(trader, "/orders?", "orders", 33) == [shown(order) for order in every]
    assert paged(trader, "/orders?status=open&", "orders", 7) == [shown(order) for order in resting]
    for side in ("buy", "sell"):
        of_side = [shown(order) for order in every if order.side.value == side]
        assert paged(trader, f"/orders?side={side}&", "orders", 33) == of_side
        open_ones = [shown(order) for order in resting if order.side.value == side]
        assert paged(trader, f"/orders?status=open&side={side}&", "orders", 500) == open_ones
    by_card = {card: shown_fills(book.trades, trader_id=trader_id) for card, book in books.items()}
    fills = sorted((fill for found in by_card.values() for fill in found), key=_fill_age, reverse=True)
    assert paged(trader, "/fills?", "fills", 41) == fills
    assert paged(trader, "/fills?card=squirtle&", "fills", 500) == by_card["squirtle"][::-1]


def _fill_age(fill: dict[str, Any]) -> tuple[str, str, int, str]:
    number = int(fill["trade_id"].rpartition("-t")[2])
    return fill["executed_at"], fill["card"], number, fill["liquidity"]


def test_what_eight_clients_did_at_once_is_what_the_log_says(shared: Exchange) -> None:
    print(f"seed {SEED}")  # noqa: T201 - shown when the test fails
    ids = range(1, CLIENTS * TRADERS_A_CLIENT + 1)
    traders = dict(zip(ids, shared.traders(*ids), strict=True))
    clients = [Client([traders[trader_id] for trader_id in ids[number::CLIENTS]], number) for number in range(CLIENTS)]

    for client in clients:
        client.thread.start()
    for client in clients:
        client.thread.join()
        if client.failure:
            raise client.failure
    settle(shared.urls.redis, shared.urls.database)
    books = judged(shared.urls.redis)

    answers = sum((client.answers for client in clients), Counter[tuple[str, int]]())
    assert set(answers) <= {("POST", 202), ("DELETE", 202), ("DELETE", 409)}
    assert answers.total() >= 8_000
    orders = {(card, order.sequence): order for card, book in books.items() for order in book.orders()}
    assert len(orders) == answers["POST", 202]
    assert sum(book.sequence for book in books.values()) == answers["POST", 202] + answers["DELETE", 202]
    assert {order.time_in_force.value for order in orders.values()} == {"gtc", "ioc", "fok"}
    assert {order.status.value for order in orders.values()} == {
        "open",
        "partially_filled",
        "filled",
        "canceled",
        "expired",
    }
    assert_archived(shared.urls.database, books)

    choose = random.Random(SEED)
    for order in choose.sample(list(orders.values()), ORDERS_SAMPLED):
        assert traders[order.trader_id].get(f"/orders/{order.order_id}") == shown_alone(order, books[order.card])
    visitor = shared.trader()
    for card, book in books.items():
        assert visitor.get(f"/cards/{card}/book?depth=1000") == {
            "card": card,
            "sequence": book.sequence,
            "bids": shown_levels(book.bids()),
            "asks": shown_levels(book.asks()),
        }
        latest = [shown_trade(trade) for trade in book.latest_trades()]
        assert visitor.get(f"/cards/{card}/trades") == {"trades": latest}
        assert visitor.get(f"/history/trades?card={card}") == {"trades": latest}
    for trader_id in choose.sample(list(traders), TRADERS_SAMPLED):
        listed = traders[trader_id].get("/orders")["orders"]
        newest = [order for book in books.values() for order in book.latest_orders(trader_id)]
        newest.sort(key=lambda order: (order.accepted_at, order.card, order.sequence), reverse=True)
        assert listed == [shown(order) for order in newest[:50]]
        assert_reads(traders[trader_id], trader_id, books)


def test_ten_buyers_at_once_share_one_seller_of_ten(shared: Exchange) -> None:
    card = "squirtle"
    for trader in shared.traders(*range(1, CLIENTS * TRADERS_A_CLIENT + 1)):
        assert trader.request("DELETE", f"/orders?card={card}").status == 202
    seller, *buyers = shared.traders(*range(61, 72))
    settle(shared.urls.redis, shared.urls.database)
    before = len(archived_trades(shared.urls.database, card))
    resting = seller.place(card, "sell", "4.00", 10)["order_id"]
    together = threading.Barrier(len(buyers))
    bought: list[dict[str, Any]] = []

    def buy(trader: Trader) -> None:
        together.wait(10)
        bought.append(trader.place(card, "buy", "6.00"))

    threads = [threading.Thread(target=buy, args=[buyer]) for buyer in buyers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    filled = seller.completed(resting)
    settle(shared.urls.redis, shared.urls.database)

    assert (filled["status"], filled["filled_quantity"]) == ("filled", 10)
    trades = archived_trades(shared.urls.database, card)[before:]
    assert [(trade.quantity, trade.price_cents, trade.maker_trader_id) for trade in trades] == [(1, 400, 61)] * 10
    assert {trade.taker_trader_id for trade in trades} == set(range(62, 72))
    assert {f"{card}-{trade.taker_sequence}" for trade in trades} == {order["order_id"] for order in bought}
    book = seller.get(f"/cards/{card}/book")
    assert (book["bids"], book["asks"]) == ([], [])
    assert_archived(shared.urls.database, judged(shared.urls.redis))
