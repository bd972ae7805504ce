"""A trader's orders and the cancel of all of them, on the real server and against the reference book."""

import random
from collections.abc import Sequence

import pytest
from redis import Redis
from redis.exceptions import ResponseError

from core.model import LATEST, CancelOrder, Command, Order, PlaceOrder, Side, Status, TimeInForce
from testing.market import WAITING_MAX, Market, expiring, many, orders_in
from testing.oracle.reference_book import ReferenceBook

pytestmark = pytest.mark.server

STEPS = 120
TRADERS = range(1, 7)
EVERYTHING = 1_000_000


class Listed:
    """A card on the server, and what its traders' orders must be after each step."""

    def __init__(self, redis: Redis, choose: random.Random) -> None:
        self.market = Market(redis)
        self.choose = choose
        self.reference = ReferenceBook("pikachu")
        self.appended: list[tuple[str, Command]] = []
        self.canceled = 0

    def append(self) -> None:
        """Some orders and cancels of some traders, of one alone, or a long run."""
        choose = self.choose
        count = choose.choice((1, 1, 1, 3, 20, 200))
        traders = choose.choice((TRADERS, [choose.choice(TRADERS)]))
        commands = [self._command(choose.choice(traders)) for _ in range(count)]
        self._note(self.market.append(commands).at, commands)

    def _command(self, trader: int) -> Command:
        choose = self.choose
        if self.appended and choose.random() < 0.2:
            sequence = choose.randint(max(1, len(self.appended) - 100), len(self.appended))
            return CancelOrder(trader_id=trader, card="pikachu", sequence=sequence)
        return PlaceOrder(
            trader_id=trader,
            card="pikachu",
            side=choose.choice((Side.BUY, Side.SELL)),
            price_cents=choose.randint(480, 520),
            quantity=choose.choice((1, 1, 4)),
            time_in_force=choose.choice((TimeInForce.GTC, TimeInForce.GTC, TimeInForce.IOC)),
            client_order_id=None,
        )

    def cancel_all(self) -> None:
        """Everything of a trader: of each order that is open or accepted, and of no other one."""
        trader = self.choose.choice(TRADERS)
        unmatched = self._accepted(trader)
        expected = sorted(order.sequence for order in [*unmatched, *self.reference.open_orders(trader)])

        targets = self.market.cancel_all(trader=trader)

        assert targets == expected
        entries = self.market.log_entries()
        if targets:
            at = entries[-1][1][b"at"].decode()
            self._note(at, [CancelOrder(trader_id=trader, card="pikachu", sequence=target) for target in targets])
        self.canceled += len(targets)

    def match(self) -> None:
        """Some of what waits, or all."""
        matched = self.market.match_once(self.choose.choice((1, 7, 100, 10_000)))
        while self.reference.sequence < matched.sequence:
            sequence = self.reference.sequence + 1
            self.reference.apply(sequence, *self.appended[sequence - 1])

    def compare(self) -> None:
        """Every trader's latest and open orders."""
        completed = {order.sequence: order for order in self.reference.completed}
        for trader in TRADERS:
            reply = self.market.redis.fcall_ro("trader_orders", 1, self.market.tag, trader, LATEST, "all")
            expected = [*self._accepted(trader), *self.reference.latest_orders(trader)][:LATEST]
            assert orders_in("pikachu", reply, completed) == expected
            assert self.market.orders_of(trader, limit=EVERYTHING, only="open") == self.reference.open_orders(trader)
            assert self.market.orders_of(trader, limit=EVERYTHING, only="accepted") == self._accepted(trader)

    def _note(self, at: str, commands: Sequence[Command]) -> None:
        self.appended += [(at, command) for command in commands]

    def _accepted(self, trader: int) -> list[Order]:
        """The trader's orders that are not matched, newest first."""
        matched = self.reference.sequence
        return [
            _accepted(sequence, at, command)
            for sequence, (at, command) in reversed(list(enumerate(self.appended[matched:], matched + 1)))
            if isinstance(command, PlaceOrder) and command.trader_id == trader
        ]


def _accepted(sequence: int, at: str, placed: PlaceOrder) -> Order:
    return Order(
        card=placed.card,
        sequence=sequence,
        trader_id=placed.trader_id,
        side=placed.side,
        price_cents=placed.price_cents,
        quantity=placed.quantity,
        filled_quantity=0,
        status=Status.ACCEPTED,
        time_in_force=placed.time_in_force,
        client_order_id=placed.client_order_id,
        accepted_at=at,
        closed_at=None,
    )


@pytest.mark.parametrize("seed", range(8))
def test_latest_and_open_orders_are_the_references_after_every_step(redis_client: Redis, seed: int) -> None:
    choose = random.Random(seed)
    listed = Listed(redis_client, choose)
    steps = [listed.append] * 5 + [listed.match] * 4 + [listed.cancel_all]

    for _ in range(STEPS):
        choose.choice(steps)()
        listed.compare()

    assert listed.canceled > 0


def test_cancel_all_cancels_what_is_accepted_and_not_matched(market: Market) -> None:
    own = market.buy("5.00"), market.buy("4.00")
    market.match()
    waiting, other = market.sell("9.00", trader=1), market.buy("5.00", trader=2)

    assert market.cancel_all() == [*own, waiting]
    later = market.buy("5.00")
    market.match()

    assert sorted(market.open()) == [other, later]
    assert [market.state(order)[0] for order in (*own, waiting)] == [Status.CANCELED] * 3
    assert market.cancel_all(trader=3) == []
    assert market.redis.xlen(market.key("orders")) == 6


def test_cancels_of_thousands_go_in_several_calls_of_an_entry(market: Market) -> None:
    for _ in range(3):
        market.append(many(1, count=1_000))
    market.match()

    first = market.cancel_all(calls_max=1)
    market.append(many(1, count=1, trader=1))  # between the calls: it was not accepted before
    arguments = [1, market.mark(), WAITING_MAX, 0]
    *_, reached, before, second = market.redis.fcall("cancel_all", 1, market.tag, *arguments, first[-1], 3_001)
    *_, end, _, third = market.redis.fcall("cancel_all", 1, market.tag, *arguments, reached, before)
    sizes = [len(fields[b"kinds"]) for _, fields in market.log_entries()][3:]
    market.match()

    assert first == list(range(1, 1_001))
    assert (reached, before, second) == (2_000, 3_001, list(range(1_001, 2_001)))
    assert (end, third) == (3_000, list(range(2_001, 3_001)))
    assert market.redis.fcall("cancel_all", 1, market.tag, *arguments, end, before) == [0, b"", 0, 0, 3_001, []]
    assert sizes == [1_000, 1, 1_000, 1_000]
    assert list(market.open()) == [4_001]


def test_a_call_of_cancel_all_looks_at_a_bounded_number_of_orders(market: Market) -> None:
    for _ in range(3):
        market.append(expiring(1, 1_000))
    open_order = market.buy("1.00")
    market.match()
    arguments = [1, market.mark(), WAITING_MAX, 0]

    reached = before = calls = 0
    targets: list[int] = []
    while not calls or reached:
        *_, reached, before, found = market.redis.fcall("cancel_all", 1, market.tag, *arguments, reached, before)
        targets += found
        calls += 1

    assert len(market.listed(1)) > 1_000
    assert calls >= len(market.listed(1)) // 1_000 + 1
    assert targets == [open_order]


def test_cancels_are_refused_at_a_full_backlog_and_once_begun_go_on(market: Market) -> None:
    for _ in range(2):
        market.append(many(1, count=1_000))
    market.match()
    arguments = [1, market.mark(), 4]

    *_, reached, before, targets = market.redis.fcall("cancel_all", 1, market.tag, *arguments, 0, 0, 0)
    with pytest.raises(ResponseError, match="BACKLOG 1000 commands"):
        market.redis.fcall("cancel_all", 1, market.tag, *arguments, 0, 0, 0)
    *_, rest = market.redis.fcall("cancel_all", 1, market.tag, *arguments, 0, reached, before)

    assert (reached, before, targets) == (1_000, 2_001, list(range(1, 1_001)))
    assert rest == list(range(1_001, 2_001))


def test_a_cancel_of_all_orders_in_a_log_of_before_is_understood_without_any_list(market: Market) -> None:
    own = [market.buy("5.00"), market.sell("6.00", trader=1), market.buy("4.00")]
    others = [market.buy("5.00", trader=2), market.buy("5.00", trader=11)]
    market.match()
    market.append(expiring(1, 3))
    market.cancel(0)
    market.redis.delete(*market.redis.keys(market.key("trader:*")))

    market.match()

    assert sorted(market.open()) == others
    assert [order.sequence for order in market.completed() if order.status is Status.CANCELED] == own
