"""`/orders/cancel-after`: a switch that cancels a trader's orders unless its client sets it again in time."""

from typing import Any

from litestar import Request, get, put

from api.context import caller_of
from api.deadline_views import CancelAfterView, cancel_after_view
from api.decoding import TOKEN_BYTES_MAX, decode_cancel_after_body
from api.openapi import operations
from api.routes.orders import BEARER
from core.model import CANCEL_AFTER_SECONDS_MAX

OFF: dict[str, Any] = {"seconds": 0, "cancel_at": None, "lease": None}
ON: dict[str, Any] = {"seconds": 60, "cancel_at": "2026-11-22T23:54:06.123Z", "lease": None}


@put(
    "/orders/cancel-after",
    tags=["orders"],
    summary="Cancel your open orders unless you say again that you live",
    description=(
        "A dead man's switch. Once so many seconds pass without another call, the exchange puts a cancel for each of "
        "your open orders on all cards into the log, and the switch is off. Call it again in time to renew it: each "
        "call replaces the one before; 0 turns it off. It is off unless you set it. The time is counted by Redis. "
        f"At most {CANCEL_AFTER_SECONDS_MAX:,} seconds. While the exchange itself is down the time stands still: "
        "afterwards it begins anew, for a minute at most. Source: Redis."
    ),
    operation_class=operations.CancelAfterOperation,
    responses={
        200: operations.answer(CancelAfterView, "When your open orders are canceled.", **ON),
        **operations.problems("422 invalid_seconds", "503 overloaded", "503 unavailable", "503 history_conflict"),
    },
    security=BEARER,
    request_max_body_size=TOKEN_BYTES_MAX,
    operation_id="set_cancel_after",
)
async def set_cancel_after(request: Request) -> CancelAfterView:  # type: ignore[type-arg]
    """Sets or clears the switch of the caller."""
    context, caller = caller_of(request)
    seconds = decode_cancel_after_body(await request.body())
    return cancel_after_view(await context.exchange.cancel_after(caller, seconds))


@get(
    "/orders/cancel-after",
    tags=["orders"],
    summary="When your open orders are canceled",
    description="The switch of `PUT /orders/cancel-after`, and the lease of a stream. Source: Redis.",
    responses={
        200: operations.answer(CancelAfterView, "When your open orders are canceled.", **OFF),
        **operations.problems("503 unavailable"),
    },
    security=BEARER,
    operation_id="get_cancel_after",
)
async def get_cancel_after(request: Request) -> CancelAfterView:  # type: ignore[type-arg]
    """The switch of the caller."""
    context, caller = caller_of(request)
    return cancel_after_view(await context.exchange.deadlines_of(caller))


ROUTES = [set_cancel_after, get_cancel_after]
