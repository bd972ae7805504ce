"""An exchange on a Redis Cluster whose servers take connections with TLS alone."""

from pathlib import Path

import msgspec
import pytest

from testing import certificates
from testing.cluster import check_all, move_card
from testing.cluster_servers import cluster_exchange, redis_cluster, slot_of
from testing.failover import load
from testing.flows import CARDS
from testing.processes import module
from testing.waiting import until

pytestmark = pytest.mark.server

DEBIANS_REDIS = "/usr/bin/redis-server"


@pytest.mark.skipif(not Path(DEBIANS_REDIS).exists(), reason="the packaged server has no TLS")
def test_orders_trade_over_tls_while_a_slot_moves_and_another_certificate_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TCGX_REDIS_BIN", DEBIANS_REDIS)
    own, other = certificates.make(tmp_path, "own"), certificates.make(tmp_path, "other")
    with redis_cluster(replicas=1, tls=own) as cluster, cluster_exchange(cluster, replica_acks=1) as exchange:
        assert len({cluster.primary_of(slot_of(card)).port for card in CARDS}) > 1
        with load(exchange) as traders:
            until(lambda: len(traders.acknowledged) > 100, "orders do not flow")
            moved = cluster.primary_of(slot_of(CARDS[0]))
            move_card(cluster, CARDS[0])
            assert cluster.primary_of(slot_of(CARDS[0])) is not moved
            until(
                lambda: any(
                    each.order_id.startswith(f"{CARDS[0]}-") and each.sent_at > traders.acknowledged[100].sent_at
                    for each in traders.acknowledged[101:]
                ),
                "orders of the moved card do not flow",
            )
        check_all(exchange, traders)

        for url, why in (
            (cluster.url.replace(str(own.cert), str(other.cert)), "certificate"),
            (cluster.url.replace("rediss", "redis").partition("/0?")[0], "TCGX_REDIS_URL"),
        ):
            refused = module("tcgx", "doctor", local=msgspec.structs.replace(exchange.settings, redis_url=url))
            assert refused.returncode == 1
            assert why in refused.stdout + refused.stderr
