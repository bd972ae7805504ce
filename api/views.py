"""Views: the bodies of answers, with decimal strings for money, and functions that make them."""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Annotated, Any

import msgspec

from api.openapi.fields import (
    AskPrice,
    BidPrice,
    CardName,
    ClientOrderId,
    FilledQuantity,
    OrderId,
    OrderReason,
    OrderSide,
    OrderStatus,
    OrderTimeInForce,
    PriceText,
    Quantity,
    Time,
    TradeId,
    field_meta,
    markdown_list,
)
from api.problems import Problem, problem_of
from archiver.api_keys import ApiKey, NewKey
from archiver.audit import AuditRow
from core.errors import TcgxError
from core.model import (
    Accepted,
    Fill,
    Order,
    PlaceOrder,
    Side,
    TimeInForce,
    Trade,
    average_price_text,
    order_id,
    price_text,
)
from core.settings import Settings
from engine.book_reader import Depth
from exchange.administration import CardState
from exchange.archive_reader import OrdersFound, TradesFound
from exchange.health_report import PARTS, STATUSES, Report

BUY, GTC = Side.BUY, TimeInForce.GTC
PLAIN_END = ',"post_only":false,"replaces":null,"carried_quantity":0,"reason":null,"replaced_by":null}'
POST_ONLY_END = PLAIN_END.replace("false", "true", 1)
"""The last fields of an accepted order."""
TICK = price_text(1)
"""The smallest step of a price, in dollars."""

Missing = Annotated[str, field_meta("A part that does not do its work.", enum=[*PARTS])]
PartStatus = Annotated[str, field_meta(f"The state of the part:\n\n{markdown_list(STATUSES)}", enum=[*STATUSES])]
PartReason = Annotated[str, field_meta("A sentence that explains it; empty if there is nothing to explain.", "")]
AnsweredMs = Annotated[float | None, field_meta("How long its answer took; null if it did not answer.", 0.9)]
HeartbeatSeconds = Annotated[float | None, field_meta("The age of its last heartbeat; null if there is none.", 1.0)]


class OrderView(msgspec.Struct, frozen=True):
    """An order as it is now."""

    order_id: OrderId
    client_order_id: ClientOrderId
    card: CardName
    side: OrderSide
    price: PriceText
    quantity: Quantity
    filled_quantity: FilledQuantity
    status: OrderStatus
    time_in_force: OrderTimeInForce
    accepted_at: Annotated[Time, field_meta("When the order was appended to its card's log.")]
    closed_at: Annotated[Time | None, field_meta("When the order was completed; null until then.", None)]
    post_only: Annotated[bool, field_meta("Whether the order may only rest, and never trade at once.", False)]
    replaces: Annotated[str | None, field_meta("The order_id of the order that this one replaces.", None)]
    carried_quantity: Annotated[
        int,
        field_meta("The part of `filled_quantity` that was filled under the ids that it replaces.", 0, minimum=0),
    ]
    reason: OrderReason
    replaced_by: Annotated[str | None, field_meta("The order_id of the order that replaces this one.", None)]


class TradeView(msgspec.Struct, frozen=True):
    """A trade, at the resting order's price. No trader is named."""

    trade_id: TradeId
    card: CardName
    price: PriceText
    quantity: Quantity
    taker_side: Annotated[OrderSide, field_meta("The side of the incoming order.")]
    executed_at: Annotated[Time, field_meta("When the orders were matched.")]


class FillView(TradeView, frozen=True):
    """A trade of your own, as one of its two orders has it. A trade with yourself is two fills. The other trader is
    never named."""

    order_id: Annotated[OrderId, field_meta("Your order that was filled.")]
    side: Annotated[OrderSide, field_meta("The side of that order.")]
    liquidity: Annotated[
        str,
        field_meta(
            "`maker`: the order rested in the book; `taker`: it traded when it arrived.",
            "taker",
            enum=["maker", "taker"],
        ),
    ]


class MatchedOrderView(OrderView, frozen=True):
    """An order with its fills: their quantities and `carried_quantity` add up to `filled_quantity`."""

    average_price: Annotated[
        str | None,
        field_meta(
            "The average of the prices of `trades`, weighted by quantity, in dollars with two to four decimals: exact "
            "but for the fourth, where a half is rounded up; null where nothing is filled.",
            name="average_price",
        ),
    ]
    trades: Annotated[list[FillView], field_meta("The fills of this order so far, oldest first.")]


class RefusedView(msgspec.Struct, frozen=True):
    """An item of a batch that was not accepted, and why."""

    error: Annotated[Problem, field_meta("What the call for this item alone would answer.")]


class BatchView(msgspec.Struct, frozen=True):
    """The outcomes of a batch, in the order of its items."""

    results: Annotated[list[Any], field_meta("An order or a refusal for each item of the batch.", name="results")]


class OrdersView(msgspec.Struct, frozen=True):
    """Orders, newest first."""

    orders: Annotated[list[OrderView], field_meta("The orders, newest first.")]


class OrdersPageView(OrdersView, frozen=True):
    """A page of orders, newest first."""

    next: Annotated[
        str | None,
        field_meta("`before` of the next page; null where this is the last one. The next one may be empty.", None),
    ]


class FillsView(msgspec.Struct, frozen=True):
    """A page of fills, newest first."""

    fills: Annotated[list[FillView], field_meta("Your fills, newest first.")]
    next: Annotated[
        str | None,
        field_meta("`before` of the next page, to be sent as it is; null where this is the last one.", None),
    ]


class TradesView(msgspec.Struct, frozen=True):
    """Trades, newest first."""

    trades: Annotated[list[TradeView], field_meta("The trades, newest first.")]


Previous = Annotated[
    str | None,
    field_meta("`after` of the page with newer ones; null if none were looked for and none are known.", None),
]


class HistoryOrdersView(OrdersPageView, frozen=True):
    """A page of completed orders, newest first."""

    previous: Previous


class HistoryTradesView(TradesView, frozen=True):
    """A page of trades, newest first."""

    next: Annotated[str | None, field_meta("`before` of the page with older ones; null where this is the last.", None)]
    previous: Previous


LevelQuantity = Annotated[int, field_meta("How many rest at this price.", 12, minimum=1)]


class BookView(msgspec.Struct, frozen=True):
    """A book's price levels, best first, as [price, quantity]."""

    card: CardName
    sequence: Annotated[int, field_meta("The card's last command that the levels contain.", 1001, minimum=0)]
    bids: Annotated[
        list[tuple[BidPrice, LevelQuantity]],
        field_meta("The levels that buy, highest price first: pairs of price and quantity."),
    ]
    asks: Annotated[
        list[tuple[AskPrice, LevelQuantity]],
        field_meta("The levels that sell, lowest price first: pairs of price and quantity."),
    ]


class CardView(msgspec.Struct, frozen=True):
    """A card's best prices and last trade, null where there is none; and what its orders must keep to."""

    card: CardName
    best_bid: Annotated[BidPrice | None, field_meta("The highest price that somebody buys at; null if nobody does.")]
    best_ask: Annotated[AskPrice | None, field_meta("The lowest price that somebody sells at; null if nobody does.")]
    last_price: Annotated[PriceText | None, field_meta("The price of the latest trade; null before the first.")]
    price_min: Annotated[str, field_meta("The lowest price of an order.", "1.00")]
    price_max: Annotated[str, field_meta("The highest price of an order.", "10.00")]
    tick: Annotated[str, field_meta("Every price is a multiple of it.", "0.01")]
    quantity_max: Annotated[int, field_meta("The largest quantity of an order.", 10_000)]


class CardsView(msgspec.Struct, frozen=True):
    """Every card that is traded."""

    cards: Annotated[list[CardView], field_meta("The cards, in the order of the setting.")]


class TokenView(msgspec.Struct, frozen=True):
    """An access token, to be sent as `Authorization: Bearer …`."""

    access_token: Annotated[str, field_meta("The token, a JWT.", "eyJhbGciOiJIUzI1NiIs…")]
    token_type: Annotated[str, field_meta("The scheme of the header.", enum=["bearer"])]
    expires_in: Annotated[int, field_meta("For how many seconds the token is valid.", name="token_seconds")]


class LoginView(TokenView, frozen=True):
    """An access token, and whose it is."""

    trader_id: Annotated[int, field_meta("The trader's number.", 1)]


class LivenessView(msgspec.Struct, frozen=True):
    """Whether the process answers."""

    status: Annotated[str, field_meta("What was found.", enum=["live"])]
    missing: Annotated[list[Missing], field_meta("Always empty: nothing is asked.", [])]


class PartView(msgspec.Struct, frozen=True):
    """The state of a part of the exchange."""

    status: PartStatus
    reason: PartReason


class RedisView(msgspec.Struct, frozen=True):
    """The state of Redis. A value is null if Redis does not give it."""

    status: PartStatus
    reason: PartReason
    answered_ms: AnsweredMs
    role: Annotated[str, field_meta("Its role; empty if it does not say it.", enum=["primary", "replica", ""])]
    aof: Annotated[
        str,
        field_meta(
            "When it writes an order to disk; `off` if never, empty if it does not say it.",
            enum=["always", "everysec", "no", "off", ""],
        ),
    ]
    memory_used_bytes: Annotated[int | None, field_meta("The memory that counts for its limit.", 52_428_800)]
    memory_max_bytes: Annotated[int | None, field_meta("Its limit (`maxmemory`); 0 if it has none.", 0)]


class PostgresqlView(msgspec.Struct, frozen=True):
    """The state of PostgreSQL."""

    status: PartStatus
    reason: PartReason
    answered_ms: AnsweredMs


class EngineView(msgspec.Struct, frozen=True):
    """The state of the engine. A value is null if Redis does not give it."""

    status: PartStatus
    reason: PartReason
    heartbeat_seconds: HeartbeatSeconds
    waiting_commands: Annotated[int | None, field_meta("How many commands wait to be matched.", 0)]
    still_seconds: Annotated[
        float | None, field_meta("For how long commands of a card have waited while none of it was matched.", 0.0)
    ]


class ArchiverView(msgspec.Struct, frozen=True):
    """The state of the archiver. A value is null if the servers do not give it."""

    status: PartStatus
    reason: PartReason
    heartbeat_seconds: HeartbeatSeconds
    activity: Annotated[str, field_meta("What it does at present; `writing` waits for PostgreSQL.", "reading")]
    activity_seconds: Annotated[float | None, field_meta("For how long it has done that.", 1.2)]
    lag_seconds: Annotated[float | None, field_meta("How far the archive is behind the engine, in seconds.", 0.0)]
    lag_commands: Annotated[int | None, field_meta("How many matched commands are not archived.", 0)]


class PartsView(msgspec.Struct, frozen=True):
    """The state of each part of the exchange."""

    redis: Annotated[RedisView, field_meta("Redis, where orders are appended and matched.")]
    functions: Annotated[PartView, field_meta("The Lua library in Redis.")]
    engine: Annotated[EngineView, field_meta("The process that has orders matched.")]
    postgresql: Annotated[PostgresqlView, field_meta("PostgreSQL, which has the archive.")]
    archiver: Annotated[ArchiverView, field_meta("The process that writes the archive.")]
    history: Annotated[PartView, field_meta("Whether log and archive belong together.")]
    backlog: Annotated[PartView, field_meta("Whether there is room for commands that wait to be matched.")]


class HealthView(msgspec.Struct, frozen=True):
    """The health of the exchange."""

    status: Annotated[
        str,
        field_meta(
            "`ready`: orders can be appended. `healthy`: every part does its work.",
            enum=["ready", "not_ready", "draining", "healthy", "unhealthy"],
        ),
    ]
    missing: Annotated[list[Missing], field_meta("The parts that do not do their work, needed by orders or not.", [])]
    reasons: Annotated[list[str], field_meta("A sentence for each fault, and for what will become one.", [])]
    parts: Annotated[PartsView, field_meta("The state of each part.")]


def health_view(report: Report, status: str) -> HealthView:
    """Makes the view of a report, without the causes that are for operators alone."""
    parts = msgspec.convert(report, PartsView, from_attributes=True)
    return HealthView(status, report.missing, report.reasons, parts)


def order_view(order: Order) -> OrderView:
    """Makes the view of an order for its trader."""
    return OrderView(*_order_values(order))


def result_json(command: PlaceOrder | None, outcome: Accepted | Order | TcgxError) -> str:
    """Encodes the result of placing an order as JSON: `OrderView`, or `RefusedView` for an error.

    An accepted order is formatted here, at half the cost of its struct. The result is a text, so that a batch is
    encoded once. No value needs an escape: `CARD_PATTERN` and `CLIENT_ORDER_ID_PATTERN` allow no such character.
    `command` is None for an outcome that is an order or an error already.
    """
    if command is None or not isinstance(outcome, Accepted):
        assert not isinstance(outcome, Accepted), "the command is missing"  # noqa: S101
        return refusal_json(outcome) if isinstance(outcome, TcgxError) else _json(order_view(outcome))
    client_order_id = f'"{command.client_order_id}"' if command.client_order_id else "null"
    card = command.card
    side = "buy" if command.side is BUY else "sell"  # an enum's value costs as much as all other values together
    time_in_force = "gtc" if command.time_in_force is GTC else command.time_in_force.value
    return (
        f'{{"order_id":"{card}-{outcome.sequence}","client_order_id":{client_order_id},'
        f'"card":"{card}","side":"{side}","price":"{price_text(command.price_cents)}",'
        f'"quantity":{command.quantity},"filled_quantity":0,"status":"accepted",'
        f'"time_in_force":"{time_in_force}","accepted_at":"{outcome.accepted_at}","closed_at":null'
        f"{POST_ONLY_END if command.post_only else PLAIN_END}"
    )


def refusal_json(error: TcgxError) -> str:
    """Encodes the `RefusedView` of an error as JSON."""
    return _json(RefusedView(problem_of(error)))


def _json(view: msgspec.Struct) -> str:
    return msgspec.json.encode(view).decode()


def matched_view(order: Order, fills: Sequence[Fill]) -> MatchedOrderView:
    """Makes the view of an order with its fills."""
    return MatchedOrderView(
        *_order_values(order), average_price=average_price_text(fills), trades=[fill_view(fill) for fill in fills]
    )


_OrderValues = tuple[
    str, str | None, str, str, str, int, int, str, str, str, str | None, bool, str | None, int, str | None, str | None
]


def _order_values(order: Order) -> _OrderValues:
    return (
        order.order_id,
        order.client_order_id,
        order.card,
        order.side.value,
        price_text(order.price_cents),
        order.quantity,
        order.filled_quantity,
        order.status.value,
        order.time_in_force.value,
        order.accepted_at,
        order.closed_at,
        order.post_only,
        None if order.replaces is None else order_id(order.card, order.replaces),
        order.carried_quantity,
        None if order.reason is None else order.reason.value,
        None if order.replaced_by is None else order_id(order.card, order.replaced_by),
    )


def orders_view(orders: list[Order]) -> OrdersView:
    """Makes the view of a list of orders."""
    return OrdersView([order_view(order) for order in orders])


def orders_page_view(orders: list[Order], following: Order | None) -> OrdersPageView:
    """Makes the view of a page. `following` is the order that is `before` of the next page; None on the last page."""
    return OrdersPageView([order_view(order) for order in orders], None if following is None else following.order_id)


def fill_view(fill: Fill) -> FillView:
    """Makes the view of a fill for its trader."""
    return FillView(
        *_trade_values(fill.trade),
        order_id(fill.trade.card, fill.sequence),
        fill.side.value,
        "taker" if fill.is_taker else "maker",
    )


def trade_view(trade: Trade) -> TradeView:
    """Makes the public view of a trade."""
    return TradeView(*_trade_values(trade))


def _trade_values(trade: Trade) -> tuple[str, str, str, int, str, str]:
    return (
        trade.trade_id,
        trade.card,
        price_text(trade.price_cents),
        trade.quantity,
        trade.taker_side.value,
        trade.executed_at,
    )


def trades_view(trades: list[Trade]) -> TradesView:
    """Makes the view of a list of trades."""
    return TradesView([trade_view(trade) for trade in trades])


def history_orders_view(found: OrdersFound) -> HistoryOrdersView:
    """Makes the view of a page of completed orders."""
    return HistoryOrdersView([order_view(order) for order in found.orders], found.older, found.newer)


def history_trades_view(found: TradesFound) -> HistoryTradesView:
    """Makes the view of a page of archived trades."""
    return HistoryTradesView([trade_view(trade) for trade in found.trades], found.older, found.newer)


def book_view(card: str, depth: Depth) -> BookView:
    """Makes the view of a book's price levels."""
    return BookView(card, depth.sequence, _levels(depth.bids), _levels(depth.asks))


def card_view(card: str, depth: Depth, latest: list[Trade], settings: Settings) -> CardView:
    """Makes the view of a card: best prices, last price, and the bounds of its orders."""
    return CardView(
        card,
        price_text(depth.bids[0][0]) if depth.bids else None,
        price_text(depth.asks[0][0]) if depth.asks else None,
        price_text(latest[0].price_cents) if latest else None,
        price_text(settings.price_cents_min),
        price_text(settings.price_cents_max),
        TICK,
        settings.max_quantity,
    )


def _levels(levels: list[tuple[int, int]]) -> list[tuple[str, int]]:
    return [(price_text(price_cents), quantity) for price_cents, quantity in levels]


# -- of admins

KeyId = Annotated[str, field_meta("The key's id.", name="key_id")]
TraderNumber = Annotated[int, field_meta("The trader's number.", 1, minimum=1)]


class CardStateView(msgspec.Struct, frozen=True):
    """How far a card is, and whether it is halted."""

    card: CardName
    halted: Annotated[bool, field_meta("Whether orders are refused.", True)]
    halted_since: Annotated[Time | None, field_meta("When it was halted; null if it is not.")]
    reason: Annotated[str, field_meta("Why it was halted; empty if it is not.", "a wrong price")]
    appended: Annotated[int, field_meta("The sequence of the last command in the log.", 1001, minimum=0)]
    matched: Annotated[int, field_meta("The sequence of the last command that is matched.", 1001, minimum=0)]
    archived: Annotated[int, field_meta("The sequence of the last command that is archived.", 1001, minimum=0)]


class ApiKeyView(msgspec.Struct, frozen=True):
    """An API key, without its secret."""

    key_id: KeyId
    trader_id: TraderNumber
    prefix: Annotated[
        str, field_meta("The first characters of the key; empty for a key of an earlier version.", "hYk2x9")
    ]
    label: Annotated[str, field_meta("What the key is for.", "bot of the desk")]
    created_at: Annotated[Time, field_meta("When the key was created.")]
    revoked_at: Annotated[
        Time | None, field_meta("When the key was revoked, or will be; null while that is not said.", None)
    ]


class ApiKeysView(msgspec.Struct, frozen=True):
    """API keys of a trader."""

    keys: Annotated[list[ApiKeyView], field_meta("The keys, newest first.")]


class NewApiKeyView(msgspec.Struct, frozen=True):
    """An API key that was created just now."""

    api_key: Annotated[str, field_meta("The key itself, which is shown nowhere else.", "hYk2x9…")]
    key: Annotated[ApiKeyView, field_meta("The key, as lists show it.")]


class AuditRowView(msgspec.Struct, frozen=True):
    """One admin action, or one of its two rows."""

    audit_id: Annotated[int, field_meta("Counts up.", 17, minimum=1)]
    at: Annotated[Time, field_meta("When the row was written.")]
    actor: Annotated[str, field_meta("Who acted.", "trader 5 key 0f3c9a51d2e84b76")]
    address: Annotated[str, field_meta("From where; empty if that is not known.", "192.0.2.7")]
    action: Annotated[str, field_meta("What was done.", "revoke_key")]
    target: Annotated[str, field_meta("To what.", "key 0f3c9a51d2e84b76")]
    outcome: Annotated[str, field_meta("`started`, `done`, or the code and text of an error.", "done")]


class AuditView(msgspec.Struct, frozen=True):
    """Rows of the audit."""

    rows: Annotated[list[AuditRowView], field_meta("The rows, newest first.")]


def card_state_view(state: CardState) -> CardStateView:
    """The view of a card's state."""
    since, _, reason = state.halted.partition(" ")
    return CardStateView(
        state.card, bool(state.halted), since or None, reason, state.appended, state.matched, state.archived
    )


def key_view(key: ApiKey) -> ApiKeyView:
    """The view of an API key."""
    revoked_at = _time_text(key.revoked_at) if key.revoked_at else None
    return ApiKeyView(key.key_id, key.trader_id, key.prefix, key.label, _time_text(key.created_at), revoked_at)


def keys_view(keys: Sequence[ApiKey]) -> ApiKeysView:
    """The view of API keys."""
    return ApiKeysView([key_view(key) for key in keys])


def new_key_view(made: NewKey) -> NewApiKeyView:
    """The view of a key that was created just now."""
    return NewApiKeyView(made.secret, key_view(made.key))


def audit_view(rows: Sequence[AuditRow]) -> AuditView:
    """The view of rows of the audit."""
    return AuditView(
        [
            AuditRowView(row.audit_id, _time_text(row.at), row.actor, row.address, row.action, row.target, row.outcome)
            for row in rows
        ]
    )


def _time_text(at: datetime) -> str:
    return at.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
