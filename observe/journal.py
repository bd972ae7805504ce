"""The journal of requests: log lines of sampled answers and of all faults, and the choice of orders to follow.

An answer that is neither logged nor followed costs one call that counts it.
"""

import contextlib
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import msgspec
import structlog

from core.log_limit import RateLimitedLog
from core.settings import Settings

log = structlog.get_logger()
rate_limited_log = RateLimitedLog(log)

FAULT = 500
ACCEPTED = frozenset({200, 202})
BODY_BYTES_MAX = 4_096
"""A longer answer of Litestar has no code or order in its line."""

NEVER = 2**60
TRACEPARENTS_MAX = 100
"""Requests with a `traceparent` that are followed within a second."""

ORDER_OPERATIONS = frozenset({"place_order", "place_orders"})


class Answered(NamedTuple):
    """An answered request. `seconds`: from the whole request to the answer. `body`: empty if it is not known.

    `trader_id`: 0 if the caller is not known. `traceparent`: the header of W3C Trace Context, or empty.
    """

    operation: str
    status: int
    seconds: float
    request_id: str
    trader_id: int
    body: bytes
    traceparent: str = ""


class _Result(msgspec.Struct):
    order_id: str = ""


class _Body(msgspec.Struct):
    """The fields of an answer that a line needs; all others are passed over."""

    order_id: str = ""
    code: str = ""
    results: Sequence[_Result] = ()


Follow = Callable[[Answered, str], None]
"""Follows an order: the answer that accepted it, and its order_id."""


class Journal:
    """Decides which answers are logged and which orders are followed."""

    def __init__(self, *, log_one_in: int, trace_one_in: int) -> None:
        """One in so many answers is logged, and after so many answers the next order is followed; 0: none of them."""
        self._log_one_in, self._trace_one_in = log_one_in or NEVER, trace_one_in or NEVER
        self._to_log, self._to_trace = (1 if log_one_in else NEVER), (1 if trace_one_in else NEVER)
        self._step = self._left = 1
        self._logs = self._traces = False
        self._second_ends_at, self._in_second = 0.0, 0
        self.follow: Follow | None = None
        self.takes_traceparent = False
        """Whether requests with a `traceparent` are followed as well: only then is the header looked for."""

    def is_due(self, operation: str, status: int, traceparent: str) -> bool:
        """Counts an answer. Whether it must be given to `record`."""
        self._left -= 1
        if self._left > 0 and status < FAULT and not traceparent:
            return False
        return self._decide(operation, status, traceparent)

    def _decide(self, operation: str, status: int, traceparent: str) -> bool:
        passed = self._step - self._left
        self._to_log -= passed
        self._to_trace -= passed
        self._logs = status >= FAULT or self._to_log <= 0
        if self._to_log <= 0:
            self._to_log = self._log_one_in
        self._traces = bool(traceparent) and self._has_room()
        if self._to_trace <= 0 and operation in ORDER_OPERATIONS and status in ACCEPTED:
            self._to_trace = self._trace_one_in
            self._traces = True
        self._step = self._left = max(1, min(self._to_log, self._to_trace))
        return self._logs or self._traces

    def _has_room(self) -> bool:
        """Counts a request with a `traceparent`. Clients choose it, so `TRACEPARENTS_MAX` a second have room."""
        now = time.monotonic()
        if now >= self._second_ends_at:
            self._second_ends_at, self._in_second = now + 1.0, 0
        self._in_second += 1
        return self._in_second <= TRACEPARENTS_MAX

    def record(self, answered: Answered) -> None:
        """Logs an answer, or has its order followed, as the call of `is_due` before has decided.

        An error goes to the log: a fault here must not cost a client its answer.
        """
        try:
            self._record(answered)
        except Exception as error:
            log.error("an answer could not be recorded", request_id=answered.request_id, exc_info=error)

    def _record(self, answered: Answered) -> None:
        order, fields = _fields(answered)
        if self._logs:
            fault = answered.status >= FAULT
            (rate_limited_log.warning if fault else log.info)("a request failed" if fault else "request", **fields)
        if self._traces and self.follow is not None:
            self.follow(answered, order)


def of(settings: Settings) -> Journal | None:
    """The journal of these settings; None if nothing is logged or followed."""
    follows = bool(settings.metrics_port or settings.otlp_url)
    if not follows and not settings.log_requests_one_in:
        return None
    return Journal(log_one_in=settings.log_requests_one_in, trace_one_in=settings.trace_one_in if follows else 0)


def _fields(answered: Answered) -> tuple[str, dict[str, Any]]:
    """The order of an answer, or an empty text, and the fields of its line. Fields without a value are left out."""
    body = _Body()
    if answered.body.startswith(b"{"):
        with contextlib.suppress(msgspec.DecodeError):  # another kind of answer, such as a document
            body = msgspec.json.decode(answered.body, type=_Body)
    order = body.order_id or next((each.order_id for each in body.results if each.order_id), "")
    fields: dict[str, Any] = {
        "operation": answered.operation,
        "status": answered.status,
        "code": body.code,
        "ms": round(answered.seconds * 1_000, 2),
        "request_id": answered.request_id,
        "trader": answered.trader_id,
        "order": order,
        "orders": len(body.results),
    }
    return order, {name: value for name, value in fields.items() if value != "" and (value or name in ("status", "ms"))}
