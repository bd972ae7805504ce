"""A flow through HTTP from eight clients at once, judged by the reference book in the order of the log."""

import json
import random
import threading
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest

from testing.clients.batch import KeepAlive
from testing.clients.trader import Trader
from testing.exchange import TcgxUp, tcgx_up
from testing.flows import CARDS
from testing.oracle.judge import archived_trades, assert_archived, judged, settle
from testing.oracle.reads import assert_reads, shown, shown_alone, shown_levels, shown_trade
from testing.servers import folder

pytestmark = pytest.mark.server

SEED = 90_210
CLIENTS = 8
TRADERS_A_CLIENT = 4
REQUESTS_A_CLIENT = 1_050
ORDERS_SAMPLED = 400
TRADERS_SAMPLED = 12


@pytest.fixture(scope="module")
def shared() -> Iterator[TcgxUp]:
    with folder() as where, tcgx_up(where) as running:
        yield running


class Client:
    """Places and cancels orders as several traders, over one connection."""

    def __init__(self, port: int, traders: list[Trader], number: int) -> None:
        self.answers: Counter[tuple[str, int]] = Counter()
        self.failure: BaseException | None = None
        self._connection = KeepAlive("127.0.0.1", port)
        self._traders = traders
        self._number = number
        self._choose = random.Random(SEED + number)
        self.thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        try:
            self._trade()
        except BaseException as error:  # noqa: BLE001 - it is raised where the thread is joined
            self.failure = error
        finally:
            self._connection.close()

    def _call(self, trader: Trader, method: str, path: str, body: bytes = b"") -> Any:
        """The body of an answer, whose status is counted."""
        status, _, answer = self._connection.call(trader.bytes_of(method, path, body))
        self.answers[method, status] += 1
        with answer:
            return json.loads(bytes(answer))

    def _trade(self) -> None:
        choose = self._choose
        placed: list[tuple[Trader, str]] = []
        for request in range(REQUESTS_A_CLIENT):
            if placed and choose.random() < 0.2:
                trader, order_id = choose.choice(placed[-60:])
                self._call(trader, "DELETE", f"/orders/{order_id}")
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
            answer = self._call(trader, "POST", "/orders", json.dumps(order).encode())
            placed.append((trader, answer["order_id"]))


def test_what_eight_clients_did_at_once_is_what_the_log_says(shared: TcgxUp) -> None:
    print(f"seed {SEED}")  # noqa: T201 - shown when the test fails
    ids = range(1, CLIENTS * TRADERS_A_CLIENT + 1)
    traders = dict(zip(ids, shared.traders(*ids), strict=True))
    clients = [
        Client(shared.port, [traders[trader_id] for trader_id in ids[number::CLIENTS]], number)
        for number in range(CLIENTS)
    ]

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
        assert visitor.get(f"/history/trades?card={card}")["trades"] == latest
    for trader_id in choose.sample(list(traders), TRADERS_SAMPLED):
        listed = traders[trader_id].get("/orders")["orders"]
        newest = [order for book in books.values() for order in book.latest_orders(trader_id)]
        newest.sort(key=lambda order: (order.accepted_at, order.card, order.sequence), reverse=True)
        assert listed == [shown(order) for order in newest[:50]]
        assert_reads(traders[trader_id], trader_id, books)


def test_ten_buyers_at_once_share_one_seller_of_ten(shared: TcgxUp) -> None:
    card = "squirtle"
    for trader in shared.traders(*range(1, CLIENTS * TRADERS_A_CLIENT + 1)):
        assert trader.request("DELETE", f"/orders?card={card}").status == 202
    seller, *buyers = shared.traders(*range(61, 72))
    settle(shared.urls.redis, shared.urls.database)
    before = len(archived_trades(shared.urls.database, card))
    resting = seller.submit(card, "sell", "4.00", 10)["order_id"]
    together = threading.Barrier(len(buyers))
    bought: list[dict[str, Any]] = []

    def buy(trader: Trader) -> None:
        together.wait(10)
        bought.append(trader.submit(card, "buy", "6.00"))

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
