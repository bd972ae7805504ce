"""The gate that every call passes: authentication, the limit of a caller, and the observer of the answers.

Two ways lead to an answer: the fast path (`api/fast_path.py`) and Litestar. Both admit a caller here, and both report
each answer to the observer.
"""

from collections.abc import Callable, Iterable

import structlog

from exchange.auth import Authenticator
from exchange.tokens import Caller
from observe.journal import Journal

Headers = Iterable[tuple[bytes, bytes]]
"""Headers as in ASGI; their names are in lower case."""

Limit = Callable[[Caller], None]
"""Called before a caller's request is handled; raises a `TcgxError` to refuse the request."""

Observer = Callable[[str, int, float], None]
"""Called with the operation, the status and the seconds of each answer.

The operation is an `operation_id` of the OpenAPI document. It is empty for an unknown path or method, for bytes that
are no HTTP request, and where a refusal ends the connection.
"""

log = structlog.get_logger()


class Gate:
    """Authenticates and limits callers, and holds the observer."""

    def __init__(
        self,
        authenticator: Authenticator,
        *,
        limit: Limit | None = None,
        observer: Observer | None = None,
        journal: Journal | None = None,
    ) -> None:
        self.observer = observer
        self.journal = journal
        self._authenticate = authenticator.authenticate
        self._limit = limit

    def admit(self, headers: Headers) -> Caller:
        """Returns the caller of a request.

        Raises:
            Unauthenticated: the headers have no valid token.
            TcgxError: the limit refuses the caller.
        """
        caller = self._authenticate(header(headers, b"authorization"))
        if self._limit is not None:
            self._limit(caller)
        return caller


def failsafe(observer: Observer) -> Observer:
    """Wraps an observer so that its errors go to the log: a fault in counting must not cost a client its answer."""

    def observe(operation: str, status: int, seconds: float) -> None:
        try:
            observer(operation, status, seconds)
        except Exception as error:
            log.error("an answer could not be observed", operation=operation, status=status, exc_info=error)

    return observe


def header(headers: Headers, name: bytes) -> bytes | None:
    """Returns the value of a header: the first one if the header was sent more than once."""
    for key, value in headers:
        if key == name:
            return value
    return None


def list_header(headers: Headers, name: bytes) -> str | None:
    """Returns the value of a list header: several lines of the header form one list (RFC 9110, 5.3)."""
    values = [value for key, value in headers if key == name]
    return b", ".join(values).decode("latin-1") if values else None
