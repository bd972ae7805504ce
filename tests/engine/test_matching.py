"""The rules of trading, one scenario a test, on the real server."""

import itertools

import pytest
from redis import Redis
from redis.exceptions import ResponseError

from core.model import CancelOrder, Command, PlaceOrder, Side, Status, TimeInForce
from testing.flows import stress_many_traders
from testing.market import Market, expiring, many, picture
from testing.oracle.comparison import Comparison
from testing.servers import LoadedRedis

pytestmark = pytest.mark.server

IOC, FOK = TimeInForce.IOC, TimeInForce.FOK
EMPTY = picture("bid | price | ask")


@pytest.fixture
def strict_market(redis_client: Redis) -> Market:
    """An empty card on which nobody trades with itself."""
    return Market(redis_client, self_trade="cancel_taker")


# Price-time priority.


def test_the_book_is_drawn_as_it_was_given(market: Market) -> None:
    table = """
        bid   | price | ask
              | 5.60  | 3
              | 5.50  | 1 2
        4 1   | 5.40  |
        2     | 1.00  |
    """

    market.given(table)

    assert market.book() == picture(table)


def test_older_order_at_the_same_price_fills_first(market: Market) -> None:
    first, second = market.sell("5.00"), market.sell("5.00", trader=3)
    market.match()

    taker = market.buy("5.00")
    market.match()

    assert market.pairs() == [(taker, first, 500, 1)]
    assert market.state(second) == (Status.OPEN, 0)


def test_an_order_keeps_its_place_after_a_partial_fill(market: Market) -> None:
    first, second = market.sell("5.00", 5), market.sell("5.00", 5, trader=3)
    market.match()

    takers = []
    for quantity in (2, 2, 2):
        takers.append(market.buy("5.00", quantity))
        market.match()

    assert market.pairs() == [
        (takers[0], first, 500, 2),
        (takers[1], first, 500, 2),
        (takers[2], first, 500, 1),
        (takers[2], second, 500, 1),
    ]
    assert market.book() == picture("""
        bid | price | ask
            | 5.00  | 4
    """)


@pytest.mark.parametrize("end", ["stop", "kill"])
def test_an_order_keeps_its_place_after_a_restart_of_the_server(own_server: LoadedRedis, end: str) -> None:
    market = Market(own_server.client())
    first, second = market.sell("5.00", 5), market.sell("5.00", 5, trader=3)
    market.buy("5.00", 2)
    market.match()
    waiting = market.buy("5.00", 4)
    before = market.state_hash()

    if end == "stop":
        own_server.stop()
    else:
        own_server.kill()
    own_server.start()
    market = Market(own_server.client())

    assert market.state_hash() == before
    assert market.match() == 2
    assert market.pairs()[1:] == [(waiting, first, 500, 3), (waiting, second, 500, 1)]


def test_a_better_price_fills_before_an_older_order(market: Market) -> None:
    market.given("""
        bid | price | ask
            | 5.60  | 1
            | 5.50  | 1
    """)

    taker = market.buy("6.00", 2)
    market.match()

    assert [(price, quantity) for _, _, price, quantity in market.pairs()] == [(550, 1), (560, 1)]
    assert market.state(taker) == (Status.FILLED, 2)


def test_a_sell_that_crosses_a_higher_buy_trades_at_the_price_of_the_buy(market: Market) -> None:
    maker = market.buy("5.50")
    market.match()

    taker = market.sell("5.00")
    market.match()

    assert market.pairs() == [(taker, maker, 550, 1)]


def test_a_buy_that_crosses_a_lower_sell_trades_at_the_price_of_the_sell(market: Market) -> None:
    maker, taker = market.sell("5.00"), market.buy("5.50")

    market.match()

    assert market.pairs() == [(taker, maker, 500, 1)]


def test_prices_that_do_not_cross_do_not_trade(market: Market) -> None:
    market.buy("5.00")
    market.sell("5.01")

    assert market.match() == 0
    assert market.book() == picture("""
        bid | price | ask
            | 5.01  | 1
        1   | 5.00  |
    """)


def test_five_fifty_and_five_five_are_different_prices(market: Market) -> None:
    market.buy("5.05")
    market.buy("5.50", trader=2)
    market.sell("5.50", trader=3)

    market.match()

    assert market.book() == picture("""
        bid | price | ask
        1   | 5.05  |
    """)


def test_the_first_order_at_a_price_survives_the_second(market: Market) -> None:
    market.buy("5.00", 3)
    market.match()
    market.buy("5.00", 4)
    market.match()

    assert market.book() == picture("""
        bid | price | ask
        3 4 | 5.00  |
    """)


def test_the_same_trader_may_enter_the_same_order_twice(market: Market) -> None:
    market.append(many(1, count=2))
    market.match()

    assert [order.sequence for order in market.bids()] == [1, 2]


@pytest.mark.parametrize("limit", [1, 3, 500])
def test_ten_buyers_of_one_against_a_seller_of_ten_make_ten_trades(market: Market, limit: int) -> None:
    for trader in range(1, 11):
        market.buy("5.00", trader=trader)
    seller = market.sell("5.00", 10, trader=11)

    assert market.match(limit) == 10
    assert market.book() == EMPTY
    assert market.state(seller) == (Status.FILLED, 10)
    assert [trade.maker_trader_id for trade in market.trades()] == list(range(1, 11))


def test_what_is_left_of_a_taker_rests(market: Market) -> None:
    market.sell("5.00", 3)
    taker = market.buy("5.20", 10)

    market.match()

    assert market.state(taker) == (Status.PARTIALLY_FILLED, 3)
    assert market.book() == picture("""
        bid | price | ask
        7   | 5.20  |
    """)


def test_an_order_of_the_book_fills_before_a_newer_one_of_the_same_batch(market: Market) -> None:
    old = market.sell("5.00")
    market.match()

    new = market.sell("5.00", trader=3)
    takers = [market.buy("5.00"), market.buy("5.00")]
    market.match()

    assert market.pairs() == [(takers[0], old, 500, 1), (takers[1], new, 500, 1)]


def test_a_completed_order_never_comes_back(market: Market) -> None:
    maker, taker = market.sell("5.00"), market.buy("5.00")
    market.match()
    completed = [market.order(maker), market.order(taker)]

    market.cancel(maker, trader=2)
    market.cancel(0, trader=1)
    market.buy("5.00", trader=3)
    market.match()

    assert [market.order(maker), market.order(taker)] == completed
    assert [order.sequence for order in market.completed()] == [maker, taker]
    assert list(market.open()) == [5]


def test_a_match_call_with_nothing_to_do_changes_nothing(market: Market) -> None:
    market.given("""
        bid | price | ask
        1   | 5.00  |
    """)
    before, events = market.state_hash(), market.events()

    assert market.match_once().commands == 0
    assert (market.state_hash(), market.events()) == (before, events)


def test_cards_do_not_meet(redis_client: Redis) -> None:
    Market(redis_client, "pikachu").sell("5.00")
    Market(redis_client, "bulbasaur").buy("5.00")

    assert Market(redis_client, "pikachu").match() == 0
    assert Market(redis_client, "bulbasaur").match() == 0


def test_an_order_that_sweeps_many_pages_takes_them_in_order(market: Market) -> None:
    market.append(many(1, count=230, side=Side.SELL))
    market.match()

    market.buy("5.00", 175, trader=9)
    market.match()
    market.buy("5.00", 100, trader=9)
    market.match()

    assert [maker for _, maker, _, _ in market.pairs()] == list(range(1, 231))
    assert market.book() == picture("""
        bid | price | ask
        45  | 5.00  |
    """)


# Time in force.


def test_the_unfilled_rest_of_an_ioc_expires(market: Market) -> None:
    market.sell("5.00", 3)
    taker = market.buy("5.00", 5, time_in_force=IOC)

    market.match()

    assert market.state(taker) == (Status.EXPIRED, 3)
    assert market.book() == EMPTY


def test_an_ioc_that_meets_nothing_expires_unfilled(market: Market) -> None:
    market.sell("5.01")
    taker = market.buy("5.00", time_in_force=IOC)

    assert market.match() == 0
    assert market.state(taker) == (Status.EXPIRED, 0)


def test_an_ioc_that_fills_wholly_is_filled(market: Market) -> None:
    market.buy("5.00", 5)
    taker = market.sell("5.00", 5, time_in_force=IOC)

    market.match()

    assert market.state(taker) == (Status.FILLED, 5)


def test_a_fok_that_can_fill_fills_at_once(market: Market) -> None:
    market.given("""
        bid | price | ask
            | 5.10  | 2 2
            | 5.00  | 1
    """)

    taker = market.buy("5.10", 4, time_in_force=FOK)
    market.match()

    assert market.state(taker) == (Status.FILLED, 4)
    assert market.book() == picture("""
        bid | price | ask
            | 5.10  | 1
    """)


def test_a_fok_that_can_not_fill_wholly_trades_nothing(market: Market) -> None:
    table = """
        bid | price | ask
            | 5.20  | 9
            | 5.10  | 2
            | 5.00  | 1
    """
    market.given(table)

    taker = market.buy("5.10", 4, time_in_force=FOK)

    assert market.match() == 0
    assert market.state(taker) == (Status.EXPIRED, 0)
    assert market.book() == picture(table)


@pytest.mark.parametrize(("quantity", "status"), [(180, Status.FILLED), (181, Status.EXPIRED)])
def test_a_fok_counts_over_pages_of_the_book_and_orders_of_its_batch(
    market: Market, quantity: int, status: Status
) -> None:
    market.append(many(1, count=130, side=Side.SELL))
    market.match()
    market.append(many(1, count=30, side=Side.SELL) + many(1, count=30, side=Side.SELL, price_cents=499))
    market.sell("5.01", 50)
    market.buy("5.00", 10, trader=8)

    taker = market.buy("5.00", quantity, trader=9, time_in_force=FOK)
    market.match()

    assert market.state(taker) == (status, quantity if status is Status.FILLED else 0)
    assert len(market.asks()) == (1 if status is Status.FILLED else 181)


def test_a_fok_does_not_count_what_its_batch_has_taken_or_canceled(market: Market) -> None:
    makers = [market.sell("5.00", 2, trader=trader) for trader in (2, 3, 4)]
    market.match()
    inside = market.sell("5.00", 2, trader=5)
    market.cancel(makers[1], trader=3)
    market.cancel(inside, trader=5)
    market.buy("5.00", 1)

    taker = market.buy("5.00", 4, time_in_force=FOK)
    last = market.buy("5.00", 3, time_in_force=FOK)
    market.match()

    assert market.state(taker) == (Status.EXPIRED, 0)
    assert market.state(last) == (Status.FILLED, 3)


# Cancels.


def test_a_canceled_order_is_gone_and_keeps_what_it_filled(market: Market) -> None:
    maker = market.sell("5.00", 5)
    market.buy("5.00", 2)
    market.match()

    market.cancel(maker, trader=2)
    market.match()

    assert market.state(maker) == (Status.CANCELED, 2)
    assert market.book() == EMPTY


def test_a_head_that_is_partly_filled_in_a_batch_can_be_canceled_in_it(market: Market) -> None:
    head, behind = market.sell("5.00", 5), market.sell("5.00", 5, trader=3)
    market.match()

    market.buy("5.00", 2)
    market.cancel(head, trader=2)
    taker = market.buy("5.00", 1)
    market.match()

    assert market.state(head) == (Status.CANCELED, 2)
    assert market.pairs()[-1] == (taker, behind, 500, 1)
    assert market.book() == picture("""
        bid | price | ask
            | 5.00  | 4
    """)


def test_an_order_can_be_canceled_in_the_batch_that_places_it(market: Market) -> None:
    kept = market.buy("5.00", 1)
    dropped = market.buy("5.00", 2)
    market.cancel(dropped)
    taker = market.sell("5.00", 3)

    market.match()

    assert market.pairs() == [(taker, kept, 500, 1)]
    assert market.state(dropped) == (Status.CANCELED, 0)


def test_a_cancel_of_the_order_of_another_trader_is_ignored(market: Market) -> None:
    resting = market.buy("5.00", trader=1)
    market.match()

    market.cancel(resting, trader=2)
    inside = market.buy("5.00", trader=1)
    market.cancel(inside, trader=2)
    market.match()

    assert [order.sequence for order in market.bids()] == [resting, inside]
    assert market.completed() == []


def test_a_cancel_of_what_is_not_there_is_ignored(market: Market) -> None:
    future = market.cancel(3)
    market.cancel(999_999)
    order = market.buy("5.00")
    market.cancel(future)
    market.match()

    assert market.state(order) == (Status.OPEN, 0)
    assert market.order(future) is None


def test_a_second_cancel_of_an_order_changes_nothing(market: Market) -> None:
    order = market.buy("5.00")
    market.match()

    market.cancel(order)
    market.cancel(order)
    market.match()

    assert [completed.sequence for completed in market.completed()] == [order]


def test_cancel_all_cancels_the_orders_of_this_trader_on_both_sides_oldest_first(market: Market) -> None:
    market.buy("5.00", trader=1)
    market.buy("4.00", trader=2)
    market.sell("6.00", trader=1)
    market.match()
    market.buy("4.50", 3, trader=1)
    market.sell("4.50", 1, trader=3)
    market.buy("4.40", trader=1)

    market.cancel(0)
    market.match()

    assert [(order.sequence, order.status) for order in market.completed()] == [
        (1, Status.FILLED),
        (5, Status.FILLED),
        (3, Status.CANCELED),
        (4, Status.CANCELED),
        (6, Status.CANCELED),
    ]
    assert [order.sequence for order in market.bids()] == [2]


def test_an_order_after_cancel_all_rests(market: Market) -> None:
    market.buy("5.00")
    market.cancel(0)
    last = market.buy("5.00")

    market.match()

    assert [order.sequence for order in market.bids()] == [last]


def test_cancel_alls_in_one_batch_cancel_what_each_finds_and_leave_a_short_list(redis_client: Redis) -> None:
    comparison = Comparison(redis_client, "pikachu", "allow")
    market = comparison.market
    for trader in (1, 2):
        comparison.append(many(1, count=150, trader=trader))
    while comparison.match(500):
        pass
    everything: list[Command] = [CancelOrder(trader_id=trader, card="pikachu", sequence=0) for trader in (1, 2)]
    single: list[Command] = [CancelOrder(trader_id=1, card="pikachu", sequence=7)]

    comparison.append(
        [*everything, *many(1, count=3), *single, *everything, *many(2, count=2, trader=3), *everything, everything[0]]
    )
    assert not comparison.match(500)

    comparison.compare()
    comparison.compare_traders()
    assert len(market.completed()) == 303


# The bound on the work of a call.


BEHIND = PlaceOrder(trader_id=9, card="pikachu", side=Side.BUY, price_cents=500, quantity=601, time_in_force=FOK)
SWEEP = PlaceOrder(trader_id=9, card="pikachu", side=Side.BUY, price_cents=500, quantity=100)


@pytest.mark.parametrize("entry", [7, 300, 1_000])
def test_a_call_whose_time_is_over_leaves_the_rest_to_the_next_ones(redis_client: Redis, entry: int) -> None:
    comparison = Comparison(redis_client, "pikachu", "allow")
    commands = list(stress_many_traders(1, 8_000))
    of_card = [command for command in commands if command.card == "pikachu"]
    for start in range(0, len(of_card), entry):
        comparison.append(of_card[start : start + entry])

    calls = 1
    while comparison.match(10_000, hold_ms=1):
        calls += 1

    assert calls > 4  # 4,000 commands take tens of milliseconds, and a call writes about as long as it finds
    comparison.compare()
    comparison.compare_traders()


@pytest.mark.parametrize("entry", [1, 3, 4, 5, 21, 30])
@pytest.mark.parametrize(
    ("makers", "takers", "calls"),
    [(600, [BEHIND] * 18, [4, 4, 4, 4, 2]), (2_500, [SWEEP] * 30, [21, 9])],
    ids=["looking", "filling"],
)
def test_a_call_that_has_done_much_leaves_the_rest_to_the_next_ones(
    redis_client: Redis, makers: int, takers: list[Command], calls: list[int], entry: int
) -> None:
    comparison = Comparison(redis_client, "pikachu", "allow")
    singly = Market(redis_client, "bulbasaur")
    book = many(1, count=makers, trader=2, side=Side.SELL)
    groups = [book[at : at + 1_000] for at in range(0, makers, 1_000)]
    groups += [takers[at : at + entry] for at in range(0, len(takers), entry)]
    for group in groups:
        comparison.append(group)
        singly.append(group)
    while comparison.reference.sequence < makers:
        assert comparison.match(min(500, makers - comparison.reference.sequence))

    done = []
    more = True
    while more:
        before = comparison.reference.sequence
        more = comparison.match(500)
        done.append(comparison.reference.sequence - before)

    assert done == calls
    assert comparison.market.rejected() == []
    comparison.compare()
    comparison.compare_traders()
    comparison.check_invariants()
    singly.match(1)
    assert comparison.market.state_hash() == singly.state_hash()


def test_a_call_looks_at_the_clock_while_it_fills(redis_client: Redis) -> None:
    comparison = Comparison(redis_client, "pikachu", "allow")
    book = many(1, count=3_000, trader=2, side=Side.SELL)
    for at in range(0, len(book), 1_000):
        comparison.append(book[at : at + 1_000])
    while comparison.match(1_000):
        pass
    comparison.append([SWEEP] * 30)

    calls = 1
    while comparison.match(1_000, hold_ms=1):
        calls += 1

    assert calls > 4  # 30 commands are too few to be read in parts, and two calls would do by the work of each
    comparison.compare()


# A trader that meets itself.


def test_a_trader_may_trade_with_itself(market: Market) -> None:
    market.buy("5.00", trader=1)
    market.sell("5.00", trader=1)

    assert market.match() == 1


def test_a_taker_that_would_meet_itself_is_canceled(strict_market: Market) -> None:
    market = strict_market
    market.sell("5.00", 1, trader=2)
    own = market.sell("5.00", 1, trader=1)
    market.sell("5.00", 1, trader=3)
    market.match()

    taker = market.buy("5.00", 3, trader=1)
    market.match()

    assert market.state(taker) == (Status.CANCELED, 1)
    assert market.state(own) == (Status.OPEN, 0)


def test_a_fok_counts_only_what_lies_before_its_own_trader(strict_market: Market) -> None:
    market = strict_market
    market.sell("5.00", 2, trader=2)
    market.match()
    market.sell("5.00", 1, trader=1)
    market.sell("5.00", 1, trader=3)

    killed = market.buy("5.00", 3, trader=1, time_in_force=FOK)
    filled = market.buy("5.00", 2, trader=1, time_in_force=FOK)
    market.match()

    assert market.state(killed) == (Status.EXPIRED, 0)
    assert market.state(filled) == (Status.FILLED, 2)


# What is kept of a trader.


def test_the_latest_fifty_orders_of_a_trader_are_listed_newest_first(market: Market) -> None:
    for _ in range(60):
        market.buy("5.00", time_in_force=IOC)
    market.match(7)

    assert [order.sequence for order in market.orders_of(1)] == list(range(60, 10, -1))


def test_old_open_orders_stay_listed_however_many_come_after(market: Market) -> None:
    old = [market.buy("1.00") for _ in range(5)]
    market.match()
    for _ in range(40):
        market.append(expiring(1, 40))
        market.match()

    assert [order.sequence for order in market.orders_of(1)] == list(range(1_605, 1_555, -1))
    assert [order.sequence for order in market.orders_of(1, only="open")] == old[::-1]
    assert market.listed(1)[:5] == old


@pytest.mark.parametrize("run", [1, 5, 70, 1_000])
def test_a_list_of_completed_orders_stays_short(market: Market, run: int) -> None:
    resting = market.buy("1.00")
    longest = 0
    for _ in range(3_000 // run):
        market.append(expiring(1, run))
        market.match()
        longest = max(longest, len(market.listed(1)))

    assert longest <= max(1_024, 512 * run // 64 + 1_024, 2 * run + 51)
    assert market.listed(1)[0] == resting
    assert len(market.orders_of(1)) == 50


def test_a_list_of_open_orders_is_compacted_the_more_rarely_the_longer_it_is(market: Market) -> None:
    compactions, is_going_on = [], False
    for number in range(4_096):
        market.append(many(1, count=1))
        if number % 512 == 0:
            market.match()
        state = market.redis.hget(market.key("compacted"), "1")
        if is_going_on and len(state.split()) == 2:
            compactions.append(number + 1)
        is_going_on = state is not None and len(state.split()) == 5

    assert len(compactions) == 3
    assert all(2 * earlier - 128 <= later for earlier, later in itertools.pairwise(compactions))
    assert market.listed(1) == list(range(1, 4_097))
    assert market.items(1)[0] == "1-512"


@pytest.mark.parametrize("matched_every", [1, 7])
def test_a_compaction_that_goes_on_keeps_every_list_as_it_is(market: Market, matched_every: int) -> None:
    """Two traders in turn, so that no run is longer than an order; every third order is completed at once."""
    expected: dict[int, list[int]] = {1: [], 2: []}
    going_on = set()
    for number in range(3, 45):
        commands = [
            many(1, count=1, trader=trader)[0] if place % 3 else expiring(trader, 1)[0]
            for place in range(100)
            for trader in (1, 2)
        ]
        first = market.append(commands).first
        for place in range(len(commands)):
            if (place // 2) % 3:
                expected[place % 2 + 1].append(first + place)
        if number % matched_every == 0:
            market.match()
        states = market.redis.hgetall(market.key("compacted"))
        going_on |= {trader for trader, state in states.items() if len(state.split()) == 5}
        for trader, sequences in expected.items():
            listed = market.listed(trader)
            assert listed == sorted(listed)
            assert set(listed) >= set(sequences)
    market.match()

    assert going_on == {b"1", b"2"}
    for trader, sequences in expected.items():
        assert [order.sequence for order in market.open_orders(trader)] == sequences[::-1]
        assert len(market.listed(trader)) < 1.5 * len(sequences)
        before = sequences[500]
        older = market.redis.fcall_ro("trader_orders", 1, market.tag, trader, 700, "unfinished", before)
        assert [int(sequence) for sequence in older if int(sequence) in set(sequences)] == [
            sequence for sequence in sequences[::-1] if sequence < before
        ]
        assert market.cancel_all(trader=trader) == sequences


def test_what_is_listed_is_runs_of_orders_without_cancels(market: Market) -> None:
    one, other = (many(1, count=1, trader=trader)[0] for trader in (1, 2))
    cancel = CancelOrder(trader_id=1, card="pikachu", sequence=1)

    market.append([one])
    market.append([one, one, other, one, cancel, one, one, one, other])

    assert market.items(1) == ["1", "2-3", "5", "7-9"]
    assert market.items(2) == ["4", "10"]


def test_an_order_is_listed_from_the_moment_of_its_append(market: Market) -> None:
    resting = market.sell("6.00", 3, trader=17)
    market.match()
    market.place(Side.BUY, "5.00", 2, trader=17, time_in_force=IOC, client_order_id="one")
    waiting = market.append([market_order(17), market_order(18), market_order(17)])

    orders = market.orders_of(17)

    assert [(order.sequence, order.status) for order in orders] == [
        (5, Status.ACCEPTED),
        (3, Status.ACCEPTED),
        (2, Status.ACCEPTED),
        (resting, Status.OPEN),
    ]
    assert orders == [order for sequence in (5, 3, 2, 1) if (order := market.order(sequence))]
    assert orders[2].client_order_id == "one"
    assert orders[0].accepted_at == waiting.at
    assert [order.sequence for order in market.orders_of(17, only="accepted")] == [5, 3, 2]
    assert [order.sequence for order in market.orders_of(17, only="open")] == [1]
    assert [order.sequence for order in market.orders_of(17, limit=2)] == [5, 3]


def market_order(trader: int) -> PlaceOrder:
    """An order that crosses what lies in a book of these tests."""
    return PlaceOrder(trader_id=trader, card="pikachu", side=Side.BUY, price_cents=600, quantity=2)


def test_a_completed_order_is_found_in_the_events_as_long_as_the_one_is_there_that_took_it(market: Market) -> None:
    first = market.sell("6.00", 2, trader=8)
    market.match()
    for _ in range(5):
        market.append(expiring(9, 10))
        market.match()
    market.buy("6.00", 2, trader=8)
    market.match()
    assert market.state(first) == (Status.FILLED, 2)

    market.redis.fcall("trim", 1, market.tag, 52, 30, 0)

    assert market.order(first) is None
    assert market.state(52) == (Status.FILLED, 2)


def test_an_order_whose_list_cannot_be_written_is_in_the_log_and_not_acknowledged(market: Market) -> None:
    in_the_way = market.key("trader:1")
    market.redis.set(in_the_way, "in the way")

    with pytest.raises(ResponseError, match="cannot be written: WRONGTYPE"):
        market.append([market_order(2), market_order(1), market_order(3)])
    market.redis.delete(in_the_way)

    market.match()
    assert [order.sequence for order in market.bids()] == [1, 2, 3]
    assert [market.listed(trader) for trader in (1, 2, 3)] == [[], [1], [3]]


def test_what_may_be_open_is_listed_newest_first_below_a_sequence(market: Market) -> None:
    market.append(many(1, count=70))
    market.append(many(1, count=5, trader=11))
    for count in (1_000, 100):
        market.append(many(1, count=count))

    def unfinished(limit: int, *before: int) -> list[int]:
        reply = market.redis.fcall_ro("trader_orders", 1, market.tag, 1, limit, "unfinished", *before)
        return [int(sequence) for sequence in reply]

    everything = [*range(1_175, 75, -1), *range(70, 0, -1)]
    assert unfinished(2_000) == everything
    assert unfinished(1_102) == everything[:1_102]
    assert unfinished(5) == everything[:5]
    assert unfinished(5, 74) == everything[1_100:1_105]
    assert unfinished(3, 12) == [11, 10, 9]
    assert unfinished(1_000, 1) == []


def test_an_id_elsewhere_in_anothers_line_is_not_taken_for_the_trader(market: Market) -> None:
    own = [market.sell("0.17", 17, trader=17), market.buy("0.16", 1, trader=17)]
    market.sell("0.17", 17, trader=117)
    market.buy("0.17", 34, trader=217)
    market.match()

    assert [order.sequence for order in market.orders_of(17)] == own[::-1]
    market.cancel(0, trader=17)
    market.match()
    assert [order.status for order in market.orders_of(17)] == [Status.CANCELED, Status.FILLED]


def test_a_call_looks_at_the_clock_after_each_cancel_of_all_orders(market: Market) -> None:
    for trader in range(1, 6):
        market.cancel(0, trader=trader)

    assert [market.match_once(hold_ms=0).commands for _ in range(5)] == [1] * 5


def test_a_log_is_matched_again_where_its_books_were_dropped(market: Market) -> None:
    market.append(many(1, count=400, side=Side.SELL) + many(1, count=400, side=Side.BUY))
    for _ in range(2):
        market.match_once(250)  # what is done of an entry is not kept
    for name in ("cursor", "asks", "bids", "open", "events"):
        market.redis.delete(market.key(name))

    assert market.match(250) == 400
    assert market.bids() == market.asks() == []


@pytest.mark.parametrize("limit", [9, 500])
def test_cancel_all_finds_every_one_of_three_hundred_open_orders(market: Market, limit: int) -> None:
    market.append(many(1, count=300))
    market.append(many(1, count=3, trader=2))
    market.match(limit)
    assert len(market.orders_of(1, limit=1_000, only="open")) == 300

    market.cancel(0)
    market.match(limit)

    assert [order.sequence for order in market.completed()] == list(range(1, 301))
    assert [order.trader_id for order in market.bids()] == [2, 2, 2]
    assert market.orders_of(1, limit=1_000, only="open") == []


@pytest.mark.parametrize("count", [7_000, 10_000])
def test_a_batch_may_be_all_of_one_trader(market: Market, count: int) -> None:
    for _ in range(count // 1_000):
        market.append(many(1, count=1_000))

    assert market.match_once(10_000).commands == count
    assert len(market.bids()) == len(market.open()) == count
    market.cancel(0)
    market.match()
    assert len(market.completed()) == count


def test_the_latest_fifty_trades_are_kept_newest_first(market: Market) -> None:
    market.append(many(1, count=60, side=Side.SELL))
    market.append(many(1, count=60, side=Side.BUY))
    market.match(7)

    assert [trade.number for trade in market.latest_trades()] == list(range(60, 10, -1))


# Depth.


def test_depth_sums_what_remains_at_each_price_best_first(market: Market) -> None:
    market.given("""
        bid | price | ask
            | 5.60  | 3
            | 5.50  | 1 2
        4 1 | 5.40  |
        2   | 5.00  |
    """)
    market.sell("5.40", 2)
    market.match()

    assert market.redis.fcall_ro("depth", 1, market.tag, 10) == [7, [540, 3, 500, 2], [550, 3, 560, 3]]
    assert market.redis.fcall_ro("depth", 1, market.tag, 1) == [7, [540, 3], [550, 3]]


def test_depth_counts_levels_of_thousands_of_orders(market: Market) -> None:
    for price_cents in (500, 499, 498):
        market.append(many(2, count=900, price_cents=price_cents))
    market.match()

    assert market.redis.fcall_ro("depth", 1, market.tag, 2) == [2_700, [500, 1_800, 499, 1_800], []]


def walks(market: Market) -> int:
    """How often anybody has read a part of a book."""
    return int(market.redis.info("commandstats").get("cmdstat_zrange", {"calls": 0})["calls"])


def test_depth_walks_a_level_only_once(market: Market) -> None:
    for price_cents in (500, 499, 498, 497):
        market.append(many(2, count=900, price_cents=price_cents))
    market.match()
    assert market.redis.fcall_ro("depth", 1, market.tag, 2) == [3_600, [500, 1_800, 499, 1_800], []]

    market.buy("4.98")  # below what has been looked at
    market.buy("5.01", 3)
    market.sell("5.01", 2)
    market.sell("5.00", 7)
    market.cancel(10)
    market.match()
    walked = walks(market)

    assert market.redis.fcall_ro("depth", 1, market.tag, 2) == [3_605, [500, 1_792, 499, 1_800], []]
    assert walks(market) == walked
    assert market.redis.fcall_ro("depth", 1, market.tag, 4)[1] == [500, 1_792, 499, 1_800, 498, 1_801, 497, 1_800]
    assert walks(market) > walked


def test_levels_that_are_better_than_those_that_were_walked_are_dropped_once_they_are_many(market: Market) -> None:
    market.append([many(1, count=1, price_cents=price_cents)[0] for price_cents in range(100, 220)])
    market.match()
    expected = [part for price_cents in range(219, 99, -1) for part in (price_cents, 1)]
    for limit in (1, 120, 2, 1, 1_000, 119):
        assert market.redis.fcall_ro("depth", 1, market.tag, limit)[1] == expected[: 2 * limit]


def test_depth_is_right_where_the_books_are_another_servers(market: Market) -> None:
    market.append(many(2, count=5, price_cents=500))
    market.match()
    assert market.redis.fcall_ro("depth", 1, market.tag, 5)[1] == [500, 10]
    market.redis.delete(*market.redis.keys(f"{market.tag}:*"))
    market.append(many(3, count=5, price_cents=400))
    market.match()

    assert market.redis.fcall_ro("depth", 1, market.tag, 5)[1] == [400, 15]


@pytest.mark.parametrize("name", ["asks", "bids", "open", "trades"])
def test_a_key_of_another_type_refuses_the_call_before_its_first_write(market: Market, name: str) -> None:
    market.buy("5.00")
    market.redis.set(market.key(name), "in the way")

    with pytest.raises(ResponseError, match="WRONGTYPE"):
        market.match()
    assert not market.redis.exists(market.key("events"))
    market.redis.delete(market.key(name))
    market.match()

    assert list(market.open()) == [1]
