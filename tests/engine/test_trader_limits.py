"""Limits of each trader on a card, on the real server: the rate of orders, and how many may be open."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import pytest
from redis import Redis

from core.errors import ClientOrderIdConflict, Overloaded, RateLimited, TcgxError, TooManyOpenOrders
from core.model import COMMANDS_MAX, Accepted, CancelOrder, Command, PlaceOrder, Side, Status
from core.settings import Settings
from engine import connection, keys
from engine.fair_queue import Outcome
from engine.order_log import OrderLog
from engine.trader_limits import NO_LIMITS, TraderLimits
from testing.market import Market, many
from testing.servers import LoadedRedis

pytestmark = pytest.mark.server

SLOW = "1 10 0"
"""An order a second, so that a test takes no orders in from time that passes: 10 at once."""


def order(trader: int = 1, **fields: Any) -> PlaceOrder:
    return PlaceOrder(**{"trader_id": trader, "card": "pikachu", "side": Side.BUY, "price_cents": 500, **fields})


def orders(trader: int, count: int) -> list[Command]:
    return [order(trader)] * count


def limits(**fields: int) -> TraderLimits:
    return TraderLimits.of(Settings(**{f"trader_{name}": value for name, value in fields.items()}))  # type: ignore[arg-type]


def run(server: LoadedRedis, work: Callable[[OrderLog], Awaitable[None]], **options: Any) -> None:
    """Works with a log on a server."""

    async def main() -> None:
        async with connection.connect(server.url) as client:
            log = OrderLog(client, **{"backlog_max": 1_000_000, "pending_max": 1_000_000, **options})
            await work(log)
            await log.close()

    asyncio.run(main())


def kinds(outcomes: Sequence[Outcome]) -> list[type[Accepted | TcgxError]]:
    return [type(outcome) for outcome in outcomes]


# -- the function


def test_a_call_is_refused_as_a_whole_and_names_those_who_are_above_their_rate(market: Market) -> None:
    market.append_reply(orders(1, 10), limits=SLOW)

    reply = market.append_reply([*orders(2, 3), *orders(1, 1), *orders(3, 11), *orders(1, 1)], limits=SLOW)

    assert [reply[0], *reply[1:4], *reply[5:8]] == [-1, b"1", 0, b"rate", b"3", 10, b"rate"]
    assert 0 < reply[4] <= 1_000
    assert reply[8] == 1_000
    assert len(market.log_entries()) == 1
    assert market.redis.keys(market.key("rate:*")) == [market.key("rate:1").encode()]


def test_a_bucket_has_its_size_at_first_and_fills_with_the_rate(market: Market) -> None:
    limit = "100 50 0"
    before = time.monotonic()
    market.append_reply(orders(1, 50), limits=limit)

    taken = 0
    while taken < 20:
        reply = market.append_reply(orders(1, 1), limits=limit)
        taken += reply[0] > 0
    seconds = time.monotonic() - before

    assert seconds >= 0.19, "20 orders came sooner than 100 a second"


def test_time_that_passes_fills_a_bucket_no_further_than_its_size(market: Market) -> None:
    an_hour_ago = int(market.redis.time()[0]) * 1_000 - 3_600_000
    market.redis.set(market.key("rate:1"), f"10000 {an_hour_ago}")

    assert market.append_reply(orders(1, 11), limits=SLOW)[:4] == [-1, b"1", 10, b"rate"]
    assert market.append_reply(orders(1, 10), limits=SLOW)[0] == 1
    assert market.append_reply(orders(1, 1), limits=SLOW)[:4] == [-1, b"1", 0, b"rate"]


def test_a_clock_that_went_back_pays_nothing_and_costs_nothing(market: Market) -> None:
    in_an_hour = int(market.redis.time()[0]) * 1_000 + 3_600_000
    market.redis.set(market.key("rate:1"), f"4000 {in_an_hour}")

    assert market.append_reply(orders(1, 6), limits=SLOW)[0] == 1
    reply = market.append_reply(orders(1, 1), limits=SLOW)
    assert reply[:4] == [-1, b"1", 0, b"rate"]
    assert reply[4] <= 1_000


def test_a_bucket_expires_when_it_is_full_again(market: Market) -> None:
    market.append_reply(orders(1, 7), limits=SLOW)

    assert 6_000 < market.redis.pttl(market.key("rate:1")) <= 7_000


def test_cancels_are_free(market: Market) -> None:
    market.append_reply(orders(1, 10), limits=SLOW)
    cancels: list[Command] = [CancelOrder(trader_id=1, card="pikachu", sequence=1)] * 50

    assert market.append_reply(cancels, limits="1 10 10")[0] == 11


def test_a_repeat_is_free(market: Market) -> None:
    named = order(client_order_id="a")
    market.append_reply([named, *orders(1, 9)], limits=SLOW)

    assert market.append_reply([named], limits=SLOW)[0] == 0


def test_without_limits_nothing_is_written_for_them(market: Market) -> None:
    market.append_reply(orders(1, 10), limits=NO_LIMITS.text)

    assert NO_LIMITS.text == ""
    assert {key.decode().partition(":")[2] for key in market.redis.keys("*")} == {
        *("history", "sequence", "orders", "trader:1")
    }


def test_a_full_backlog_takes_nothing_from_a_bucket(market: Market) -> None:
    market.append_reply(orders(1, 5), limits=SLOW)
    before = market.redis.get(market.key("rate:1"))

    with pytest.raises(Exception, match="BACKLOG"):
        market.append_reply(orders(1, 3), limits=SLOW, waiting_max=6)

    assert market.redis.get(market.key("rate:1")) == before


# -- open orders


def open_limit(most: int) -> str:
    return f"0 1 {most}"


def test_orders_that_rest_or_are_not_matched_count_until_they_are_completed(market: Market) -> None:
    limit = open_limit(5)
    first = market.append_reply(orders(1, 5), limits=limit)[0]
    refused = market.append_reply(orders(1, 1), limits=limit)
    market.match()
    still = market.append_reply(orders(1, 2), limits=limit)
    market.append([CancelOrder(trader_id=1, card="pikachu", sequence=first)])
    market.match()

    assert refused == [-1, b"1", 0, b"open", 5]
    assert still == [-1, b"1", 0, b"open", 5]
    assert accepted_in_time(market, orders(1, 1), limit)
    assert market.append_reply(orders(1, 1), limits=limit) == [-1, b"1", 0, b"open", 5]
    assert market.append_reply(orders(2, 5), limits=limit)[0] > 0


def accepted_in_time(market: Market, commands: Sequence[Command], limit: str) -> bool:
    """Whether commands are accepted after the time in which a count may be old, and not much later."""
    deadline = time.monotonic() + 2
    while time.monotonic() < deadline:
        if market.append_reply(commands, limits=limit)[0] > 0:
            return True
    return False


def test_completed_orders_leave_room_that_is_seen_when_it_is_needed(market: Market) -> None:
    limit = open_limit(300)
    for _ in range(5):
        assert accepted_in_time(market, orders(1, 300), limit)
        market.append(many(1, count=300, trader=2, side=Side.SELL))
        market.match()

    assert len(market.completed()) == 5 * 600


def test_as_many_as_there_is_room_for_are_named(market: Market) -> None:
    limit = open_limit(5)
    market.append_reply(orders(1, 2), limits=limit)

    assert market.append_reply(orders(1, 4), limits=limit) == [-1, b"1", 3, b"open", 2]
    assert market.append_reply(orders(1, 3), limits=limit)[0] == 3


def test_orders_of_before_the_limit_count(market: Market) -> None:
    market.append(orders(1, 4))
    market.append_reply(orders(1, 1), limits=open_limit(9))
    market.append(orders(1, 4))

    assert market.append_reply(orders(1, 1), limits=open_limit(9)) == [-1, b"1", 0, b"open", 9]


@pytest.mark.parametrize("batch", [1_000, 999])  # calls read whole items, so 999 are read with others than counted
def test_thousands_of_open_orders_are_counted_call_by_call(market: Market, batch: int) -> None:
    for trader in (2, 1, 1, 1, 1, 1):
        market.append(orders(trader, batch))
    market.match()
    limit = open_limit(5 * batch + 1)

    replies: list[list[Any]] = []
    deadline = time.monotonic() + 10
    while not replies or replies[-1][0] < 0:
        replies.append(market.append_reply(orders(1, 1), limits=limit))
        assert time.monotonic() < deadline
    refused = market.append_reply(orders(1, 1), limits=limit)

    assert replies[0] == [-1, b"1", 0, b"open", 6 * batch]
    assert refused == [-1, b"1", 0, b"open", 5 * batch + 1]


def test_a_count_that_goes_on_never_says_too_few(market: Market) -> None:
    first = market.append(orders(1, 1_000)).first
    for _ in range(5):
        market.append(orders(1, 1_000))
    market.match()
    limit = open_limit(5_000)

    refused = market.append_reply(orders(1, 1), limits=limit)
    key = market.key("open_orders:1")
    assert len(market.redis.get(key).split()) == 5, "the first call counts a part"
    for sequence in range(first, first + 1_000):  # they were counted as open, and are not any more
        market.append([CancelOrder(trader_id=1, card="pikachu", sequence=sequence)])
    market.match()

    assert refused[:4] == [-1, b"1", 0, b"open"]
    assert not accepted_in_time(market, orders(1, 1), limit)
    assert accepted_in_time(market, orders(1, 1), open_limit(5_001))


def test_a_count_is_forgotten_after_a_while(market: Market) -> None:
    market.append_reply(orders(1, 4), limits=open_limit(9))

    assert 0 < market.redis.pttl(market.key("open_orders:1")) <= 3_600_000


@pytest.mark.parametrize("limit", ["1 5 3", "1 3 5"])
def test_of_two_limits_the_stricter_one_is_named(market: Market, limit: str) -> None:
    reply = market.append_reply(orders(1, 6), limits=limit)

    assert reply[:4] == [-1, b"1", 3, b"open" if limit.endswith("3") else b"rate"]


# -- the order log


@pytest.mark.usefixtures("redis_client")
def test_a_trader_above_its_rate_is_refused_alone(redis_server: LoadedRedis) -> None:
    async def work(log: OrderLog) -> None:
        commands = [order(trader) for trader in (1, 2, 1, 3, 1, 2, 1)]
        commands[2] = order(1, client_order_id="third")

        outcomes = await log.append_all(commands)

        assert kinds(outcomes) == [Accepted, Accepted, Accepted, Accepted, RateLimited, Accepted, RateLimited]
        assert [each.sequence for each in outcomes if isinstance(each, Accepted)] == [1, 2, 3, 4, 5]
        refusal = outcomes[4]
        assert isinstance(refusal, RateLimited)
        assert (refusal.limit, refusal.retry_after, refusal.reset) == (2, 1, 2)
        assert "you may place 1 orders a second on pikachu, 2 at once" in refusal.detail
        with pytest.raises(RateLimited):
            await log.append(order(1))
        assert (await log.append(order(3))).sequence == 6

    run(redis_server, work, limits=limits(orders_per_second=1, burst=2))


@pytest.mark.usefixtures("redis_client")
def test_repeats_and_limits_in_one_batch_have_the_outcomes_of_one_order_after_the_other(
    redis_server: LoadedRedis,
) -> None:
    async def work(log: OrderLog) -> None:
        await log.append(order(1, client_order_id="old"))
        names = ("old", "a", "a", "b", "c", "b", "a", "old")

        outcomes = await log.append_all([order(1, client_order_id=name) for name in names])

        assert [getattr(outcome, "sequence", type(outcome)) for outcome in outcomes] == [
            *(1, 2, 2, 3, RateLimited, 3, 2, 1)
        ]
        with pytest.raises(ClientOrderIdConflict):
            await log.append(order(1, client_order_id="a", price_cents=600))

    run(redis_server, work, limits=limits(orders_per_second=1, burst=3))


@pytest.mark.usefixtures("redis_client")
def test_an_order_that_repeats_one_that_was_refused_is_an_order_of_its_own(redis_server: LoadedRedis) -> None:
    async def work(log: OrderLog) -> None:
        outcomes = await log.append_all([order(1), order(1, client_order_id="x"), order(1, client_order_id="x")])

        assert kinds(outcomes) == [Accepted, RateLimited, RateLimited]

    run(redis_server, work, limits=limits(orders_per_second=1, burst=1))


def test_two_logs_share_the_buckets(redis_server: LoadedRedis, redis_client: Redis) -> None:
    async def main() -> None:
        options = {"backlog_max": 1_000_000, "pending_max": 1_000_000}
        limit = limits(orders_per_second=1, burst=700)
        async with connection.connect(redis_server.url) as one, connection.connect(redis_server.url) as two:
            logs = [OrderLog(client, limits=limit, **options) for client in (one, two)]  # type: ignore[arg-type]
            started = time.monotonic()
            found = await asyncio.gather(
                *(log.append_all([order(1 + number % 2)]) for number in range(1_000) for log in logs)
            )
            seconds = time.monotonic() - started
            accepted = sum(isinstance(outcome, Accepted) for (outcome,) in found)

            assert 1_400 <= accepted <= 1_400 + 2 * (seconds + 1)
            assert int(redis_client.get(keys.key("pikachu", "sequence")) or 0) == accepted

    asyncio.run(main())


@pytest.mark.usefixtures("redis_client")
def test_a_trader_with_too_many_open_orders_is_refused_alone(redis_server: LoadedRedis) -> None:
    async def work(log: OrderLog) -> None:
        outcomes = await log.append_all([order(trader) for trader in (1, 1, 1, 2)])

        assert kinds(outcomes) == [Accepted, Accepted, TooManyOpenOrders, Accepted]
        assert "you may have 2 open orders on pikachu" in outcomes[2].detail  # type: ignore[union-attr]
        assert (await log.append(CancelOrder(trader_id=1, card="pikachu", sequence=1))).sequence == 4

    run(redis_server, work, limits=limits(open_orders_max=2))


@pytest.mark.usefixtures("redis_client")
def test_a_call_of_many_traders_above_their_limits_ends(redis_server: LoadedRedis) -> None:
    async def work(log: OrderLog) -> None:
        commands = [order(1 + number % 250) for number in range(COMMANDS_MAX)]

        outcomes = await log.append_all(commands)

        assert kinds(outcomes) == [Accepted] * 500 + [RateLimited] * 500

    run(redis_server, work, limits=limits(orders_per_second=1, burst=2))


@pytest.mark.usefixtures("redis_client")
def test_what_a_limit_leaves_is_refused_where_the_backlog_is_full(redis_server: LoadedRedis) -> None:
    async def work(log: OrderLog) -> None:
        outcomes = await log.append_all([order(1)] * 8)

        assert kinds(outcomes) == [Overloaded] * 5 + [RateLimited] * 3

    run(redis_server, work, limits=limits(orders_per_second=1, burst=5), backlog_max=4)


def test_statuses_are_those_of_an_exchange_without_limits(market: Market) -> None:
    sell = market.append_reply([order(1, side=Side.SELL)], limits="5 5 5")[0]
    buy = market.append_reply([order(2)], limits="5 5 5")[0]
    market.match()

    assert [market.state(sequence) for sequence in (sell, buy)] == [(Status.FILLED, 1)] * 2
