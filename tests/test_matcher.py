"""The engine's loop over all cards, on the real server: what it does when one of them cannot be matched."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest
from redis import Redis

from core.errors import LogGap
from engine import connection, keys
from engine.matcher import Matcher
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
    monkeypatch.setattr("engine.matcher.RETRY_CARD_SECONDS", 0.1)
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
