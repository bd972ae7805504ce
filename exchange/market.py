"""Market data over archive and live tail: candles, and the prices of the last 24 hours."""

import asyncio
import time
from collections.abc import Mapping, Sequence
from datetime import datetime

import msgspec

from archiver.queries import Archive, CandleRows, DayRow
from core.candles import (
    CANDLE_SECONDS,
    Candle,
    Window,
    filled,
    first_start,
    grouped,
    is_in_last_day,
    joined,
    start_of,
)
from core.errors import InvalidRequest, Unavailable, UnknownCard, Violation
from core.rules import printable
from engine.book_reader import BookReader, Depth
from exchange.live_tail import LiveTail, TailMoved
from exchange.order_reader import read_timeout

CANDLES_MAX = 1_000
"""Candles of a page, at most."""

FILLS = ("none", "previous")
TRIES_MAX = 5
TIME_RULE = "must be a time with a time zone, like 2026-11-22T23:53:06.123Z"
EARLIEST, LATEST_TIME = 0, 253_402_300_800
"""The times that candles may have: from 1970 up to the year 9999."""


class CandleQuery(msgspec.Struct, frozen=True, kw_only=True):
    """The candles that a caller asks for; the texts are not checked yet.

    `start` and `end` bound the starts of candles: `[start, end)`. Without `start` the latest ones are given. `fill` is
    `none`, or `previous`: an interval without a trade then has a candle of the previous close without volume.
    """

    interval: str
    start: str | None = None
    end: str | None = None
    fill: str = "none"
    limit: int = CANDLES_MAX


class CandlePage(msgspec.Struct, frozen=True):
    """Candles, oldest first. `seconds`: their interval. `following`: the start of the next one in the range, or None.

    A candle is closed if `now` is behind its end.
    """

    candles: list[Candle]
    seconds: int
    following: int | None
    now: float


class Ticker(msgspec.Struct, frozen=True):
    """The best prices of a card, its last price, and its trades in the last 24 hours, to the minute.

    `is_complete`: whether the trades of the day are known. Without the archive they are not.
    """

    card: str
    depth: Depth
    last_cents: int | None
    day: Candle | None
    is_complete: bool
    now: float


class Market:
    """The candles and tickers of all cards."""

    def __init__(self, cards: Sequence[str], books: BookReader, archive: Archive) -> None:
        self._cards = tuple(cards)
        self._books = books
        self._archive = archive
        self._tails = {card: LiveTail(card, books) for card in cards}

    async def candles(self, card: str, query: CandleQuery) -> CandlePage:
        """Reads candles of a card.

        Raises:
            UnknownCard: the card is not traded.
            InvalidRequest: the query is wrong; the error names every wrong part.
            Unavailable: Redis or PostgreSQL does not answer, or the archive is too far behind.
        """
        self._check_traded(card)
        seconds, since, until = _checked(query)
        now = time.time()
        async with read_timeout():
            for _ in range(TRIES_MAX):
                try:
                    return await self._candles(card, query, seconds, (since, until), now)
                except TailMoved:
                    continue
        raise Unavailable(f"The archive of {card} moves on too fast to be read")

    async def _candles(
        self, card: str, query: CandleQuery, seconds: int, bounds: tuple[int | None, int | None], now: float
    ) -> CandlePage:
        since, until = bounds
        fills = query.fill == "previous"
        last_start = start_of(int(now), seconds)
        if since is None and fills:
            since = min(last_start + seconds, until or last_start + seconds) - query.limit * seconds
        window = Window(EARLIEST if since is None else since, LATEST_TIME if until is None else until)
        read = await self._archive.candles(card, seconds, window, limit=query.limit + 1, newest=since is None)
        recent = grouped(await self._tails[card].after(read.sequence), seconds)
        before, found = _merged(read, recent, window, seconds)
        if since is None:
            return CandlePage(found[-query.limit :], seconds, None, now)
        if fills:
            last_start = max(last_start, found[-1].start if found else 0)
            window = _filled_window(window, last_start + seconds, found, before)
            page = Window(window.since, min(window.until, window.since + query.limit * seconds))
            whole = filled([candle for candle in found if candle.start < page.until], page, seconds, before)
            return CandlePage(whole, seconds, page.until if page.until < window.until else None, now)
        following = found[query.limit].start if len(found) > query.limit else None
        return CandlePage(found[: query.limit], seconds, following, now)

    async def tickers(self, cards: Sequence[str]) -> list[Ticker]:
        """Reads the tickers of cards. Without the archive they say that they are not complete.

        Raises:
            UnknownCard: a card is not traded.
            Unavailable: Redis does not answer.
        """
        for card in cards:
            self._check_traded(card)
        now = time.time()
        async with read_timeout():
            days, depths, trades = await asyncio.gather(
                self._days(cards, now),
                asyncio.gather(*(self._books.depth(card, 1) for card in cards)),
                asyncio.gather(*(self._books.latest_trades(card, 1) for card in cards)),
            )
        return [
            Ticker(card, depth, latest[0].price_cents if latest else None, days.get(card), card in days, now)
            for card, depth, latest in zip(cards, depths, trades, strict=True)
        ]

    async def _days(self, cards: Sequence[str], now: float) -> Mapping[str, Candle | None]:
        """The trades of the last 24 hours of those cards of which they are known."""
        found: dict[str, Candle | None] = {}
        left = list(cards)
        for _ in range(TRIES_MAX):
            try:
                rows = await self._archive.days(left, now)
                days = await asyncio.gather(*(self._day(card, rows[card], now) for card in left))
            except Unavailable:
                return found
            found |= {card: day for card, day in zip(left, days, strict=True) if not isinstance(day, TailMoved)}
            left = [card for card in left if card not in found]
            if not left:
                break
        return found

    async def _day(self, card: str, row: DayRow, now: float) -> Candle | TailMoved | None:
        try:
            recent = await self._tails[card].after(row.sequence)
        except TailMoved as moved:
            return moved
        archived = [row.day] if row.day else []
        return joined([*archived, *(minute for minute in recent if is_in_last_day(minute, now))])

    def _check_traded(self, card: str) -> None:
        if card not in self._cards:
            raise UnknownCard(card, self._cards)


def _merged(
    read: CandleRows, recent: Sequence[Candle], window: Window, seconds: int
) -> tuple[Candle | None, list[Candle]]:
    """The last candle before a window, and the candles of the window, of archive and live tail together."""
    parts = [*([read.before] if read.before else []), *read.candles, *recent]
    whole = grouped(parts, seconds)
    found = [candle for candle in whole if window.since <= candle.start < window.until]
    earlier = [candle for candle in whole if candle.start < window.since]
    return earlier[-1] if earlier else None, found


def _filled_window(window: Window, end: int, found: Sequence[Candle], before: Candle | None) -> Window:
    """The part of a window that filled candles cover: from the first trade on, up to the present."""
    since = window.since
    if before is None:
        since = found[0].start if found else window.until
    return Window(since, max(since, min(window.until, end)))


def _checked(query: CandleQuery) -> tuple[int, int | None, int | None]:
    """The seconds of the interval, and the bounds of starts as starts of candles.

    Raises:
        InvalidRequest: a part of the query is wrong.
    """
    errors = []
    if query.interval not in CANDLE_SECONDS:
        rule = "must be one of " + ", ".join(CANDLE_SECONDS)
        errors.append(Violation("interval", "invalid_interval", rule, printable(query.interval)))
    if query.fill not in FILLS:
        errors.append(Violation("fill", "invalid_fill", "must be one of " + ", ".join(FILLS), printable(query.fill)))
    if not 1 <= query.limit <= CANDLES_MAX:
        rule = f"must be a whole number from 1 to {CANDLES_MAX}"
        errors.append(Violation("limit", "invalid_limit", rule, str(query.limit)))
    moments = {name: parse_time(name, text, errors) for name, text in (("start", query.start), ("end", query.end))}
    if errors:
        raise InvalidRequest(errors)
    seconds = CANDLE_SECONDS[query.interval]
    since, until = [None if moment is None else first_start(moment.timestamp(), seconds) for moment in moments.values()]
    return seconds, since, until


def parse_time(field: str, text: str | None, errors: list[Violation]) -> datetime | None:
    """Reads a time of a request. A wrong one is added to `errors`, and gives None."""
    if text is None:
        return None
    try:
        moment = datetime.fromisoformat(text) if "T" in text.upper() else None
        if moment is not None and moment.tzinfo is not None and EARLIEST <= moment.timestamp() < LATEST_TIME:
            return moment
    except (ValueError, OverflowError):
        pass
    errors.append(Violation(field, f"invalid_{field}", TIME_RULE, printable(text)))
    return None
