"""An archive that is older than the log gets its rows back from the log."""

from collections.abc import Iterator
from typing import Any

import pytest

from core.model import Command
from engine import keys
from testing.clients.appender import Appender
from testing.exchange import ExchangeServer, exchange_server
from testing.flows import market
from testing.oracle.judge import assert_archived, judged
from testing.servers import KEEP_ALL
from testing.waiting import until

pytestmark = pytest.mark.server

COMMANDS = 6_000
SELL = {"card": "pikachu", "side": "sell", "price": "5.50"}


@pytest.fixture(scope="module")
def running() -> Iterator[ExchangeServer]:
    with exchange_server(log_retention=KEEP_ALL, event_retention=1) as server:
        yield server


@pytest.fixture
def own(running: ExchangeServer) -> ExchangeServer:
    running.reset()
    return running


def append(server: ExchangeServer, commands: Iterator[Command]) -> None:
    """Appends commands, and waits until they are archived. Each card is begun by an order of the API before."""
    with Appender(server.settings.redis_url, commands, seed=3, pause_seconds=0.0) as load:
        load.finish()
    server.archived()


def older_archive(server: ExchangeServer) -> None:
    """Leaves the archive as it was some thousand commands ago, while Redis has trimmed the events since."""
    server.client(1).post("/orders", json=SELL, headers={"prefer": "wait=5"})
    append(server, market(5, COMMANDS))
    server.stop_service("archiver")
    cursors = server.execute("SELECT * FROM archive_cursor")
    query = "SELECT coalesce(max(trade_number), 0) AS last FROM trades WHERE card = $1"
    trades = {row["card"]: server.execute(query, row["card"])[0]["last"] for row in cursors}
    known = {(row["card"], row["sequence"]) for row in server.execute("SELECT card, sequence FROM orders")}
    server.start_service("archiver")
    append(server, market(6, COMMANDS))
    server.stop_service("archiver")
    for card, last in trades.items():
        server.execute("DELETE FROM trades WHERE card = $1 AND trade_number > $2", card, last)
        kept = [sequence for of_card, sequence in known if of_card == card]
        server.execute("DELETE FROM orders WHERE card = $1 AND NOT sequence = ANY($2)", card, kept)
    for row in cursors:
        server.execute(
            "UPDATE archive_cursor SET event_id = $2, sequence = $3, log_id = $4 WHERE card = $1",
            *(row["card"], row["event_id"], row["sequence"], row["log_id"]),
        )


def faults(server: ExchangeServer) -> str:
    """What doctor says about histories."""
    return server.tcgx("doctor", "--only", "history").stdout


def test_rows_that_the_archive_has_lost_are_made_of_the_log_again(own: ExchangeServer) -> None:
    older_archive(own)
    before = faults(own)

    rebuilt = own.tcgx("rebuild-archive")

    assert "the archive is older than the log" in before
    assert rebuilt.returncode == 0, rebuilt.stderr
    assert "pikachu: archived what commands" in rebuilt.stdout
    own.start_service("archiver")
    own.archived()
    assert_archived(own.settings.database_url, judged(own.settings.redis_url))
    assert own.client(1).post("/orders", json=SELL, headers={"prefer": "wait=5"}).status_code == 200
    own.archived()
    assert "nothing to rebuild" in own.tcgx("rebuild-archive").stdout


def test_a_log_that_does_not_reach_back_is_refused(own: ExchangeServer) -> None:
    older_archive(own)
    client: Any = own.redis
    for card in own.settings.cards:
        first = client.xrange(keys.key(card, "orders"), count=1)
        client.xdel(keys.key(card, "orders"), first[0][0])
    rows = own.execute("SELECT count(*) AS count FROM orders")

    refused = own.tcgx("rebuild-archive")

    assert refused.returncode == 1
    assert "can't be rebuilt: its log begins at command" in refused.stderr
    assert own.execute("SELECT count(*) AS count FROM orders") == rows


def replace_some(server: ExchangeServer) -> None:
    """Leaves completed orders in the log that were replaced, reduced, or post-only."""
    client, prefer = server.client(1), {"prefer": "wait=5"}
    for cents in range(10):
        order = client.post("/orders", json={**SELL, "price": f"9.{cents:02d}", "quantity": 5}, headers=prefer).json()
        client.patch(f"/orders/{order['order_id']}", json={"quantity": 4}, headers=prefer)
        client.patch(f"/orders/{order['order_id']}", json={"price": f"8.{cents:02d}"}, headers=prefer)
        crossing = client.post(
            "/orders", json={**SELL, "side": "buy", "price": "9.50", "post_only": True}, headers=prefer
        )
        assert crossing.json()["reason"] == "would_cross"


def test_a_new_database_gets_all_rows_of_the_log(own: ExchangeServer) -> None:
    own.client(1).post("/orders", json=SELL, headers={"prefer": "wait=5"})
    append(own, market(7, COMMANDS))
    replace_some(own)
    own.archived()
    own.stop_service("api", "archiver")
    own.execute("DROP SCHEMA public CASCADE")
    own.execute("CREATE SCHEMA public")
    assert own.tcgx("migrate").returncode == 0

    rebuilt = own.tcgx("rebuild-archive")

    assert rebuilt.returncode == 0, rebuilt.stderr
    assert "pikachu: archived what commands 1 to" in rebuilt.stdout
    own.start_service("archiver", "api")
    until(lambda: "history" not in own.missing(), "the archive continues")
    own.archived()
    assert_archived(own.settings.database_url, judged(own.settings.redis_url))
    (reasons,) = own.execute("SELECT count(DISTINCT reason) AS reasons, count(replaced_by) AS replaced FROM orders")
    assert (reasons["reasons"], reasons["replaced"]) == (2, 10)
