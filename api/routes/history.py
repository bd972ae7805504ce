"""`/history`: completed orders and trades, from PostgreSQL."""

from typing import Annotated

from litestar import Request, get
from litestar.params import Parameter

from api.context import caller_of, context_of
from api.openapi import operations
from api.routes.orders import BEARER, FILLED
from api.views import OrdersView, TradesView, orders_view, trades_view
from exchange.service import PAGE_LIMIT_MAX

Limit = Annotated[int, Parameter(ge=1, le=PAGE_LIMIT_MAX, description="how many at most")]


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
    context, caller = caller_of(request)
    return orders_view(await context.exchange.archived_orders(caller, card=card, before=before, limit=limit))


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
    return trades_view(await context_of(request).exchange.archived_trades(card, before=before, limit=limit))


ROUTES = [list_orders, list_trades]
