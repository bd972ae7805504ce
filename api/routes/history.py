"""`/history`: completed orders and trades, from PostgreSQL."""

from typing import Annotated

from litestar import Request, get
from litestar.params import Parameter

from api.context import context_of
from api.openapi import operations
from api.problems import ApiError, FieldError, invalid
from api.routes.orders import BEARER, FILLED, caller_of
from api.views import OrdersView, TradesView, orders_view, trades_view
from core.settings import CARD_PATTERN
from exchange.service import SEQUENCE

LIMIT_MAX = 500
Limit = Annotated[int, Parameter(ge=1, le=LIMIT_MAX, description="how many at most")]


@get(
    "/history/orders",
    tags=["history"],
    summary="Your completed orders",
    description=(
        "By time of acceptance, newest first. `before=` the last order_id of a page gives the next page. "
        "Source: the archive in PostgreSQL."
    ),
    responses={
        200: operations.answer(OrdersView, "The completed orders.", orders=[FILLED]),
        **operations.problems("422 invalid_before", "503 unavailable"),
    },
    security=BEARER,
    operation_id="list_history_orders",
)
async def list_orders(
    request: Request,  # type: ignore[type-arg]
    card: Annotated[str | None, Parameter(description="only this card")] = None,
    before: Annotated[str | None, Parameter(description="an order_id", schema_extra={"format": "order_id"})] = None,
    limit: Limit = 50,
) -> OrdersView:
    """A trader's completed orders."""
    context, identity = caller_of(request)
    if card is not None:
        context.known_card(card)
    start = None if before is None else _place(before, "-", "an order_id, like pikachu-1001")
    try:
        orders = await context.exchange.archive.orders(identity.trader_id, card=card, before=start, limit=limit)
    except LookupError:
        raise _wrong_before(before, "an order_id of the archive") from None
    return orders_view(orders)


@get(
    "/history/trades",
    tags=["history"],
    summary="All trades of a card",
    description=(
        "Newest first. `before=` the last trade_id of a page gives the next page. Source: the archive in PostgreSQL."
    ),
    responses=operations.problems("422 invalid_before", "503 unavailable"),
    operation_id="list_history_trades",
)
async def list_trades(
    request: Request,  # type: ignore[type-arg]
    card: Annotated[str, Parameter(description="the card")],
    before: Annotated[str | None, Parameter(description="a trade_id", schema_extra={"format": "trade_id"})] = None,
    limit: Limit = 50,
) -> TradesView:
    """A card's trades."""
    context = context_of(request)
    context.known_card(card)
    start = None if before is None else _place(before, "-t", "a trade_id, like pikachu-t17")
    if start is not None and start[0] != card:
        raise _wrong_before(before, f"a trade_id of {card}")
    return trades_view(await context.exchange.archive.trades(card, before=start[1] if start else None, limit=limit))


def _place(text: str, separator: str, rule: str) -> tuple[str, int]:
    card, found, digits = text.rpartition(separator)
    if not found or not CARD_PATTERN.fullmatch(card) or not SEQUENCE.fullmatch(digits):
        raise _wrong_before(text, rule)
    return card, int(digits)


def _wrong_before(value: str | None, rule: str) -> ApiError:
    return invalid([FieldError("before", "invalid_before", f"must be {rule}", (value or "")[:80])])


ROUTES = [list_orders, list_trades]
