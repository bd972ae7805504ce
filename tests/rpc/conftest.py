"""An exchange with a gRPC process."""

from collections.abc import Iterator

import grpc
import pytest

from testing.exchange import ExchangeServer, exchange_server
from testing.servers import free_port


@pytest.fixture(scope="session")
def server() -> Iterator[ExchangeServer]:
    """The exchange."""
    with exchange_server("engine", "archiver", "api", "grpc", grpc_port=free_port(), stream_slow_seconds=1) as started:
        yield started


@pytest.fixture
def channel(server: ExchangeServer) -> Iterator[grpc.Channel]:
    """A connection to the gRPC process."""
    with grpc.insecure_channel(f"127.0.0.1:{server.settings.grpc_port}") as made:
        yield made
