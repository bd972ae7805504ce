"""What is gRPC's own: health, reflection, deadlines, streams of batches, flow control and the stop."""

import queue
import sys
import threading
import time
from collections.abc import Iterator
from concurrent import futures
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

from rpc.check import takes_calls
from rpc.server import NAME
from rpc.v1 import exchange_pb2 as pb
from rpc.v1 import exchange_pb2_grpc
from testing import certificates
from testing.exchange import ExchangeServer, exchange_server
from testing.faults import all_of, paused
from testing.processes import finished
from testing.servers import free_port
from testing.waiting import until
from tests.doors.grpc_door import refusal

pytestmark = pytest.mark.server

PAGE = 4_096
SECONDS = 20
ORDER = pb.NewOrder(card="charmander", side="buy", price="1.00")


def stub_of(channel: grpc.Channel) -> Any:
    return exchange_pb2_grpc.ExchangeServiceStub(channel)  # type: ignore[no-untyped-call]


def metadata_of(server: ExchangeServer, trader_id: int) -> list[tuple[str, str]]:
    return list(server.bearer(trader_id).items())


def batch(count: int) -> pb.StreamOrdersRequest:
    return pb.StreamOrdersRequest(items=[pb.Item(place=ORDER)] * count)


def test_health_says_whether_orders_are_taken(server: ExchangeServer, channel: grpc.Channel) -> None:
    health: Any = health_pb2_grpc.HealthStub(channel)

    def status(name: str) -> Any:
        return health.Check(health_pb2.HealthCheckRequest(service=name), timeout=SECONDS).status

    until(lambda: status(NAME) == health_pb2.HealthCheckResponse.SERVING, "it does not serve")
    with paused(all_of(server.servers.redis)):
        until(lambda: status("") == health_pb2.HealthCheckResponse.NOT_SERVING, "it serves without Redis")
    until(lambda: status("") == health_pb2.HealthCheckResponse.SERVING, "it does not serve again")


def test_the_probe_of_a_container_looks_at_the_server(server: ExchangeServer) -> None:
    def probed(port: int, **variables: str) -> int:
        settings = {"TCGX_GRPC_PORT": str(port), "TCGX_JWT_SECRET": 32 * "x"} | variables
        return finished([sys.executable, "-P", "-m", "rpc.check"], variables=settings).returncode

    assert probed(server.settings.grpc_port) == 0
    assert probed(free_port()) == 1
    with paused(all_of(server.servers.redis)):
        until(lambda: probed(server.settings.grpc_port) == 1, "it serves without Redis")


def test_the_probe_shakes_hands_where_there_is_tls(tmp_path: Path) -> None:
    own = certificates.make(tmp_path)
    tls = {"tls_cert": str(own.cert), "tls_key": str(own.key)}
    with exchange_server("grpc", grpc_port=free_port(), **tls) as secure:
        until(lambda: takes_calls(secure.settings.grpc_port, is_tls=True), "no handshake")
        assert not takes_calls(secure.settings.grpc_port, is_tls=False)


def test_reflection_shows_the_contract(channel: grpc.Channel) -> None:
    database = ProtoReflectionDescriptorDatabase(channel)

    assert NAME in database.get_services()
    assert database.FindFileContainingSymbol(NAME).name == "rpc/v1/exchange.proto"


def test_an_api_key_gives_a_token(server: ExchangeServer, channel: grpc.Channel) -> None:
    given = stub_of(channel).GetToken(pb.GetTokenRequest(trader_id=3, api_key=server.api_key(3)), timeout=SECONDS)

    headers = [("authorization", f"Bearer {given.access_token}")]
    assert stub_of(channel).ListOrders(pb.ListOrdersRequest(), metadata=headers, timeout=SECONDS).orders == []
    with pytest.raises(grpc.RpcError) as refused:
        stub_of(channel).GetToken(pb.GetTokenRequest(trader_id=3, api_key="wrong"), timeout=SECONDS)
    assert refused.value.code() is grpc.StatusCode.UNAUTHENTICATED
    assert refusal(refused.value).code == "invalid_credentials"


def test_a_deadline_that_passes_after_the_append_leaves_one_order(
    server: ExchangeServer, channel: grpc.Channel
) -> None:
    """The engine stands still, so the wait for the match outlasts the deadline. The repeat finds the first order."""
    request = pb.PlaceOrderRequest(card="charmander", side="buy", price="1.00", client_order_id="late", wait_seconds=5)
    metadata = metadata_of(server, 4)
    before = server.sequences()["charmander"]
    with paused([server.pid("engine")]), pytest.raises(grpc.RpcError) as late:
        stub_of(channel).PlaceOrder(request, metadata=metadata, timeout=0.5)

    repeated = stub_of(channel).PlaceOrder(request, metadata=metadata, timeout=SECONDS)

    assert late.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    assert repeated.order.order_id == f"charmander-{before + 1}"
    assert server.sequences()["charmander"] == before + 1


def test_a_deadline_that_passes_within_the_append_leaves_at_most_one_order(
    server: ExchangeServer, channel: grpc.Channel
) -> None:
    """Redis stands still, so nobody knows yet whether the order is in the log. The repeat finds out."""
    request = pb.PlaceOrderRequest(card="squirtle", side="buy", price="1.00", client_order_id="in-flight")
    metadata = metadata_of(server, 4)
    before = server.sequences()["squirtle"]
    with paused(all_of(server.servers.redis)), pytest.raises(grpc.RpcError) as late:
        stub_of(channel).PlaceOrder(request, metadata=metadata, timeout=0.5)
    server.ready()

    repeated = stub_of(channel).PlaceOrder(request, metadata=metadata, timeout=SECONDS)

    assert late.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    assert repeated.order.order_id == f"squirtle-{before + 1}"
    assert server.sequences()["squirtle"] == before + 1


def test_a_message_that_is_too_large_is_refused(server: ExchangeServer, channel: grpc.Channel) -> None:
    request = pb.GetTokenRequest(trader_id=1, api_key="x" * (server.settings.body_bytes_max + 1))

    with pytest.raises(grpc.RpcError) as refused:
        stub_of(channel).GetToken(request, timeout=SECONDS)

    assert refused.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


def test_batches_of_a_stream_are_answered_in_order(server: ExchangeServer, channel: grpc.Channel) -> None:
    sizes = [1, 100, 0, 7, 1_001, 1_000]

    responses = list(
        stub_of(channel).StreamOrders(
            iter([batch(size) for size in sizes]), metadata=metadata_of(server, 5), timeout=SECONDS
        )
    )

    assert [len(each.results) for each in responses] == [1, 100, 0, 7, 0, 1_000]
    assert [each.error.code for each in responses] == ["", "", "invalid_orders", "", "invalid_orders", ""]
    names = [result.order.order_id for each in responses for result in each.results]
    numbers = [int(name.rpartition("-")[2]) for name in names]
    assert numbers == list(range(numbers[0], numbers[0] + 1_108))


def test_a_stream_without_a_token_is_refused(channel: grpc.Channel) -> None:
    with pytest.raises(grpc.RpcError) as refused:
        list(stub_of(channel).StreamOrders(iter([batch(1)]), timeout=SECONDS))

    assert refusal(refused.value).code == "token_missing"


def resident_bytes(server: ExchangeServer) -> int:
    return int(Path(f"/proc/{server.pid('grpc')}/statm").read_text().split()[1]) * PAGE


def test_a_client_that_reads_nothing_is_not_read_from(server: ExchangeServer, channel: grpc.Channel) -> None:
    """Flow control: what it sends and does not read takes bounded memory, and nobody else waits."""
    sent: queue.SimpleQueue[int] = queue.SimpleQueue()
    gone = threading.Event()

    def requests() -> Iterator[pb.StreamOrdersRequest]:
        while not gone.is_set() and sent.qsize() < 2_000:
            sent.put(1)
            yield batch(500)

    options = [("grpc.http2.lookahead_bytes", 65_536)]
    with grpc.insecure_channel(f"127.0.0.1:{server.settings.grpc_port}", options=options) as own:
        before = resident_bytes(server)
        call = stub_of(own).StreamOrders(requests(), metadata=metadata_of(server, 6))
        still = 0
        last = -1
        while still < 10:  # the client sends nothing more for 2 s
            still, last = (still + 1, last) if sent.qsize() == last else (0, sent.qsize())
            signal_wait(0.2)
        growth = resident_bytes(server) - before
        began = time.monotonic()
        stub_of(channel).PlaceOrder(
            pb.PlaceOrderRequest(card="bulbasaur", side="buy", price="1.00"),
            metadata=metadata_of(server, 7),
            timeout=SECONDS,
        )
        others = time.monotonic() - began
        gone.set()
        call.cancel()
    assert last < 2_000
    assert growth < 64_000_000
    assert others < 1.0


def signal_wait(seconds: float) -> None:
    """Nothing may happen in this time, so there is nothing to wait for."""
    threading.Event().wait(seconds)


def test_streams_end_with_a_bye_and_the_process_in_time(server: ExchangeServer) -> None:
    port = server.settings.grpc_port
    events: list[pb.StreamEventsResponse] = []
    with grpc.insecure_channel(f"127.0.0.1:{port}") as own, futures.ThreadPoolExecutor() as pool:
        call = stub_of(own).StreamEvents(pb.StreamEventsRequest(channels=["trades:pikachu"]))
        orders = stub_of(own).StreamOrders(forever(server), metadata=metadata_of(server, 8))
        assert next(orders).results
        reading = pool.submit(lambda: events.extend(call))
        until(lambda: events, "the stream does not begin")
        began = time.monotonic()
        assert server.stop_service("grpc") == 0
        seconds = time.monotonic() - began
        reading.result(timeout=SECONDS)
        with pytest.raises(grpc.RpcError) as ended:
            next(orders)
    server.start_service("grpc")

    assert [events[0].event, events[-1].event] == ["hello", "bye"]
    assert "restarting" in events[-1].data
    assert (refusal(ended.value).code, refusal(ended.value).retry_after) == ("overloaded", 1)
    assert seconds < 5


def forever(server: ExchangeServer) -> Iterator[pb.StreamOrdersRequest]:
    """One batch, and then an open stream."""
    yield batch(1)
    threading.Event().wait(server.settings.stop_seconds * 2)
