"""Candles: open, high, low and close price, volume and number of the trades of a card within one interval.

A candle holds the trades of the half-open interval `[start, start + seconds)`. Starts are multiples of the interval
since 1970-01-01 UTC. An interval without a trade has no candle, unless it is filled.
"""

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import NamedTuple

import msgspec

MINUTE = 60
DAY_SECONDS = 86_400
CANDLE_SECONDS: Mapping[str, int] = {"1m": MINUTE, "5m": 300, "1h": 3_600, "1d": DAY_SECONDS}
"""The intervals by name. Each one is a multiple of those before it."""


class Candle(msgspec.Struct):
    """The trades of a card in one interval. `start`: seconds since 1970; prices in cents."""

    start: int
    open: int
    high: int
    low: int
    close: int
    volume: int
    trades: int

    def add(self, price_cents: int, quantity: int) -> None:
        """Adds a trade that is later than all others of the candle."""
        self.high = max(self.high, price_cents)
        self.low = min(self.low, price_cents)
        self.close = price_cents
        self.volume += quantity
        self.trades += 1


class Window(NamedTuple):
    """The starts of the candles that are asked for: those within `[since, until)`, in seconds since 1970."""

    since: int
    until: int


def first(start: int, price_cents: int, quantity: int) -> Candle:
    """A candle of one trade."""
    return Candle(start, price_cents, price_cents, price_cents, price_cents, quantity, 1)


def start_of(seconds_since_1970: int, interval: int) -> int:
    """The start of the candle that a moment belongs to."""
    return seconds_since_1970 - seconds_since_1970 % interval


def first_start(seconds_since_1970: float, interval: int) -> int:
    """The first start of a candle at or after a moment."""
    return int(-(-seconds_since_1970 // interval)) * interval


def joined(candles: Sequence[Candle]) -> Candle | None:
    """One candle over candles in the order of time. None without any."""
    if not candles:
        return None
    return Candle(
        candles[0].start,
        candles[0].open,
        max(candle.high for candle in candles),
        min(candle.low for candle in candles),
        candles[-1].close,
        sum(candle.volume for candle in candles),
        sum(candle.trades for candle in candles),
    )


def grouped(candles: Iterable[Candle], interval: int) -> list[Candle]:
    """The candles of an interval, from parts of them in the order of their trades."""
    parts: dict[int, list[Candle]] = {}
    for candle in candles:
        parts.setdefault(start_of(candle.start, interval), []).append(candle)
    found = []
    for start, group in parts.items():
        whole = joined(group)
        if whole is not None:
            whole.start = start
            found.append(whole)
    return found


def filled(candles: Sequence[Candle], window: Window, interval: int, before: Candle | None) -> list[Candle]:
    """The candles of a window, and candles of the previous close and no volume for intervals without a trade.

    `before` is the last candle before the window. Without one, the first candle with trades is the first of all.
    """
    by_start = {candle.start: candle for candle in candles}
    start, close = (window.since, before.close) if before else (min(by_start, default=window.until), 0)
    found = []
    for at in range(start, window.until, interval):
        candle = by_start.get(at)
        if candle is None:
            candle = Candle(at, close, close, close, close, 0, 0)
        close = candle.close
        found.append(candle)
    return found


def is_in_last_day(minute: Candle, now: float) -> bool:
    """Whether a candle of a minute belongs to the 24 hours before `now`, which are kept to the minute."""
    return minute.start + MINUTE > now - DAY_SECONDS


def time_text(seconds: float) -> str:
    """Seconds since 1970 as RFC 3339, in UTC and milliseconds."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
