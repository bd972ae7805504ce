"""`/cards`: public market data, from Redis."""

import asyncio
from typing import Annotated

from litestar import Request, get
from litestar.params import FromPath, Parameter

from api.context import context_of
from api.openapi import operations
from api.views import BookView, CardsView, CardView, TradesView, book_view, card_view, trades_view
from core.model import LATEST
from exchange.service import DEPTH_MAX


@get(
    "/cards",
    tags=["cards"],
    summary="All cards",
    description=(
        "Every card with its best bid, best ask and last price, and the bounds of its orders' prices and quantities. "
        "Source: books in Redis, and the settings."
    ),
    responses=operations.problems("503 unavailable"),
    operation_id="list_cards",
)
async def list_cards(request: Request) -> CardsView:  # type: ignore[type-arg]
    """Every card that is traded."""
    context = context_of(request)
    exchange = context.exchange

    async def view(card: str) -> CardView:
        depth, trades = await exchange.book(card, 1), await exchange.latest_trades(card, 1)
        return card_view(card, depth, trades, context.settings)

    return CardsView(await asyncio.gather(*(view(card) for card in exchange.cards)))


@get(
    "/cards/{card:str}/book",
    tags=["cards"],
    summary="A card's order book",
    description="Price levels, best first, as [price, quantity]. Source: books in Redis.",
    responses=operations.problems("503 unavailable"),
    operation_id="get_book",
)
async def get_book(
    request: Request,  # type: ignore[type-arg]
    card: FromPath[str],
    depth: Annotated[int, Parameter(ge=1, le=DEPTH_MAX, description="how many levels a side")] = 20,
) -> BookView:
    """The levels of a book."""
    return book_view(card, await context_of(request).exchange.book(card, depth))


@get(
    "/cards/{card:str}/trades",
    tags=["cards"],
    summary="A card's latest trades",
    description="Newest first. Source: Redis; older ones are in `/history/trades`.",
    responses=operations.problems("503 unavailable"),
    operation_id="list_card_trades",
)
async def list_trades(
    request: Request,  # type: ignore[type-arg]
    card: FromPath[str],
    limit: Annotated[int, Parameter(ge=1, le=LATEST, description="how many at most")] = LATEST,
) -> TradesView:
    """The latest trades of a card."""
    return trades_view(await context_of(request).exchange.latest_trades(card, limit))


ROUTES = [list_cards, get_book, list_trades]
