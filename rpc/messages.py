"""Messages and what they mean to the exchange: drafts of what comes in, views of what goes out."""

from collections.abc import Iterable, Sequence
from typing import Any

import msgspec
from google.protobuf.message import Message

from api.views import fill_view, order_view, trade_view
from core.errors import InvalidRequest, RequestError, TcgxError, Violation
from core.model import Accepted, Fill, Order, PlaceOrder, Side, TimeInForce, Trade, average_price_text, price_text
from core.rules import CLIENT_ORDER_ID, BatchItem, Draft, OrderRules
from core.settings import Settings
from exchange.service import PlaceResult
from rpc.problems import error_message
from rpc.v1 import exchange_pb2 as pb

SIDES = {side.value: side for side in Side}


def draft_of(message: Message, *without: str) -> Draft:
    """The fields of a message that are set, but for those `without`."""
    return [(field.name, value) for field, value in message.ListFields() if field.name not in without]


def optional(message: Message, field: str) -> Any:
    """The value of a field; None if it is not set."""
    return getattr(message, field) if message.HasField(field) else None


class ItemReader:
    """Reads items of batches by the rules of an exchange.

    Most items place an order whose values are right. Those are looked up in tables, at a fifth of the cost of the
    rules. All others go to the rules, which name what is wrong.
    """

    def __init__(self, settings: Settings) -> None:
        self._rules = OrderRules(settings)
        self._cards = frozenset(settings.cards)
        self._prices = {
            price_text(cents): cents for cents in range(settings.price_cents_min, settings.price_cents_max + 1)
        }
        self._quantity_max = settings.max_quantity

    def read(self, item: pb.Item, trader_id: int) -> BatchItem | RequestError:
        """What an item asks for, or why it is refused."""
        action = item.WhichOneof("action")
        if action == "place":
            return self._simple_order(item.place, trader_id) or self._checked(item.place, trader_id)
        if action is None:
            return InvalidRequest([Violation("action", "missing_field", "is required")])
        draft = [("action", action), *draft_of(getattr(item, action))]
        try:
            return self._rules.check_item(draft, trader_id)
        except InvalidRequest as error:
            return error

    def _checked(self, order: pb.NewOrder, trader_id: int) -> BatchItem | RequestError:
        try:
            return self._rules.check(draft_of(order), trader_id)
        except InvalidRequest as error:
            return error

    def _simple_order(self, order: pb.NewOrder, trader_id: int) -> PlaceOrder | None:
        """An order with right values, good till canceled and without flags; None for all others."""
        card, side, price_cents = order.card, SIDES.get(order.side), self._prices.get(order.price)
        if (
            side is None
            or price_cents is None
            or card not in self._cards
            or not 0 < order.quantity <= self._quantity_max
        ):
            return None
        if order.post_only or order.HasField("time_in_force"):
            return None
        client_order_id = order.client_order_id if order.HasField("client_order_id") else None
        if client_order_id is not None and not CLIENT_ORDER_ID.fullmatch(client_order_id):
            return None
        return PlaceOrder(
            trader_id=trader_id,
            card=card,
            side=side,
            price_cents=price_cents,
            quantity=order.quantity,
            client_order_id=client_order_id,
        )


def result(item: BatchItem | RequestError, outcome: PlaceResult | TcgxError) -> pb.Result:
    """The result of an item of a batch."""
    if isinstance(outcome, TcgxError):
        return pb.Result(error=error_message(outcome))
    if isinstance(outcome, Accepted):
        assert isinstance(item, PlaceOrder)  # noqa: S101 - all others have an order as their outcome
        return pb.Result(order=accepted_message(item, outcome))
    return pb.Result(order=order_message(outcome))


def accepted_message(command: PlaceOrder, accepted: Accepted) -> pb.Order:
    """An order that is in the log and not matched yet."""
    return pb.Order(
        order_id=f"{command.card}-{accepted.sequence}",
        client_order_id=command.client_order_id,
        card=command.card,
        side="buy" if command.side is Side.BUY else "sell",  # an enum's value costs as much as three other values
        price=price_text(command.price_cents),
        quantity=command.quantity,
        status="accepted",
        time_in_force="gtc" if command.time_in_force is TimeInForce.GTC else command.time_in_force.value,
        accepted_at=accepted.accepted_at,
        post_only=command.post_only,
    )


def order_message(order: Order) -> pb.Order:
    """An order."""
    return pb.Order(**msgspec.structs.asdict(order_view(order)))


def order_messages(orders: Iterable[Order]) -> list[pb.Order]:
    """Orders."""
    return [order_message(order) for order in orders]


def fill_messages(fills: Iterable[Fill]) -> list[pb.Fill]:
    """Fills."""
    return [pb.Fill(**msgspec.structs.asdict(fill_view(fill))) for fill in fills]


def trade_messages(trades: Iterable[Trade]) -> list[pb.Trade]:
    """Trades."""
    return [pb.Trade(**msgspec.structs.asdict(trade_view(trade))) for trade in trades]


def level_messages(levels: Iterable[tuple[int, int]]) -> list[pb.Level]:
    """Price levels of one side of a book."""
    return [pb.Level(price=price_text(price_cents), quantity=quantity) for price_cents, quantity in levels]


def matched_fields(order: Order, fills: Sequence[Fill]) -> dict[str, Any]:
    """The fields of a response with an order and its fills."""
    return {
        "order": order_message(order),
        "fills": fill_messages(fills),
        "average_price": average_price_text(fills),
    }
