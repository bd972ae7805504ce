"""`/orders`: place, find, list and cancel."""

from collections.abc import Sequence
from functools import partial
from typing import Annotated, Any

import msgspec
from litestar import Request, Response, delete, get, patch, post
from litestar.params import FromPath, Parameter

from api.context import Context, caller_of
from api.decoding import LARGE_BYTES, Turn
from api.fast_path import Answer, Endpoint
from api.gate import Headers, list_header
from api.openapi import operations
from api.openapi.error_codes import CHANGE_FIELDS, ORDER_FIELDS
from api.prefer import wait_seconds
from api.views import (
    BatchView,
    MatchedOrderView,
    OrdersPageView,
    OrdersView,
    OrderView,
    matched_view,
    order_view,
    orders_page_view,
    orders_view,
    result_json,
)
from archiver.audit import Actor
from core.errors import RequestError, TcgxError
from core.model import LATEST, PlaceOrder, Side
from exchange.administration import actor_of
from exchange.service import OPEN_LIMIT_MAX, OrderFilter, PlaceResult
from exchange.tokens import Caller

BEARER: list[dict[str, list[str]]] = [{"bearer": []}]
NO_WAIT = 0.0

APPENDS = ("503 overloaded", "503 unavailable", "503 history_conflict")
HALTED = "503 card_halted"
RATE_LIMITED = "429 rate_limited"
LIMITS = ("409 too_many_open_orders", RATE_LIMITED)
ACCEPTED = {"status": "accepted"}
FILLED = {"status": "filled", "filled_quantity": 1, "closed_at": "2026-11-22T23:53:06.125Z"}
MATCHED = FILLED | {"trades": [{"executed_at": FILLED["closed_at"]}]}
REPLACED = {"order_id": "pikachu-1050", "replaces": "pikachu-1001", "status": "open"}
CANCELED = {"status": "canceled", "closed_at": "2026-11-22T23:54:10.001Z"}
"""Values of orders in the examples of the OpenAPI document."""


async def answer_order(context: Context, caller: Caller, headers: Headers, body: bytes) -> Answer:
    """Places the order of a body; answers 200 after its match, or 202.

    Raises:
        TcgxError: the order was refused, or no server answered.
    """
    decoder = context.decoder
    if len(body) <= LARGE_BYTES:
        command = decoder.decode_order(body, caller.trader_id)
    else:
        command = await decoder.offload(decoder.decode_order, body, caller.trader_id)
    seconds = wait_seconds(list_header(headers, b"prefer"))
    if seconds == NO_WAIT:
        return Answer(202, result_json(command, await context.exchange.place(command)).encode())
    placed = await context.exchange.place_and_wait(command, seconds)
    if isinstance(placed, tuple):
        return Answer(200, msgspec.json.encode(matched_view(*placed)))
    return Answer(202, result_json(command, placed).encode())


async def answer_orders(context: Context, caller: Caller, _: Headers, body: bytes) -> Answer:
    """Places, cancels and replaces the orders of a batch; answers 202 with a result for each item.

    Raises:
        TcgxError: the batch was refused as a whole, or nothing was appended.
    """
    check_room = partial(context.exchange.check_room, caller)
    asked = await context.decoder.decode_orders(body, caller.trader_id, check_room)
    outcomes = await context.exchange.submit(caller, asked)
    commands = [item if isinstance(item, PlaceOrder) else None for item in asked]
    if None in commands and any(isinstance(item, RequestError) for item in asked):
        results = await _with_refusals([*zip(commands, outcomes, strict=True)])
    else:
        results = [result_json(command, outcome) for command, outcome in zip(commands, outcomes, strict=True)]
    return Answer(202, f'{{"results":[{",".join(results)}]}}'.encode())


async def _with_refusals(pairs: Sequence[tuple[PlaceOrder | None, PlaceResult | TcgxError]]) -> list[str]:
    """The results of a batch. A thousand refusals take milliseconds, so other tasks run between them."""
    results = []
    turn = Turn()
    for command, outcome in pairs:
        results.append(result_json(command, outcome))
        if turn.is_over():
            await turn.next()
    return results


FAST_PATH = {
    (b"POST", b"/orders"): Endpoint("place_order", answer_order),
    (b"POST", b"/orders/batch"): Endpoint("place_orders", answer_orders),
}
"""The endpoints of the fast path (`api/fast_path.py`), by method and target."""


def _actor(request: Request[Any, Any, Any], caller: Caller) -> Actor:
    return actor_of(caller, request.client.host if request.client else None)


def _response(answer: Answer) -> Response[Any]:
    return Response(answer.body, status_code=answer.status)


@post(
    "/orders",
    status_code=202,
    tags=["orders"],
    summary="Place an order",
    description=(
        "Answers 202 once the order is durable in its card's log in Redis. With `Prefer: wait=N` it answers 200 "
        "after matching, with its fills by then, or 202 if N seconds pass first. After a timeout or a 5xx repeat the "
        "request with the same `client_order_id`: you get the first order back. Source: the log and books in Redis."
    ),
    operation_class=operations.PlaceOrderOperation,
    responses={
        200: operations.answer(
            MatchedOrderView,
            "With `Prefer: wait=N`: the order after matching, and the trades that it made.",
            **MATCHED,
        ),
        202: operations.answer(OrderView, "The order, durable in its card's log and not matched yet.", **ACCEPTED),
        **operations.problems("409 client_order_id_conflict", *LIMITS, *ORDER_FIELDS, HALTED, *APPENDS),
    },
    security=BEARER,
    operation_id="place_order",
)
async def place_order(request: Request) -> Response[OrderView]:  # type: ignore[type-arg]
    """Places an order."""
    context, caller = caller_of(request)
    return _response(await answer_order(context, caller, request.scope["headers"], await request.body()))


@post(
    "/orders/batch",
    status_code=202,
    tags=["orders"],
    summary="Place, cancel and replace up to 1,000 orders",
    description=(
        "Answers 202 once those that are accepted are durable, with an outcome for each in order: the order, or "
        "`error`, the problem that the call for this item alone would answer. An item places an order unless its "
        "`action` is `cancel` or `replace`. One that breaks a rule of its schema is refused in its place of `results` "
        "and spoils no other: the whole batch is refused only if it is no list of 1 to 1,000 items. Items of one card "
        "keep their order. A canceled or replaced order is shown as by DELETE and PATCH without `Prefer`. After a "
        "timeout or a 5xx repeat with the same `client_order_id`s. Source: the logs in Redis."
    ),
    operation_class=operations.PlaceOrdersOperation,
    responses={
        202: operations.answer(BatchView, "An outcome for each item.", results=[ACCEPTED, {}]),
        **operations.problems("422 invalid_orders", "422 invalid_action", RATE_LIMITED, HALTED, *APPENDS),
    },
    security=BEARER,
    operation_id="place_orders",
)
async def place_orders(request: Request) -> Response[BatchView]:  # type: ignore[type-arg]
    """Places, cancels and replaces many orders."""
    context, caller = caller_of(request)
    return _response(await answer_orders(context, caller, request.scope["headers"], await request.body()))


@get(
    "/orders",
    tags=["orders"],
    summary="Your orders",
    description=(
        "Newest first, with live status. With `status=open` all that rest in a book, `open` or `partially_filled`, up "
        f"to {OPEN_LIMIT_MAX} a page; else all from the moment of their 202, up to {LATEST}. `before=` the `next` of a "
        "page, or any order_id of yours, gives the page behind it. With `side` a page may have fewer orders than "
        "`limit`, though there are more: only where `next` is null there are none. Source: log and books in Redis; of "
        "completed orders the archive in PostgreSQL, and the events in Redis that are not archived yet."
    ),
    responses=operations.problems("422 invalid_status", "422 invalid_side", "422 invalid_before", "503 unavailable"),
    security=BEARER,
    operation_id="list_orders",
)
async def list_orders(
    request: Request,  # type: ignore[type-arg]
    *,
    status: Annotated[
        str | None, Parameter(description="`open`: only those that rest in a book", schema_extra={"enum": ["open"]})
    ] = None,
    card: Annotated[str | None, Parameter(description="only this card")] = None,
    side: Annotated[
        str | None, Parameter(description="only this side", schema_extra={"enum": [side.value for side in Side]})
    ] = None,
    before: Annotated[
        str | None, Parameter(description="an order_id of yours", schema_extra={"format": "order_id"})
    ] = None,
    limit: Annotated[
        int,
        Parameter(ge=1, le=OPEN_LIMIT_MAX, description=f"how many at most; above {LATEST} only with `status=open`"),
    ] = LATEST,
) -> OrdersPageView:
    """A trader's orders."""
    context, caller = caller_of(request)
    order_filter = OrderFilter(status=status, card=card, side=side, before=before, limit=limit)
    return orders_page_view(*await context.exchange.orders(caller, order_filter))


@get(
    "/orders/{order_id:str}",
    tags=["orders"],
    summary="One order",
    description=(
        "Answers from the moment of the 202, with the order's fills. Source: the log, books and events in Redis; the "
        "archive in PostgreSQL for older completed orders and older fills. Another trader's order is 404."
    ),
    responses={
        200: operations.answer(MatchedOrderView, "The order and its fills.", **MATCHED),
        **operations.problems("404 order_not_found", "503 unavailable"),
    },
    security=BEARER,
    operation_id="get_order",
)
async def get_order(request: Request, order_id: FromPath[str]) -> MatchedOrderView:  # type: ignore[type-arg]
    """An order by its id."""
    context, caller = caller_of(request)
    actor = _actor(request, caller)
    order = await context.administration.find_order(context.exchange, caller, actor, order_id)
    return matched_view(order, await context.exchange.fills_of(order))


@get(
    "/orders/by-client-id/{client_order_id:str}",
    tags=["orders"],
    summary="One order, by your own id",
    description=(
        "The latest order with this client_order_id, over all cards, with its fills. Source: Redis for the last 24 "
        "hours, then the archive in PostgreSQL, which also has older fills."
    ),
    responses={
        200: operations.answer(MatchedOrderView, "The order and its fills.", **MATCHED),
        **operations.problems("404 order_not_found", "503 unavailable"),
    },
    security=BEARER,
    operation_id="get_order_by_client_id",
)
async def get_order_by_client_id(
    request: Request,  # type: ignore[type-arg]
    client_order_id: FromPath[str],
) -> MatchedOrderView:
    """An order by its trader's id."""
    context, caller = caller_of(request)
    order = await context.exchange.find_by_client_id(caller, client_order_id)
    return matched_view(order, await context.exchange.fills_of(order))


@patch(
    "/orders/{order_id:str}",
    status_code=202,
    tags=["orders"],
    summary="Replace an order",
    description=(
        "Changes price, quantity or both in one step; `quantity` is the new total, which counts what is filled. At the "
        "same price, and with no more than before, the order keeps its id and its place in the queue. Anything else is "
        "a new order with a new id and place: `replaces` and `replaced_by` name each other, the old one is canceled "
        "with the reason `replaced`, and the new one carries what is filled, so that both together never fill more "
        "than the total. An order that has filled the new total or more is canceled with the reason `already_filled`. "
        "If the order is completed before the replace is matched, the new order is canceled with the reason "
        "`order_completed`. Side, time in force and, unless it is given, post_only stay. Answers 202 once the replace "
        "is durable; with `Prefer: wait=N`, 200 after matching, with the fills of the order by then. With a "
        "`client_order_id` a repeat gives the first outcome. Source: the log and books in Redis."
    ),
    operation_class=operations.ReplaceOrderOperation,
    responses={
        200: operations.answer(
            MatchedOrderView,
            "With `Prefer: wait=N`: the new order, or the same one where it kept its place, after matching.",
            **REPLACED,
            trades=[],
            average_price=None,
        ),
        202: operations.answer(
            OrderView,
            "The new order, not matched yet; or the order as it is, where it will keep its place.",
            **REPLACED | ACCEPTED,
        ),
        **operations.problems(
            *("404 order_not_found", "409 order_completed", "409 client_order_id_conflict", RATE_LIMITED),
            *(*CHANGE_FIELDS, HALTED, *APPENDS),
        ),
    },
    security=BEARER,
    operation_id="replace_order",
)
async def replace_order(request: Request, order_id: FromPath[str]) -> Response[OrderView]:  # type: ignore[type-arg]
    """Replaces an order."""
    context, caller = caller_of(request)
    seconds = wait_seconds(list_header(request.scope["headers"], b"prefer"))
    decoder = context.decoder
    change = await decoder.offload(decoder.decode_change, await request.body())
    replaced = await context.exchange.replace(caller, order_id, change, seconds)
    if isinstance(replaced, tuple):
        return Response(matched_view(*replaced), status_code=200)
    return Response(order_view(replaced), status_code=202)


@delete(
    "/orders/{order_id:str}",
    status_code=202,
    tags=["orders"],
    summary="Cancel an order",
    description=(
        "The cancel takes its place in the card's log: what was matched before it stays. Answers 202 once it is "
        "durable; with `Prefer: wait=N`, 200 with the order after matching. Source: the log and books in Redis."
    ),
    operation_class=operations.WaitOperation,
    responses={
        200: operations.answer(
            OrderView, "With `Prefer: wait=N`: the order after matching, canceled or completed before.", **CANCELED
        ),
        202: operations.answer(OrderView, "The order as it is; its cancel is durable and not matched yet."),
        **operations.problems("404 order_not_found", "409 order_completed", *APPENDS),
    },
    security=BEARER,
    operation_id="cancel_order",
)
async def cancel_order(request: Request, order_id: FromPath[str]) -> Response[OrderView]:  # type: ignore[type-arg]
    """Cancels an order."""
    context, caller = caller_of(request)
    seconds = wait_seconds(list_header(request.scope["headers"], b"prefer"))
    actor = _actor(request, caller)
    after, matched = await context.administration.cancel_order(context.exchange, caller, actor, order_id, seconds)
    return Response(order_view(after), status_code=200 if matched else 202)


@delete(
    "/orders",
    status_code=202,
    tags=["orders"],
    summary="Cancel all your open orders",
    description=(
        "On one card, or on all: puts a cancel for each into the log, so none is missed that was accepted before, "
        "matched or not. Answers 202 with the orders that were open, once the cancels are durable. With "
        "`Prefer: wait=N`, 200 after matching with the orders that they canceled, or 202 if N seconds pass first. "
        "Newest first, of each card the newest 10,000. Source: log, books and events in Redis."
    ),
    operation_class=operations.WaitOperation,
    responses={
        200: operations.answer(
            OrdersView, "With `Prefer: wait=N`: the orders that were open, after matching.", orders=[CANCELED]
        ),
        202: operations.answer(OrdersView, "The orders that were open; the cancels are durable and not matched yet."),
        **operations.problems(*APPENDS),
    },
    security=BEARER,
    operation_id="cancel_orders",
)
async def cancel_orders(
    request: Request,  # type: ignore[type-arg]
    card: Annotated[str | None, Parameter(description="only this card")] = None,
) -> Response[OrdersView]:
    """Cancels all open orders of the caller."""
    context, caller = caller_of(request)
    seconds = wait_seconds(list_header(request.scope["headers"], b"prefer"))
    orders, matched = await context.exchange.cancel_all(caller, card, seconds)
    return Response(orders_view(orders), status_code=200 if matched else 202)


ROUTES = [
    place_order,
    place_orders,
    list_orders,
    get_order_by_client_id,
    get_order,
    replace_order,
    cancel_order,
    cancel_orders,
]
