"""The fast path: the calls that bots send thousands of times a second are answered without Litestar.

An endpoint is a function from context, caller, headers and body to an answer. Litestar has a handler for each endpoint
as well: the handler describes the call in the OpenAPI document and calls the same function. Litestar answers whenever
our HTTP protocol does not (`api/http_protocol.py` says when), and under every other server.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from time import perf_counter
from typing import NamedTuple

import msgspec

from api import cors
from api.context import Context
from api.gate import Headers, header
from api.problems import MEDIA_TYPE, Problem, problem_headers, problem_of, unexpected_problem
from core.errors import TcgxError
from exchange.tokens import Caller
from observe.journal import Answered

JSON_HEADERS = ((b"content-type", b"application/json"),)


class Answer(NamedTuple):
    """An HTTP answer without Content-Length, which the protocol adds."""

    status: int
    body: bytes
    headers: tuple[tuple[bytes, bytes], ...] = JSON_HEADERS


class Endpoint(NamedTuple):
    """A call of the fast path: its `operation_id` in the OpenAPI document, and the function that answers it."""

    operation: str
    answer: Callable[[Context, Caller, Headers, bytes], Awaitable[Answer]]


class FastPath:
    """The endpoints of an app, by method and target."""

    def __init__(
        self,
        endpoints: Mapping[tuple[bytes, bytes], Endpoint],
        *,
        body_bytes_max: int,
        cors_origins: Sequence[str] = (),
    ) -> None:
        self._cors_origins = cors_origins
        self.body_bytes_max = body_bytes_max
        self._endpoints = endpoints
        self._context: Context | None = None

    def open(self, context: Context) -> None:
        """Opens the fast path; until then `has` is False and Litestar answers."""
        self._context = context

    def has(self, method: bytes, target: bytes) -> bool:
        """Whether an endpoint answers the request. A target with a query is none of an endpoint."""
        return self._context is not None and (method, target) in self._endpoints

    def admit(self, headers: Headers) -> Caller:
        """Returns the caller of a request, whose head is enough.

        Raises:
            TcgxError: see `Gate.admit`.
        """
        assert self._context is not None, "`has` was not asked"  # noqa: S101
        return self._context.gate.admit(headers)

    def refusal(self, call: tuple[bytes, bytes], headers: Headers, error: TcgxError, request_id: str) -> Answer:
        """Answers a request that `admit` refused, and reports the answer to the observer.

        `call`: method and target.
        """
        assert self._context is not None, "`has` was not asked"  # noqa: S101
        answer = problem_answer(problem_of(error, request_id))
        if self._context.gate.observer is not None:
            self._context.gate.observer(self._endpoints[call].operation, answer.status, 0.0)
        return self._for_origin(answer, headers)

    async def answer(
        self, call: tuple[bytes, bytes], caller: Caller, headers: Headers, body: bytes, request_id: str
    ) -> Answer:
        """Answers a request and reports the answer to the observer. Every error becomes a problem.

        `call`: method and target.
        """
        assert self._context is not None, "`has` was not asked"  # noqa: S101
        context, endpoint = self._context, self._endpoints[call]
        observer, journal = context.gate.observer, context.gate.journal
        started = perf_counter() if observer or journal else 0.0
        try:
            answer = await endpoint.answer(context, caller, headers, body)
        except TcgxError as error:
            answer = problem_answer(problem_of(error, request_id))
        except Exception as error:  # noqa: BLE001 - the top of a request, as Litestar's handler of all exceptions is
            method, path = call[0].decode(), call[1].decode()
            answer = problem_answer(unexpected_problem(error, request_id, method=method, path=path))
        answer = self._for_origin(answer, headers)
        if observer:
            observer(endpoint.operation, answer.status, perf_counter() - started)
        if journal:
            parent = (header(headers, b"traceparent") or b"").decode("latin-1") if journal.takes_traceparent else ""
            if journal.is_due(endpoint.operation, answer.status, parent):
                seconds, trader_id = perf_counter() - started, caller.trader_id
                journal.record(
                    Answered(endpoint.operation, answer.status, seconds, request_id, trader_id, answer.body, parent)
                )
        return answer

    def _for_origin(self, answer: Answer, headers: Headers) -> Answer:
        """Adds the headers that let a page of another origin read the answer, if that origin may."""
        if self._cors_origins and (origin := header(headers, b"origin")):
            return answer._replace(headers=(*answer.headers, *cors.headers(self._cors_origins, origin)))
        return answer

    def observe_refusal(self, problem: Problem) -> None:
        """Reports a problem with which the protocol ends a connection to the observer."""
        if self._context is not None and self._context.gate.observer is not None:
            self._context.gate.observer("", problem.status, 0.0)


def problem_answer(problem: Problem) -> Answer:
    """Encodes a problem as an answer."""
    headers = {"content-type": MEDIA_TYPE, **problem_headers(problem)}
    encoded = tuple((name.encode(), value.encode()) for name, value in headers.items())
    return Answer(problem.status, msgspec.json.encode(problem), encoded)
