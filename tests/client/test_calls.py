"""Each call of the client, on a real exchange, with the client that blocks and with the one for asyncio."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
import tcgx_client
from tcgx_client import NewOrder, Order, Rejected

from testing.exchange import ExchangeServer
from testing.waiting import until

pytestmark = pytest.mark.server

CARD = "pikachu"
MakeClient = Callable[..., Any]


def settled(exchange: ExchangeServer) -> None:
    """Waits until everything is matched and archived."""
    exchange.archived()


def test_cards_have_their_prices_and_bounds(client: Any) -> None:
    cards = client.cards()

    pikachu = next(card for card in cards if card.card == CARD)
    assert (pikachu.price_min, pikachu.price_max, pikachu.tick) == (Decimal("1.00"), Decimal("10.00"), Decimal("0.01"))
    assert pikachu.quantity_max == 10_000


def test_an_order_is_placed_found_and_canceled(client: Any) -> None:
    placed = client.place(CARD, "buy", "5.50", 3, wait=5)
    found = client.order(placed.order_id)
    by_name = client.order_by_client_id(placed.client_order_id)
    listed = list(client.orders(status="open"))
    canceled = client.cancel(placed.order_id, wait=5)

    assert (placed.status, placed.price, placed.quantity, placed.is_open) == ("open", Decimal("5.50"), 3, True)
    assert placed.client_order_id.startswith("c-")
    assert abs(placed.accepted_at - datetime.now(UTC)) < timedelta(minutes=1)
    assert found == by_name == placed
    assert [order.order_id for order in listed] == [placed.order_id]
    assert (canceled.status, canceled.remaining_quantity, canceled.is_open) == ("canceled", 3, False)


def test_a_trade_is_told_as_fills_to_both_and_as_a_trade_to_all(make_client: MakeClient, trader_id: int) -> None:
    maker, nobody = make_client(trader_id), make_client(0)
    resting = maker.place(CARD, "sell", Decimal("6.10"), 2, wait=5)
    taken = make_client(1).place(CARD, "buy", "6.20", 5, time_in_force="ioc", wait=5)

    assert (taken.status, taken.filled_quantity, taken.average_price) == ("expired", 2, Decimal("6.10"))
    assert [(fill.quantity, fill.liquidity, fill.order_id) for fill in taken.trades] == [(2, "taker", taken.order_id)]
    fill = maker.fills(card=CARD, order_id=resting.order_id).page()[0]
    assert (fill.side, fill.liquidity, fill.price, fill.trade_id) == (
        "sell",
        "maker",
        Decimal("6.10"),
        taken.trades[0].trade_id,
    )
    trade = nobody.trades(CARD, limit=1)[0]
    assert (trade.trade_id, trade.taker_side, trade.number) == (fill.trade_id, "buy", int(fill.trade_id.split("-t")[1]))


def test_a_book_has_levels_of_decimals_and_the_sequence(client: Any) -> None:
    client.place(CARD, "buy", "5.40", 3, wait=5)
    client.place(CARD, "buy", "5.40", 4, wait=5)
    last = client.place(CARD, "sell", 7, 1, wait=5)

    book = client.book(CARD, depth=5)

    assert (book.best_bid, book.best_ask) == ((Decimal("5.40"), 7), (Decimal("7.00"), 1))
    assert book.sequence == int(last.order_id.rpartition("-")[2])


def test_many_orders_go_in_several_requests_and_keep_their_places(client: Any) -> None:
    orders = [
        NewOrder(card=CARD, side="buy", price=f"{100 + number % 50}e-2", quantity=1 + number % 3)
        for number in range(1_200)
    ]
    wrong = NewOrder(card=CARD, side="buy", price="99.99")
    orders[7] = wrong

    results = client.place_many(orders)

    assert len(results) == 1_200
    assert isinstance(results[7], Rejected)
    assert (results[7].code, results[7].problem.status) == ("invalid_price", 422)
    accepted = [result for result in results if isinstance(result, Order)]
    assert [(order.price, order.quantity) for order in accepted] == [
        (Decimal(str(order.price)), order.quantity) for order in orders if order is not wrong
    ]
    canceled = client.cancel_all(CARD, wait=10)
    assert len(canceled) == 1_199
    assert client.cancel_all(wait=5) == []


def test_pages_give_each_order_once_though_there_are_many_pages(client: Any, exchange: ExchangeServer) -> None:
    orders = [NewOrder(card=CARD, side="buy", price="1.00", time_in_force="ioc") for _ in range(620)]
    names = [result.order_id for result in client.place_many(orders)]
    settled(exchange)

    pages = client.history_orders(card=CARD)
    first = pages.page()
    rest = list(pages)

    assert len(first) == 500
    assert [order.order_id for order in [*first, *rest]] == names[::-1]
    assert pages.page() == []
    assert [order.order_id for order in client.orders(card=CARD)] == names[::-1]


def test_trades_of_the_archive_come_in_pages(make_client: MakeClient, trader_id: int, exchange: ExchangeServer) -> None:
    maker, taker = make_client(trader_id), make_client(1)
    maker.place_many([NewOrder(card="charmander", side="sell", price="3.00") for _ in range(30)])
    taker.place("charmander", "buy", "3.00", 30, wait=10)
    settled(exchange)

    numbers = [trade.number for trade in make_client(0).history_trades("charmander")]

    assert numbers == list(range(len(numbers), 0, -1))
    assert len(numbers) >= 30


def test_errors_have_a_class_a_code_and_the_sentence_of_the_exchange(make_client: MakeClient, client: Any) -> None:
    with pytest.raises(tcgx_client.InvalidRequest) as invalid:
        client.place(CARD, "buy", "10.01")
    with pytest.raises(tcgx_client.NotFound) as missing:
        client.order("pikachu-999999999")
    with pytest.raises(tcgx_client.NotFound) as unknown:
        client.book("missingno")
    with pytest.raises(tcgx_client.Unauthorized) as nobody:
        make_client(0).cancel_all()
    with pytest.raises(tcgx_client.Unauthorized) as wrong:
        make_client(1, api_key="wrong").cancel_all()
    done = client.place(CARD, "buy", 1, time_in_force="ioc", wait=5)
    with pytest.raises(tcgx_client.Conflict) as conflict:
        client.cancel(done.order_id)

    assert (invalid.value.status, invalid.value.code) == (422, "invalid_price")
    assert [error.field for error in invalid.value.errors] == ["price"]
    assert "10.01" in str(invalid.value)
    assert (missing.value.code, unknown.value.code) == ("order_not_found", "unknown_card")
    assert (nobody.value.code, wrong.value.code) == ("token_missing", "invalid_credentials")
    assert conflict.value.code == "order_completed"


def test_the_same_client_order_id_gives_the_first_order_again(client: Any) -> None:
    first = client.place(CARD, "buy", "2.00", 2, client_order_id=f"mine-{id(client)}", wait=5)
    again = client.place(CARD, "buy", "2.00", 2, client_order_id=first.client_order_id, wait=5)
    with pytest.raises(tcgx_client.Conflict) as other:
        client.place(CARD, "buy", "2.01", 2, client_order_id=first.client_order_id)

    assert again.order_id == first.order_id
    assert other.value.code == "client_order_id_conflict"


def test_an_order_is_resolved_by_either_id_or_known_to_be_missing(client: Any) -> None:
    placed = client.place(CARD, "buy", "2.00")

    assert client.resolve(placed.client_order_id).order_id == placed.order_id
    assert client.resolve(order_id=placed.order_id).order_id == placed.order_id
    assert client.resolve("c-never") is None


def test_an_order_is_found_by_its_name_before_it_is_matched(client: Any, exchange: ExchangeServer) -> None:
    exchange.stop_service("engine")
    try:
        placed = client.place(CARD, "buy", "2.00")
        found = client.order_by_client_id(placed.client_order_id)
    finally:
        exchange.start_service("engine")

    assert (found.order_id, found.status) == (placed.order_id, "accepted")
    until(lambda: client.order(placed.order_id).status == "open")


def test_every_of_the_901_prices_comes_back_as_it_was(client: Any) -> None:
    prices = [Decimal(cents) / 100 for cents in range(100, 1_001)]

    results = client.place_many([NewOrder(card=CARD, side="buy", price=price, time_in_force="ioc") for price in prices])

    assert [result.price for result in results] == prices


def test_identity_and_address_come_from_the_environment(
    make_client: MakeClient, exchange: ExchangeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TCGX_URL", exchange.url)
    monkeypatch.setenv("TCGX_TRADER_ID", "1")
    monkeypatch.setenv("TCGX_API_KEY", exchange.api_key(1))

    assert make_client(0, base_url=None).cancel_all() == []
