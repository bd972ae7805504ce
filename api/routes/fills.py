"""`/fills`: what was traded of one's own orders."""

import re
from datetime import datetime
from typing import Annotated

from litestar import Request, get
from litestar.params import Parameter

from api.openapi import operations
from api.problems import FieldError, invalid
from api.routes.history import LIMIT_MAX
from api.routes.orders import BEARER, caller_of, own_order
from api.views import FillsView, fill_view
from core.model import Fill
from core.settings import CARD_PATTERN
from exchange.order_reader import FillKey
from exchange.service import SEQUENCE

TIME_PATTERN = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z"
PLACE = re.compile(rf"({TIME_PATTERN})~({CARD_PATTERN.pattern})-t({SEQUENCE.pattern})~(maker|taker)", re.ASCII)


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
        str | None, Parameter(description="the `next` of a page", schema_extra={"format": "fill_place"})
    ] = None,
    limit: Annotated[int, Parameter(ge=1, le=LIMIT_MAX, description="how many at most")] = 50,
) -> FillsView:
    """A trader's fills."""
    context, identity = caller_of(request)
    exchange = context.exchange
    if card is not None:
        context.known_card(card)
    start = None if before is None else _key(before)
    if order_id is None:
        cards = exchange.cards if card is None else (card,)
        return _view(*await exchange.reader.fills(identity.trader_id, cards, before=start, limit=limit))
    order = await own_order(context, identity, "order_id", order_id)
    if card not in (None, order.card):
        raise invalid([FieldError("order_id", "invalid_order_id", f"must be an order_id of {card}", order_id)])
    return _view(*await exchange.reader.fills_of_order(order, before=start, limit=limit))


def _view(fills: list[Fill], following: FillKey | None) -> FillsView:
    return FillsView([fill_view(fill) for fill in fills], following and _text(following))


def _text(key: FillKey) -> str:
    """A place between two fills; clients send it back as it is."""
    return f"{key.executed_at}~{key.card}-t{key.number}~{'taker' if key.is_taker else 'maker'}"


def _key(text: str) -> FillKey:
    """The place that `_text` wrote."""
    found = PLACE.fullmatch(text)
    if not found or not _is_time(found[1]):
        raise invalid([FieldError("before", "invalid_before", "must be the `next` of a page of fills", text[:80])])
    return FillKey(found[1], found[2], int(found[3]), found[4] == "taker")


def _is_time(text: str) -> bool:
    try:
        datetime.fromisoformat(text)
    except ValueError:
        return False
    return True


ROUTES = [list_fills]
