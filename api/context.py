"""What the handlers share, made once in `create_app`."""

from typing import Any, cast

import msgspec
from litestar.connection import ASGIConnection

from api.decoding import OrderDecoder
from api.problems import FieldError, invalid
from archiver.history import ArchivedHistory
from core.settings import Settings
from exchange.auth import Authenticator
from exchange.service import Exchange


class Context(msgspec.Struct, frozen=True):
    """The services behind the routes."""

    settings: Settings
    exchange: Exchange
    authenticator: Authenticator
    bodies: OrderDecoder
    history: ArchivedHistory

    def known_card(self, card: str, field: str = "card") -> str:
        """The card, if it is traded.

        Raises:
            ApiError: 422, it is not.
        """
        if card not in self.exchange.cards:
            rule = "must be one of " + ", ".join(self.exchange.cards)
            raise invalid([FieldError(field, "unknown_card", rule, card[:80])])
        return card


def context_of(request: ASGIConnection[Any, Any, Any, Any]) -> Context:
    """The context of a request's app."""
    return cast(Context, request.app.state.context)
