"""What goes wrong, as RFC 9457 problems: one struct, one exception, one table from our errors to HTTP."""

from typing import Annotated, Any

import msgspec
import structlog
from msgspec import structs

from api.openapi.fields import described
from core.errors import ClientOrderIdConflict, HistoryConflict, LogGap, Overloaded, TcgxError, Unavailable

log = structlog.get_logger()

MEDIA_TYPE = "application/problem+json"
RETRY_AFTER_SECONDS = 1
VALUE_CHARACTERS_MAX = 80
AN_ARRAY, AN_OBJECT = "an array", "an object"
"""What stands for a value that is too complex to repeat."""


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
    errors: Annotated[list[FieldError], described("Every wrong field of the request; left out if there is none.")] = []
    request_id: Annotated[str, described("Of a 500 or 503: finds the lines of the server's log.", "4f0c2a77-1a")] = ""


class ApiError(TcgxError):
    """A request is answered with this problem."""

    def __init__(self, status: int, code: str, title: str, detail: str, errors: list[FieldError] | None = None) -> None:
        super().__init__(detail)
        self.problem = Problem(status=status, code=code, title=title, detail=detail, errors=errors or [])


def invalid(errors: list[FieldError]) -> ApiError:
    """A request whose fields break rules; the problem's code is that of the first."""
    first = errors[0]
    return ApiError(422, first.code, "Invalid request", "; ".join(sentence(error) for error in errors), errors)


def sentence(error: FieldError) -> str:
    """Field, rule and value in words."""
    return (
        f"{error.field} {error.rule}"
        if error.value is msgspec.UNSET
        else f"{error.field} {error.rule}, got {shown(error.value)}"
    )


def shown(value: Any) -> str:
    """A value of a request as it may be repeated to its sender: bounded in length."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    text = str(value)
    text = text if len(text) <= VALUE_CHARACTERS_MAX else text[: VALUE_CHARACTERS_MAX - 3] + "..."
    return f"'{text}'" if isinstance(value, str) and value not in (AN_ARRAY, AN_OBJECT) else text


def not_found(order_id: str, hint: str = "") -> ApiError:
    """An order that does not exist or is another trader's: one answer for both."""
    return ApiError(404, "order_not_found", "Order not found", f"there is no order {shown(order_id)} of yours{hint}")


def unauthorized(code: str, detail: str) -> ApiError:
    """No valid access token."""
    return ApiError(401, code, "Unauthorized", detail)


def of_error(error: TcgxError, request_id: str = "") -> Problem:
    """The table from our errors to HTTP."""
    if isinstance(error, ApiError):
        problem = error.problem
        return structs.replace(problem, request_id=request_id) if problem.status >= 500 else problem
    if isinstance(error, ClientOrderIdConflict):
        return Problem(status=409, code="client_order_id_conflict", title="Conflict", detail=str(error))
    # What comes after a colon in our errors is for the log: addresses and the like.
    told = str(error).partition(":")[0]
    if isinstance(error, Overloaded):
        return Problem(503, "overloaded", "Overloaded", f"nothing was accepted: {told}", request_id=request_id)
    if isinstance(error, HistoryConflict):
        detail = "nothing was accepted: log and archive do not belong together, and an operator has to look"
        return Problem(503, "history_conflict", "History conflict", detail, request_id=request_id)
    if isinstance(error, Unavailable | LogGap):
        detail = f"{told}; repeat the request, an order with the same client_order_id"
        return Problem(503, "unavailable", "Unavailable", detail, request_id=request_id)
    detail = "the server failed; see its log"
    return Problem(500, "internal_error", "Internal error", detail, request_id=request_id)


def of_unexpected(error: Exception, request_id: str, *, method: str, path: str) -> Problem:
    """What nobody foresaw: the log gets all of it, the caller nothing."""
    log.error("a request failed", method=method, path=path, request_id=request_id, exc_info=error)
    return of_error(TcgxError(str(error)), request_id)


def headers_of(problem: Problem) -> dict[str, str]:
    """The headers that go with a problem."""
    if problem.status in (429, 503):
        return {"retry-after": str(RETRY_AFTER_SECONDS)}
    if problem.status == 401:
        return {"www-authenticate": "Bearer"}
    return {}
