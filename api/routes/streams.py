"""`/stream`: live market data and own orders, as server-sent events and over a WebSocket."""

from typing import Annotated, Any

from litestar import Request, WebSocket, get, websocket
from litestar.openapi.datastructures import ResponseSpec
from litestar.openapi.spec import Example
from litestar.params import Parameter
from litestar.types import ASGIApp

from api.context import context_of
from api.gate import header
from api.openapi import error_codes, operations
from streams import channels as names
from streams.messages import BAD_MESSAGE, Bye
from streams.session import INTERVAL_MS, INTERVAL_MS_MAX
from streams.sse import EventStream
from streams.websocket import CUT, Door

OPTIONAL_BEARER: list[dict[str, list[str]]] = [{"bearer": []}, {}]
QUERY_REFUSED = Bye(BAD_MESSAGE, "bad_message", "the address takes no parameters: send `auth` and `subscribe`")
EXAMPLE = """\
event: hello
data: {"type":"hello","at":"2026-11-22T23:53:06.123Z","log":"9b1c…","heartbeat_seconds":10,"positions":{"pikachu":1042},"lease":null}

id: pikachu.1043
event: trades
data: {"channel":"trades","card":"pikachu","type":"trades","sequence":1043,"trades":[…]}

"""  # noqa: E501 - lines as they are sent


@get(
    "/stream",
    tags=["streams"],
    summary="Live data as server-sent events",
    description=(
        "Books, trades, prices, candles and your own orders, as they change. The messages are described at "
        "`/schema/asyncapi.yaml`. A stream ends with the event `bye`; come back with the header `Last-Event-ID`. "
        "The channel `orders` needs a token. "
        "Source: events of the matcher and books in Redis, and the archive for the prices of a day."
    ),
    responses={
        200: ResponseSpec(
            data_container=str,
            description="Events until the stream ends: `hello`, then those of the channels, `heartbeat`, and `bye`.",
            media_type="text/event-stream",
            generate_examples=False,
            examples=[Example(summary="An example", value=EXAMPLE)],
        ),
        **operations.problems(
            *error_codes.TOKEN,
            *("422 invalid_channels", "422 invalid_after", "429 rate_limited", "503 overloaded", "503 unavailable"),
        ),
    },
    security=OPTIONAL_BEARER,
    operation_id="stream_events",
)
async def stream_events(
    request: Request,  # type: ignore[type-arg]
    channels: Annotated[str, Parameter(description="channels, separated by commas: " + names.RULE)],
    after: Annotated[
        str | None, Parameter(description="the positions that you have, e.g. `pikachu.1042`; `Last-Event-ID` wins")
    ] = None,
    interval: Annotated[
        int, Parameter(ge=0, le=INTERVAL_MS_MAX, description="the shortest time between two deliveries, in ms")
    ] = INTERVAL_MS,
) -> ASGIApp:
    """A stream of events."""
    context = context_of(request)
    hub = context.hub
    headers = request.scope["headers"]
    wanted = names.parse_list(channels, hub.cards)
    last_id = header(headers, b"last-event-id")
    position_text = (after or "") if last_id is None else last_id.decode("latin-1")
    positions = names.parse_positions(position_text, hub.cards)
    caller = None if header(headers, b"authorization") is None else context.gate.admit(headers)
    session = await hub.begin(wanted, positions, address=_address(request), interval_ms=interval, caller=caller)
    return EventStream(hub, session)


@websocket("/stream/ws")
async def stream_socket(socket: WebSocket) -> None:  # type: ignore[type-arg]
    """A stream over a WebSocket. Errors are told after the handshake, since browsers hide those of a handshake."""
    context = context_of(socket)
    await socket.accept()
    if socket.scope["query_string"]:
        await socket.send_text(QUERY_REFUSED.message().json.decode())
        await socket.close(code=QUERY_REFUSED.code, reason=QUERY_REFUSED.reason)
        return
    extension: Any = (socket.scope.get("extensions") or {}).get(CUT) or {}
    door = Door(
        context.hub,
        socket.receive,
        socket.send,
        admit=lambda authorization: context.gate.admit([(b"authorization", authorization)]),
        cut=extension.get("cut", _do_nothing),
    )
    await door.serve(address=_address(socket), authorization=header(socket.scope["headers"], b"authorization"))


def _do_nothing(*_: object) -> None:
    """Stands in for the end of a connection under a server other than ours."""


def _address(request: Any) -> str:
    client = request.scope.get("client")
    return str(client[0]) if client else ""


ROUTES = [stream_events, stream_socket]
