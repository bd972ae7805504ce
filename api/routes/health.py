"""`/health`: whether the process lives, and whether it can work."""

import asyncio
from collections.abc import Awaitable

from litestar import Request, Response, get

from api.context import Context, context_of
from api.openapi import operations
from api.views import HealthView
from archiver import lag
from core.errors import TcgxError

LAG_SECONDS_MAX = 60
"""An archive that is further behind is not archived, whoever has the archiver's lock."""


@get(
    "/health/live",
    tags=["health"],
    summary="Liveness",
    description="200 while the process answers. Source: the process alone; no server is asked.",
    operation_id="get_liveness",
)
async def live() -> HealthView:
    """The process lives."""
    return HealthView("live", [])


@get(
    "/health/ready",
    tags=["health"],
    summary="Readiness",
    description=(
        "503 names what is missing: redis (or it can't be written to), functions (Redis has another Lua library, or "
        "none), engine (nobody matches), postgresql, archiver (nobody archives, or the archive is a minute behind), "
        "history (log and archive do not belong together; `reasons` says how). "
        "Source: Redis and PostgreSQL, asked now."
    ),
    responses={
        200: operations.answer(HealthView, "Every part is there.", status="ready"),
        503: operations.answer(HealthView, "A part is missing.", status="not_ready", missing=["redis"]),
    },
    operation_id="get_readiness",
)
async def ready(request: Request) -> Response[HealthView]:  # type: ignore[type-arg]
    """Every part that orders need is there."""
    context = context_of(request)
    exchange = context.exchange
    checks: dict[str, Awaitable[bool]] = {
        "redis": exchange.books.answers(),
        "functions": _has_functions(context),
        "engine": exchange.books.has_engine(),
        "postgresql": exchange.archive.answers(),
        "archiver": _archives(context),
    }
    outcomes = await asyncio.gather(*checks.values(), return_exceptions=True)
    for outcome in outcomes:
        if isinstance(outcome, BaseException) and not isinstance(outcome, TcgxError):
            raise outcome
    missing = [name for name, outcome in zip(checks, outcomes, strict=True) if outcome is not True]
    faults = context_of(request).history.faults
    if faults:
        missing.append("history")
    status = "not_ready" if missing else "ready"
    return Response(HealthView(status, missing, list(faults.values())), status_code=503 if missing else 200)


async def _has_functions(context: Context) -> bool:
    """Whether Redis has our library, as far as Redis answers: where it does not, that is what is missing."""
    try:
        return await context.exchange.books.has_functions()
    except TcgxError:
        return True


async def _archives(context: Context) -> bool:
    """Whether an archiver has its lock, and the archive follows: the lock may be left over from one that is gone."""
    exchange = context.exchange
    if not await exchange.archive.has_archiver():
        return False
    cursors = await exchange.archive.cursors(exchange.cards)
    return all(card.seconds < LAG_SECONDS_MAX for card in await lag.lag(exchange.books.client, cursors))


ROUTES = [live, ready]
