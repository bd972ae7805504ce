"""What holds for every call, said once: who asks, how much a caller may ask, and who counts the answers.

Two ways lead to an answer, the fast path (`api/fast_path.py`) and Litestar. Both admit a caller here, and both tell the
observer of each answer.
"""

from collections.abc import Callable, Iterable

import structlog

from exchange.auth import Authenticator
from exchange.tokens import Caller

Headers = Iterable[tuple[bytes, bytes]]
"""As in ASGI: names in lower case."""

Limit = Callable[[Caller], None]
"""Called before anything is done for a caller; raises a `TcgxError` where the caller asks too much."""

Observer = Callable[[str, int, float], None]
"""Called with the operation, the status and the seconds of each answer.

The operation is an `operation_id` of the OpenAPI document. It is empty where nothing is at a path, and for bytes that
are no request.
"""

log = structlog.get_logger()


class Gate:
    """Admits callers, and knows the observer."""

    def __init__(
        self, authenticator: Authenticator, *, limit: Limit | None = None, observer: Observer | None = None
    ) -> None:
        self.observer = observer
        self._authenticate = authenticator.authenticate
        self._limit = limit

    def admit(self, headers: Headers) -> Caller:
        """The caller of a request.

        Raises:
            Unauthenticated: there is no valid token.
            TcgxError: the limit refuses.
        """
        caller = self._authenticate(header(headers, b"authorization"))
        if self._limit is not None:
            self._limit(caller)
        return caller


def failsafe(observer: Observer) -> Observer:
    """The same observer, but its errors go to the log: a fault in counting must not cost a client its answer."""

    def observe(operation: str, status: int, seconds: float) -> None:
        try:
            observer(operation, status, seconds)
        except Exception as error:
            log.error("an answer could not be observed", operation=operation, status=status, exc_info=error)

    return observe


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
