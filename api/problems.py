"""RFC 9457 problems: the struct of an error answer, and the table from kinds of errors to HTTP statuses."""

from collections.abc import Mapping
from typing import Annotated, Any

import msgspec
import structlog

from api.openapi.fields import field_meta
from core.errors import Kind, RateLimited, TcgxError

log = structlog.get_logger()

MEDIA_TYPE = "application/problem+json"
RETRY_AFTER_SECONDS = 1

STATUS_OF_KIND: Mapping[Kind, int] = {
    Kind.INVALID: 422,
    Kind.UNAUTHENTICATED: 401,
    Kind.FORBIDDEN: 403,
    Kind.NOT_FOUND: 404,
    Kind.CONFLICT: 409,
    Kind.TOO_LARGE: 413,
    Kind.RATE_LIMITED: 429,
    Kind.OVERLOADED: 503,
    Kind.UNAVAILABLE: 503,
    Kind.INTERNAL: 500,
}


class FieldError(msgspec.Struct, frozen=True):
    """One thing that is wrong with one field: the rule it breaks and the value it has."""

    field: Annotated[str, field_meta("The field, parameter or header.")]
    code: Annotated[str, field_meta("Which rule is broken.", name="ErrorCode")]
    rule: Annotated[str, field_meta("The rule, in words that follow the field's name.")]
    value: Annotated[Any, field_meta("The wrong value, shortened; absent where the field is.", name="echo")] = (
        msgspec.UNSET
    )


class Problem(msgspec.Struct, frozen=True, omit_defaults=True):
    """What went wrong (RFC 9457)."""

    status: Annotated[int, field_meta("The HTTP status.", minimum=400, maximum=599)]
    code: Annotated[
        str, field_meta("What went wrong, stable; of several wrong fields the first one's.", name="ErrorCode")
    ]
    title: Annotated[str, field_meta("The kind of problem in words.")]
    detail: Annotated[str, field_meta("This problem in words, with the values that are wrong.")]
    type: Annotated[str, field_meta("Always `about:blank`, which is left out.", "about:blank")] = "about:blank"
    retry_after: Annotated[int, field_meta("Of a 429: after how many seconds to try again.", 1, minimum=1)] = 0
    limit: Annotated[int, field_meta("Of a 429: how much may be asked at once, after a pause.", 1_000, minimum=1)] = 0
    reset: Annotated[
        int, field_meta("Of a 429: after how many seconds of a pause that much may be asked again.", 10, minimum=1)
    ] = 0
    errors: Annotated[list[FieldError], field_meta("Every wrong field of the request; left out if there is none.")] = []
    request_id: Annotated[str, field_meta("Of a 500 or 503: finds the lines of the server's log.", "4f0c2a77-1a")] = ""


def problem_of(error: TcgxError, request_id: str = "") -> Problem:
    """Turns an error into a problem. A status of 500 or above carries the `request_id`, which finds the log lines."""
    status = STATUS_OF_KIND[error.kind]
    rate = (error.retry_after, error.limit, error.reset) if isinstance(error, RateLimited) else (0, 0, 0)
    return Problem(
        status=status,
        code=error.code,
        title=error.title,
        detail=error.detail,
        retry_after=rate[0],
        limit=rate[1],
        reset=rate[2],
        errors=[FieldError(each.field, each.code, each.rule, each.value) for each in error.violations],
        request_id=request_id if status >= 500 else "",
    )


def unexpected_problem(error: Exception, request_id: str, *, method: str, path: str) -> Problem:
    """Turns an unexpected exception into a problem. The log gets the exception; the caller gets no detail of it."""
    log.error("a request failed", method=method, path=path, request_id=request_id, exc_info=error)
    return problem_of(TcgxError(str(error)), request_id)


def retry_seconds(problem: Problem) -> int:
    """After how many seconds a repeat may help; 0 where it does not."""
    return int(problem_headers(problem).get("retry-after", 0))


def problem_headers(problem: Problem) -> dict[str, str]:
    """The headers that a problem needs beyond the common ones, by its status."""
    if problem.limit:
        return {
            "retry-after": str(problem.retry_after),
            "ratelimit-limit": str(problem.limit),
            "ratelimit-remaining": "0",
            "ratelimit-reset": str(problem.reset),
        }
    if problem.status in (429, 503):
        return {"retry-after": str(RETRY_AFTER_SECONDS)}
    if problem.status == 401:
        return {"www-authenticate": "Bearer"}
    return {}
