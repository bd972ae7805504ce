"""`python -m bench.noop`: a typed handler of Litestar that decodes the body of an order with msgspec and does nothing.

It is served exactly as the API is, by `api.server`, whatever HTTP server that uses: only the application is another.
"""

import asyncio
import os
import sys
from collections.abc import Callable
from typing import Any, Literal

import msgspec
from litestar import Litestar, post
from litestar.config.app import AppConfig
from litestar.handlers import HTTPRouteHandler

from api.fast_path import FastPath
from api.server import serve
from core import service
from core.heartbeat import Progress
from core.settings import Settings


class NoopOrder(msgspec.Struct):
    """The body of `POST /orders`."""

    card: str
    side: Literal["buy", "sell"]
    price: str
    quantity: int = 1
    time_in_force: Literal["gtc", "ioc", "fok"] = "gtc"
    client_order_id: str | None = None


@post("/orders", status_code=202)
async def noop(data: NoopOrder) -> None:
    """Nothing."""


def plain_app(settings: Settings, handler: HTTPRouteHandler, **options: Any) -> Litestar:
    """As plain as Litestar gets: no OpenAPI document, no logging. No call is answered beside it."""
    app = Litestar(route_handlers=[handler], openapi_config=None, on_app_init=[_without_logging], **options)
    app.state.fast_path = FastPath({}, body_bytes_max=settings.body_bytes_max)
    return app


def _without_logging(config: AppConfig) -> AppConfig:
    """Of Litestar, which would set up its own."""
    config.logging_config = None
    return config


def run(name: str, create_app: Callable[[Settings], Litestar]) -> int:
    """Serves an app as `python -m api` serves the API; the exit code."""

    async def work(settings: Settings, stopping: asyncio.Event, _: Progress) -> None:
        await serve(settings, stopping, create_app)

    return service.run(name, work, dict(os.environ))


if __name__ == "__main__":
    sys.exit(run("noop", lambda settings: plain_app(settings, noop)))
