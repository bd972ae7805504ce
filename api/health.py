"""`/health`: whether the process lives, and whether it can work."""

import asyncio
from collections.abc import Awaitable

from litestar import Request, Response, get

from api import describe
from api.context import context_of
from api.views import HealthView
from engine.errors import TcgxError


@get(
    "/health/live",
    tags=["health"],
    summary="Liveness",
    description="200 while the process answers. Source: the process alone; no server is asked.",
    operation_id="get_liveness",
)
async def live() -> HealthView:
    """The process lives."""
    return HealthView("live")


@get(
    "/health/ready",
    tags=["health"],
    summary="Readiness",
    description=(
        "503 names what is missing: redis, postgresql, engine (nobody matches), archiver (nobody archives). "
        "Source: Redis and PostgreSQL, asked now."
    ),
    responses={
        200: describe.answer(HealthView, "Every part is there.", status="ready"),
        503: describe.answer(HealthView, "A part is missing.", status="not_ready", missing=["redis"]),
    },
    operation_id="get_readiness",
)
async def ready(request: Request) -> Response[HealthView]:  # type: ignore[type-arg]
    """Every part that orders need is there."""
    exchange = context_of(request).exchange
    checks: dict[str, Awaitable[bool]] = {
        "redis": exchange.books.answers(),
        "engine": exchange.books.has_engine(),
        "postgresql": exchange.archive.answers(),
        "archiver": exchange.archive.has_archiver(),
    }
    outcomes = await asyncio.gather(*checks.values(), return_exceptions=True)
    for outcome in outcomes:
        if isinstance(outcome, BaseException) and not isinstance(outcome, TcgxError):
            raise outcome
    missing = [name for name, outcome in zip(checks, outcomes, strict=True) if outcome is not True]
    status = "not_ready" if missing else "ready"
    return Response(HealthView(status, missing), status_code=503 if missing else 200)


ROUTES = [live, ready]
