"""`tcgx up --grpc`: the supervised process."""

import asyncio
from typing import Any

import grpc
import pytest

from cli import up
from cli.arguments import read
from core.errors import StartError
from core.settings import Settings
from rpc.v1 import exchange_pb2 as pb
from rpc.v1 import exchange_pb2_grpc
from testing.exchange import tcgx_up
from testing.processes import tcgx
from testing.servers import folder, free_port


@pytest.mark.server
def test_tcgx_up_has_a_grpc_process_that_is_restarted_too() -> None:
    port = free_port()
    with folder() as where, tcgx_up(where, "--grpc", variables={"TCGX_GRPC_PORT": str(port)}) as running:
        (trader,) = running.traders(1)
        with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
            stub: Any = exchange_pb2_grpc.ExchangeServiceStub(channel)  # type: ignore[no-untyped-call]
            metadata = [("authorization", trader.http.headers["authorization"])]
            request = pb.PlaceOrderRequest(card="pikachu", side="buy", price="5.00", wait_seconds=5)
            first = stub.PlaceOrder(request, metadata=metadata, timeout=20, wait_for_ready=True)
            assert tcgx(where, "restart").returncode == 0
            second = stub.PlaceOrder(request, metadata=metadata, timeout=20, wait_for_ready=True)
        listed = [order["order_id"] for order in trader.get("/orders")["orders"]]
        assert running.stop() == 0

    assert listed == [second.order.order_id, first.order.order_id]


def test_without_the_packages_the_option_is_refused_before_anything_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(up, "missing_packages", lambda name: ["grpc"] if name == "grpc" else [])

    with pytest.raises(StartError, match=r"--grpc needs grpc: pip install 'tcgx\[grpc\]'"):
        asyncio.run(up.run(read(["up", "--grpc", "--ephemeral"]), Settings()))
