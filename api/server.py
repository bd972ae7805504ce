"""One HTTP process: an app behind uvicorn and our protocol. Several processes share a port (TCGX_API_WORKERS)."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from functools import partial
from typing import cast

import structlog
import uvicorn
from litestar import Litestar

from api.http_protocol import Protocol, Timeouts
from api.listener import listen
from api.websocket_protocol import WebSocketProtocol
from core import service
from core.errors import StartError, TcgxError
from core.settings import Settings
from engine import nodes
from streams.websocket import REQUEST_BYTES_MAX

log = structlog.get_logger()


class Server(uvicorn.Server):
    """Uvicorn without its signal handlers: those end the process by the signal instead of with exit code 0."""

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


def _config(app: Litestar, settings: Settings) -> uvicorn.Config:
    protocol = partial(Protocol, fast_path=app.state.fast_path, timeouts=Timeouts.of(settings))
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
        timeout_graceful_shutdown=max(1, settings.stop_seconds - 2),
    )


async def serve(settings: Settings, stopping: asyncio.Event, create_app: Callable[[Settings], Litestar]) -> None:
    """Serves an app until `stopping` is set or a task of `app.state.background` ends.

    Requests that were accepted by then are still answered.

    Raises:
        Exception: the error of the background task that ended.
        StartError: the port is taken, or Redis is not configured to keep orders.
    """
    app = create_app(settings)
    service.freeze_garbage()
    async with nodes.connect(settings) as servers:
        await servers.check(durability=settings.durability)
    with contextlib.closing(listen(settings.host, settings.port, shared=settings.api_workers > 1)) as listener:
        server = Server(_config(app, settings))
        async with _services(app):
            serving = asyncio.create_task(server.serve(sockets=[listener]), name="serve")
            stop = asyncio.create_task(stopping.wait())
            background: Sequence[asyncio.Task[None]] = app.state.get("background", ())
            await asyncio.wait({serving, stop, *background}, return_when=asyncio.FIRST_COMPLETED)
            failed = [task for task in background if task.done()]
            await app.state.close_streams()  # while clients can still be told
            server.should_exit = True
            stop.cancel()
            await serving
        for task in failed:
            task.result()  # an error of it ends the process, which the supervisor starts again
        if not server.started:
            raise StartError("the API did not start; the lines above say why")
    log.info("stopped")
