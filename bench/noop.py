"""`python -m bench.noop`: a typed handler of Litestar that decodes the body of an order with msgspec and does nothing.

It is served exactly as the API is, by `api.server`, whatever HTTP server that uses: only the application is another.
"""

import os
import sys
from functools import partial
from typing import Literal

import msgspec
from litestar import Litestar, post
from litestar.config.app import AppConfig
from litestar.datastructures import State

from api.fast_path import FastPath
from api.server import serve
from core import service
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


def create_noop_app(settings: Settings) -> Litestar:
    """As plain as Litestar gets: no OpenAPI document, no logging. No call is answered beside it."""
    return Litestar(
        route_handlers=[noop],
        state=State({"fast_path": FastPath({}, body_bytes_max=settings.body_bytes_max)}),
        openapi_config=None,
        on_app_init=[without_logging],
    )


def without_logging(config: AppConfig) -> AppConfig:
    """Of Litestar, which would set up its own."""
    config.logging_config = None
    return config


if __name__ == "__main__":
    sys.exit(service.run("noop", partial(serve, create_app=create_noop_app), dict(os.environ)))
