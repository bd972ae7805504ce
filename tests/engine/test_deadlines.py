"""Deadlines of traders on the real server: what is over cancels once, and nothing else does."""

import json
import random
import time
from typing import Any

import pytest
from redis import Redis
from redis.exceptions import ResponseError

from core.model import CANCEL_AFTER_SECONDS_MAX, COMMANDS_MAX
from engine import library
from testing.market import WAITING_MAX, Market, expiring, many
from testing.waiting import until

pytestmark = pytest.mark.server

TRADER, OTHER = 1, 2
SOON_MS, LATER_MS = 1, 3_600_000
STEPS, TRADERS = 60, (1, 2, 3)
NOTHING = [0, 0, 0, 0, b""]


class Deadlined(Market):
    """A card, and the calls that this is about."""

    def switch(self, milliseconds: int, *, trader: int = TRADER, mark: str | None = None) -> int:
        """Sets a switch; the deadline."""
        deadline: int = self.redis.fcall("cancel_after", 1, self.tag, mark or self.mark(), trader, milliseconds)
        return deadline

    def lease(self, how: str, holder: str, milliseconds: int, *, trader: int = TRADER) -> int:
        """Takes or keeps one lease; the reply."""
        (reply,) = self.redis.fcall("lease", 1, self.tag, self.mark(), how, trader, holder, 5, milliseconds)
        return int(reply)

    def switch_ms(self) -> int:
        """The deadline of the switch."""
        return int(self.redis.fcall_ro("deadlines_of", 1, self.tag, TRADER)[1])

    def due(self, waiting_max: int = WAITING_MAX) -> list[Any]:
        """One call of an engine."""
        reply: list[Any] = self.redis.fcall("cancel_due", 1, self.tag, waiting_max)
        return reply

    def over(self) -> list[int]:
        """Waits until a deadline is over, and cancels what is due; the sequences of the orders, as the log has them."""
        before = self.cancels()
        until(lambda: self.due()[1], "a deadline is over")
        return self.cancels()[len(before) :]

    def cancels(self) -> list[int]:
        """The orders of all cancels in the log, oldest first."""
        return [
            price
            for _, fields in self.redis.xrange(self.key("orders"))
            for kind, price in zip(fields[b"kinds"].decode(), json.loads(fields[b"prices"]), strict=True)
            if kind == "C"
        ]


@pytest.fixture
def card(redis_client: Redis) -> Deadlined:
    """An empty card, whose run of the server is compared with the archive."""
    found = Deadlined(redis_client)
    found.redis.fcall("lease", 1, found.tag, found.mark(), "keep")
    assert found.due() == NOTHING
    return found


def changes(card: Market) -> int:
    """How many changes the server has made to its data."""
    return int(card.redis.info("persistence")["rdb_changes_since_last_save"])


def test_a_switch_that_is_over_cancels_the_orders_of_its_trader_once(card: Deadlined) -> None:
    resting = [card.buy("5.00"), card.buy("5.10")]
    card.buy("5.20", trader=OTHER)
    card.match()
    waiting = card.buy("5.30")

    card.switch(SOON_MS)

    assert card.over() == [*resting, waiting]
    assert card.due() == NOTHING
    card.match()
    assert [order.trader_id for order in card.open().values()] == [OTHER]


def test_the_cancels_are_one_entry_of_the_log(card: Deadlined) -> None:
    card.append(many(1, count=300))
    before = card.redis.xlen(card.key("orders"))

    card.switch(SOON_MS)
    card.over()

    assert card.redis.xlen(card.key("orders")) == before + 1


def test_an_order_after_the_deadline_stays(card: Deadlined) -> None:
    card.buy("5.00")
    card.switch(SOON_MS)
    card.over()
    later = card.buy("5.10")

    assert card.due() == NOTHING
    card.match()
    assert [*card.open()] == [later]


def test_a_trader_without_open_orders_costs_the_log_nothing(card: Deadlined) -> None:
    card.append(expiring(TRADER, 3))
    card.match()

    card.switch(SOON_MS)

    assert card.over() == []
    assert card.redis.exists(card.key("deadlines"), card.key("deadline_terms")) == 0


def test_a_look_writes_nothing_while_nothing_is_due(card: Deadlined) -> None:
    card.buy("5.00")
    card.switch(LATER_MS)
    card.lease("take", "a1", LATER_MS)
    before = changes(card)

    assert [card.due() for _ in range(5)] == [NOTHING] * 5

    assert changes(card) == before


def test_a_switch_is_renewed_and_cleared(card: Deadlined) -> None:
    card.buy("5.00")
    first = card.switch(1_000)
    assert card.switch(LATER_MS) > first + LATER_MS / 2
    assert card.switch(0) == 0
    assert card.due() == NOTHING
    assert card.redis.exists(card.key("deadlines"), card.key("deadline_terms")) == 0


def test_switch_and_lease_are_apart(card: Deadlined) -> None:
    first = card.buy("5.00")
    card.switch(LATER_MS)
    card.lease("take", "a1", SOON_MS)
    assert card.over() == [first]
    now, switch, lease, grace = card.redis.fcall_ro("deadlines_of", 1, card.tag, TRADER)

    assert switch > now
    assert (lease, grace) == (0, 0)


def test_switch_and_lease_that_are_over_at_once_cancel_once(card: Deadlined) -> None:
    card.append(many(1, count=5))
    card.switch(SOON_MS)
    card.lease("take", "a1", SOON_MS)
    time.sleep(0.01)

    assert len(card.over()) == 5
    assert card.due() == NOTHING


def test_a_lease_belongs_to_the_last_who_took_it(card: Deadlined) -> None:
    assert card.lease("take", "a1", LATER_MS) == 1
    assert card.lease("take", "b2", LATER_MS) == 1
    assert card.lease("keep", "a1", LATER_MS) == 2
    assert card.lease("keep", "a1", 0) == 2
    assert card.lease("keep", "b2", LATER_MS) == 1
    assert card.redis.fcall_ro("deadlines_of", 1, card.tag, TRADER)[3] == 5
    assert card.lease("keep", "b2", 0) == 1
    assert card.lease("keep", "b2", LATER_MS) == 0


def test_a_lease_that_is_over_is_not_renewed(card: Deadlined) -> None:
    order = card.buy("5.00")
    card.lease("take", "a1", SOON_MS)
    assert card.over() == [order]

    assert card.lease("keep", "a1", LATER_MS) == 0
    assert card.redis.exists(card.key("deadlines")) == 0


def test_more_orders_than_a_call_cancels_are_canceled_each_once_though_a_call_is_the_last_of_its_engine(
    card: Deadlined,
) -> None:
    count = 2 * COMMANDS_MAX + 500
    for _ in range(count // 500):
        card.append(many(1, count=500))
    card.match()
    card.switch(SOON_MS)
    until(lambda: card.due()[0], "a deadline is over")
    between = card.buy("4.00")  # after the first of the calls
    card.switch(LATER_MS)  # the client is back: what began goes on

    while card.due()[2]:
        pass
    card.match()

    canceled = card.cancels()
    assert sorted(canceled) == list(range(1, count + 1))
    assert [*card.open()] == [between]
    assert card.redis.zrange(card.key("deadlines"), 0, -1) == [b"1"]


def test_deadlines_wait_while_too_many_commands_wait(card: Deadlined) -> None:
    orders = [card.buy("5.00") for _ in range(4)]
    card.switch(SOON_MS)
    time.sleep(0.01)

    assert card.due(waiting_max=4) == NOTHING
    card.match()
    assert card.due(waiting_max=4)[:2] == [4, 1]
    assert card.cancels() == orders


def test_a_new_run_of_the_server_cancels_nothing_before_it_is_compared_and_deadlines_begin_anew(
    card: Deadlined,
) -> None:
    order = card.buy("5.00")
    card.switch(300)
    until(lambda: card.redis.fcall_ro("deadlines_of", 1, card.tag, TRADER)[0] > card.switch_ms(), "it is over")
    card.redis.function_load(library.source(), replace=True)  # as in a restart, Lua's memory is lost

    assert card.due() == NOTHING
    until(lambda: card.due()[3], "the deadline, which begins anew, is over")
    assert card.cancels() == []
    began = time.monotonic()
    card.redis.fcall("lease", 1, card.tag, card.mark(), "keep")
    at_once = card.due()

    assert at_once == NOTHING
    assert card.over() == [order]
    assert time.monotonic() - began > 0.29


def test_a_list_that_cannot_be_read_keeps_no_other_trader_waiting(card: Deadlined) -> None:
    card.redis.set(card.key("trader:1"), "made by hand")
    order = card.buy("5.00", trader=OTHER)
    card.switch(SOON_MS)
    card.switch(SOON_MS, trader=OTHER)
    time.sleep(0.01)

    reply = card.due()

    assert reply[:4] == [1, 1, 0, 0]
    assert b"WRONGTYPE" in reply[4]
    assert card.cancels() == [order]


def test_deadlines_work_without_memory(card: Deadlined) -> None:
    order = card.buy("5.00")
    card.redis.config_set("maxmemory", 1)
    try:
        assert card.lease("take", "a1", LATER_MS) == 1
        assert card.lease("keep", "a1", SOON_MS) == 1
        assert card.over() == [order]
    finally:
        card.redis.config_set("maxmemory", 0)


@pytest.mark.parametrize(
    ("function", "arguments"),
    [
        ("cancel_after", ("M", 0, 5)),
        ("cancel_after", ("M", "x", 5)),
        ("cancel_after", ("M", 1, -1)),
        ("cancel_after", ("M", 1, 1.5)),
        ("cancel_after", ("M", 1, CANCEL_AFTER_SECONDS_MAX * 1_000 + 1)),
        ("lease", ("M", "steal")),
        ("lease", ("M", "take", 1, "a1", 5)),
        ("lease", ("M", "take", 1, "not hex", 5, 5)),
        ("lease", ("M", "take", "x", "a1", 5, 5)),
        ("lease", ("M", "take", 1, "a1", 5, -5)),
        ("cancel_due", ("many",)),
    ],
)
def test_malformed_arguments_change_nothing(card: Deadlined, function: str, arguments: tuple[Any, ...]) -> None:
    given = [card.mark() if argument == "M" else argument for argument in arguments]
    before = changes(card)

    with pytest.raises(ResponseError, match=f"{function} takes"):
        card.redis.fcall(function, 1, card.tag, *given)
    assert changes(card) == before


@pytest.mark.parametrize("function", ["cancel_after", "lease"])
def test_another_mark_is_refused(card: Deadlined, function: str) -> None:
    arguments = ("x", TRADER, 5) if function == "cancel_after" else ("x", "take", TRADER, "a1", 5, 5)

    with pytest.raises(ResponseError, match="HISTORY"):
        card.redis.fcall(function, 1, card.tag, *arguments)


@pytest.mark.parametrize("seed", range(3))
def test_random_deadlines_cancel_what_is_open_then_and_only_that(card: Deadlined, seed: int) -> None:
    choose = random.Random(seed)
    armed: dict[tuple[int, str], bool] = {}  # whether the time of a trader's switch or lease is over
    for _ in range(STEPS):
        trader = choose.choice(TRADERS)
        for _ in range(choose.randint(0, 4)):
            card.buy(f"{choose.randint(100, 499) / 100:.2f}", trader=trader)
        card.match()
        kind, is_soon = choose.choice(("switch", "lease")), choose.random() < 0.3
        milliseconds = choose.choice((0, SOON_MS if is_soon else LATER_MS, LATER_MS))
        if kind == "switch":
            card.switch(milliseconds, trader=trader)
        else:
            card.lease("take", "a1", milliseconds, trader=trader)
        armed.pop((trader, kind), None)
        if milliseconds:
            armed[trader, kind] = milliseconds == SOON_MS
        time.sleep(0.002)
        over = {trader for (trader, _), is_over in armed.items() if is_over}
        expected = sorted(sequence for sequence, order in card.open().items() if order.trader_id in over)
        before = card.cancels()

        card.due()

        assert sorted(card.cancels()[len(before) :]) == expected
        armed = {name: is_over for name, is_over in armed.items() if not is_over}
    assert card.redis.zcard(card.key("deadlines")) == len(armed)
