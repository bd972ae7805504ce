"""Answers: what a trader sees of orders, trades and books; decimal strings for money."""

from typing import Any

import msgspec

from api.problems import Problem, of_error
from engine.books import Depth
from engine.errors import TcgxError
from engine.model import Entered, Order, PlaceOrder, Side, TimeInForce, Trade, price_text

BUY, GTC = Side.BUY, TimeInForce.GTC


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


class MatchedOrderView(OrderView, frozen=True):
    """An order after matching, with the trades it made when it arrived."""

    trades: list[TradeView]


class RefusedView(msgspec.Struct, frozen=True):
    """An order of a batch that was not accepted, and why."""

    error: Problem


class BatchView(msgspec.Struct, frozen=True):
    """The outcomes of a batch, in the order of its orders."""

    results: list[Any]


class OrdersView(msgspec.Struct, frozen=True):
    """Orders, newest first."""

    orders: list[OrderView]


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
    """A card's best prices and last trade, null where there is none."""

    card: str
    best_bid: str | None
    best_ask: str | None
    last_price: str | None


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


def matched_view(order: Order, trades: list[Trade]) -> MatchedOrderView:
    """An order with its trades."""
    return MatchedOrderView(*_order_values(order), trades=[trade_view(trade) for trade in trades])


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


def trade_view(trade: Trade) -> TradeView:
    """A trade as everybody sees it."""
    return TradeView(
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


def card_view(card: str, depth: Depth, latest: list[Trade]) -> CardView:
    """A card's best prices and last price."""
    return CardView(
        card,
        price_text(depth.bids[0][0]) if depth.bids else None,
        price_text(depth.asks[0][0]) if depth.asks else None,
        price_text(latest[0].price_cents) if latest else None,
    )


def _levels(levels: list[tuple[int, int]]) -> list[tuple[str, int]]:
    return [(price_text(price_cents), quantity) for price_cents, quantity in levels]
