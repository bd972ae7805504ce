"""One stream over as many connections as it takes: positions, doubles, silence, and the pauses between tries."""

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Literal
from urllib.parse import quote

import msgspec

from tcgx_client.backoff import reconnect_seconds
from tcgx_client.effects import Call, Close, Connect, Read, Response, Sleep, Write
from tcgx_client.errors import ApiError, Closed, StreamError, TcgxError, Timeout, TransportError, api_error
from tcgx_client.events import (
    BookSnapshot,
    BookUpdate,
    Bye,
    Connected,
    Disconnected,
    Event,
    Hello,
    Message,
    Notice,
    OrderEvent,
    OrdersSnapshot,
    Reset,
    Trades,
    decode,
)
from tcgx_client.models import Problem
from tcgx_client.session import RETRIED, TOKEN_CODES, Session, refusal
from tcgx_client.wire import Ended, EventWire, Frame, Opened, Refused, SocketWire, Text, Wire

Transport = Literal["sse", "ws"]
SILENCE_SECONDS = 25.0
HEALTHY_SECONDS = 60.0
"""A connection that has lived so long makes up for the failures before it."""

REQUEST_ID = "subscribe"
"""Of the requests without which a stream is of no use."""

TEMPORARY = {"unavailable": 503, "overloaded": 503, "rate_limited": 429, "token_missing": 401, "token_expired": 401}
READ_SECONDS_MIN = 0.001
FINAL_CODES = frozenset({4400, 4401, 4404})
"""Close codes that another connection would meet again."""

FINAL_REASONS = frozenset({"bad_message", "unauthorized", "unknown_channel"})
TOKEN_REASONS = frozenset({"token_expired", "token_invalid", "token_revoked", "unauthorized"})


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """What a stream asks for. `interval`: milliseconds between two deliveries; `lease`: see `Tcgx.stream`."""

    channels: tuple[str, ...]
    transport: Transport = "sse"
    after: Mapping[str, int] = {}
    interval: int | None = None
    lease: int | None = None
    cancel_on_close: bool = False


class StreamCore:
    """The state of a stream. `next` gives its events one by one; nothing happens between two calls."""

    def __init__(self, session: Session, settings: Settings) -> None:
        if not settings.channels:
            raise ValueError("a stream needs at least one channel, e.g. book:pikachu")
        if settings.lease is not None and settings.transport != "ws":
            raise ValueError("a lease needs transport='ws'")
        self._session = session
        self._settings = settings
        self._clock: Callable[[], float] = session.clock
        self._positions = dict(settings.after)
        self._first_trades: dict[str, int] = {}
        self._log: str | None = None
        self._last_trade: dict[str, int] = {}
        self._seen_orders: dict[str, dict[tuple[str, str, str], int]] = {}
        self._events: deque[tuple[Event, dict[str, int] | None]] = deque()
        """What has come and is not taken yet, with the positions that the caller has then, where they change."""
        self._taken = dict(settings.after)
        self._wire: Wire | None = None
        self._handle: object = None
        self._is_open = self._is_closed = False
        self._has_asked_for_positions = False
        self._heard_at = self._connected_at = 0.0
        self._retry_at = 0.0
        self._failures = 0
        self._has_renewed = False
        self._failure: TcgxError | None = None

    @property
    def positions(self) -> dict[str, int]:
        """The positions of the events that were taken: give them as `after` to another stream."""
        return dict(self._taken)

    @property
    def heard_at(self) -> float:
        """The time of the clock at which the last bytes came."""
        return self._heard_at

    @property
    def is_connected(self) -> bool:
        """Whether the exchange has greeted on the connection that there is."""
        return self._is_open

    @property
    def has_events(self) -> bool:
        """Whether `next` has an event without reading."""
        return bool(self._events)

    @property
    def is_closed(self) -> bool:
        """Whether `close` was called."""
        return self._is_closed

    # -- reading

    def next(self, timeout: float | None = None) -> Call[Event | None]:
        """The next event; None once the stream is closed, or if nothing came within `timeout` seconds.

        Raises:
            Closed: the exchange ended the stream for good.
            ApiError: the exchange refused the stream.
        """
        deadline = None if timeout is None else self._clock() + timeout
        while not self._is_closed:
            if self._events:
                event, positions = self._events.popleft()
                self._taken = self._taken if positions is None else positions
                return event
            if self._failure is not None:
                raise self._failure
            if self._wire is None:
                if not (yield from self._wait_for_retry(deadline)):
                    return None
                yield from self._connect()
            elif not (yield from self._read(deadline)):
                return None
        return None

    def begin(self) -> Call[None]:
        """Tries the first connection, so that whatever happens from now on is told. `next` tells how that went."""
        while not (self._events or self._failure or self._is_closed):
            if self._wire is None:
                yield from self._connect()
            else:
                yield from self._read(None)

    def _wait_for_retry(self, deadline: float | None) -> Call[bool]:
        """Waits until a connection may be tried. Returns False where the deadline comes first."""
        pause = self._retry_at - self._clock()
        if deadline is not None and pause > deadline - self._clock():
            yield Sleep(max(0.0, deadline - self._clock()))
            return False
        if pause > 0:
            yield Sleep(pause)
        return True

    def _read(self, deadline: float | None) -> Call[bool]:
        """Reads once. Returns False where the deadline has passed without anything."""
        now = self._clock()
        patience = SILENCE_SECONDS if self._is_open else self._session.options.timeout
        left = self._heard_at + patience - now
        seconds = left if deadline is None else min(left, deadline - now)
        try:
            data: bytes = yield Read(self._handle, max(READ_SECONDS_MIN, seconds))
        except Timeout:
            if self._clock() >= self._heard_at + patience:
                yield from self._drop("stale", f"nothing came for {patience:g} s")
                return True
            return deadline is None or self._clock() < deadline
        except TransportError as error:
            yield from self._drop("network", str(error))
            return True
        self._heard_at = self._clock()
        yield from self._receive(data)
        return True

    def _receive(self, data: bytes) -> Call[None]:
        wire = self._wire
        if wire is None:
            return
        for frame in wire.receive(data):
            yield from self._take(frame)
            if self._wire is not wire:
                return
        yield from self._write(wire.outgoing())

    def _write(self, data: bytes) -> Call[None]:
        if not data:
            return
        try:
            yield Write(self._handle, data, self._session.options.timeout)
        except TransportError as error:
            yield from self._drop("network", str(error))

    # -- connections

    def _connect(self) -> Call[None]:
        session, settings = self._session, self._settings
        try:
            headers = yield from self._headers()
            if settings.transport == "ws":
                yield from self._ask_for_positions()
            timeout = session.options.timeout
            self._handle = yield Connect(session.host, session.port, session.is_tls, timeout)
        except ApiError as error:
            yield from self._fail_or_wait(error)
            return
        except TransportError as error:
            yield from self._drop("network", str(error))
            return
        self._has_asked_for_positions = bool(self._positions)
        self._wire = self._new_wire(headers)
        self._heard_at = self._clock()
        yield from self._write(self._wire.start())

    def _headers(self) -> Call[dict[str, str]]:
        headers = {}
        if self._session.has_identity:
            token = yield from self._session.token()
            headers["authorization"] = f"Bearer {token}"
        if self._positions and self._settings.transport == "sse":
            headers["last-event-id"] = _positions_text(self._positions)
        return headers

    def _new_wire(self, headers: Mapping[str, str]) -> Wire:
        session = self._session
        if self._settings.transport == "ws":
            return SocketWire(host=session.netloc, target=session.target("/stream/ws"), headers=headers)
        query = {"channels": ",".join(self._settings.channels), "interval": self._settings.interval}
        return EventWire(host=session.netloc, target=session.target("/stream", query), headers=headers)

    def _ask_for_positions(self) -> Call[None]:
        """Finds where trades begin: a WebSocket does not say it, and without it a cut could lose the first ones."""
        for channel in self._settings.channels:
            kind, _, card = channel.partition(":")
            if kind != "trades" or card in self._positions or card in self._first_trades:
                continue
            path = f"/cards/{quote(card, safe='')}/book"
            answer = yield from self._session.send("GET", path, query={"depth": 1}, is_public=True)
            self._first_trades[card] = msgspec.json.decode(answer.response.body)["sequence"]

    def _subscribe(self) -> Call[None]:
        """Asks for the channels on a WebSocket. Own orders begin with a snapshot, unless there is a position.

        They come first: so whatever trades are told, the orders of their match calls were told before.
        """
        settings = self._settings
        if settings.transport != "ws":
            return
        public = [channel for channel in settings.channels if channel != "orders"]
        if settings.lease is not None:
            lease = {"op": "lease", "grace_seconds": settings.lease}
            yield from self._say(lease | ({"cancel_on_close": True} if settings.cancel_on_close else {}))
        if "orders" in settings.channels:
            yield from self._say(self._subscription(["orders"], self._positions))
        if public:
            yield from self._say(self._subscription(public, {**self._first_trades, **self._positions}))

    def _subscription(self, channels: Sequence[str], after: Mapping[str, int]) -> dict[str, object]:
        interval = {} if self._settings.interval is None else {"interval": self._settings.interval}
        return {"op": "subscribe", "channels": channels, "after": after, **interval}

    def _say(self, request: Mapping[str, object]) -> Call[None]:
        """Sends a request. An error in answer to it ends the connection, as nothing else would say that it failed."""
        if self._wire is not None:
            yield from self._write(self._wire.say({**request, "id": REQUEST_ID}))

    def _renew_token(self) -> Call[None]:
        """Gives a WebSocket a new token before its own ends."""
        wire = self._wire
        if wire is None or self._settings.transport != "ws" or not self._session.can_login:
            return
        self._session.forget_token()
        try:
            token = yield from self._session.token()
        except TcgxError:
            return  # the stream ends with its token then, and begins again with another one
        if self._wire is wire:
            yield from self._write(wire.say({"op": "auth", "token": token}))

    def reconnect(self, code: str, detail: str) -> Call[None]:
        """Ends the connection, as it is of no use, and begins anew at once if this is the first failure."""
        yield from self._drop(code, detail, is_prompt=True)

    def _drop(self, code: str, detail: str, *, at_least: float = 0.0, is_prompt: bool = False) -> Call[None]:
        """Ends the connection, and sets the time of the next one."""
        yield from self._release()
        if self._is_open and self._clock() - self._connected_at >= HEALTHY_SECONDS:
            self._failures = 0
        self._is_open = False
        if is_prompt and self._failures == 0:
            pause = at_least
        else:
            pause = reconnect_seconds(self._failures + 1, at_least, self._session.random)
        self._failures += 1
        self._retry_at = self._clock() + pause
        self._add(Disconnected(code, detail, pause))

    def _release(self) -> Call[None]:
        handle, self._handle, self._wire = self._handle, None, None
        if handle is not None:
            yield Close(handle)

    def _fail(self, error: TcgxError) -> Call[None]:
        """Ends the stream for good."""
        yield from self._release()
        self._is_open = False
        self._add(Disconnected(getattr(error, "code", "failed"), str(error), 0.0))
        self._failure = error

    def _fail_or_wait(self, error: ApiError) -> Call[None]:
        if error.code in TOKEN_CODES and self._session.can_login and not self._has_renewed:
            self._has_renewed = True
            self._session.forget_token()
            yield from self._drop(error.code, str(error), is_prompt=True)
        elif error.status in RETRIED:
            yield from self._drop(error.code, str(error), at_least=error.retry_after or 0.0)
        else:
            yield from self._fail(error)

    def close(self) -> Call[None]:
        """Ends the stream."""
        if self._wire is not None and self._is_open:
            yield from self._write(self._wire.goodbye())
        self._is_closed = True
        self._is_open = False
        yield from self._release()

    # -- messages

    def _take(self, frame: Frame) -> Call[None]:
        if isinstance(frame, Opened):
            yield from self._subscribe()
        elif isinstance(frame, Refused):
            yield from self._refused(frame.response)
        elif isinstance(frame, Ended):
            yield from self._ended(frame)
        else:
            yield from self._take_text(frame)

    def _refused(self, response: Response) -> Call[None]:
        yield from self._fail_or_wait(refusal(response))

    def _ended(self, frame: Ended) -> Call[None]:
        if frame.code in FINAL_CODES:
            yield from self._fail(Closed(str(frame.code), frame.detail))
        else:
            yield from self._drop(str(frame.code) if frame.code else "ended", frame.detail)

    def _take_text(self, text: Text) -> Call[None]:
        try:
            message = decode(text.text)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            yield from self._fail(StreamError(f"a message of the stream is not as agreed: {error}"))
            return
        if isinstance(message, Hello):
            yield from self._greeted(message)
        elif isinstance(message, Bye):
            yield from self._dismissed(message)
        elif isinstance(message, Notice) and message.id == REQUEST_ID:
            yield from self._fail_or_wait(
                api_error(Problem(_status_of(message.code), message.code, "", message.detail))
            )
        elif message is not None:
            self._append(message)
            if isinstance(message, Notice) and message.code == "token_expiring":
                yield from self._renew_token()
        if text.id:
            self._move(_positions(text.id))

    def _greeted(self, hello: Hello) -> Call[None]:
        is_other_log = self._log is not None and hello.log != self._log
        self._log = hello.log
        if is_other_log:
            self._forget()
            if self._has_asked_for_positions:
                yield from self._drop("other_log", "the exchange has begun another history", is_prompt=True)
                return
        resumed = self._has_asked_for_positions
        self._is_open = True
        self._has_renewed = False
        self._connected_at = self._clock()
        if not resumed and self._settings.transport == "sse":
            self._positions.update(hello.positions)
        self._add(Connected(resumed, hello.log, dict(hello.positions), hello.heartbeat_seconds, hello.lease))
        self._mark()

    def _dismissed(self, bye: Bye) -> Call[None]:
        pause = bye.reconnect_after_ms / 1000
        if bye.code in TOKEN_REASONS and self._session.can_login and not self._has_renewed:
            self._has_renewed = True
            self._session.forget_token()
            yield from self._drop(bye.code, bye.detail, at_least=pause, is_prompt=True)
        elif bye.code in FINAL_REASONS or bye.code in TOKEN_REASONS:
            yield from self._fail(Closed(bye.code, bye.detail))
        else:
            yield from self._drop(bye.code, bye.detail, at_least=pause, is_prompt=pause > 0)

    def _forget(self) -> None:
        self._positions, self._first_trades = {}, {}
        self._last_trade, self._seen_orders = {}, {}

    def _append(self, message: Message) -> None:
        """Adds an event, without what came before already."""
        if isinstance(message, Trades):
            new = self._without_doubles(message)
            if new.trades:
                self._add(new)
        elif isinstance(message, OrderEvent):
            if self._is_new(message):
                self._add(message)
        elif isinstance(message, Hello | Bye):
            raise TypeError("these are no events")
        else:
            self._add(message)
        if isinstance(message, Reset):
            self._positions[message.card] = message.position
            self._last_trade.pop(message.card, None)
            self._seen_orders.pop(message.card, None)
        self._follow(message)

    def _add(self, event: Event) -> None:
        self._events.append((event, None))

    def _mark(self) -> None:
        """Notes that whoever has taken the last event has these positions."""
        if self._events:
            event, _ = self._events.pop()
            self._events.append((event, dict(self._positions)))
        else:
            self._taken = dict(self._positions)

    def _without_doubles(self, message: Trades) -> Trades:
        last = self._last_trade.get(message.card, 0)
        new = tuple(trade for trade in message.trades if trade.number > last)
        if new:
            self._last_trade[message.card] = new[-1].number
        return message if len(new) == len(message.trades) else msgspec.structs.replace(message, trades=new)

    def _is_new(self, message: OrderEvent) -> bool:
        if message.sequence <= self._positions.get(message.card, -1):
            return False
        key = (message.order.order_id, message.event, message.fill.trade_id if message.fill is not None else "")
        seen = self._seen_orders.setdefault(message.card, {})
        if key in seen:
            return False
        seen[key] = message.sequence
        return True

    def _follow(self, message: Message) -> None:
        """Moves the positions of a WebSocket, whose messages have no id. The orders of a match call come before its
        trades, so trades tell that all of the call is there; an order tells it of the calls before."""
        if self._settings.transport != "ws":
            return
        if isinstance(message, Trades):
            self._move({message.card: message.sequence})
        elif isinstance(message, OrderEvent) and f"trades:{message.card}" not in self._settings.channels:
            self._move({message.card: message.sequence - 1})
        elif isinstance(message, OrdersSnapshot):
            followed = {card for card in message.positions if f"trades:{card}" not in self._settings.channels}
            self._move({card: position for card, position in message.positions.items() if card in followed})
        elif isinstance(message, BookSnapshot | BookUpdate) and not self._follows_calls(message.card):
            self._move({message.card: message.sequence})

    def _follows_calls(self, card: str) -> bool:
        return "orders" in self._settings.channels or f"trades:{card}" in self._settings.channels

    def _move(self, positions: Mapping[str, int]) -> None:
        for card, position in positions.items():
            if position < self._positions.get(card, -1):
                continue
            self._positions[card] = position
            seen = self._seen_orders.get(card)
            if seen:
                self._seen_orders[card] = {key: sequence for key, sequence in seen.items() if sequence > position}
        self._mark()


def _status_of(code: str) -> int:
    """The status that an error within a stream would have as an answer."""
    return TEMPORARY.get(code, 422)


def _positions(text: str) -> dict[str, int]:
    found = {}
    for part in text.split(","):
        card, dot, digits = part.strip().rpartition(".")
        if dot and digits.isascii() and digits.isdigit():
            found[card] = int(digits)
    return found


def _positions_text(positions: Mapping[str, int]) -> str:
    return ",".join(f"{card}.{sequence}" for card, sequence in sorted(positions.items()))


def channel_names(channels: Sequence[str]) -> tuple[str, ...]:
    """Channels, each once, from names or lists of names separated by commas."""
    names = [name.strip() for channel in channels for name in channel.split(",")]
    return tuple(dict.fromkeys(name for name in names if name))
