"""What is traded and how it is named: no I/O, integers for money, RFC 3339 texts for times."""

from collections.abc import Sequence
from enum import StrEnum
from functools import lru_cache

import msgspec

COMMANDS_MAX = 1_000
"""Most commands of one append, one log entry and one batch request."""

LATEST = 50
"""How many orders of a trader and trades of a card are kept at hand."""

SEQUENCE_MAX = 999_999_999_999
"""12 digits, as sequences are stored."""

SEQUENCE_PATTERN = r"[1-9][0-9]{0,11}"
"""A sequence as it stands in an order_id."""

TRADER_ID_MAX = 2_147_483_647
"""The largest `integer` of PostgreSQL."""

QUANTITY_MAX = 2_147_483_647
"""The largest `integer` of PostgreSQL. Settings bound new orders lower."""

PRICE_CENTS_MAX = 1_000_000
"""The highest price that settings allow."""

CLIENT_ORDER_ID_SECONDS = 2 * 86_400
"""How long the client_order_ids of a day are kept: for that day and the next one."""

CLIENT_ORDER_ID_PATTERN = r"(?!\.+$)[A-Za-z0-9._:-]{1,64}"
CLIENT_ORDER_ID_RULE = "must be 1 to 64 letters, digits or . _ : -, and not dots alone"
"""Most clients take `.` and `..` out of a path before they send it, so an order of that name could not be asked for."""


class Side(StrEnum):
    """The side of an order; of a book one says bids and asks."""

    BUY = "buy"
    SELL = "sell"


class TimeInForce(StrEnum):
    """How long an order waits: gtc rests, ioc does not rest, fok is filled at once and whole or not at all."""

    GTC = "gtc"
    IOC = "ioc"
    FOK = "fok"


class Status(StrEnum):
    """Where an order is in its life; the last three are final, and then it is in the archive."""

    ACCEPTED = "accepted"
    OPEN = "open"
    PARTIALLY_FILLED = "partially_filled"
    FILLED = "filled"
    CANCELED = "canceled"
    EXPIRED = "expired"


COMPLETED = frozenset({Status.FILLED, Status.CANCELED, Status.EXPIRED})


class PlaceOrder(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """The command to enter an order, checked: prices and quantities are within their bounds."""

    trader_id: int
    card: str
    side: Side
    price_cents: int
    quantity: int = 1
    time_in_force: TimeInForce = TimeInForce.GTC
    client_order_id: str | None = None


class CancelOrder(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """The command to cancel an order of this trader. With sequence 0, as in logs of before, all that are open on the
    card; `OrderLog.cancel_all` appends a cancel for each."""

    trader_id: int
    card: str
    sequence: int


Command = PlaceOrder | CancelOrder


class Accepted(msgspec.Struct, frozen=True, gc=False):
    """A command's place in its card's log, and the time of the append.

    `accepted_at` is None where the command repeated a client_order_id; the sequence is then the first order's.
    """

    sequence: int
    accepted_at: str | None


class Order(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """An order as it stands. `sequence` is its place in its card's log."""

    card: str
    sequence: int
    trader_id: int
    side: Side
    price_cents: int
    quantity: int
    filled_quantity: int
    status: Status
    time_in_force: TimeInForce
    client_order_id: str | None
    accepted_at: str
    closed_at: str | None

    @property
    def order_id(self) -> str:
        """The public name: card and sequence."""
        return order_id(self.card, self.sequence)


class Trade(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One fill of one maker by one taker, at the maker's price. `number` counts a card's trades from 1."""

    card: str
    number: int
    taker_sequence: int
    maker_sequence: int
    taker_trader_id: int
    maker_trader_id: int
    price_cents: int
    quantity: int
    taker_side: Side
    executed_at: str

    @property
    def trade_id(self) -> str:
        """The public name: card, t and number."""
        return f"{self.card}-t{self.number}"


class Fill(msgspec.Struct, frozen=True, gc=False):
    """What a trade was for one of its two orders: a trader that trades with itself has two fills."""

    trade: Trade
    is_taker: bool

    @property
    def sequence(self) -> int:
        """The order that was filled."""
        return self.trade.taker_sequence if self.is_taker else self.trade.maker_sequence

    @property
    def side(self) -> Side:
        """The side of that order."""
        taker_side = self.trade.taker_side
        if self.is_taker:
            return taker_side
        return Side.SELL if taker_side is Side.BUY else Side.BUY


def order_id(card: str, sequence: int) -> str:
    """The public name of an order, e.g. `pikachu-1001`."""
    return f"{card}-{sequence}"


def average_price_text(fills: Sequence[Fill]) -> str | None:
    """What a unit cost on average, as decimal dollars with two to four decimals, e.g. `5.5067`; None without fills.
    Exact but for the last decimal, where a half is rounded up."""
    quantity = sum(fill.trade.quantity for fill in fills)
    if not quantity:
        return None
    cents = sum(fill.trade.price_cents * fill.trade.quantity for fill in fills)
    ten_thousandths = (2 * 100 * cents + quantity) // (2 * quantity)
    dollars, decimals = divmod(ten_thousandths, 10_000)
    text = f"{decimals:04d}"
    return f"{dollars}.{text[:2]}{text[2:].rstrip('0')}"


@lru_cache(maxsize=4096)
def price_text(price_cents: int) -> str:
    """Cents as decimal dollars, e.g. 550 as `5.50`."""
    return f"{price_cents // 100}.{price_cents % 100:02d}"
