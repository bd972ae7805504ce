"""An exchange with all doors, and a trader's calls over each."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from exchange import tokens
from testing.exchange import ExchangeServer, exchange_server
from testing.servers import free_port
from tests.doors.door import Door
from tests.doors.graphql_door import GraphqlDoor
from tests.doors.grpc_door import GrpcDoor
from tests.doors.rest import RestDoor


@pytest.fixture(scope="session")
def all_doors() -> Iterator[ExchangeServer]:
    """The exchange."""
    with exchange_server("engine", "archiver", "api", "grpc", grpc_port=free_port(), graphql="explore") as started:
        yield started


@pytest.fixture(scope="session")
def opened(all_doors: ExchangeServer) -> Iterator[Callable[[str, str], Door]]:
    """Makes the calls of a door for a value of `authorization`; each pair once."""
    made: dict[tuple[str, str], Any] = {}

    make_of: dict[str, Callable[[str], Any]] = {
        "rest": lambda authorization: RestDoor(all_doors.url, authorization),
        "grpc": lambda authorization: GrpcDoor(f"127.0.0.1:{all_doors.settings.grpc_port}", authorization),
        "graphql": lambda authorization: GraphqlDoor(all_doors.url, authorization),
    }

    def make(name: str, authorization: str) -> Door:
        if (name, authorization) not in made:
            made[name, authorization] = make_of[name](authorization)
        door: Door = made[name, authorization]
        return door

    yield make
    for each in made.values():
        each.close()


@pytest.fixture(params=["rest", "grpc", "graphql"])
def door_name(request: pytest.FixtureRequest) -> str:
    """The name of a door."""
    name: str = request.param
    return name


@pytest.fixture
def as_trader(
    door_name: str, all_doors: ExchangeServer, opened: Callable[[str, str], Door]
) -> Iterator[Callable[..., Door]]:
    """Makes a trader's calls over the door. At the end the books are empty."""

    def make(trader_id: int, role: tokens.Role = "trader") -> Door:
        return opened(door_name, all_doors.bearer(trader_id, role)["authorization"])

    yield make
    for trader_id in (1, 2):
        opened("rest", all_doors.bearer(trader_id)["authorization"]).cancel_all(wait=5)


@pytest.fixture
def visitor(door_name: str, opened: Callable[[str, str], Door]) -> Door:
    """The calls of somebody without a token."""
    return opened(door_name, "")
