"""What holds for every route of the app, those that come later too: the routes are asked of the app itself."""

import asyncio
import re
import warnings
from email.utils import parsedate_to_datetime
from typing import Any

import httpx
import pytest
from litestar.exceptions.base_exceptions import LitestarDeprecationWarning
from litestar.routes import HTTPRoute

from api.app import create_app
from core.settings import Settings
from testing.exchange import ExchangeServer, exchange_server
from tests.api.test_fast_path import in_chunks

pytestmark = pytest.mark.server

TRADER_ID = 861
VALUES = {
    "order_id": "pikachu-1",
    "client_order_id": "none",
    "trader_id": "1",
    "key_id": "0f3c9a51d2e84b76",
    "card": "pikachu",
    "file_path": "swagger-ui.css",
    "path": "swagger",
    "name": "nope",
}


def routes_by_path() -> dict[str, HTTPRoute]:
    """The routes of the app, by a path that each answers."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", LitestarDeprecationWarning)  # how handlers name the parameters of their paths
        app = create_app(Settings(jwt_secret="x" * 32))
    return {
        re.sub(r"\{(\w+)(:\w+)?\}", lambda found: VALUES[found[1]], route.path): route
        for route in app.routes
        if isinstance(route, HTTPRoute)
    }


ROUTES = dict(sorted(routes_by_path().items()))
NOT_ROUTES = {"OPTIONS", "HEAD"}
CALLS = [(method, path) for path, route in ROUTES.items() for method in sorted({*route.methods} - NOT_ROUTES)]
GETS = [path for method, path in CALLS if method == "GET"]
NEEDS = {
    "/history/trades": "?card=pikachu",
    "/history/trades.csv": "?card=pikachu",
    "/cards/pikachu/candles": "?interval=1m",
}
CHANGING = {"date", "x-request-id", "transfer-encoding"}  # an answer without a body needs no encoding of it (RFC 9112)
ORDER = b'{"card":"pikachu","side":"buy","price":"1.00"}'


def without(headers: httpx.Headers, names: set[str]) -> dict[str, str]:
    return {name: value for name, value in headers.items() if name not in names}


def test_the_routes_are_there() -> None:
    assert {"/orders", "/orders/pikachu-1", "/cards/pikachu/book", "/schema/openapi.json", "/health/live"} <= {*ROUTES}
    assert ("DELETE", "/orders") in CALLS
    assert ("POST", "/auth/token") in CALLS


@pytest.mark.parametrize("path", GETS)
@pytest.mark.parametrize("has_token", [True, False])
def test_head_is_get_without_a_body(exchange: ExchangeServer, client: httpx.Client, path: str, has_token: bool) -> None:
    asked = client if has_token else exchange.http
    target = path + NEEDS.get(path, "")

    got, head = asked.get(target), asked.head(target)

    assert head.status_code == got.status_code
    assert head.content == b""
    assert without(head.headers, CHANGING) == without(got.headers, CHANGING)
    assert asked.get("/health/live").json() == {"status": "live", "missing": []}


def test_head_tells_of_health(exchange: ExchangeServer) -> None:
    for path in ("/health/live", "/health/ready", "/schema/openapi.json", "/schema/assets/swagger-ui.css", "/cards"):
        assert exchange.http.head(path).status_code == 200


@pytest.mark.parametrize("path", ROUTES)
def test_options_and_a_wrong_method_name_the_same_methods(client: httpx.Client, path: str) -> None:
    of_path = {method for method, other in CALLS if other == path}
    expected = of_path | {"OPTIONS"} | ({"HEAD"} if "GET" in of_path else set())

    options = client.options(path)
    answers = [client.request(method, path) for method in ("PATCH", "PUT", "TRACE", "HEAD") if method not in expected]

    assert options.status_code == 204
    assert {answer.status_code for answer in answers} == {405}
    for answer in [options, *answers]:
        assert answer.headers.get_list("allow") == [", ".join(sorted(expected))]


@pytest.mark.parametrize(("method", "path"), CALLS)
@pytest.mark.parametrize("query", ["nonsense=1", "nonsense", "nonsense=", "=1", "%ff=1", "nonsense=1&more=2"])
def test_an_unknown_parameter_is_refused(
    exchange: ExchangeServer, client: httpx.Client, method: str, path: str, query: str
) -> None:
    before = exchange.sequences()
    body = ORDER if method == "POST" else None

    answer = client.request(method, f"{path}?{query}", content=body)

    assert answer.status_code == 422
    problem = answer.json()
    assert problem["code"] == "unknown_parameter"
    assert len(problem["errors"]) == query.count("&") + 1
    assert "is not a parameter of this request; it takes" in problem["detail"]
    assert exchange.sequences() == before


@pytest.mark.parametrize(("method", "path"), CALLS)
def test_a_parameter_that_is_given_twice_is_refused(
    exchange: ExchangeServer, client: httpx.Client, method: str, path: str
) -> None:
    unknown = client.request(method, f"{path}?nonsense=1").json()["errors"][0]["rule"]
    known = unknown.rpartition(" takes ")[2].split(", ")

    for name in known if known != ["none"] else []:
        before = exchange.sequences()
        answer = client.request(method, f"{path}?{name}=1&{name}=2")

        assert answer.status_code == 422
        assert answer.json()["code"] == "duplicate_parameter"
        assert f"{name} must be given once" in answer.json()["detail"]
        assert exchange.sequences() == before


def test_the_parameters_that_there_are_are_named(client: httpx.Client) -> None:
    for method, target, names in [
        ("DELETE", "/orders?cards=bulbasaur", "card"),
        ("GET", "/cards/pikachu/book?limit=1", "depth"),
        ("GET", "/history/orders?cards=1", "after, before, card, limit, side, since, status, until"),
        ("POST", "/orders?dry_run=true", "none"),
        ("GET", "/health/ready?x", "none"),
    ]:
        detail = client.request(method, target).json()["detail"]
        assert detail.endswith(f"is not a parameter of this request; it takes {names}")


def test_very_many_unknown_parameters_make_no_large_answer(client: httpx.Client) -> None:
    answer = client.get("/cards?" + "&".join(f"{'é' * 20}{number}=1" for number in range(300)))

    assert answer.status_code == 422
    assert len(answer.content) < 20_000


EVERY_KIND = [
    ("GET", "/health/live", None, 200),
    ("GET", "/orders", None, 200),
    ("POST", "/orders", ORDER, 202),
    ("POST", "/orders/batch", b'{"orders":[' + ORDER + b"]}", 202),
    ("POST", "/orders", b"no JSON", 422),
    ("POST", "/auth/token", b"{}", 422),
    ("GET", "/nope", None, 404),
    ("PUT", "/orders", None, 405),
    ("OPTIONS", "/orders", None, 204),
    ("HEAD", "/orders", None, 200),
    ("GET", "/docs", None, 302),
    ("GET", "/schema/swagger", None, 200),
    ("GET", "/schema/assets/swagger-ui.css", None, 200),
    ("GET", "/schema/nope", None, 404),
]


@pytest.mark.parametrize(("method", "path", "body", "status"), EVERY_KIND)
def test_every_answer_has_a_date_a_name_and_no_guessed_type(
    client: httpx.Client, method: str, path: str, body: bytes | None, status: int
) -> None:
    contents: list[Any] = [body] if body is None else [body, in_chunks(body)]
    for content in contents:
        given = client.request(method, path, content=content, headers={"x-request-id": "of-the-test.1"})
        made = client.request(method, path, content=body, headers={"x-request-id": "no good"})

        assert given.status_code == made.status_code == status
        assert given.headers.get_list("x-request-id") == ["of-the-test.1"]
        assert re.fullmatch(r"[0-9a-f]{12}-[0-9a-f]+", made.headers["x-request-id"])
        for answer in (given, made):
            assert answer.headers.get_list("x-content-type-options") == ["nosniff"]
            (date,) = answer.headers.get_list("date")
            assert re.fullmatch(r"[A-Z][a-z]{2}, [0-9]{2} [A-Z][a-z]{2} [0-9]{4} [0-9:]{8} GMT", date)
            assert parsedate_to_datetime(date).year >= 2026


def test_a_name_that_was_made_is_of_one_request(client: httpx.Client) -> None:
    names = [client.get("/health/live").headers["x-request-id"] for _ in range(20)]
    names += [client.post("/orders", content=ORDER).headers["x-request-id"] for _ in range(20)]

    assert len({*names}) == 40


@pytest.mark.parametrize("path", ["/orders", "/orders/batch"])
@pytest.mark.parametrize("name", ["Date", "X-Request-Id", "X-Content-Type-Options"])
def test_what_is_no_http_is_answered_with_them_too(exchange: ExchangeServer, path: str, name: str) -> None:
    answer = exchange.raw(f"POST {path} HTTP/1.1\r\nx-request-id: abc\r\n\r\n".encode())

    assert answer.status == 400
    assert answer.headers[name.lower()]
    assert answer.headers["x-request-id"] == "abc"


def test_several_lines_of_prefer_are_one_list(client: httpx.Client) -> None:
    lines = [("prefer", "respond-async"), ("prefer", "wait=5")]
    for content in (ORDER, in_chunks(ORDER)):
        placed = client.post("/orders", content=content, headers=lines)
        assert placed.status_code == 200
        assert placed.json()["status"] == "open"
        canceled = client.delete(f"/orders/{placed.json()['order_id']}", headers=lines)
        assert (canceled.status_code, canceled.json()["status"]) == (200, "canceled")
    assert client.delete("/orders", headers=lines).status_code == 200


def test_fields_after_a_body_do_not_authenticate(exchange: ExchangeServer) -> None:
    token = exchange.bearer(TRADER_ID)["authorization"].encode()
    body = b"%x\r\n%b\r\n0\r\nauthorization: %b\r\nprefer: wait=5\r\n\r\n" % (len(ORDER), ORDER, token)
    before = exchange.sequences()

    answer = exchange.raw(b"POST /orders HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n" + body)

    assert answer.status == 401
    assert exchange.sequences() == before


def test_a_client_that_sends_nothing_more_gets_its_answer(exchange: ExchangeServer) -> None:
    token = exchange.bearer(TRADER_ID)["authorization"].encode()
    head = b"%b %b HTTP/1.1\r\nhost: x\r\nauthorization: %b\r\ncontent-length: %d\r\n\r\n"
    for method, path, body, status in [
        (b"POST", b"/orders", ORDER, 202),
        (b"POST", b"/orders/batch", b'{"orders":[' + ORDER + b"]}", 202),
        (b"GET", b"/orders", b"", 200),
        (b"GET", b"/history/orders", b"", 200),
        (b"DELETE", b"/orders", b"", 202),
    ]:
        answer = exchange.raw(head % (method, path, token, len(body)) + body, half_close=True)
        assert answer.status == status


def test_an_order_that_was_entered_is_said_to_be(exchange: ExchangeServer, client: httpx.Client) -> None:
    token = client.headers["authorization"].encode()
    body = ORDER[:-1] + b',"client_order_id":"before-garbage"}'
    head = b"POST /orders HTTP/1.1\r\nhost: x\r\nauthorization: %b\r\ncontent-length: %d\r\n\r\n" % (token, len(body))

    answer = exchange.raw(head + body + b"\0")

    assert answer.status == 202
    found = client.get("/orders/by-client-id/before-garbage").json()
    assert found["order_id"] == answer.json()["order_id"]


async def _talk(url: httpx.URL, request: bytes) -> bytes:
    reader, writer = await asyncio.open_connection(url.host, url.port)
    writer.write(request)
    try:
        return await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 10)
    finally:
        writer.close()


@pytest.mark.parametrize("upgrade", ["h2c", "websocket"])
def test_a_client_that_offers_an_upgrade_places_its_order(exchange: ExchangeServer, upgrade: str) -> None:
    token = exchange.bearer(TRADER_ID)["authorization"].encode()
    head = b"POST /orders HTTP/1.1\r\nhost: x\r\nconnection: Upgrade, HTTP2-Settings\r\nupgrade: %b\r\n"
    head = head % upgrade.encode() + b"authorization: %b\r\ncontent-length: %d\r\n\r\n" % (token, len(ORDER))

    answered = asyncio.run(_talk(httpx.URL(exchange.url), head + ORDER))

    assert answered.startswith(b"HTTP/1.1 202 ")


def test_the_service_has_the_time_limits_of_its_settings() -> None:
    with exchange_server("api", head_seconds=1, body_seconds=2, keep_alive_seconds=1) as own:
        half_a_head = own.raw(b"POST /orders HTTP/1.1\r\nhost:")
        token = own.bearer(TRADER_ID)["authorization"].encode()
        head = b"POST /orders HTTP/1.1\r\nhost: x\r\nauthorization: %b\r\ncontent-length: 9\r\n\r\n" % token
        half_a_body = own.raw(head + b"1234")
        silence = asyncio.run(_silence(httpx.URL(own.url)))

    assert (half_a_head.status, half_a_body.status) == (408, 408)
    assert half_a_head.json()["detail"] == "the request line and headers did not come whole within 1 s"
    assert half_a_body.json()["detail"] == "the body did not come whole within 2 s"
    assert silence == b""


async def _silence(url: httpx.URL) -> bytes:
    """What comes after an answer if nothing more is asked."""
    reader, writer = await asyncio.open_connection(url.host, url.port)
    writer.write(b"GET /health/live HTTP/1.1\r\nhost: x\r\n\r\n")
    try:
        await asyncio.wait_for(reader.readuntil(b"}"), 10)
        return await asyncio.wait_for(reader.read(), 10)
    finally:
        writer.close()
