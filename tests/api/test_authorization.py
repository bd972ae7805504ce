"""Who may call what: every call of the OpenAPI document x every kind of caller x the owner of what is asked for.

A call without an entry in `ACCESS` fails, so no route can be added without saying who may use it.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import pytest

from core.settings import Settings
from exchange import tokens
from testing.contract import document_of, operations
from testing.exchange import ExchangeServer, login_code
from tests.api.test_every_route import ROUTES
from tests.api.test_fast_path import in_chunks

ROOT = Path(__file__).parents[2]

CALLERS = ("nobody", "expired", "foreign key", "owner", "other", "admin")
"""Kinds of callers. The order that a path names belongs to the owner."""

WITHOUT_TOKEN = {"nobody": "token_missing", "expired": "token_expired", "foreign key": "token_invalid"}
FOREIGN_SECRET = "f" * 32
OTHER_ID, ADMIN_ID = 871, 872
KEYS_OF = 40
"""The trader whose keys admins manage; no other test logs in as this one."""


class Access(NamedTuple):
    """The status of each caller with a valid token; `public` calls answer without a token as well."""

    owner: int
    other: int
    admin: int
    public: bool = False

    def status(self, caller: str) -> int:
        """The expected status of a caller's answer."""
        if caller in WITHOUT_TOKEN:
            return self.owner if self.public else 401
        return {"owner": self.owner, "other": self.other, "admin": self.admin}[caller]


def same(status: int, *, public: bool = False) -> Access:
    """The access to what is the same, or is one's own, for every caller."""
    return Access(status, status, status, public)


def admins(status: int) -> Access:
    """The access to what only admins may do."""
    return Access(owner=403, other=403, admin=status)


ACCESS: dict[str, Access] = {
    "create_token": same(200, public=True),
    "use_login_code": same(200, public=True),
    "list_cards": same(200, public=True),
    "get_book": same(200, public=True),
    "list_card_trades": same(200, public=True),
    "list_history_trades": same(200, public=True),
    "export_history_trades": same(200, public=True),
    "list_candles": same(200, public=True),
    "get_ticker": same(200, public=True),
    "list_tickers": same(200, public=True),
    "get_liveness": same(200, public=True),
    "get_health": same(200, public=True),
    "get_readiness": same(200, public=True),
    "stream_events": same(200),
    "place_order": same(202),
    "place_orders": same(202),
    "list_orders": same(200),
    "cancel_orders": same(202),
    "set_cancel_after": same(200),
    "get_cancel_after": same(200),
    "list_fills": same(200),
    "list_history_orders": same(200),
    "export_history_orders": same(200),
    "get_order": Access(owner=200, other=404, admin=200),
    "get_order_by_client_id": Access(owner=200, other=404, admin=404),
    "replace_order": Access(owner=202, other=404, admin=404),
    "cancel_order": Access(owner=202, other=404, admin=202),
    "get_card_state": admins(200),
    "halt_card": admins(200),
    "resume_card": admins(200),
    "list_orders_of_trader": admins(200),
    "list_keys": admins(200),
    "create_key": admins(201),
    "rotate_key": admins(201),
    "revoke_key": admins(200),
    "list_audit": admins(200),
}
"""Who may do what, by operation_id."""

PAGES = {
    *(
        "/",
        "/web/nope",
        "/docs",
        "/docs/nope",
        "/openapi.json",
        "/schema",
        "/schema/swagger",
        "/schema/openapi.json",
    ),
    *("/operate", "/operate/operate.css", "/operate/operate.js"),
    *("/operate/panels", "/operate/logs"),  # for admins alone: tests/observe/test_operate.py
    *("/schema/oauth2-redirect.html", "/schema/asyncapi", "/schema/asyncapi.yaml"),
}
"""Pages for everybody, which the document does not list: the document and its page, the docs, and the trading page."""

NOT_AUDITED = {"get_card_state", "list_keys", "list_audit"}
"""Calls of admins that read state alone."""

ORDER = {"card": "pikachu", "side": "buy", "price": "1.00"}
QUERIES = {
    "list_history_trades": "?card=pikachu",
    "stream_events": "?channels=orders",
    "export_history_trades": "?card=pikachu",
    "list_candles": "?interval=1m",
}
SOMETIMES = {"stream_events"}
"""Calls that need a token for some of what they give. The matrix asks for that."""

ENDLESS = {"stream_events"}
"""Calls whose answers end with the connection. Their heads are looked at."""


def calls() -> dict[str, tuple[str, str, dict[str, Any]]]:
    """Every call of the document by operation_id: its method, path and description."""
    document = document_of(Settings())
    return {
        operation["operationId"]: (*call.split(" ", 1), operation)  # type: ignore[misc]
        for call, operation in operations(document)
    }


CALLS = calls()
MATRIX = [(operation, caller) for operation in CALLS for caller in CALLERS]


class Subject(NamedTuple):
    """The resources of the owner that calls name in their paths."""

    trader_id: int
    order_id: str
    client_order_id: str
    key_id: str
    headers: dict[str, dict[str, str]]


@pytest.fixture
def subject(exchange: ExchangeServer) -> Iterator[Subject]:
    """A trader with an open order, and the headers of every caller."""
    owner = exchange.trader()
    client_order_id = f"of-{owner.trader_id}"
    order = owner.place("pikachu", "buy", "1.00", client_order_id=client_order_id)
    secret = exchange.settings.jwt_secret
    (key,) = exchange.execute(
        "INSERT INTO api_keys (key_id, trader_id, key_sha256, prefix) "
        "SELECT left(md5(random()::text), 16), $1, sha256(random()::text::bytea), '' RETURNING key_id",
        KEYS_OF,
    )
    yield Subject(
        owner.trader_id,
        order["order_id"],
        client_order_id,
        key["key_id"],
        {
            "nobody": {},
            "expired": _bearer(secret, owner.trader_id, seconds=-1),
            "foreign key": _bearer(FOREIGN_SECRET, owner.trader_id),
            "owner": _bearer(secret, owner.trader_id),
            "other": _bearer(secret, OTHER_ID),
            "admin": _bearer(secret, ADMIN_ID, "admin"),
        },
    )
    exchange.redis.hdel("{pikachu}:history", "halted")
    exchange.execute("DELETE FROM api_keys WHERE trader_id = $1", KEYS_OF)
    owner.close()


def _bearer(secret: str, trader_id: int, role: tokens.Role = "trader", *, seconds: int = 60) -> dict[str, str]:
    return {"authorization": f"Bearer {tokens.issue_token(secret, trader_id, role, seconds)}"}


def ask(exchange: ExchangeServer, operation: str, caller: str, subject: Subject, **options: Any) -> httpx.Response:
    """The answer to a call about the owner's resources."""
    method, path, _ = CALLS[operation]
    values = {
        "order_id": subject.order_id,
        "client_order_id": subject.client_order_id,
        "card": "pikachu",
        "trader_id": str(KEYS_OF),
        "key_id": subject.key_id,
    }
    target = re.sub(r"\{(\w+)\}", lambda name: values[name[1]], path) + QUERIES.get(operation, "")
    if operation not in ENDLESS:
        return exchange.http.request(method, target, headers=subject.headers[caller], **options)
    with exchange.http.stream(method, target, headers=subject.headers[caller]) as answer:
        body = answer.read() if answer.is_error else next(answer.iter_bytes())
        return httpx.Response(answer.status_code, headers=answer.headers, content=body)


def audited(exchange: ExchangeServer) -> int:
    """How many rows the audit has."""
    return int(exchange.execute("SELECT count(*) AS count FROM admin_audit")[0]["count"])


def body_of(exchange: ExchangeServer, operation: str) -> Any:
    """A valid body of a call."""
    bodies = {
        "create_token": {"trader_id": 7, "api_key": exchange.api_key(7)},
        "use_login_code": {"login_code": login_code(exchange.settings.redis_url, 7)},
        "place_order": ORDER,
        "place_orders": {"orders": [ORDER]},
        "replace_order": {"price": "1.01"},
        "set_cancel_after": {"seconds": 3_600},
    }
    return bodies.get(operation)


def test_every_call_has_an_entry_and_every_entry_a_call() -> None:
    assert set(ACCESS) == set(CALLS)


def test_the_document_names_the_calls_that_need_a_token() -> None:
    described = {operation: call[2].get("security") or [{}] for operation, call in CALLS.items()}

    assert {operation for operation, ways in described.items() if ways == [{}]} == {
        operation for operation, access in ACCESS.items() if access.public
    }
    assert {operation for operation, ways in described.items() if len(ways) > 1 and {} in ways} == SOMETIMES


def test_routes_beside_the_document_are_known_pages() -> None:
    described = {re.sub(r"\{\w+\}", "*", path) for _, path, _ in CALLS.values()}
    undescribed = {
        path for path, route in ROUTES.items() if re.sub(r"\{\w+(:\w+)?\}", "*", route.path) not in described
    }

    assert {path for path in undescribed if not path.startswith("/schema/assets")} == PAGES


def test_the_page_has_the_size_of_the_matrix() -> None:
    found = re.search(r"(\d+) calls x (\d+) callers = (\d+) tests", (ROOT / "docs" / "security.md").read_text())

    assert found
    assert [int(number) for number in found.groups()] == [len(CALLS), len(CALLERS), len(MATRIX)]


@pytest.mark.server
@pytest.mark.parametrize(("operation", "caller"), MATRIX)
def test_a_caller_may_do_what_is_said_and_nothing_else(
    exchange: ExchangeServer, subject: Subject, operation: str, caller: str
) -> None:
    before, actions = exchange.sequences(), audited(exchange)

    answer = ask(exchange, operation, caller, subject, json=body_of(exchange, operation))

    access = ACCESS[operation]
    assert answer.status_code == access.status(caller), answer.text
    if answer.status_code == 401:
        assert answer.json()["code"] == WITHOUT_TOKEN[caller]
        assert answer.headers["www-authenticate"] == "Bearer"
    if answer.status_code == 403:
        assert answer.json()["code"] == "forbidden"
    if answer.status_code >= 400:
        assert exchange.sequences() == before
        assert audited(exchange) == actions
    elif access.owner == 403 and operation not in NOT_AUDITED:
        assert audited(exchange) > actions
    may_see = caller == "owner" or (caller == "admin" and access.admin < 400 <= access.other)
    assert may_see or answer.status_code >= 400 or subject.client_order_id not in answer.text


@pytest.mark.server
@pytest.mark.parametrize("operation", ["cancel_order", "cancel_orders"])
@pytest.mark.parametrize("caller", [*WITHOUT_TOKEN, "other"])
def test_nobody_cancels_the_order_of_another(
    exchange: ExchangeServer, subject: Subject, operation: str, caller: str
) -> None:
    ask(exchange, operation, caller, subject)

    seen = ask(exchange, "get_order", "owner", subject).json()
    assert seen["status"] == "open"


@pytest.mark.server
@pytest.mark.parametrize("operation", ["place_order", "place_orders"])
@pytest.mark.parametrize("caller", CALLERS)
def test_the_slow_way_asks_for_the_same_token(
    exchange: ExchangeServer, subject: Subject, operation: str, caller: str
) -> None:
    body = httpx.Request("POST", "http://x", json=body_of(exchange, operation)).read()

    answer = ask(exchange, operation, caller, subject, content=in_chunks(body))

    assert answer.status_code == ACCESS[operation].status(caller)
