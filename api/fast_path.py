"""Calls that are answered without Litestar's machinery: what bots send thousands of times a second.

A direct call is a function from headers and body to an answer. Litestar has a handler for each, which describes it in
the OpenAPI document and gives the answer of the same function; it is asked wherever our HTTP server does not answer by
itself (`api/http_protocol.py` says when) and under any other server. What is to hold for both, as a limit for each
caller, belongs into that function; what is to count both, around `FastPath.answer` and into a middleware of Litestar.
"""

from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import NamedTuple

import msgspec

from api.context import Context
from api.problems import MEDIA_TYPE, Problem, headers_of, of_error, of_unexpected
from core.errors import TcgxError

Headers = Iterable[tuple[bytes, bytes]]
"""As in ASGI: names in lower case."""

JSON_HEADERS = ((b"content-type", b"application/json"),)


class Answer(NamedTuple):
    """What goes back for a request; Content-Length is added where it is sent."""

    status: int
    body: bytes
    headers: tuple[tuple[bytes, bytes], ...] = JSON_HEADERS


Call = Callable[[Context, Headers, bytes], Awaitable[Answer]]


class FastPath:
    """The direct calls of an app, by method and target."""

    def __init__(self, calls: Mapping[tuple[bytes, bytes], Call], *, body_bytes_max: int) -> None:
        self.body_bytes_max = body_bytes_max
        self._calls = calls
        self._context: Context | None = None

    def open(self, context: Context) -> None:
        """From now on there is something to answer with."""
        self._context = context

    def has(self, method: bytes, target: bytes) -> bool:
        """Whether a request is answered here. The target is as on the request line: one with a query is another."""
        return self._context is not None and (method, target) in self._calls

    async def answer(self, method: bytes, target: bytes, headers: Headers, body: bytes, request_id: str) -> Answer:
        """The answer to a request, whatever happens."""
        assert self._context is not None, "`has` was not asked"  # noqa: S101
        try:
            return await self._calls[method, target](self._context, headers, body)
        except TcgxError as error:
            return of_problem(of_error(error, request_id))
        except Exception as error:  # noqa: BLE001 - the top of a request, as Litestar's handler of all exceptions is
            return of_problem(of_unexpected(error, request_id, method=method.decode(), path=target.decode()))


def header(headers: Headers, name: bytes) -> bytes | None:
    """The value of a header, the first if it was sent more than once."""
    for key, value in headers:
        if key == name:
            return value
    return None


def list_header(headers: Headers, name: bytes) -> str | None:
    """The value of a header that is a list: several lines of it are one list (RFC 9110, 5.3)."""
    values = [value for key, value in headers if key == name]
    return b", ".join(values).decode("latin-1") if values else None


def of_problem(problem: Problem) -> Answer:
    """A problem as an answer."""
    headers = {"content-type": MEDIA_TYPE, **headers_of(problem)}
    encoded = tuple((name.encode(), value.encode()) for name, value in headers.items())
    return Answer(problem.status, msgspec.json.encode(problem), encoded)
