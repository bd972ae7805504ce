"""HTTP as uvicorn speaks it, with three differences: direct calls (`api/direct.py`) are answered here, without ASGI; a
request line and headers have a bound; and what is no HTTP at all is answered with a problem too."""

import asyncio
from functools import lru_cache
from http import HTTPStatus
from typing import Any

import msgspec
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from api.direct import Answer, Direct
from api.problems import MEDIA_TYPE, Problem

HEAD_BYTES_MAX = 65_536

MALFORMED = Problem(400, "malformed_request", "Malformed request", "this is not an HTTP/1.1 request")
TOO_LARGE = Problem(
    431,
    "headers_too_large",
    "Headers too large",
    f"the request line and the headers have more than {HEAD_BYTES_MAX} bytes",
)


class HeadTooLarge(Exception):
    """Tells the parser to give up; it does not leave this file."""


class DirectCycle:
    """A request that is answered directly, in the place of uvicorn's `RequestResponseCycle`: what uvicorn asks that one
    while the request is under way (is it complete, should the connection stay), it asks this one."""

    def __init__(self, method: bytes, target: bytes, headers: list[tuple[bytes, bytes]], *, keep_alive: bool) -> None:
        self.method = method
        self.target = target
        self.headers = headers
        self.body = bytearray()
        self.keep_alive = keep_alive
        self.disconnected = False
        self.response_complete = False
        self.message_event = _NOBODY_WAITS


class _Unheard:
    """An event that nobody waits for: a direct call begins when its body is whole."""

    def set(self) -> None:
        """Somebody would go on."""


_NOBODY_WAITS = _Unheard()


class Protocol(HttpToolsProtocol):
    """One connection.

    A request is answered directly if it is a direct call whose body has a Content-Length within its bound, and if it
    comes after the answer to the one before it. All others, and those that say `Expect: 100-continue`, go to the app.
    """

    def __init__(self, *args: Any, direct: Direct | None = None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._direct = direct
        self._direct_cycle: DirectCycle | None = None
        self._problem = MALFORMED
        self._in_head = True
        self._head_bytes = 0
        self._read_bytes = 0
        self._has_completed = False

    def data_received(self, data: bytes) -> None:
        """The parser keeps a header to itself until it is whole, so an endless one is counted here. What comes in the
        same read as the end of the request before is not counted; a read has a bound of its own."""
        self._has_completed = False
        self._read_bytes = len(data)
        super().data_received(data)
        if self._in_head and not self._has_completed and not self.transport.is_closing():
            self._head_bytes += len(data)
            if self._head_bytes > HEAD_BYTES_MAX:
                self._problem = TOO_LARGE
                self.send_400_response("")

    def on_headers_complete(self) -> None:
        """Takes the request, or refuses it for the size of its head."""
        self._in_head = False
        # What was read is at least as long as the head: most heads need not be measured.
        if (
            self._head_bytes + self._read_bytes > HEAD_BYTES_MAX
            and len(self.url) + sum(len(name) + len(value) for name, value in self.headers) > HEAD_BYTES_MAX
        ):
            self._problem = TOO_LARGE
            raise HeadTooLarge
        self._direct_cycle = None
        method = self.parser.get_method()
        if self._direct is not None and self._direct.has(method, self.url) and self._is_plain(self._direct):
            keep_alive = self.parser.should_keep_alive()
            self._direct_cycle = DirectCycle(method, self.url, self.headers, keep_alive=keep_alive)
            self.cycle = self._direct_cycle  # type: ignore[assignment]  # it stands in for one
        else:
            super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """A piece of the body."""
        if self._direct_cycle is None:
            super().on_body(body)
        else:
            self._direct_cycle.body += body

    def on_message_complete(self) -> None:
        """The next bytes are the head of another request."""
        self._in_head = True
        self._has_completed = True
        self._head_bytes = 0
        if self._direct_cycle is None or self._direct is None:
            super().on_message_complete()
            return
        task = self.loop.create_task(self._answer(self._direct, self._direct_cycle))
        task.add_done_callback(self.tasks.discard)
        self.tasks.add(task)

    def _is_plain(self, direct: Direct) -> bool:
        """Whether nothing about the request needs more than a direct answer."""
        if self.cycle is not None and not self.cycle.response_complete:
            return False  # it was sent before the one before it was answered: uvicorn has a queue for that
        if self.expect_100_continue or self.parser.should_upgrade() or self.parser.get_http_version() != "1.1":
            return False
        for name, value in self.headers:
            if name == b"transfer-encoding" or (name == b"content-length" and int(value) > direct.body_bytes_max):
                return False
        return True

    async def _answer(self, direct: Direct, cycle: DirectCycle) -> None:
        try:
            answer = await direct.answer(cycle.method, cycle.target, cycle.headers, bytes(cycle.body))
            if self.flow.write_paused:
                await self.flow.drain()
        except asyncio.CancelledError:
            self.transport.close()  # the server does not wait any longer for this answer
            raise
        if self.transport.is_closing():
            return
        cycle.response_complete = True
        self.transport.write(_encoded(answer, keep_alive=cycle.keep_alive))
        if not cycle.keep_alive:
            self.transport.close()
        self.on_response_complete()

    def send_400_response(self, msg: str) -> None:  # noqa: ARG002 - uvicorn's sentence
        """Answers what never became a request, and hangs up."""
        headers = ((b"content-type", MEDIA_TYPE.encode()),)
        answer = Answer(self._problem.status, msgspec.json.encode(self._problem), headers)
        self.transport.write(_encoded(answer, keep_alive=False))
        self.transport.close()


def _encoded(answer: Answer, *, keep_alive: bool) -> bytes:
    """An answer as it is sent, in one piece."""
    return b"%b%d\r\n\r\n%b" % (_head(answer.status, answer.headers, keep_alive), len(answer.body), answer.body)


@lru_cache
def _head(status: int, headers: tuple[tuple[bytes, bytes], ...], keep_alive: bool) -> bytes:
    """A head, up to the length of the body. There are few different ones."""
    lines = [f"HTTP/1.1 {status} {HTTPStatus(status).phrase}".encode()]
    lines += [b"%b: %b" % header for header in headers]
    if not keep_alive:
        lines.append(b"connection: close")
    return b"\r\n".join([*lines, b"content-length: "])
