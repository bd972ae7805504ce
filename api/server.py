"""One HTTP process: an app behind uvicorn and our protocol. Several processes share a port (TCGX_API_WORKERS)."""

import asyncio
import contextlib
import signal
import socket
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from functools import partial
from typing import cast

import structlog
import uvicorn
from litestar import Litestar

from api import common_headers, tls
from api.connections import Connections
from api.context import Context
from api.http_protocol import Drain, Protocol, Timeouts
from api.listener import HAND_OVER_SECONDS, inherited, listen
from api.websocket_protocol import WebSocketProtocol
from core import service
from core.errors import StartError, TcgxError
from core.settings import Settings
from exchange import wiring
from streams.websocket import REQUEST_BYTES_MAX

ACCEPTS = 16
"""Connections that are accepted in one turn of the event loop. libuv accepts one a turn of each descriptor, and under
load a turn takes many milliseconds: new clients would wait for minutes."""

log = structlog.get_logger()


class Server(uvicorn.Server):
    """Uvicorn without its signal handlers: those end the process by the signal instead of with exit code 0."""

    def __init__(self, app: Litestar, settings: Settings) -> None:
        self._settings = settings
        self._drain = Drain()
        super().__init__(_config(app, settings, self._drain))

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begins to accept connections, and says so."""
        await super().startup(sockets)
        service.tell_ready(self._settings)

    async def drain(self, *, seconds: float, accepts: bool) -> None:
        """Makes each answer the last one of its connection, for up to `seconds`.

        With `accepts`, new connections are accepted all the time. Without, the drain ends with the last connection.
        """
        self._drain.is_on = True
        for connection in list(self.server_state.connections):
            cast(Protocol, connection).drain()
        if accepts:
            await asyncio.sleep(seconds)
            return
        for listening in self.servers:
            listening.close()
        if self.server_state.connections:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await self._drain.emptied.wait()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leaves the signal handlers as they are."""
        yield


@contextlib.asynccontextmanager
async def _services(app: Litestar) -> AsyncIterator[None]:
    """Runs the lifespan of the app. Litestar runs it in a task group; an error of ours is taken out of its group."""
    try:
        async with app.lifespan():
            yield
    except ExceptionGroup as group:
        error: Exception = group
        while isinstance(error, ExceptionGroup):
            error = error.exceptions[0]
        if isinstance(error, TcgxError):
            raise error from group
        raise


def _config(app: Litestar, settings: Settings, drain: Drain) -> uvicorn.Config:
    connections = Connections.of(settings)
    connections.watch()
    app.state.connections = connections
    protocol = partial(
        Protocol, fast_path=app.state.fast_path, timeouts=Timeouts.of(settings), connections=connections, drain=drain
    )
    return uvicorn.Config(
        app,
        loop="none",
        http=cast(type[asyncio.Protocol], protocol),
        ws=WebSocketProtocol,
        ws_max_size=REQUEST_BYTES_MAX,
        ws_per_message_deflate=False,  # it would cost memory for each connection, and shared messages would be no more
        lifespan="off",  # uvicorn would print the traceback of a StartError and exit
        access_log=False,
        log_config=None,
        server_header=False,
        date_header=False,
        ssl_certfile=settings.tls_cert or None,
        ssl_keyfile=settings.tls_key or None,
        timeout_graceful_shutdown=max(1, settings.stop_seconds - 2),
    )


class _DrainSeconds:
    """The length of the drain: that of the settings, or the longer one of a server that SIGUSR1 has stopped."""

    def __init__(self, settings: Settings, stopping: asyncio.Event) -> None:
        self.now: float = settings.drain_seconds
        self._stopping = stopping
        if threading.current_thread() is threading.main_thread():
            asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, self._hand_over)

    def _hand_over(self) -> None:
        self.now = max(self.now, HAND_OVER_SECONDS)
        self._stopping.set()


def _end_waits(app: Litestar) -> None:
    """Ends waits for a match, so that these requests are answered in time: their orders are accepted already."""
    context: Context = app.state.context
    context.exchange.end_waits()


async def serve(settings: Settings, stopping: asyncio.Event, create_app: Callable[[Settings], Litestar]) -> None:
    """Serves an app until `stopping` is set or a task of `app.state.background` ends.

    Then the server drains for `drain_seconds`. SIGUSR1 stops it as well, once a successor accepts on the same inherited
    socket: the server drains for at least `HAND_OVER_SECONDS`, and accepts nothing. Requests that were accepted by the
    end of the drain are still answered; waits for a match end early.

    Raises:
        Exception: the error of the background task that ended.
        StartError: the port is taken, the certificate cannot be used, or Redis is not configured to keep orders.
    """
    tls.check(settings)
    common_headers.set_tls(enabled=bool(settings.tls_cert))
    app = create_app(settings)
    service.freeze_garbage()
    drain_seconds = _DrainSeconds(settings, stopping)
    await wiring.wait_for_servers(settings, stopping)
    if stopping.is_set():
        return
    outliving = inherited(settings.listen_fd)
    own = outliving or listen(settings.host, settings.port, shared=settings.api_workers > 1)
    with contextlib.closing(own) as listener:
        server = Server(app, settings)
        async with _services(app):
            sockets = [listener, *(listener.dup() for _ in range(ACCEPTS - 1))]
            serving = asyncio.create_task(server.serve(sockets=sockets), name="serve")
            stop = asyncio.create_task(stopping.wait())
            background: Sequence[asyncio.Task[None]] = app.state.get("background", ())
            await asyncio.wait({serving, stop, *background}, return_when=asyncio.FIRST_COMPLETED)
            app.state.draining = stopping.is_set()
            await app.state.close_streams()  # while clients can still be told
            if server.started and stopping.is_set():
                draining = asyncio.create_task(server.drain(seconds=drain_seconds.now, accepts=outliving is None))
                await asyncio.wait({draining, serving, *background}, return_when=asyncio.FIRST_COMPLETED)
                await service.cancel_and_wait(draining)
            failed = [task for task in background if task.done()]
            server.should_exit = True
            stop.cancel()
            ending = asyncio.get_running_loop().call_later(settings.stop_seconds / 2, _end_waits, app)
            await serving
            ending.cancel()
        for task in failed:
            task.result()  # an error of it ends the process, which the supervisor starts again
        if not server.started:
            raise StartError("the API did not start; the lines above say why")
    log.info("stopped")
