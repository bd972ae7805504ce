"""The OpenAPI document says what the exchange does: every call, field, bound, error and header, with right examples."""

import ast
import itertools
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
import schemathesis

import api
import core
import exchange
import streams
from api.decoding import TOKEN_BYTES_MAX, OrderDecoder
from api.openapi import fields
from api.openapi.error_codes import ERROR_CODES
from api.openapi.price_pattern import price_pattern
from api.problems import MEDIA_TYPE, STATUS_OF_KIND
from core.errors import InvalidRequest, TcgxError
from core.model import Side, Status, TimeInForce, price_text
from core.settings import Settings
from exchange import tokens
from testing.contract import Json, document_of, operations, validator
from testing.exchange import ExchangeServer, exchange_server

OTHER: Json = {
    "cards": ("mew", "abra"),
    "price_cents_min": 37,
    "price_cents_max": 100_000,
    "max_quantity": 5,
    "body_bytes_max": 2_000,
}
SETTINGS = {"the defaults": Settings(), "other settings": Settings(**OTHER)}
CALLER = 31
OF_BODIES = ("POST /auth/token", "POST /orders", "POST /orders/batch")
HOP_BY_HOP = {"connection", "content-length", "content-type", "transfer-encoding"}


@pytest.fixture(scope="module", params=SETTINGS)
def document(request: pytest.FixtureRequest) -> Json:
    """The document of exchanges that do not run."""
    return document_of(SETTINGS[request.param])


def schemas_in(part: Any) -> Iterator[Json]:
    """Every schema within a part of a document: what has a type, a reference or choices."""
    if isinstance(part, list):
        for item in part:
            yield from schemas_in(item)
    if isinstance(part, dict):
        if any(key in part for key in ("type", "$ref", "oneOf", "anyOf")):
            yield part
        for name, item in part.items():
            if name not in ("examples", "enum", "example", "value"):
                yield from schemas_in(item)


def answers(document: Json) -> Iterator[tuple[str, str, str, Json]]:
    """Every answer: call, status, content type and content."""
    for call, operation in operations(document):
        for status, response in operation["responses"].items():
            for kind, content in response["content"].items():
                yield call, status, kind, content


def content_of(operation: Json) -> Json:
    """The content of a call's body."""
    found: Json = operation["requestBody"]["content"]["application/json"]
    return found


def referred(document: Json, schema: Json) -> Json:
    """The schema that a reference leads to."""
    found: Json = document["components"]["schemas"][schema["$ref"].removeprefix("#/components/schemas/")]
    return found


def cards_of(document: Json) -> list[str]:
    """The cards that are traded."""
    found: list[str] = document["components"]["schemas"]["Card"]["enum"]
    return found


# -- the document in itself


def test_the_document_is_valid_openapi(document: Json) -> None:
    schemathesis.openapi.from_dict(document).validate()


def test_every_reference_leads_somewhere_and_every_schema_is_used(document: Json) -> None:
    names = set(document["components"]["schemas"])
    used = {schema["$ref"].removeprefix("#/components/schemas/") for schema in schemas_in(document) if "$ref" in schema}

    assert used == names


def test_every_call_has_a_tag_a_summary_a_description_and_an_id(document: Json) -> None:
    tags = {tag["name"]: tag["description"] for tag in document["tags"]}
    found = [operation for _, operation in operations(document)]

    assert all(sentence.endswith(".") for sentence in tags.values())
    assert {tag for operation in found for tag in operation["tags"]} == set(tags)
    assert len({operation["operationId"] for operation in found}) == len(found)
    for call, operation in operations(document):
        assert operation["summary"], call
        assert operation["description"].endswith("."), call
        for parameter in operation.get("parameters", []):
            assert parameter["description"], (call, parameter["name"])


TEXTS = ("GET /stream 200", "GET /history/orders.csv 200", "GET /history/trades.csv 200")
"""Answers that are no JSON."""

NEEDED = {"channels": "ticker", "interval": "1m"}
"""Values of required parameters that are no card."""


def test_every_body_and_answer_has_a_description_and_an_example(document: Json) -> None:
    for call, operation in operations(document):
        contents = [(call, content) for content in operation.get("requestBody", {}).get("content", {}).values()]
        contents += [(f"{name} {status}", content) for name, status, _, content in answers(document) if name == call]
        for name, content in contents:
            assert content["examples"], name
            assert "$ref" in content["schema"] or name in TEXTS, name
        for status, response in operation["responses"].items():
            assert len(response["description"]) > 10, (call, status)
            assert "processing continues off-line" not in response["description"], (call, status)
            assert "document follows" not in response["description"], (call, status)


def test_every_field_has_a_type_and_a_description(document: Json) -> None:
    for name, schema in document["components"]["schemas"].items():
        assert schema["description"], name
        for field, described in schema.get("properties", {}).items():
            assert described.get("description"), f"{name}.{field} has no description: api/openapi/fields.py"
            assert {"type", "$ref", "oneOf", "anyOf"} & described.keys(), f"{name}.{field} has no type"


def test_every_plain_field_has_an_example(document: Json) -> None:
    for name, schema in document["components"]["schemas"].items():
        for field, described in schema.get("properties", {}).items():
            is_plain = described.get("type") in ("string", "integer", "number", "boolean")
            has_example = {"examples", "enum"} & described.keys() or schema.get("examples")
            assert has_example or not is_plain, f"{name}.{field} has no example: api/openapi/fields.py"


def test_no_list_is_a_list_of_anything(document: Json) -> None:
    for schema in schemas_in(document):
        if schema.get("type") == "array":
            assert {"type", "$ref", "oneOf", "anyOf"} & schema["items"].keys(), schema


def test_words_with_a_meaning_are_enums_that_say_it(document: Json) -> None:
    schemas = document["components"]["schemas"]

    for enum in (Side, Status, TimeInForce):
        assert schemas[enum.__name__]["enum"] == [word.value for word in enum]
        for word in enum:
            assert f"- `{word}`: " in schemas[enum.__name__]["description"]
    for name, schema in schemas.items():
        for field, described in schema.get("properties", {}).items():
            if field in ("side", "taker_side", "time_in_force", "code") or (name, field) == ("OrderView", "status"):
                assert "$ref" in described, f"{name}.{field}"
                assert schemas[described["$ref"].rpartition("/")[2]]["enum"]


def test_every_example_is_valid_by_its_schema(document: Json) -> None:
    for call, operation in operations(document):
        if "requestBody" in operation:
            content = content_of(operation)
            for example in content["examples"].values():
                validator(document, content["schema"]).validate(example["value"])
        for parameter in operation.get("parameters", []):
            for example in parameter["schema"].get("examples", []):
                validator(document, parameter["schema"]).validate(example)
        assert call
    for call, status, _, content in answers(document):
        for name, example in content["examples"].items():
            errors = [*validator(document, content["schema"]).iter_errors(example["value"])]
            assert not errors, (call, status, name, errors)


def test_an_order_is_described_once_for_single_orders_and_batches(document: Json) -> None:
    calls = dict(operations(document))

    single = content_of(calls["POST /orders"])["schema"]
    batch = referred(document, content_of(calls["POST /orders/batch"])["schema"])

    assert batch["properties"]["orders"]["items"]["oneOf"][0] == single == {"$ref": "#/components/schemas/OrderBody"}
    assert (batch["properties"]["orders"]["minItems"], batch["properties"]["orders"]["maxItems"]) == (1, 1_000)


def test_the_results_of_a_batch_are_orders_or_refusals(document: Json) -> None:
    results = document["components"]["schemas"]["BatchView"]["properties"]["results"]

    assert [choice["$ref"].rpartition("/")[2] for choice in results["items"]["oneOf"]] == ["OrderView", "RefusedView"]
    assert "`results`" in dict(operations(document))["POST /orders/batch"]["description"]


def test_bounds_are_those_of_the_settings() -> None:
    document = document_of(Settings(**OTHER))
    order = document["components"]["schemas"]["OrderBody"]["properties"]
    text, number = order["price"]["oneOf"]

    assert document["components"]["schemas"]["Card"]["enum"] == ["mew", "abra"]
    assert (order["quantity"]["minimum"], order["quantity"]["maximum"]) == (1, 5)
    assert (number["minimum"], number["maximum"]) == (0.37, 1_000)
    assert re.search(text["pattern"], "999.99")
    assert not re.search(text["pattern"], "0.36")
    assert "2000 bytes" in msgspec.json.encode(document).decode()
    assert "pikachu" not in msgspec.json.encode({**document, "paths": {}}).decode()


@pytest.mark.parametrize(
    ("low", "high"), [(100, 1_000), (37, 4_242), (1, 9), (5, 5), (50, 150), (199, 201), (1, 10_001)]
)
def test_the_pattern_of_prices_matches_what_is_accepted(low: int, high: int) -> None:
    bodies = OrderDecoder(Settings(price_cents_min=low, price_cents_max=high))
    pattern = re.compile(price_pattern(low, high))
    texts = {price_text(cents) for cents in range(high + 300)}
    texts |= (
        {text[:-1] for text in texts} | {text[:-3] for text in texts} | {"", ".", "-1.00", "1.000", "1e0", "\u0661.00"}
    )

    def accepts(text: str) -> bool:
        body = msgspec.json.encode({"card": "pikachu", "side": "buy", "price": text})
        try:
            bodies.decode_order(body, 1)
        except InvalidRequest:
            return False
        return True

    for text in texts:
        if text.endswith("."):
            continue
        assert bool(pattern.search(text)) == (accepts(text) and not text.endswith("000")), text


# -- the table of codes and the source

CODE_AT = {
    "Problem": 1,
    "Unauthenticated": 0,
    "Violation": 1,
    "RuleViolation": 0,
    "one_of": 0,
    "InvalidBody": 0,
}
"""Where the code stands in a call of these."""

PASSED_ON = {"code", "violation.code", "wrong.code", "self.code", "each.code", "error.code", "f'invalid_{name}'"}
"""A code that was given to the caller, or is of a parameter."""

MADE = {
    "f'invalid_{field}'": (
        *("invalid_before", "invalid_order_id", "invalid_after"),
        *("invalid_start", "invalid_end", "invalid_since", "invalid_until"),
    )
}
"""Codes that are made of the name of a parameter, and which these are."""


def error_classes(base: type[TcgxError] = TcgxError) -> Iterator[type[TcgxError]]:
    yield base
    for derived in base.__subclasses__():
        yield from error_classes(derived)


def codes_in_source() -> dict[str, str]:
    """Every code that the API can answer, as `404 order_not_found`, and the title if it stands beside it."""
    found = {f"{STATUS_OF_KIND[each.kind]} {each.code}": each.title for each in error_classes() if "code" in vars(each)}
    for path in itertools.chain(
        *(Path(str(package.__file__)).parent.rglob("*.py") for package in (api, core, exchange, streams))
    ):
        if path.parent.name == "graphql":  # it answers no call of the document (docs/graphql.md)
            continue
        for call in ast.walk(ast.parse(path.read_text())):
            if not isinstance(call, ast.Call) or not isinstance(call.func, ast.Name) or call.func.id not in CODE_AT:
                continue
            named = {keyword.arg: keyword.value for keyword in call.keywords}
            place = CODE_AT[call.func.id]
            given = [*call.args, *itertools.repeat(None, 3)]
            code = named.get("code", given[place])
            assert code is not None, f"{path.name}:{call.lineno} has no code"
            if ast.unparse(code) in MADE:
                found |= {f"422 {made}": "" for made in MADE[ast.unparse(code)]}
                continue
            if not isinstance(code, ast.Constant):
                assert ast.unparse(code) in PASSED_ON, f"{path.name}:{call.lineno} hides its code"
                continue
            status, title = "401" if call.func.id == "Unauthenticated" else "422", ""
            if call.func.id in ("InvalidBody", "Problem"):
                worded = named.get("title", given[place + 1])
                assert isinstance(worded, ast.Constant), f"{path.name}:{call.lineno} hides its title"
                title = str(worded.value)
            if call.func.id == "Problem":
                said = named.get("status", given[0])
                status = str(said.value) if isinstance(said, ast.Constant) else "400"
            found[f"{status} {code.value!s}"] = title
    return found


def test_every_code_of_the_source_is_in_the_table_and_every_code_of_the_table_in_the_source() -> None:
    assert set(codes_in_source()) == set(ERROR_CODES)


def test_titles_of_the_table_are_those_of_the_source() -> None:
    for key, title in codes_in_source().items():
        assert ERROR_CODES[key].title == (title or {"401": "Unauthorized", "422": "Invalid request"}[key[:3]]), key


def test_every_code_is_of_some_call_and_explained(document: Json) -> None:
    listed = {
        f"{status} {code}"
        for _, status, kind, content in answers(document)
        if kind == MEDIA_TYPE
        for code in content["examples"]
    }
    schema = document["components"]["schemas"]["ErrorCode"]

    assert set(ERROR_CODES) <= listed
    assert set(schema["enum"]) == {key.partition(" ")[2] for key in listed}
    for code in schema["enum"]:
        assert f"- `{code}`: " in schema["description"]


def test_every_error_of_every_call_is_explained(document: Json) -> None:
    for call, operation in operations(document):
        for status, response in operation["responses"].items():
            content = response["content"].get(MEDIA_TYPE, {"examples": {}})
            for code, example in content["examples"].items():
                assert f"- `{code}`: " in response["description"], (call, status)
                assert example["summary"].endswith("."), (call, status, code)


def test_words_of_the_domain_are_all_explained() -> None:
    assert set(fields.SIDES) == set(Side)
    assert set(fields.STATUSES) == set(Status)
    assert set(fields.TIMES_IN_FORCE) == set(TimeInForce)


# -- the document and the exchange that runs


@pytest.fixture(scope="module")
def other() -> Iterator[ExchangeServer]:
    """An exchange with other cards and bounds."""
    with exchange_server(**OTHER) as started:
        yield started


@pytest.fixture(scope="module", params=["the defaults", "other settings"])
def running(request: pytest.FixtureRequest) -> ExchangeServer:
    """An exchange that runs, one after the other."""
    found: ExchangeServer = request.getfixturevalue("exchange" if request.param == "the defaults" else "other")
    return found


@pytest.fixture(scope="module")
def served(running: ExchangeServer) -> Json:
    """The document as it is served."""
    answer = running.http.get("/schema/openapi.json")
    assert answer.status_code == 200
    found: Json = answer.json()
    return found


@pytest.fixture(scope="module")
def caller(running: ExchangeServer) -> httpx.Client:
    """A trader."""
    return running.client(CALLER)


@pytest.fixture(scope="module")
def admin(running: ExchangeServer) -> httpx.Client:
    """An admin, who may make every call."""
    return running.client(CALLER, "admin")


def error_examples(document: Json, call: str, status: str) -> dict[str, Json]:
    """The examples of a call's errors with this status, by code."""
    responses = dict(operations(document))[call]["responses"]
    return {code: example["value"] for code, example in responses[status]["content"][MEDIA_TYPE]["examples"].items()}


WRONG_PARAMETERS: dict[str, list[str]] = {
    "unknown_parameter": ["1"],
    "duplicate_parameter": ["1", "1"],
    "missing_parameter": [],
}
"""How often a parameter is sent to be wrong, where the example has no value of it."""


def path_of(document: Json, operation: Json) -> dict[str, str]:
    """The examples of a call's path parameters."""
    return {
        parameter["name"]: (parameter["schema"].get("examples") or cards_of(document))[0]
        for parameter in operation.get("parameters", [])
        if parameter["in"] == "path"
    }


def body_of(document: Json, call: str) -> Json:
    """The example of a call's body."""
    (example,) = content_of(dict(operations(document))[call])["examples"].values()
    found: Json = example["value"]
    return found


@pytest.mark.server
def test_the_served_document_is_that_of_the_settings(running: ExchangeServer, served: Json) -> None:
    assert served == document_of(running.settings)


@pytest.mark.server
def test_the_example_of_an_order_is_accepted(caller: httpx.Client, served: Json) -> None:
    answer = caller.post("/orders", json=body_of(served, "POST /orders"))

    assert answer.status_code == 202, answer.text


@pytest.mark.server
def test_the_example_of_a_batch_is_accepted(caller: httpx.Client, served: Json) -> None:
    answer = caller.post("/orders/batch", json=body_of(served, "POST /orders/batch"))

    assert answer.status_code == 202
    order, *others, placed = answer.json()["results"]
    assert order["order_id"] == placed["order_id"]  # both have the client_order_id of the example
    assert [other["error"]["code"] for other in others] == ["order_not_found"] * 2


@pytest.mark.server
def test_orders_at_the_documented_bounds_are_accepted_and_beyond_refused(caller: httpx.Client, served: Json) -> None:
    order = served["components"]["schemas"]["OrderBody"]["properties"]
    number = order["price"]["oneOf"][1]
    base = {"card": cards_of(served)[-1], "side": "buy", "time_in_force": "ioc"}
    inside = [{"price": number["minimum"]}, {"price": number["maximum"], "quantity": order["quantity"]["maximum"]}]
    outside = [
        {"price": number["minimum"] - 0.01},
        {"price": number["maximum"] + 0.01},
        {"price": number["maximum"], "quantity": order["quantity"]["maximum"] + 1},
    ]

    statuses = [caller.post("/orders", json=base | fields).status_code for fields in (*inside, *outside)]

    assert statuses == [202, 202, 422, 422, 422]


@pytest.mark.server
@pytest.mark.parametrize("call", OF_BODIES)
def test_examples_of_wrong_bodies_are_what_wrong_bodies_are_answered(
    caller: httpx.Client, served: Json, call: str
) -> None:
    right, path = body_of(served, call), call.partition(" ")[2]
    required = referred(served, content_of(dict(operations(served))[call])["schema"])["required"][0]
    value = msgspec.json.encode(right[required]).decode()
    double = f'{{"{required}":{value},{msgspec.json.encode(right).decode()[1:]}'
    bodies = {
        "invalid_json": "",
        "invalid_body": "[]",
        "missing_field": msgspec.json.encode({name: value for name, value in right.items() if name != required}),
        "unknown_field": msgspec.json.encode(right | {"colour": 1}),
        "duplicate_field": double,
        "invalid_orders": '{"orders":[]}',
    }
    tried = 0

    for code, example in error_examples(served, call, "422").items():
        body: Any = bodies.get(code)
        if body is None and code not in ("too_many_errors", "invalid_prefer", "unknown_parameter", "invalid_action"):
            (error,) = example["errors"]
            body = msgspec.json.encode(right | {error["field"]: error["value"]})
        if body is None:
            continue
        answer = caller.post(path, content=body)

        assert (answer.status_code, answer.json()) == (422, example), (call, code)
        tried += 1

    assert tried >= 6


@pytest.mark.server
def test_more_errors_than_are_listed_are_answered_as_the_document_says(caller: httpx.Client, served: Json) -> None:
    answer = caller.post("/orders", json={f"field_{number}": 1 for number in range(101)})

    example = error_examples(served, "POST /orders", "422")["too_many_errors"]
    assert example["errors"][0] in answer.json()["errors"]


@pytest.mark.server
def test_a_body_that_is_too_large_is_answered_as_the_document_says(
    running: ExchangeServer, caller: httpx.Client, served: Json
) -> None:
    body = b" " * (max(running.settings.body_bytes_max, TOKEN_BYTES_MAX) + 1)
    for call in OF_BODIES:
        answer = caller.post(call.partition(" ")[2], content=body)

        assert (answer.status_code, answer.json()) == (413, error_examples(served, call, "413")["body_too_large"])


@pytest.mark.server
def test_examples_of_wrong_parameters_are_what_they_are_answered(admin: httpx.Client, served: Json) -> None:
    tried = set()
    for call, operation in operations(served):
        method, _, path = call.partition(" ")
        described = operation.get("parameters", [])
        needed = {
            parameter["name"]: NEEDED.get(parameter["name"], cards_of(served)[0])
            for parameter in described
            if parameter["in"] == "query" and parameter["required"]
        }
        for code, example in error_examples(served, call, "422").items():
            if code in ("invalid_parameter", "invalid_prefer"):  # Litestar names every wrong one; below
                continue
            if "requestBody" in operation and code != "unknown_parameter":
                continue
            (error,) = example["errors"]
            wrong = WRONG_PARAMETERS.get(code, [error.get("value")])
            parameters: list[tuple[str, Any]] = [
                (name, value) for name, value in needed.items() if name != error["field"]
            ]
            parameters += [(error["field"], value) for value in wrong]
            target = path.format_map(path_of(served, operation))
            answer = admin.request(method, target, params=httpx.QueryParams(parameters))

            assert (answer.status_code, answer.json()) == (422, example), (call, code)
            tried.add(code)

    assert tried >= {"invalid_limit", "invalid_depth", "unknown_card", "invalid_before", "missing_parameter"}
    assert tried >= {"invalid_order_id", "invalid_status", "invalid_side", "unknown_parameter", "duplicate_parameter"}


@pytest.mark.server
def test_a_wrong_wait_is_answered_as_the_document_says(caller: httpx.Client, served: Json) -> None:
    for call, operation in operations(served):
        if not any(parameter["name"] == "Prefer" for parameter in operation.get("parameters", [])):
            continue
        method, _, path = call.partition(" ")
        body = body_of(served, call) if "requestBody" in operation else None
        answer = caller.request(method, path, headers={"prefer": "wait=60"}, json=body)

        assert (answer.status_code, answer.json()) == (422, error_examples(served, call, "422")["invalid_prefer"])


@pytest.mark.server
def test_requests_without_a_valid_token_are_answered_as_the_document_says(
    running: ExchangeServer, served: Json
) -> None:
    expired = tokens.issue_token(running.settings.jwt_secret, CALLER, "trader", -1)
    headers: dict[str, dict[str, str]] = {
        "token_missing": {},
        "token_invalid": {"authorization": "Basic eDp5"},
        "token_expired": {"authorization": f"Bearer {expired}"},
    }
    for call, operation in operations(served):
        if not operation.get("security"):
            continue
        method, _, path = call.partition(" ")
        path += "?channels=orders" if path == "/stream" else ""
        examples = error_examples(served, call, "401")
        assert set(examples) == {*headers, "token_revoked"}, call  # tests/exchange/test_revocations.py
        for code, sent in headers.items():
            body = body_of(served, call) if "requestBody" in operation else None
            answer = running.http.request(method, path, headers=sent, json=body)

            assert answer.status_code == 401, (call, code)
            assert answer.json()["code"] == code, call
            assert code == "token_expired" or answer.json() == examples[code], call


@pytest.mark.server
def test_unknown_orders_and_cards_are_answered_as_the_document_says(admin: httpx.Client, served: Json) -> None:
    tried = 0
    for call, operation in operations(served):
        method, _, path = call.partition(" ")
        if "404" not in operation["responses"]:
            continue
        for code, example in error_examples(served, call, "404").items():
            known = {"card": "missingno", "order_id": f"{cards_of(served)[0]}-1001", "client_order_id": "no-such"}
            known |= {"trader_id": "ash", "key_id": "0f3c9a51d2e84b76"}
            target = path.format_map(known) + ("/more" if code == "not_found" else "")
            detail = example["detail"].replace("my-order-1", "no-such")
            detail = detail.replace(f"/cards/{cards_of(served)[0]}/", "/cards/missingno/")
            detail = detail.replace("/traders/1/", "/traders/ash/")
            answer = admin.request(
                method,
                target,
                json={"quantity": 1} if method == "PATCH" else None,
                params={"interval": "1m"} if "candles" in target else {},
            )

            assert (answer.status_code, answer.json()) == (404, example | {"detail": detail}), (call, code)
            tried += 1

    assert tried >= 10


@pytest.mark.server
def test_wrong_methods_are_answered_as_the_document_says(running: ExchangeServer, served: Json) -> None:
    for call, operation in operations(served):
        path = call.partition(" ")[2]
        method = next(name for name in ("PATCH", "PUT", "DELETE") if name.lower() not in served["paths"][path])
        answer = running.http.request(method, path.format_map(path_of(served, operation)))

        example = error_examples(served, call, "405")["method_not_allowed"]
        example["detail"] = example["detail"].replace("PATCH", method)
        assert (answer.status_code, answer.json()) == (405, example)


@pytest.mark.server
def test_conflicts_are_answered_as_the_document_says(caller: httpx.Client, served: Json) -> None:
    order = body_of(served, "POST /orders")
    first = caller.post("/orders", json=order).json()
    closed = caller.post(
        "/orders", json=order | {"client_order_id": None, "time_in_force": "ioc"}, headers={"prefer": "wait=10"}
    ).json()

    conflict = caller.post("/orders", json=order | {"side": "sell"})
    completed = caller.delete(f"/orders/{closed['order_id']}")

    wanted = error_examples(served, "POST /orders", "409")["client_order_id_conflict"]
    assert conflict.json() | {"detail": ""} == wanted | {"detail": ""}
    assert conflict.json()["detail"] == re.sub(r"\w+-1001", first["order_id"], wanted["detail"])
    wanted = error_examples(served, "DELETE /orders/{order_id}", "409")["order_completed"]
    assert completed.json()["detail"] == re.sub(r"\w+-1001", closed["order_id"], wanted["detail"]).replace(
        "is filled", f"is {closed['status']}"
    )


@pytest.mark.server
def test_a_wrong_key_is_answered_as_the_document_says(caller: httpx.Client, served: Json) -> None:
    answer = caller.post("/auth/token", json=body_of(served, "POST /auth/token"))

    assert (answer.status_code, answer.json()) == (
        401,
        error_examples(served, "POST /auth/token", "401")["invalid_credentials"],
    )


@pytest.mark.server
def test_wrong_orders_of_a_batch_are_refused_in_their_places(caller: httpx.Client, served: Json) -> None:
    right = body_of(served, "POST /orders") | {"client_order_id": None}
    examples = error_examples(served, "POST /orders", "422")
    wrong = {
        code: right | {error["field"]: error["value"]}
        for code, example in examples.items()
        for error in example.get("errors", [])
        if "value" in error and error["field"] in right
    }

    answer = caller.post("/orders/batch", json={"orders": [right, *wrong.values(), right]})

    first, *refused, last = answer.json()["results"]
    assert [first["card"], last["card"]] == [right["card"], right["card"]]
    assert [result["error"] for result in refused] == [examples[code] for code in wrong]
    assert len(refused) >= 6


@pytest.mark.server
def test_headers_of_answers_are_those_of_the_document(running: ExchangeServer, served: Json) -> None:
    calls = dict(operations(served))
    order = body_of(served, "POST /orders") | {"client_order_id": None}
    trader = running.client(CALLER)
    made = [
        ("GET /cards", trader.get("/cards")),
        ("POST /orders", trader.post("/orders", json=order)),
        ("POST /orders", trader.post("/orders", json={})),
        ("POST /orders", running.http.post("/orders", json=order)),
        ("GET /orders", running.http.get("/orders")),
        ("GET /orders", trader.patch("/orders")),
        ("GET /history/orders", trader.get("/history/orders")),
        ("DELETE /orders", trader.delete("/orders")),
    ]

    for call, answer in made:
        described = calls[call]["responses"][str(answer.status_code)].get("headers", {})
        sent = {name for name in answer.headers if name not in HOP_BY_HOP}
        assert sent == {name.lower() for name in described}, (call, answer.status_code)
        for name, header in described.items():
            value: Any = answer.headers[name]
            value = int(value) if header["schema"]["type"] == "integer" else value
            validator(served, header["schema"]).validate(value)


def test_answers_that_ask_to_wait_say_how_long(document: Json) -> None:
    for call, operation in operations(document):
        for status, response in operation["responses"].items():
            if status in ("429", "503") and MEDIA_TYPE in response["content"]:
                assert response["headers"]["Retry-After"]["required"], call


# -- the page


@pytest.mark.server
def test_the_page_keeps_the_token_and_opens_nothing_but_the_calls(running: ExchangeServer) -> None:
    page = running.http.get("/schema/swagger").text

    options = msgspec.json.decode(re.findall(r"SwaggerUIBundle\((\{.*\})\)", page)[0])
    assert options["persistAuthorization"] is True
    assert options["docExpansion"] == "list"
    assert options["defaultModelsExpandDepth"] == 0
    assert options["validatorUrl"] is None
    assert running.http.get(options["url"]).json()["openapi"].startswith("3.1.")
