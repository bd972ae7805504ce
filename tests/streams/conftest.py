"""An exchange whose limits of streams a test can meet, and WebSockets."""

import socket
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any, Self

import msgspec
import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from testing.exchange import ExchangeServer, exchange_server

Json = dict[str, Any]
ANSWER_SECONDS = 10.0
TRADER_STREAMS, ADDRESS_STREAMS = 2, 12


@pytest.fixture(scope="package")
def limited() -> Iterator[ExchangeServer]:
    """An exchange with small limits and a short heartbeat."""
    limits = {"stream_trader_max": TRADER_STREAMS, "stream_address_max": ADDRESS_STREAMS, "stream_slow_seconds": 1}
    with exchange_server(stream_heartbeat_seconds=1, **limits) as server:
        yield server


class Socket:
    """A WebSocket of a stream."""

    def __init__(
        self,
        server: ExchangeServer,
        *,
        trader_id: int = 0,
        path: str = "/stream/ws",
        headers: dict[str, str] | None = None,
        is_small: bool = False,
    ) -> None:
        sent = headers or (server.bearer(trader_id) if trader_id else {})
        url = server.url.replace("http", "ws") + path
        self._stack = ExitStack()
        options: dict[str, Any] = {}
        if is_small:  # with buffers that are full soon
            raw = socket.socket()
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
            raw.connect(("127.0.0.1", int(server.url.rpartition(":")[2])))
            options = {"sock": raw, "max_queue": 1}
        opened = connect(url, additional_headers=sent, proxy=None, compression=None, max_size=None, **options)
        self.socket = self._stack.enter_context(opened)

    def close(self) -> None:
        """Ends the connection."""
        self._stack.close()

    def say(self, **request: object) -> None:
        """Sends a request."""
        self.socket.send(msgspec.json.encode(request).decode())

    def next(self, *types: str) -> Json:
        """The next message of one of these types or channels, or of any."""
        while True:
            message: Json = msgspec.json.decode(self.socket.recv(ANSWER_SECONDS))
            if not types or message["type"] in types or message.get("channel") in types:
                return message

    def until_closed(self) -> tuple[list[Json], int]:
        """The messages until the end, and the close code."""
        found = []
        try:
            while True:
                found.append(self.next())
        except ConnectionClosed as error:
            return found, error.rcvd.code if error.rcvd is not None else 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
