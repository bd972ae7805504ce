"""`/health`: whether the process lives, whether orders can be appended, and whether every part works."""

from litestar import Request, Response, get

from api.context import context_of
from api.openapi import operations
from api.views import HealthView, LivenessView, health_view

SOURCE = (
    "Source: Redis and PostgreSQL, asked within the last 0.2 s. "
    "The answer comes within a second, even if a server hangs."
)


@get(
    "/health/live",
    tags=["health"],
    summary="Liveness",
    description="200 while the process answers. Source: the process alone; no server is asked.",
    operation_id="get_liveness",
)
async def live() -> LivenessView:
    """The process lives."""
    return LivenessView("live", [])


@get(
    "/health/ready",
    tags=["health"],
    summary="Readiness",
    description=(
        "200 if an order can be appended here, for load balancers. 503 if Redis does not answer, is a replica, has too "
        "little memory, or does not keep orders as `TCGX_DURABILITY` says (`redis`); if it lacks the Lua library "
        "(`functions`); if log and archive do not belong together (`history`); or if too many commands wait to be "
        "matched (`backlog`). `engine`, `postgresql` and `archiver` are reported, but orders flow without them. "
        "Its `status` is `draining`, with 503, if this process is about to stop. " + SOURCE
    ),
    responses={
        200: operations.answer(HealthView, "Orders can be appended.", status="ready"),
        503: operations.answer(
            HealthView,
            "No order can be appended.",
            status="not_ready",
            missing=["redis"],
            reasons=["Redis did not answer"],
            parts={"redis": {"status": "missing", "reason": "Redis did not answer", "answered_ms": None}},
        ),
    },
    operation_id="get_readiness",
)
async def ready(request: Request) -> Response[HealthView]:  # type: ignore[type-arg]
    """Orders can be appended."""
    report = await context_of(request).readiness.report()
    if request.app.state.get("draining"):
        return Response(health_view(report, "draining"), status_code=503)
    if report.takes_orders:
        return Response(health_view(report, "ready"), status_code=200)
    return Response(health_view(report, "not_ready"), status_code=503)


@get(
    "/health",
    tags=["health"],
    summary="Health",
    description=(
        "200 if every part does its work, for monitoring: the same report as `/health/ready`. 503 if `missing` names a "
        f"part, even if orders can be appended without it. {SOURCE}"
    ),
    responses={
        200: operations.answer(HealthView, "Every part does its work.", status="healthy"),
        503: operations.answer(
            HealthView,
            "A part does not do its work.",
            status="unhealthy",
            missing=["engine"],
            reasons=["the engine hangs: its last heartbeat is 4 s old"],
            parts={
                "engine": {
                    "status": "hung",
                    "reason": "the engine hangs: its last heartbeat is 4 s old",
                    "heartbeat_seconds": 4.0,
                }
            },
        ),
    },
    operation_id="get_health",
)
async def health(request: Request) -> Response[HealthView]:  # type: ignore[type-arg]
    """Every part does its work."""
    report = await context_of(request).readiness.report()
    if report.missing:
        return Response(health_view(report, "unhealthy"), status_code=503)
    return Response(health_view(report, "healthy"), status_code=200)


ROUTES = [live, ready, health]
