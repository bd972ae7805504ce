"""Backup, restore and recovery of an exchange on a Redis Cluster."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from testing.cluster_servers import RedisCluster, cluster_exchange, redis_cluster, slot_of
from testing.exchange import ExchangeServer
from testing.flows import CARDS
from testing.processes import module
from testing.replication import InPlaceOfRedis
from testing.servers import servers
from testing.waiting import until
from tests.whole.test_backup import BUY, JUMPED, SELL, Flow, assert_restored, restored, taken

pytestmark = pytest.mark.server

Running = tuple[ExchangeServer, RedisCluster]


@pytest.fixture(scope="module")
def running() -> Iterator[Running]:
    """An exchange on three primaries. The tests are steps of its life."""
    with redis_cluster() as cluster, cluster_exchange(cluster) as exchange:
        yield exchange, cluster


def test_a_backup_under_load_is_restored_into_another_cluster(running: Running, tmp_path: Path) -> None:
    exchange, _ = running
    with Flow(exchange) as flow:
        flow.reaches(2_000)
        manifest = taken(exchange, tmp_path / "backup.tar")
        flow.reaches(len(flow.acknowledged) + 500)
    sequences = {card.card: card.sequence for card in manifest.cards}

    with redis_cluster() as other, servers(redis=InPlaceOfRedis(other)) as target:
        restored(target, tmp_path / "backup.tar", "--keep-history")

        assert sum(sequences.values()) >= 2_000
        assert_restored(target, exchange, sequences)


def test_a_restored_cluster_continues_above_all_that_may_have_been_given_out(running: Running, tmp_path: Path) -> None:
    exchange, _ = running
    file = tmp_path / "backup.tar"
    bought = exchange.client(2).post("/orders", json=BUY | {"price": "1.00"}, headers={"prefer": "wait=5"}).json()
    taken(exchange, file)
    lost = exchange.client(3).post("/orders", json=SELL | {"price": "10.00"}).json()

    exchange.stop_service("api", "archiver", "engine")
    told = module("tcgx", "restore", str(file), "--overwrite", local=exchange.settings)
    exchange.start_service("engine", "archiver", "api")
    exchange.ready()

    assert told.returncode == 0, told.stderr
    again = exchange.client(2).post("/orders", json=BUY | {"price": "1.00"}).json()
    assert again["order_id"] == bought["order_id"], "its client_order_id is known"
    assert exchange.client(3).get(f"/orders/{lost['order_id']}").status_code == 404
    for card in CARDS:
        after = exchange.client(4).post("/orders", json=SELL | {"card": card}).json()
        assert int(after["order_id"].rpartition("-")[2]) > JUMPED, card
    exchange.archived()
    assert exchange.tcgx("doctor", "--only", "history").returncode == 0


def test_a_server_that_lost_its_data_stops_its_cards_alone_until_recovery(running: Running) -> None:
    exchange, cluster = running
    emptied = cluster.primary_of(slot_of(CARDS[0]))
    gone = [card for card in CARDS if cluster.primary_of(slot_of(card)) is emptied]
    kept = [card for card in CARDS if card not in gone]
    assert kept, "the cards are at one server"

    emptied.call("FLUSHALL")
    until(lambda: "history" in exchange.missing(), "nothing is reported")

    def code(card: str) -> tuple[int, str]:
        answer = exchange.client(5).post("/orders", json=SELL | {"card": card})
        return answer.status_code, answer.json().get("code", "")

    assert {card: code(card) for card in gone} == dict.fromkeys(gone, (503, "history_conflict"))
    assert {card: code(card) for card in kept} == dict.fromkeys(kept, (202, ""))

    done = exchange.tcgx("recover", "--yes")

    assert done.returncode == 0, done.stderr
    until(lambda: all(code(card)[0] == 202 for card in CARDS), "orders are not taken again")
    exchange.archived()
    exchange.ready()
