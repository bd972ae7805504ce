"""The archiver trims Redis by time and at its start, also while nothing is archived."""

import pytest
from redis import Redis

from testing.market import Market
from testing.servers import Servers
from testing.waiting import until

pytestmark = pytest.mark.server

EVENTS = 300


def lengths(market: Market) -> tuple[int, int]:
    """The number of events and of log entries."""
    return market.redis.xlen(market.key("events")), market.redis.xlen(market.key("orders"))


def test_a_lower_retention_frees_memory_after_a_restart_without_any_order(pair: Servers, pair_client: Redis) -> None:
    market = Market(pair_client)
    market.trade(events=EVENTS)
    first = pair.service("archiver")
    try:
        until(lambda: pair.archived() == {"pikachu": 4 * EVENTS}, "archiving")
    finally:
        assert first.stop() == 0
    assert lengths(market) == (EVENTS, EVENTS)

    lowered = pair.service("archiver", event_retention=40, log_retention=20)
    try:
        until(lambda: lengths(market) == (10, 5), "trimming")
    finally:
        assert lowered.stop() == 0


def test_fewer_commands_than_a_transaction_trims_for_are_trimmed_in_time(pair: Servers, pair_client: Redis) -> None:
    market = Market(pair_client)
    archiver = pair.service("archiver", event_retention=1, log_retention=0)
    try:
        until(lambda: " archiving " in archiver.output(), "start")
        market.trade(events=5)
        until(lambda: lengths(market) == (1, 1), "trimming")
    finally:
        assert archiver.stop() == 0
    assert pair.archived() == {"pikachu": 20}
