"""`/history`: completed orders and trades, from PostgreSQL, in pages and as CSV."""

from typing import Annotated

from litestar import Request, get
from litestar.openapi.datastructures import ResponseSpec
from litestar.openapi.spec import Example
from litestar.params import Parameter
from litestar.types import ASGIApp

from api.context import caller_of, context_of
from api.csv_answer import MEDIA_TYPE, CsvAnswer
from api.openapi import operations
from api.routes.orders import BEARER, FILLED
from api.views import HistoryOrdersView, HistoryTradesView, history_orders_view, history_trades_view
from archiver.archive_pages import ORDER_FIELDS, TRADE_FIELDS
from core.model import Side
from exchange.archive_reader import PAGE_LIMIT_MAX, STATUSES, HistoryQuery

PAGES = (
    "`before=` the `next` of a page, or any id, gives what is older; `after=` the `previous` of a page, or any id, "
    "what is newer. A page may have fewer than `limit`, or none, though there are more: `next` and `previous` tell."
)
CSV = (
    "As CSV (RFC 4180) with a header: the fields are those of the JSON, in UTC; a field that is null there is empty. "
    "Oldest first, without a limit of rows. An answer that ends without its last chunk is not complete."
)
SOURCE = "Source: the archive in PostgreSQL."

Limit = Annotated[int, Parameter(ge=1, le=PAGE_LIMIT_MAX, description="how many at most")]
CardOrNone = Annotated[str | None, Parameter(description="only this card")]
CardOfTrades = Annotated[str, Parameter(description="the card")]
StatusOrNone = Annotated[str | None, Parameter(description="only this status", schema_extra={"enum": [*STATUSES]})]
SideOrNone = Annotated[
    str | None, Parameter(description="only this side", schema_extra={"enum": [side.value for side in Side]})
]
TakerSideOrNone = Annotated[
    str | None,
    Parameter(
        description="only trades whose taker has this side", schema_extra={"enum": [side.value for side in Side]}
    ),
]
Since = Annotated[str | None, Parameter(description="only from then on", schema_extra={"format": "moment"})]
Until = Annotated[str | None, Parameter(description="only before then", schema_extra={"format": "moment"})]
OrderPlace = Annotated[
    str | None, Parameter(description="an order_id of yours in the archive", schema_extra={"format": "order_id"})
]
TradePlace = Annotated[str | None, Parameter(description="a trade_id", schema_extra={"format": "trade_id"})]

TIMES = ("422 invalid_since", "422 invalid_until")
PLACES = ("422 invalid_before", "422 invalid_after")


def _csv(fields: tuple[str, ...], line: str) -> ResponseSpec:
    return ResponseSpec(
        data_container=str,
        description="A header and a line for each row.",
        media_type=MEDIA_TYPE,
        generate_examples=False,
        examples=[Example(summary="An example", value=f"{','.join(fields)}\r\n{line}\r\n")],
    )


@get(
    "/history/orders",
    tags=["history"],
    summary="Your completed orders",
    description=f"By time of acceptance (`since`, `until` too), newest first. {PAGES} {SOURCE}",
    responses={
        200: operations.answer(HistoryOrdersView, "The completed orders.", orders=[FILLED]),
        **operations.problems("422 invalid_status", "422 invalid_side", *TIMES, *PLACES, "503 unavailable"),
    },
    security=BEARER,
    operation_id="list_history_orders",
)
async def list_orders(
    request: Request,  # type: ignore[type-arg]
    *,
    card: CardOrNone = None,
    status: StatusOrNone = None,
    side: SideOrNone = None,
    since: Since = None,
    until: Until = None,
    before: OrderPlace = None,
    after: OrderPlace = None,
    limit: Limit = 50,
) -> HistoryOrdersView:
    """A trader's completed orders."""
    context, caller = caller_of(request)
    query = HistoryQuery(
        card=card, status=status, side=side, since=since, until=until, before=before, after=after, limit=limit
    )
    return history_orders_view(await context.archive_reader.orders(caller, query))


@get(
    "/history/trades",
    tags=["history"],
    summary="All trades of a card",
    description=f"Newest first; `since` and `until` by time of the trade. {PAGES} {SOURCE}",
    responses=operations.problems("422 invalid_side", *TIMES, *PLACES, "503 unavailable"),
    operation_id="list_history_trades",
)
async def list_trades(
    request: Request,  # type: ignore[type-arg]
    *,
    card: CardOfTrades,
    side: TakerSideOrNone = None,
    since: Since = None,
    until: Until = None,
    before: TradePlace = None,
    after: TradePlace = None,
    limit: Limit = 50,
) -> HistoryTradesView:
    """A card's trades."""
    query = HistoryQuery(card=card, side=side, since=since, until=until, before=before, after=after, limit=limit)
    return history_trades_view(await context_of(request).archive_reader.trades(query))


@get(
    "/history/orders.csv",
    tags=["history"],
    summary="Your completed orders as CSV",
    description=f"{CSV} {SOURCE}",
    responses={
        200: _csv(
            tuple(ORDER_FIELDS),
            "pikachu-1001,my-order-1,pikachu,buy,5.50,1,1,filled,gtc,2026-11-22T23:53:06.123Z,2026-11-22T23:53:06.125Z",
        ),
        **operations.problems(
            *("422 invalid_status", "422 invalid_side", *TIMES, "503 too_many_exports", "503 unavailable")
        ),
    },
    security=BEARER,
    operation_id="export_history_orders",
)
async def export_orders(
    request: Request,  # type: ignore[type-arg]
    *,
    card: CardOrNone = None,
    status: StatusOrNone = None,
    side: SideOrNone = None,
    since: Since = None,
    until: Until = None,
) -> ASGIApp:
    """A trader's completed orders as CSV."""
    context, caller = caller_of(request)
    query = HistoryQuery(card=card, status=status, side=side, since=since, until=until)
    return CsvAnswer(await context.archive_reader.export_orders(caller, query), "orders.csv")


@get(
    "/history/trades.csv",
    tags=["history"],
    summary="All trades of a card as CSV",
    description=f"{CSV} {SOURCE}",
    responses={
        200: _csv(tuple(TRADE_FIELDS), "pikachu-t17,pikachu,5.50,1,buy,2026-11-22T23:53:06.123Z"),
        **operations.problems("422 invalid_side", *TIMES, "503 too_many_exports", "503 unavailable"),
    },
    operation_id="export_history_trades",
)
async def export_trades(
    request: Request,  # type: ignore[type-arg]
    *,
    card: CardOfTrades,
    side: TakerSideOrNone = None,
    since: Since = None,
    until: Until = None,
) -> ASGIApp:
    """A card's trades as CSV."""
    query = HistoryQuery(card=card, side=side, since=since, until=until)
    return CsvAnswer(await context_of(request).archive_reader.export_trades(query), f"trades-{card}.csv")


ROUTES = [list_orders, list_trades, export_orders, export_trades]
