"""HTTP as uvicorn speaks it, with two differences: a request line and headers have a bound, and what is no HTTP at all
is answered with a problem too."""

from typing import Any

import msgspec
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

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


class Protocol(HttpToolsProtocol):
    """One connection."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._problem = MALFORMED
        self._in_head = True
        self._head_bytes = 0
        self._has_completed = False

    def data_received(self, data: bytes) -> None:
        """The parser keeps a header to itself until it is whole, so an endless one is counted here. What comes in the
        same read as the end of the request before is not counted; a read has a bound of its own."""
        self._has_completed = False
        super().data_received(data)
        if self._in_head and not self._has_completed and not self.transport.is_closing():
            self._head_bytes += len(data)
            if self._head_bytes > HEAD_BYTES_MAX:
                self._problem = TOO_LARGE
                self.send_400_response("")

    def on_headers_complete(self) -> None:
        """Takes the request, or refuses it for the size of its head."""
        self._in_head = False
        if len(self.url) + sum(len(name) + len(value) for name, value in self.headers) > HEAD_BYTES_MAX:
            self._problem = TOO_LARGE
            raise HeadTooLarge
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        """The next bytes are the head of another request."""
        self._in_head = True
        self._has_completed = True
        self._head_bytes = 0
        super().on_message_complete()

    def send_400_response(self, msg: str) -> None:  # noqa: ARG002 - uvicorn's sentence
        """Answers what never became a request, and hangs up."""
        body = msgspec.json.encode(self._problem)
        head = (
            f"HTTP/1.1 {self._problem.status} {self._problem.title}\r\ncontent-type: {MEDIA_TYPE}\r\n"
            f"content-length: {len(body)}\r\nconnection: close\r\n\r\n"
        )
        self.transport.write(head.encode() + body)
        self.transport.close()
