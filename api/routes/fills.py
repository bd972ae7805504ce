"""`/fills`: the fills of the caller's orders."""

from typing import Annotated

from litestar import Request, get
from litestar.params import Parameter

from api.context import caller_of
from api.openapi import operations
from api.routes.orders import BEARER
from api.views import FillsView, fill_view
from exchange.service import PAGE_LIMIT_MAX


@get(
    "/fills",
    tags=["orders"],
    summary="Your fills",
    description=(
        "Every trade of your orders, newest first, as soon as it is matched; a trade with yourself is two fills. "
        "`before=` the `next` of a page gives the page behind it. A page may have fewer fills than `limit`, or none, "
        "though there are more: only where `next` is null there are none. The other trader is never named. Source: "
        "the archive in PostgreSQL, and the events in Redis that are not archived yet."
    ),
    responses=operations.problems("422 invalid_order_id", "422 invalid_before", "503 unavailable"),
    security=BEARER,
    operation_id="list_fills",
)
async def list_fills(
    request: Request,  # type: ignore[type-arg]
    card: Annotated[str | None, Parameter(description="only this card")] = None,
    order_id: Annotated[str | None, Parameter(description="only this order of yours")] = None,
    before: Annotated[
        str | None, Parameter(description="the `next` of a page", schema_extra={"format": "fill_key"})
    ] = None,
    limit: Annotated[int, Parameter(ge=1, le=PAGE_LIMIT_MAX, description="how many at most")] = 50,
) -> FillsView:
    """A trader's fills."""
    context, caller = caller_of(request)
    found, following = await context.exchange.fills(caller, card=card, name=order_id, before=before, limit=limit)
    return FillsView([fill_view(fill) for fill in found], following)


ROUTES = [list_fills]
