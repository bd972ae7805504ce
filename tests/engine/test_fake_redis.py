"""The Lua library on fakeredis: the same comparison as tests/engine/test_oracle.py in a few seconds, without a server.

fakeredis lets Lua write global variables, which a real server refuses; tests on the real server decide.
"""

import asyncio
import random
from collections.abc import Iterator

import fakeredis
import pytest
from redis import Redis

from core.model import Status
from engine import library
from testing.flows import FLOWS
from testing.market import Market, picture
from testing.oracle.comparison import run
from testing.oracle.reference_book import SelfTrade

COUNT = 1_200


@pytest.fixture
def redis_fake() -> Iterator[Redis]:
    """An empty fakeredis with the library loaded."""
    server = fakeredis.FakeServer()
    asyncio.run(_load(server))
    with fakeredis.FakeRedis(server=server) as client:
        yield client


async def _load(server: fakeredis.FakeServer) -> None:
    async with fakeredis.FakeAsyncRedis(server=server) as client:
        await library.load(client)


def batch_size(choose: random.Random) -> int:
    """Of a match call."""
    return choose.choice((1, 7, 60, 500))


@pytest.mark.parametrize("self_trade", ["allow", "cancel_taker"])
@pytest.mark.parametrize("flow", FLOWS)
def test_random_flows_give_what_the_reference_book_gives(redis_fake: Redis, flow: str, self_trade: SelfTrade) -> None:
    run(redis_fake, flow=FLOWS[flow], seed=3, count=COUNT, batch_size=batch_size, self_trade=self_trade)


def test_an_order_goes_from_accepted_to_filled(redis_fake: Redis) -> None:
    market = Market(redis_fake)
    market.given("""
        bid | price | ask
            | 5.60  | 3
            | 5.50  | 1 2
        4 1 | 5.40  |
    """)

    taker = market.buy("5.60", 4, trader=7)
    accepted = market.order(taker)
    market.match()
    filled = market.order(taker)

    assert accepted is not None
    assert accepted.status is Status.ACCEPTED
    assert filled is not None
    assert (filled.status, filled.filled_quantity) == (Status.FILLED, 4)
    assert market.book() == picture("""
        bid | price | ask
            | 5.60  | 2
        4 1 | 5.40  |
    """)


def test_a_malformed_entry_is_skipped(redis_fake: Redis) -> None:
    market = Market(redis_fake)
    market.redis.xadd(market.key("orders"), {"price": "5.50"}, id="99999999999999-1")
    market.buy("5.50")
    market.match()

    assert market.rejected() == ["99999999999999-1"]
    assert len(market.bids()) == 1
