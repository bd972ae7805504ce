"""Errors over gRPC: the table from kinds of errors to statuses, and the details of a status."""

from collections.abc import Mapping

import grpc
import msgspec
from google.protobuf import any_pb2, duration_pb2
from google.rpc import error_details_pb2, status_pb2

from api.problems import problem_of, retry_seconds
from core.errors import Kind, TcgxError
from rpc.v1 import exchange_pb2 as pb

DOMAIN = "tcgx"
DETAILS = "grpc-status-details-bin"
REQUEST_ID = "x-request-id"

STATUS_OF_KIND: Mapping[Kind, grpc.StatusCode] = {
    Kind.INVALID: grpc.StatusCode.INVALID_ARGUMENT,
    Kind.UNAUTHENTICATED: grpc.StatusCode.UNAUTHENTICATED,
    Kind.FORBIDDEN: grpc.StatusCode.PERMISSION_DENIED,
    Kind.NOT_FOUND: grpc.StatusCode.NOT_FOUND,
    Kind.CONFLICT: grpc.StatusCode.FAILED_PRECONDITION,
    Kind.TOO_LARGE: grpc.StatusCode.RESOURCE_EXHAUSTED,
    Kind.RATE_LIMITED: grpc.StatusCode.RESOURCE_EXHAUSTED,
    Kind.OVERLOADED: grpc.StatusCode.UNAVAILABLE,
    Kind.UNAVAILABLE: grpc.StatusCode.UNAVAILABLE,
    Kind.INTERNAL: grpc.StatusCode.INTERNAL,
}


def trailing_metadata(error: TcgxError, request_id: str) -> tuple[tuple[str, str | bytes], ...]:
    """The metadata that end a refused call: a google.rpc.Status with details, and the id that finds the log lines."""
    problem = problem_of(error, request_id)
    details: list[any_pb2.Any] = [any_pb2.Any()]
    details[0].Pack(
        error_details_pb2.ErrorInfo(
            reason=problem.code.upper(),
            domain=DOMAIN,
            metadata={"code": problem.code, "title": problem.title, "http_status": str(problem.status)},
        )
    )
    if error.violations:
        bad = error_details_pb2.BadRequest()
        for violation in error.violations:
            bad.field_violations.add(
                field=violation.field, description=violation.sentence, reason=violation.code.upper()
            )
        details.append(any_pb2.Any())
        details[-1].Pack(bad)
    if seconds := retry_seconds(problem):
        details.append(any_pb2.Any())
        details[-1].Pack(error_details_pb2.RetryInfo(retry_delay=duration_pb2.Duration(seconds=seconds)))
    status = status_pb2.Status(code=STATUS_OF_KIND[error.kind].value[0], message=problem.detail, details=details)
    return ((DETAILS, status.SerializeToString()), (REQUEST_ID, request_id))


def error_message(error: TcgxError) -> pb.Error:
    """The error of an item of a batch."""
    problem = problem_of(error)
    return pb.Error(
        code=problem.code,
        title=problem.title,
        detail=problem.detail,
        status=problem.status,
        errors=[
            pb.FieldError(
                field=each.field,
                code=each.code,
                rule=each.rule,
                value="" if each.value is msgspec.UNSET else msgspec.json.encode(each.value).decode(),
            )
            for each in problem.errors
        ],
        retry_after=retry_seconds(problem),
    )
