"""An exchange on a Redis Cluster, with the users of deploy/redis/users.acl, and with the user of the AWS template."""

import secrets
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import httpx
import msgspec
import pytest

from testing import cloud
from testing.cluster_servers import RedisCluster, redis_cluster, slot_of
from testing.exchange import ExchangeServer, exchange_server
from testing.flows import CARDS
from testing.replication import PASSWORD, InPlaceOfRedis
from testing.servers import free_port
from testing.services import Service
from testing.waiting import until
from tests.whole.test_least_privilege import NOT_GRANTED, SERVICES, WAIT, lives, rules_of

pytestmark = pytest.mark.server


def of_the_file(service: str, password: str) -> list[str]:
    """The rules of a service's user in deploy/redis/users.acl."""
    return rules_of(service, password)


def of_aws(service: str, password: str) -> list[str]:  # noqa: ARG001 - one user for all services
    """The rules of the user of MemoryDB."""
    user = cloud.template()["Resources"]["RedisUser"]["Properties"]
    return [*user["AccessString"].split(), f">{password}"]


@pytest.fixture
def cluster() -> Iterator[RedisCluster]:
    with redis_cluster(size=3) as found:
        yield found


@contextmanager
def services(exchange: ExchangeServer, cluster: RedisCluster, rules: Any) -> Iterator[httpx.Client]:
    """The services of an exchange, each with a user of its own on every server, and a client of the API."""
    local = msgspec.structs.replace(exchange.settings, port=free_port(), api_workers=1)
    started: dict[str, Service] = {}
    with (
        httpx.Client(base_url=f"http://127.0.0.1:{local.port}", trust_env=False, timeout=15) as http,
        ExitStack() as ends,
    ):
        for name in SERVICES:
            user, password = f"{rules.__name__}-{name}", secrets.token_hex(16)
            for node in cluster.servers:
                node.call("ACL", "SETUSER", user, "reset", *rules(name, password))
            url = cluster.url.replace(f"//:{PASSWORD}@", f"//{user}:{password}@")
            own = msgspec.structs.replace(local, redis_url=url)
            started[name] = Service(name, own, exchange.data_dir / f"{user}.output")
            ends.callback(started[name].stop)
            if name != "api":
                started[name].works()
        until(lambda: lives(http), f"the API does not answer:\n{started['api'].output()}")
        for node in cluster.servers:  # of the start: the archiver tries again until the API has begun the histories
            node.call("ACL", "LOG", "RESET")
        yield http


@pytest.mark.parametrize(("rules", "tried"), [(of_the_file, NOT_GRANTED), (of_aws, {*NOT_GRANTED, "role"})])
def test_orders_of_every_server_trade_and_are_archived_and_nothing_is_refused(
    cluster: RedisCluster, rules: Any, tried: set[str]
) -> None:
    with exchange_server("engine", redis=InPlaceOfRedis(cluster)) as exchange:
        exchange.stop_service("engine")
        with services(exchange, cluster, rules) as http:
            assert len({cluster.primary_of(slot_of(card)).port for card in CARDS}) > 1
            for card in CARDS:
                order = {"card": card, "side": "buy", "price": "1.00", "client_order_id": f"{rules.__name__}-{card}"}
                buyer, seller = exchange.bearer(1), exchange.bearer(2)
                assert http.post("/orders", json=order, headers=buyer).status_code == 202
                sold = http.post("/orders", json=order | {"side": "sell"}, headers=seller | WAIT).json()
                assert sold.get("status") == "filled", sold
                assert http.get(f"/cards/{card}/book").status_code == 200
            assert http.delete("/orders", headers=exchange.bearer(1) | WAIT).status_code == 200
            exchange.archived()
            until(lambda: http.get("/health").status_code == 200, "a part does not work")
            refused = {command for node in cluster.servers for command in _refused(node.call("ACL", "LOG"))}

    assert refused <= tried


def _refused(entries: Any) -> Iterator[str]:
    for entry in entries:
        about = dict(zip(entry[0::2], entry[1::2], strict=True)) if isinstance(entry, list) else entry
        yield next(
            value.decode() if isinstance(value, bytes) else value
            for name, value in about.items()
            if name in (b"object", "object")
        )
