"""Wrong requests: each is answered with a problem that names the field, the rule and the value, and changes nothing."""

import json
import random
import re
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import httpx
import jwt
import pytest

from api.decoding import TOKEN_BYTES_MAX
from exchange import tokens
from testing.exchange import ExchangeServer

pytestmark = pytest.mark.server

CALLER, OTHER = 1, 2
BODY_BYTES_MAX = 1_000_000
PRICE = "price must be a decimal from 1.00 to 10.00 with at most two decimals, got "
QUANTITY = "quantity must be a whole number from 1 to 10000, got "
CLIENT_ORDER_ID = "client_order_id must be 1 to 64 letters, digits or . _ : -, and not dots alone, got "
CARDS = "card must be one of pikachu, bulbasaur, charmander, squirtle, got "
LIMIT_50 = "limit must be a whole number from 1 to 50, got "
LIMIT_500 = "limit must be a whole number from 1 to 500, got "
FILTERS = "/orders?status=closed&card=mew&side=up&limit=51"
WAIT = "Prefer wait must be a number of seconds from 0 to 10, got "
LONE_SURROGATE = "\\ud800"

Token = Callable[[ExchangeServer], str | None]


class Case(NamedTuple):
    """A request and what its answer says."""

    name: str
    method: str
    path: str
    status: int
    code: str
    says: tuple[str, ...]
    body: bytes | None = None
    headers: tuple[tuple[str, str], ...] = ()
    token: Token | None = None


def of_body(name: str, body: bytes | str, code: str, *says: str, status: int = 422) -> Case:
    """An order with this body."""
    content = body if isinstance(body, bytes) else body.encode()
    return Case(name, "POST", "/orders", status, code, says, content)


def of_fields(name: str, code: str, *says: str, **fields: Any) -> Case:
    """An order that would be right without these fields."""
    return of_body(name, json.dumps({"card": "pikachu", "side": "buy", "price": "5.50", **fields}), code, *says)


def of_price(name: str, price: str, got: str, code: str = "invalid_price") -> Case:
    """An order with this price, as it stands in the JSON."""
    said = f"{PRICE}{got}" if code == "invalid_price" else got
    return of_body(name, f'{{"card":"pikachu","side":"buy","price":{price}}}', code, said)


def of_quantity(name: str, quantity: str, got: str) -> Case:
    """An order with this quantity, as it stands in the JSON."""
    body = f'{{"card":"pikachu","side":"buy","price":5,"quantity":{quantity}}}'
    return of_body(name, body, "invalid_quantity", f"{QUANTITY}{got}")


def of_path(name: str, path: str, status: int, code: str, *says: str, method: str = "GET") -> Case:
    """A request without a body."""
    return Case(name, method, path, status, code, says)


def of_prefer(name: str, prefer: str, got: str) -> Case:
    """A right order that wants to wait in a wrong way."""
    body = b'{"card":"pikachu","side":"buy","price":5}'
    return Case(name, "POST", "/orders", 422, "invalid_prefer", (f"{WAIT}{got}",), body, (("prefer", prefer),))


def of_token(name: str, code: str, says: str, token: Token, path: str = "/orders") -> Case:
    """A request with this Authorization header."""
    return Case(name, "GET", path, 401, code, (says,), token=token)


def of_key(name: str, body: str, status: int, code: str, *says: str) -> Case:
    """A request for a token."""
    return Case(name, "POST", "/auth/token", status, code, says, body.encode())


def signed(**changes: Any) -> Token:
    """A token with some other claims, or signed in another way."""

    def make(exchange: ExchangeServer) -> str:
        now = int(time.time())
        claims: dict[str, Any] = {"iss": "tcgx", "sub": "1", "role": "trader", "iat": now, "exp": now + 60}
        secret = changes.pop("secret", exchange.settings.jwt_secret)
        algorithm = changes.pop("algorithm", "HS256")
        claims |= changes
        claims = {name: value for name, value in claims.items() if value is not None}
        return "Bearer " + jwt.encode(claims, secret, algorithm)

    return make


def text(value: str | None) -> Token:
    """This header, or none."""
    return lambda _: value


def swapped_role(exchange: ExchangeServer) -> str:
    """A trader's token whose claims say admin, with the signature that it had."""
    header, _, signature = tokens.issue_token(exchange.settings.jwt_secret, CALLER, "trader", 60).split(".")
    claims = tokens.issue_token(exchange.settings.jwt_secret, CALLER, "admin", 60).split(".")[1]
    return f"Bearer {header}.{claims}.{signature}"


BODIES = [
    of_body("no body", b"", "invalid_json", "the body is empty"),
    of_body("only a space", b" ", "invalid_json", "the body is empty"),
    of_body("half an object", b'{"card":', "invalid_json", "the body is not JSON"),
    of_body("two objects", b"{}{}", "invalid_json", "the body is not JSON"),
    of_body("comma at the end", b'{"card":"pikachu",}', "invalid_json", "the body is not JSON"),
    of_body("single quotes", b"{'card':'pikachu'}", "invalid_json", "the body is not JSON"),
    of_body("a form", b"card=pikachu&side=buy&price=5", "invalid_json", "the body is not JSON"),
    of_body("an array", b"[]", "invalid_body", "the body must be a JSON object"),
    of_body("an array of orders", b'[{"card":"pikachu"}]', "invalid_body", "the body must be a JSON object"),
    of_body("a string", b'"pikachu"', "invalid_body", "the body must be a JSON object"),
    of_body("a number", b"5", "invalid_body", "the body must be a JSON object"),
    of_body("null", b"null", "invalid_body", "the body must be a JSON object"),
    of_body("true", b"true", "invalid_body", "the body must be a JSON object"),
    of_body("an empty object", b"{}", "missing_field", "card is required; side is required; price is required"),
    of_body("invalid utf-8", b"\xff\xfe", "invalid_json", "the body is not JSON"),
    of_body("invalid utf-8 in a text", b'{"card":"pika\xffchu"}', "invalid_json", "the body is not JSON"),
    of_body("surrogate in utf-8", b'{"card":"\xed\xa0\x80"}', "invalid_json", "the body is not JSON"),
    of_body("utf-16", '{"card":"pikachu","side":"buy","price":5}'.encode("utf-16"), "invalid_json", "not JSON"),
    of_body("utf-32", '{"card":"pikachu","side":"buy","price":5}'.encode("utf-32"), "invalid_json", "not JSON"),
    of_body("byte order mark", b'\xef\xbb\xbf{"card":"pikachu","side":"buy","price":5}', "invalid_json", "not JSON"),
    of_body("null byte in a text", b'{"card":"pika\x00chu"}', "invalid_json", "the body is not JSON"),
    of_body("null byte after it", b'{"card":"pikachu","side":"buy","price":5}\x00', "invalid_json", "not JSON"),
    of_body("lone surrogate as card", '{"card":"\\ud800","side":"buy","price":5}', "unknown_card", LONE_SURROGATE),
    of_body("lone surrogate as name", '{"\\ud800":1}', "unknown_field", f"{LONE_SURROGATE} is not a field"),
    of_body("lone surrogate as price", '{"price":"\\udfff"}', "invalid_price", f"{PRICE}'\\udfff'"),
    of_body("100,000 arrays deep", b"[" * 100_000, "invalid_json", "the body is not JSON"),
    of_body("50,000 objects deep", b'{"a":' * 50_000, "invalid_json", "the body is not JSON"),
    of_body("900 arrays deep", b'{"x":' + b"[" * 900 + b"]" * 900 + b"}", "unknown_field", "x is not a field"),
    of_body("too large", b" " * (BODY_BYTES_MAX + 1), "body_too_large", "more than 1000000 bytes", status=413),
]

PRICES = [
    of_price("price 5.505", "5.505", "5.505"),
    of_price("price '5.505'", '"5.505"', "'5.505'"),
    of_price("price 5.5 and a trace", f"5.5{'0' * 40}1", "5.50000000"),
    of_price("price NaN", "NaN", "NaN is not a JSON number", "invalid_json"),
    of_price("price Infinity", "Infinity", "Infinity is not a JSON number", "invalid_json"),
    of_price("price -Infinity", "-Infinity", "-Infinity is not a JSON number", "invalid_json"),
    of_price("price 'NaN'", '"NaN"', "'NaN'"),
    of_price("price 'Infinity'", '"Infinity"', "'Infinity'"),
    of_price("price 1e400", "1e400", "1E+400"),
    of_price("price -1e400", "-1e400", "-1E+400"),
    of_price("price 1e1000000", "1e1000000", "1E+1000000"),
    of_price("price 1e-1000000", "1e-1000000", "1E-1000000"),
    of_price("price with a huge exponent", "1e99999999999999999999", "is too large", "invalid_json"),
    of_price("price of 5000 digits", "9" * 5_000, "'9999"),
    of_price("price of 5000 negative digits", "-" + "9" * 5_000, "'-9999"),
    of_price("price as text of 5000 digits", f'"{"9" * 5_000}"', "'9999"),
    of_price("price 0", "0", "0"),
    of_price("price '0.00'", '"0.00"', "'0.00'"),
    of_price("price -0", "-0", "0"),
    of_price("price -5", "-5", "-5"),
    of_price("price '-5.00'", '"-5.00"', "'-5.00'"),
    of_price("price 0.99", "0.99", "0.99"),
    of_price("price 10.01", "10.01", "10.01"),
    of_price("price '10.01'", '"10.01"', "'10.01'"),
    of_price("price 550, in cents", "550", "550"),
    of_price("price true", "true", "true"),
    of_price("price null", "null", "null"),
    of_price("price []", "[]", "an array"),
    of_price("price [5]", "[5]", "an array"),
    of_price("price {}", "{}", "an object"),
    of_price("price ''", '""', "''"),
    of_price("price ' 5'", '" 5"', "' 5'"),
    of_price("price '+5'", '"+5"', "'+5'"),
    of_price("price '5,50'", '"5,50"', "'5,50'"),
    of_price("price '$5.50'", '"$5.50"', "'$5.50'"),
    of_price("price '5e0'", '"5e0"', "'5e0'"),
    of_price("price '0x5'", '"0x5"', "'0x5'"),
    of_price("price in Arabic digits", '"\u0665"', "'\u0665'"),
    of_price("price 05", "05", "the body is not JSON", "invalid_json"),
    of_price("price .5", ".5", "the body is not JSON", "invalid_json"),
    of_price("price 5.", "5.", "the body is not JSON", "invalid_json"),
    of_price("price 0x10", "0x10", "the body is not JSON", "invalid_json"),
]

QUANTITIES = [
    of_quantity("quantity 0", "0", "0"),
    of_quantity("quantity -1", "-1", "-1"),
    of_quantity("quantity 10001", "10001", "10001"),
    of_quantity("quantity 1.5", "1.5", "1.5"),
    of_quantity("quantity 1 and a trace", f"1.{'0' * 40}1", "1.000"),
    of_fields("quantity '1'", "invalid_quantity", "must be a number, not a string: a whole number", quantity="1"),
    of_quantity("quantity true", "true", "true"),
    of_quantity("quantity null", "null", "null"),
    of_quantity("quantity []", "[]", "an array"),
    of_quantity("quantity {}", "{}", "an object"),
    of_quantity("quantity 1e400", "1e400", "1E+400"),
    of_quantity("quantity 1e1000000", "1e1000000", "1E+1000000"),
    of_quantity("quantity of 5000 digits", "9" * 5_000, "'9999"),
    of_quantity("quantity 2^63", str(2**63), str(2**63)),
]

FIELDS = [
    of_fields("card unknown", "unknown_card", f"{CARDS}'mewtwo'", card="mewtwo"),
    of_fields("card in capitals", "unknown_card", f"{CARDS}'Pikachu'", card="Pikachu"),
    of_fields("card with a space", "unknown_card", f"{CARDS}'pikachu '", card="pikachu "),
    of_fields("card empty", "unknown_card", f"{CARDS}''", card=""),
    of_fields("card null", "unknown_card", f"{CARDS}null", card=None),
    of_fields("card a number", "unknown_card", f"{CARDS}1", card=1),
    of_fields("card an array", "unknown_card", f"{CARDS}an array", card=["pikachu"]),
    of_fields("card of 5000 letters", "unknown_card", f"{CARDS}'xxxx", card="x" * 5_000),
    of_fields("card with a hash tag", "unknown_card", f"{CARDS}'{{pikachu}}:orders'", card="{pikachu}:orders"),
    of_fields("side unknown", "invalid_side", "side must be one of buy, sell, got 'hold'", side="hold"),
    of_fields("side in capitals", "invalid_side", "side must be one of buy, sell, got 'BUY'", side="BUY"),
    of_fields("side null", "invalid_side", "side must be one of buy, sell, got null", side=None),
    of_fields("side true", "invalid_side", "side must be one of buy, sell, got true", side=True),
    of_fields("client_order_id empty", "invalid_client_order_id", f"{CLIENT_ORDER_ID}''", client_order_id=""),
    of_fields("client_order_id long", "invalid_client_order_id", CLIENT_ORDER_ID, client_order_id="x" * 65),
    of_fields("client_order_id spaced", "invalid_client_order_id", f"{CLIENT_ORDER_ID}'a b'", client_order_id="a b"),
    of_fields("client_order_id quoted", "invalid_client_order_id", CLIENT_ORDER_ID, client_order_id='a"b'),
    of_fields("client_order_id newline", "invalid_client_order_id", CLIENT_ORDER_ID, client_order_id="a\n"),
    *(
        of_fields(
            f"client_order_id {dots}", "invalid_client_order_id", f"{CLIENT_ORDER_ID}'{dots}'", client_order_id=dots
        )
        for dots in (".", "..", "...", "." * 64)
    ),
    of_fields("client_order_id comma", "invalid_client_order_id", CLIENT_ORDER_ID, client_order_id="a,b"),
    of_fields("client_order_id null byte", "invalid_client_order_id", CLIENT_ORDER_ID, client_order_id="a\0"),
    of_fields("client_order_id accent", "invalid_client_order_id", f"{CLIENT_ORDER_ID}'é'", client_order_id="é"),
    of_fields("client_order_id number", "invalid_client_order_id", f"{CLIENT_ORDER_ID}5", client_order_id=5),
    of_fields("client_order_id array", "invalid_client_order_id", f"{CLIENT_ORDER_ID}an array", client_order_id=[]),
    of_fields("time_in_force unknown", "invalid_time_in_force", "one of gtc, ioc, fok, got 'day'", time_in_force="day"),
    of_fields("time_in_force capitals", "invalid_time_in_force", "got 'GTC'", time_in_force="GTC"),
    of_fields("time_in_force null", "invalid_time_in_force", "got null", time_in_force=None),
    of_fields("time_in_force a number", "invalid_time_in_force", "got 1", time_in_force=1),
    of_fields("unknown field", "unknown_field", "trader_id is not a field of this request", trader_id=2),
    of_fields("misspelled field", "unknown_field", "Quantity is not a field of this request", Quantity=2),
    of_fields("long unknown field", "unknown_field", f"{'x' * 80} is not", **{"x" * 5_000: 1}),
    of_body(
        "price twice",
        '{"card":"pikachu","side":"buy","price":5,"price":6}',
        "duplicate_field",
        "price must be given once",
    ),
    of_body(
        "price twice beside an id that looks like a name",
        '{"card":"pikachu","side":"buy","price":5,"price":6,"client_order_id":"quantity"}',
        "duplicate_field",
        "price must be given once",
    ),
    of_body(
        "price and quantity twice beside an id that looks like a name",
        '{"card":"pikachu","side":"buy","price":5,"price":6,"quantity":1,"quantity":2,"client_order_id":"time_in_force"}',
        "duplicate_field",
        "price must be given once; quantity must be given once",
    ),
    of_body(
        "price twice, once with an escape",
        '{"card":"pikachu","side":"buy","price":5,"pr\\u0069ce":6}',
        "duplicate_field",
        "price must be given once",
    ),
    of_body(
        "card twice, the same",
        '{"card":"pikachu","card":"pikachu","side":"buy","price":5}',
        "duplicate_field",
        "card must be given once",
    ),
    of_body(
        "client_order_id twice, once null",
        '{"card":"pikachu","side":"buy","price":5,"client_order_id":null,"client_order_id":"a"}',
        "duplicate_field",
        "client_order_id must be given once",
    ),
    of_body(
        "every field wrong at once",
        '{"zzz":1,"card":"mew","side":1,"price":0,"quantity":0,"client_order_id":"!","time_in_force":"x"}',
        "unknown_field",
        "zzz is not a field of this request; ",
        f"{CARDS}'mew'; ",
        "side must be one of buy, sell, got 1; ",
        f"{PRICE}0; ",
        f"{QUANTITY}0; ",
        f"{CLIENT_ORDER_ID}'!'; ",
        "time_in_force must be one of gtc, ioc, fok, got 'x'",
    ),
    of_body("wrong and missing", '{"price":0}', "invalid_price", f"{PRICE}0; card is required; side is required"),
    of_body(
        "ten thousand unknown fields",
        json.dumps({f"x{number}": number for number in range(10_000)}),
        "unknown_field",
        "x99 is not a field of this request; body has more that is wrong; card is required",
    ),
]

PREFERENCES = [
    of_prefer("wait=11", "wait=11", "'11'"),
    of_prefer("wait=x", "wait=x", "'x'"),
    of_prefer("wait=-1", "wait=-1", "'-1'"),
    of_prefer("wait=nothing", "wait=", "''"),
    of_prefer("wait=nan", "wait=nan", "'nan'"),
    of_prefer("wait=1e1", "wait=1e1", "'1e1'"),
    of_prefer("wait=10.001", "wait=10.001", "'10.001'"),
    of_prefer("wait quoted", 'wait="99"', "'99'"),
    of_prefer("wait after another preference", "respond-async, wait=99", "'99'"),
    of_prefer("wait of 5000 digits", f"wait={'9' * 5_000}", "'9999"),
]

TOKENS = [
    of_token("no token", "token_missing", "send an access token", text(None)),
    of_token("only Bearer", "token_invalid", "must be `Bearer` and an access token", text("Bearer")),
    of_token("basic authentication", "token_invalid", "must be `Bearer`", text("Basic dHJhZGVyOnBhc3M=")),
    of_token("token without Bearer", "token_invalid", "must be `Bearer`", lambda x: x.bearer(1)["authorization"][7:]),
    of_token("token of one part", "token_invalid", "the access token is not valid", text("Bearer x")),
    of_token("token of dots", "token_invalid", "the access token is not valid", text("Bearer ...")),
    of_token("token that is no base64", "token_invalid", "the access token is not valid", text("Bearer !.!.!")),
    of_token("token and more", "token_invalid", "is not valid", lambda x: x.bearer(1)["authorization"] + "x"),
    of_token("token of 20,000 letters", "token_invalid", "is not valid", text("Bearer " + "x" * 20_000)),
    of_token("expired", "token_expired", "the access token has expired", signed(exp=1)),
    of_token("other secret", "token_invalid", "Signature verification failed", signed(secret="x" * 32)),
    of_token("algorithm none", "token_invalid", "is not valid", signed(secret="", algorithm="none")),
    of_token("other algorithm", "token_invalid", "is not valid", signed(algorithm="HS512")),
    of_token("other issuer", "token_invalid", "is not valid", signed(iss="somebody")),
    of_token("no issuer", "token_invalid", "is not valid", signed(iss=None)),
    of_token("no end", "token_invalid", "is not valid", signed(exp=None)),
    of_token("nobody", "token_invalid", "is not valid", signed(sub=None)),
    of_token("a name for a number", "token_invalid", "is not valid", signed(sub="ash")),
    of_token("wrong role", "token_invalid", "role 'boss' is unknown", signed(role="boss")),
    of_token("no role", "token_invalid", "role None is unknown", signed(role=None)),
    of_token("role changed, signature kept", "token_invalid", "Signature verification failed", swapped_role),
    of_token("no token for one order", "token_missing", "send an access token", text(None), "/orders/pikachu-1"),
    of_token("no token for the history", "token_missing", "send an access token", text(None), "/history/orders"),
]

KEYS = [
    of_key("key: no body", "", 422, "invalid_json", "the body is empty"),
    of_key("key: nothing given", "{}", 422, "missing_field", "trader_id is required; api_key is required"),
    *(
        of_key(
            f"key: trader {name}",
            f'{{"trader_id":"{text}","api_key":"x"}}',
            422,
            "invalid_trader_id",
            f"trader_id must be a whole number from 1 to 2147483647, got '{text}'",
        )
        for name, text in [
            ("as a word", "one"),
            ("as an empty text", ""),
            ("as text, 0", "0"),
            ("as text, negative", "-1"),
            ("as text with a fraction", "1.0"),
            ("as text with a space", " 1"),
            ("as text, 2^31", "2147483648"),
            ("as text in Arabic digits", "\u0661"),
        ]
    ),
    of_key("key: trader 0", '{"trader_id":0,"api_key":"x"}', 422, "invalid_trader_id", "got 0"),
    of_key("key: trader true", '{"trader_id":true,"api_key":"x"}', 422, "invalid_trader_id", "got true"),
    of_key("key: trader 2^31", '{"trader_id":2147483648,"api_key":"x"}', 422, "invalid_trader_id", "got 2147483648"),
    of_key("key: a number", '{"trader_id":1,"api_key":5}', 422, "invalid_api_key", "1 to 200 characters, got 5"),
    of_key("key: empty", '{"trader_id":1,"api_key":""}', 422, "invalid_api_key", "1 to 200 characters, got ''"),
    of_key("key: too long", f'{{"trader_id":1,"api_key":"{"x" * 201}"}}', 422, "invalid_api_key", "200 characters"),
    of_key("key: unknown field", '{"trader_id":1,"api_key":"x","a":1}', 422, "unknown_field", "a is not a field"),
    of_key("key: wrong", '{"trader_id":1,"api_key":"x"}', 401, "invalid_credentials", "trader 1 does not exist or"),
    of_key("key: lone surrogate", '{"trader_id":1,"api_key":"\\ud800"}', 401, "invalid_credentials", "trader 1 does"),
    of_key("key: unknown trader", '{"trader_id":99999,"api_key":"x"}', 401, "invalid_credentials", "trader 99999 does"),
]

NO_ORDERS = [
    ("another trader's", "OTHERS"),
    ("never entered", "pikachu-999999"),
    ("of no card", "mew-1"),
    ("no number", "pikachu-"),
    ("no card", "-1"),
    ("only a number", "1"),
    ("a word", "x"),
    ("sequence 0", "pikachu-0"),
    ("leading zero", "pikachu-01"),
    ("negative", "pikachu--1"),
    ("of 13 digits", "pikachu-1000000000000"),
    ("of 5000 digits", f"pikachu-{'9' * 5_000}"),
    ("in Arabic digits", "pikachu-%D9%A1"),
    ("with a fraction", "pikachu-1.0"),
    ("with an exponent", "pikachu-1e0"),
    ("with a space", "pikachu-1%20"),
    ("in capitals", "PIKACHU-1"),
    ("a trade's", "pikachu-t1"),
    ("a null byte", "%00"),
    ("with a null byte", "pikachu-1%00"),
    ("not utf-8", "pikachu-%ff"),
    ("a surrogate", "%ED%A0%80"),
    ("with a line break", "pikachu-1%0d%0aset-cookie:x"),
    ("SQL", "pikachu-1'%20OR%201=1--"),
    ("a wildcard", "*"),
]

PATHS = [
    *(
        of_path(f"order {name}", f"/orders/{path}", 404, "order_not_found", "there is no order")
        for name, path in NO_ORDERS
    ),
    *(
        of_path(f"cancel order {name}", f"/orders/{path}", 404, "order_not_found", "there is no order", method="DELETE")
        for name, path in NO_ORDERS
    ),
    of_path("client id unknown", "/orders/by-client-id/none", 404, "order_not_found", "there is no order 'none'"),
    of_path("client id null byte", "/orders/by-client-id/%00", 404, "order_not_found", "there is no order"),
    of_path("client id too long", f"/orders/by-client-id/{'x' * 65}", 404, "order_not_found", "there is no order"),
    of_path("client id not utf-8", "/orders/by-client-id/%ff", 404, "order_not_found", "there is no order"),
    of_path("another trader's client id", "/orders/by-client-id/others", 404, "order_not_found", "no order 'others'"),
    of_path("unknown path", "/nope", 404, "not_found", "there is nothing at /nope"),
    of_path("unknown file of the page", "/web/nope", 404, "not_found", "there is nothing at /web/nope"),
    of_path("a card alone", "/cards/pikachu", 404, "not_found", "there is nothing at /cards/pikachu"),
    of_path("no client id", "/orders/by-client-id", 404, "not_found", "there is nothing at"),
    of_path("too many parts", "/orders/a/b/c", 404, "not_found", "there is nothing at /orders/a/b/c"),
    of_path("a path of 20,000 letters", f"/{'x' * 20_000}", 404, "not_found", "there is nothing at /xxxx"),
    of_path("unknown page of the schema", "/schema/nope", 404, "not_found", "there is nothing at"),
    of_path("unknown asset", "/schema/assets/nope", 404, "not_found", "there is nothing at"),
    of_path(
        "an asset outside", "/schema/assets/..%2f..%2f..%2f..%2fetc/passwd", 404, "not_found", "there is nothing at"
    ),
    of_path("book of no card", "/cards/mew/book", 404, "unknown_card", "there is no card 'mew'; there are pikachu"),
    of_path("book of a card in capitals", "/cards/Pikachu/book", 404, "unknown_card", "there is no card 'Pikachu'"),
    of_path("book of a null byte", "/cards/%00/book", 404, "unknown_card", "there is no card"),
    of_path("book of a folder", "/cards/%2e%2e/book", 404, "unknown_card", "there is no card '..'"),
    of_path("book of a long card", f"/cards/{'x' * 5_000}/book", 404, "unknown_card", "there is no card 'xxxx"),
    of_path("trades of no card", "/cards/mew/trades", 404, "unknown_card", "there is no card 'mew'"),
    of_path("trades of no card, history", "/history/trades?card=mew", 422, "unknown_card", f"{CARDS}'mew'"),
    of_path("trades of nothing, history", "/history/trades", 422, "missing_parameter", "card is required"),
    of_path("orders of no card, history", "/history/orders?card=mew", 422, "unknown_card", f"{CARDS}'mew'"),
    of_path("orders of a null byte, history", "/history/orders?card=%00", 422, "unknown_card", CARDS),
    of_path("cancel on no card", "/orders?card=mew", 422, "unknown_card", f"{CARDS}'mew'", method="DELETE"),
    of_path("cancel on an empty card", "/orders?card=", 422, "unknown_card", f"{CARDS}''", method="DELETE"),
    of_path("limit 0", "/orders?limit=0", 422, "invalid_limit", f"{LIMIT_500}'0'"),
    of_path("limit 51", "/orders?limit=51", 422, "invalid_limit", "1 to 50, or to 500 with status=open, got '51'"),
    of_path("limit 501, open", "/orders?status=open&limit=501", 422, "invalid_limit", f"{LIMIT_500}'501'"),
    of_path("limit 501, fills", "/fills?limit=501", 422, "invalid_limit", f"{LIMIT_500}'501'"),
    of_path("status", "/orders?status=closed", 422, "invalid_status", "status must be open, got 'closed'"),
    of_path("status empty", "/orders?status=", 422, "invalid_status", "status must be open, got ''"),
    of_path("side", "/orders?side=up", 422, "invalid_side", "side must be one of buy, sell, got 'up'"),
    of_path(
        "side in capitals", "/orders?status=open&side=BUY", 422, "invalid_side", "must be one of buy, sell, got 'BUY'"
    ),
    of_path("orders of no card", "/orders?card=mew", 422, "unknown_card", f"{CARDS}'mew'"),
    of_path("all filters, the status", FILTERS, 422, "invalid_status", "status must be open, got 'closed'"),
    of_path("all filters, the card", FILTERS, 422, "invalid_status", f"{CARDS}'mew'"),
    of_path("all filters, the side", FILTERS, 422, "invalid_status", "side must be one of buy, sell, got 'up'"),
    of_path("fills of no card", "/fills?card=mew", 422, "unknown_card", f"{CARDS}'mew'"),
    of_path("fills of no order", "/fills?order_id=x", 422, "invalid_order_id", "must be an order_id of yours"),
    of_path("limit -1", "/orders?limit=-1", 422, "invalid_limit", f"{LIMIT_500}'-1'"),
    of_path("limit x", "/orders?limit=x", 422, "invalid_limit", f"{LIMIT_500}'x'"),
    of_path("limit 1.5", "/orders?limit=1.5", 422, "invalid_limit", f"{LIMIT_500}'1.5'"),
    of_path("limit empty", "/orders?limit=", 422, "invalid_limit", f"{LIMIT_500}''"),
    of_path("limit of 5000 digits", f"/orders?limit={'9' * 5_000}", 422, "invalid_limit", f"{LIMIT_500}'9999"),
    of_path("limit not utf-8", "/orders?limit=%ff", 422, "invalid_limit", LIMIT_500),
    of_path("limit 501, history", "/history/orders?limit=501", 422, "invalid_limit", "from 1 to 500, got '501'"),
    of_path("limit 0, trades", "/cards/pikachu/trades?limit=0", 422, "invalid_limit", f"{LIMIT_50}'0'"),
    of_path("depth 0", "/cards/pikachu/book?depth=0", 422, "invalid_depth", "number from 1 to 1000, got '0'"),
    of_path("depth 1001", "/cards/pikachu/book?depth=1001", 422, "invalid_depth", "number from 1 to 1000, got '1001'"),
    of_path("depth NaN", "/cards/pikachu/book?depth=NaN", 422, "invalid_depth", "number from 1 to 1000, got 'NaN'"),
    *(
        of_path(f"before {name}, {path}", f"/{path}before={value}", 422, "invalid_before", "before must be an order_id")
        for path in ("history/orders?", "orders?", "orders?status=open&")
        for name, value in [
            ("a word", "x"),
            ("no number", "pikachu-"),
            ("no card", "-1"),
            ("a null byte", "%00-1"),
            ("with a null byte", "pikachu-1%00"),
            ("empty", ""),
            ("sequence 0", "pikachu-0"),
            ("a trade's", "pikachu-t1"),
            ("in Arabic digits", "pikachu-%D9%A1"),
            ("of 5000 digits", f"pikachu-{'9' * 5_000}"),
            ("not archived", "pikachu-999999"),
            ("of no card", "mew-1"),
        ]
    ),
    *(
        of_path(f"fills before {name}", f"/fills?before={value}", 422, "invalid_before", "must be the `next` of a page")
        for name, value in [
            ("a word", "x"),
            ("empty", ""),
            ("a null byte", "%00"),
            ("an order", "pikachu-1"),
            ("a trade", "pikachu-t1"),
            ("a time", "2026-11-22T23:53:06.123Z"),
            ("no time of day", "2026-11-22T24:61:06.123Z~pikachu-t17~taker"),
            ("no day", "2026-02-30T23:53:06.123Z~pikachu-t17~taker"),
            ("the year 0", "0000-01-01T00:00:00.000Z~pikachu-t17~taker"),
            ("trade 0", "2026-11-22T23:53:06.123Z~pikachu-t0~taker"),
            ("neither maker nor taker", "2026-11-22T23:53:06.123Z~pikachu-t17~both"),
            ("in Arabic digits", "2026-11-22T23:53:06.12%D9%A1Z~pikachu-t17~taker"),
        ]
    ),
    *(
        of_path(
            f"trades before {name}",
            f"/history/trades?card=pikachu&before={value}",
            422,
            "invalid_before",
            "before must be a trade_id",
        )
        for name, value in [("an order", "pikachu-1"), ("another card's", "squirtle-t1"), ("a null byte", "%00-t1")]
    ),
]

METHODS = [
    ("PUT", "/orders", "POST"),
    ("PATCH", "/orders", "DELETE"),
    ("TRACE", "/orders", "GET"),
    ("POST", "/orders/pikachu-1", "DELETE"),
    ("DELETE", "/orders/by-client-id/x", "GET"),
    ("POST", "/cards", "GET"),
    ("DELETE", "/cards/pikachu/book", "GET"),
    ("GET", "/auth/token", "POST"),
    ("POST", "/health/live", "GET"),
    ("POST", "/history/orders", "GET"),
]

MISTAKES = [
    of_path("cards for card", "/orders?cards=mew", 422, "unknown_parameter", "it takes card", method="DELETE"),
    of_path("status of a list", "/orders?nonsense=open", 422, "unknown_parameter", "nonsense is not a parameter"),
    of_path("card twice", "/orders?card=mew&card=mew", 422, "duplicate_parameter", "given once", method="DELETE"),
    of_body("curl without -d", b"", "invalid_json", "the body is empty: send a JSON object"),
    of_fields("a number as text", "invalid_quantity", "quantity must be a number, not a string", quantity="1"),
    of_token("only an API key", "token_missing", "POST /auth/token gives one for a trader's API key", text(None)),
    Case(
        "an API key in a header",
        "GET",
        "/orders",
        401,
        "token_missing",
        ("POST /auth/token gives one",),
        headers=(("x-api-key", "k"),),
        token=text(None),
    ),
    of_path("metrics", "/metrics", 404, "not_found", "there are /health, /health/live and /health/ready"),
    of_path("client id of dots", "/orders/by-client-id/%2E%2E", 404, "order_not_found", "no order '..'", "dots alone"),
    of_path("client id of a dot", "/orders/by-client-id/%2E", 404, "order_not_found", "no order '.'", "dots alone"),
]

TABLE = [*BODIES, *PRICES, *QUANTITIES, *FIELDS, *PREFERENCES, *TOKENS, *KEYS, *PATHS, *MISTAKES]

MALFORMED = {
    "no host": (b"GET /cards HTTP/1.1\r\n\r\n", 400),
    "two hosts": (b"GET /cards HTTP/1.1\r\nhost: x\r\nhost: x\r\n\r\n", 400),
    "no version": (b"GET /orders\nhost: x\r\n\r\n", 400),
    "bare line feeds": (b"GET /cards HTTP/1.1\nhost: x\n\n", 400),
    "no HTTP": (b"hello\r\n\r\n", 400),
    "null byte in the path": (b"GET /orders/\x00 HTTP/1.1\r\nhost: x\r\n\r\n", 400),
    "raw utf-8 in the path": ("GET /orders/é HTTP/1.1\r\nhost: x\r\n\r\n".encode(), 400),
    "unknown method": (b"FETCH /cards HTTP/1.1\r\nhost: x\r\n\r\n", 400),
    "length that is no number": (b"POST /orders HTTP/1.1\r\nhost: x\r\ncontent-length: x\r\n\r\n", 400),
    "negative length": (b"POST /orders HTTP/1.1\r\nhost: x\r\ncontent-length: -1\r\n\r\n", 400),
    "two lengths": (b"POST /orders HTTP/1.1\r\nhost: x\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\n", 400),
    "HTTP/2 preface": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400),
    "path of 200,000 letters": (b"GET /" + b"x" * 200_000 + b" HTTP/1.1\r\nhost: x\r\n\r\n", 431),
    "header of 200,000 letters": (b"GET /cards HTTP/1.1\r\nhost: x\r\nx: " + b"y" * 200_000 + b"\r\n\r\n", 431),
    "20,000 headers": (b"GET /cards HTTP/1.1\r\nhost: x\r\n" + b"x: yz\r\n" * 30_000 + b"\r\n", 431),
    "header without an end": (b"GET /cards HTTP/1.1\r\nhost: x\r\nx: " + b"y" * 400_000, 431),
}


@pytest.fixture(scope="module")
def others(exchange: ExchangeServer) -> Iterator[str]:
    """The id of an order that is another trader's."""
    body = {"card": "squirtle", "side": "buy", "price": "1.00", "client_order_id": "others"}
    client = exchange.client(OTHER)
    placed = client.post("/orders", json=body, headers={"prefer": "wait=5"})
    assert placed.status_code == 200
    yield str(placed.json()["order_id"])
    assert client.delete("/orders", headers={"prefer": "wait=5"}).status_code == 200


@pytest.fixture
def unchanged(exchange: ExchangeServer) -> Iterator[None]:
    """Fails if a test appended to a log."""
    before = exchange.sequences()
    yield
    assert exchange.sequences() == before


def problem_of(answer: httpx.Response) -> dict[str, Any]:
    """The body of an answer, which must be a problem."""
    assert answer.headers["content-type"] == "application/problem+json"
    problem: dict[str, Any] = answer.json()
    assert problem["status"] == answer.status_code
    assert problem["title"]
    assert 0 < len(problem["detail"]) < 10_000
    return problem


@pytest.mark.usefixtures("unchanged")
@pytest.mark.parametrize("case", TABLE, ids=lambda case: case.name)
def test_a_wrong_request_is_told_what_is_wrong(exchange: ExchangeServer, others: str, case: Case) -> None:
    token = exchange.bearer(CALLER)["authorization"] if case.token is None else case.token(exchange)
    headers = [*case.headers, *([("authorization", token)] if token is not None else [])]

    answer = exchange.http.request(case.method, case.path.replace("OTHERS", others), content=case.body, headers=headers)

    assert answer.status_code == case.status, answer.text
    problem = problem_of(answer)
    assert problem["code"] == case.code
    for said in case.says:
        assert said in problem["detail"]
    if case.status == 422 and case.code not in ("invalid_json", "invalid_body"):
        assert problem["errors"]
        for error in problem["errors"]:
            assert f"{error['field']} {error['rule']}" in problem["detail"]
    assert ("www-authenticate" in answer.headers) == (case.status == 401)


@pytest.mark.usefixtures("unchanged")
@pytest.mark.parametrize(("method", "path", "allowed"), METHODS, ids=lambda value: value)
def test_a_wrong_method_is_told_which_are_allowed(
    exchange: ExchangeServer, method: str, path: str, allowed: str
) -> None:
    answer = exchange.http.request(method, path, headers=exchange.bearer(CALLER))

    assert answer.status_code == 405
    assert problem_of(answer)["code"] == "method_not_allowed"
    assert allowed in answer.headers["allow"].split(", ")
    assert method not in answer.headers["allow"].split(", ")


@pytest.mark.usefixtures("unchanged")
@pytest.mark.parametrize("name", MALFORMED)
def test_what_is_no_http_is_answered_with_a_problem(exchange: ExchangeServer, name: str) -> None:
    request, status = MALFORMED[name]

    answer = exchange.raw(request)

    assert answer.status == status
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.headers["connection"] == "close"
    problem = answer.json()
    assert problem["status"] == status
    assert problem["code"] == {400: "malformed_request", 431: "headers_too_large"}[status]
    assert problem["title"]
    assert problem["detail"]


@pytest.mark.parametrize(("path", "place"), [("/docs", "/docs/index.html"), ("/openapi.json", "/schema/openapi.json")])
def test_who_looks_for_the_documents_is_sent_there(exchange: ExchangeServer, path: str, place: str) -> None:
    answer = exchange.http.get(path)

    assert answer.status_code == 302
    assert answer.headers["location"] == place
    assert exchange.http.get(place).status_code == 200


def test_a_trader_id_may_be_text(exchange: ExchangeServer) -> None:
    answer = exchange.http.post("/auth/token", json={"trader_id": str(CALLER), "api_key": exchange.api_key(CALLER)})

    assert answer.status_code == 200
    bearer = {"authorization": f"Bearer {answer.json()['access_token']}"}
    assert exchange.http.get("/orders", headers=bearer).status_code == 200


SEED = 20_261_126
ODD = [
    *(
        b"\xff",
        b"\x00",
        b"\\ud800",
        b"\\udc00x",
        b'"\\ud83d"',
        b"\xed\xa0\x80",
        b"\xef\xbb\xbf",
        "\u202e\U0001f600".encode(),
    ),
    *(b'"', b"\\", b"{", b"}", b"[", b"]", b":", b",", b"\r\n", b" " * 100, b"{}" * 50, b"1," * 1_100),
    *(b"0", b"-", b"1e999999", b"1E-999999", b"9" * 400, b"true", b"null", b"NaN", b"Infinity"),
    *(b'"orders":', b'"price":', b'"card":', b'"api_key":', b'"trader_id":', b'"x":{},', b'"client_order_id":"..",'),
    *(b"[" * 1_100, b"]" * 1_100, b'{"a":' * 1_100),
]
WORD = re.compile(rb'"[^"]*":?|[0-9.]+|[]{}[,]')
RIGHT = {
    "/orders": b'{"card":"mew","side":"buy","price":"5.50","quantity":1,"client_order_id":"odd"}',
    "/orders/batch": b'{"orders":[{"card":"mew","side":"buy","price":5},{"card":"mew","side":"sell","price":"5"}]}',
    "/auth/token": b'{"trader_id":1,"api_key":"no key"}',
}


def odd_body(choose: random.Random, body: bytes) -> bytes:
    """A body with something odd within it or in place of a word of it; more often once than often."""
    for _ in range(choose.choice([1, 1, 1, 2, 3])):
        start = end = choose.randint(0, len(body))
        words = [*WORD.finditer(body)]
        if words and choose.random() < 0.7:
            start, end = choose.choice(words).span()
        body = body[:start] + choose.choice(ODD) + body[end:]
    return body


@pytest.mark.usefixtures("unchanged")
@pytest.mark.parametrize("has_length", [True, False])
@pytest.mark.parametrize("path", RIGHT)
def test_no_body_is_an_error_of_the_server(exchange: ExchangeServer, path: str, has_length: bool) -> None:
    choose = random.Random(f"{SEED} {path}")
    bearer = exchange.bearer(CALLER)
    codes = set()

    for _ in range(700):
        body = odd_body(choose, RIGHT[path])
        answer = exchange.http.post(path, content=body if has_length else iter([body]), headers=bearer)

        if answer.status_code == 413:
            assert path == "/auth/token"
            assert len(body) > TOKEN_BYTES_MAX
            continue
        assert answer.status_code in (202, 401, 422), (SEED, body)
        problems = [problem_of(answer)] if answer.status_code != 202 else []
        if not problems:
            assert path == "/orders/batch"
            problems = [result["error"] for result in answer.json()["results"]]
            assert {problem["status"] for problem in problems} == {422}, (SEED, body)
        codes |= {error["code"] for problem in problems for error in [problem, *problem.get("errors", [])]}
    assert len(codes) > 3


@pytest.mark.usefixtures("unchanged")
@pytest.mark.parametrize("place", ["", '"x":1,'])
@pytest.mark.parametrize("deep", [900, 1_000, 1_100, 3_000])
def test_no_depth_is_an_error_of_the_server(exchange: ExchangeServer, deep: int, place: str) -> None:
    order = f'{{{place}"card":"mew","side":"buy","price":{"[" * deep}{"]" * deep}}}'
    bearer = exchange.bearer(CALLER)

    for path, body in [
        ("/orders", order),
        ("/orders/batch", f'{{"orders":[{{}},{order}]}}'),
        ("/orders/batch", f'{{"orders":{"[" * deep}{"]" * deep}}}'),
        ("/auth/token", f'{{"trader_id":1,"api_key":{"[" * deep}{"]" * deep}}}'),
    ]:
        answer = exchange.http.post(path, content=body, headers=bearer)
        if path == "/auth/token" and len(body) > TOKEN_BYTES_MAX:
            assert answer.status_code == 413
            continue
        assert answer.status_code in (202, 422), answer.text[:300]
        if answer.status_code == 202:
            statuses = [result["error"]["status"] for result in answer.json()["results"]]
            assert statuses == [422] * (2 if order in body else 1)


@pytest.mark.usefixtures("unchanged")
def test_a_large_body_that_does_not_say_its_length_is_refused(exchange: ExchangeServer) -> None:
    def pieces() -> Iterator[bytes]:
        for _ in range(20):
            yield b" " * 100_000

    answer = exchange.http.post("/orders", content=pieces(), headers=exchange.bearer(CALLER))

    assert answer.status_code == 413
    assert problem_of(answer)["code"] == "body_too_large"


@pytest.mark.usefixtures("unchanged")
def test_a_length_that_is_too_large_is_refused_before_the_body_comes(exchange: ExchangeServer) -> None:
    authorization = exchange.bearer(CALLER)["authorization"].encode()
    head = b"POST /orders HTTP/1.1\r\nhost: x\r\nauthorization: " + authorization

    answer = exchange.raw(head + b"\r\ncontent-length: 99999999999\r\n\r\n")

    assert answer.status == 413
    assert answer.json()["code"] == "body_too_large"


@pytest.mark.usefixtures("unchanged")
def test_every_wrong_field_is_listed_with_its_code(exchange: ExchangeServer) -> None:
    body = {"card": "mew", "side": "sell", "price": "5.505", "quantity": 0, "colour": "red"}

    answer = exchange.http.post("/orders", json=body, headers=exchange.bearer(CALLER))

    errors = {error["field"]: error for error in answer.json()["errors"]}
    codes = {field: error["code"] for field, error in errors.items()}
    assert codes == {
        "card": "unknown_card",
        "price": "invalid_price",
        "quantity": "invalid_quantity",
        "colour": "unknown_field",
    }
    assert errors["price"]["value"] == "5.505"
    assert errors["quantity"]["value"] == 0
    assert "value" not in errors["colour"]


@pytest.mark.usefixtures("unchanged")
def test_a_client_that_goes_away_within_its_body_leaves_nothing(exchange: ExchangeServer) -> None:
    authorization = exchange.bearer(CALLER)["authorization"].encode()
    head = b"POST /orders HTTP/1.1\r\nhost: x\r\nauthorization: " + authorization

    answer = exchange.raw(
        head + b'\r\ncontent-length: 500\r\n\r\n{"card":"pikachu","side":"buy","price":5}', half_close=True
    )

    assert answer.status == 400
    assert answer.json()["code"] == "incomplete_body"


def test_after_all_of_this_the_exchange_takes_an_order(exchange: ExchangeServer) -> None:
    body = {"card": "squirtle", "side": "buy", "price": "1.00"}

    with exchange.client(CALLER) as client:
        placed = client.post("/orders", json=body, headers={"prefer": "wait=5"})
        canceled = client.delete("/orders", headers={"prefer": "wait=5"})

    assert placed.status_code == 200
    assert placed.json()["status"] == "open"
    assert canceled.status_code == 200
    log = exchange.log_of("api")
    assert "a request failed" not in log
    assert "Traceback" not in log
