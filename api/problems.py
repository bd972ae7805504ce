"""What goes wrong, as RFC 9457 problems: one struct, and one table from kinds of errors to HTTP statuses."""

from collections.abc import Mapping
from typing import Annotated, Any

import msgspec
import structlog

from api.openapi.fields import described
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

    field: Annotated[str, described("The field, parameter or header.")]
    code: Annotated[str, described("Which rule is broken.", name="ErrorCode")]
    rule: Annotated[str, described("The rule, in words that follow the field's name.")]
    value: Annotated[Any, described("The wrong value, shortened; absent where the field is.", name="echo")] = (
        msgspec.UNSET
    )


class Problem(msgspec.Struct, frozen=True, omit_defaults=True):
    """What went wrong (RFC 9457)."""

    status: Annotated[int, described("The HTTP status.", minimum=400, maximum=599)]
    code: Annotated[
        str, described("What went wrong, stable; of several wrong fields the first one's.", name="ErrorCode")
    ]
    title: Annotated[str, described("The kind of problem in words.")]
    detail: Annotated[str, described("This problem in words, with the values that are wrong.")]
    type: Annotated[str, described("Always `about:blank`, which is left out.", "about:blank")] = "about:blank"
    retry_after: Annotated[int, described("Of a 429: after how many seconds to try again.", 1, minimum=1)] = 0
    limit: Annotated[int, described("Of a 429: how much may be asked at once, after a pause.", 1_000, minimum=1)] = 0
    reset: Annotated[
        int, described("Of a 429: after how many seconds of a pause that much may be asked again.", 10, minimum=1)
    ] = 0
    errors: Annotated[list[FieldError], described("Every wrong field of the request; left out if there is none.")] = []
    request_id: Annotated[str, described("Of a 500 or 503: finds the lines of the server's log.", "4f0c2a77-1a")] = ""


def of_error(error: TcgxError, request_id: str = "") -> Problem:
    """An error as the problem that answers its request."""
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


def of_unexpected(error: Exception, request_id: str, *, method: str, path: str) -> Problem:
    """What nobody foresaw: the log gets all of it, the caller nothing."""
    log.error("a request failed", method=method, path=path, request_id=request_id, exc_info=error)
    return of_error(TcgxError(str(error)), request_id)


def headers_of(problem: Problem) -> dict[str, str]:
    """The headers that go with a problem."""
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
