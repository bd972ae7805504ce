"""What is GraphQL's own: limits of documents, sockets, reads of a page, the schema in the repository, and settings."""

import asyncio
import builtins
import json
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import asyncpg
import httpx
import pytest
from redis.asyncio.connection import AbstractConnection
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect

from api.app import create_app
from api.graphql.door import GraphqlDoor
from api.graphql.schema import make_schema
from core.errors import StartError
from core.settings import Settings
from exchange import tokens
from testing.clients.trader import Trader
from testing.exchange import ExchangeServer, exchange_server
from testing.waiting import until

pytestmark = pytest.mark.server

PAGE = 4_096
SCHEMA = Path(__file__).parents[3] / "api" / "graphql" / "schema.graphql"
TRANSPORT = "graphql-transport-ws"
ORDERS = "query ($first: Int!) { orders(first: $first) { nodes { orderId averagePrice fills { price quantity } } } }"
Json = dict[str, Any]


@pytest.fixture(scope="module")
def server() -> Iterator[ExchangeServer]:
    """An exchange with GraphQL, without its page."""
    with exchange_server(graphql="on", stream_address_max=0) as started:
        yield started


def ask(server: ExchangeServer, query: str, trader_id: int = 0, **variables: Any) -> Json:
    headers = server.bearer(trader_id) if trader_id else {}
    body = {"query": query, "variables": variables}
    answer = httpx.post(f"{server.url}/graphql", json=body, headers=headers, timeout=20, trust_env=False)
    assert answer.status_code == 200, answer.text
    found: Json = answer.json()
    return found


def message(answer: Json) -> str:
    error = answer["errors"][0]
    assert answer.get("data") is None
    text: str = error["message"]
    return text


def test_a_refused_order_takes_no_accepted_one_with_it(server: ExchangeServer) -> None:
    document = (
        "mutation ($good: NewOrder!, $bad: NewOrder!)"
        " { a: placeOrder(order: $good) { order { card } } b: placeOrder(order: $bad) { order { card } } }"
    )
    good, bad = ({"card": card, "side": "buy", "price": "1.00"} for card in ("pikachu", "mew"))

    answer = ask(server, document, trader_id=4_321, good=good, bad=bad)

    assert answer["data"] == {"a": {"order": {"card": "pikachu"}}, "b": None}
    assert [error["path"] for error in answer["errors"]] == [["b"]]


# -- limits


def test_an_alias_bomb_is_refused(server: ExchangeServer) -> None:
    bomb = " ".join(f"a{n}: cards {{ name }}" for n in range(16))

    assert message(ask(server, f"{{ {bomb} }}")) == "16 aliases found. Allowed: 15"
    assert "errors" not in ask(server, f"{{ {bomb.partition('a15')[0]} }}")


def test_a_token_bomb_is_refused_before_it_is_parsed(server: ExchangeServer) -> None:
    began = time.monotonic()

    assert "more than 2000 tokens" in message(ask(server, "{ cards { " + "name " * 100_000 + "} }"))
    assert time.monotonic() - began < 1


def test_a_depth_bomb_is_refused(server: ExchangeServer) -> None:
    deep = "{ cards " + "{ trades " * 9 + "{ price }" + " }" * 10
    refused = [error["message"] for error in ask(server, deep)["errors"]]

    assert any("exceeds maximum operation depth of 8" in text for text in refused)


@pytest.mark.parametrize(
    "query",
    [
        "{ cards { book(depth: 1000) { bids { price quantity } asks { price quantity } } } }",
        "query ($n: Int! = 500) { orders(first: $n) { nodes { fills { price quantity } } edges { cursor } } }",
        "query { orders(first: 500) { ...page } } fragment page on OrderConnection { nodes { fills { price } } }",
    ],
)
def test_a_costly_query_is_refused(server: ExchangeServer, query: str) -> None:
    answer = ask(server, query, 1, **({"n": 500} if "$n" in query else {}))

    assert answer["errors"][0]["extensions"]["code"] == "query_too_costly"


def test_a_body_that_is_too_large_is_refused(server: ExchangeServer) -> None:
    body = b'{"query":"{ cards { name } }","x":"' + b"x" * server.settings.body_bytes_max + b'"}'

    answer = httpx.post(f"{server.url}/graphql", content=body, headers={"content-type": "application/json"}, timeout=20)

    assert (answer.status_code, answer.json()["code"]) == (413, "body_too_large")


def test_what_is_no_query_says_so_and_nothing_of_the_server(server: ExchangeServer) -> None:
    answer = ask(server, "{ cards { lore } }")

    assert answer["errors"][0]["extensions"] == {"code": "invalid_query"}
    assert "Did you mean" not in str(answer)
    assert httpx.get(f"{server.url}/graphql", params={"query": "{ cards { name } }"}, timeout=20).status_code in (
        400,
        405,
        422,
    )


def test_introspection_and_page_are_there_where_they_are_wanted_alone(server: ExchangeServer) -> None:
    assert "introspection" in message(ask(server, "{ __schema { types { name } } }"))
    assert httpx.get(f"{server.url}/graphql/explorer", timeout=20).status_code == 404


def test_the_schema_in_the_repository_is_the_one_that_is_served() -> None:
    made = make_schema(Settings()).as_str()

    assert SCHEMA.read_text() == made + "\n", f"{SCHEMA} is old: make graphql"


def test_a_query_costs_what_its_lists_have(server: ExchangeServer) -> None:
    assert "errors" not in ask(server, ORDERS, 1, first=50)


# -- reads


@pytest.fixture(scope="module")
def filled(server: ExchangeServer) -> ExchangeServer:
    """The exchange, with orders and fills of trader 11."""
    trader, other = Trader(server.client(11)), Trader(server.client(12))
    for number in range(50):
        other.submit("pikachu", "sell", f"{2 + number % 5}.00", 2)
        trader.submit("pikachu", "buy", "6.00", 1 + number % 3)
    server.archived()
    return server


def test_a_page_of_orders_with_their_fills_takes_as_many_reads_as_one_order(
    filled: ExchangeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Statements of PostgreSQL and commands of Redis, counted in a process with the same door."""
    server, trader = filled, Trader(filled.client(11))
    few, many = asyncio.run(reads(server.settings, monkeypatch, (2, 50)))

    assert few[1] == many[1] > 0
    assert many[2] <= few[2] + 4  # lines of 50 sequences instead of 2
    assert len(many[0]["data"]["orders"]["nodes"]) == 50
    assert sum(len(node["fills"]) for node in many[0]["data"]["orders"]["nodes"]) > 50
    for node in many[0]["data"]["orders"]["nodes"][:5]:
        found = trader.get(f"/orders/{node['orderId']}")
        assert node["averagePrice"] == found["average_price"]
        assert [fill["price"] for fill in node["fills"]] == [fill["price"] for fill in found["trades"]]


async def reads(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, counts: tuple[int, int]
) -> list[tuple[Json, int, int]]:
    statements = commands = 0
    connection: Any = asyncpg.Connection
    execute, send = connection._execute, AbstractConnection.send_packed_command

    async def counted_execute(self: Any, *arguments: Any, **options: Any) -> Any:
        nonlocal statements
        statements += 1
        return await execute(self, *arguments, **options)

    async def counted_send(self: Any, *arguments: Any, **options: Any) -> Any:
        nonlocal commands
        commands += 1
        return await send(self, *arguments, **options)

    app = create_app(settings)
    token = tokens.issue_token(settings.jwt_secret, 11, "trader", 600)
    found = []
    async with app.lifespan():
        monkeypatch.setattr(asyncpg.Connection, "_execute", counted_execute)
        monkeypatch.setattr(AbstractConnection, "send_packed_command", counted_send)
        for count in (*counts, *counts):  # the first ones fill caches
            door = GraphqlDoor(app.state.context, {"headers": [(b"authorization", f"Bearer {token}".encode())]})
            before = statements, commands
            result = await make_schema(settings).execute(ORDERS, {"first": count}, {"door": door})
            assert result.errors is None
            found.append(({"data": result.data}, statements - before[0], commands - before[1]))
    return found[2:]


def test_fills_that_are_not_archived_yet_are_there_too(server: ExchangeServer) -> None:
    trader, other = Trader(server.client(15)), Trader(server.client(16))
    assert server.stop_service("archiver") == 0
    try:
        other.submit("charmander", "sell", "2.00", 5)
        for quantity in (1, 3):
            trader.submit("charmander", "buy", "2.00", quantity)
        until(lambda: trader.get("/orders")["orders"][0]["status"] == "filled", "the orders are not matched")

        found = ask(server, ORDERS, 15, first=50)["data"]["orders"]["nodes"]
    finally:
        server.start_service("archiver")

    fills = [[fill["quantity"] for fill in node["fills"]] for node in found]
    assert fills == [[3], [1]]


def test_every_cursor_gives_the_page_behind_its_item(filled: ExchangeServer) -> None:
    for name in ("orders", "fills", "historyOrders"):
        whole = ask(filled, f"{{ {name}(first: 6) {{ edges {{ cursor }} }} }}", 11)["data"][name]["edges"]
        cursors = [edge["cursor"] for edge in whole]
        for place in (0, 3):
            query = f"query ($after: String) {{ {name}(first: {5 - place}, after: $after) {{ edges {{ cursor }} }} }}"
            found = ask(filled, query, 11, after=cursors[place])["data"][name]["edges"]
            behind = [edge["cursor"] for edge in found]
            expected = cursors[place + 1 :]
            if name == "fills":  # a page of fills may be short although more follow
                expected = expected[: max(1, len(behind))]
            assert behind == expected, name
        assert len({*cursors}) == 6


# -- sockets


def socket_of(server: ExchangeServer, *protocols: str) -> ClientConnection:
    return connect(server.url.replace("http", "ws") + "/graphql", subprotocols=list(protocols), proxy=None)  # type: ignore[arg-type]


@contextmanager
def begun(server: ExchangeServer, trader_id: int = 0) -> Iterator[ClientConnection]:
    with socket_of(server, TRANSPORT) as socket:
        socket.send(json.dumps({"type": "connection_init", "payload": server.bearer(trader_id) if trader_id else {}}))
        assert json.loads(socket.recv(timeout=20))["type"] == "connection_ack"
        yield socket


def subscribe(socket: ClientConnection, query: str, operation: str = "1") -> None:
    socket.send(json.dumps({"type": "subscribe", "id": operation, "payload": {"query": query}}))


def result(socket: ClientConnection) -> Json:
    found: Json = json.loads(socket.recv(timeout=20))
    assert found["type"] == "next", found
    payload: Json = found["payload"]
    return payload


def test_book_trades_and_own_orders_come_over_a_socket(server: ExchangeServer) -> None:
    with begun(server, 13) as orders, begun(server) as trades, begun(server) as book:
        subscribe(orders, "subscription { orders { event orders { orderId status } } }")
        subscribe(trades, 'subscription { trades(card: "squirtle") { sequence trades { price } } }')
        subscribe(book, 'subscription { book(card: "squirtle") { type bids { price quantity } } }')
        assert result(orders)["data"]["orders"] == {"event": "snapshot", "orders": []}
        position = result(trades)["data"]["trades"]
        assert (position["trades"], result(book)["data"]["book"]["type"]) == ([], "snapshot")

        mine = Trader(server.client(13)).submit("squirtle", "buy", "3.00")
        assert result(orders)["data"]["orders"]["orders"] == [{"orderId": mine["order_id"], "status": "open"}]
        assert result(book)["data"]["book"] == {"type": "update", "bids": [{"price": "3.00", "quantity": 1}]}
        Trader(server.client(14)).submit("squirtle", "sell", "3.00")
        event = result(trades)["data"]["trades"]
        assert event["trades"] == [{"price": "3.00"}]
        assert event["sequence"] > position["sequence"]
        assert result(orders)["data"]["orders"]["orders"][0]["status"] == "filled"


def test_own_orders_need_a_token(server: ExchangeServer) -> None:
    with begun(server) as socket:
        subscribe(socket, "subscription { orders { event } }")

        found = json.loads(socket.recv(timeout=20))
        errors = found["payload"]["errors"] if found["type"] == "next" else found["payload"]
        assert errors[0]["extensions"]["code"] == "token_missing"


def test_a_client_without_a_handshake_gets_nothing(server: ExchangeServer) -> None:
    with socket_of(server, TRANSPORT) as socket:
        subscribe(socket, 'subscription { trades(card: "pikachu") { sequence } }')

        with pytest.raises(ConnectionClosed) as closed:
            socket.recv(timeout=20)
    assert closed.value.rcvd is not None
    assert closed.value.rcvd.code == 4401


def test_the_protocol_with_the_bypass_is_not_spoken(server: ExchangeServer) -> None:
    """graphql-ws (CVE-2026-35523) without `connection_init`."""
    with socket_of(server, "graphql-ws") as socket:
        assert socket.subprotocol is None
        with suppress(ConnectionClosed):
            socket.send(json.dumps({"type": "start", "id": "1", "payload": {"query": "{ cards { name } }"}}))
        with pytest.raises(ConnectionClosed):
            socket.recv(timeout=20)


def test_subscriptions_that_come_and_go_leave_nothing(server: ExchangeServer) -> None:
    """A short form of 1,000; memory is compared after the first ones."""
    query = 'subscription {{ book(card: "{card}") {{ sequence }} }}'

    def come_and_go(sockets: int) -> int:
        for _ in range(sockets):
            with begun(server) as socket:
                for number in range(20):
                    subscribe(socket, query.format(card="pikachu"), str(number))
                for _ in range(20):
                    result(socket)
        pid = server.pid("api")
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * PAGE

    first = come_and_go(15)
    second = come_and_go(35)

    assert second - first < 8_000_000


def test_more_subscriptions_of_a_socket_than_it_may_have_are_refused(server: ExchangeServer) -> None:
    with begun(server) as socket:
        for number in range(21):
            subscribe(socket, 'subscription { book(card: "pikachu") { sequence } }', str(number))
        kinds = [json.loads(socket.recv(timeout=20)) for _ in range(21)]

    (refused,) = [each for each in kinds if each["type"] == "error"]
    assert refused["payload"][0]["message"] == "Subscription limit reached"


def test_subscriptions_end_with_a_reason_before_the_process_stops(server: ExchangeServer) -> None:
    with begun(server) as socket:
        subscribe(socket, 'subscription { trades(card: "pikachu") { sequence } }')
        result(socket)
        assert server.stop_service("api") == 0
        ended = result(socket)
    server.start_service("api")

    assert ended["errors"][0]["extensions"]["code"] == "unavailable"
    assert "about to stop" in ended["errors"][0]["message"]


# -- the setting


def test_graphql_is_off_unless_it_is_wanted(exchange: ExchangeServer) -> None:
    assert httpx.post(f"{exchange.url}/graphql", json={"query": "{ cards { name } }"}, timeout=20).status_code == 404


def test_without_the_package_the_setting_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    original = builtins.__import__

    def without(name: str, *arguments: Any, **options: Any) -> Any:
        if name.startswith("api.graphql"):
            raise ImportError(name)
        return original(name, *arguments, **options)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(StartError, match="pip install 'tcgx\\[graphql\\]'"):
        create_app(Settings(graphql="on", jwt_secret="k" * 32))
