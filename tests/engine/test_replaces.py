"""Replaces and post-only orders, on a real server: what becomes of both orders, of the queue, and of the totals."""

import random
from collections import Counter

import pytest
from redis import Redis

from core.model import CancelOrder, Command, Order, PlaceOrder, Reason, ReplaceOrder, Side, Status
from testing.flows import REPLACE_FLOWS
from testing.market import Market, picture
from testing.oracle.comparison import groups, run

pytestmark = pytest.mark.server

BUY, SELL = Side.BUY, Side.SELL
BATCHES = [1, 500]
"""Each command in a call of its own, so that orders rest in {card}:open; or all in one call."""


def found(market: Market, sequence: int) -> Order:
    order = market.order(sequence)
    assert order is not None, f"{sequence} is not found"
    return order


def end_of(market: Market, sequence: int) -> tuple[Status, Reason | None, int]:
    """Status, reason and filled quantity of an order."""
    order = found(market, sequence)
    return order.status, order.reason, order.filled_quantity


@pytest.mark.parametrize("limit", BATCHES)
def test_less_at_the_same_price_keeps_the_place(market: Market, limit: int) -> None:
    first, second = market.buy("5.50", 10), market.buy("5.50", 7, trader=2)
    market.sell("5.50", 4, trader=3)
    replace = market.replace(first, BUY, "5.50", 6)
    market.sell("5.50", 3, trader=3)
    market.match(limit)

    assert market.order(replace) is None
    assert end_of(market, first) == (Status.FILLED, None, 6)
    assert found(market, first).quantity == 6
    assert end_of(market, second) == (Status.PARTIALLY_FILLED, None, 1)
    assert market.book() == picture("bid | price | ask\n 6 | 5.50 | ")


@pytest.mark.parametrize("limit", BATCHES)
def test_the_same_price_and_total_changes_nothing(market: Market, limit: int) -> None:
    first, second = market.buy("5.50", 2), market.buy("5.50", 2)
    market.replace(first, BUY, "5.50", 2)
    market.sell("5.50", 2)
    market.match(limit)

    assert end_of(market, first) == (Status.FILLED, None, 2)
    assert end_of(market, second) == (Status.OPEN, None, 0)


@pytest.mark.parametrize("limit", BATCHES)
@pytest.mark.parametrize(("price", "total"), [("5.50", 11), ("5.49", 10), ("5.51", 5)])
def test_more_or_another_price_takes_a_new_place(market: Market, limit: int, price: str, total: int) -> None:
    first = market.buy("5.50", 10)
    market.buy(price, 1, trader=2)
    market.sell("5.50", 0 + 4, trader=3)
    market.match(limit)
    filled = found(market, first).filled_quantity
    replace = market.replace(first, BUY, price, total)
    market.match(limit)

    old, new = found(market, first), found(market, replace)
    assert (old.status, old.reason, old.replaced_by) == (Status.CANCELED, Reason.REPLACED, replace)
    assert (new.replaces, new.quantity, new.filled_quantity, new.carried_quantity) == (first, total, filled, filled)
    assert new.status is Status.PARTIALLY_FILLED
    assert [order.sequence for order in market.bids() if order.price_cents == new.price_cents][-1] == replace


def test_the_total_counts_what_is_filled(market: Market) -> None:
    first = market.buy("5.50", 10)
    market.sell("5.50", 4)
    second = market.replace(first, BUY, "5.60", 10)
    market.match()
    assert market.book() == picture("bid | price | ask\n 6 | 5.60 | ")

    third = market.replace(second, BUY, "5.70", 10)
    market.sell("5.60", 100)
    market.match()

    assert end_of(market, third) == (Status.FILLED, None, 10)
    assert sum(trade.quantity for trade in market.trades()) == 10


@pytest.mark.parametrize("limit", BATCHES)
@pytest.mark.parametrize("total", [4, 3])
def test_a_total_that_is_filled_already_closes_the_order(market: Market, limit: int, total: int) -> None:
    same_price, other_price = market.buy("5.50", 10), market.buy("5.40", 10)
    market.sell("5.50", 4)
    market.replace(same_price, BUY, "5.50", total)
    market.sell("5.40", 4)
    late = market.replace(other_price, BUY, "5.41", total)
    market.match(limit)

    assert end_of(market, same_price) == (Status.CANCELED, Reason.ALREADY_FILLED, 4)
    assert end_of(market, other_price) == (Status.CANCELED, Reason.ALREADY_FILLED, 4)
    assert end_of(market, late) == (Status.CANCELED, Reason.ALREADY_FILLED, 0)
    assert market.open() == {}


@pytest.mark.parametrize("limit", BATCHES)
def test_a_replace_that_comes_too_late_is_closed_with_a_reason(market: Market, limit: int) -> None:
    filled, canceled, foreign = market.buy("5.50"), market.buy("5.40"), market.buy("5.30", trader=2)
    market.sell("5.50")
    market.cancel(canceled)
    late = [market.replace(sequence, BUY, "5.60", 3) for sequence in (filled, canceled, foreign, 99)]
    other_side = market.replace(foreign, SELL, "5.60", 3, trader=2)
    market.match(limit)

    for sequence in [*late, other_side]:
        assert end_of(market, sequence) == (Status.CANCELED, Reason.ORDER_COMPLETED, 0)
    assert end_of(market, foreign) == (Status.OPEN, None, 0)
    assert end_of(market, filled) == (Status.FILLED, None, 1)


@pytest.mark.parametrize("limit", BATCHES)
def test_a_replace_without_a_quantity_keeps_what_the_order_has_by_then(market: Market, limit: int) -> None:
    first = market.buy("5.50", 10)
    market.replace(first, BUY, "5.50", 6)
    moved = market.replace(first, BUY, "5.40", 10, keeps_quantity=True)
    market.match(limit)

    assert found(market, moved).quantity == 6
    assert market.book() == picture("bid | price | ask\n 6 | 5.40 | ")


@pytest.mark.parametrize("limit", BATCHES)
def test_a_post_only_order_never_trades_when_it_arrives(market: Market, limit: int) -> None:
    market.sell("5.60", 3)
    crosses = market.place(BUY, "5.60", 1, post_only=True)
    rests = market.place(BUY, "5.59", 2, post_only=True)
    moved = market.replace(rests, BUY, "5.60", 2, post_only=True)
    last = market.place(BUY, "5.58", 2, post_only=True)
    market.match(limit)
    assert market.trades() == []

    market.sell("5.58", 1)
    market.match(limit)

    assert end_of(market, crosses) == (Status.EXPIRED, Reason.WOULD_CROSS, 0)
    assert end_of(market, moved) == (Status.EXPIRED, Reason.WOULD_CROSS, 0)
    assert end_of(market, rests) == (Status.CANCELED, Reason.REPLACED, 0)
    assert end_of(market, last) == (Status.PARTIALLY_FILLED, None, 1)
    assert found(market, last).post_only


def test_a_post_only_order_passes_over_orders_that_were_canceled(market: Market) -> None:
    gone = market.sell("5.60", 3)
    market.cancel(gone, trader=2)
    order = market.place(BUY, "5.60", 1, post_only=True)
    market.match()

    assert end_of(market, order) == (Status.OPEN, None, 0)


def test_a_replace_that_meets_its_own_trader_is_canceled_as_an_order_is(redis_client: Redis) -> None:
    market = Market(redis_client, self_trade="cancel_taker")
    bid, ask = market.buy("5.50", 2), market.sell("5.60", 2, trader=1)
    moved = market.replace(bid, BUY, "5.60", 2)
    market.match()

    assert end_of(market, moved) == (Status.CANCELED, None, 0)
    assert end_of(market, ask) == (Status.OPEN, None, 0)


@pytest.mark.parametrize("client", ["buy", "sell"])
def test_an_order_whose_id_is_the_name_of_a_side_is_canceled_on_its_own_side(market: Market, client: str) -> None:
    bid = market.place(BUY, "5.00", client_order_id=client)
    ask = market.place(SELL, "6.00", client_order_id=client, trader=2)
    market.match()
    market.cancel(bid)
    market.cancel(ask, trader=2)
    market.match()

    assert market.bids() == market.asks() == []


def test_a_repeated_replace_has_the_first_outcome(market: Market) -> None:
    first = market.buy("5.50", 10)
    replace = market.replace(first, BUY, "5.60", 5, client_order_id="move")
    command = ReplaceOrder(
        trader_id=1, card="pikachu", side=BUY, price_cents=560, quantity=5, client_order_id="move", replaces=first
    )

    assert market.append_reply([command])[:2] == [0, 0]
    assert market.append_reply([command])[2].decode() == f"{replace} R{first},560,5"
    assert market.redis.fcall_ro("client_order", 1, market.tag, "1:move") == [replace, first]


def test_open_orders_do_not_limit_replaces(market: Market) -> None:
    orders = [market.buy("5.50"), market.buy("5.40")]
    command = ReplaceOrder(trader_id=1, card="pikachu", side=BUY, price_cents=530, replaces=orders[0])
    place = PlaceOrder(trader_id=1, card="pikachu", side=BUY, price_cents=530)

    assert market.append_reply([command], limits="0 1 2")[0] == 3
    market.match()
    assert market.append_reply([place, command], limits="0 1 2") == [-1, b"1", 0, b"open", 2]
    assert market.append_reply([command, command], limits="1 1 2")[3] == b"rate"


@pytest.mark.parametrize(
    ("changes", "rejected"),
    [
        ({}, 0),
        ({b"targets": b"[0]"}, 1),
        ({b"targets": b"[-1]"}, 1),
        ({b"targets": b"[1,2]"}, 1),
        ({b"quantities": b"[0]"}, 1),
        ({b"kinds": b"G"}, 1),
        ({b"kinds": b"C"}, 1),
        ({b"kinds": b"G", b"quantities": b"[-2]", b"targets": b"[0]"}, 1),
    ],
)
def test_malformed_replaces_are_rejected(market: Market, changes: dict[bytes, bytes], rejected: int) -> None:
    market.buy("5.50")
    market.match()
    market.replace(1, BUY, "5.60", 2)
    entry_id, fields = market.log_entries()[-1]
    market.redis.delete(market.key("orders"))
    market.redis.xadd(market.key("orders"), {**fields, **changes}, id=entry_id)

    assert market.match_once().rejected == rejected


@pytest.mark.parametrize("batches", ["1", "random"])
@pytest.mark.parametrize("flow", REPLACE_FLOWS)
def test_flows_with_replaces_give_what_the_reference_book_gives(redis_client: Redis, flow: str, batches: str) -> None:
    sizes = (1,) if batches == "1" else (1, 3, 50, 200, 1_000, 10_000)
    run(
        redis_client,
        flow=REPLACE_FLOWS[flow],
        seed=23,
        count=2_000 if batches == "1" else 8_000,
        batch_size=lambda choose: choose.choice(sizes),
        self_trade="cancel_taker" if batches == "1" else "allow",
    )


def test_one_log_gives_one_state_hash_in_any_batches(redis_client: Redis) -> None:
    hashes = set()
    for limit in (1, 7, 10_000):
        redis_client.flushall()
        market = Market(redis_client)
        for _, commands in groups(REPLACE_FLOWS["replaces_few_traders"](3, 3_000), random.Random(3)):
            market.append(commands)
        market.match(limit)
        hashes.add(market.state_hash())

    assert len(hashes) == 1


def test_fills_that_race_replaces_never_overfill(redis_client: Redis) -> None:
    """A thousand chains of replaces with the same total meet fills at random: no chain fills more than its total."""
    total, choose, market = 10, random.Random(24), Market(redis_client)
    heads = [market.buy(f"5.{choose.randint(0, 9)}0", total, trader=7) for _ in range(40)]
    chains = {head: head for head in heads}
    for _ in range(250):
        commands: list[Command] = []
        for head in choose.sample(heads, 4):
            price = 500 + 10 * choose.randint(0, 9)
            target = chains[head]
            commands.append(
                ReplaceOrder(trader_id=7, card="pikachu", side=BUY, price_cents=price, quantity=total, replaces=target)
            )
            commands.append(PlaceOrder(trader_id=8, card="pikachu", side=SELL, price_cents=540, quantity=2))
        choose.shuffle(commands)
        first = market.append(commands).first
        market.match(choose.choice((1, 3, 500)))
        for place, command in enumerate(commands):
            if isinstance(command, ReplaceOrder) and (order := market.order(first + place)):
                head = next(head for head, last in chains.items() if last == command.replaces)
                if order.reason is None or order.reason is Reason.REPLACED:
                    chains[head] = order.sequence
    market.append([CancelOrder(trader_id=7, card="pikachu", sequence=sequence) for sequence in chains.values()])
    market.match()

    orders = {order.sequence: order for order in market.completed()}
    bought: Counter[int] = Counter()
    for trade in market.trades():
        for sequence in (trade.maker_sequence, trade.taker_sequence):
            bought[first_of_chain(orders, sequence)] += trade.quantity
    assert max(bought[head] for head in heads) == total


def first_of_chain(orders: dict[int, Order], sequence: int) -> int:
    while sequence in orders and (replaced := orders[sequence].replaces) is not None:
        sequence = replaced
    return sequence
