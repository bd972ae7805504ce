"""A running exchange whose Redis or archive is not the one that it was: what it says and refuses, and the way out."""

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest

from engine import keys
from testing.exchange import ExchangeServer, exchange_server
from testing.faults import restart
from testing.waiting import until

pytestmark = pytest.mark.server

REPORTED_SECONDS = 5.0
SELL = {"card": "pikachu", "side": "sell", "price": "5.50", "quantity": 2}
BUY = {"card": "pikachu", "side": "buy", "price": "5.50", "client_order_id": "first"}
RESTING = {"card": "pikachu", "side": "sell", "price": "9.00"}


@pytest.fixture(scope="module")
def running() -> Iterator[ExchangeServer]:
    with exchange_server() as server:
        yield server


@pytest.fixture
def own(running: ExchangeServer) -> ExchangeServer:
    """An exchange as it is at its start, of which a test may break what it likes."""
    running.reset()
    return running


def place(server: ExchangeServer, order: dict[str, Any], *, trader: int = 1) -> dict[str, Any]:
    """Enters an order, and waits until it is matched."""
    answer = server.client(trader).post("/orders", json=order, headers={"prefer": "wait=5"})
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def traded(server: ExchangeServer) -> None:
    """One order is filled in part and rests, one is filled, one only rests; the archive has what is completed."""
    place(server, SELL, trader=1)
    place(server, BUY, trader=2)
    place(server, RESTING, trader=3)
    server.archived()


def refused(server: ExchangeServer) -> dict[str, Any]:
    """Waits until orders are refused and readiness says why; what it says."""

    def reported() -> Any:
        ready = server.http.get("/health/ready")
        return ready.json() if ready.status_code == 503 and "history" in ready.json()["missing"] else None

    ready: dict[str, Any] = until(reported, seconds=REPORTED_SECONDS, why="nothing is reported")
    for path, body in (("/orders", SELL), ("/orders/batch", {"orders": [SELL]})):
        answer = server.client(1).post(path, json=body)
        assert answer.status_code == 503
        assert answer.json()["code"] == "history_conflict"
        assert answer.headers["retry-after"]
    return ready


def recovered(server: ExchangeServer) -> str:
    """Runs `tcgx recover`; what it prints. Orders are taken again then."""
    done = server.tcgx("recover", "--yes")
    assert done.returncode == 0, done.stderr
    until(lambda: server.client(1).post("/orders", json=SELL).status_code == 202, seconds=REPORTED_SECONDS)
    return done.stdout


def test_an_emptied_redis_takes_no_orders_until_it_is_recovered(own: ExchangeServer) -> None:
    traded(own)
    rows = own.execute("SELECT * FROM orders")

    own.redis.flushall()
    ready = refused(own)
    doctor = own.tcgx("doctor", "--only", "history")

    assert "Redis has nothing of pikachu, and the archive knows of 3 commands" in ready["reasons"][0]
    assert "tcgx recover" in ready["reasons"][0]
    assert (doctor.returncode, "tcgx recover" in doctor.stdout) == (1, True)
    assert own.execute("SELECT * FROM orders") == rows
    assert own.log_of("api").count("orders are refused") == 1
    assert own.tcgx("recover").returncode == 1, "nobody can be asked here"

    told = recovered(own)

    assert "the log lacks commands 1 to 3; 1 of them are orders in the archive" in told
    assert "pikachu-1, of which 1 were filled" in told
    after = place(own, RESTING, trader=5)
    assert int(after["order_id"].rpartition("-")[2]) > 100_000_000
    filled = own.client(2).get("/orders").json()["orders"]
    assert [(order["order_id"], order["status"]) for order in filled] == [("pikachu-2", "filled")]
    own.archived()
    assert own.tcgx("doctor").returncode == 0


def test_a_client_order_id_gives_the_first_order_back_after_redis_was_emptied(own: ExchangeServer) -> None:
    traded(own)

    own.redis.flushall()
    refused(own)
    recovered(own)

    assert place(own, BUY, trader=2)["order_id"] == "pikachu-2"


def test_a_redis_that_was_restarted_as_it_was_goes_on_at_once(own: ExchangeServer) -> None:
    traded(own)

    asyncio.run(restart(own.servers.redis))

    until(lambda: own.client(1).post("/orders", json=SELL).status_code == 202, seconds=REPORTED_SECONDS)
    until(lambda: own.http.get("/health/ready").json()["missing"] == [], seconds=REPORTED_SECONDS)


def test_books_of_an_older_redis_stay_less_what_was_completed_since(own: ExchangeServer) -> None:
    place(own, SELL, trader=1)
    place(own, RESTING, trader=3)
    client: Any = own.redis
    older = {key: client.dump(key) for key in client.keys("*")}
    place(own, {**BUY, "quantity": 2}, trader=2)
    place(own, {**RESTING, "price": "8.00"}, trader=4)
    own.archived()

    client.flushall()
    for key, value in older.items():
        client.restore(key, 0, value)
    ready = refused(own)
    told = recovered(own)

    assert "Redis has lost the end of the log of pikachu: it ends with command 2, and 4 were given out" in str(ready)
    assert "its books stay, with 2 orders; 1 of them are completed in the archive" in told
    open_orders = own.redis.hgetall(keys.key("pikachu", "open"))
    assert b"000000000001" not in open_orders
    assert b"000000000002" in open_orders
    statuses = [order["status"] for order in own.client(1).get("/orders").json()["orders"]]
    assert statuses[-1] == "filled"


def ioc_batch(server: ExchangeServer, count: int) -> None:
    """Places orders that are completed at once, by one match call."""
    orders = [BUY | {"client_order_id": None, "time_in_force": "ioc"}] * count
    answer = server.client(2).post("/orders/batch", json={"orders": orders})
    assert answer.status_code == 202, answer.text
    last = answer.json()["results"][-1]["order_id"].rpartition("-")[2].encode()
    cursor: Any = server.redis
    until(lambda: cursor.hget(keys.key("pikachu", "cursor"), "sequence") == last, "the orders are not matched")


@pytest.mark.parametrize("archiver", ["with an archiver", "without an archiver"])
def test_what_a_log_without_its_end_still_has_is_archived(own: ExchangeServer, archiver: str) -> None:
    traded(own)
    own.stop_service("archiver")
    ioc_batch(own, 3)
    own.execute("UPDATE histories SET given = 9 WHERE card = 'pikachu'")

    refused(own)
    if archiver == "with an archiver":
        own.start_service("archiver")
    told = recovered(own)

    assert "the log lacks commands 7 to 9; 0 of them are orders in the archive" in told
    assert [row["sequence"] for row in own.execute("SELECT sequence FROM orders ORDER BY 1")] == [1, 2, 4, 5, 6]
    own.start_service(*() if archiver == "with an archiver" else ("archiver",))
    own.archived()


def test_events_that_repeat_archived_commands_are_archived_once(own: ExchangeServer) -> None:
    traded(own)
    ioc_batch(own, 4)
    own.archived()
    own.stop_service("archiver")
    # As if the primary had matched two and two of these orders, and the promoted replica all four at once.
    own.execute("DELETE FROM orders WHERE sequence > 5")
    own.execute("UPDATE archive_cursor SET event_id = '5-0', sequence = 5 WHERE card = 'pikachu'")
    own.execute("UPDATE histories SET given = 5 WHERE card = 'pikachu'")

    ready = refused(own)
    own.start_service("archiver")
    recovered(own)

    assert "ends with command 5, within an event of Redis that begins with 4" in str(ready)
    assert [row["sequence"] for row in own.execute("SELECT sequence FROM orders ORDER BY 1")] == [1, 2, 4, 5, 6, 7]
    own.archived()


def test_an_archive_that_lacks_what_redis_has_trimmed_is_gone_on_with(own: ExchangeServer) -> None:
    traded(own)
    own.stop_service("archiver")
    for _ in range(3):
        place(own, BUY | {"client_order_id": None, "time_in_force": "ioc"}, trader=2)
    client: Any = own.redis
    events = client.xrange(keys.key("pikachu", "events"))
    client.xdel(keys.key("pikachu", "events"), *(event_id for event_id, _ in events[:-1]))
    ready = refused(own)

    own.start_service("archiver")
    told = recovered(own)

    assert "the archive of pikachu ends with command 3" in str(ready)
    assert "the archive lacks what commands 4 to 5 completed" in told
    sequence = until(lambda: own.execute("SELECT max(sequence) AS last FROM orders")[0]["last"] == 6)
    assert sequence


def test_data_from_before_there_were_histories_is_given_one(own: ExchangeServer) -> None:
    traded(own)
    own.stop_service("api", "archiver", "engine")
    own.redis.delete(keys.key("pikachu", "history"))
    own.execute("TRUNCATE histories")
    own.execute("UPDATE archive_cursor SET history_id = ''")
    before = own.tcgx("doctor", "--only", "history")

    migrated = own.tcgx("migrate")

    assert "run `tcgx migrate`" in before.stdout.replace("`tcgx migrate` gives it one", "run `tcgx migrate`")
    assert "a history for the data of pikachu" in migrated.stdout, migrated.stderr
    own.start_service("engine", "archiver", "api")
    assert place(own, RESTING)["order_id"] == "pikachu-4"
    own.archived()


def test_a_log_of_a_format_that_nobody_reads_is_refused_and_stays(own: ExchangeServer) -> None:
    own.stop_service("engine")
    own.redis.delete(keys.key("squirtle", "history"))
    own.redis.xadd(keys.key("squirtle", "orders"), {"commands": "[1,17,550]"}, id="1-1")
    own.redis.set(keys.key("squirtle", "sequence"), 1)

    ready = refused_card(own, "squirtle")

    assert "written by an early version of tcgx" in ready
    assert own.tcgx("migrate").returncode == 1
    assert own.tcgx("recover", "--yes").returncode == 1
    assert own.client(1).post("/orders", json=SELL).status_code == 202, "other cards are not concerned"
    assert own.redis.xlen(keys.key("squirtle", "orders")) == 1
    engine = own.tcgx("doctor", "--only", "history")
    assert "written by an early version of tcgx" in engine.stdout


def refused_card(server: ExchangeServer, card: str) -> str:
    """Waits until the orders of one card are refused; what readiness says."""

    def reported() -> Any:
        reasons = server.http.get("/health/ready").json().get("reasons", [])
        return next((reason for reason in reasons if card in reason), None)

    reason: str = until(reported, seconds=REPORTED_SECONDS)
    answer = server.client(1).post("/orders", json={**SELL, "card": card})
    assert (answer.status_code, answer.json()["code"]) == (503, "history_conflict")
    return reason
