"""Orders, trades and commands. Money is an integer of cents; a time is an RFC 3339 text."""

from collections.abc import Sequence
from enum import StrEnum
from functools import lru_cache

import msgspec

COMMANDS_MAX = 1_000
"""The largest number of commands in one append, one log entry and one batch request."""

LATEST = 50
"""Redis keeps at least this many of the latest orders of a trader, and the latest trades of a card."""

SEQUENCE_MAX = 999_999_999_999
"""The largest sequence: sequences are stored in 12 digits."""

SEQUENCE_PATTERN = r"[1-9][0-9]{0,11}"
"""A sequence within an order_id."""

API_KEY_GRACE_SECONDS_MAX = 7 * 86_400
"""How long a rotated API key may stay valid."""

TRADER_ID_MAX = 2_147_483_647
"""The largest `integer` of PostgreSQL."""

QUANTITY_MAX = 2_147_483_647
"""The largest `integer` of PostgreSQL. Settings bound new orders lower."""

PRICE_CENTS_MAX = 1_000_000
"""The highest price that settings allow."""

CLIENT_ORDER_ID_SECONDS = 2 * 86_400
"""A client_order_id is remembered for the day of its order and the next day."""

CANCEL_AFTER_SECONDS_MAX = 86_400
"""The longest time after which a switch or a lease cancels a trader's orders."""

CLIENT_ORDER_ID_PATTERN = r"(?!\.+$)[A-Za-z0-9._:-]{1,64}"
CLIENT_ORDER_ID_RULE = "must be 1 to 64 letters, digits or . _ : -, and not dots alone"
"""The ids `.` and `..` are forbidden: HTTP clients remove such segments from a path before they send it."""


class Side(StrEnum):
    """The side of an order. The sides of a book are called bids and asks."""

    BUY = "buy"
    SELL = "sell"


class TimeInForce(StrEnum):
    """The lifetime of an order: gtc rests in the book, ioc never rests, fok is filled completely at once or expires."""

    GTC = "gtc"
    IOC = "ioc"
    FOK = "fok"


class Status(StrEnum):
    """The status of an order. The last three are final, and orders with them move to the archive."""

    ACCEPTED = "accepted"
    OPEN = "open"
    PARTIALLY_FILLED = "partially_filled"
    FILLED = "filled"
    CANCELED = "canceled"
    EXPIRED = "expired"


COMPLETED = frozenset({Status.FILLED, Status.CANCELED, Status.EXPIRED})


class PlaceOrder(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """The command to place an order. All values have been checked against the rules."""

    trader_id: int
    card: str
    side: Side
    price_cents: int
    quantity: int = 1
    time_in_force: TimeInForce = TimeInForce.GTC
    client_order_id: str | None = None
    post_only: bool = False


class ReplaceOrder(PlaceOrder, frozen=True, kw_only=True, gc=False):
    """The command to replace an order of this trader: it has the side of that order, and is gtc.

    `replaces` is the sequence of the order. `quantity` is the new total, which counts what is filled. With
    `keeps_quantity` the total stays what the order has when the command is matched; `quantity` is what it had before.
    """

    replaces: int
    keeps_quantity: bool = False


class Change(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """What a replace asks for. What is None stays as the order has it."""

    price_cents: int | None = None
    quantity: int | None = None
    post_only: bool | None = None
    client_order_id: str | None = None


class CancelOrder(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """The command to cancel an order of this trader.

    Sequence 0 cancels all open orders of the trader on the card. Only logs of earlier versions have it, since
    `OrderLog.cancel_all` appends a cancel for each order.
    """

    trader_id: int
    card: str
    sequence: int


Command = PlaceOrder | CancelOrder


class Reason(StrEnum):
    """Why an order was completed, where its status does not say it."""

    WOULD_CROSS = "would_cross"
    REPLACED = "replaced"
    ALREADY_FILLED = "already_filled"
    ORDER_COMPLETED = "order_completed"


class Accepted(msgspec.Struct, frozen=True, gc=False):
    """A command's place in its card's log, and the time of the append.

    `accepted_at` is None if the command repeats a client_order_id. The sequence is then that of the first order.
    """

    sequence: int
    accepted_at: str | None


class Order(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """The current state of an order. `sequence` is its place in the log of its card.

    `replaces`, `replaced_by`: the sequences of the orders before and after it in a chain of replaces.
    `carried_quantity`: the part of `filled_quantity` that orders before it in the chain have filled.
    """

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
    post_only: bool = False
    replaces: int | None = None
    carried_quantity: int = 0
    reason: Reason | None = None
    replaced_by: int | None = None

    @property
    def order_id(self) -> str:
        """The public id: card and sequence."""
        return order_id(self.card, self.sequence)

    @property
    def traded_quantity(self) -> int:
        """What the order itself has filled, without what it carries: the sum of its fills."""
        return self.filled_quantity - self.carried_quantity


class Trade(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A trade of one maker and one taker at the price of the maker. `number` counts the trades of a card from 1."""

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
        """The public id: card, `t` and number."""
        return f"{self.card}-t{self.number}"


class Fill(msgspec.Struct, frozen=True, gc=False):
    """The effect of a trade on one of its two orders. A trader that trades with itself has two fills."""

    trade: Trade
    is_taker: bool

    @property
    def sequence(self) -> int:
        """The sequence of the filled order."""
        return self.trade.taker_sequence if self.is_taker else self.trade.maker_sequence

    @property
    def side(self) -> Side:
        """The side of the filled order."""
        taker_side = self.trade.taker_side
        if self.is_taker:
            return taker_side
        return Side.SELL if taker_side is Side.BUY else Side.BUY


def order_id(card: str, sequence: int) -> str:
    """The public id of an order, e.g. `pikachu-1001`."""
    return f"{card}-{sequence}"


def average_price_text(fills: Sequence[Fill]) -> str | None:
    """The average price of a unit in dollars, as a text with two to four decimals, e.g. `5.5067`.

    The last decimal is rounded half up. Without fills the result is None.
    """
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
    """Cents as a text in dollars, e.g. 550 as `5.50`."""
    return f"{price_cents // 100}.{price_cents % 100:02d}"
