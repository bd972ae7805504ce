"""Prices of the last 24 hours, and candles: from the archive at the start, then from each match call.

They are kept to the minute, for two days. While the archive cannot be read, messages say so instead of giving values
that lack trades.
"""

import asyncio
import time
from collections.abc import Iterable, Mapping, MutableMapping, Sequence
from datetime import datetime
from itertools import islice

import msgspec
import structlog

from archiver.queries import Archive
from core.candles import (
    CANDLE_SECONDS,
    DAY_SECONDS,
    MINUTE,
    Candle,
    Window,
    first,
    grouped,
    is_in_last_day,
    joined,
    start_of,
    time_text,
)
from core.log_limit import RateLimitedLog
from core.model import price_text
from core.service import cancel_and_wait
from engine.book_reader import BookReader
from streams.book import now as now_text
from streams.channels import Channel
from streams.feed import Feed, Kind
from streams.messages import Message
from streams.ring import MatchCall

log = structlog.get_logger()
rate_limited_log = RateLimitedLog(log)

KEPT_SECONDS = 2 * DAY_SECONDS
REFRESH_SECONDS = 1.0
RETRY_SECONDS = 2.0
ALWAYS = 2**62
"""Later than every candle."""
CANDLES_TOLD = 2
"""A new subscriber gets the latest candles with trades, so many; later ones as they change."""

Told = MutableMapping[Channel, dict[int, bytes]]
"""What a stream was told last: by channel, and for candles by their start."""


class Tape:
    """The minutes of one card that have trades."""

    def __init__(self, feed: Feed, archive: Archive, books: BookReader) -> None:
        self.is_loaded = False
        self._feed = feed
        self._archive = archive
        self._books = books
        self._minutes: dict[int, Candle] = {}  # in the order of time
        self._last_number = 0
        self._last_price: int | None = None
        self._sequence = 0
        self._loading: asyncio.Task[None] | None = None
        self._at = ("", 0)
        self._refreshed_at = -REFRESH_SECONDS
        self._cache: dict[Channel, list[tuple[int, bytes, Message]]] = {}

    # -- loading

    def start(self) -> None:
        """Loads what the archive has, unless that is done or under way."""
        if not self.is_loaded and self._loading is None:
            self._loading = asyncio.create_task(self._load(), name=f"statistics of {self._feed.card}")

    async def stop(self) -> None:
        """Stops loading."""
        if self._loading is not None:
            await cancel_and_wait(self._loading)
            self._loading = None

    async def _load(self) -> None:
        while self._feed.is_used and not self.is_loaded:
            try:
                await self._load_once()
            except Exception as error:  # noqa: BLE001 - the top of a task, which must not end before it is loaded
                rate_limited_log.warning("prices of a day are not known yet", card=self._feed.card, reason=str(error))
            if not self.is_loaded:
                await asyncio.sleep(RETRY_SECONDS)
        self._loading = None

    async def _load_once(self) -> None:
        card = self._feed.card
        await self._feed.ready()
        latest = await self._books.latest_trades(card, 1)
        self._last_price = latest[0].price_cents if latest else None
        window = Window(int(time.time()) - KEPT_SECONDS, ALWAYS)
        archived = await self._archive.candles(card, MINUTE, window)
        await self._feed.backfill(archived.sequence)
        if self._feed.ring.floor > archived.sequence:
            return  # the archive is too far behind
        self._minutes = {minute.start: minute for minute in archived.candles}
        self._last_number = archived.number
        self.is_loaded = True
        for call in self._feed.ring.after(archived.sequence):
            self.take(call)
        if self.is_loaded:
            self._feed.listeners.append(self)

    # -- match calls

    def take(self, call: MatchCall) -> None:
        """Adds the trades of a match call."""
        self._sequence = call.last
        for line in call.trade_lines.splitlines():
            number_text, _, _, _, _, price_text_, quantity_text, _, at = line.decode().split(",")
            number = int(number_text)
            if number <= self._last_number:
                continue
            if number != self._last_number + 1:
                self.lose()
                return
            self._last_number = number
            self._add(self._minute_of(at), int(price_text_), int(quantity_text))

    def lose(self) -> None:
        """Forgets everything, since match calls are missing."""
        self.is_loaded = False
        self._minutes = {}
        if self in self._feed.listeners:
            self._feed.listeners.remove(self)

    def _add(self, start: int, price: int, quantity: int) -> None:
        self._last_price = price
        minute = self._minutes.get(start)
        if minute is None:
            self._minutes[start] = first(start, price, quantity)
            self._drop_old(start - KEPT_SECONDS)
            return
        minute.add(price, quantity)

    def _drop_old(self, before: int) -> None:
        while (oldest := next(iter(self._minutes))) < before:
            del self._minutes[oldest]

    def _minute_of(self, at: str) -> int:
        if at != self._at[0]:
            seconds = int(datetime.fromisoformat(at).timestamp())
            self._at = (at, start_of(seconds, MINUTE))
        return self._at[1]

    # -- messages

    def messages(self, channel: Channel, now: float) -> list[tuple[int, bytes, Message]]:
        """What a subscriber of a channel has to know, refreshed once a second: the start of the candle (0 of a ticker),
        the values, and the message with them."""
        if now - self._refreshed_at >= REFRESH_SECONDS:
            self._refreshed_at = now
            self._cache.clear()
        found = self._cache.get(channel)
        if found is None:
            made = [self._ticker()] if channel.kind is Kind.TICKER else self._candles(channel.interval)
            found = self._cache[channel] = [(start, *_message(channel.kind, values)) for start, values in made]
        return found

    def _ticker(self) -> tuple[int, dict[str, object]]:
        now = time.time()
        day = joined([minute for minute in self._minutes.values() if is_in_last_day(minute, now)])
        book = self._feed.book
        bids, asks = (book.bids.best, book.asks.best) if book.is_live else (None, None)
        is_complete = self.is_loaded
        return 0, {
            "channel": "ticker",
            "card": self._feed.card,
            "type": "ticker",
            "sequence": max(self._sequence, book.sequence),
            "last": _price(self._last_price),
            "bid": bids and [price_text(bids[0]), bids[1]],
            "ask": asks and [price_text(asks[0]), asks[1]],
            "open": _price(day.open if day and is_complete else None),
            "high": _price(day.high if day and is_complete else None),
            "low": _price(day.low if day and is_complete else None),
            "volume": (day.volume if day else 0) if is_complete else None,
            "complete": is_complete,
        }

    def _candles(self, interval: str) -> list[tuple[int, dict[str, object]]]:
        seconds = CANDLE_SECONDS[interval]
        common = {"channel": "candles", "card": self._feed.card, "interval": interval}
        if not self.is_loaded:
            detail = "the archive cannot be read, or is far behind: candles come when it can"
            return [(0, {**common, "type": "unavailable", "detail": detail})]
        latest = list(islice(reversed(self._minutes.values()), CANDLES_TOLD * seconds // MINUTE))
        found = grouped(reversed(latest), seconds)[-CANDLES_TOLD:]
        return [(candle.start, {**common, "type": "candle", **_values(candle, seconds)}) for candle in found]


class Statistics:
    """The statistics of all cards. They are kept while somebody follows them."""

    def __init__(self, cards: Sequence[str], feeds: Mapping[str, Feed], archive: Archive, books: BookReader) -> None:
        self._tapes = {card: Tape(feeds[card], archive, books) for card in cards}

    def messages(self, told: Told, channels: Iterable[Channel], now: float) -> list[Message]:
        """What a subscriber of these channels has not been told yet, at most one message a second and value."""
        found = []
        for channel in channels:
            if channel.kind not in (Kind.TICKER, Kind.CANDLES):
                continue
            cards = [channel.card] if channel.card else list(self._tapes)
            for card in cards:
                one = channel._replace(card=card)
                before = told.get(one, {})
                known: dict[int, bytes] = {}
                self._tapes[card].start()
                for start, values, message in self._tapes[card].messages(one, now):
                    known[start] = values
                    if before.get(start) != values:
                        found.append(message)
                told[one] = known
        return found

    async def stop(self) -> None:
        """Stops loading."""
        for tape in self._tapes.values():
            await tape.stop()


def _values(candle: Candle, seconds: int) -> dict[str, object]:
    return {
        "start": time_text(candle.start),
        "open": price_text(candle.open),
        "high": price_text(candle.high),
        "low": price_text(candle.low),
        "close": price_text(candle.close),
        "volume": candle.volume,
        "trades": candle.trades,
        "closed": time.time() >= candle.start + seconds,
    }


def _message(kind: Kind, values: Mapping[str, object]) -> tuple[bytes, Message]:
    told = {key: value for key, value in values.items() if key != "sequence"}
    return msgspec.json.encode(told), Message(kind.value.encode(), msgspec.json.encode({**values, "at": now_text()}))


def _price(cents: int | None) -> str | None:
    return None if cents is None else price_text(cents)
