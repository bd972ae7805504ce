"""Candles and tickers: public market data over archive and live tail."""

from typing import Annotated

from litestar import Request, get
from litestar.params import FromPath, Parameter

from api.context import context_of
from api.market_views import CandlesView, TickersView, TickerView, candles_view, ticker_view
from api.openapi import operations
from core.candles import CANDLE_SECONDS
from exchange.market import CANDLES_MAX, FILLS, CandleQuery

SOURCE = "Source: the archive in PostgreSQL, and the events in Redis that are not archived yet"


@get(
    "/cards/{card:str}/candles",
    tags=["cards"],
    summary="A card's candles",
    description=(
        "Open, high, low, close and volume of the trades in each interval `[start, start + interval)`, oldest first. "
        "With `start`, the first candles that begin at or after it; else the latest ones. `end` is not included. A "
        "page with `next` goes on at `start=` that time. The running candle has `closed: false`. With `fill=none` an "
        "interval without a trade has no candle; with `fill=previous` it has one of the previous close and volume 0, "
        f"from the first trade of the card up to now. {SOURCE}."
    ),
    responses=operations.problems(
        *("422 invalid_interval", "422 invalid_fill", "422 invalid_start", "422 invalid_end", "503 unavailable")
    ),
    operation_id="list_candles",
)
async def list_candles(
    request: Request,  # type: ignore[type-arg]
    card: FromPath[str],
    *,
    interval: Annotated[str, Parameter(description="of a candle", schema_extra={"enum": [*CANDLE_SECONDS]})],
    start: Annotated[
        str | None, Parameter(description="only candles that begin then or later", schema_extra={"format": "moment"})
    ] = None,
    end: Annotated[
        str | None, Parameter(description="only candles that begin before", schema_extra={"format": "moment"})
    ] = None,
    fill: Annotated[
        str, Parameter(description="what stands for an interval without a trade", schema_extra={"enum": [*FILLS]})
    ] = "none",
    limit: Annotated[int, Parameter(ge=1, le=CANDLES_MAX, description="how many at most")] = 500,
) -> CandlesView:
    """Candles of a card."""
    query = CandleQuery(interval=interval, start=start, end=end, fill=fill, limit=limit)
    return candles_view(card, interval, await context_of(request).market.candles(card, query))


@get(
    "/cards/{card:str}/ticker",
    tags=["cards"],
    summary="A card's prices now and of 24 hours",
    description=(
        "Last price, best bid and ask; first, highest and lowest price and volume of the last 24 hours, to the minute. "
        f"While the archive cannot be read, `complete` is false and these four are null. {SOURCE}; books in Redis."
    ),
    responses=operations.problems("503 unavailable"),
    operation_id="get_ticker",
)
async def get_ticker(request: Request, card: FromPath[str]) -> TickerView:  # type: ignore[type-arg]
    """The ticker of a card."""
    (ticker,) = await context_of(request).market.tickers([card])
    return ticker_view(ticker)


@get(
    "/ticker",
    tags=["cards"],
    summary="All cards' prices now and of 24 hours",
    description=f"As `/cards/{{card}}/ticker`, of every card. {SOURCE}; books in Redis.",
    responses=operations.problems("503 unavailable"),
    operation_id="list_tickers",
)
async def list_tickers(request: Request) -> TickersView:  # type: ignore[type-arg]
    """The tickers of every card that is traded."""
    context = context_of(request)
    tickers = await context.market.tickers(context.exchange.cards)
    return TickersView([ticker_view(ticker) for ticker in tickers])


ROUTES = [list_candles, get_ticker, list_tickers]
