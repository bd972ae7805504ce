"""A stream as server-sent events, an ASGI app for one request."""

from collections.abc import Sequence
from typing import Any

from litestar.types import Message as AsgiMessage
from litestar.types import Receive, Scope, Send

from streams import connection
from streams.hub import Hub
from streams.messages import Bye, Message
from streams.session import Session

HEADERS = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-store"),
    (b"x-accel-buffering", b"no"),
]
TRANSPORT = "tcgx.transport"
"""The extension of a scope that has the transport of the connection (api/http_protocol.py)."""


class EventStream:
    """The answer to a request for a stream."""

    def __init__(self, hub: Hub, session: Session) -> None:
        self._hub = hub
        self._session = session

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Sends events until the stream ends."""
        is_head = scope["state"].get("is_head")
        try:
            await send({"type": "http.response.start", "status": 200, "headers": HEADERS})
        except BaseException:
            self._hub.remove(self._session)
            raise
        if is_head:
            self._hub.remove(self._session)
            await send({"type": "http.response.body", "body": b"", "more_body": False})
            return
        sink = _Sink(send, scope)
        await connection.serve(self._hub, self._session, sink, _until_disconnected(receive))


class _Sink:
    def __init__(self, send: Send, scope: Scope) -> None:
        self._send = send
        extension: Any = (scope.get("extensions") or {}).get(TRANSPORT) or {}
        self._transport = extension.get("transport")
        self._positions = ""

    async def send(self, found: Sequence[Message], positions: str) -> None:
        """Writes events. The last one has the positions as its id, if they are new."""
        parts: list[bytes] = []
        if positions != self._positions:
            self._positions = positions
            *before, last = found
            for message in before:
                parts += (b"event: ", message.event, b"\ndata: ", message.json, b"\n\n")
            parts += (b"id: ", positions.encode(), b"\nevent: ", last.event, b"\ndata: ", last.json, b"\n\n")
        else:
            for message in found:
                parts += (b"event: ", message.event, b"\ndata: ", message.json, b"\n\n")
        await self._write(b"".join(parts))

    async def close(self, bye: Bye) -> None:
        """Writes the event `bye`, and ends the answer."""
        message = bye.message()
        await self._write(b"event: bye\ndata: %b\n\n" % message.json)
        await self._write(b"", more=False)

    def cut(self, bye: Bye) -> None:
        """Ends the connection; the last event is left to the kernel, for a client that reads after all."""
        if self._transport is None or self._transport.is_closing():
            return
        event = b"event: bye\ndata: %b\n\n" % bye.message().json
        self._transport.write(b"%x\r\n%b\r\n0\r\n\r\n" % (len(event), event))
        self._transport.close()

    async def _write(self, body: bytes, *, more: bool = True) -> None:
        message: AsgiMessage = {"type": "http.response.body", "body": body, "more_body": more}
        await self._send(message)


async def _until_disconnected(receive: Receive) -> None:
    while (await receive())["type"] == "http.request":
        pass
