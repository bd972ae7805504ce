"""The services that all handlers share; `create_app` makes them once."""

from typing import Any, cast

import msgspec
from litestar.connection import ASGIConnection

from api.decoding import OrderDecoder
from api.gate import Gate
from core.settings import Settings
from exchange.administration import Administration
from exchange.archive_reader import ArchiveReader
from exchange.auth import Authenticator
from exchange.market import Market
from exchange.readiness import Readiness
from exchange.service import Exchange
from exchange.tokens import Caller
from streams.hub import Hub


class Context(msgspec.Struct, frozen=True):
    """The services behind the routes."""

    settings: Settings
    exchange: Exchange
    market: Market
    archive_reader: ArchiveReader
    authenticator: Authenticator
    gate: Gate
    decoder: OrderDecoder
    readiness: Readiness
    administration: Administration
    hub: Hub


def context_of(request: ASGIConnection[Any, Any, Any, Any]) -> Context:
    """The context of a request's app."""
    return cast(Context, request.app.state.context)


def caller_of(request: ASGIConnection[Any, Any, Any, Any]) -> tuple[Context, Caller]:
    """Returns the context of a request's app, and the authenticated caller.

    Raises:
        TcgxError: see `Gate.admit`.
    """
    context = context_of(request)
    caller = context.gate.admit(request.scope["headers"])
    request.scope["state"]["trader_id"] = caller.trader_id
    return context, caller
