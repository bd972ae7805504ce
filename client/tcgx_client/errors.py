"""The exceptions of the client. Each keeps its fields when it is pickled; a client that it knows is left out."""

from typing import Any, Protocol, Self

import msgspec

from tcgx_client.models import FieldError, Order, Problem, Rejected


class Resolver(Protocol):
    """A client that blocks."""

    def resolve(
        self, client_order_id: str | None = None, *, order_id: str | None = None, timeout: float = 60.0
    ) -> Order | None:
        """Asks for an order until the answer is certain."""
        ...


class AsyncResolver(Protocol):
    """A client for asyncio."""

    async def resolve(
        self, client_order_id: str | None = None, *, order_id: str | None = None, timeout: float = 60.0
    ) -> Order | None:
        """Asks for an order until the answer is certain."""
        ...


class TcgxError(Exception):
    """Base of all exceptions of the client."""


class TransportError(TcgxError):
    """No answer came. A request may have taken effect."""


class Timeout(TransportError):
    """No answer came in time. A request may have taken effect."""


class ConnectFailed(TransportError):
    """There was no connection, so nothing was sent."""


class ApiError(TcgxError):
    """The exchange answered with a problem. The text is its sentence."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem)
        self.problem = problem
        self.is_repeat = False
        """Whether an earlier try of the same call may have taken effect."""

    def __str__(self) -> str:
        return self.problem.detail or self.problem.title or f"the exchange answered {self.problem.status}"

    @property
    def status(self) -> int:
        """The status of HTTP."""
        return self.problem.status

    @property
    def code(self) -> str:
        """What went wrong, for programs: a stable word."""
        return self.problem.code

    @property
    def detail(self) -> str:
        """What went wrong, in words."""
        return self.problem.detail

    @property
    def errors(self) -> tuple[FieldError, ...]:
        """Every field that is wrong, with the rule it breaks and its value."""
        return self.problem.errors

    @property
    def request_id(self) -> str:
        """Finds the lines of the server's log."""
        return self.problem.request_id

    @property
    def retry_after(self) -> float | None:
        """The seconds after which the exchange wants to be asked again."""
        return self.problem.retry_after


class Unauthorized(ApiError):
    """401 or 403: no valid API key or token, or not enough rights."""


class NotFound(ApiError):
    """404: there is no such order, card or call."""


class Conflict(ApiError):
    """409: the state of the exchange forbids it, e.g. the order is completed."""


class InvalidRequest(ApiError):
    """Another 4xx, mostly 422: fields break rules; `errors` has each."""


class RateLimited(ApiError):
    """429: asked more often than allowed."""


class Unavailable(ApiError):
    """A 5xx: the exchange cannot do it now."""


class OutcomeUnknown(TcgxError):
    """No try got a certain answer: the request may have taken effect, or may take effect yet.

    `operation` is the method that was called. `resolve` asks the exchange what became of it.
    """

    def __init__(
        self,
        operation: str,
        cause: str,
        *,
        client_order_ids: tuple[str, ...] = (),
        order_id: str | None = None,
        results: tuple[Order | Rejected, ...] = (),
    ) -> None:
        super().__init__(operation, cause)
        self.operation = operation
        self.cause = cause
        self.client_order_ids = client_order_ids
        """The orders that may have been placed."""
        self.order_id = order_id
        """The order that may have been canceled or replaced."""
        self.results = results
        """The outcomes of the orders of `place_many` before those."""
        self.resolver: Resolver | None = None
        """The client, if it blocks."""
        self.async_resolver: AsyncResolver | None = None
        """The client, if it is for asyncio."""

    def __str__(self) -> str:
        ids = [self.order_id] if self.order_id else [*self.client_order_ids[:3]]
        more = f" and {len(self.client_order_ids) - 3} more" if len(self.client_order_ids) > 3 else ""
        named = f"{self.operation} {', '.join(ids)}{more}".strip()
        return f"the outcome of {named} is not known: {self.cause}"

    def __reduce__(self) -> tuple[Any, ...]:
        state = {**vars(self), "resolver": None, "async_resolver": None}
        return _unpickled, (type(self), self.operation, self.cause), state

    @property
    def client_order_id(self) -> str | None:
        """The order that may have been placed."""
        return self.client_order_ids[0] if self.client_order_ids else None

    def resolve(self, *, timeout: float = 60.0) -> Order | None:
        """Asks until it is certain: the order as it is, or None where the exchange has not got it.

        After `replace` it is the order that was to be replaced: `replaced_by` names the new one.

        Raises:
            TypeError: the client is an `AsyncTcgx`: await `aresolve`; or there is none, as after pickling.
            Timeout: the exchange did not answer for `timeout` seconds.
        """
        if self.resolver is None:
            raise TypeError("there is no Tcgx: await aresolve(), or call the method `resolve` of a client")
        name = self.client_order_id if self.order_id is None else None
        return self.resolver.resolve(name, order_id=self.order_id, timeout=timeout)

    async def aresolve(self, *, timeout: float = 60.0) -> Order | None:
        """The same for an `AsyncTcgx`."""
        if self.async_resolver is None:
            raise TypeError("there is no AsyncTcgx: call resolve(), or the method `resolve` of a client")
        name = self.client_order_id if self.order_id is None else None
        return await self.async_resolver.resolve(name, order_id=self.order_id, timeout=timeout)


def _unpickled(kind: type[OutcomeUnknown], operation: str, cause: str) -> OutcomeUnknown:
    return kind(operation, cause)


class StreamError(TcgxError):
    """A stream cannot go on."""


class Stale(StreamError):
    """A local book is not live: its levels may be wrong."""


class Closed(StreamError):
    """The exchange ended a stream for a reason that another connection would meet again."""

    def __init__(self, code: str, detail: str) -> None:
        super().__init__(code, detail)
        self.code = code
        self.detail = detail

    def __str__(self) -> str:
        return f"{self.code}: {self.detail}" if self.detail else self.code


KINDS: dict[int, type[ApiError]] = {
    401: Unauthorized,
    403: Unauthorized,
    404: NotFound,
    409: Conflict,
    429: RateLimited,
}


class _Body(msgspec.Struct, frozen=True):
    """A problem as it is sent. Each field may be absent."""

    code: str = "unknown"
    title: str = ""
    detail: str = ""
    errors: tuple[FieldError, ...] = ()
    retry_after: float | None = None
    request_id: str = ""

    @classmethod
    def read(cls, body: bytes) -> Self:
        """Reads a body; another server on the way may send anything."""
        try:
            return msgspec.json.decode(body, type=cls)
        except (msgspec.DecodeError, UnicodeDecodeError):
            return cls()


def problem_of(status: int, body: bytes, *, retry_after: str = "", request_id: str = "") -> Problem:
    """The problem of an error answer. `retry_after` is the header."""
    read = _Body.read(body)
    seconds = float(retry_after) if retry_after.isascii() and retry_after.isdigit() else read.retry_after
    return Problem(status, read.code, read.title, read.detail, read.errors, seconds, read.request_id or request_id)


def api_error(problem: Problem) -> ApiError:
    """The exception of a problem."""
    fallback = Unavailable if problem.status >= 500 else InvalidRequest
    return KINDS.get(problem.status, fallback)(problem)
