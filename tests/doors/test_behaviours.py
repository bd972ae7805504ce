"""What every door does alike. The other tests of a door are about its protocol alone."""

import itertools
import time
from collections.abc import Callable
from typing import Any

import pytest

from testing.exchange import ExchangeServer
from testing.waiting import until
from tests.doors.door import Door, FieldFault, Json, Refused

pytestmark = pytest.mark.server

Trader = Callable[..., Door]
CARD, OTHER_CARD = "pikachu", "squirtle"
NAMES = itertools.count(1)
ORDER: Json = {"card": CARD, "side": "buy", "price": "2.00"}


def named() -> str:
    """A client_order_id that is new."""
    return f"door-{next(NAMES)}-{time.monotonic_ns()}"


def refusal(call: Callable[[], Any]) -> Refused:
    with pytest.raises(Refused) as refused:
        call()
    return refused.value


def settled(door: Door, order: Json) -> Json:
    """An order once it is matched."""
    found: Json = until(
        lambda: after if (after := door.order(order["order_id"]))["status"] != "accepted" else None,
        "the order is not matched",
    )
    return found


def test_an_order_is_accepted_and_then_rests(as_trader: Trader) -> None:
    name = named()

    placed = as_trader(1).place(**ORDER, quantity=3, client_order_id=name, post_only=True)

    expected = {
        "client_order_id": name,
        "side": "buy",
        "price": "2.00",
        "quantity": 3,
        "filled_quantity": 0,
        "status": "accepted",
        "time_in_force": "gtc",
        "closed_at": None,
        "post_only": True,
        "replaces": None,
        "carried_quantity": 0,
        "reason": None,
        "replaced_by": None,
    }
    assert {field: placed[field] for field in expected} == expected
    after = settled(as_trader(1), placed)
    assert after == placed | {"status": "open", "trades": [], "average_price": None}
    assert as_trader(1).order_by_client_id(name) == after


def test_every_door_shows_an_order_alike(
    all_doors: ExchangeServer, as_trader: Trader, opened: Callable[[str, str], Door]
) -> None:
    placed = as_trader(1).place(**ORDER, wait=5)

    by_rest = opened("rest", all_doors.bearer(1)["authorization"]).order(placed["order_id"])

    assert as_trader(1).order(placed["order_id"]) == by_rest == placed
    assert as_trader(1).orders(status="open")[0][0] == {
        field: value for field, value in by_rest.items() if field not in ("trades", "average_price")
    }


@pytest.mark.parametrize(
    ("changes", "faults"),
    [
        ({"card": "mew"}, [("card", "unknown_card")]),
        ({"card": None}, [("card", "missing_field")]),
        ({"side": "hold"}, [("side", "invalid_side")]),
        ({"price": "0.99"}, [("price", "invalid_price")]),
        ({"price": "10.01"}, [("price", "invalid_price")]),
        ({"price": "2.005"}, [("price", "invalid_price")]),
        ({"price": "two"}, [("price", "invalid_price")]),
        ({"quantity": 0}, [("quantity", "invalid_quantity")]),
        ({"quantity": 10_001}, [("quantity", "invalid_quantity")]),
        ({"client_order_id": "no spaces"}, [("client_order_id", "invalid_client_order_id")]),
        ({"time_in_force": "day"}, [("time_in_force", "invalid_time_in_force")]),
        ({"time_in_force": "ioc", "post_only": True}, [("post_only", "invalid_post_only")]),
        ({"side": "hold", "price": "0"}, [("side", "invalid_side"), ("price", "invalid_price")]),
    ],
)
def test_a_wrong_order_is_refused_with_each_wrong_field(
    as_trader: Trader, changes: Json, faults: list[tuple[str, str]]
) -> None:
    fields = {name: value for name, value in {**ORDER, **changes}.items() if value is not None}

    found = refusal(lambda: as_trader(1).place(**fields))

    assert found.faults == [FieldFault(*fault) for fault in faults]
    assert found.code == faults[0][1]
    assert found.retry_after == 0


def test_the_sentence_of_a_refusal_is_that_of_rest(
    all_doors: ExchangeServer, as_trader: Trader, opened: Callable[[str, str], Door]
) -> None:
    rest = opened("rest", all_doors.bearer(1)["authorization"])
    wrong: Json = {"card": "mew", "side": "hold", "price": "0.99", "quantity": 0, "client_order_id": "?"}

    here, there = refusal(lambda: as_trader(1).place(**wrong)), refusal(lambda: rest.place(**wrong))

    assert sorted(here.detail.split("; ")) == sorted(there.detail.split("; "))


def test_orders_trade_at_the_price_of_the_resting_one(as_trader: Trader) -> None:
    resting = as_trader(1).place(card=CARD, side="sell", price="3.00", quantity=2)
    taken = as_trader(2).place(card=CARD, side="buy", price="3.50", quantity=3, wait=5)

    (fill,) = taken["trades"]
    assert (taken["status"], taken["filled_quantity"], taken["average_price"]) == ("partially_filled", 2, "3.00")
    assert (fill["price"], fill["quantity"], fill["taker_side"], fill["side"]) == ("3.00", 2, "buy", "buy")
    assert (fill["order_id"], fill["liquidity"]) == (taken["order_id"], "taker")
    after = as_trader(1).order(resting["order_id"])
    assert (after["status"], after["filled_quantity"], after["reason"]) == ("filled", 2, None)
    assert [each["liquidity"] for each in after["trades"]] == ["maker"]
    trade = {name: fill[name] for name in ("trade_id", "card", "price", "quantity", "taker_side", "executed_at")}
    assert as_trader(1).trades(CARD, limit=1) == [trade]
    assert as_trader(1).fills(order_id=resting["order_id"])[0] == after["trades"]


def test_an_immediate_order_does_not_rest_and_a_post_only_one_does_not_take(as_trader: Trader) -> None:
    as_trader(1).place(card=CARD, side="sell", price="4.00", wait=5)

    expired = as_trader(2).place(card=CARD, side="buy", price="3.00", time_in_force="ioc", wait=5)
    crossing = as_trader(2).place(card=CARD, side="buy", price="4.00", post_only=True, wait=5)

    assert (expired["status"], expired["trades"]) == ("expired", [])
    assert (crossing["status"], crossing["reason"]) == ("expired", "would_cross")


def test_a_repeated_client_order_id_gives_the_first_order(as_trader: Trader) -> None:
    name = named()
    first = as_trader(1).place(**ORDER, client_order_id=name, wait=5)

    repeated = as_trader(1).place(**ORDER, client_order_id=name)
    other = refusal(lambda: as_trader(1).place(**ORDER | {"price": "2.01"}, client_order_id=name))

    assert repeated["order_id"] == first["order_id"]
    assert (other.code, name in other.detail) == ("client_order_id_conflict", True)


def test_less_of_an_order_keeps_its_place_and_another_price_is_another_order(as_trader: Trader) -> None:
    order = as_trader(1).place(**ORDER, quantity=5, wait=5)

    less = as_trader(1).replace(order["order_id"], quantity=4, wait=5)
    moved = as_trader(1).replace(order["order_id"], price="2.10", wait=5)

    assert (less["order_id"], less["quantity"]) == (order["order_id"], 4)
    assert (moved["replaces"], moved["quantity"], moved["status"]) == (order["order_id"], 4, "open")
    before = as_trader(1).order(order["order_id"])
    assert (before["status"], before["reason"], before["replaced_by"]) == ("canceled", "replaced", moved["order_id"])
    late = refusal(lambda: as_trader(1).replace(order["order_id"], price="2.20"))
    assert late.code == "order_completed"
    nothing = refusal(lambda: as_trader(1).replace(moved["order_id"]))
    assert nothing.faults == [FieldFault("price", "missing_field")]


def test_a_canceled_order_is_canceled_once(as_trader: Trader) -> None:
    order = as_trader(1).place(**ORDER, wait=5)

    canceled = as_trader(1).cancel(order["order_id"], wait=5)

    assert (canceled["status"], canceled["order_id"]) == ("canceled", order["order_id"])
    assert canceled["closed_at"]
    assert refusal(lambda: as_trader(1).cancel(order["order_id"])).code == "order_completed"
    assert refusal(lambda: as_trader(1).cancel("pikachu-999999999")).code == "order_not_found"


def test_all_orders_are_canceled_on_one_card_or_on_all(as_trader: Trader) -> None:
    one, other = (as_trader(1).place(**ORDER | {"card": card}, wait=5) for card in (CARD, OTHER_CARD))

    (first,) = as_trader(1).cancel_all(CARD, wait=5)
    (second,) = as_trader(1).cancel_all(wait=5)

    assert (first["order_id"], first["status"]) == (one["order_id"], "canceled")
    assert (second["order_id"], second["status"]) == (other["order_id"], "canceled")
    assert refusal(lambda: as_trader(1).cancel_all("mew")).faults == [FieldFault("card", "unknown_card")]


def test_the_items_of_a_batch_have_results_of_their_own(as_trader: Trader) -> None:
    resting = [as_trader(1).place(**ORDER, quantity=2, wait=5)["order_id"] for _ in range(2)]

    results = as_trader(1).submit(
        [
            {**ORDER, "price": "1.50"},
            {"action": "cancel", "order_id": resting[0]},
            {**ORDER, "price": "99.00"},
            {"action": "replace", "order_id": resting[1], "price": "2.20"},
            {"action": "cancel", "order_id": "pikachu-999999999"},
        ]
    )

    assert [each.get("error", {}).get("code") for each in results] == [
        None,
        None,
        "invalid_price",
        None,
        "order_not_found",
    ]
    assert results[0]["price"] == "1.50"
    assert results[1]["order_id"] == resting[0]
    assert results[3]["replaces"] == resting[1]
    assert settled(as_trader(1), results[3])["price"] == "2.20"


@pytest.mark.parametrize("count", [0, 1_001])
def test_a_batch_has_one_to_a_thousand_items(as_trader: Trader, count: int) -> None:
    assert refusal(lambda: as_trader(1).submit([ORDER] * count)).code == "invalid_orders"


def test_a_batch_of_a_thousand_is_taken(as_trader: Trader) -> None:
    results = as_trader(1).submit([ORDER] * 1_000)

    assert [each["status"] for each in results] == ["accepted"] * 1_000
    numbers = [int(each["order_id"].rpartition("-")[2]) for each in results]
    assert numbers == list(range(numbers[0], numbers[0] + 1_000))


def test_the_latest_fifty_orders_are_listed_and_pages_go_on(as_trader: Trader) -> None:
    placed = [each["order_id"] for each in as_trader(1).submit([ORDER] * 60)]
    settled(as_trader(1), {"order_id": placed[-1]})

    latest, _ = as_trader(1).orders()
    first, following = as_trader(1).orders(status="open", card=CARD, limit=40)
    second, end = as_trader(1).orders(status="open", card=CARD, limit=40, before=following)

    assert [each["order_id"] for each in latest] == placed[:9:-1]
    assert [each["order_id"] for each in first + second][:60] == placed[::-1]
    assert end is None


@pytest.mark.parametrize(
    ("query", "fault"),
    [
        ({"status": "filled"}, ("status", "invalid_status")),
        ({"side": "hold"}, ("side", "invalid_side")),
        ({"card": "mew"}, ("card", "unknown_card")),
        ({"before": "pikachu-999999999"}, ("before", "invalid_before")),
        ({"limit": 0}, ("limit", "invalid_limit")),
        ({"limit": 51}, ("limit", "invalid_limit")),
    ],
)
def test_a_wrong_filter_is_named(as_trader: Trader, query: Json, fault: tuple[str, str]) -> None:
    assert refusal(lambda: as_trader(1).orders(**query)).faults == [FieldFault(*fault)]


def test_fills_go_on_page_by_page(as_trader: Trader) -> None:
    as_trader(1).submit([{"card": CARD, "side": "sell", "price": "5.00"}] * 7)
    taken = as_trader(2).place(card=CARD, side="buy", price="5.00", quantity=7, wait=5)

    pages, before = [], None
    while True:
        query: Json = {} if before is None else {"before": before}
        page, before = as_trader(2).fills(order_id=taken["order_id"], limit=3, **query)
        pages.append(page)
        if before is None:
            break

    found = [fill for page in pages for fill in page]
    assert found == taken["trades"][::-1]
    assert len(found) == 7


def test_the_book_has_price_levels(as_trader: Trader, visitor: Door) -> None:
    as_trader(1).submit([{**ORDER, "price": price, "quantity": 2} for price in ("1.10", "1.20", "1.20")])
    until(lambda: visitor.book(CARD)["bids"] == [["1.20", 4], ["1.10", 2]], "the book is another one")

    assert visitor.book(CARD, depth=1)["bids"] == [["1.20", 4]]
    assert visitor.book(CARD)["sequence"] > 0
    assert refusal(lambda: visitor.book("mew")).code == "unknown_card"
    assert refusal(lambda: visitor.book(CARD, depth=0)).code == "invalid_depth"


def test_candles_have_the_trades(as_trader: Trader, visitor: Door) -> None:
    as_trader(1).place(card=OTHER_CARD, side="sell", price="6.00", quantity=2)
    as_trader(2).place(card=OTHER_CARD, side="buy", price="6.00", quantity=2, wait=5)

    candles = visitor.candles(OTHER_CARD, interval="1d", limit=1)

    assert candles[0]["close"] == "6.00"
    assert candles[0]["volume"] >= 2
    assert refusal(lambda: visitor.candles(OTHER_CARD, interval="1y")).code == "invalid_interval"


def test_calls_need_a_token(visitor: Door, opened: Callable[[str, str], Door], door_name: str) -> None:
    calls: list[Callable[[], Any]] = [lambda: visitor.place(**ORDER), visitor.orders, visitor.cancel_all]
    for call in calls:
        assert refusal(call).code == "token_missing"
    wrong = opened(door_name, "Bearer nonsense")
    assert refusal(wrong.orders).code == "token_invalid"


def test_an_order_of_another_trader_is_not_found(as_trader: Trader) -> None:
    order = as_trader(1).place(**ORDER, wait=5)["order_id"]

    for call in (
        lambda: as_trader(2).order(order),
        lambda: as_trader(2).cancel(order),
        lambda: as_trader(2).replace(order, price="2.50"),
    ):
        assert refusal(call).code == "order_not_found"
    assert as_trader(2).submit([{"action": "cancel", "order_id": order}])[0]["error"]["code"] == "order_not_found"
    assert as_trader(1).order(order)["status"] == "open"


def test_an_admin_cancels_for_a_trader_and_the_audit_has_it(as_trader: Trader, all_doors: ExchangeServer) -> None:
    order = as_trader(1).place(**ORDER, wait=5)["order_id"]

    assert as_trader(9, "admin").order(order)["status"] == "open"
    assert as_trader(9, "admin").cancel(order, wait=5)["status"] == "canceled"

    rows = all_doors.http.get("/admin/audit?limit=3", headers=all_doors.bearer(9, "admin")).json()["rows"]
    assert [row["action"] for row in rows] == ["cancel_order", "cancel_order", "get_order"]
    assert {row["actor"] for row in rows} == {"trader 9"}
    assert {row["address"] for row in rows} == {"127.0.0.1"}


def test_trades_and_own_orders_are_streamed(as_trader: Trader) -> None:
    with as_trader(1).stream(f"trades:{CARD}", "orders") as events:
        assert next(events)[0] == "hello"
        mine = as_trader(1).place(card=CARD, side="sell", price="7.00")
        as_trader(2).place(card=CARD, side="buy", price="7.00")

        seen: dict[str, list[Json]] = {}
        while not seen.get("trades") or not any("fill" in str(each) for each in seen.get("orders", ())):
            event, data = next(events)
            seen.setdefault(event, []).append(data)

    (trades,) = [each for each in seen["trades"] if each.get("trades")]
    assert [(trade["price"], trade["quantity"]) for trade in trades["trades"]] == [("7.00", 1)]
    assert mine["order_id"] in str(seen["orders"])


@pytest.mark.parametrize("channels", [["lore:pikachu"], ["trades:mew"]])
def test_a_wrong_channel_is_named(as_trader: Trader, door_name: str, channels: list[str]) -> None:
    if door_name == "graphql" and channels[0].startswith("lore"):
        pytest.skip("the kinds of channels are fields of its schema")

    def follow() -> None:
        with as_trader(1).stream(*channels) as events:
            next(events)

    assert refusal(follow).code == "invalid_channels"


def test_own_orders_are_streamed_for_a_token_alone(visitor: Door) -> None:
    def follow() -> None:
        with visitor.stream("orders") as events:
            next(events)

    assert refusal(follow).code == "token_missing"
