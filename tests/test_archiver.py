"""The archiver on events that are not what it left: missing, of another Redis, or simply more."""

import asyncio
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
from redis import Redis
from redis.asyncio import Redis as AsyncRedis

from core.model import Side
from engine import library
from tests.market import HISTORY_ID, Market, many
from tests.running_exchange import ServerPair, Service, assert_archived, fetch, judged, server_pair, settle, until

pytestmark = pytest.mark.server


@pytest.fixture
def pair() -> Iterator[ServerPair]:
    with server_pair() as running:
        yield running


@pytest.fixture
def redis_client(pair: ServerPair) -> Iterator[Redis]:
    """A client of the pair's Redis, which has the library."""
    load(pair)
    with Redis.from_url(pair.settings.redis_url) as client:
        yield client


def load(pair: ServerPair) -> None:
    async def loaded() -> None:
        async with AsyncRedis.from_url(pair.settings.redis_url) as client:
            await library.load(client)

    asyncio.run(loaded())


def trade(market: Market, *, events: int = 1) -> None:
    """Orders, of which one side is completed, in that many events."""
    for _ in range(events):
        market.append(many(1, count=2) + many(1, count=2, trader=2, side=Side.SELL))
        market.match()


def archived(pair: ServerPair) -> dict[str, int]:
    """The last archived command of each card."""
    rows = fetch(pair.settings.database_url, "SELECT card, sequence FROM archive_cursor")
    return {row["card"]: row["sequence"] for row in rows}


def everything(pair: ServerPair) -> Sequence[Any]:
    """All that the archive holds."""
    queries = (
        "SELECT * FROM orders ORDER BY card, sequence",
        "SELECT * FROM trades ORDER BY card, trade_number",
        "SELECT * FROM archive_cursor ORDER BY card",
    )
    return [fetch(pair.settings.database_url, query) for query in queries]


def drop_event(market: Market, number: int) -> None:
    """Removes one event, the oldest is 0."""
    event_id, _ = market.events()[number]
    assert market.redis.xdel(market.key("events"), event_id) == 1


def stands_still(archiver: Service, card: str) -> None:
    """Waits for the line that says so."""
    lines = until(
        lambda: [line for line in archiver.output().splitlines() if "archiving stands still" in line], "the error"
    )
    assert len(lines) == 1
    assert "error" in lines[0]
    assert f"card={card}" in lines[0]


@pytest.mark.parametrize("before", [0, 2], ids=["at the beginning", "after a stop"])
def test_a_card_whose_events_are_missing_stands_still_and_the_others_are_archived(
    pair: ServerPair, redis_client: Redis, before: int
) -> None:
    broken, whole = Market(redis_client, "pikachu"), Market(redis_client, "bulbasaur")
    if before:
        trade(broken, events=before)
        earlier = pair.service("archiver")
        until(lambda: archived(pair) == {"pikachu": 4 * before}, "archiving")
        assert earlier.stop() == 0
    trade(broken, events=3)
    trade(whole, events=3)
    drop_event(broken, before)

    archiver = pair.service("archiver")
    try:
        stands_still(archiver, "pikachu")
        until(lambda: archived(pair).get("bulbasaur") == 12, "archiving of the other card")
        trade(whole)
        trade(broken)
        until(lambda: archived(pair).get("bulbasaur") == 16, "archiving of what came later")
        assert archived(pair).get("pikachu", 0) == 4 * before
        trades = fetch(pair.settings.database_url, "SELECT count(*) AS found FROM trades WHERE card = 'pikachu'")
        assert trades[0]["found"] == 2 * before
    finally:
        assert archiver.stop() == 0


@pytest.mark.parametrize("history_id", [HISTORY_ID, 32 * "2"], ids=["same", "other"])
@pytest.mark.parametrize("later", [0, 1, 2, 5], ids=["empty", "shorter", "as long", "longer"])
def test_an_archive_of_another_redis_is_not_touched(
    pair: ServerPair, redis_client: Redis, later: int, history_id: str
) -> None:
    market = Market(redis_client)
    trade(market, events=2)
    archiver = pair.service("archiver")
    until(lambda: archived(pair) == {"pikachu": 8}, "archiving")
    assert archiver.stop() == 0
    before = everything(pair)

    redis_client.flushall()
    load(pair)
    trade(Market(redis_client, history_id=history_id), events=later)
    refused = pair.service("archiver")
    try:
        stands_still(refused, "pikachu")
    finally:
        assert refused.stop() == 0
    assert "tcgx recover" in refused.output()
    assert "Traceback" not in refused.output()
    assert everything(pair) == before
    assert len(market.events()) == later


def test_an_archiver_that_is_started_again_goes_on_where_it_stopped(pair: ServerPair, redis_client: Redis) -> None:
    settings = pair.settings
    for events in (3, 0, 2):
        for card in ("pikachu", "squirtle"):
            market = Market(redis_client, card)
            market.redis.xadd(market.key("orders"), {"by": "hand"})
            trade(market, events=events)
            market.match()
        archiver = pair.service("archiver")
        until(lambda archiver=archiver: " archiving " in archiver.output(), "start")  # type: ignore[misc]
        settle(settings.redis_url, settings.database_url)
        assert archiver.stop() == 0

    assert archived(pair) == {"pikachu": 20, "squirtle": 20}
    assert_archived(settings.database_url, rejecting_nothing(redis_client, pair))


def rejecting_nothing(redis_client: Redis, pair: ServerPair) -> Any:
    """What the log leads to, without the entries that were made by hand."""
    for card in ("pikachu", "squirtle"):
        market = Market(redis_client, card)
        rejected = market.rejected()
        assert len(rejected) == 3
        market.redis.xdel(market.key("orders"), *rejected)
    return judged(pair.settings.redis_url)
