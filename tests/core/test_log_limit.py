"""What lasting failures write into the log: a line a second that says how many there were."""

import asyncio
import time
from collections.abc import Iterator
from typing import Any

import pytest
import structlog
from structlog.testing import capture_logs

from core.log_limit import RateLimitedLog
from testing.exchange import ExchangeServer, exchange_server
from testing.faults import without_redis
from testing.waiting import until

LASTS_SECONDS = 3.0


class Clock:
    """A clock that a test sets."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


def limited(clock: Clock) -> RateLimitedLog:
    return RateLimitedLog(structlog.get_logger(), clock=clock)


def test_the_first_line_is_written_at_once_and_as_it_is() -> None:
    with capture_logs() as lines:
        limited(Clock()).warning("failed", card="pikachu")

    assert lines == [{"event": "failed", "card": "pikachu", "log_level": "warning"}]


def test_the_next_one_after_a_second_says_how_many_it_stands_for() -> None:
    clock = Clock()
    log = limited(clock)
    with capture_logs() as lines:
        for number in range(9):
            log.warning("failed", number=number)
            clock.now += 0.125

    assert [(line["number"], line.get("times")) for line in lines] == [(0, None), (8, 8)]


def test_lines_of_other_events_are_not_held_back() -> None:
    log = limited(Clock())
    with capture_logs() as lines:
        for event in ("one", "two", "one", "three"):
            log.warning(event)

    assert [line["event"] for line in lines] == ["one", "two", "three"]


def test_none_is_lost_where_the_failures_end_within_the_second() -> None:
    async def scenario() -> list[Any]:
        log = RateLimitedLog(structlog.get_logger(), seconds=0.05)
        with capture_logs() as lines:
            for number in range(5):
                log.warning("failed", number=number)
            await asyncio.sleep(0.2)  # nobody tells when its timer is over
            log.warning("failed", number=5)
        return [*lines]

    lines = asyncio.run(scenario())

    assert [(line["number"], line.get("times")) for line in lines] == [(0, None), (4, 4), (5, None)]


def test_a_timer_of_a_loop_that_has_ended_holds_nothing_back() -> None:
    clock = Clock()
    log = limited(clock)

    async def twice() -> None:
        log.warning("failed")
        log.warning("failed")

    with capture_logs() as lines:
        asyncio.run(twice())
        clock.now += 2
        asyncio.run(twice())

    assert [line.get("times") for line in lines] == [None, 2]


# -- real failures


@pytest.fixture(scope="module")
def exchange() -> Iterator[ExchangeServer]:
    """An exchange whose Redis the tests take away, or its memory."""
    with exchange_server() as server:
        yield server


def lines_of(exchange: ExchangeServer, name: str, event: str) -> list[str]:
    return [line for line in exchange.log_of(name).splitlines() if event in line]


@pytest.mark.server
def test_the_engine_writes_few_lines_while_a_card_cannot_be_matched(exchange: ExchangeServer) -> None:
    event = "matching will be tried again"
    exchange.redis.set("{pikachu}:open", "in the way")
    placed = exchange.client(1).post("/orders", json={"card": "pikachu", "side": "buy", "price": "1.00"})
    assert placed.status_code == 202
    until(lambda: lines_of(exchange, "engine", event), why="the card is matched")
    time.sleep(LASTS_SECONDS)  # for so long nothing may happen
    told = len(lines_of(exchange, "engine", event))
    exchange.redis.delete("{pikachu}:open")

    assert 1 <= told <= LASTS_SECONDS + 2
    until(lambda: exchange.redis.hlen("{pikachu}:open") == 1, why="it is not matched afterwards")


@pytest.mark.server
def test_the_api_writes_a_line_a_second_for_orders_that_cannot_be_appended(exchange: ExchangeServer) -> None:
    trader, refused = exchange.client(2), 0
    with without_redis(exchange):
        ends_at = time.monotonic() + LASTS_SECONDS
        while time.monotonic() < ends_at:
            answer = trader.post("/orders", json={"card": "pikachu", "side": "buy", "price": "1.00"})
            assert answer.status_code == 503
            refused += 1

    def counted() -> int:
        words = [line.split("times=") for line in lines_of(exchange, "api", "an append failed")]
        return sum(int(word[1].split()[0]) if len(word) == 2 else 1 for word in words)

    until(lambda: counted() == refused, seconds=5, why="the lines do not say how many there were")
    assert refused > 20
    assert len(lines_of(exchange, "api", "an append failed")) <= LASTS_SECONDS + 2


@pytest.mark.server
def test_the_archiver_waits_ever_longer_while_redis_is_away(exchange: ExchangeServer) -> None:
    begun = len(lines_of(exchange, "archiver", "waiting to be the one"))
    with without_redis(exchange):
        until(lambda: lines_of(exchange, "archiver", "will be tried again"), why="it does not notice")
        time.sleep(LASTS_SECONDS)  # for so long it is to be patient
        rounds = len(lines_of(exchange, "archiver", "waiting to be the one")) - begun
        tries = len(lines_of(exchange, "archiver", "will be tried again"))

    assert rounds <= 8
    assert 2 <= tries <= 8
    exchange.archived()
