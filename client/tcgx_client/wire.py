"""The bytes of a stream's connection, without I/O: server-sent events over HTTP/1.1, and WebSockets."""

from collections.abc import Iterable, Mapping
from typing import Protocol

import h11
import msgspec
import wsproto
from wsproto import events as ws
from wsproto.utilities import LocalProtocolError as SocketLocalError
from wsproto.utilities import RemoteProtocolError as SocketRemoteError

from tcgx_client.effects import Response

EVENT_BYTES_MAX = 16_000_000
"""A longer event is a fault of the server."""


class Text(msgspec.Struct, frozen=True):
    """A message. `id` is the id of a server-sent event, empty where there is none."""

    text: str
    id: str = ""


class Opened(msgspec.Struct, frozen=True):
    """The server has accepted the stream."""


class Refused(msgspec.Struct, frozen=True):
    """The server has refused the stream."""

    response: Response


class Ended(msgspec.Struct, frozen=True):
    """The connection is over. `code` is that of the close frame of a WebSocket; 0 where there is none."""

    code: int
    detail: str


Frame = Text | Opened | Refused | Ended


class Wire(Protocol):
    """One connection."""

    def start(self) -> bytes:
        """The bytes that open the stream."""
        ...

    def receive(self, data: bytes) -> list[Frame]:
        """Takes bytes, `b""` at the end."""
        ...

    def outgoing(self) -> bytes:
        """Bytes that the protocol has to write, such as answers to pings."""
        ...

    def say(self, message: Mapping[str, object]) -> bytes:
        """The bytes of a request within the stream."""
        ...

    def goodbye(self) -> bytes:
        """The bytes that end the stream."""
        ...


class EventLines:
    """Server-sent events from their bytes."""

    def __init__(self) -> None:
        self._rest = b""
        self._data: list[str] = []
        self._id = ""

    def feed(self, data: bytes) -> Iterable[Text]:
        """Yields the events that are complete."""
        *lines, self._rest = (self._rest + data).split(b"\n")
        if len(self._rest) > EVENT_BYTES_MAX:
            raise ValueError(f"an event has more than {EVENT_BYTES_MAX} bytes")
        for line in lines:
            event = self._take(line.removesuffix(b"\r").decode())
            if event is not None:
                yield event

    def _take(self, line: str) -> Text | None:
        if line:
            name, _, value = line.partition(":")
            value = value.removeprefix(" ")
            if name == "data":
                self._data.append(value)
            elif name == "id":
                self._id = value
            return None
        if not self._data:
            return None
        event = Text("\n".join(self._data), self._id)
        self._data, self._id = [], ""
        return event


class EventWire:
    """A stream of server-sent events."""

    def __init__(self, *, host: str, target: str, headers: Mapping[str, str]) -> None:
        self._http = h11.Connection(h11.CLIENT)
        given = [("host", host), ("accept", "text/event-stream"), ("cache-control", "no-store"), *headers.items()]
        self._request = h11.Request(method="GET", target=target, headers=given)
        self._lines = EventLines()
        self._refusal: tuple[int, dict[str, str]] | None = None
        self._body = b""

    def start(self) -> bytes:
        """The request."""
        return (self._http.send(self._request) or b"") + (self._http.send(h11.EndOfMessage()) or b"")

    def receive(self, data: bytes) -> list[Frame]:
        """Takes bytes of the answer."""
        try:
            self._http.receive_data(data)
            return list(self._frames())
        except (h11.RemoteProtocolError, ValueError) as error:
            return [Ended(0, f"the connection broke: {error}")]

    def _frames(self) -> Iterable[Frame]:
        while True:
            event = self._http.next_event()
            if isinstance(event, h11.Response):
                if event.status_code == 200:
                    yield Opened()
                else:
                    headers = {name.decode(): value.decode("latin-1") for name, value in event.headers}
                    self._refusal = (event.status_code, headers)
            elif isinstance(event, h11.Data):
                if self._refusal is None:
                    yield from self._lines.feed(bytes(event.data))
                else:
                    self._body += event.data
            elif isinstance(event, h11.EndOfMessage):
                yield self._end()
                return
            elif isinstance(event, h11.ConnectionClosed):
                yield Ended(0, "the server closed the connection")
                return
            elif not isinstance(event, h11.InformationalResponse):
                return

    def _end(self) -> Frame:
        if self._refusal is None:
            return Ended(0, "the stream ended")
        status, headers = self._refusal
        return Refused(Response(status, headers, self._body))

    def outgoing(self) -> bytes:
        """Nothing."""
        return b""

    def say(self, message: Mapping[str, object]) -> bytes:
        """Server-sent events go one way only."""
        raise TypeError(f"a stream of server-sent events takes no requests: {message}")

    def goodbye(self) -> bytes:
        """Nothing."""
        return b""


class SocketWire:
    """A stream over a WebSocket."""

    def __init__(self, *, host: str, target: str, headers: Mapping[str, str]) -> None:
        self._socket = wsproto.WSConnection(wsproto.ConnectionType.CLIENT)
        extra = [(name.encode(), value.encode()) for name, value in headers.items()]
        self._request = ws.Request(host=host, target=target, extra_headers=extra)
        self._outgoing = b""
        self._parts: list[str] = []
        self._refusal: tuple[int, dict[str, str]] | None = None
        self._body = b""

    def start(self) -> bytes:
        """The handshake."""
        return self._socket.send(self._request)

    def receive(self, data: bytes) -> list[Frame]:
        """Takes bytes."""
        if not data:
            return [Ended(0, "the server closed the connection")]
        try:
            self._socket.receive_data(data)
            return list(self._frames())
        except SocketRemoteError as error:
            return [Ended(0, f"the connection broke: {error}")]

    def _frames(self) -> Iterable[Frame]:
        for event in self._socket.events():
            if isinstance(event, ws.AcceptConnection):
                yield Opened()
            elif isinstance(event, ws.TextMessage):
                self._parts.append(event.data)
                if event.message_finished:
                    yield Text("".join(self._parts))
                    self._parts = []
            elif isinstance(event, ws.Ping):
                self._outgoing += self._socket.send(event.response())
            elif isinstance(event, ws.CloseConnection):
                yield Ended(event.code, event.reason or "")
            elif isinstance(event, ws.RejectConnection):
                headers = {name.decode().lower(): value.decode("latin-1") for name, value in event.headers}
                self._refusal = (event.status_code, headers)
                if not event.has_body:
                    yield Refused(Response(*self._refusal, b""))
            elif isinstance(event, ws.RejectData) and self._refusal is not None:
                self._body += event.data
                if event.body_finished:
                    yield Refused(Response(*self._refusal, self._body))

    def outgoing(self) -> bytes:
        """Answers to pings."""
        data, self._outgoing = self._outgoing, b""
        return data

    def say(self, message: Mapping[str, object]) -> bytes:
        """A text frame."""
        return self._socket.send(ws.TextMessage(data=msgspec.json.encode(message).decode()))

    def goodbye(self) -> bytes:
        """A close frame with the code of a normal end."""
        try:
            return self._socket.send(ws.CloseConnection(code=1000))
        except SocketLocalError:
            return b""
