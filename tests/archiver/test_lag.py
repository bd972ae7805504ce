"""How far the archive is behind, and which lines say so."""

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

import pytest
from structlog.testing import capture_logs

from archiver.lag import REPEAT_SECONDS, Lag, LagReporter, lag
from archiver.queries import START, Cursor
from engine import codec, connection
from testing.market import Market, many
from testing.servers import LoadedRedis

DAY_SECONDS = 86_400


def measured(server: LoadedRedis, archived: Mapping[str, Cursor]) -> list[Lag]:
    async def read() -> list[Lag]:
        async with connection.connect(server.url) as redis:
            return await lag(redis, archived)

    return asyncio.run(read())


def cursor_of(market: Market) -> Cursor:
    """The last event of a card."""
    event_id, fields = market.events()[-1]
    return Cursor(event_id, fields[b"log"].decode())


@pytest.mark.server
def test_nothing_lags_where_nothing_is_matched(redis_server: LoadedRedis, market: Market) -> None:
    market.append(many(1, count=3))

    assert measured(redis_server, {market.card: START}) == [Lag(market.card, 0, 0.0)]


@pytest.mark.server
def test_what_is_matched_and_not_archived_lags(redis_server: LoadedRedis, market: Market) -> None:
    market.append(many(1, count=3))
    market.match()
    archived = cursor_of(market)
    market.append(many(1, count=2))
    market.append(many(1, count=2))
    market.match()

    (behind,) = measured(redis_server, {market.card: archived})
    assert behind.commands == 4
    assert 0 <= behind.seconds < 10
    (whole,) = measured(redis_server, {market.card: START})
    assert whole.commands == 7
    assert whole.seconds >= behind.seconds
    assert measured(redis_server, {market.card: cursor_of(market)}) == [Lag(market.card, 0, 0.0)]


@pytest.mark.server
def test_the_lag_is_as_old_as_the_oldest_command_that_is_not_archived(
    redis_server: LoadedRedis, market: Market
) -> None:
    """A quiet day before it is not lag, and neither is what waits for the matcher."""
    for days in (3, 2, 1):
        backdated(market, days)
    market.append(many(1, count=1))
    market.match_once(1)
    quiet = cursor_of(market)
    market.match_once(1)

    (until_third,) = measured(redis_server, {market.card: quiet})
    assert until_third.commands == 1
    assert until_third.seconds == pytest.approx(DAY_SECONDS, abs=1)  # the third waits for the matcher

    market.match()
    (all_matched,) = measured(redis_server, {market.card: quiet})
    assert all_matched.commands == 3
    assert all_matched.seconds == pytest.approx(2 * DAY_SECONDS, abs=10)


def backdated(market: Market, days: int) -> None:
    """Appends an order as it was done some days ago."""
    seconds, _ = market.redis.time()
    sequence = market.redis.incr(market.key("sequence"))
    entry = f"{(seconds - days * DAY_SECONDS) * 1_000}-{sequence}"
    columns = codec.encode(many(1, count=1))._asdict()
    del columns["clients"], columns["targets"], columns["runs"]
    market.redis.xadd(market.key("orders"), {"entry": entry, "at": "2026-01-01T00:00:00.000Z", **columns}, id=entry)


def said(looks: Sequence[tuple[float, int, float]]) -> list[dict[str, Any]]:
    """The lines of looks at a lag: when, how many commands, how many seconds; 1,000 commands more are archived at
    each."""
    reporter = LagReporter(bound_seconds=5)
    with capture_logs() as captured:
        for number, (now, commands, seconds) in enumerate(looks):
            calm, worst = Lag("bulbasaur", 0, 0.0), Lag("pikachu", commands, seconds)
            reporter.report([calm, worst], archived=1_000 * number, now=now)
    return [dict(line) for line in captured]


def test_a_lag_within_its_bound_is_not_worth_a_line() -> None:
    assert said([(0, 0, 0.0), (1, 100, 1.0), (2, 5_000, 4.9), (3, 0, 0.0)]) == []


def test_a_lag_is_told_once_then_at_intervals_and_at_its_end() -> None:
    looks = [(0.0, 4_000, 4.0), (1.0, 9_000, 5.0)]
    looks += [(1.0 + second, 9_000 - 500 * second, 6.0) for second in range(1, 14)]
    looks += [(15.0, 100, 0.1), (16.0, 0, 0.0)]

    lines = said(looks)

    assert [line["event"] for line in lines] == ["the archive lags", "the archive lags", "the archive has caught up"]
    first, second, last = lines
    assert (first["log_level"], first["card"], first["commands"], first["seconds"]) == ("warning", "pikachu", 9_000, 5)
    assert (first["commands_per_second"], first["caught_up_in_seconds"]) == (1_000, "never at this rate")
    assert second["commands"] == 9_000 - 500 * REPEAT_SECONDS
    assert (second["commands_per_second"], second["caught_up_in_seconds"]) == (1_000, 8)
    assert (last["log_level"], last["lagged_seconds"], last["commands"]) == ("info", 14.0, 100)


def test_a_lag_that_is_there_at_the_start_is_told_at_once_without_a_rate() -> None:
    (line,) = said([(100.0, 7, 3_600.0)])

    assert line["commands"] == 7
    assert "commands_per_second" not in line


def test_a_lag_that_wavers_about_its_bound_is_one_lag() -> None:
    lines = said([(0, 10, 5.0), (1, 10, 4.0), (2, 10, 5.0), (3, 10, 2.6), (4, 10, 2.4), (5, 10, 4.0)])

    assert [line["event"] for line in lines] == ["the archive lags", "the archive has caught up"]
