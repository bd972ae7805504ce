"""The engine's loop over all cards, on the real server: what it does when one of them cannot be matched."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest
from redis import Redis

from engine import connection, keys
from engine.errors import LogGap
from engine.matcher import Matcher
from engine.model import PlaceOrder, Side, TimeInForce
from tests.conftest import RedisServer
from tests.market import Market

pytestmark = pytest.mark.server

CARDS = ("pikachu", "bulbasaur")
SECONDS = 10


@asynccontextmanager
async def matching(server: RedisServer, cards: tuple[str, ...] = CARDS) -> AsyncIterator[Matcher]:
    """A matcher at work."""
    url = f"unix://{server.socket}"
    async with connection.connect(url) as redis, connection.connect_blocking(url) as blocking:
        matcher = Matcher(redis, blocking, cards, batch=100, hold_ms=5)
        stopping = asyncio.Event()
        running = asyncio.create_task(matcher.run(stopping))
        try:
            yield matcher
        finally:
            stopping.set()
            await asyncio.wait_for(running, SECONDS)


async def until(happened: Callable[[], bool]) -> None:
    """Returns when it has happened; an error after `SECONDS`."""
    async with asyncio.timeout(SECONDS):
        while not happened():  # noqa: ASYNC110 - what happens, happens in Redis
            await asyncio.sleep(0.01)


def matched(market: Market) -> int:
    """The last command of the card that is matched."""
    return int(market.redis.hget(market.key("cursor"), "sequence") or 0)


async def until_matched(market: Market, sequence: int) -> None:
    """Returns when this command is matched."""
    await until(lambda: matched(market) == sequence)


def test_orders_that_come_while_nothing_waits_are_matched(redis_server: RedisServer, redis_client: Redis) -> None:
    markets = [Market(redis_client, card) for card in CARDS]

    async def run() -> None:
        async with matching(redis_server):
            for round_number in (1, 2, 3):
                for market in markets:
                    market.buy("5.00")
                for market in markets:
                    await until_matched(market, round_number)

    asyncio.run(run())


def test_traders_orders_are_sorted_once_nothing_waits(redis_server: RedisServer, redis_client: Redis) -> None:
    market = Market(redis_client, CARDS[0])
    order = PlaceOrder(trader_id=7, card=market.card, side=Side.BUY, price_cents=500, time_in_force=TimeInForce.IOC)

    async def run() -> None:
        async with matching(redis_server):
            market.append([order] * 1_000)
            await until_matched(market, 1_000)
            market.append([order] * 99)  # one call, and with it there are more than 98,304 bytes
            await until(lambda: redis_client.llen(market.key("trader:7")) == 1)

    asyncio.run(run())


def test_traders_orders_are_sorted_beside_match_calls(redis_server: RedisServer, redis_client: Redis) -> None:
    markets = [Market(redis_client, card) for card in CARDS]
    waiting: list[int] = []
    for market in markets:
        order = PlaceOrder(trader_id=7, card=market.card, side=Side.BUY, price_cents=500, time_in_force=TimeInForce.IOC)
        for _ in range(10):
            market.append([order] * 1_000)

    async def run() -> None:
        url = f"unix://{redis_server.socket}"
        async with connection.connect(url) as redis:
            matcher = Matcher(redis, redis, CARDS, batch=100)
            due = list(CARDS)
            while due:
                due = await matcher.match(due)
                waiting.extend(int(redis_client.strlen(market.key("recent:7"))) for market in markets)

    asyncio.run(run())
    assert max(waiting) < 150_000  # match itself sorts at 196,608
    for market in markets:
        assert redis_client.llen(market.key("trader:7")) >= 1
        assert [order.sequence for order in market.orders_of(7)] == list(range(10_000, 9_950, -1))


def test_matching_goes_on_where_traders_orders_cannot_be_sorted(redis_server: RedisServer, redis_client: Redis) -> None:
    market = Market(redis_client, CARDS[0])
    order = PlaceOrder(trader_id=7, card=market.card, side=Side.BUY, price_cents=500, time_in_force=TimeInForce.IOC)
    in_the_way = market.key("trader:7")
    redis_client.set(in_the_way, "in the way")

    async def run() -> None:
        async with matching(redis_server):
            market.append([order] * 1_000)
            market.append([order] * 200)
            await until_matched(market, 1_200)
            redis_client.delete(in_the_way)
            market.append([order])
            await until(lambda: redis_client.llen(in_the_way) == 1)

    asyncio.run(run())
    assert [order.sequence for order in market.orders_of(7)] == list(range(1_201, 1_151, -1))


def test_a_card_with_a_gap_stands_still_and_the_other_goes_on(redis_server: RedisServer, redis_client: Redis) -> None:
    broken, sound = (Market(redis_client, card) for card in CARDS)
    for _ in range(3):
        broken.buy("5.00")
    missing = broken.log_entries()[1][0]
    broken.redis.xdel(broken.key("orders"), missing)

    async def run() -> None:
        async with matching(redis_server) as matcher:
            for number in range(1, 6):
                sound.buy("5.00")
                await until_matched(sound, number)
            assert isinstance(matcher.refused["pikachu"], LogGap)

    asyncio.run(run())
    assert matched(broken) <= 1


def test_a_card_whose_call_was_refused_is_tried_again(
    redis_server: RedisServer, redis_client: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("engine.matcher.STANDSTILL_SECONDS", 0.1)
    market = Market(redis_client, "pikachu")
    market.buy("5.00")
    events = keys.key("pikachu", "events")
    redis_client.set(events, "in the way")

    async def run() -> None:
        async with matching(redis_server, ("pikachu",)) as matcher:
            await until(lambda: "pikachu" in matcher.refused)
            assert matched(market) == 0
            redis_client.delete(events)
            await until_matched(market, 1)
            await until(lambda: matcher.refused == {})

    asyncio.run(run())


def test_the_library_is_loaded_again_where_the_server_lost_it(redis_server: RedisServer, redis_client: Redis) -> None:
    market = Market(redis_client, "pikachu")

    async def run() -> None:
        async with matching(redis_server):
            market.buy("5.00")
            await until_matched(market, 1)
            redis_client.function_flush()
            redis_client.xadd(market.key("orders"), {"by": "hand"})
            await until(lambda: bool(redis_client.function_list()))

    asyncio.run(run())
