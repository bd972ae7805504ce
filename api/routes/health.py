"""`/health`: whether the process lives, and whether it can work."""

from litestar import Request, Response, get

from api.context import context_of
from api.openapi import operations
from api.views import HealthView


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
        "503 `draining`: this process is about to stop. "
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
    if request.app.state.get("draining"):
        return Response(HealthView("draining", []), status_code=503)
    report = await context_of(request).readiness.report()
    status = "not_ready" if report.missing else "ready"
    view = HealthView(status, list(report.missing), list(report.reasons))
    return Response(view, status_code=503 if report.missing else 200)


ROUTES = [live, ready]
