"""The messages of streams as structs. The AsyncAPI document is made of them; tests judge every message by them."""

from typing import Annotated, Any, Literal

import msgspec

from api.openapi.fields import CardName, PriceText, Time, TradeId, field_meta
from api.views import OrderView, TradeView

Position = Annotated[int, field_meta("The last command of a card's log that this message contains.", 1042, minimum=0)]
Positions = Annotated[dict[str, int], field_meta("A position of each card.", {"pikachu": 1042})]
Level = tuple[str, int]
Levels = Annotated[
    list[Level], field_meta("Pairs of price and new total quantity; 0 removes the price.", [["5.50", 12]])
]
RequestId = Annotated[int | str | None, field_meta("The `id` of the request; null if it had none.", 7)]


class StreamLease(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The lease of a trader, perhaps of another stream of it."""

    grace_seconds: Annotated[int, field_meta("Its grace.", 5, minimum=0)]
    cancel_at: Annotated[Time, field_meta("When open orders are canceled unless it is renewed or taken over.")]


class HelloMessage(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The first message of a stream."""

    type: Literal["hello"]
    at: Time
    log: Annotated[str, field_meta("The histories that positions belong to.", "9b1c0a77d2f0e411")]
    heartbeat_seconds: Annotated[int, field_meta("How often a heartbeat comes.", 10)]
    positions: Positions
    lease: Annotated[StreamLease | None, field_meta("The lease that you have; null without one or without a token.")]


class BookSnapshot(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The whole book. It replaces whatever a client has."""

    channel: Literal["book"]
    card: CardName
    type: Literal["snapshot"]
    sequence: Position
    at: Time
    bids: Levels
    asks: Levels


class BookUpdate(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The levels that changed after `previous_sequence`."""

    channel: Literal["book"]
    card: CardName
    type: Literal["update"]
    previous_sequence: Annotated[int, field_meta("The sequence that the book must have before.", 1042, minimum=0)]
    sequence: Position
    at: Time
    bids: Levels
    asks: Levels


class TradesMessage(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """All trades of one match call."""

    channel: Literal["trades"]
    card: CardName
    type: Literal["trades"]
    sequence: Position
    trades: Annotated[list[TradeView], field_meta("The trades, oldest first.")]


class StreamFill(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The trade that filled an order."""

    trade_id: TradeId
    price: PriceText
    quantity: Annotated[int, field_meta("The quantity of the trade.", 2, minimum=1)]
    role: Literal["maker", "taker"]


class OrderMessage(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A change of an order of yours, with the order after it. Further events may come: `accepted`."""

    channel: Literal["orders"]
    card: CardName
    type: Literal["order"]
    sequence: Position
    event: Literal["open", "fill", "canceled", "expired", "replaced"]
    order: OrderView
    fill: StreamFill | None
    reason: Annotated[str | None, field_meta("Why; null where the event says it.", None)]


class OrdersSnapshot(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Your open orders on the cards of `positions`, as they were there."""

    channel: Literal["orders"]
    type: Literal["snapshot"]
    positions: Positions
    complete: Annotated[bool, field_meta("False if a card has more than 5,000: these are the newest.", True)]
    orders: Annotated[list[OrderView], field_meta("The orders, newest first within a card.")]


class TickerMessage(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Prices now and of the last 24 hours, to the minute."""

    channel: Literal["ticker"]
    card: CardName
    type: Literal["ticker"]
    sequence: Position
    last: Annotated[str | None, field_meta("The price of the last trade; null before the first.", "5.60")]
    bid: Annotated[Level | None, field_meta("The best bid and its quantity; null if there is none.", ["5.50", 12])]
    ask: Annotated[Level | None, field_meta("The best ask and its quantity; null if there is none.", ["5.60", 3])]
    open: Annotated[str | None, field_meta("The first price of the 24 hours; null if nothing was traded.", "5.40")]
    high: Annotated[str | None, field_meta("The highest price of the 24 hours.", "5.90")]
    low: Annotated[str | None, field_meta("The lowest price of the 24 hours.", "5.10")]
    volume: Annotated[int | None, field_meta("The quantity traded in the 24 hours; null if not complete.", 1200)]
    complete: Annotated[bool, field_meta("False while the archive cannot be read: values are then null.", True)]
    at: Time


class CandleMessage(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The trades of an interval `[start, start + interval)`. An interval without trades has no candle."""

    channel: Literal["candles"]
    card: CardName
    interval: Literal["1m", "5m", "1h", "1d"]
    type: Literal["candle"]
    start: Time
    open: PriceText
    high: PriceText
    low: PriceText
    close: PriceText
    volume: Annotated[int, field_meta("The quantity traded.", 12, minimum=1)]
    trades: Annotated[int, field_meta("The number of trades.", 3, minimum=1)]
    closed: Annotated[bool, field_meta("Whether the interval is over.", False)]
    at: Time


class CandlesUnavailable(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The archive cannot be read, so there are no candles yet."""

    channel: Literal["candles"]
    card: CardName
    interval: Literal["1m", "5m", "1h", "1d"]
    type: Literal["unavailable"]
    detail: Annotated[str, field_meta("What is missing.", "the archive cannot be read")]
    at: Time


class HeartbeatMessage(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The stream lives. A client that stays behind a position for 2 s has a stream that is stuck."""

    type: Literal["heartbeat"]
    at: Time
    positions: Positions
    levels: Annotated[
        dict[str, tuple[int, int]], field_meta("How many bids and asks a book has.", {"pikachu": [37, 41]})
    ]


class GapMessage(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Messages of the commands between `after` and `before` are missing. Read them over REST."""

    type: Literal["gap"]
    channel: Literal["trades", "orders"]
    card: CardName
    after: Annotated[int, field_meta("The last command before the gap.", 900, minimum=0)]
    before: Annotated[int, field_meta("The first command after the gap.", 1021, minimum=1)]


class ResetMessage(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The position of the client does not exist. The stream goes on after `position`."""

    type: Literal["reset"]
    card: CardName
    position: Position


class ErrorMessage(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Something went wrong; the stream goes on."""

    type: Literal["error"]
    id: RequestId
    code: Annotated[str, field_meta("What, for programs.", "invalid_channels")]
    detail: Annotated[str, field_meta("What, in words.", "channels must be …")]


class ByeMessage(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The last message of a stream."""

    type: Literal["bye"]
    code: Annotated[str, field_meta("Why.", "restarting")]
    detail: Annotated[str, field_meta("Why, in words.", "the server is about to stop")]
    reconnect_after_ms: Annotated[int, field_meta("When to come back.", 1800, minimum=0)]


class SubscribedMessage(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The answer to `subscribe` and `unsubscribe` of a WebSocket: its channels now."""

    type: Literal["subscribed"]
    id: RequestId
    channels: Annotated[list[str], field_meta("The channels.", ["book:pikachu"])]


class AuthenticatedMessage(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The answer to `auth` of a WebSocket."""

    type: Literal["authenticated"]
    id: RequestId
    expires_at: Time
    lease: Annotated[StreamLease | None, field_meta("The lease that you have, perhaps of an earlier stream.")]


class LeaseMessage(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The answer to `lease` of a WebSocket; without a request, this stream has lost its lease."""

    type: Literal["lease"]
    id: RequestId
    grace_seconds: Annotated[int, field_meta("The grace of this stream's lease; 0 if it has none.", 5, minimum=0)]
    cancel_on_close: Annotated[bool, field_meta("Whether a clean close cancels, too.", False)]
    ended: Annotated[
        Literal["expired", "taken_over"] | None,
        field_meta("`expired`: your open orders were canceled; `taken_over`: another stream of yours has it.", None),
    ]


class PongMessage(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The answer to `ping` of a WebSocket."""

    type: Literal["pong"]
    id: RequestId
    at: Time


MESSAGES: tuple[type[msgspec.Struct], ...] = (
    *(HelloMessage, BookSnapshot, BookUpdate, TradesMessage, OrderMessage, OrdersSnapshot, TickerMessage),
    *(CandleMessage, CandlesUnavailable, HeartbeatMessage, GapMessage, ResetMessage, ErrorMessage, ByeMessage),
    *(SubscribedMessage, AuthenticatedMessage, LeaseMessage, PongMessage),
)


def judge(message: dict[str, Any]) -> msgspec.Struct:
    """The struct that a message has. Fails for a message of none.

    Raises:
        ValueError: no struct, or more than one, fits.
    """
    found = []
    for kind in MESSAGES:
        try:
            found.append(msgspec.convert(message, kind))
        except msgspec.ValidationError:
            continue
    if len(found) != 1:
        raise ValueError(f"{len(found)} structs fit {message}")
    return found[0]
