"""The events of streams: the messages of the exchange as structs, and what happens to the connection."""

from collections.abc import Mapping
from datetime import datetime
from decimal import Decimal

import msgspec

from tcgx_client.models import Lease, Level, Order, Trade

Positions = Mapping[str, int]
"""The last command of each card that a client has."""


class Connected(msgspec.Struct, frozen=True):
    """A stream has begun or begun again. `resumed`: nothing of trades and orders is missing, unless a `Gap` says so."""

    resumed: bool
    log: str
    positions: dict[str, int]
    heartbeat_seconds: float = 10.0
    lease: Lease | None = None


class Disconnected(msgspec.Struct, frozen=True):
    """A stream is interrupted. It connects again by itself after `retry_seconds`."""

    code: str
    detail: str
    retry_seconds: float


class BookSnapshot(msgspec.Struct, frozen=True):
    """A whole book, which replaces any that came before."""

    card: str
    sequence: int
    bids: tuple[Level, ...]
    asks: tuple[Level, ...]
    at: datetime | None = None


class BookUpdate(msgspec.Struct, frozen=True):
    """The levels that changed after `previous_sequence`, with their new quantities; 0 removes a level."""

    card: str
    previous_sequence: int
    sequence: int
    bids: tuple[Level, ...]
    asks: tuple[Level, ...]
    at: datetime | None = None


class Trades(msgspec.Struct, frozen=True):
    """The trades of one match call."""

    card: str
    sequence: int
    trades: tuple[Trade, ...]


class StreamFill(msgspec.Struct, frozen=True):
    """The trade that filled an order. `role`: `maker` or `taker`."""

    trade_id: str
    price: Decimal
    quantity: int
    role: str


class OrderEvent(msgspec.Struct, frozen=True):
    """A change of an order of yours. `order` is the order after it."""

    card: str
    sequence: int
    event: str
    order: Order
    fill: StreamFill | None = None
    reason: str | None = None


class OrdersSnapshot(msgspec.Struct, frozen=True):
    """Your open orders on the cards of `positions`. `complete` is False where there are more."""

    positions: dict[str, int]
    orders: tuple[Order, ...]
    complete: bool = True


class TickerEvent(msgspec.Struct, frozen=True):
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


class CandleEvent(msgspec.Struct, frozen=True):
    """The trades of an interval that begins at `start`."""

    card: str
    interval: str
    start: datetime
    open: Decimal
    high: Decimal
    low: Decimal
    close: Decimal
    volume: int
    trades: int
    closed: bool = False
    at: datetime | None = None


class CandlesUnavailable(msgspec.Struct, frozen=True):
    """The exchange cannot give candles for now."""

    card: str
    interval: str
    detail: str = ""


class Heartbeat(msgspec.Struct, frozen=True):
    """The stream lives. `positions`: where each card stands."""

    positions: dict[str, int]
    at: datetime | None = None
    levels: dict[str, tuple[int, int]] = {}


class Gap(msgspec.Struct, frozen=True):
    """Messages of the commands after `after` and before `before` are missing: read them over REST."""

    channel: str
    card: str
    after: int
    before: int


class Reset(msgspec.Struct, frozen=True):
    """The position of the client does not exist, as after a loss of data. The stream goes on after `position`."""

    card: str
    position: int


class LeaseEvent(msgspec.Struct, frozen=True):
    """The lease of the stream as it is now; `grace_seconds` is 0 if it has none. `ended`: `expired`, so open orders
    were canceled, or `taken_over` by another stream of yours."""

    grace_seconds: float
    cancel_on_close: bool = False
    ended: str | None = None


class Notice(msgspec.Struct, frozen=True):
    """The exchange tells of a fault; the stream goes on."""

    code: str
    detail: str = ""
    id: int | str | None = None


Event = (
    Connected
    | Disconnected
    | BookSnapshot
    | BookUpdate
    | Trades
    | OrderEvent
    | OrdersSnapshot
    | TickerEvent
    | CandleEvent
    | CandlesUnavailable
    | Heartbeat
    | Gap
    | Reset
    | LeaseEvent
    | Notice
)


class Hello(msgspec.Struct, frozen=True):
    """The first message of a stream."""

    log: str = ""
    heartbeat_seconds: float = 10.0
    positions: dict[str, int] = {}
    lease: Lease | None = None


class Bye(msgspec.Struct, frozen=True):
    """The last message of a stream."""

    code: str
    detail: str = ""
    reconnect_after_ms: int = 0


class _Head(msgspec.Struct, frozen=True):
    type: str = ""
    channel: str = ""


Message = Hello | Bye | Event
KINDS: Mapping[tuple[str, str], type[Message]] = {
    ("", "hello"): Hello,
    ("", "bye"): Bye,
    ("", "heartbeat"): Heartbeat,
    ("", "reset"): Reset,
    ("", "error"): Notice,
    ("", "lease"): LeaseEvent,
    ("book", "snapshot"): BookSnapshot,
    ("book", "update"): BookUpdate,
    ("trades", "trades"): Trades,
    ("orders", "order"): OrderEvent,
    ("orders", "snapshot"): OrdersSnapshot,
    ("ticker", "ticker"): TickerEvent,
    ("candles", "candle"): CandleEvent,
    ("candles", "unavailable"): CandlesUnavailable,
}

_head = msgspec.json.Decoder(_Head)
_decoders = {key: msgspec.json.Decoder(kind) for key, kind in KINDS.items()}
_gap = msgspec.json.Decoder(Gap)


def decode(text: str | bytes) -> Message | None:
    """A message of a stream; None for one of a type that this version does not know.

    Raises:
        msgspec.DecodeError: it is no message.
    """
    head = _head.decode(text)
    if head.type == "gap":
        return _gap.decode(text)
    decoder = _decoders.get((head.channel, head.type))
    return None if decoder is None else decoder.decode(text)
