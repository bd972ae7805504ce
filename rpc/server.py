"""One gRPC process: start, health, and a stop that is bounded although clients keep their streams open."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import structlog
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1._async import HealthServicer
from grpc_reflection.v1alpha import reflection

from api import tls
from core import service
from core.errors import StartError
from core.heartbeat import Progress
from core.settings import Settings
from exchange import wiring
from exchange.readiness import Readiness
from observe import exposition
from rpc.service import ExchangeService
from rpc.v1 import exchange_pb2, exchange_pb2_grpc
from streams.hub import Hub

log = structlog.get_logger()

NAME = exchange_pb2.DESCRIPTOR.services_by_name["ExchangeService"].full_name
HEALTH_SECONDS = 0.5
"""Between looks at the readiness."""
SERVING, NOT_SERVING = health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING


async def work(settings: Settings, stopping: asyncio.Event, progress: Progress) -> None:
    """The gRPC service.

    Raises:
        StartError: the port is taken, the certificate cannot be used, or Redis is not configured to keep orders.
    """
    tls.check(settings)
    await wiring.wait_for_servers(settings, stopping)
    if stopping.is_set():
        return
    async with wiring.connect(settings) as services, exposition.serving(settings, "grpc", progress=progress):
        hub = Hub.of(settings, services)
        server = grpc.aio.server(options=_options(settings), maximum_concurrent_rpcs=settings.connections_max or None)
        health = HealthServicer()
        calls = ExchangeService(settings, services, hub)
        exchange_pb2_grpc.add_ExchangeServiceServicer_to_server(calls, server)  # type: ignore[no-untyped-call]
        health_pb2_grpc.add_HealthServicer_to_server(health, server)
        reflection.enable_server_reflection(
            (NAME, health_pb2.DESCRIPTOR.services_by_name["Health"].full_name, reflection.SERVICE_NAME), server
        )
        address = _listen(server, settings)
        await server.start()
        service.tell_ready(settings, progress)
        log.info("answering gRPC calls", address=address)
        async with _health_told(health, services.readiness):
            stop = asyncio.create_task(stopping.wait())
            await asyncio.wait({stop, *services.background}, return_when=asyncio.FIRST_COMPLETED)
            stop.cancel()
        await health.enter_graceful_shutdown()
        calls.stop_reading()
        await hub.close()
        ending = asyncio.get_running_loop().call_later(settings.stop_seconds / 2, services.exchange.end_waits)
        await server.stop(max(1, settings.stop_seconds - 2))
        ending.cancel()
        for task in services.background:
            if task.done():
                task.result()  # an error of it ends the process, which the supervisor starts again
    log.info("stopped")


def _options(settings: Settings) -> list[tuple[str, int]]:
    """Options of the server. The port is shared, so that a successor can listen before this process ends."""
    return [
        ("grpc.max_receive_message_length", settings.body_bytes_max),
        ("grpc.so_reuseport", 1),
        ("grpc.max_concurrent_streams", settings.append_pending_max),
        ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
        ("grpc.keepalive_time_ms", 30_000),
        ("grpc.keepalive_timeout_ms", 10_000),
    ]


def _listen(server: grpc.aio.Server, settings: Settings) -> str:
    """Binds the port; returns the address.

    Raises:
        StartError: the address cannot be bound.
    """
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    address = f"{host}:{settings.grpc_port}"
    try:
        if settings.tls_cert:
            pair = (Path(settings.tls_key).read_bytes(), Path(settings.tls_cert).read_bytes())
            server.add_secure_port(address, grpc.ssl_server_credentials([pair]))
        else:
            server.add_insecure_port(address)
    except RuntimeError as error:
        raise StartError(f"gRPC cannot listen on {address}: choose another port with TCGX_GRPC_PORT") from error
    return address


@contextlib.asynccontextmanager
async def _health_told(health: HealthServicer, readiness: Readiness) -> AsyncIterator[None]:
    """Tells clients of the health service whether orders are taken, as `/health/ready` does."""

    async def tell() -> None:
        while True:
            status = SERVING if (await readiness.report()).takes_orders else NOT_SERVING
            for name in ("", NAME):
                await health.set(name, status)
            await asyncio.sleep(HEALTH_SECONDS)

    telling = asyncio.create_task(tell(), name="health")
    try:
        yield
    finally:
        await service.cancel_and_wait(telling)
