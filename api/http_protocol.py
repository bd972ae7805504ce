"""uvicorn's HTTP protocol with five differences.

The protocol answers the fast path (`api/fast_path.py`) itself, without ASGI; a caller without a valid token is refused
before its body is taken. It bounds heads, bodies, idle times and the number of connections (`api/connections.py`). It
ignores an offer to upgrade, except to a WebSocket of streams. It answers bytes that are no request with a problem,
after the requests before them.
"""

import asyncio
import math
import re
import select
from enum import Enum
from functools import lru_cache
from http import HTTPStatus
from typing import Any, NamedTuple, NoReturn

import httptools
from msgspec import structs
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from api import connections
from api.common_headers import common_header_lines, request_id
from api.connections import Connections, Wait
from api.fast_path import Answer, FastPath, problem_answer
from api.problems import Problem, problem_of
from core.errors import TcgxError
from core.settings import Settings
from exchange.tokens import Caller
from streams.sse import TRANSPORT

HEAD_BYTES_MAX = 65_536
WEBSOCKET_PATHS = frozenset({b"/stream/ws", b"/graphql"})
"""The paths with a WebSocket; an offer to upgrade elsewhere is passed over."""

LINGER_SECONDS = 2.0
"""Time that a client has to read the last answer before its connection is closed."""
DISCARD_BYTES_MAX = 65_536
"""A body of at most this length is discarded after its request was refused, and the connection stays open."""
SLICE_BYTES = 8_192
"""Bytes that are parsed at once, since many small requests may arrive in one read."""
PIPELINED_MAX = 100
"""While so many requests wait behind the one that is answered, further bytes are not parsed."""
UNPARSED_BYTES_MAX = 1_000_000

FAREWELL_SECONDS = 0.2
"""Time that an idle client has to see the end of its connection, when the server stops."""

HOST = re.compile(rb"[0-9A-Za-z!$&'()*+,;=\-._~:\[\]@%]*")


MALFORMED = Problem(400, "malformed_request", "Malformed request", "this is not an HTTP/1.1 request")
NO_HOST = structs.replace(MALFORMED, detail="an HTTP/1.1 request must have one header Host, with the name of a host")
NO_TUNNEL = structs.replace(MALFORMED, detail="CONNECT is not a method here")
INCOMPLETE = Problem(400, "incomplete_request", "Incomplete request", "the client went away within the request")
INCOMPLETE_BODY = Problem(400, "incomplete_body", "Incomplete body", "the client went away within the body")
TOO_LARGE = Problem(
    431,
    "headers_too_large",
    "Headers too large",
    f"the request line and the headers have more than {HEAD_BYTES_MAX} bytes",
)
TOO_MANY_PIPELINED = Problem(
    429,
    "too_many_requests",
    "Too many requests",
    f"nothing was accepted: {UNPARSED_BYTES_MAX} bytes of requests wait on this connection; read the answers first",
    retry_after=1,
    limit=PIPELINED_MAX,
    reset=1,
)
MADE_ROOM = Problem(
    408, "request_timeout", "Request timeout", "the request did not come whole, while others waited for a connection"
)


class Timeouts(NamedTuple):
    """Time limits for a client."""

    head_seconds: float
    body_seconds: float
    keep_alive_seconds: float

    @classmethod
    def of(cls, settings: Settings) -> "Timeouts":
        """The time limits of these settings."""
        return cls(settings.head_seconds, settings.body_seconds, settings.keep_alive_seconds)


TIMEOUTS = Timeouts.of(Settings())
REFUSED_TIMEOUTS = Timeouts(1.0, 1.0, 1.0)
"""For a connection beyond a bound: its request is awaited, since many clients read an answer only then."""


class Stage(Enum):
    """The part of a request that a connection expects next."""

    NOTHING = 0
    HEAD = 1
    BODY = 2


NOTHING, HEAD, BODY = Stage.NOTHING, Stage.HEAD, Stage.BODY  # an attribute of an enum costs more than a name


class ParserAbort(Exception):
    """Makes the parser stop. The parser turns it into an `HttpParserError`, so it never leaves this module."""


class Drain:
    """The end of a server. While it is on, the answer to the newest request of a connection closes the connection."""

    def __init__(self) -> None:
        self.is_on = False
        self.emptied = asyncio.Event()
        """Set once the last connection has closed."""


class FastPathCycle:
    """A request on the fast path. It stands in for uvicorn's `RequestResponseCycle`, and so has the attributes that
    uvicorn reads of one: `response_complete`, `keep_alive`, `disconnected` and `message_event`."""

    def __init__(
        self,
        method: bytes,
        target: bytes,
        headers: list[tuple[bytes, bytes]],
        request_id: bytes | None,
        caller: Caller | None,
        *,
        keep_alive: bool,
    ) -> None:
        self.request_id = request_id
        self.caller = caller
        self.method = method
        self.target = target
        self.headers = headers
        self.body = bytearray()
        self.keep_alive = keep_alive
        self.disconnected = False
        self.response_started = self.response_complete = False
        self.message_event = _NULL_EVENT


class _NullEvent:
    """An event without waiters: an endpoint runs once its body is whole."""

    def set(self) -> None:
        """Does nothing."""


_NULL_EVENT = _NullEvent()
_NO_BODY = bytearray()


class Protocol(HttpToolsProtocol):
    """One connection.

    A request takes the fast path on three conditions: it names an endpoint, its Content-Length is within the bound, and
    the request before it is answered. Every other request goes to the app, as does one with `Expect: 100-continue`.

    A connection ends with a refusal when bytes are no request, or come too late. Complete requests before the refusal
    are answered first: a client that reads an error first would take them for failed.
    """

    def __init__(
        self,
        *args: Any,
        fast_path: FastPath | None = None,
        timeouts: Timeouts | None = None,
        drain: Drain | None = None,
        connections: Connections | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        self._fast_path = fast_path
        self._bounds = connections
        self._surplus: Problem | None = None  # the answer to a connection beyond a bound
        self._timeouts = timeouts or TIMEOUTS
        self._drain = drain or Drain()
        self._last_cycle: object = None  # the drain closes the connection after this request of the app
        self._fast_cycle: FastPathCycle | None = None
        self._stage = NOTHING
        self._has_entered_stage = False  # in this read
        self._is_upgrade = False
        self._host = b""  # of the previous request
        self._request_id: bytes | None = None
        self._problem = MALFORMED
        self._refusal: Problem | None = None
        self._has_ended = False  # the last answer is written
        self._has_eof = False
        self._has_completed = False
        self._head_bytes = 0
        self._read_bytes = 0
        self._bytes_beside_body = 0
        self._unparsed = bytearray()
        self._body_bytes = 0  # the Content-Length
        self._since = 0.0  # the last deadline began then
        self._unread_since = 0.0
        self._write_timer: asyncio.TimerHandle | None = None
        self._deadline = math.inf
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = math.inf

    # -- callbacks of the transport

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn does
        """Starts the time limit of the first request, or refuses a connection beyond a bound."""
        super().connection_made(transport)
        if self._bounds is not None:
            address = self.client[0] if self.client else None
            refused = self._bounds.enter(self, address, transport.get_extra_info("socket").fileno())
            if refused is not None and not refused.waits:
                self._write_last_answer(refused.problem)
                self.transport.close()
                return
            if refused is not None:
                self._surplus, self._timeouts = refused.problem, REFUSED_TIMEOUTS
        self._set_deadline(self._timeouts.head_seconds)

    def connection_lost(self, exc: Exception | None) -> None:
        """Stops the timers of a closed connection."""
        if self._bounds is not None:
            self._bounds.leave(self)
        for timer in (self._timer, self._write_timer):
            if timer is not None:
                timer.cancel()
        super().connection_lost(exc)
        if self._drain.is_on and not self.connections:
            self._drain.emptied.set()

    def data_received(self, data: bytes) -> None:
        """Parses bytes, many of them in slices."""
        if self._refusal is not None or self._has_ended:
            return
        if not self._unparsed and len(data) <= SLICE_BYTES:
            self._parse(data)
            return
        self._unparsed += data
        if len(self._unparsed) > UNPARSED_BYTES_MAX:
            self._refuse(TOO_MANY_PIPELINED)
        self._parse_slices()

    def _parse_slices(self) -> None:
        """Parses until too many requests wait; the next answer goes on with it."""
        while self._unparsed and not (self._refusal or self._has_ended or self.transport.is_closing()):
            if len(self.pipeline) >= PIPELINED_MAX:
                self.flow.pause_reading()
                return
            data = bytes(self._unparsed[:SLICE_BYTES])
            del self._unparsed[:SLICE_BYTES]
            self._parse(data)
        if self._has_eof and not self._end_of_requests():
            self.transport.close()

    def _parse(self, data: bytes) -> None:
        """Parses bytes, and bounds the head and the parts beside the body.

        The parser reports a header only once it is whole, so the bytes of an endless one are counted here. Bytes that
        share a slice with the end of the previous request are not counted; the size of a slice is bounded anyway.
        """
        self._has_completed = self._has_entered_stage = False
        self._read_bytes = len(data)
        try:
            self._feed(data)
        except httptools.HttpParserError:
            self._refuse(self._problem)
            return
        if self._stage is BODY:
            self._bytes_beside_body += self._read_bytes
            if self._has_entered_stage and not self.cycle.response_complete:
                self._set_deadline(self._timeouts.body_seconds)
            if self._fast_cycle is None and self._bytes_beside_body > HEAD_BYTES_MAX + self._read_bytes:
                self._refuse(TOO_LARGE)
        elif not self._has_completed:
            self._head_bytes += self._read_bytes
            if self._head_bytes > HEAD_BYTES_MAX:
                self._refuse(TOO_LARGE)
                return
        if self._stage is HEAD and self._has_entered_stage:
            self._set_deadline(self._timeouts.head_seconds)

    def eof_received(self) -> bool:  # type: ignore[override]  # of asyncio, where uvicorn says nothing
        """Handles a client that has closed its sending side. Returns whether the connection stays open: the client may
        still read (RFC 9112, 9.6)."""
        self._has_eof = True
        return bool(self._unparsed) or self._end_of_requests()

    def _end_of_requests(self) -> bool:
        if self._has_ended:
            return False
        if self._refusal is None and self._stage is not NOTHING:
            self._refuse(INCOMPLETE_BODY if self._stage is BODY else INCOMPLETE)
        elif self._refusal is None and self._is_answering():
            self.cycle.keep_alive = False
        return self._is_answering()

    def pause_writing(self) -> None:
        """Gives a client who does not read its answers the time of a body before the connection is closed."""
        super().pause_writing()
        self._unread_since = self.loop.time()
        self._write_timer = self.loop.call_later(self._timeouts.body_seconds, self.transport.abort)

    def resume_writing(self) -> None:
        """Stops the time limit: the client reads."""
        super().resume_writing()
        if self._write_timer is not None:
            self._write_timer.cancel()

    # -- calls of api/connections.py

    def waits(self) -> Wait | None:
        """What the connection waits for; None while a request is answered."""
        if self.flow.write_paused:
            return Wait(connections.BODY, self._unread_since)
        if self.pipeline or (self._is_answering() and (self._stage is not BODY or self.cycle.response_started)):
            return None
        if self._has_ended or self._stage is NOTHING:
            return Wait(connections.IDLE, self._since)
        return Wait(connections.HEAD if self._stage is HEAD else connections.BODY, self._since)

    def give_way(self) -> None:
        """Closes the connection for another one; within a request the client gets a 408."""
        if self.transport.get_write_buffer_size():
            self.transport.abort()
            return
        if not self._has_ended and self._stage is not NOTHING:
            self._refuse(MADE_ROOM)
        self.transport.close()

    # -- callbacks of the parser

    def on_message_begin(self) -> None:
        """Begins a request. The objects that uvicorn makes here are left to `_hand_to_app`."""
        self.url = b""
        self.headers = []
        self.expect_100_continue = False
        self._request_id = None
        self._stage = HEAD
        self._has_entered_stage = True

    def on_headers_complete(self) -> None:
        """Chooses the way of the request, or refuses the request for its head."""
        if self._surplus is not None:
            self._abort(self._surplus)
        # The bytes read so far bound the length of the head, so most heads need not be measured.
        if (
            self._head_bytes + self._read_bytes > HEAD_BYTES_MAX
            and len(self.url) + sum(len(name) + len(value) for name, value in self.headers) > HEAD_BYTES_MAX
        ):
            self._abort(TOO_LARGE)
        method = self.parser.get_method()
        if self.parser.should_upgrade():
            if method == b"CONNECT":
                self._abort(NO_TUNNEL)
            self._is_upgrade = True
            return
        is_plain = self._is_plain(self.parser.get_http_version())
        if is_plain and self._fast_path is not None and self._fast_path.has(method, self.url):
            self._take_or_refuse(self._fast_path, method)
        else:
            self._begin_body()
            self._fast_cycle = None
            self._hand_to_app()
        self.headers = []  # collects the trailers, which are no headers (RFC 9110, 6.5.1)

    def _take_or_refuse(self, fast_path: FastPath, method: bytes) -> None:
        """Takes a request of the fast path if its caller may send it. The body of another one is never kept."""
        keep_alive = self.parser.should_keep_alive()
        caller, error = None, None
        try:
            caller = fast_path.admit(self.headers)
        except TcgxError as refusal:
            error = refusal
            is_last = not keep_alive or self._drain.is_on
            if is_last or self._body_bytes > DISCARD_BYTES_MAX or self.flow.write_paused:
                self._abort(problem_of(refusal, request_id(self._request_id)))
        self._begin_body()
        if error is not None and self._has_completed:  # many of one read would take long: the app answers one a turn
            self._fast_cycle = None
            self._hand_to_app()
            return
        cycle = FastPathCycle(method, self.url, self.headers, self._request_id, caller, keep_alive=keep_alive)
        self._fast_cycle = self.cycle = cycle  # type: ignore[assignment]  # a stand-in, see FastPathCycle
        if error is not None:
            name = request_id(self._request_id)
            cycle.response_started = cycle.response_complete = True
            answer = fast_path.refusal((method, self.url), self.headers, error, name)
            self.transport.write(_encode(answer, name, keep_alive=True))
            self.on_response_complete()

    def _begin_body(self) -> None:
        self._stage = BODY
        self._has_entered_stage = True
        self._bytes_beside_body = 0

    def on_body(self, body: bytes) -> None:
        """Collects a piece of the body. The body of a request that was answered before is discarded."""
        if self._fast_cycle is None:
            self._bytes_beside_body = -self._read_bytes
            if self.expect_100_continue:
                self.cycle.keep_alive = self.parser.should_keep_alive()
            super().on_body(body)
        elif not self._fast_cycle.response_complete:
            self._fast_cycle.body += body

    def on_message_complete(self) -> None:
        """Starts the answer to a complete request; the next bytes belong to another request."""
        if self._is_upgrade:
            return
        self._stage = NOTHING
        self._has_completed = True
        self._head_bytes = 0
        self._deadline = math.inf
        if self.cycle.response_complete:
            self._set_deadline(self._timeouts.keep_alive_seconds)
            return
        if self._fast_cycle is None or self._fast_path is None:
            super().on_message_complete()
            return
        task = self.loop.create_task(self._answer(self._fast_path, self._fast_cycle))
        task.add_done_callback(self.tasks.discard)
        self.tasks.add(task)

    def _feed(self, data: bytes) -> None:
        """Feeds bytes to the parser.

        A server may ignore an offer to upgrade (RFC 9110, 7.8). But the parser takes all bytes after the offer for
        another protocol, even the body. So a new parser gets the head once more, without the offer.
        """
        rest: bytes | memoryview = data
        while True:
            try:
                self.parser.feed_data(rest)
            except httptools.HttpParserUpgrade as upgrade:
                if self._is_for_websocket():
                    self._become_websocket(rest[upgrade.args[0] :])
                    return
                head = self._head_without_upgrade()
                rest = memoryview(rest)[upgrade.args[0] :]
                self._is_upgrade = False
                self.parser = httptools.HttpRequestParser(self)
                self.parser.set_dangerous_leniencies(lenient_data_after_close=True)  # as uvicorn does
                self.parser.feed_data(head)
            else:
                return

    def _is_for_websocket(self) -> bool:
        upgrade = b"".join(value for name, value in self.headers if name == b"upgrade").lower()
        is_path = self.url.partition(b"?")[0] in WEBSOCKET_PATHS
        return is_path and upgrade == b"websocket" and not self._is_answering() and self.ws_protocol_class is not None

    def _become_websocket(self, rest: bytes | memoryview) -> None:
        """Hands the connection to the WebSocket protocol, with the head and what follows it."""
        if self._timer is not None:
            self._timer.cancel()
        lines = [b"%b %b HTTP/1.1" % (self.parser.get_method(), self.url)]
        lines += [b"%b: %b" % header for header in self.headers]
        self.connections.discard(self)
        protocol: Any = self.ws_protocol_class(  # type: ignore[call-arg, misc]  # as uvicorn does
            config=self.config, server_state=self.server_state, app_state=self.app_state
        )
        protocol.before = self
        protocol.connection_made(self.transport)
        self.transport.set_protocol(protocol)
        protocol.data_received(b"\r\n".join([*lines, b"", b""]) + bytes(rest))

    def _head_without_upgrade(self) -> bytes:
        version = self.parser.get_http_version().encode()
        lines = [b"%b %b HTTP/%b" % (self.parser.get_method(), self.url, version)]
        lines += [b"%b: %b" % header for header in self.headers if header[0] != b"upgrade"]
        return b"\r\n".join([*lines, b"", b""])

    def _hand_to_app(self) -> None:
        url, headers, expect, previous = self.url, self.headers, self.expect_100_continue, self.cycle
        super().on_message_begin()
        self.url, self.headers, self.expect_100_continue = url, headers, expect
        self.scope["headers"] = headers
        self.scope["extensions"] = {TRANSPORT: {"transport": self.transport}}
        super().on_headers_complete()
        if self._drain.is_on:
            if previous is not None and previous is self._last_cycle:
                previous.keep_alive = True
            self.drain()
        if self.expect_100_continue:
            self.cycle.keep_alive = False  # a client who gets no 100 sends no body, so the next bytes would be unclear

    def _is_plain(self, version: str) -> bool:
        """Whether the fast path can answer the request; reads every header once.

        Raises:
            ParserAbort: the head is none of HTTP/1.1 or 1.0.
        """
        is_plain = version == "1.1" and not self.expect_100_continue
        if self.cycle is not None and not self.cycle.response_complete:
            is_plain = False  # the previous request is not answered yet: uvicorn has a queue for this one
        body_bytes_max = 0 if self._fast_path is None else self._fast_path.body_bytes_max
        hosts = 0
        self._body_bytes = 0
        for name, value in self.headers:
            if name == b"host":
                hosts += 1
                if value != self._host and not HOST.fullmatch(value):
                    self._abort(NO_HOST)
                self._host = value
            elif name == b"x-request-id":
                self._request_id = self._request_id or value
            elif name == b"content-length":
                self._body_bytes = int(value)
                if self._body_bytes > body_bytes_max:
                    is_plain = False
            elif name == b"transfer-encoding":
                is_plain = False
        if version not in ("1.1", "1.0"):
            self._abort(MALFORMED)
        if hosts > 1 or (hosts == 0 and version == "1.1"):
            self._abort(NO_HOST)
        return is_plain

    def _abort(self, problem: Problem) -> NoReturn:
        self._problem = problem
        raise ParserAbort

    # -- answers

    async def _answer(self, fast_path: FastPath, cycle: FastPathCycle) -> None:
        name = request_id(cycle.request_id)
        try:
            body, cycle.body = bytes(cycle.body), _NO_BODY  # an idle connection keeps no body
            assert cycle.caller is not None, "a refused request is not answered twice"  # noqa: S101
            answer = await fast_path.answer((cycle.method, cycle.target), cycle.caller, cycle.headers, body, name)
            if self.flow.write_paused:
                await self.flow.drain()
        except asyncio.CancelledError:
            self.transport.close()  # the server shuts down without this answer
            raise
        if self.transport.is_closing():
            return
        cycle.response_complete = True
        keep_alive = cycle.keep_alive and not (self._drain.is_on and not self.pipeline and self._stage is NOTHING)
        self.transport.write(_encode(answer, name, keep_alive=keep_alive))
        if not keep_alive:
            self.transport.close()
        self.on_response_complete()

    def on_response_complete(self) -> None:
        """After an answer: starts the next queued request, writes the refusal, or reads on."""
        self.server_state.total_requests += 1
        if self.transport.is_closing():
            return
        if self._unparsed:
            self.loop.call_soon(self._parse_slices)
        if self.pipeline:
            if not self._unparsed:
                self.flow.resume_reading()
            self._start_asgi_task(*self.pipeline.pop())
        elif self._refusal is not None:
            self._write_last_answer(self._refusal)
        else:
            self.flow.resume_reading()
            if self._stage is NOTHING:
                self._set_deadline(self._timeouts.keep_alive_seconds)
            elif self._stage is BODY and self.cycle.response_complete:
                self.cycle.body = _NO_BODY  # the rest of the body is discarded, for a short time
                self._set_deadline(LINGER_SECONDS)

    def _is_answering(self) -> bool:
        """Whether a request is not answered yet."""
        return self.cycle is not None and not self.cycle.response_complete and not self.cycle.disconnected

    def _refuse(self, problem: Problem) -> None:
        """Stops reading, and makes this problem the last answer of the connection."""
        if self.transport.is_closing():
            return
        self._refusal = problem
        self._unparsed.clear()
        self.flow.pause_reading()
        if self._stage is BODY:
            cycle = self.cycle
            if self.pipeline and self.pipeline[0][0] is cycle:
                self.pipeline.popleft()
                return  # the request before it is not answered yet
            if cycle.response_started:
                self.transport.close()
                return
            cycle.disconnected = True
            cycle.message_event.set()
        if not self._is_answering():
            self._write_last_answer(problem)

    def _write_last_answer(self, problem: Problem) -> None:
        """Writes the last answer and closes the sending side.

        The kernel resets a connection that is closed with unread bytes, and answers on their way are lost (RFC 9112,
        9.6). So the connection reads on until the client closes it or `LINGER_SECONDS` pass.
        """
        self._has_ended = True
        if self._fast_path is not None:
            self._fast_path.observe_refusal(problem)
        self.transport.write(_encode(problem_answer(problem), request_id(self._request_id), keep_alive=False))
        if self._has_eof:
            self.transport.close()
            return
        if self.transport.can_write_eof():
            self.transport.write_eof()
        self.flow.resume_reading()
        self._set_deadline(LINGER_SECONDS)

    # -- stop

    def drain(self) -> None:
        """Makes the answer to the newest request the last one, as each answer is while the server drains."""
        if self._is_answering() and self._fast_cycle is None:
            self._last_cycle = self.cycle
            self.cycle.keep_alive = False

    def shutdown(self) -> None:
        """Ends the connection at the stop of the server: after the answer to a request that has arrived in part.

        An idle connection is half closed. The client has `FAREWELL_SECONDS` to see this before a request of it would
        be reset.
        """
        self._drain.is_on = True
        if self._is_answering() or self._stage is not NOTHING or _has_unread(self.transport):
            self.drain()
        elif not self.transport.is_closing() and not self._has_ended:
            self._has_ended = True
            if not self.transport.can_write_eof():  # TLS has no half: its end is an alert that the client sees
                self.transport.close()
                return
            self.transport.write_eof()
            self._set_deadline(FAREWELL_SECONDS)

    # -- time

    def _set_deadline(self, seconds: float) -> None:
        """Gives the client this long from now on.

        One timer serves all limits of a connection. It is replaced if it would fire too late; if it fires too early,
        `_check_deadline` sets it again. Most requests therefore touch no timer.
        """
        self._since = self.loop.time()
        self._deadline = self._since + seconds
        if self._deadline >= self._timer_at:
            return
        if self._timer is not None:
            self._timer.cancel()
        self._timer_at = self._deadline
        self._timer = self.loop.call_at(self._deadline, self._check_deadline)

    def _check_deadline(self) -> None:
        self._timer, self._timer_at = None, math.inf
        left = self._deadline - self.loop.time()
        if self.transport.is_closing() or left == math.inf:
            return
        if left > 0:
            self._timer_at = self._deadline
            self._timer = self.loop.call_at(self._deadline, self._check_deadline)
        elif self._has_ended or self._stage is NOTHING:
            if self.transport.get_write_buffer_size():
                self.transport.abort()  # the client does not read, so its answer can't be sent to the end
            self.transport.close()
        elif self.flow.read_paused:
            self._set_deadline(self._timeouts.head_seconds)  # the server has paused reading, so the client is not late
        elif self._stage is HEAD:
            self._refuse(_too_slow("request line and headers", self._timeouts.head_seconds))
        else:
            self._refuse(_too_slow("body", self._timeouts.body_seconds))


def _has_unread(transport: asyncio.Transport) -> bool:
    """Whether the kernel has bytes of the client that the event loop has not read yet."""
    poll = select.poll()
    poll.register(transport.get_extra_info("socket").fileno(), select.POLLIN)
    return bool(poll.poll(0))


def _too_slow(part: str, seconds: float) -> Problem:
    return Problem(408, "request_timeout", "Request timeout", f"the {part} did not come whole within {seconds:g} s")


def _encode(answer: Answer, request_id: str, *, keep_alive: bool) -> bytes:
    """Encodes an answer as the bytes of HTTP/1.1."""
    head = _head(answer.status, answer.headers, keep_alive)
    return b"%b%bcontent-length: %d\r\n\r\n%b" % (head, common_header_lines(request_id), len(answer.body), answer.body)


@lru_cache
def _head(status: int, headers: tuple[tuple[bytes, bytes], ...], keep_alive: bool) -> bytes:
    """Encodes the status line and the headers that many answers share; the cache has few entries."""
    lines = [f"HTTP/1.1 {status} {HTTPStatus(status).phrase}".encode()]
    lines += [b"%b: %b" % header for header in headers]
    if not keep_alive:
        lines.append(b"connection: close")
    return b"\r\n".join([*lines, b""])
