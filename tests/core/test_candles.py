"""Candles of trades, without servers: against trades that are added up one by one."""

import random

import pytest

from core.candles import (
    CANDLE_SECONDS,
    MINUTE,
    Candle,
    Window,
    filled,
    first,
    first_start,
    grouped,
    joined,
    start_of,
    time_text,
)

SEED = 8_128
Deal = tuple[int, int, int]
"""Seconds since 1970, price in cents, quantity."""


def naive(trades: list[Deal], interval: int) -> list[Candle]:
    """The candles, each from the list of its trades."""
    starts = sorted({at // interval * interval for at, _, _ in trades})
    found = []
    for start in starts:
        own = [trade for trade in trades if start <= trade[0] < start + interval]
        prices = [price for _, price, _ in own]
        volume = sum(quantity for _, _, quantity in own)
        found.append(Candle(start, prices[0], max(prices), min(prices), prices[-1], volume, len(own)))
    return found


def minutes_of(trades: list[Deal]) -> list[Candle]:
    """The candles of minutes, added up as the live tail does."""
    found: list[Candle] = []
    for at, price, quantity in trades:
        if found and found[-1].start == start_of(at, MINUTE):
            found[-1].add(price, quantity)
        else:
            found.append(first(start_of(at, MINUTE), price, quantity))
    return found


def flow() -> list[Deal]:
    choose = random.Random(SEED)
    at, trades = 1_750_000_000, []
    for _ in range(2_000):
        at += choose.choice([0, 0, 0, 7, 45, 600, 5_000])
        trades.append((at, choose.randint(100, 1_000), choose.randint(1, 9)))
    return trades


@pytest.mark.parametrize("interval", CANDLE_SECONDS.values())
def test_candles_of_minutes_add_up_to_those_of_every_interval(interval: int) -> None:
    trades = flow()

    assert grouped(minutes_of(trades), interval) == naive(trades, interval)


@pytest.mark.parametrize("interval", CANDLE_SECONDS.values())
def test_candles_in_parts_add_up_wherever_they_are_cut(interval: int) -> None:
    trades = flow()
    for cut in random.Random(SEED).sample(range(len(trades)), 20):
        parts = [*grouped(minutes_of(trades[:cut]), interval), *minutes_of(trades[cut:])]
        assert grouped(parts, interval) == naive(trades, interval), (SEED, cut)


def test_an_interval_without_a_trade_repeats_the_close() -> None:
    candles = [first(60, 500, 2), first(240, 700, 1)]

    found = filled(candles, Window(0, 360), MINUTE, None)

    assert [(candle.start, candle.open, candle.close, candle.volume) for candle in found] == [
        *((60, 500, 500, 2), (120, 500, 500, 0), (180, 500, 500, 0), (240, 700, 700, 1), (300, 700, 700, 0)),
    ]
    before = first(0, 900, 1)
    assert [candle.close for candle in filled(candles, Window(60, 180), MINUTE, before)] == [500, 500]
    assert [candle.high for candle in filled([], Window(60, 180), MINUTE, before)] == [900, 900]
    assert filled([], Window(60, 180), MINUTE, None) == []


def test_an_interval_begins_with_its_first_moment_and_ends_before_the_next() -> None:
    assert [start_of(at, MINUTE) for at in (59, 60, 119, 120)] == [0, 60, 60, 120]
    assert [first_start(at, MINUTE) for at in (59.5, 60, 60.001, 120)] == [60, 60, 120, 120]
    assert time_text(1_795_391_586.123) == "2026-11-22T23:53:06.123Z"
    assert joined([]) is None
