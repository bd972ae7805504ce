"""The archiver on events that are not what it left: missing, of another Redis, or simply more."""

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest
from redis import Redis

from testing.market import HISTORY_ID, Market
from testing.oracle.judge import assert_archived, judged, settle
from testing.servers import Servers, fetch, load_library
from testing.services import Service
from testing.waiting import until

pytestmark = pytest.mark.server


def everything(pair: Servers) -> Sequence[Any]:
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
    pair: Servers, pair_client: Redis, before: int
) -> None:
    broken, whole = Market(pair_client, "pikachu"), Market(pair_client, "bulbasaur")
    if before:
        broken.trade(events=before)
        earlier = pair.service("archiver")
        until(lambda: pair.archived() == {"pikachu": 4 * before}, "archiving")
        assert earlier.stop() == 0
    broken.trade(events=3)
    whole.trade(events=3)
    drop_event(broken, before)

    archiver = pair.service("archiver")
    try:
        stands_still(archiver, "pikachu")
        until(lambda: pair.archived().get("bulbasaur") == 12, "archiving of the other card")
        whole.trade()
        broken.trade()
        until(lambda: pair.archived().get("bulbasaur") == 16, "archiving of what came later")
        assert pair.archived().get("pikachu", 0) == 4 * before
        trades = fetch(pair.settings.database_url, "SELECT count(*) AS found FROM trades WHERE card = 'pikachu'")
        assert trades[0]["found"] == 2 * before
    finally:
        assert archiver.stop() == 0


@pytest.mark.parametrize("history_id", [HISTORY_ID, 32 * "2"], ids=["same", "other"])
@pytest.mark.parametrize("later", [0, 1, 2, 5], ids=["empty", "shorter", "as long", "longer"])
def test_an_archive_of_another_redis_is_not_touched(
    pair: Servers, pair_client: Redis, later: int, history_id: str
) -> None:
    market = Market(pair_client)
    market.trade(events=2)
    archiver = pair.service("archiver")
    until(lambda: pair.archived() == {"pikachu": 8}, "archiving")
    assert archiver.stop() == 0
    before = everything(pair)

    pair_client.flushall()
    asyncio.run(load_library(pair.settings.redis_url))
    Market(pair_client, history_id=history_id).trade(events=later)
    refused = pair.service("archiver")
    try:
        stands_still(refused, "pikachu")
    finally:
        assert refused.stop() == 0
    assert "tcgx recover" in refused.output()
    assert "Traceback" not in refused.output()
    assert everything(pair) == before
    assert len(market.events()) == later


def test_an_archiver_that_is_started_again_goes_on_where_it_stopped(pair: Servers, pair_client: Redis) -> None:
    settings = pair.settings
    for events in (3, 0, 2):
        for card in ("pikachu", "squirtle"):
            market = Market(pair_client, card)
            market.redis.xadd(market.key("orders"), {"by": "hand"})
            market.trade(events=events)
            market.match()
        archiver = pair.service("archiver")
        until(lambda archiver=archiver: " archiving " in archiver.output(), "start")  # type: ignore[misc]
        settle(settings.redis_url, settings.database_url)
        assert archiver.stop() == 0

    assert pair.archived() == {"pikachu": 20, "squirtle": 20}
    assert_archived(settings.database_url, rejecting_nothing(pair_client, pair))


def rejecting_nothing(pair_client: Redis, pair: Servers) -> Any:
    """What the log leads to, without the entries that were made by hand."""
    for card in ("pikachu", "squirtle"):
        market = Market(pair_client, card)
        rejected = market.rejected()
        assert len(rejected) == 3
        market.redis.xdel(market.key("orders"), *rejected)
    return judged(pair.settings.redis_url)
