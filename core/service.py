"""What every service process shares: its log lines, its signals, and trying again after a failure."""

import asyncio
import gc
import logging
import os
import signal
import sys
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar, cast

import orjson
import structlog
import uvloop

from core import standard_streams
from core.errors import TcgxError
from core.settings import Settings, read

T = TypeVar("T")

RETRY_SECONDS_MIN = 0.05
RETRY_SECONDS_MAX = 2.0
CANCEL_AGAIN_SECONDS = 0.1


def configure_logging(settings: Settings, service: str) -> None:
    """Structured lines on standard error, for people or as JSON; every line names the service."""
    level = logging.getLevelNamesMapping()[settings.log_level.upper()]
    renderer: Any
    if settings.log_format == "json":
        renderer = structlog.processors.JSONRenderer(
            serializer=lambda line, **_: orjson.dumps(line, default=str).decode()
        )
    else:
        renderer = structlog.dev.ConsoleRenderer(colors=standard_streams.wants_color(sys.stderr, os.environ))
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.PrintLoggerFactory(cast(Any, standard_streams.LogStream())),
        cache_logger_on_first_use=False,
    )
    structlog.contextvars.bind_contextvars(service=service)
    logging.basicConfig(level=logging.WARNING, stream=sys.stderr)


def stop_on_signals() -> asyncio.Event:
    """An event that the signals which end a process set."""
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in ending_signals():
        loop.add_signal_handler(number, stopping.set)
    return stopping


def ending_signals() -> list[signal.Signals]:
    """SIGTERM, SIGINT and, unless nohup has the process ignore it, SIGHUP, which a closed terminal sends."""
    ignores_hangup = signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    return [signal.SIGTERM, signal.SIGINT, *([] if ignores_hangup else [signal.SIGHUP])]


async def until_stopped(awaitable: Awaitable[T], stopping: asyncio.Event) -> T | None:
    """The result, or None when the process is to stop first; the wait is then canceled."""
    work = asyncio.ensure_future(awaitable)
    stop = asyncio.ensure_future(stopping.wait())
    try:
        await asyncio.wait({work, stop}, return_when=asyncio.FIRST_COMPLETED)
        return work.result() if work.done() else None
    finally:
        await cancel_and_wait(work, stop)


async def cancel_and_wait(*tasks: "asyncio.Future[Any]") -> None:
    """Cancels tasks and returns when they have ended, however.

    Once is not enough: `asyncio.wait_for` of Python 3.11, through which redis-py sends, loses a cancellation that
    comes in the step in which what it waits for is done; a loop around it would then go on for ever.
    """
    running = {task for task in tasks if not task.done()}
    while running:
        for task in running:
            task.cancel()
        _, running = await asyncio.wait(running, timeout=CANCEL_AGAIN_SECONDS)
    for task in tasks:
        if not task.cancelled():
            task.exception()


class Backoff:
    """The pause after a failure: doubling, bounded, cut short by the stop, and reset by a success."""

    def __init__(self, stopping: asyncio.Event) -> None:
        self._stopping = stopping
        self._seconds = RETRY_SECONDS_MIN

    def succeeded(self) -> None:
        """The next failure pauses briefly again."""
        self._seconds = RETRY_SECONDS_MIN

    async def wait(self) -> None:
        """Waits before the next try."""
        try:
            await asyncio.wait_for(self._stopping.wait(), self._seconds)
        except TimeoutError:
            self._seconds = min(2 * self._seconds, RETRY_SECONDS_MAX)


def settle() -> None:
    """Leaves all objects that there are now out of later garbage collections: what a service is made of stays until it
    ends, and walking through that took 50 ms, in which nobody is answered, and a fifth of the API's time."""
    gc.collect()
    gc.freeze()


def run(service: str, work: Callable[[Settings, asyncio.Event], Awaitable[None]], environment: dict[str, str]) -> int:
    """Runs a service until it is told to stop; the exit code is 0 after a stop, 1 after an error of ours."""

    async def main(settings: Settings) -> None:
        settle()
        await work(settings, stop_on_signals())

    standard_streams.open_missing()
    standard_streams.replace_unencodable()
    try:
        settings = read(environment)
        configure_logging(settings, service)
        uvloop.run(main(settings))
    except TcgxError as error:
        print(f"tcgx {service}: {error}", file=sys.stderr)  # noqa: T201 - the reason why it did not start
        return 1
    return 0
