"""The engine's loop over all cards, on the real server: what it does when one of them cannot be matched."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from redis import Redis

from core.errors import LogGap
from engine import connection, keys
from engine.matcher import Matcher
from engine.nodes import Node
from testing.market import Market
from testing.servers import LoadedRedis
from testing.waiting import until_async

pytestmark = pytest.mark.server

CARDS = ("pikachu", "bulbasaur")
SECONDS = 10


@asynccontextmanager
async def matching(server: LoadedRedis, cards: tuple[str, ...] = CARDS) -> AsyncIterator[Matcher]:
    """A matcher at work."""
    url = server.url
    async with connection.connect(url) as redis, connection.connect_blocking(url) as blocking:
        matcher = Matcher(Node(redis, blocking, cards), batch=100, hold_ms=5)
        stopping = asyncio.Event()
        running = asyncio.create_task(matcher.run(stopping))
        try:
            yield matcher
        finally:
            stopping.set()
            await asyncio.wait_for(running, SECONDS)


def matched(market: Market) -> int:
    """The last command of the card that is matched."""
    return int(market.redis.hget(market.key("cursor"), "sequence") or 0)


async def until_matched(market: Market, sequence: int) -> None:
    """Returns when this command is matched."""
    await until_async(lambda: matched(market) == sequence)


def test_orders_that_come_while_nothing_waits_are_matched(redis_server: LoadedRedis, redis_client: Redis) -> None:
    markets = [Market(redis_client, card) for card in CARDS]

    async def run() -> None:
        async with matching(redis_server):
            for round_number in (1, 2, 3):
                for market in markets:
                    market.buy("5.00")
                for market in markets:
                    await until_matched(market, round_number)

    asyncio.run(run())


def test_a_card_with_a_gap_stands_still_and_the_other_goes_on(redis_server: LoadedRedis, redis_client: Redis) -> None:
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
            assert isinstance(matcher.last_error_by_card["pikachu"], LogGap)

    asyncio.run(run())
    assert matched(broken) <= 1


def test_a_card_whose_call_was_refused_is_tried_again(
    redis_server: LoadedRedis, redis_client: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("engine.matcher.RETRY_CARD_SECONDS", 0.1)
    market = Market(redis_client, "pikachu")
    market.buy("5.00")
    events = keys.key("pikachu", "events")
    redis_client.set(events, "in the way")

    async def run() -> None:
        async with matching(redis_server, ("pikachu",)) as matcher:
            await until_async(lambda: "pikachu" in matcher.last_error_by_card)
            assert matched(market) == 0
            redis_client.delete(events)
            await until_matched(market, 1)
            await until_async(lambda: matcher.last_error_by_card == {})

    asyncio.run(run())


def test_the_library_is_loaded_again_where_the_server_lost_it(redis_server: LoadedRedis, redis_client: Redis) -> None:
    market = Market(redis_client, "pikachu")

    async def run() -> None:
        async with matching(redis_server):
            market.buy("5.00")
            await until_matched(market, 1)
            redis_client.function_flush()
            redis_client.xadd(market.key("orders"), {"by": "hand"})
            await until_async(lambda: bool(redis_client.function_list()))

    asyncio.run(run())
