"""A stream over a WebSocket: JSON text frames both ways."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime
from typing import Any, Literal

import msgspec

from core.errors import Kind, TcgxError, Unauthenticated
from exchange.tokens import Caller
from streams import channels as names
from streams import connection, messages
from streams.hub import Hub
from streams.leases import GRACE_SECONDS_MAX, GRACE_SECONDS_MIN
from streams.messages import Bye, Message
from streams.session import INTERVAL_MS, INTERVAL_MS_MAX, Session

REQUEST_BYTES_MAX = 4_096
REQUESTS_PER_SECOND = 20
FIRST_REQUEST_SECONDS = 5.0
GRACE_RULE = f"grace_seconds must be {GRACE_SECONDS_MIN} to {GRACE_SECONDS_MAX}, or 0 to give up the lease"
CUT = "tcgx.cut"
"""The extension of a scope that ends a connection that takes nothing (api/websocket_protocol.py)."""

CODES = {
    Kind.UNAUTHENTICATED: messages.UNAUTHORIZED,
    Kind.RATE_LIMITED: messages.TOO_MANY,
    Kind.OVERLOADED: messages.OVERLOADED,
    Kind.UNAVAILABLE: messages.UNAVAILABLE,
}
"""The close codes of errors before a stream begins."""

Receive = Callable[[], Awaitable[Any]]
Send = Callable[[Any], Awaitable[None]]
Admit = Callable[[bytes], Caller]


class Request(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a client says. `id` comes back in the answer."""

    op: Literal["auth", "subscribe", "unsubscribe", "lease", "ping"]
    id: int | str | None = None
    token: str = ""
    channels: list[str] = []
    after: dict[str, int] = {}
    interval: int = INTERVAL_MS
    grace_seconds: int | None = None
    cancel_on_close: bool = False


class Door:
    """The server's side of one WebSocket. `admit` turns an `Authorization` header into a caller."""

    def __init__(self, hub: Hub, receive: Receive, send: Send, *, admit: Admit, cut: Callable[..., None]) -> None:
        self._hub = hub
        self._receive = receive
        self._send = send
        self._admit = admit
        self._cut = cut
        self._second = 0
        self._requests = 0
        self._close_code = 0

    async def serve(self, *, address: str, authorization: bytes | None) -> None:
        """Serves an accepted socket until it ends."""
        sink = _Sink(self._send, self._cut)
        try:
            caller = None if authorization is None else self._admit(authorization)
            lease = None if caller is None else await self._hub.leases.read(caller)
            session = await self._hub.open(address=address, interval_ms=INTERVAL_MS)
        except TcgxError as error:
            code = CODES.get(error.kind, messages.UNAVAILABLE)
            await sink.close(Bye(code, error.code, error.detail, self._hub.reconnect_after_ms()))
            return
        if caller is not None:
            self._hub.admit(session, caller)
        session.greet(lease)
        try:
            await connection.serve(self._hub, session, sink, self._read(session))
        finally:
            await self._hub.leases.leave(session, is_clean=self._close_code == messages.NORMAL)

    async def _read(self, session: Session) -> None:
        """Handles what the client says, until it is gone. Faults of the client end the stream."""
        try:
            async with asyncio.timeout(FIRST_REQUEST_SECONDS) as first:
                while (text := await self._next()) is not None:
                    await self._handle(session, text)
                    if session.channels or session.caller is not None:
                        first.reschedule(None)
        except TimeoutError:
            detail = f"there was no `auth` and no `subscribe` within {FIRST_REQUEST_SECONDS:g} s"
            session.end(Bye(messages.TOO_LATE, "too_late", detail))
            while await self._next() is not None:
                pass

    async def _next(self) -> bytes | None:
        event = await self._receive()
        if event["type"] != "websocket.receive":
            self._close_code = event.get("code", 0)
            return None
        text = event.get("text")
        return text.encode() if text is not None else b"\0"  # a binary frame is no request

    async def _handle(self, session: Session, text: bytes) -> None:
        if session.bye is not None:
            return
        if self._is_too_often():
            detail = f"a client may send {REQUESTS_PER_SECOND} messages a second"
            session.end(Bye(messages.TOO_MANY, "too_many", detail))
            return
        try:
            request = msgspec.json.decode(text, type=Request)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            session.end(Bye(messages.BAD_MESSAGE, "bad_message", f"this is no request: {error}"[:200]))
            return
        try:
            await self._answer(session, request)
        except TcgxError as error:
            session.tell(messages.error(error.code, error.detail, request.id))
            if isinstance(error, Unauthenticated) and request.op == "auth":
                session.end(Bye(messages.UNAUTHORIZED, "unauthorized", error.detail))

    async def _answer(self, session: Session, request: Request) -> None:
        if request.op == "ping":
            session.tell(messages.pong(request.id))
        elif request.op == "auth":
            await self._authenticate(session, request)
        elif request.op == "lease":
            await self._lease(session, request)
        elif request.op == "subscribe":
            wanted = names.parse_list(",".join(request.channels), self._hub.cards)
            after = names.parse_positions(names.positions_text(request.after), self._hub.cards)
            session.set_interval(min(max(request.interval, 0), INTERVAL_MS_MAX))
            known = dict.fromkeys([*session.channels, *wanted])
            await session.subscribe(wanted, after, answer=messages.subscribed([*map(_name, known)], request.id))
        else:
            session.unsubscribe(names.parse_list(",".join(request.channels), self._hub.cards))
            session.tell(messages.subscribed([*map(_name, session.channels)], request.id))

    async def _lease(self, session: Session, request: Request) -> None:
        """Takes or gives up the lease. Where Redis does not answer, its state is not known, and the stream ends."""
        grace = request.grace_seconds
        if grace is None or (grace != 0 and not GRACE_SECONDS_MIN <= grace <= GRACE_SECONDS_MAX):
            session.tell(messages.error("invalid_grace_seconds", f"{GRACE_RULE}, got {grace}", request.id))
            return
        try:
            if grace:
                await self._hub.leases.take(session, grace, cancel_on_close=request.cancel_on_close)
            else:
                await self._hub.leases.give_up(session)
        except Unauthenticated:
            raise
        except TcgxError as error:
            session.tell(messages.error(error.code, error.detail, request.id))
            session.end(Bye(messages.UNAVAILABLE, "unavailable", error.detail, self._hub.reconnect_after_ms()))
            return
        cancels = request.cancel_on_close and grace > 0
        session.tell(messages.lease(request.id, grace, cancel_on_close=cancels))

    async def _authenticate(self, session: Session, request: Request) -> None:
        caller = self._admit(b"Bearer " + request.token.encode())
        if session.caller is not None and caller.trader_id != session.caller.trader_id:
            raise Unauthenticated("token_invalid", "a stream stays with its first trader: open another one")
        lease = await self._hub.leases.read(caller)
        self._hub.admit(session, caller)
        ends = datetime.fromtimestamp(caller.expires_at, UTC).isoformat().replace("+00:00", "Z")
        session.tell(messages.authenticated(ends, request.id, lease))

    def _is_too_often(self) -> bool:
        second = int(asyncio.get_running_loop().time())
        if second != self._second:
            self._second, self._requests = second, 0
        self._requests += 1
        return self._requests > REQUESTS_PER_SECOND


def _name(channel: names.Channel) -> str:
    return channel.name


class _Sink:
    def __init__(self, send: Send, cut: Callable[..., None]) -> None:
        self._send = send
        self._cut = cut

    async def send(self, found: Sequence[Message], positions: str) -> None:  # noqa: ARG002 - each message has its own
        """Writes each message as a frame."""
        for message in found:
            await self._send({"type": "websocket.send", "bytes": None, "text": message.json.decode()})

    async def close(self, bye: Bye) -> None:
        """Writes the message `bye` and the close frame."""
        await self._send({"type": "websocket.send", "bytes": None, "text": bye.message().json.decode()})
        await self._send({"type": "websocket.close", "code": bye.code, "reason": bye.reason})

    def cut(self, bye: Bye) -> None:
        """Ends the connection; the close frame is left to the kernel, for a client that reads after all."""
        self._cut(bye.code, bye.reason)
