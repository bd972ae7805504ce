"""Answers: what a trader sees of orders, trades and books; decimal strings for money."""

from collections.abc import Sequence
from typing import Annotated, Any

import msgspec

from api.problems import Problem, of_error
from engine.books import Depth
from engine.errors import TcgxError
from engine.model import (
    Entered,
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
from engine.settings import Settings

BUY, GTC = Side.BUY, TimeInForce.GTC
TICK = price_text(1)
"""Prices are whole cents."""


class OrderView(msgspec.Struct, frozen=True):
    """An order. `accepted`: in the log, not matched yet; `open` and `partially_filled`: rests in the book;
    `filled`, `canceled`, `expired`: completed."""

    order_id: str
    client_order_id: str | None
    card: str
    side: str
    price: str
    quantity: int
    filled_quantity: int
    status: str
    time_in_force: str
    accepted_at: str
    closed_at: str | None


class TradeView(msgspec.Struct, frozen=True):
    """A trade, at the resting order's price. No trader is named."""

    trade_id: str
    card: str
    price: str
    quantity: int
    taker_side: str
    executed_at: str


class FillView(TradeView, frozen=True):
    """A trade of your own, as one of its two orders has it. A trade with yourself is two fills. The other trader is
    never named."""

    order_id: Annotated[str, msgspec.Meta(description="your order that was filled", examples=["pikachu-1001"])]
    side: Annotated[str, msgspec.Meta(description="the side of that order: `buy` or `sell`", examples=["buy"])]
    liquidity: Annotated[
        str,
        msgspec.Meta(
            description="`maker`: the order rested in the book; `taker`: it traded when it arrived", examples=["taker"]
        ),
    ]


class MatchedOrderView(OrderView, frozen=True):
    """An order with its fills: their quantities add up to `filled_quantity`."""

    average_price: Annotated[
        str | None,
        msgspec.Meta(
            description=(
                "the average of the prices of `trades`, weighted by quantity, in dollars with two to four decimals: "
                "exact but for the fourth, where a half is rounded up; null where nothing is filled"
            ),
            examples=["5.5067"],
        ),
    ]
    trades: Annotated[list[FillView], msgspec.Meta(description="the fills of this order so far, oldest first")]


class RefusedView(msgspec.Struct, frozen=True):
    """An order of a batch that was not accepted, and why."""

    error: Problem


class BatchView(msgspec.Struct, frozen=True):
    """The outcomes of a batch, in the order of its orders."""

    results: list[Any]


class OrdersView(msgspec.Struct, frozen=True):
    """Orders, newest first."""

    orders: list[OrderView]


class OrdersPageView(OrdersView, frozen=True):
    """A page of orders, newest first."""

    next: Annotated[
        str | None,
        msgspec.Meta(
            description="`before` of the next page; null where this is the last one. The next one may be empty",
            examples=["pikachu-1001"],
        ),
    ]


class FillsView(msgspec.Struct, frozen=True):
    """A page of fills, newest first."""

    fills: Annotated[list[FillView], msgspec.Meta(description="your fills, newest first")]
    next: Annotated[
        str | None,
        msgspec.Meta(
            description="`before` of the next page, to be sent as it is; null where this is the last one",
            examples=["2026-11-22T23:53:06.123Z~pikachu-t17~taker"],
        ),
    ]


class TradesView(msgspec.Struct, frozen=True):
    """Trades, newest first."""

    trades: list[TradeView]


class BookView(msgspec.Struct, frozen=True):
    """A book's price levels, best first, as [price, quantity]; `sequence` is the last command they contain."""

    card: str
    sequence: int
    bids: list[tuple[str, int]]
    asks: list[tuple[str, int]]


class CardView(msgspec.Struct, frozen=True):
    """A card's best prices and last trade, null where there is none; and what its orders must keep to."""

    card: str
    best_bid: str | None
    best_ask: str | None
    last_price: str | None
    price_min: Annotated[str, msgspec.Meta(description="the lowest price of an order", examples=["1.00"])]
    price_max: Annotated[str, msgspec.Meta(description="the highest price of an order", examples=["10.00"])]
    tick: Annotated[str, msgspec.Meta(description="every price is a multiple of it", examples=["0.01"])]
    quantity_max: Annotated[int, msgspec.Meta(description="the largest quantity of an order", examples=[10_000])]


class CardsView(msgspec.Struct, frozen=True):
    """Every card that is traded."""

    cards: list[CardView]


class TokenView(msgspec.Struct, frozen=True):
    """An access token, to be sent as `Authorization: Bearer …`."""

    access_token: str
    token_type: str
    expires_in: int


class HealthView(msgspec.Struct, frozen=True, omit_defaults=True):
    """Whether the service can work; `missing` names what it lacks, `reasons` says what a person has to do."""

    status: str
    missing: list[str]
    reasons: list[str] = []


def order_view(order: Order) -> OrderView:
    """An order as its trader sees it."""
    return OrderView(*_order_values(order))


def outcome_text(command: PlaceOrder, outcome: Entered | Order | TcgxError) -> str:
    """`OrderView` of an order that was entered, or `RefusedView`, as JSON: of one that has its place in the log it is
    written out here, which costs half as much, and as a text, so that a batch is encoded once. No text in it needs an
    escape: a card is named by `CARD_PATTERN`, a client_order_id by `CLIENT_ORDER_ID_PATTERN`."""
    if not isinstance(outcome, Entered):
        return refused_text(outcome) if isinstance(outcome, TcgxError) else _json(order_view(outcome))
    client_order_id = f'"{command.client_order_id}"' if command.client_order_id else "null"
    card = command.card
    side = "buy" if command.side is BUY else "sell"  # the text of an enum costs as much as all other values
    time_in_force = "gtc" if command.time_in_force is GTC else command.time_in_force.value
    return (
        f'{{"order_id":"{card}-{outcome.sequence}","client_order_id":{client_order_id},'
        f'"card":"{card}","side":"{side}","price":"{price_text(command.price_cents)}",'
        f'"quantity":{command.quantity},"filled_quantity":0,"status":"accepted",'
        f'"time_in_force":"{time_in_force}","accepted_at":"{outcome.accepted_at}","closed_at":null}}'
    )


def refused_text(error: TcgxError) -> str:
    """`RefusedView` as JSON."""
    return _json(RefusedView(of_error(error)))


def _json(view: msgspec.Struct) -> str:
    return msgspec.json.encode(view).decode()


def matched_view(order: Order, fills: Sequence[Fill]) -> MatchedOrderView:
    """An order with its fills."""
    return MatchedOrderView(
        *_order_values(order), average_price=average_price_text(fills), trades=[fill_view(fill) for fill in fills]
    )


def _order_values(order: Order) -> tuple[str, str | None, str, str, str, int, int, str, str, str, str | None]:
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
    )


def orders_view(orders: list[Order]) -> OrdersView:
    """A list of orders."""
    return OrdersView([order_view(order) for order in orders])


def orders_page_view(orders: list[Order], following: Order | None) -> OrdersPageView:
    """A page of orders. `following`: the one that the next page goes on before."""
    return OrdersPageView([order_view(order) for order in orders], None if following is None else following.order_id)


def fill_view(fill: Fill) -> FillView:
    """A fill as its trader sees it."""
    return FillView(
        *_trade_values(fill.trade),
        order_id(fill.trade.card, fill.sequence),
        fill.side.value,
        "taker" if fill.is_taker else "maker",
    )


def trade_view(trade: Trade) -> TradeView:
    """A trade as everybody sees it."""
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
    """A list of trades."""
    return TradesView([trade_view(trade) for trade in trades])


def book_view(card: str, depth: Depth) -> BookView:
    """A book's levels."""
    return BookView(card, depth.sequence, _levels(depth.bids), _levels(depth.asks))


def card_view(card: str, depth: Depth, latest: list[Trade], settings: Settings) -> CardView:
    """A card's best prices, last price and rules."""
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
