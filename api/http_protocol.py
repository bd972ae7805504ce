"""HTTP as uvicorn speaks it, with four differences.

The fast path (`api/fast_path.py`) is answered here, without ASGI. Heads, bodies and silences have bounds. An offer to
upgrade is passed over. Bytes that are no request are answered with a problem, after the requests before them.
"""

import asyncio
import math
import re
from enum import Enum
from functools import lru_cache
from http import HTTPStatus
from typing import Any, NamedTuple, NoReturn

import httptools
from msgspec import structs
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from api.common_headers import common_header_lines, request_id
from api.fast_path import Answer, FastPath, problem_answer
from api.problems import Problem
from core.settings import Settings

HEAD_BYTES_MAX = 65_536
LINGER_SECONDS = 2.0
"""How long a connection is kept after its last answer, for the client to read that."""

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


class Timeouts(NamedTuple):
    """How long a client may take."""

    head_seconds: float
    body_seconds: float
    keep_alive_seconds: float

    @classmethod
    def of(cls, settings: Settings) -> "Timeouts":
        """Those of the settings."""
        return cls(settings.head_seconds, settings.body_seconds, settings.keep_alive_seconds)


TIMEOUTS = Timeouts.of(Settings())


class Stage(Enum):
    """Which part of a request comes next on a connection."""

    NOTHING = 0
    HEAD = 1
    BODY = 2


NOTHING, HEAD, BODY = Stage.NOTHING, Stage.HEAD, Stage.BODY  # an attribute of an enum costs more than a name


class ParserAbort(Exception):
    """Tells the parser to give up; it does not leave this file."""


class FastPathCycle:
    """A request on the fast path, in the place of uvicorn's `RequestResponseCycle`: what uvicorn asks that one
    while the request is under way (is it complete, should the connection stay), it asks this one."""

    response_started = False

    def __init__(
        self,
        method: bytes,
        target: bytes,
        headers: list[tuple[bytes, bytes]],
        request_id: bytes | None,
        *,
        keep_alive: bool,
    ) -> None:
        self.request_id = request_id
        self.method = method
        self.target = target
        self.headers = headers
        self.body = bytearray()
        self.keep_alive = keep_alive
        self.disconnected = False
        self.response_complete = False
        self.message_event = _NULL_EVENT


class _NullEvent:
    """An event that nobody waits for: an endpoint begins when its body is whole."""

    def set(self) -> None:
        """Somebody would go on."""


_NULL_EVENT = _NullEvent()


class Protocol(HttpToolsProtocol):
    """One connection.

    A request takes the fast path if it is an endpoint of it whose body has a Content-Length within its bound, and if it
    comes after the answer to the one before it. All others, and those that say `Expect: 100-continue`, go to the app.

    A connection ends with a refusal once something comes that is no request, or not in time. Requests that were whole
    before it are answered first: a client that reads an error first would take them for failed.
    """

    def __init__(
        self, *args: Any, fast_path: FastPath | None = None, timeouts: Timeouts | None = None, **kwargs: Any
    ) -> None:
        super().__init__(*args, **kwargs)
        self._fast_path = fast_path
        self._timeouts = timeouts or TIMEOUTS
        self._fast_cycle: FastPathCycle | None = None
        self._stage = NOTHING
        self._has_entered_stage = False  # in this read
        self._is_upgrade = False
        self._host = b""  # of the request before
        self._request_id: bytes | None = None
        self._problem = MALFORMED
        self._refusal: Problem | None = None
        self._has_ended = False  # the last answer is written
        self._has_eof = False
        self._has_completed = False
        self._head_bytes = 0
        self._read_bytes = 0
        self._bytes_beside_body = 0
        self._deadline = math.inf
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = math.inf

    # -- what the transport says

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn does
        """A client has connected, and should say something soon."""
        super().connection_made(transport)
        self._set_deadline(self._timeouts.head_seconds)

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection is gone."""
        if self._timer is not None:
            self._timer.cancel()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """The parser keeps a header to itself until it is whole, so an endless one is counted here. What comes in the
        same read as the end of the request before is not counted; a read has a bound of its own."""
        if self._refusal is not None:
            return
        self._has_completed = self._has_entered_stage = False
        self._read_bytes = len(data)
        try:
            self._feed(data)
        except httptools.HttpParserError:
            self._refuse(self._problem)
            return
        if self._stage is BODY:
            self._bytes_beside_body += self._read_bytes
            if self._has_entered_stage:
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
        """The client sends nothing more. It may still read (RFC 9112, 9.6): whether the connection stays for that."""
        self._has_eof = True
        if self._has_ended:
            return False
        if self._refusal is None and self._stage is not NOTHING:
            self._refuse(INCOMPLETE_BODY if self._stage is BODY else INCOMPLETE)
        elif self._refusal is None and self._is_answering():
            self.cycle.keep_alive = False
        return self._is_answering()

    # -- what the parser says

    def on_message_begin(self) -> None:
        """The first byte of a request. What uvicorn makes here for the app, the fast path does not need."""
        self.url = b""
        self.headers = []
        self.expect_100_continue = False
        self._request_id = None
        self._stage = HEAD
        self._has_entered_stage = True

    def on_headers_complete(self) -> None:
        """Takes the request, or refuses it for its head."""
        # What was read is at least as long as the head: most heads need not be measured.
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
        self._stage = BODY
        self._has_entered_stage = True
        self._bytes_beside_body = 0
        if is_plain and self._fast_path is not None and self._fast_path.has(method, self.url):
            keep_alive = self.parser.should_keep_alive()
            self._fast_cycle = FastPathCycle(method, self.url, self.headers, self._request_id, keep_alive=keep_alive)
            self.cycle = self._fast_cycle  # type: ignore[assignment]  # it stands in for one
        else:
            self._fast_cycle = None
            self._hand_to_app()
        self.headers = []  # takes the fields after a body, which are no headers (RFC 9110, 6.5.1)

    def on_body(self, body: bytes) -> None:
        """A piece of the body."""
        if self._fast_cycle is None:
            self._bytes_beside_body = -self._read_bytes
            super().on_body(body)
        else:
            self._fast_cycle.body += body

    def on_message_complete(self) -> None:
        """The next bytes are the head of another request."""
        if self._is_upgrade:
            return
        self._stage = NOTHING
        self._has_completed = True
        self._head_bytes = 0
        self._deadline = math.inf
        if self.cycle.response_complete:
            self._set_deadline(self._timeouts.keep_alive_seconds)
        if self._fast_cycle is None or self._fast_path is None:
            super().on_message_complete()
            return
        task = self.loop.create_task(self._answer(self._fast_path, self._fast_cycle))
        task.add_done_callback(self.tasks.discard)
        self.tasks.add(task)

    def _feed(self, data: bytes) -> None:
        """Gives bytes to the parser.

        An offer to upgrade may be passed over (RFC 9110, 7.8), but the parser takes what follows for another protocol,
        the body too. It is given the head once more, without the offer.
        """
        rest: bytes | memoryview = data
        while True:
            try:
                self.parser.feed_data(rest)
            except httptools.HttpParserUpgrade as upgrade:
                head = self._head_without_upgrade()
                rest = memoryview(rest)[upgrade.args[0] :]
                self._is_upgrade = False
                self.parser = httptools.HttpRequestParser(self)
                self.parser.set_dangerous_leniencies(lenient_data_after_close=True)  # as uvicorn does
                self.parser.feed_data(head)
            else:
                return

    def _head_without_upgrade(self) -> bytes:
        version = self.parser.get_http_version().encode()
        lines = [b"%b %b HTTP/%b" % (self.parser.get_method(), self.url, version)]
        lines += [b"%b: %b" % header for header in self.headers if header[0] != b"upgrade"]
        return b"\r\n".join([*lines, b"", b""])

    def _hand_to_app(self) -> None:
        url, headers, expect = self.url, self.headers, self.expect_100_continue
        super().on_message_begin()
        self.url, self.headers, self.expect_100_continue = url, headers, expect
        self.scope["headers"] = headers
        super().on_headers_complete()

    def _is_plain(self, version: str) -> bool:
        """Whether nothing about the request needs more than the fast path; looks at every header once.

        Raises:
            ParserAbort: it is no request of HTTP/1.1 or 1.0.
        """
        is_plain = version == "1.1" and not self.expect_100_continue
        if self.cycle is not None and not self.cycle.response_complete:
            is_plain = False  # it was sent before the one before it was answered: uvicorn has a queue for that
        body_bytes_max = 0 if self._fast_path is None else self._fast_path.body_bytes_max
        hosts = 0
        for name, value in self.headers:
            if name == b"host":
                hosts += 1
                if value != self._host and not HOST.fullmatch(value):
                    self._abort(NO_HOST)
                self._host = value
            elif name == b"x-request-id":
                self._request_id = self._request_id or value
            elif name == b"transfer-encoding" or (name == b"content-length" and int(value) > body_bytes_max):
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
            answer = await fast_path.answer(cycle.method, cycle.target, cycle.headers, bytes(cycle.body), name)
            if self.flow.write_paused:
                await self.flow.drain()
        except asyncio.CancelledError:
            self.transport.close()  # the server does not wait any longer for this answer
            raise
        if self.transport.is_closing():
            return
        cycle.response_complete = True
        self.transport.write(_encoded(answer, name, keep_alive=cycle.keep_alive))
        if not cycle.keep_alive:
            self.transport.close()
        self.on_response_complete()

    def on_response_complete(self) -> None:
        """An answer is written: the next request that waits is begun, or the client may send one."""
        self.server_state.total_requests += 1
        if self.transport.is_closing():
            return
        if self.pipeline:
            self.flow.resume_reading()
            self._start_asgi_task(*self.pipeline.pop())
        elif self._refusal is not None:
            self._write_last_answer(self._refusal)
        else:
            self.flow.resume_reading()
            if self._stage is NOTHING:
                self._set_deadline(self._timeouts.keep_alive_seconds)

    def _is_answering(self) -> bool:
        """Whether there is a request without an answer."""
        return self.cycle is not None and not self.cycle.response_complete and not self.cycle.disconnected

    def _refuse(self, problem: Problem) -> None:
        """Looks at nothing that comes from now on, and answers this as the last."""
        if self.transport.is_closing():
            return
        self._refusal = problem
        self.flow.pause_reading()
        if self._stage is BODY:
            cycle = self.cycle
            if self.pipeline and self.pipeline[0][0] is cycle:
                self.pipeline.popleft()
                return  # the one before it is not answered yet
            if cycle.response_started:
                self.transport.close()
                return
            cycle.disconnected = True
            cycle.message_event.set()
        if not self._is_answering():
            self._write_last_answer(problem)

    def _write_last_answer(self, problem: Problem) -> None:
        """Writes the last answer and hangs up in a way that lets the client read it: a connection that is closed with
        bytes in it that nobody read is reset, and answers on their way are lost (RFC 9112, 9.6)."""
        self._has_ended = True
        if self._fast_path is not None:
            self._fast_path.observe_refusal(problem)
        self.transport.write(_encoded(problem_answer(problem), request_id(self._request_id), keep_alive=False))
        if self._has_eof:
            self.transport.close()
            return
        self.transport.write_eof()
        self.flow.resume_reading()
        self._set_deadline(LINGER_SECONDS)

    # -- time

    def _set_deadline(self, seconds: float) -> None:
        """From now on the client has this long. One timer serves all limits of a connection: it is moved when it would
        come too late, and looks at the deadline when it comes too early."""
        self._deadline = self.loop.time() + seconds
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
            self._set_deadline(left)
        elif self._has_ended or self._stage is NOTHING:
            self.transport.close()
        elif self.flow.read_paused:
            self._set_deadline(self._timeouts.head_seconds)  # it is we who do not read
        elif self._stage is HEAD:
            self._refuse(_too_slow("request line and headers", self._timeouts.head_seconds))
        else:
            self._refuse(_too_slow("body", self._timeouts.body_seconds))


def _too_slow(part: str, seconds: float) -> Problem:
    return Problem(408, "request_timeout", "Request timeout", f"the {part} did not come whole within {seconds:g} s")


def _encoded(answer: Answer, request_id: str, *, keep_alive: bool) -> bytes:
    """An answer as it is sent, in one piece."""
    head = _head(answer.status, answer.headers, keep_alive)
    return b"%b%bcontent-length: %d\r\n\r\n%b" % (head, common_header_lines(request_id), len(answer.body), answer.body)


@lru_cache
def _head(status: int, headers: tuple[tuple[bytes, bytes], ...], keep_alive: bool) -> bytes:
    """A head, up to the headers that each answer has of its own. There are few different ones."""
    lines = [f"HTTP/1.1 {status} {HTTPStatus(status).phrase}".encode()]
    lines += [b"%b: %b" % header for header in headers]
    if not keep_alive:
        lines.append(b"connection: close")
    return b"\r\n".join([*lines, b""])
