"""What the exchange answers, as frozen structs.

Prices are `Decimal` dollars and times aware datetimes. Words such as a status are text, so a later exchange may have
words that this version does not know. Fields that this version does not know are ignored.
"""

from datetime import datetime
from decimal import Decimal
from typing import Any, Literal

import msgspec

Side = Literal["buy", "sell"]
TimeInForce = Literal["gtc", "ioc", "fok"]
Level = tuple[Decimal, int]
"""A price level: price, and the quantity that rests there."""

OPEN_STATUSES = frozenset({"accepted", "open", "partially_filled"})


class Card(msgspec.Struct, frozen=True):
    """A card with its best prices, and the bounds of its orders."""

    card: str
    best_bid: Decimal | None = None
    best_ask: Decimal | None = None
    last_price: Decimal | None = None
    price_min: Decimal | None = None
    price_max: Decimal | None = None
    tick: Decimal | None = None
    quantity_max: int | None = None


class Book(msgspec.Struct, frozen=True):
    """The price levels of a card, best first. `sequence`: the last command that they contain."""

    card: str
    sequence: int
    bids: tuple[Level, ...]
    asks: tuple[Level, ...]

    @property
    def best_bid(self) -> Level | None:
        """The highest price that somebody buys at, with its quantity."""
        return self.bids[0] if self.bids else None

    @property
    def best_ask(self) -> Level | None:
        """The lowest price that somebody sells at, with its quantity."""
        return self.asks[0] if self.asks else None


class Trade(msgspec.Struct, frozen=True):
    """A trade. No trader is named."""

    trade_id: str
    card: str
    price: Decimal
    quantity: int
    taker_side: str
    executed_at: datetime

    @property
    def number(self) -> int:
        """The place of the trade among all trades of the card; the first is 1."""
        return int(self.trade_id.rpartition("-t")[2])


class Fill(Trade, frozen=True):
    """A trade of one of your orders. `liquidity`: `maker` or `taker`."""

    order_id: str = ""
    side: str = ""
    liquidity: str = ""


class Order(msgspec.Struct, frozen=True):
    """An order as it was when the exchange answered.

    `average_price` and `trades` are known of an answer about one order alone, and not of lists.
    """

    order_id: str
    card: str
    side: str
    price: Decimal
    quantity: int
    filled_quantity: int
    status: str
    time_in_force: str
    accepted_at: datetime
    closed_at: datetime | None = None
    client_order_id: str | None = None
    average_price: Decimal | None = None
    trades: tuple[Fill, ...] = ()
    post_only: bool = False
    reason: str | None = None
    replaces: str | None = None
    replaced_by: str | None = None
    carried_quantity: int = 0

    @property
    def remaining_quantity(self) -> int:
        """The quantity that is not filled."""
        return self.quantity - self.filled_quantity

    @property
    def is_open(self) -> bool:
        """Whether the order may still be filled."""
        return self.status in OPEN_STATUSES


class NewOrder(msgspec.Struct, frozen=True, kw_only=True):
    """An order of `place_many`. The client makes a `client_order_id` where none is given."""

    card: str
    side: Side
    price: Decimal | str | int
    quantity: int = 1
    time_in_force: TimeInForce = "gtc"
    post_only: bool = False
    client_order_id: str | None = None


class Ticker(msgspec.Struct, frozen=True):
    """Prices now and of the last 24 hours. Values are None where there are none, or while `complete` is False."""

    card: str
    sequence: int
    last: Decimal | None = None
    bid: Level | None = None
    ask: Level | None = None
    open: Decimal | None = None
    high: Decimal | None = None
    low: Decimal | None = None
    volume: int | None = None
    complete: bool = True
    at: datetime | None = None


class Candle(msgspec.Struct, frozen=True):
    """The trades of an interval that begins at `start`. `closed`: the interval is over."""

    start: datetime
    open: Decimal
    high: Decimal
    low: Decimal
    close: Decimal
    volume: int
    trades: int = 0
    closed: bool = True


class Lease(msgspec.Struct, frozen=True):
    """The lease of a stream: open orders are canceled at `cancel_at` unless it is renewed."""

    grace_seconds: float
    cancel_at: datetime


class CancelAfter(msgspec.Struct, frozen=True):
    """When open orders are canceled: `seconds` is 0 and `cancel_at` None while the switch is off."""

    seconds: float
    cancel_at: datetime | None = None
    lease: Lease | None = None


class FieldError(msgspec.Struct, frozen=True):
    """A rule that a field of a request breaks."""

    field: str
    code: str
    rule: str
    value: Any = None


class Problem(msgspec.Struct, frozen=True):
    """An error answer (RFC 9457)."""

    status: int
    code: str = "unknown"
    title: str = ""
    detail: str = ""
    errors: tuple[FieldError, ...] = ()
    retry_after: float | None = None
    request_id: str = ""


class Rejected(msgspec.Struct, frozen=True):
    """An order of `place_many` that was not accepted. With `code` `unavailable` that is not certain: ask `resolve`."""

    client_order_id: str
    problem: Problem

    @property
    def code(self) -> str:
        """The stable code of the problem."""
        return self.problem.code

    @property
    def detail(self) -> str:
        """The sentence of the exchange."""
        return self.problem.detail
