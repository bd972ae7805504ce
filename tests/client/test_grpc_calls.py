"""Each call of the client over gRPC: the tests of `test_calls.py` and `test_later_calls.py`, and some of gRPC alone."""

import asyncio
import filecmp
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import tcgx_client
from tcgx_client import AsyncTcgx, InvalidRequest, NotFound, OutcomeUnknown, Tcgx, Timeout, TransportError

from testing.exchange import ExchangeServer, exchange_server
from testing.servers import free_port
from tests.client.conftest import Awaited, MakeClient, identity
from tests.client.test_calls import *  # noqa: F403
from tests.client.test_calls import CARD
from tests.client.test_later_calls import *  # noqa: F403
from tests.client.test_later_calls import needs  # noqa: F401

pytestmark = pytest.mark.server


@pytest.fixture(scope="module")
def exchange() -> Iterator[ExchangeServer]:
    """An exchange with both doors."""
    with exchange_server("engine", "archiver", "api", "grpc", grpc_port=free_port()) as started:
        yield started


@pytest.fixture(params=["sync", "async"])
def make_client(request: pytest.FixtureRequest, exchange: ExchangeServer) -> Iterator[MakeClient]:
    """Makes clients over gRPC, of one kind or the other; `trader_id=0` is nobody."""
    made: list[Any] = []
    with asyncio.Runner() as runner:

        def make(trader_id: int = 1, **options: Any) -> Any:
            if trader_id:
                options = identity(exchange, trader_id) | options
            url = options.pop("base_url", exchange.url)
            over = {"transport": "grpc", "grpc_target": f"127.0.0.1:{exchange.settings.grpc_port}"} | options
            is_sync = request.param == "sync"
            client = Tcgx(url, **over) if is_sync else Awaited(AsyncTcgx(url, **over), runner)
            made.append(client)
            return client

        yield make
        for client in made:
            client.close()


def test_orders_and_books_go_over_grpc_and_cards_over_http(make_client: MakeClient) -> None:
    client = make_client(700_001, base_url="http://127.0.0.1:9")

    placed = client.place(CARD, "buy", "1.50", wait=5)

    assert client.book(CARD).best_bid[0] == placed.price
    assert client.cancel(placed.order_id, wait=5).status == "canceled"
    with pytest.raises(TransportError):
        client.cards()


def test_a_wrong_field_has_the_code_and_the_sentence_of_the_exchange(client: Any) -> None:
    with pytest.raises(InvalidRequest) as refused:
        client.place(CARD, "buy", "11.00")

    assert refused.value.code == "invalid_price"
    assert [(each.field, each.code) for each in refused.value.problem.errors] == [("price", "invalid_price")]
    with pytest.raises(NotFound):
        client.order(f"{CARD}-999999")


def test_without_a_server_nothing_was_sent_and_after_silence_the_outcome_is_unknown(
    make_client: MakeClient,
) -> None:
    nowhere = make_client(700_002, grpc_target=f"127.0.0.1:{free_port()}", max_retries=0)
    with pytest.raises(TransportError) as refused:
        nowhere.place(CARD, "buy", "1.50")
    assert not isinstance(refused.value, OutcomeUnknown | Timeout)

    hasty = make_client(700_003, timeout=0.000_001, max_retries=0)
    with pytest.raises(OutcomeUnknown) as unknown:
        hasty.place(CARD, "buy", "1.50")
    found = make_client(700_003).resolve(unknown.value.client_order_id)
    assert found is None or found.status in ("accepted", "open")


def test_messages_are_those_of_the_exchange() -> None:
    ours = Path(tcgx_client.__file__).parent / "contract"
    theirs = Path(__file__).parents[2] / "rpc" / "v1"

    assert filecmp.cmp(ours / "exchange_pb2.py", theirs / "exchange_pb2.py", shallow=False)
    assert filecmp.cmp(ours / "exchange_pb2.pyi", theirs / "exchange_pb2.pyi", shallow=False)


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: Tcgx("http://127.0.0.1:9", transport="smoke"), "'http' or 'grpc'"),  # type: ignore[arg-type]
        (lambda: Tcgx("https://127.0.0.1:9", transport="grpc", verify=False), "checks every certificate"),
    ],
)
def test_what_no_transport_can_do_is_refused(make: Callable[[], object], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        make()
