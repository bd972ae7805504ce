"""Messages and what they mean to the exchange: drafts of what comes in, views of what goes out."""

from collections.abc import Iterable, Sequence
from typing import Any, TypeVar

import msgspec
from google.protobuf.message import Message

from api.prefer import WAIT_SECONDS_MAX
from api.views import fill_view, order_view, trade_view
from core.errors import InvalidRequest, RequestError, TcgxError, Violation
from core.model import Accepted, Fill, Order, PlaceOrder, Trade, average_price_text, price_text
from core.rules import BatchItem, Draft, OrderRules
from exchange.service import PlaceResult
from rpc.problems import error_message
from rpc.v1 import exchange_pb2 as pb

T = TypeVar("T", bound=Message)


def draft_of(message: Message, *without: str) -> Draft:
    """The fields of a message that are set, but for those `without`."""
    return [(field.name, value) for field, value in message.ListFields() if field.name not in without]


def optional(message: Message, field: str) -> Any:
    """The value of a field; None if it is not set."""
    return getattr(message, field) if message.HasField(field) else None


def wait_seconds(seconds: float) -> float:
    """Up to how many seconds a call waits for the match.

    Raises:
        InvalidRequest: not from 0 to `WAIT_SECONDS_MAX`.
    """
    if not 0 <= seconds <= WAIT_SECONDS_MAX:
        rule = f"must be a number of seconds from 0 to {WAIT_SECONDS_MAX}"
        raise InvalidRequest([Violation("wait_seconds", "invalid_wait_seconds", rule, str(seconds))])
    return seconds


def asked(item: pb.Item, rules: OrderRules, trader_id: int) -> BatchItem | RequestError:
    """What an item of a batch asks for, or why it is refused."""
    action = item.WhichOneof("action")
    if action is None:
        return InvalidRequest([Violation("action", "missing_field", "is required")])
    draft = draft_of(getattr(item, action))
    try:
        if action == "place":
            return rules.check(draft, trader_id)
        return rules.check_item([("action", action), *draft], trader_id)
    except InvalidRequest as error:
        return error


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
        side=command.side.value,
        price=price_text(command.price_cents),
        quantity=command.quantity,
        status="accepted",
        time_in_force=command.time_in_force.value,
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


def after_match(made: type[T], placed: tuple[Order, Sequence[Fill]] | pb.Order) -> T:
    """The response with an order and, if it is matched, its fills."""
    if isinstance(placed, pb.Order):
        return made(order=placed)
    order, fills = placed
    return made(
        order=order_message(order), matched=True, fills=fill_messages(fills), average_price=average_price_text(fills)
    )
