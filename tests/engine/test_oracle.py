"""The oracle: seeded flows through the real server and through the reference book, compared in everything."""

import random
import threading
from collections.abc import Iterator

import msgspec
import pytest
from redis import Redis

from core.model import CancelOrder, Command, Order, PlaceOrder, Side, Trade
from testing.flows import FLOWS, stress_few_traders
from testing.market import Market
from testing.oracle.comparison import BatchSize, groups, run
from testing.servers import LoadedRedis

pytestmark = pytest.mark.server

BATCHES: dict[str, tuple[BatchSize, int]] = {
    "1": (lambda _: 1, 3_000),
    "7": (lambda _: 7, 8_000),
    "500": (lambda _: 500, 20_000),
    "random": (lambda choose: choose.choice((1, 3, 50, 51, 200, 1_000, 10_000)), 20_000),
}
"""Batch sizes, and how many commands of each of the four flows they match: 204,000 in all."""


@pytest.mark.parametrize("batches", BATCHES)
@pytest.mark.parametrize("flow", FLOWS)
def test_random_flows_give_what_the_reference_book_gives(redis_client: Redis, flow: str, batches: str) -> None:
    batch_size, count = BATCHES[batches]

    run(redis_client, flow=FLOWS[flow], seed=20_261_122 + count, count=count, batch_size=batch_size)


def wide_prices(seed: int, count: int) -> Iterator[Command]:
    """Orders over all prices that settings can allow, a cent to 10,000 USD: what lies next may be near or far."""
    choose = random.Random(seed)
    for number in range(1, count + 1):
        if choose.random() < 0.1:
            yield CancelOrder(trader_id=1, card="pikachu", sequence=choose.randint(1, number))
            continue
        price_cents = choose.choice((choose.randint(1, 1_000_000), int(10 ** choose.uniform(0, 6))))
        yield PlaceOrder(
            trader_id=choose.randint(1, 3),
            card="pikachu",
            side=choose.choice((Side.BUY, Side.SELL)),
            price_cents=price_cents,
            quantity=choose.choice((1, 1, 1, 5, 50)),
        )


@pytest.mark.parametrize("batches", ["7", "random"])
def test_the_next_price_is_found_however_far_away_it_is(redis_client: Redis, batches: str) -> None:
    run(redis_client, flow=wide_prices, seed=5, count=6_000, batch_size=BATCHES[batches][0])


@pytest.mark.parametrize("batches", ["7", "random"])
@pytest.mark.parametrize("flow", ["stress_few_traders", "stress_many_traders"])
def test_a_taker_that_meets_itself_is_canceled_as_in_the_reference_book(
    redis_client: Redis, flow: str, batches: str
) -> None:
    comparisons = run(
        redis_client,
        flow=FLOWS[flow],
        seed=77,
        count=5_000,
        batch_size=BATCHES[batches][0],
        self_trade="cancel_taker",
    )

    for comparison in comparisons.values():
        assert all(trade.maker_trader_id != trade.taker_trader_id for trade in comparison.market.trades())


class Copy(msgspec.Struct, frozen=True):
    """A card's log as it was appended: what a replay starts from."""

    card: str
    entries: list[tuple[bytes, dict[bytes, bytes]]]
    sequence: int

    def paste(self, redis: Redis) -> Market:
        """The same log, with the same ids, on an emptied server."""
        redis.flushall()
        market = Market(redis, self.card)
        pipeline = market.redis.pipeline(transaction=False)
        for entry_id, fields in self.entries:
            pipeline.xadd(market.key("orders"), fields, id=entry_id)
        pipeline.set(market.key("sequence"), self.sequence)
        pipeline.execute()
        return market


def copied_log(redis: Redis, *, seed: int, count: int) -> Copy:
    """A stress log in which hand-made entries lie between the appended ones."""
    market = Market(redis, "pikachu")
    choose = random.Random(seed)
    for _, commands in groups(stress_few_traders(seed, count), choose):
        market.append(commands)
        if choose.random() < 0.2:
            market.redis.xadd(market.key("orders"), {"by": "hand"})
    return Copy("pikachu", market.log_entries(), count)


def outcome(market: Market) -> tuple[str, list[Trade], list[Order], list[str], str]:
    """What matching made of a log."""
    return market.state_hash(), market.trades(), market.completed(), market.rejected(), market.book()


def test_one_log_gives_one_state_in_whatever_batches_it_is_matched(redis_client: Redis) -> None:
    log = copied_log(redis_client, seed=5, count=6_000)

    outcomes = []
    for limit in (1, 7, 500, 10_000):
        market = log.paste(redis_client)
        market.match(limit)
        outcomes.append(outcome(market))

    assert len(outcomes[0][3]) > 0
    assert outcomes.count(outcomes[0]) == len(outcomes)


def test_the_same_commands_appended_again_give_the_same_state_hash(redis_client: Redis) -> None:
    hashes = []
    for limit in (3, 500):
        redis_client.flushall()
        market = Market(redis_client)
        for _, commands in groups(stress_few_traders(9, 2_000), random.Random(limit)):
            market.append(commands)
        market.match(limit)
        hashes.append(market.state_hash())

    assert hashes[0] == hashes[1]


def test_two_matchers_at_once_make_what_one_makes(redis_server: LoadedRedis, redis_client: Redis) -> None:
    log = copied_log(redis_client, seed=6, count=10_000)
    alone = log.paste(redis_client)
    alone.match()
    expected = outcome(alone)

    market = log.paste(redis_client)
    threads = [
        threading.Thread(target=Market(redis_server.client()).match, kwargs={"limit": limit}) for limit in (3, 5)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert outcome(market) == expected


def test_a_flow_with_a_seed_is_always_the_same() -> None:
    for flow in FLOWS.values():
        assert list(flow(1, 500)) == list(flow(1, 500))
        assert list(flow(1, 500)) != list(flow(2, 500))


def test_stress_has_every_kind_of_command() -> None:
    commands = list(stress_few_traders(1, 2_000))
    placed = [command for command in commands if isinstance(command, PlaceOrder)]
    cancels = [command for command in commands if isinstance(command, CancelOrder)]

    assert {(order.side, order.time_in_force) for order in placed} == {
        (side, time_in_force) for side in ("buy", "sell") for time_in_force in ("gtc", "ioc", "fok")
    }
    assert {order.client_order_id is None for order in placed} == {True, False}
    assert min(command.sequence for command in cancels) == 0
