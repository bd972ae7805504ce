"""The fields of bodies and answers, described once for the OpenAPI document.

A description costs nothing when a struct is encoded or decoded. `format` names a schema of `api/openapi/document.py`,
which has the cards, bounds and examples of the running exchange. The structs have no bounds: `core/rules.py` names the
broken rule, and a decoder with bounds would not.
"""

from collections.abc import Mapping
from enum import StrEnum
from typing import Annotated, Any

from msgspec import Meta

from core.model import Reason, Side, Status, TimeInForce

STATUSES: Mapping[Status, str] = {
    Status.ACCEPTED: "durable in the log, not matched yet",
    Status.OPEN: "rests in the book, nothing of it is filled",
    Status.PARTIALLY_FILLED: "rests in the book, a part of it is filled",
    Status.FILLED: "completed: all of it is filled",
    Status.CANCELED: (
        "completed: what was not filled was canceled, by its trader, by a replace, or on meeting its trader's own order"
    ),
    Status.EXPIRED: "completed: what was not filled at once expired, by its time in force or because it is post-only",
}
REASONS: Mapping[Reason, str] = {
    Reason.WOULD_CROSS: "it is post-only and would have traded at once; it expired",
    Reason.REPLACED: "a replace took its place; `replaced_by` names the order that goes on",
    Reason.ALREADY_FILLED: "a replace asked for no more in total than was filled already",
    Reason.ORDER_COMPLETED: "it is a replace, and the order that it names was completed before it",
}
TIMES_IN_FORCE: Mapping[TimeInForce, str] = {
    TimeInForce.GTC: "good till canceled: what is not filled at once rests in the book",
    TimeInForce.IOC: "immediate or cancel: what is not filled at once expires",
    TimeInForce.FOK: "fill or kill: filled at once and whole, or not at all",
}
SIDES: Mapping[Side, str] = {Side.BUY: "bids for the card", Side.SELL: "asks for the card"}


def markdown_list(words: Mapping[Any, str]) -> str:
    """Formats words and their meanings as a list in Markdown."""
    return "\n".join(f"- `{word}`: {meaning}" for word, meaning in words.items())


def field_meta(description: str, *examples: Any, name: str | None = None, **schema: Any) -> Meta:
    """Describes a field. `name` is its format; `schema` goes into its schema unchanged."""
    extra = schema | ({"format": name} if name else {})
    return Meta(description=description, examples=[*examples] or None, extra_json_schema=extra or None)


def enum_meta(description: str, words: type[StrEnum]) -> Meta:
    """Describes a field whose text is a value of an enum; the schema of the enum has the enum's name."""
    return Meta(description=description, extra_json_schema={"format": words.__name__})


OrderId = Annotated[
    str, field_meta("The exchange's id of the order: its card and its place in the card's log.", name="order_id")
]
TradeId = Annotated[str, field_meta("The exchange's id of the trade: its card and its number.", name="trade_id")]
ClientOrderId = Annotated[
    str | None, field_meta("The trader's own id of the order; null if it has none.", name="client_order_id")
]
CardName = Annotated[str, field_meta("The card.", name="card_name")]
PriceText = Annotated[str, field_meta("Dollars with two decimals.", name="price")]
BidPrice = Annotated[str, field_meta("The price, in dollars with two decimals.", name="bid_price")]
AskPrice = Annotated[str, field_meta("The price, in dollars with two decimals.", name="ask_price")]
OrderSide = Annotated[str, enum_meta("The side of the order.", Side)]
OrderStatus = Annotated[str, enum_meta("Where the order is in its life.", Status)]
OrderTimeInForce = Annotated[str, enum_meta("How long the order waits.", TimeInForce)]
Quantity = Annotated[int, field_meta("How many of the card.", 1, minimum=1)]
FilledQuantity = Annotated[int, field_meta("How many of them are filled.", 0, minimum=0)]
OrderReason = Annotated[
    str | None,
    field_meta(
        f"Why the order was completed; null where its status says it:\n\n{markdown_list(REASONS)}",
        None,
        enum=[*REASONS, None],
    ),
]
Time = Annotated[str, field_meta("RFC 3339 in UTC, to the millisecond.", name="date-time")]
