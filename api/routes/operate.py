"""`/operate`: panels, alerts and log lines for admins. It exists where TCGX_PROMETHEUS_URL or TCGX_LOG_DIR is set.

The page itself says nothing: it asks for a token, and gets all data with it from the two calls below.
"""

import asyncio
import time
from pathlib import Path
from typing import Annotated, Any, Literal

from litestar import Request, Response, get
from litestar.params import FromQuery, Parameter

from api.context import caller_of
from api.pages import PageFiles
from core.settings import Settings
from exchange.administration import require_admin
from observe import charts, log_view, panels
from observe.prometheus import PrometheusReader

AnyRequest = Request[Any, Any, Any]

FILES = PageFiles("observe", "page")
MINUTES_MAX = 7 * 24 * 60
TEXT_CHARACTERS_MAX = 200
AT_ONCE = asyncio.Semaphore(2)
"""Views that are made at once; further ones wait, so that operators do not slow orders down."""


@get("/operate", include_in_schema=False, sync_to_thread=False)
def page(request: AnyRequest) -> Response[bytes]:
    """The page."""
    return FILES.answer(request, "operate.html")


@get("/operate/operate.css", include_in_schema=False, sync_to_thread=False)
def style(request: AnyRequest) -> Response[bytes]:
    """Its style."""
    return FILES.answer(request, "operate.css")


@get("/operate/operate.js", include_in_schema=False, sync_to_thread=False)
def script(request: AnyRequest) -> Response[bytes]:
    """Its script."""
    return FILES.answer(request, "operate.js")


def _settings_for_admin(request: AnyRequest) -> Settings:
    context, caller = caller_of(request)
    require_admin(caller)
    return context.settings


@get("/operate/panels", include_in_schema=False, operation_id="show_panels")
async def show_panels(
    request: AnyRequest, minutes: Annotated[int, Parameter(ge=1, le=MINUTES_MAX)] = 15
) -> dict[str, Any]:
    """All panels as SVG, and the alerts."""
    settings = _settings_for_admin(request)
    if not settings.prometheus_url:
        return {"rows": [], "alerts": []}
    async with AT_ONCE:
        return await asyncio.to_thread(drawn, PrometheusReader(settings.prometheus_url), minutes)


def drawn(reader: PrometheusReader, minutes: int) -> dict[str, Any]:
    """The rows of panels of the last minutes, and the alerts.

    Raises:
        Unavailable: Prometheus does not answer.
    """
    ended_at = time.time()
    began_at = ended_at - 60 * minutes
    rows = [
        {
            "title": row.title,
            "panels": [
                charts.svg(panel, charts.colored(panel, reader.panel(panel, began_at, ended_at)), began_at, ended_at)
                for panel in row.panels
            ],
        }
        for row in panels.ROWS
    ]
    return {"rows": rows, "alerts": reader.alerts()}


@get("/operate/logs", include_in_schema=False, operation_id="show_logs")
async def show_logs(
    request: AnyRequest,
    text: Annotated[str, Parameter(max_length=TEXT_CHARACTERS_MAX)] = "",
    level: FromQuery[Literal["debug", "info", "warning", "error"]] = "info",
) -> dict[str, Any]:
    """The latest log lines with this text, of this level or above."""
    settings = _settings_for_admin(request)
    if not settings.log_dir:
        return {"lines": []}
    async with AT_ONCE:
        return {"lines": await asyncio.to_thread(log_view.latest, Path(settings.log_dir), text=text, level=level)}


ROUTES = [page, style, script, show_panels, show_logs]
