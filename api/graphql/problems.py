"""Errors over GraphQL: those of the exchange have their code and fields in `extensions`; all others say nothing."""

from typing import Any

import msgspec
import structlog
from graphql.error import GraphQLError
from strawberry.extensions import MaskErrors

from api.graphql.types import Error, FieldError
from api.problems import problem_of, retry_seconds
from core.errors import TcgxError

log = structlog.get_logger()

INVALID_QUERY = "invalid_query"
"""The code of a document that GraphQL refuses before a resolver runs."""


def extensions_of(error: TcgxError) -> dict[str, Any]:
    """What a client needs of an error, beside its sentence."""
    problem = problem_of(error)
    found: dict[str, Any] = {"code": problem.code, "title": problem.title, "status": problem.status}
    if problem.errors:
        found["errors"] = msgspec.to_builtins(problem.errors)
    if seconds := retry_seconds(problem):
        found["retryAfter"] = seconds
    return found


def error_of(error: TcgxError) -> Error:
    """The error of an item of a batch."""
    problem = problem_of(error)
    errors = [FieldError(field=each.field, code=each.code, rule=each.rule) for each in problem.errors]
    return Error(code=problem.code, detail=problem.detail, status=problem.status, errors=errors)


class Problems(MaskErrors):
    """Gives every error of a result its code. An unexpected one goes to the log, and its text to nobody."""

    def _process_errors(self, errors: list[GraphQLError]) -> list[GraphQLError]:
        return [_told(error) for error in errors]


def _told(error: GraphQLError) -> GraphQLError:
    original: BaseException | None = error
    while isinstance(original, GraphQLError) and original.original_error is not None:
        original = original.original_error
    if isinstance(original, GraphQLError):
        extensions = error.extensions or {"code": INVALID_QUERY}
        return GraphQLError(error.message, error.nodes, error.source, error.positions, error.path, None, extensions)
    if not isinstance(original, TcgxError):
        log.error("a query failed", path=str(error.path), exc_info=original)
        original = TcgxError(str(original))
    detail = original.detail
    return GraphQLError(detail, error.nodes, error.source, error.positions, error.path, None, extensions_of(original))
