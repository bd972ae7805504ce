"""The OpenAPI document of the exchange that runs.

Litestar knows the calls and their parameters; msgspec knows the structs of bodies and answers. This module adds the
rest: cards, bounds and examples from the settings, the errors of each call, and the headers of answers.
"""

from base64 import b64encode
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from enum import StrEnum
from hashlib import sha256
from http import HTTPStatus
from typing import Any

import msgspec
from litestar import Request
from litestar.openapi import OpenAPIConfig
from litestar.openapi.plugins import SwaggerRenderPlugin
from litestar.openapi.spec import Components, Contact, License, OpenAPI, SecurityScheme, Tag

from api import deadline_views, decoding, market_views, views
from api.common_headers import REQUEST_ID
from api.openapi.error_codes import BODY, ERROR_CODES, EVERY_CALL, TOKEN, ErrorCode, parameter_code
from api.openapi.fields import SIDES, STATUSES, TIMES_IN_FORCE, markdown_list
from api.openapi.operations import SCHEMAS
from api.openapi.price_pattern import price_pattern
from api.problems import MEDIA_TYPE, RETRY_AFTER_SECONDS, FieldError, Problem
from core.model import CLIENT_ORDER_ID_PATTERN, COMMANDS_MAX, SEQUENCE_PATTERN, Side, Status, TimeInForce, price_text
from core.settings import CARD_PATTERN, Settings
from exchange.archive_reader import STATUSES as HISTORY_STATUSES
from exchange.order_reader import FILL_KEY
from streams.channels import POSITIONS_RULE

Json = dict[str, Any]

JSON = "application/json"
DESCRIPTION = """\
A trading platform for Pokémon cards: {cards}, at prices from {price_min} to {price_max}.

Prices are dollars as decimal strings, times RFC 3339 in UTC. Orders are JSON of at most {body_bytes_max} bytes.

An order that is answered with a 2xx is durable. After a timeout or a 5xx repeat it with the same `client_order_id`:
you get the first order back.

Errors are RFC 9457 problems with a stable `code`; `errors` names every wrong field. Each call lists its codes.
"""
PAGE = """\
<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
{favicon}
<link href="{css_url}" rel="stylesheet">
</head>
<body>
<div id="swagger"></div>
<script src="{js_url}"></script>
<script>{script}</script>
</body>
</html>
"""
TAGS: Mapping[str, str] = {
    "auth": "Access tokens for API keys.",
    "orders": "Place, find, list, replace and cancel your own orders. They need an access token.",
    "cards": "Order books, prices and latest trades of every card, live and for everybody.",
    "streams": "The same, as it changes.",
    "history": "Completed orders and all trades, from the archive.",
    "admin": "Halt cards, manage API keys, read the audit. They need an access token of an admin.",
    "health": "Whether the exchange lives and can work.",
}
EXAMPLE_CENTS = 550
SPREAD_CENTS = 10
EXAMPLE_OF_TYPE: Mapping[str, Any] = {"string": "…", "integer": 1, "number": 1, "boolean": True}
EXAMPLE_TIME = "2026-11-22T23:53:06.123Z"
BODIES = (
    *(decoding.OrderBody, decoding.BatchBody, decoding.ChangeBody, decoding.CancelBody, decoding.ReplaceBody),
    *(decoding.PlaceBody, decoding.TokenBody, decoding.LoginCodeBody, decoding.CancelAfterBody),
)
SMALL_BODIES = {body.__name__ for body in (decoding.TokenBody, decoding.LoginCodeBody, decoding.CancelAfterBody)}
ITEMS = (decoding.OrderBody, decoding.CancelBody, decoding.ReplaceBody, decoding.PlaceBody)
ENUMS: Mapping[type[StrEnum], tuple[str, Mapping[Any, str]]] = {
    Side: ("The side of an order.", SIDES),
    Status: ("Where an order is in its life; the last three are final.", STATUSES),
    TimeInForce: ("How long an order waits.", TIMES_IN_FORCE),
}
FORMAT_OF_PARAMETER = {"card": "Card", "order_id": "order_id", "client_order_id": "client_order_id"} | {
    "key_id": "key_id",
    "trader_id": "trader_id",
}
"""The formats of parameters with these names, unless a handler names another format."""

BEFORE_RULES: Mapping[str, str] = {
    "/orders": "an order_id of yours, like pikachu-1001",
    "/fills": "the `next` of a page of fills",
    "/history/orders": "an order_id, like pikachu-1001",
    "/history/trades": "a trade_id, like pikachu-t17",
    "/admin/traders/{trader_id}/orders": "an order_id of yours, like pikachu-1001",
    "/admin/audit": "an audit_id, like 17",
}
"""The rule of the parameter `before`, by path."""

AFTER_RULES: Mapping[str, str] = {
    "/history/orders": "must be an order_id, like pikachu-1001",
    "/history/trades": "must be a trade_id, like pikachu-t17",
    "/stream": POSITIONS_RULE,
}
"""The rule of the parameter `after`, by path."""

STATUS_RULES: Mapping[str, str] = dict.fromkeys(
    ("/history/orders", "/history/orders.csv"), "must be one of " + ", ".join(HISTORY_STATUSES)
)
"""The rule of the parameter `status`, by path; it is `must be open` for others."""

RETRY_AFTER: Json = {
    "description": "After how many seconds to try again.",
    "schema": {"type": "integer", "minimum": 1, "examples": [RETRY_AFTER_SECONDS]},
}
HEADERS: Mapping[int, Mapping[str, Json]] = {
    401: {"WWW-Authenticate": {"description": "The scheme to use.", "schema": {"type": "string", "enum": ["Bearer"]}}},
    405: {"Allow": {"description": "The methods that the path has.", "schema": {"type": "string"}}},
    429: {
        "Retry-After": RETRY_AFTER,
        "RateLimit-Limit": {
            "description": "How much may be asked at once, after a pause.",
            "schema": {"type": "integer", "minimum": 1, "examples": [1_000]},
        },
        "RateLimit-Remaining": {
            "description": "How much may be asked now: nothing.",
            "schema": {"type": "integer", "enum": [0]},
        },
        "RateLimit-Reset": {
            "description": "After how many seconds of a pause `RateLimit-Limit` may be asked again.",
            "schema": {"type": "integer", "minimum": 1, "examples": [10]},
        },
    },
    503: {"Retry-After": RETRY_AFTER},
}
"""The headers of problems, by status."""

HEADERS_OF_ALL: Mapping[str, Json] = {
    "Date": {
        "description": "When the answer was made (RFC 9110).",
        "schema": {"type": "string", "examples": ["Sun, 22 Nov 2026 23:53:06 GMT"]},
    },
    "X-Request-Id": {
        "description": "The request's own `X-Request-Id`, of 1 to 64 letters, digits or . _ -, or else a new one.",
        "schema": {"type": "string", "pattern": f"^{REQUEST_ID.pattern.decode()}$", "examples": ["4f0c2a77b1e9-1a"]},
    },
    "X-Content-Type-Options": {
        "description": "The type of the content is not to be guessed.",
        "schema": {"type": "string", "enum": ["nosniff"]},
    },
}
"""The headers of every answer, without those that describe its body."""


class Config(OpenAPIConfig):
    """Litestar's configuration of a document that the settings of the exchange complete."""

    def __init__(self, settings: Settings, **options: Any) -> None:
        super().__init__(
            title="tcgx",
            version="0.1.0",
            description=DESCRIPTION.format_map(_texts_of_settings(settings)),
            license=License(name="MIT", identifier="MIT"),
            contact=Contact(name="tcgx"),
            tags=[Tag(name=name, description=sentence) for name, sentence in TAGS.items()],
            components=Components(
                security_schemes={
                    "bearer": SecurityScheme(
                        type="http", scheme="bearer", bearer_format="JWT", description="from POST /auth/token"
                    )
                }
            ),
            **options,
        )
        self._settings = settings

    def to_openapi_schema(self) -> OpenAPI:
        """Makes the document without its calls, which Litestar adds."""
        plain = super().to_openapi_schema()
        document = Document(**{field.name: getattr(plain, field.name) for field in fields(plain)})
        document.settings = self._settings
        return document


@dataclass
class Document(OpenAPI):
    """A document that completes itself."""

    def __post_init__(self) -> None:
        self.settings = Settings()

    def to_schema(self) -> Json:
        """Builds the complete document."""
        return DocumentBuilder(self.settings).of(super().to_schema())


PAGE_OPTIONS = {
    "url": "/schema/openapi.json",
    "dom_id": "#swagger",
    "deepLinking": True,
    "persistAuthorization": True,
    "displayRequestDuration": True,
    "docExpansion": "list",
    "defaultModelsExpandDepth": 0,
    "defaultModelExpandDepth": 2,
    "validatorUrl": None,  # else the page asks another host whether the document is valid
}
PAGE_SCRIPT = f"SwaggerUIBundle({msgspec.json.encode(PAGE_OPTIONS).decode()})"
_SCRIPT_HASH = b64encode(sha256(PAGE_SCRIPT.encode()).digest()).decode()
PAGE_POLICY = (
    f"default-src 'none'; script-src 'self' 'sha256-{_SCRIPT_HASH}'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data:; font-src 'self'; connect-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'"
)
PAGE_HEADERS = [(b"content-security-policy", PAGE_POLICY.encode()), (b"referrer-policy", b"no-referrer")]
"""The headers of HTML: scripts and styles of our own alone, no frame around the page. Swagger UI sets styles inline."""


class SwaggerPage(SwaggerRenderPlugin):
    """Swagger UI with folded calls and schemas; the browser keeps the token over a reload."""

    def render(self, request: Request[Any, Any, Any], openapi_schema: Json) -> bytes:  # noqa: ARG002 - the page loads it
        """Renders the page."""
        return PAGE.format(
            title=openapi_schema["info"]["title"],
            favicon=self.favicon,
            css_url=self.css_url,
            js_url=self.js_url,
            script=PAGE_SCRIPT,
        ).encode()


class DocumentBuilder:
    """Builds the complete document for an exchange with these settings."""

    def __init__(self, settings: Settings) -> None:
        self._formats = formats(settings)
        self._texts = _texts_of_settings(settings)
        self._schemas: Json = {}

    def of(self, document: Json) -> Json:
        """Completes a document of Litestar."""
        found = sorted({error.key for _, _, operation in _operations(document) for error in codes_of(operation)})
        self._schemas = self._components([key.partition(" ")[2] for key in found])
        for path, method, operation in _operations(document):
            document["paths"][path][method] = self._operation(path, operation)
        document["components"]["schemas"] = _referenced_schemas(self._schemas, document["paths"])
        return document

    def schemas_of(self, structs: Sequence[type[msgspec.Struct]]) -> Json:
        """Builds the schemas of other structs, and of all that they refer to."""
        _, made = msgspec.json.schema_components([*structs, *ENUMS], ref_template=SCHEMAS + "{name}")
        made["Card"] = {"title": "Card", **self._formats["Card"]}
        for enum, (sentence, _) in ENUMS.items():
            made[enum.__name__] |= {"description": sentence}
        return {name: self._resolve(schema, set(made)) for name, schema in made.items()}

    # -- schemas

    def _components(self, codes: Iterable[str]) -> Json:
        named = [*vars(views).values(), *vars(deadline_views).values(), *vars(market_views).values()]
        structs = {view for view in named if isinstance(view, type) and issubclass(view, msgspec.Struct)}
        _, made = msgspec.json.schema_components(
            [*structs, *BODIES, Problem, FieldError, *ENUMS], ref_template=SCHEMAS + "{name}"
        )
        for enum, (sentence, words) in ENUMS.items():
            made[enum.__name__] |= {
                "description": f"{sentence}\n\n{markdown_list(words)}",
                "type": "string",
                "enum": [word.value for word in words],
            }
        made["Status"]["examples"] = [Status.OPEN.value]
        for item in ITEMS[1:]:
            made[item.__name__]["properties"]["action"] |= {"description": "What the item asks for.", "type": "string"}
        made["Card"] = {"title": "Card", **self._formats["Card"]}
        meanings = {error.code: error.meaning for error in ERROR_CODES.values()}
        found = {code: meanings.get(code, "The query parameter breaks its rule.") for code in sorted(set(codes))}
        made["ErrorCode"] = {
            "title": "ErrorCode",
            "description": f"What is wrong, for programs; codes do not change.\n\n{markdown_list(found)}",
            "type": "string",
            "enum": [*found],
        }
        example = msgspec.to_builtins(ERROR_CODES["422 invalid_price"].example(self._texts))
        made["Problem"]["examples"] = [example]
        made["FieldError"]["examples"] = example["errors"]
        return {name: self._resolve(schema, set(made)) for name, schema in made.items()}

    def _resolve(self, schema: Any, components: set[str]) -> Any:
        """Replaces every format in a schema by the schema that the format stands for."""
        if isinstance(schema, list):
            return [self._resolve(part, components) for part in schema]
        if not isinstance(schema, dict):
            return schema
        resolved = {key: self._resolve(part, components) for key, part in schema.items() if key != "examples"}
        if "examples" in schema:
            resolved["examples"] = schema["examples"]
        if "prefixItems" in resolved:
            # Many tools stumble over `prefixItems`; the description and the example say which item is which.
            resolved["items"] = {"oneOf": resolved.pop("prefixItems")}
        name = schema.get("format", "")
        if not isinstance(name, str):
            return resolved  # the properties of a struct, one of which has this name
        if name in components:
            return {"description": schema["description"], "$ref": SCHEMAS + name}
        if not name:
            return resolved
        meaning = self._formats[name]
        kept = {key: part for key, part in resolved.items() if key not in ("format", "anyOf")}
        return meaning | kept | {key: part for key, part in meaning.items() if key != "description"}

    def _example(self, schema: Json) -> Any:
        """Makes an example for a schema: its first example, or one composed of the examples of its parts."""
        if "$ref" in schema:
            return self._example(self._schemas[schema["$ref"].removeprefix(SCHEMAS)])
        for chosen in (schema.get("examples"), schema.get("enum")):
            if chosen:
                return chosen[0]
        if "default" in schema:
            return schema["default"]
        if "anyOf" in schema:
            return self._example(schema["anyOf"][0])
        return self._example_of_parts(schema)

    def _example_of_parts(self, schema: Json) -> Any:
        if "properties" in schema:
            return {name: self._example(part) for name, part in schema["properties"].items()}
        if schema.get("type") != "array":
            return EXAMPLE_OF_TYPE.get(schema.get("type", ""))
        items = schema.get("items", {})
        return [self._example(part) for part in items.get("oneOf", [items])]

    # -- calls

    def _operation(self, path: str, operation: Json) -> Json:
        errors = codes_of(operation)
        parameters = [self._parameter(parameter) for parameter in operation.get("parameters", [])]
        completed = {key: value for key, value in operation.items() if value is not False}
        if parameters:
            completed["parameters"] = parameters
        if "requestBody" in operation:
            completed["requestBody"] = self._request_body(operation["requestBody"])
        responses = {
            status: self._answer(int(status), response)
            for status, response in operation["responses"].items()
            if not _is_refusal(response)
        }
        texts = self._texts_of(path, completed)
        for status in sorted({error.status for error in errors} - {int(status) for status in responses}):
            responses[str(status)] = _refusal(status, [error for error in errors if error.status == status], texts)
        completed["responses"] = dict(sorted(responses.items()))
        return completed

    def _parameter(self, parameter: Json) -> Json:
        schema = _without_null(parameter["schema"])
        name = schema.get("format", FORMAT_OF_PARAMETER.get(parameter["name"]))
        resolved = _without_null(self._resolve(schema | ({"format": name} if name else {}), set()))
        description = parameter.get("description") or resolved.get("description")
        resolved.pop("description", None)
        if name in self._schemas:
            resolved = {"$ref": SCHEMAS + name}
        elif not resolved.get("examples"):
            resolved["examples"] = [self._example(resolved)]
        kept = {key: parameter[key] for key in ("name", "in", "required")}
        return kept | {"description": description, "schema": _with_whole_bounds(resolved)}

    def _request_body(self, body: Json) -> Json:
        schema = body["content"][JSON]["schema"]
        example = {"summary": "An order" if schema["$ref"].endswith("OrderBody") else "An example"}
        return {
            "description": self._description_of(schema),
            "required": True,
            "content": {JSON: {"schema": schema, "examples": {"example": example | {"value": self._example(schema)}}}},
        }

    def _answer(self, status: int, response: Json) -> Json:
        if JSON not in response["content"]:  # a stream
            return {**response, **_headers(HEADERS_OF_ALL)}
        schema = response["content"][JSON]["schema"]
        given = [example["value"] for example in response["content"][JSON].get("examples", {}).values()]
        example = _merge(self._example(schema), given[0] if given else {})
        default = response["description"] == HTTPStatus(status).description
        return {
            "description": self._description_of(schema) if default else response["description"],
            **_headers(HEADERS_OF_ALL),
            "content": {JSON: {"schema": schema, "examples": {"example": {"summary": "An example", "value": example}}}},
        }

    def _description_of(self, schema: Json) -> str:
        return str(self._schemas[schema["$ref"].removeprefix(SCHEMAS)]["description"])

    def _texts_of(self, path: str, operation: Json) -> dict[str, str]:
        """The texts for the examples of a call's errors, by their names in braces."""
        parameters = operation.get("parameters", [])
        asked = {
            parameter["name"]: str(self._example(parameter["schema"]))
            for parameter in parameters
            if parameter["in"] == "path"
        }
        known = [parameter["name"] for parameter in parameters if parameter["in"] == "query"]
        needed = [parameter["name"] for parameter in parameters if parameter["in"] == "query" and parameter["required"]]
        texts = {
            "path": path.format_map(asked),
            "asked": next(iter(asked.values()), ""),
            "query": next(iter(needed), ""),
            "place": BEFORE_RULES.get(path, ""),
            "after": AFTER_RULES.get(path, ""),
            "statuses": STATUS_RULES.get(path, "must be open"),
            "parameter": next(iter(known), ""),
            "parameters": ", ".join(sorted(known)) or "none",
        }
        if "requestBody" in operation:
            name = operation["requestBody"]["content"][JSON]["schema"]["$ref"].removeprefix(SCHEMAS)
            schema = self._schemas[name]
            texts["required"] = next(iter(schema["required"] or schema["properties"]))
            if name in SMALL_BODIES:
                texts["body_bytes_max"] = str(decoding.TOKEN_BYTES_MAX)
        return self._texts | texts


def codes_of(operation: Json) -> list[ErrorCode]:
    """Lists the errors of a call: those that its handler names, and those of every call of its kind."""
    keys = [*EVERY_CALL]
    if operation.get("security"):
        keys += TOKEN
    if "requestBody" in operation:
        keys += BODY
    bounded = []
    for parameter in operation.get("parameters", []):
        schema = _without_null(parameter["schema"])
        if parameter["in"] == "path":
            keys += ["404 not_found", *(["404 unknown_card"] if parameter["name"] == "card" else [])]
        elif parameter["in"] == "header":
            keys += [f"422 invalid_{parameter['name'].lower()}"]
        else:
            keys += ["422 duplicate_parameter", "422 invalid_parameter"]
            keys += ["422 missing_parameter"] if parameter["required"] else []
            keys += ["422 unknown_card"] if parameter["name"] == "card" else []
            if "minimum" in schema:
                bounded.append(parameter_code(parameter["name"], int(schema["minimum"]), int(schema["maximum"])))
    for response in operation["responses"].values():
        if _is_refusal(response):
            examples = response["content"].get(MEDIA_TYPE, {}).get("examples", {})
            keys += [example["value"] for example in examples.values()]
    return [error for key, error in ERROR_CODES.items() if key in keys] + bounded


def formats(settings: Settings) -> Mapping[str, Json]:
    """The schemas that the formats of `api/openapi/fields.py` stand for, in an exchange with these settings."""
    return {
        **_id_formats(settings.cards),
        **_price_formats(settings.price_cents_min, settings.price_cents_max),
        "order_quantity": {
            "type": "integer",
            "minimum": 1,
            "maximum": settings.max_quantity,
            "default": 1,
            "examples": [1],
        },
        "new_quantity": {"type": "integer", "minimum": 1, "maximum": settings.max_quantity, "examples": [1]},
        "batch": {
            "minItems": 1,
            "maxItems": COMMANDS_MAX,
            "items": {"oneOf": [{"$ref": f"{SCHEMAS}{item.__name__}"} for item in ITEMS]},
        },
        "results": {"items": {"oneOf": [{"$ref": f"{SCHEMAS}OrderView"}, {"$ref": f"{SCHEMAS}RefusedView"}]}},
        "key_id": {
            "description": "The key's id.",
            "type": "string",
            "pattern": "^[0-9a-f]{16}$",
            "examples": ["0f3c9a51d2e84b76"],
        },
        "trader_id": {"description": "The trader's number.", "type": "string", "examples": ["1"]},
        "echo": {"type": ["string", "integer", "boolean", "null"]},
        "token_seconds": {"minimum": 1, "examples": [settings.token_seconds]},
        "moment": {"type": "string", "format": "date-time", "examples": [EXAMPLE_TIME]},
        "date-time": {"type": "string", "format": "date-time", "examples": [EXAMPLE_TIME]},
    }


def _id_formats(cards: Sequence[str]) -> dict[str, Json]:
    card, name = cards[0], CARD_PATTERN.pattern
    return {
        "Card": {
            "description": "A card that is traded here.",
            "type": "string",
            "enum": [*cards],
            "examples": [card],
        },
        "card_name": {"type": "string", "pattern": f"^{name}$", "examples": [card]},
        "order_id": {
            "description": "The order's id.",
            "type": "string",
            "pattern": f"^{name}-{SEQUENCE_PATTERN}$",
            "examples": [f"{card}-1001"],
        },
        "trade_id": {"type": "string", "pattern": f"^{name}-t{SEQUENCE_PATTERN}$", "examples": [f"{card}-t17"]},
        "client_order_id": {
            "description": "The trader's own id of the order.",
            "type": ["string", "null"],
            "pattern": f"^(?:{CLIENT_ORDER_ID_PATTERN})$",
            "examples": ["my-order-1"],
        },
        "fill_key": {
            "type": "string",
            "pattern": f"^{FILL_KEY.pattern}$",
            "examples": [f"{EXAMPLE_TIME}~{card}-t17~taker"],
        },
    }


def _price_formats(low: int, high: int) -> dict[str, Json]:
    bid = min(max(EXAMPLE_CENTS, low), max(low, high - SPREAD_CENTS))
    ask = min(bid + SPREAD_CENTS, high)
    price = {"type": "string", "pattern": r"^[0-9]+\.[0-9]{2}$"}
    return {
        "price": price | {"examples": [price_text(bid)]},
        "average_price": {
            "type": ["string", "null"],
            "pattern": r"^[0-9]+\.[0-9]{2,4}$",
            "examples": [price_text(bid)],
        },
        "bid_price": price | {"examples": [price_text(bid)]},
        "ask_price": price | {"examples": [price_text(ask)]},
        "order_price": {
            "oneOf": [
                {"type": "string", "pattern": price_pattern(low, high)},
                {"type": "number", "minimum": low / 100, "maximum": high / 100, "multipleOf": 0.01},
            ],
            "examples": [price_text(bid)],
        },
    }


def _texts_of_settings(settings: Settings) -> dict[str, str]:
    return {
        "card": settings.cards[0],
        "cards": ", ".join(settings.cards),
        "price_min": price_text(settings.price_cents_min),
        "price_max": price_text(settings.price_cents_max),
        "max_quantity": str(settings.max_quantity),
        "body_bytes_max": str(settings.body_bytes_max),
        "body_seconds": f"{settings.body_seconds:g}",
    }


def _operations(document: Json) -> list[tuple[str, str, Json]]:
    return [
        (path, method, operation)
        for path, item in document["paths"].items()
        for method, operation in item.items()
        if isinstance(operation, dict) and "responses" in operation
    ]


def _is_refusal(response: Json) -> bool:
    """Whether `_refusal` replaces a response: a problem, or Litestar's own schema of a 400, which is never sent."""
    schemas = [content.get("schema", {}) for content in response.get("content", {}).values()]
    return any(
        schema.get("$ref") == f"{SCHEMAS}Problem" or "status_code" in schema.get("required", ()) for schema in schemas
    )


def _refusal(status: int, errors: Sequence[ErrorCode], texts: Mapping[str, str]) -> Json:
    words = {error.code: error.meaning for error in errors}
    examples = {
        error.code: {"summary": error.meaning, "value": msgspec.to_builtins(error.example(texts))} for error in errors
    }
    return {
        "description": markdown_list(words),
        **_headers({**HEADERS.get(status, {}), **HEADERS_OF_ALL}),
        "content": {MEDIA_TYPE: {"schema": {"$ref": f"{SCHEMAS}Problem"}, "examples": examples}},
    }


def _headers(headers: Mapping[str, Json]) -> Json:
    return {"headers": {name: {"required": True, **header} for name, header in headers.items()}} if headers else {}


def _without_null(schema: Json) -> Json:
    """Removes null from the schema of a parameter: Litestar uses it for an absent one."""
    schema = dict(schema)
    choices = [choice for choice in schema.pop("oneOf", []) if choice.get("type") != "null"]
    for choice in choices:
        schema |= choice
    if isinstance(schema.get("type"), list):
        schema["type"] = next(kind for kind in schema["type"] if kind != "null")
    return schema


def _with_whole_bounds(schema: Json) -> Json:
    """Turns the bounds that Litestar makes floats into whole numbers."""
    return {
        key: int(value) if isinstance(value, float) and value.is_integer() else value for key, value in schema.items()
    }


def _merge(example: Any, changes: Any) -> Any:
    """Applies changes to an example, at any depth."""
    if isinstance(example, dict) and isinstance(changes, dict):
        return example | {name: _merge(example.get(name), change) for name, change in changes.items()}
    if isinstance(example, list) and example and isinstance(changes, list):
        return [_merge(example[min(place, len(example) - 1)], change) for place, change in enumerate(changes)]
    return changes


def _referenced_schemas(schemas: Json, paths: Json) -> Json:
    """Selects the schemas that the calls refer to, by name."""
    found: set[str] = set()
    waiting = _references(paths)
    while waiting:
        found |= waiting
        waiting = {name for reached in waiting for name in _references(schemas[reached])} - found
    return {name: schemas[name] for name in sorted(found)}


def _references(part: Any) -> set[str]:
    if isinstance(part, list):
        return {name for item in part for name in _references(item)}
    if not isinstance(part, dict):
        return set()
    own = {part["$ref"].removeprefix(SCHEMAS)} if isinstance(part.get("$ref"), str) else set()
    return own.union(*(_references(item) for item in part.values()))
