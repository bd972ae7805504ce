"""Views of candles and tickers. The streams send the same fields (`streams/statistics.py`)."""

from collections.abc import Sequence
from typing import Annotated

import msgspec

from api.openapi.fields import AskPrice, BidPrice, CardName, PriceText, Time, field_meta
from api.views import LevelQuantity
from core.candles import CANDLE_SECONDS, Candle, time_text
from core.model import price_text
from exchange.market import CandlePage, Ticker

Volume = Annotated[int, field_meta("How many of the card were traded.", 12, minimum=0)]


class CandleView(msgspec.Struct, frozen=True):
    """The trades of a card in `[start, start + interval)`. Without a trade, `fill=previous` repeats the close."""

    start: Annotated[Time, field_meta("The start of the interval.", "2026-11-22T23:53:00.000Z")]
    open: Annotated[PriceText, field_meta("The price of its first trade.")]
    high: Annotated[PriceText, field_meta("The highest price.")]
    low: Annotated[PriceText, field_meta("The lowest price.")]
    close: Annotated[PriceText, field_meta("The price of its last trade so far.")]
    volume: Volume
    trades: Annotated[int, field_meta("The number of trades.", 3, minimum=0)]
    closed: Annotated[bool, field_meta("Whether the interval is over.", True)]


class CandlesView(msgspec.Struct, frozen=True):
    """A page of candles, oldest first."""

    card: CardName
    interval: Annotated[str, field_meta("The interval of a candle.", enum=[*CANDLE_SECONDS])]
    candles: Annotated[list[CandleView], field_meta("The candles, oldest first.")]
    next: Annotated[
        str | None, field_meta("`start` of the next page; null where the range has no further candle.", None)
    ]


class TickerView(msgspec.Struct, frozen=True):
    """The prices of a card now, and of the last 24 hours to the minute."""

    card: CardName
    sequence: Annotated[int, field_meta("The card's last command that `bid` and `ask` contain.", 1001, minimum=0)]
    last: Annotated[PriceText | None, field_meta("The price of the latest trade; null before the first.")]
    bid: Annotated[
        tuple[BidPrice, LevelQuantity] | None, field_meta("The best level that buys: price and quantity, or null.")
    ]
    ask: Annotated[
        tuple[AskPrice, LevelQuantity] | None, field_meta("The best level that sells: price and quantity, or null.")
    ]
    open: Annotated[PriceText | None, field_meta("The first price of the 24 hours; null if nothing was traded.")]
    high: Annotated[PriceText | None, field_meta("Their highest price.")]
    low: Annotated[PriceText | None, field_meta("Their lowest price.")]
    volume: Annotated[int | None, field_meta("How many were traded; null if it is not known.", 12, minimum=0)]
    complete: Annotated[
        bool, field_meta("Whether the 24 hours are known; not while the archive cannot be read or is far behind.", True)
    ]
    at: Annotated[Time, field_meta("When the ticker was read.")]


class TickersView(msgspec.Struct, frozen=True):
    """The tickers of all cards."""

    tickers: Annotated[list[TickerView], field_meta("The tickers, in the order of the setting.")]


def candles_view(card: str, interval: str, page: CandlePage) -> CandlesView:
    """Makes the view of a page of candles."""
    found = [_candle_view(candle, page) for candle in page.candles]
    return CandlesView(card, interval, found, None if page.following is None else time_text(page.following))


def _candle_view(candle: Candle, page: CandlePage) -> CandleView:
    return CandleView(
        start=time_text(candle.start),
        open=price_text(candle.open),
        high=price_text(candle.high),
        low=price_text(candle.low),
        close=price_text(candle.close),
        volume=candle.volume,
        trades=candle.trades,
        closed=page.now >= candle.start + page.seconds,
    )


def ticker_view(ticker: Ticker) -> TickerView:
    """Makes the view of a ticker."""
    day = ticker.day
    return TickerView(
        card=ticker.card,
        sequence=ticker.depth.sequence,
        last=_price(ticker.last_cents),
        bid=_level(ticker.depth.bids),
        ask=_level(ticker.depth.asks),
        open=_price(day.open if day else None),
        high=_price(day.high if day else None),
        low=_price(day.low if day else None),
        volume=(day.volume if day else 0) if ticker.is_complete else None,
        complete=ticker.is_complete,
        at=time_text(ticker.now),
    )


def _level(levels: Sequence[tuple[int, int]]) -> tuple[str, int] | None:
    return (price_text(levels[0][0]), levels[0][1]) if levels else None


def _price(cents: int | None) -> str | None:
    return None if cents is None else price_text(cents)
