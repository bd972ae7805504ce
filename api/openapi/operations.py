"""Descriptions of handlers for the OpenAPI document (`api/openapi/document.py`), beyond their signatures.

A call names only its own errors. The document adds the errors of every call. It also adds those that come with a token,
a body, a parameter or the header Prefer.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import msgspec
from litestar.openapi.datastructures import ResponseSpec
from litestar.openapi.spec import Example, OpenAPIMediaType, Operation, Parameter, Reference, RequestBody, Schema
from litestar.openapi.spec.enums import OpenAPIType

from api.decoding import BatchBody, CancelAfterBody, ChangeBody, LoginCodeBody, OrderBody, TokenBody
from api.openapi.error_codes import ERROR_CODES, ErrorCode
from api.prefer import WAIT_SECONDS_MAX
from api.problems import MEDIA_TYPE, Problem

SCHEMAS = "#/components/schemas/"

PREFER = Parameter(
    name="Prefer",
    param_in="header",
    description=(
        f"`wait=N`: answer after matching, or after N seconds (0 to {WAIT_SECONDS_MAX}) if that is sooner. "
        "Other preferences (RFC 7240) are passed over."
    ),
    required=False,
    schema=Schema(type=OpenAPIType.STRING, examples=["wait=2"]),
)


def problems(*keys: str) -> dict[int, ResponseSpec]:
    """Describes the errors of a call beyond those of its kind, by keys such as `404 order_not_found`.

    Raises:
        KeyError: `ERROR_CODES` does not have a key.
    """
    by_status = sorted((ERROR_CODES[key] for key in keys), key=_status)
    return {status: _refusals(codes) for status, codes in groupby(by_status, key=_status)}


def answer(view: type[msgspec.Struct], description: str, **example: Any) -> ResponseSpec:
    """Describes an answer that is no error. `example` has the values that differ from the usual example of the view."""
    return ResponseSpec(
        data_container=view,
        description=description,
        generate_examples=False,
        examples=[Example(value=example)] if example else [],
    )


def _status(error: ErrorCode) -> int:
    return error.status


def _refusals(codes: Iterable[ErrorCode]) -> ResponseSpec:
    return ResponseSpec(
        data_container=Problem,
        description="",
        media_type=MEDIA_TYPE,
        generate_examples=False,
        examples=[Example(id=error.code, value=error.key) for error in codes],
    )


def _request_body(body: type[msgspec.Struct]) -> RequestBody:
    schema = Reference(ref=SCHEMAS + body.__name__)
    return RequestBody(content={"application/json": OpenAPIMediaType(schema=schema)}, required=True)


@dataclass
class WaitOperation(Operation):
    """A call that takes the header `Prefer: wait=N`."""

    def __post_init__(self) -> None:
        self.parameters = [*(self.parameters or []), PREFER]


@dataclass
class PlaceOrderOperation(WaitOperation):
    """`POST /orders`."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.request_body = _request_body(OrderBody)


@dataclass
class ReplaceOrderOperation(WaitOperation):
    """`PATCH /orders/{order_id}`."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.request_body = _request_body(ChangeBody)


@dataclass
class PlaceOrdersOperation(Operation):
    """`POST /orders/batch`."""

    def __post_init__(self) -> None:
        self.request_body = _request_body(BatchBody)


@dataclass
class CreateTokenOperation(Operation):
    """`POST /auth/token`."""

    def __post_init__(self) -> None:
        self.request_body = _request_body(TokenBody)


@dataclass
class UseLoginCodeOperation(Operation):
    """`POST /auth/login-code`."""

    def __post_init__(self) -> None:
        self.request_body = _request_body(LoginCodeBody)


@dataclass
class CancelAfterOperation(Operation):
    """`PUT /orders/cancel-after`."""

    def __post_init__(self) -> None:
        self.request_body = _request_body(CancelAfterBody)
