"""uvicorn's WebSocket protocol, for connections that the HTTP protocol hands over (`api/http_protocol.py`)."""

import asyncio
from typing import Any

from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.exceptions import InvalidState
from websockets.http11 import Request

from streams.websocket import CUT


class WebSocketProtocol(WebSocketsSansIOProtocol):
    """One WebSocket. The app can also end a connection that takes nothing."""

    before: asyncio.Protocol | None = None
    """The HTTP protocol that had the connection before. It hears of the end of the connection, too."""

    def handle_connect(self, event: Request) -> None:
        """Starts the app, and gives it the function that cuts the connection."""
        super().handle_connect(event)
        if not self.close_sent:
            extensions: Any = self.scope["extensions"]
            extensions[CUT] = {"cut": self.cut}

    def connection_lost(self, exc: Exception | None) -> None:
        """Tells both protocols."""
        super().connection_lost(exc)
        if self.before is not None:
            self.before.connection_lost(exc)

    def cut(self, code: int, reason: str) -> None:
        """Ends the connection without waiting for the client. What is written may still reach it."""
        if self.close_sent or self.transport.is_closing():
            return
        self.stop_keepalive()
        try:
            self.conn.send_close(code, reason)
        except InvalidState:
            self.transport.close()
            return
        self.close_sent = True
        self.transport.write(b"".join(self.conn.data_to_send()))
        self.transport.close()
