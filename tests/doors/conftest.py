"""An exchange with all doors, one on a cluster with REST alone, and a trader's calls over each door."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import cache
from typing import Any

import pytest

from exchange import tokens
from testing.cluster_servers import cluster_exchange, redis_cluster
from testing.exchange import ExchangeServer, exchange_server
from testing.servers import free_port
from tests.doors.door import Door
from tests.doors.graphql_door import GraphqlDoor
from tests.doors.grpc_door import GrpcDoor
from tests.doors.rest import RestDoor

CLUSTER = " on a cluster"


Exchanges = Callable[[str], ExchangeServer]
Opened = Callable[[str, str], Door]


@pytest.fixture(scope="session")
def exchanges() -> Iterator[Exchanges]:
    """The exchange of a door, by the name of the door. Each is started once."""
    with ExitStack() as stack:

        @cache
        def on_one_server() -> ExchangeServer:
            services = ("engine", "archiver", "api", "grpc")
            return stack.enter_context(exchange_server(*services, grpc_port=free_port(), graphql="explore"))

        @cache
        def on_cluster() -> ExchangeServer:
            return stack.enter_context(cluster_exchange(stack.enter_context(redis_cluster())))

        yield lambda door_name: on_cluster() if door_name.endswith(CLUSTER) else on_one_server()


@pytest.fixture
def all_doors(exchanges: Exchanges, door_name: str) -> ExchangeServer:
    """The exchange of the door."""
    return exchanges(door_name)


@pytest.fixture(scope="session")
def made_doors() -> Iterator[dict[tuple[str, str], Any]]:
    """The doors that were made, by their exchange and name, and the value of `authorization`."""
    made: dict[tuple[str, str], Any] = {}
    yield made
    for each in made.values():
        each.close()


@pytest.fixture
def opened(all_doors: ExchangeServer, made_doors: dict[tuple[str, str], Any]) -> Opened:
    """Makes the calls of a door for a value of `authorization`; each pair once."""

    def make(name: str, authorization: str) -> Door:
        place = f"{name} {all_doors.url}", authorization
        if place not in made_doors:
            kind = name.removesuffix(CLUSTER)
            if kind == "grpc":
                made_doors[place] = GrpcDoor(f"127.0.0.1:{all_doors.settings.grpc_port}", authorization)
            else:
                made_doors[place] = {"rest": RestDoor, "graphql": GraphqlDoor}[kind](all_doors.url, authorization)
        door: Door = made_doors[place]
        return door

    return make


@pytest.fixture(params=["rest", "grpc", "graphql", f"rest{CLUSTER}"])
def door_name(request: pytest.FixtureRequest) -> str:
    """The name of a door."""
    name: str = request.param
    return name


@pytest.fixture
def as_trader(door_name: str, all_doors: ExchangeServer, opened: Opened) -> Iterator[Callable[..., Door]]:
    """Makes a trader's calls over the door. At the end the books are empty."""

    def make(trader_id: int, role: tokens.Role = "trader") -> Door:
        return opened(door_name, all_doors.bearer(trader_id, role)["authorization"])

    yield make
    for trader_id in (1, 2):
        opened("rest", all_doors.bearer(trader_id)["authorization"]).cancel_all(wait=5)


@pytest.fixture
def visitor(door_name: str, opened: Opened) -> Door:
    """The calls of somebody without a token."""
    return opened(door_name, "")
