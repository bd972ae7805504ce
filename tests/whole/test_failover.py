"""Failovers of a whole exchange under load. `python -m testing.failover` runs more rounds of the first one."""

import asyncio
import time
from collections.abc import Iterator

import pytest

from archiver import postgres
from testing.exchange import ExchangeServer, exchange_server
from testing.failover import check_all, given_twice, load, lost, recover, recover_from_conflict, replicated_exchange
from testing.flows import CARDS
from testing.oracle.judge import assert_archived, judged, settle
from testing.replication import RedisGroup, allow_replication, cut_off, plain_url, postgres_pair
from testing.waiting import until

pytestmark = pytest.mark.server

FLOWS_SECONDS = 20.0
"""Four times what a failover takes on a machine of its own: the sentinels may need a second one."""
TAKEN_OVER_SECONDS = 5.0
RECOVERIES_MAX = 4
Running = tuple[ExchangeServer, RedisGroup]


@pytest.fixture(scope="module")
def running() -> Iterator[Running]:
    """An exchange on a primary and two replicas, one of which must confirm. The tests are steps of its life."""
    with replicated_exchange(acks=1, replica_ack_ms=600) as made:
        yield made


def recovered(exchange: ExchangeServer) -> None:
    """Waits until a conflict is reported, and recovers from it. Orders of the cards that lack nothing are taken."""
    until(lambda: "history" in exchange.missing(), "no conflict is reported")
    client, order = exchange.client(9), {"side": "buy", "price": "5.00"}
    codes = {client.post("/orders", json=order | {"card": card}).json().get("code") for card in CARDS}
    assert "history_conflict" in codes
    recover(exchange)


def test_orders_flow_after_a_kill_of_the_primary_and_nothing_acknowledged_is_lost(running: Running) -> None:
    """One replica must confirm, and there is one: of two, the sentinels might promote the one that has not."""
    exchange, group = running
    other = group.replicas[0]
    other.kill()
    with load(exchange) as traders:
        traders.flows_after(time.monotonic())
        began = time.monotonic()
        killed = group.fail_over()
        other.start(f"replicaof 127.0.0.1 {group.named().port}")
        assert traders.flows_after(began) < FLOWS_SECONDS
        assert traders.refusals["history_conflict"] == 0
        group.rejoin(killed)

    assert lost(traders.acknowledged, plain_url(group.primary)) == []
    assert given_twice(traders.acknowledged) == []
    check_all(exchange, group)
    until(lambda: exchange.tcgx("doctor").returncode == 0, "doctor finds a fault")


def set_acks(exchange: ExchangeServer, replicas: int) -> None:
    """From here on so many replicas must confirm."""
    exchange.stop_service("archiver", "api")
    exchange.servers.change(replica_acks=replicas)
    exchange.start_service("archiver", "api")


def test_no_order_is_acknowledged_that_a_promoted_replica_would_lack(running: Running) -> None:
    """Each of the two replicas must confirm: the sentinels may promote either, since they compare old positions."""
    exchange, group = running
    set_acks(exchange, 2)
    group.in_step()
    with load(exchange) as traders:
        traders.flows_after(time.monotonic())
        primary, replicas = group.primary, group.replicas
        cut_off(primary, *replicas)
        until(lambda: traders.refusals["overloaded"] > 3, "orders are not refused")
        cut_at = time.monotonic()
        archived = exchange.execute("SELECT card, sequence FROM archive_cursor ORDER BY card")
        read = exchange.client(1).get("/orders")
        assert read.status_code == 200, f"{read.text} {group.sentinels[0].output()[-3000:]}"
        primary.kill()
        until(lambda: group.named() is not primary and group.named().role() == "master", "nobody is promoted")
        assert max(each.sent_at for each in traders.acknowledged) < cut_at
        assert lost(traders.acknowledged, plain_url(group.named())) == []
        with group.named().client() as client:
            for row in archived:
                assert int(client.get(f"{{{row['card']}}}:sequence") or 0) >= row["sequence"]
        allow_replication(*replicas)
        primary.start(f"replicaof 127.0.0.1 {group.named().port}")
        traders.flows_after(time.monotonic())  # without `tcgx recover`: what is lost was not acknowledged
        assert traders.refusals["history_conflict"] == 0

    assert lost(traders.acknowledged, plain_url(group.named())) == []
    assert given_twice(traders.acknowledged) == []
    check_all(exchange, group)


def test_what_is_lost_without_acknowledgements_of_replicas_is_reported(running: Running) -> None:
    exchange, group = running
    set_acks(exchange, 0)
    group.in_step()
    with load(exchange) as traders:
        traders.flows_after(time.monotonic())
        primary, replicas = group.primary, group.replicas
        cut_off(primary, *replicas)
        traders.flows_after(time.monotonic())
        primary.kill()
        recovered(exchange)
        # The sentinels may promote the other replica right after the first one, and it lacks orders as well.
        flows = (not recover_from_conflict(exchange, traders, time.monotonic()) for _ in range(RECOVERIES_MAX))
        assert any(flows), "one conflict after the other"

    assert lost(traders.acknowledged, plain_url(group.named())) != []
    assert given_twice(traders.acknowledged) == []


async def writable(database_url: str) -> list[bool]:
    """Whether sessions of both kinds lead to a server that takes writes."""
    query = "SELECT NOT pg_is_in_recovery()"
    session = await postgres.connect(database_url)
    try:
        async with postgres.pool(database_url) as pool:
            return [await session.fetchval(query), await pool.fetchval(query)]
    finally:
        await session.close()


def test_a_promoted_postgresql_has_every_row_once_and_a_second_archiver_takes_over() -> None:
    with postgres_pair() as pair, exchange_server(postgres=pair, log_retention=1_000_000_000) as exchange:
        second = exchange.servers.service("archiver", log_level="info")
        try:
            until(lambda: "waiting to be the one" in second.output(), "the second archiver does not wait")
            with load(exchange) as traders:
                traders.flows_after(time.monotonic())
                exchange._services.pop("archiver").kill()
                killed_at = time.monotonic()
                second.works()
                assert time.monotonic() - killed_at < TAKEN_OVER_SECONDS
                traders.flows_after(time.monotonic())
                assert asyncio.run(writable(pair.url_with_the_standby_first)) == [True, True]
                asyncio.run(pair.promote())
                traders.flows_after(time.monotonic())
                assert traders.refusals == {}
            url = exchange.settings.redis_url
            settle(url, pair.servers[1].url)
            books = judged(url)
            assert_archived(pair.servers[1].url, books)
        finally:
            second.stop()
