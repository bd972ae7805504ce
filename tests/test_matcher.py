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


def expiring(trader: int, card: str = CARDS[0]) -> PlaceOrder:
    """An order that is completed at once: nobody sells."""
    return PlaceOrder(trader_id=trader, card=card, side=Side.BUY, price_cents=500, time_in_force=TimeInForce.IOC)


def filed(market: Market) -> int:
    """The last command of which it is filed what happened."""
    return int(market.filed().event_id.partition(b"-")[0])


def lines(market: Market) -> list[bytes]:
    """All that is filed or listed."""
    portions = b"".join(market.portions().values()).splitlines()
    names: list[bytes] = market.redis.keys(market.key("trader:*"))
    return portions + [line for name in names for line in market.listed(int(name.rpartition(b":")[2]))]


def test_what_happened_is_filed_once_nothing_waits(redis_server: RedisServer, redis_client: Redis) -> None:
    markets = [Market(redis_client, card) for card in CARDS]

    async def run() -> None:
        async with matching(redis_server):
            markets[0].append([expiring(7)] * 3)
            markets[1].append([expiring(7, CARDS[1])] * 700)
            await until(lambda: [filed(market) for market in markets] == [3, 700])
            markets[0].append([expiring(7)] * 600)
            await until(lambda: filed(markets[0]) == 603)

    asyncio.run(run())
    assert [len(lines(market)) for market in markets] == [603, 700]


def test_what_is_filed_is_sorted_once_nothing_waits(redis_server: RedisServer, redis_client: Redis) -> None:
    market = Market(redis_client, CARDS[0])

    async def run() -> None:
        async with matching(redis_server):
            for _ in range(2):  # with the second portion there are more than 98,304 bytes
                market.append([expiring(7)] * 700)
                await until(lambda: filed(market) in {700, 1_400})
            await until(lambda: redis_client.llen(market.key("trader:7")) == 1)

    asyncio.run(run())
    assert [order.sequence for order in market.orders_of(7)] == list(range(1_400, 1_350, -1))


def test_a_server_that_was_emptied_is_filed_and_sorted_from_the_beginning(
    redis_server: RedisServer, redis_client: Redis
) -> None:
    market = Market(redis_client, CARDS[0])

    async def run() -> None:
        async with matching(redis_server):
            for last in (700, 1_400, 2_100, 2_800):
                market.append([expiring(7)] * 700)
                await until(lambda last=last: filed(market) == last)  # type: ignore[misc]
            await until(lambda: redis_client.llen(market.key("trader:7")) >= 1)
            assert market.orders_of(7)[0].sequence == 2_800
            redis_client.flushall()
            assert market.orders_of(7) == []
            for last in (700, 1_400):
                market.append([expiring(7)] * 700)
                await until(lambda last=last: filed(market) == last)  # type: ignore[misc]
            await until(lambda: redis_client.llen(market.key("trader:7")) == 1)

    asyncio.run(run())
    assert [order.sequence for order in market.orders_of(7)] == list(range(1_400, 1_350, -1))


def test_what_happened_is_filed_and_sorted_beside_match_calls(redis_server: RedisServer, redis_client: Redis) -> None:
    markets = [Market(redis_client, card) for card in CARDS]
    unfiled: list[int] = []
    unsorted: list[int] = []
    for market in markets:
        for _ in range(10):
            market.append([expiring(7, market.card)] * 1_000)

    async def run() -> None:
        async with connection.connect(f"unix://{redis_server.socket}") as redis:
            matcher = Matcher(redis, redis, CARDS, batch=100)
            due = list(CARDS)
            while due:
                due = await matcher.match(due)
                unfiled.extend(matched(market) - filed(market) for market in markets)
                unsorted.extend(len(b"".join(market.portions().values())) for market in markets)
            await matcher.finish()

    asyncio.run(run())
    assert max(unfiled) <= 1_500
    assert max(unsorted) < 200_000
    for market in markets:
        assert filed(market) == 10_000
        assert len(market.listed(7)) >= 50
        assert [order.sequence for order in market.orders_of(7)] == list(range(10_000, 9_950, -1))


@pytest.mark.parametrize("give_up_after", [1, 2, 3, 5, 8, 13])
def test_an_engine_that_is_replaced_leaves_nothing_twice_or_undone(
    redis_server: RedisServer, redis_client: Redis, give_up_after: int
) -> None:
    market = Market(redis_client, CARDS[0])
    for _ in range(8):
        market.append([expiring(trader) for trader in range(1, 1_001)])

    async def run() -> None:
        due, more = [CARDS[0]], True
        while more:
            async with connection.connect(f"unix://{redis_server.socket}") as redis:
                matcher = Matcher(redis, redis, CARDS, batch=200)
                for _ in range(give_up_after):
                    due = await matcher.match(due) if due else []
                    await matcher.file()
                if not due:
                    await matcher.finish()
                    more = False

    asyncio.run(run())
    for digits in (b"1", b"01", b"99"):
        market.sort(digits)
    found = lines(market)
    assert len(found) == len(set(found)) == 8_000
    assert [order.sequence for order in market.orders_of(1)] == list(range(7_001, 0, -1_000))


def test_two_engines_file_and_sort_everything_once(redis_server: RedisServer, redis_client: Redis) -> None:
    market = Market(redis_client, CARDS[0])

    async def run() -> None:
        async with matching(redis_server), matching(redis_server):
            for start in range(0, 40_000, 800):
                market.append([expiring(start % 1_600 // 16 + trader) for trader in range(1, 17) for _ in range(50)])
            await until(lambda: filed(market) == 40_000)

    asyncio.run(run())
    portions = b"".join(market.portions().values()).splitlines()
    assert len(portions) == len(set(portions))
    names: list[bytes] = market.redis.keys(market.key("trader:*"))
    traders = {int(name.rpartition(b":")[2]) for name in names}
    assert traders  # something was sorted
    for trader in traders:
        listed = market.listed(trader)
        assert len(listed) == len(set(listed))
        assert not set(listed) & set(portions)
    for trader in (1, 16, 51, 66):
        sequences = [order.sequence for order in market.orders_of(trader)]
        assert len(set(sequences)) == 50
        assert sequences == [order.sequence for order in reversed(market.completed()) if order.trader_id == trader][:50]


def test_matching_goes_on_where_traders_orders_cannot_be_sorted(redis_server: RedisServer, redis_client: Redis) -> None:
    market = Market(redis_client, CARDS[0])
    in_the_way = market.key("trader:7")
    redis_client.set(in_the_way, "in the way")

    async def run() -> None:
        async with matching(redis_server):
            for _ in range(2):
                market.append([expiring(7)] * 1_000)
            await until(lambda: filed(market) == 2_000)
            redis_client.delete(in_the_way)
            for _ in range(2):
                market.append([expiring(7)] * 800)
            await until_matched(market, 3_600)
            await until(lambda: redis_client.llen(in_the_way) >= 1)

    asyncio.run(run())
    assert [order.sequence for order in market.orders_of(7)] == list(range(3_600, 3_550, -1))


def test_matching_goes_on_where_nothing_can_be_filed(redis_server: RedisServer, redis_client: Redis) -> None:
    market = Market(redis_client, CARDS[0])
    redis_client.set(market.key("recent"), "in the way")

    async def run() -> None:
        async with matching(redis_server):
            market.append([expiring(7)] * 1_000)
            await until_matched(market, 1_000)
            redis_client.delete(market.key("recent"))
            await until(lambda: filed(market) == 1_000)

    asyncio.run(run())
    assert [order.sequence for order in market.orders_of(7)] == list(range(1_000, 950, -1))


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
