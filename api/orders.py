"""`/orders` and `/auth/token`: enter, find, list and cancel."""

from typing import Annotated

from litestar import Request, Response, delete, get, post
from litestar.params import Parameter

from api import describe
from api.bodies import token_body
from api.context import Context, context_of
from api.prefer import wait_seconds
from api.views import (
    BatchView,
    MatchedOrderView,
    OrdersView,
    OrderView,
    TokenView,
    batch_view,
    matched_view,
    order_view,
    orders_view,
)
from engine.model import LATEST, PlaceOrder
from engine.trust import Identity

BEARER: list[dict[str, list[str]]] = [{"bearer": []}]
NO_WAIT = 0.0


def _caller(request: Request) -> tuple[Context, Identity]:  # type: ignore[type-arg]
    context = context_of(request)
    return context, context.authenticator.identify(request.headers.get("authorization"))


@post(
    "/auth/token",
    status_code=200,
    tags=["auth"],
    summary="Exchange an API key for an access token",
    description="Source: the traders table in PostgreSQL.",
    operation_class=describe.ExchangesKey,
    responses=describe.problems(401, 413, 422, 503),
    operation_id="create_token",
)
async def create_token(request: Request) -> TokenView:  # type: ignore[type-arg]
    """An access token for a trader's API key."""
    body = token_body(await request.body())
    value, seconds = await context_of(request).authenticator.exchange(body.trader_id, body.api_key)
    return TokenView(value, "bearer", seconds)


@post(
    "/orders",
    status_code=202,
    tags=["orders"],
    summary="Place an order",
    description=(
        "Answers 202 once the order is durable in its card's log in Redis. With `Prefer: wait=N` it answers 200 "
        "after matching, with the trades made, or 202 if N seconds pass first. After a timeout or a 5xx repeat the "
        "request with the same `client_order_id`: you get the first order back. Source: the log and books in Redis."
    ),
    operation_class=describe.PlacesOrder,
    responses={200: describe.answer(MatchedOrderView, "Matched"), **describe.problems(401, 409, 413, 422, 503)},
    security=BEARER,
    operation_id="place_order",
)
async def place_order(request: Request) -> Response[OrderView]:  # type: ignore[type-arg]
    """Enters an order."""
    context, identity = _caller(request)
    command = context.bodies.place_order(await request.body(), identity.trader_id)
    seconds = wait_seconds(request.headers.get("prefer"))
    if seconds == NO_WAIT:
        return Response(order_view(await context.exchange.place(command)), status_code=202)
    placed = await context.exchange.place_and_wait(command, seconds)
    if isinstance(placed, tuple):
        return Response(matched_view(*placed), status_code=200)
    return Response(order_view(placed), status_code=202)


@post(
    "/orders/batch",
    status_code=202,
    tags=["orders"],
    summary="Place up to 1,000 orders",
    description=(
        "Answers 202 once those that are accepted are durable, with an outcome for each in order: the order, or "
        "`error`, a problem. An order that is wrong spoils no other. Orders of one card keep their order. After a "
        "timeout or a 5xx repeat with the same `client_order_id`s. Source: the logs in Redis."
    ),
    operation_class=describe.PlacesOrders,
    responses={
        202: describe.answer(BatchView, "Outcomes", {"results": [describe.ACCEPTED_EXAMPLE, describe.REFUSED_EXAMPLE]}),
        **describe.problems(401, 413, 422, 503),
    },
    security=BEARER,
    operation_id="place_orders",
)
async def place_orders(request: Request) -> Response[BatchView]:  # type: ignore[type-arg]
    """Enters many orders."""
    context, identity = _caller(request)
    asked = context.bodies.place_orders(await request.body(), identity.trader_id)
    placed = iter(await context.exchange.place_all([order for order in asked if isinstance(order, PlaceOrder)]))
    outcomes = [next(placed) if isinstance(order, PlaceOrder) else order for order in asked]
    return Response(batch_view(outcomes), status_code=202)


@get(
    "/orders",
    tags=["orders"],
    summary="Your latest orders",
    description="The latest orders over all cards, newest first, with live status. Source: books in Redis.",
    responses=describe.problems(401, 422, 503),
    security=BEARER,
    operation_id="list_orders",
)
async def list_orders(
    request: Request,  # type: ignore[type-arg]
    limit: Annotated[int, Parameter(ge=1, le=LATEST, description="how many at most")] = LATEST,
) -> OrdersView:
    """A trader's latest orders."""
    context, identity = _caller(request)
    return orders_view(await context.exchange.latest(identity.trader_id, limit))


@get(
    "/orders/{order_id:str}",
    tags=["orders"],
    summary="One order",
    description=(
        "Answers from the moment of the 202. Source: the log and books in Redis; the archive in PostgreSQL for older "
        "completed orders. Another trader's order is 404."
    ),
    responses=describe.problems(401, 404, 503),
    security=BEARER,
    operation_id="get_order",
)
async def get_order(request: Request, order_id: str) -> OrderView:  # type: ignore[type-arg]
    """An order by its id."""
    context, identity = _caller(request)
    return order_view(await context.exchange.find_own(order_id, identity))


@get(
    "/orders/by-client-id/{client_order_id:str}",
    tags=["orders"],
    summary="One order by your own id",
    description=(
        "The latest order with this client_order_id, over all cards. Source: Redis for the last 24 hours, then the "
        "archive in PostgreSQL."
    ),
    responses=describe.problems(401, 404, 503),
    security=BEARER,
    operation_id="get_order_by_client_id",
)
async def get_order_by_client_id(request: Request, client_order_id: str) -> OrderView:  # type: ignore[type-arg]
    """An order by its trader's id."""
    context, identity = _caller(request)
    return order_view(await context.exchange.find_by_client_id(client_order_id, identity.trader_id))


@delete(
    "/orders/{order_id:str}",
    status_code=202,
    tags=["orders"],
    summary="Cancel an order",
    description=(
        "The cancel takes its place in the card's log: what was matched before it stays. Answers 202 once it is "
        "durable; with `Prefer: wait=N`, 200 with the order after matching. Source: the log and books in Redis."
    ),
    operation_class=describe.PrefersWait,
    responses={
        200: describe.answer(OrderView, "Canceled, or completed first"),
        **describe.problems(401, 404, 409, 422, 503),
    },
    security=BEARER,
    operation_id="cancel_order",
)
async def cancel_order(request: Request, order_id: str) -> Response[OrderView]:  # type: ignore[type-arg]
    """Cancels an order."""
    context, identity = _caller(request)
    seconds = wait_seconds(request.headers.get("prefer"))
    order = await context.exchange.find_own(order_id, identity)
    after, matched = await context.exchange.cancel(order, seconds)
    return Response(order_view(after), status_code=200 if matched else 202)


@delete(
    "/orders",
    status_code=202,
    tags=["orders"],
    summary="Cancel all your open orders",
    description=(
        "On one card, or on all. Lists the orders that were open; orders that were accepted but not matched yet are "
        "canceled too. With `Prefer: wait=N`, 200 with these orders after matching. Source: books in Redis."
    ),
    operation_class=describe.PrefersWait,
    responses={200: describe.answer(OrdersView, "Matched"), **describe.problems(401, 422, 503)},
    security=BEARER,
    operation_id="cancel_orders",
)
async def cancel_orders(
    request: Request,  # type: ignore[type-arg]
    card: Annotated[str | None, Parameter(description="only this card")] = None,
) -> Response[OrdersView]:
    """Cancels all open orders of the caller."""
    context, identity = _caller(request)
    seconds = wait_seconds(request.headers.get("prefer"))
    cards = context.exchange.cards if card is None else (context.known_card(card),)
    orders, matched = await context.exchange.cancel_all(identity.trader_id, cards, seconds)
    return Response(orders_view(orders), status_code=200 if matched else 202)


ROUTES = [
    create_token,
    place_order,
    place_orders,
    list_orders,
    get_order_by_client_id,
    get_order,
    cancel_order,
    cancel_orders,
]
