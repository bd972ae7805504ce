"""What the OpenAPI document says beyond the signatures: bodies, errors, headers, with examples."""

from dataclasses import dataclass
from typing import Any

from litestar.openapi.datastructures import ResponseSpec
from litestar.openapi.spec import Example, OpenAPIMediaType, Operation, Parameter, RequestBody, Schema
from litestar.openapi.spec.enums import OpenAPIType

from api.problems import MEDIA_TYPE, FieldError, Problem
from engine.model import CLIENT_ORDER_ID_PATTERN, COMMANDS_MAX

ORDER_EXAMPLE = {"card": "pikachu", "side": "buy", "price": "5.50", "quantity": 1, "client_order_id": "my-order-1"}

ACCEPTED_EXAMPLE = {
    "order_id": "pikachu-1001",
    **ORDER_EXAMPLE,
    "filled_quantity": 0,
    "status": "accepted",
    "time_in_force": "gtc",
    "accepted_at": "2026-11-22T23:53:06.123Z",
    "closed_at": None,
}
REFUSED_EXAMPLE = {
    "error": {
        "status": 422,
        "code": "unknown_card",
        "title": "Invalid request",
        "detail": "card must be one of pikachu, …, got 'mew'",
    }
}

DESCRIPTIONS = {
    400: ("malformed_request", "Malformed request", "this is not an HTTP/1.1 request"),
    401: ("token_missing", "Unauthorized", "send an access token as `Authorization: Bearer …`; POST /auth/token …"),
    403: ("forbidden", "Forbidden", "this needs a token with the role admin"),
    404: ("order_not_found", "Order not found", "there is no order 'pikachu-1001' of yours"),
    409: (
        "client_order_id_conflict",
        "Conflict",
        "client_order_id 'my-order-1' already names order pikachu-1001 with other contents",
    ),
    413: ("body_too_large", "Body too large", "the body has more than 1000000 bytes"),
    422: ("invalid_price", "Invalid request", "price must be a decimal from 1.00 to 10.00 …, got '5.505'"),
    503: ("overloaded", "Overloaded", "nothing was accepted: …; with the header Retry-After"),
}


def problems(*statuses: int) -> dict[int, ResponseSpec]:
    """The documented errors of a call; 400 is one of each, where Litestar would describe a shape that we never give."""
    return {status: _problem(status) for status in (400, *statuses)}


def _problem(status: int) -> ResponseSpec:
    code, title, detail = DESCRIPTIONS[status]
    errors: list[FieldError] = []
    if status == 422:
        rule = "must be a decimal from 1.00 to 10.00 with at most two decimals"
        errors = [FieldError("price", "invalid_price", rule, "5.505")]
    example = Problem(status=status, code=code, title=title, detail=detail, errors=errors)
    return ResponseSpec(
        data_container=Problem,
        description=f"{title} (`{code}`)",
        media_type=MEDIA_TYPE,
        generate_examples=False,
        examples=[Example(summary=code, value=example)],
    )


def answer(view: type[Any], description: str, example: Any = None) -> ResponseSpec:
    """A documented answer."""
    return ResponseSpec(
        data_container=view,
        description=description,
        generate_examples=False,
        examples=[] if example is None else [Example(summary="example", value=example)],
    )


ORDER_REQUIRED = ["card", "side", "price"]
ORDER_FIELDS = {
    "card": Schema(type=OpenAPIType.STRING, examples=["pikachu"]),
    "side": Schema(type=OpenAPIType.STRING, enum=["buy", "sell"]),
    "price": Schema(
        one_of=[Schema(type=OpenAPIType.STRING), Schema(type=OpenAPIType.NUMBER)],
        description="dollars with at most two decimals, 1.00 to 10.00; a string or a number",
        examples=["5.50"],
    ),
    "quantity": Schema(type=OpenAPIType.INTEGER, minimum=1, maximum=10_000, default=1),
    "client_order_id": Schema(
        type=[OpenAPIType.STRING, OpenAPIType.NULL],
        pattern=f"^{CLIENT_ORDER_ID_PATTERN}$",
        description="your own id; repeated within 24 h it gives the first order back",
    ),
    "time_in_force": Schema(
        type=OpenAPIType.STRING,
        enum=["gtc", "ioc", "fok"],
        default="gtc",
        description="gtc rests; ioc is filled as far as it can be at once; fok whole or not at all",
    ),
}

PREFER = Parameter(
    name="Prefer",
    param_in="header",
    description="`wait=N`: answer after matching, or after N seconds (0 to 10) if that is sooner",
    required=False,
    schema=Schema(type=OpenAPIType.STRING, examples=["wait=2"]),
)


@dataclass
class PrefersWait(Operation):
    """A call that takes the header `Prefer: wait=N`."""

    def __post_init__(self) -> None:
        self.parameters = [*(self.parameters or []), PREFER]


@dataclass
class PlacesOrder(PrefersWait):
    """`POST /orders`."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.request_body = _body(ORDER_FIELDS, required=ORDER_REQUIRED, example=ORDER_EXAMPLE)


@dataclass
class PlacesOrders(Operation):
    """`POST /orders/batch`."""

    def __post_init__(self) -> None:
        order = Schema(
            type=OpenAPIType.OBJECT,
            properties=dict(ORDER_FIELDS),
            required=ORDER_REQUIRED,
            additional_properties=False,
        )
        self.request_body = _body(
            {"orders": Schema(type=OpenAPIType.ARRAY, items=order, min_items=1, max_items=COMMANDS_MAX)},
            required=["orders"],
            example={"orders": [ORDER_EXAMPLE]},
        )


@dataclass
class ExchangesKey(Operation):
    """`POST /auth/token`."""

    def __post_init__(self) -> None:
        self.request_body = _body(
            {
                "trader_id": Schema(type=OpenAPIType.INTEGER, minimum=1),
                "api_key": Schema(type=OpenAPIType.STRING),
            },
            required=["trader_id", "api_key"],
            example={"trader_id": 1, "api_key": "hYk2…"},
        )


def _body(fields: dict[str, Schema], *, required: list[str], example: dict[str, Any]) -> RequestBody:
    schema = Schema(type=OpenAPIType.OBJECT, properties=dict(fields), required=required, additional_properties=False)
    media_type = OpenAPIMediaType(schema=schema, examples={"example": Example(summary="example", value=example)})
    return RequestBody(content={"application/json": media_type}, required=True)
