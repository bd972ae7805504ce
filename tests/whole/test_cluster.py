"""An exchange on a Redis Cluster. `python -m testing.cluster` moves more slots and kills more primaries."""

import time
from collections.abc import Iterator

import pytest

from core.model import LATEST
from testing.clients.appender import Appender
from testing.cluster import check_all, fail_over, flows_on, move_card
from testing.cluster_servers import RedisCluster, cluster_exchange, redis_cluster, slot_of
from testing.exchange import ExchangeServer
from testing.failover import load, recover_from_conflict
from testing.flows import CARDS, market
from testing.oracle.judge import assert_archived, assert_books, judged, settle
from testing.waiting import until

pytestmark = pytest.mark.server

Running = tuple[ExchangeServer, RedisCluster]
COMMANDS = 1_000
SEED = 19


@pytest.fixture(scope="module")
def running() -> Iterator[Running]:
    """An exchange on three primaries with a replica each, which must confirm. The tests are steps of its life."""
    with redis_cluster(replicas=1) as cluster, cluster_exchange(cluster, replica_acks=1) as exchange:
        yield exchange, cluster


def test_the_cards_are_at_several_servers(running: Running) -> None:
    _, cluster = running

    assert len({cluster.primary_of(slot_of(card)).port for card in CARDS}) > 1


def test_orders_trade_on_every_card_and_are_archived(running: Running) -> None:
    exchange, _ = running
    maker, taker = exchange.trader(), exchange.trader()
    for card in CARDS:
        resting = maker.place(card, "sell", "5.00", quantity=3)
        filled = taker.place(card, "buy", "5.00", quantity=2)
        assert (filled["status"], maker.order(resting["order_id"])["filled_quantity"]) == ("filled", 2)
        assert exchange.http.get(f"/cards/{card}/book").json()["asks"] == [["5.00", 1]]
        assert taker.http.delete(f"/orders/{resting['order_id']}").status_code == 404
        assert maker.http.delete(f"/orders/{resting['order_id']}", headers={"prefer": "wait=10"}).status_code == 200

    many = [{"card": card, "side": "buy", "price": "1.00", "quantity": 1} for card in CARDS for _ in range(20)]
    assert taker.http.post("/orders/batch", json={"orders": many}).status_code == 202
    assert len(taker.latest()) == LATEST
    taker.cancel_all()
    exchange.archived()
    archived = exchange.execute("SELECT status FROM orders WHERE trader_id = $1", taker.trader_id)
    assert sorted(row["status"] for row in archived) == ["canceled"] * len(many) + ["filled"] * len(CARDS)
    exchange.ready()


def test_a_market_is_matched_as_its_logs_say(running: Running) -> None:
    exchange, _ = running
    settings = exchange.settings
    with Appender(settings.redis_url, market(SEED, COMMANDS), seed=SEED, pause_seconds=0.0) as flow:
        flow.finish()

    settle(settings.redis_url, settings.database_url)
    books = judged(settings.redis_url)
    assert_books(settings.redis_url, books)
    assert_archived(settings.database_url, books)


@pytest.mark.parametrize("command", ["doctor", "replay", "state-hash", "migrate"])
def test_a_command_works(running: Running, command: str) -> None:
    exchange, _ = running

    result = exchange.tcgx(command)

    assert result.returncode == 0, result.stdout + result.stderr


def test_slots_move_under_load_and_nothing_is_lost_or_twice(running: Running) -> None:
    exchange, cluster = running
    with load(exchange) as traders:
        traders.flows_after(time.monotonic())
        move_card(cluster, CARDS[0])
        flows_on(traders, CARDS[0], time.monotonic())
        if cluster.moves_at_once():
            move_card(cluster, CARDS[1], at_once=True)
            flows_on(traders, CARDS[1], time.monotonic())

    check_all(exchange, traders)
    exchange.ready()


def test_a_primary_is_killed_under_load_and_nothing_acknowledged_is_lost(running: Running) -> None:
    exchange, cluster = running
    with load(exchange) as traders:
        traders.flows_after(time.monotonic())
        began = fail_over(cluster, CARDS[0])
        conflicts = recover_from_conflict(exchange, traders, began)  # of an order that was in flight
        flows_on(traders, CARDS[0], began)

    until(cluster.is_in_step, "the replicas are not in step")
    if not conflicts:
        check_all(exchange, traders)
