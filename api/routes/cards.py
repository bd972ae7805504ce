"""`/cards`: public market data, from Redis."""

import asyncio
from typing import Annotated

from litestar import Request, get
from litestar.params import FromPath, Parameter

from api.context import context_of
from api.openapi import operations
from api.problems import ApiError, shown
from api.views import BookView, CardsView, CardView, TradesView, book_view, card_view, trades_view
from core.model import LATEST

DEPTH_MAX = 1_000


def _card_of_path(request: Request, card: str) -> str:  # type: ignore[type-arg]
    cards = context_of(request).exchange.cards
    if card not in cards:
        detail = f"there is no card {shown(card)}; there are {', '.join(cards)}"
        raise ApiError(404, "unknown_card", "Unknown card", detail)
    return card


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
        depth, trades = await exchange.books.depth(card, 1), await exchange.books.latest_trades(card, 1)
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
    books = context_of(request).exchange.books
    return book_view(card, await books.depth(_card_of_path(request, card), depth))


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
    books = context_of(request).exchange.books
    return trades_view(await books.latest_trades(_card_of_path(request, card), limit))


ROUTES = [list_cards, get_book, list_trades]
