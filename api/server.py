"""One HTTP process: an app behind uvicorn, with our protocol in front. Several share the port (TCGX_API_WORKERS)."""

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
from core import service
from core.errors import StartError, TcgxError
from core.settings import Settings
from engine import nodes

log = structlog.get_logger()


class Server(uvicorn.Server):
    """Uvicorn, stopped by our own signals: it would end by the signal instead of with exit code 0."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leaves the signals alone."""
        yield


@contextlib.asynccontextmanager
async def _services(app: Litestar) -> AsyncIterator[None]:
    """What the app connects to. Litestar does it in a task group, which wraps errors of ours."""
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


async def serve(settings: Settings, stopping: asyncio.Event, create_app: Callable[[Settings], Litestar]) -> None:
    """Serves an app until `stopping` is set, or a task of `app.state.background` ends; then finishes the requests that
    it has accepted.

    Raises:
        Exception: whatever ended a task of the background.
        StartError: the port is taken, or Redis cannot be trusted with orders.
    """
    app = create_app(settings)
    service.settle()
    async with nodes.connect(settings) as servers:
        await servers.check(durability=settings.durability)
    with contextlib.closing(listen(settings.host, settings.port, shared=settings.api_workers > 1)) as listener:
        timeouts = Timeouts.of(settings)
        config = uvicorn.Config(
            app,
            loop="none",
            http=cast(type[asyncio.Protocol], partial(Protocol, fast_path=app.state.fast_path, timeouts=timeouts)),
            ws="none",
            lifespan="off",  # uvicorn would print the traceback of an error of ours, and end by itself
            access_log=False,
            log_config=None,
            server_header=False,
            date_header=False,
            timeout_graceful_shutdown=max(1, settings.stop_seconds - 2),
        )
        server = Server(config)
        async with _services(app):
            serving = asyncio.create_task(server.serve(sockets=[listener]), name="serve")
            stop = asyncio.create_task(stopping.wait())
            background: Sequence[asyncio.Task[None]] = app.state.get("background", ())
            await asyncio.wait({serving, stop, *background}, return_when=asyncio.FIRST_COMPLETED)
            failed = [task for task in background if task.done()]
            server.should_exit = True
            stop.cancel()
            await serving
            for task in failed:
                await task  # whatever ended it ends the process, which is then started again
        if not server.started:
            raise StartError("the API did not start; the lines above say why")
    log.info("stopped")
