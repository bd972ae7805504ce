"""Limits over every door: what is refused for now says when to come back, and what is refused for good does not."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from testing.exchange import ExchangeServer, exchange_server
from testing.servers import free_port
from testing.waiting import until
from tests.doors.door import Door, Refused
from tests.doors.graphql_door import GraphqlDoor
from tests.doors.grpc_door import GrpcDoor
from tests.doors.rest import RestDoor

pytestmark = pytest.mark.server

BURST, OPEN = 3, 4
ORDER: dict[str, Any] = {"card": "pikachu", "side": "buy", "price": "2.00"}
MAKE: dict[str, Callable[[ExchangeServer, str], Any]] = {
    "rest": lambda server, authorization: RestDoor(server.url, authorization),
    "grpc": lambda server, authorization: GrpcDoor(f"127.0.0.1:{server.settings.grpc_port}", authorization),
    "graphql": lambda server, authorization: GraphqlDoor(server.url, authorization),
}


@pytest.fixture(scope="module")
def limited() -> Iterator[ExchangeServer]:
    """An exchange whose traders may place a few orders."""
    limits = {"trader_orders_per_second": 1, "trader_burst": BURST, "trader_open_orders_max": OPEN}
    with exchange_server("engine", "archiver", "api", "grpc", grpc_port=free_port(), graphql="on", **limits) as started:
        yield started


@pytest.fixture(params=[*MAKE])
def made(request: pytest.FixtureRequest, limited: ExchangeServer) -> Iterator[Callable[[int], Door]]:
    """Makes a trader's calls over a door."""
    doors: list[Any] = []

    def make(trader_id: int) -> Door:
        doors.append(MAKE[request.param](limited, limited.bearer(trader_id)["authorization"]))
        door: Door = doors[-1]
        return door

    make.first = 100 * [*MAKE].index(request.param)  # type: ignore[attr-defined]
    yield make
    for door in doors:
        door.close()


def refusal(call: Callable[[], Any]) -> Refused:
    with pytest.raises(Refused) as refused:
        call()
    return refused.value


def outcome(door: Door) -> str:
    """The status of a new order, or the code of its refusal."""
    try:
        return str(door.place(**ORDER, wait=5)["status"])
    except Refused as refused:
        return refused.code


def test_too_many_orders_at_once_may_come_later(made: Any) -> None:
    door = made(made.first + 1)
    for _ in range(BURST):
        door.place(**ORDER | {"time_in_force": "ioc"}, wait=1)

    found = refusal(lambda: [door.place(**ORDER | {"time_in_force": "ioc"}) for _ in range(BURST)])

    assert found.code == "rate_limited"
    assert found.retry_after >= 1
    assert "repeat it after" in found.detail


def test_too_many_open_orders_may_not(made: Any) -> None:
    door = made(made.first + 2)
    for _ in range(OPEN):
        until(lambda: outcome(door) == "open", "the order is not taken")

    until(lambda: outcome(door) != "rate_limited", "the rate is never kept")
    found = refusal(lambda: door.place(**ORDER))

    assert (found.code, found.retry_after) == ("too_many_open_orders", 0)


def test_a_halted_card_may_trade_again(made: Any, limited: ExchangeServer) -> None:
    door, admin = made(made.first + 3), limited.bearer(9, "admin")
    assert limited.http.post("/admin/cards/squirtle/halt", json={"reason": "a test"}, headers=admin).status_code == 200
    try:
        found = refusal(lambda: door.place(**ORDER | {"card": "squirtle"}))
    finally:
        assert limited.http.post("/admin/cards/squirtle/resume", headers=admin).status_code == 200

    assert found.code == "card_halted"
    assert found.retry_after >= 1
    assert door.place(**ORDER | {"card": "squirtle"})["status"] == "accepted"
