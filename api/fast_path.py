"""Calls that are answered without Litestar's machinery: what bots send thousands of times a second.

An endpoint is a function from context, caller, headers and body to an answer. Litestar has a handler for each, which
describes the call in the OpenAPI document and gives the answer of the same function. Litestar is asked wherever our
HTTP protocol does not answer by itself (`api/http_protocol.py` says when), and under any other server.
"""

from collections.abc import Awaitable, Callable, Mapping
from time import perf_counter
from typing import NamedTuple

import msgspec

from api.context import Context
from api.gate import Headers
from api.problems import MEDIA_TYPE, Problem, problem_headers, problem_of, unexpected_problem
from core.errors import TcgxError
from exchange.tokens import Caller

JSON_HEADERS = ((b"content-type", b"application/json"),)


class Answer(NamedTuple):
    """What goes back for a request; Content-Length is added where it is sent."""

    status: int
    body: bytes
    headers: tuple[tuple[bytes, bytes], ...] = JSON_HEADERS


class Endpoint(NamedTuple):
    """A call of the fast path: its name in the OpenAPI document, and the function that answers it."""

    operation: str
    answer: Callable[[Context, Caller, Headers, bytes], Awaitable[Answer]]


class FastPath:
    """The endpoints of an app, by method and target."""

    def __init__(self, endpoints: Mapping[tuple[bytes, bytes], Endpoint], *, body_bytes_max: int) -> None:
        self.body_bytes_max = body_bytes_max
        self._endpoints = endpoints
        self._context: Context | None = None

    def open(self, context: Context) -> None:
        """From now on there is something to answer with."""
        self._context = context

    def has(self, method: bytes, target: bytes) -> bool:
        """Whether a request is answered here. The target is as on the request line: one with a query is another."""
        return self._context is not None and (method, target) in self._endpoints

    async def answer(self, method: bytes, target: bytes, headers: Headers, body: bytes, request_id: str) -> Answer:
        """The answer to a request, whatever happens."""
        assert self._context is not None, "`has` was not asked"  # noqa: S101
        context, endpoint = self._context, self._endpoints[method, target]
        observer = context.gate.observer
        started = perf_counter() if observer else 0.0
        try:
            answer = await endpoint.answer(context, context.gate.admit(headers), headers, body)
        except TcgxError as error:
            answer = problem_answer(problem_of(error, request_id))
        except Exception as error:  # noqa: BLE001 - the top of a request, as Litestar's handler of all exceptions is
            answer = problem_answer(unexpected_problem(error, request_id, method=method.decode(), path=target.decode()))
        if observer:
            observer(endpoint.operation, answer.status, perf_counter() - started)
        return answer

    def observe_refusal(self, problem: Problem) -> None:
        """Tells the observer of a problem with which the protocol ends a connection."""
        if self._context is not None and self._context.gate.observer is not None:
            self._context.gate.observer("", problem.status, 0.0)


def problem_answer(problem: Problem) -> Answer:
    """A problem as an answer."""
    headers = {"content-type": MEDIA_TYPE, **problem_headers(problem)}
    encoded = tuple((name.encode(), value.encode()) for name, value in headers.items())
    return Answer(problem.status, msgspec.json.encode(problem), encoded)
