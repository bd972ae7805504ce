"""`/graphql`: the controller, and the page to try queries."""

from collections.abc import Sequence
from datetime import timedelta
from typing import Any

from litestar import Request, Response, WebSocket, get
from litestar.connection import ASGIConnection
from litestar.params import FromPath
from strawberry.litestar import make_graphql_controller
from strawberry.subscriptions import GRAPHQL_SSE_PROTOCOL, GRAPHQL_TRANSPORT_WS_PROTOCOL

from api.context import context_of
from api.graphql.door import GraphqlDoor
from api.graphql.schema import make_schema
from api.pages import PageFiles
from core.settings import Settings

PATH = "/graphql"
INIT_SECONDS = 10
SUBSCRIPTIONS_MAX = 20
"""Operations of one socket at the same time."""

FILES = PageFiles("api.graphql", "explorer")


async def context_getter(
    request: Request[Any, Any, Any] | None = None, socket: WebSocket[Any, Any, Any] | None = None
) -> dict[str, Any]:
    """The context of the resolvers."""
    found: ASGIConnection[Any, Any, Any, Any] | None = request or socket
    assert found is not None  # noqa: S101 - Litestar gives one of the two
    return {"door": GraphqlDoor(context_of(found), found.scope)}


def routes(settings: Settings) -> Sequence[Any]:
    """The routes; none where GraphQL is off."""
    if settings.graphql == "off":
        return []
    base = make_graphql_controller(
        make_schema(settings),
        path=PATH,
        graphql_ide=None,
        allow_queries_via_get=False,
        context_getter=context_getter,
        subscription_protocols=(GRAPHQL_TRANSPORT_WS_PROTOCOL, GRAPHQL_SSE_PROTOCOL),
        connection_init_wait_timeout=timedelta(seconds=INIT_SECONDS),
        max_subscriptions_per_connection=SUBSCRIPTIONS_MAX,
        allowed_origins=settings.cors_origins,
    )

    class Controller(base):  # type: ignore[misc, valid-type]
        """The controller of strawberry. The token of a socket comes with `connection_init`."""

        include_in_schema = False

        async def on_ws_connect(self, context: dict[str, Any]) -> Any:
            """Takes the token from the payload; a wrong one is told by each operation that needs it."""
            given = context.get("connection_params", {}).get("authorization")
            if isinstance(given, str):
                context["door"].authorization = given.encode("latin-1", "replace")
            return await super().on_ws_connect(context)

    return [Controller, *([explorer, explorer_file] if settings.graphql == "explore" else [])]


@get(f"{PATH}/explorer", include_in_schema=False, sync_to_thread=False)
def explorer(request: Request[Any, Any, Any]) -> Response[bytes]:
    """The page."""
    return FILES.answer(request, "explorer.html")


@get(f"{PATH}/explorer/{{name:str}}", include_in_schema=False, sync_to_thread=False)
def explorer_file(request: Request[Any, Any, Any], name: FromPath[str]) -> Response[bytes]:
    """A file of the page."""
    return FILES.answer(request, name)
