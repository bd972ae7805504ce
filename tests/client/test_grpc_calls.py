"""Each call of the client over gRPC: the tests of `test_calls.py` and `test_later_calls.py`, and some of gRPC alone."""

import filecmp
import ssl
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import tcgx_client
from tcgx_client import InvalidRequest, NotFound, OutcomeUnknown, Tcgx, Timeout, TransportError

from testing import certificates
from testing.exchange import ExchangeServer, exchange_server
from testing.faults import paused
from testing.servers import free_port
from tests.client.conftest import MakeClient
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


@pytest.fixture
def usual_options(exchange: ExchangeServer) -> dict[str, Any]:
    """Clients speak gRPC."""
    return {"transport": "grpc", "grpc_target": f"127.0.0.1:{exchange.settings.grpc_port}"}


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
    make_client: MakeClient, exchange: ExchangeServer
) -> None:
    nowhere = make_client(700_002, grpc_target=f"127.0.0.1:{free_port()}", max_retries=0)
    with pytest.raises(TransportError) as refused:
        nowhere.place(CARD, "buy", "1.50")
    assert not isinstance(refused.value, OutcomeUnknown | Timeout)

    hasty = make_client(700_003, timeout=0.5, max_retries=0)
    hasty.place(CARD, "buy", "1.50")  # its connection is open from here on
    with paused([exchange.pid("grpc")]), pytest.raises(OutcomeUnknown) as unknown:
        hasty.place(CARD, "buy", "1.50")
    found = make_client(700_003).resolve(unknown.value.client_order_id)
    assert found is None or found.status in ("accepted", "open")


def test_orders_go_over_tls_with_the_authority_that_the_client_knows(tmp_path: Path) -> None:
    own = certificates.make(tmp_path)
    tls = {"tls_cert": str(own.cert), "tls_key": str(own.key)}
    with exchange_server("engine", "archiver", "grpc", grpc_port=free_port(), **tls) as secure:
        token = secure.bearer(1)["authorization"].removeprefix("Bearer ")
        target = f"127.0.0.1:{secure.settings.grpc_port}"
        known = ssl.create_default_context(cafile=str(own.cert))

        def place(verify: ssl.SSLContext) -> str:
            options: dict[str, Any] = {"transport": "grpc", "grpc_target": target, "token": token, "max_retries": 0}
            with Tcgx("https://127.0.0.1:9", verify=verify, **options) as client:
                return str(client.place(CARD, "buy", "1.50", wait=5).status)

        assert place(known) == "open"
        with pytest.raises(TransportError):
            place(ssl.create_default_context())


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
