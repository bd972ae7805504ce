"""The life of a service process: start, logging, signals, stop, and backoff after failures."""

import asyncio
import gc
import logging
import math
import os
import signal
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, TypeVar, cast

import structlog
import uvloop

from core import heartbeat, log_files, standard_streams
from core.errors import StartError, TcgxError
from core.file_limit import raise_file_limit
from core.heartbeat import Progress
from core.loading import REPORT_SECONDS
from core.settings import Settings, read

T = TypeVar("T")

log = structlog.get_logger()

RETRY_SECONDS_MIN = 0.05
RETRY_SECONDS_MAX = 2.0
CANCEL_AGAIN_SECONDS = 0.1
START_CHECK_SECONDS = 0.2
BACKLOG = 2_048
"""Connections in the queue of a listening socket, at most."""


def configure_logging(settings: Settings, service: str) -> None:
    """Configures structured log lines on standard error, for people or as JSON. Every line names the service."""
    level = logging.getLevelNamesMapping()[settings.log_level.upper()]
    renderer: Any
    if settings.log_format == "json":
        renderer = structlog.processors.JSONRenderer(serializer=lambda line, **_: log_files.encoded(line).decode())
    else:
        renderer = structlog.dev.ConsoleRenderer(colors=standard_streams.wants_color(sys.stderr, os.environ))
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            *([log_files.LogFile(Path(settings.log_dir), service)] if settings.log_dir else []),
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.PrintLoggerFactory(cast(Any, standard_streams.LogStream())),
        cache_logger_on_first_use=False,
    )
    structlog.contextvars.bind_contextvars(service=service)
    logging.basicConfig(level=logging.WARNING, stream=sys.stderr)


def stop_on_signals() -> asyncio.Event:
    """An event that SIGTERM, SIGINT or SIGHUP sets."""
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in ending_signals():
        loop.add_signal_handler(number, stopping.set)
    return stopping


def ending_signals() -> list[signal.Signals]:
    """The signals that stop a service. SIGHUP of a closed terminal is one of them, unless nohup ignores it."""
    ignores_hangup = signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    return [signal.SIGTERM, signal.SIGINT, *([] if ignores_hangup else [signal.SIGHUP])]


async def until_stopped(awaitable: Awaitable[T], stopping: asyncio.Event) -> T | None:
    """The result of an awaitable. None if the stop comes first; the awaitable is then canceled."""
    work = asyncio.ensure_future(awaitable)
    stop = asyncio.ensure_future(stopping.wait())
    try:
        await asyncio.wait({work, stop}, return_when=asyncio.FIRST_COMPLETED)
        return work.result() if work.done() else None
    finally:
        await cancel_and_wait(work, stop)


async def wait_at_start(
    what: str, find_reason: Callable[[], Awaitable[str]], seconds: float, stopping: asyncio.Event
) -> None:
    """Returns once `find_reason` finds none, or after `seconds`, or at the stop. Logs `what` and the reason meanwhile.

    What is still missing then, the next step of the start tells.
    """
    clock = asyncio.get_running_loop().time
    ends_at, reported_at = clock() + seconds, -math.inf
    while clock() < ends_at and not stopping.is_set():
        why = await until_stopped(find_reason(), stopping)
        if not why:
            return
        if clock() - reported_at >= REPORT_SECONDS:
            reported_at = clock()
            log.info(what, reason=why, seconds_left=round(ends_at - clock()))
        await until_stopped(asyncio.sleep(START_CHECK_SECONDS), stopping)


async def cancel_and_wait(*tasks: "asyncio.Future[Any]") -> None:
    """Cancels tasks, waits until all have ended, and ignores their results and errors.

    A task is canceled repeatedly, because `asyncio.wait_for` of Python 3.11 can lose a cancellation. This happens if
    the cancellation arrives in the step in which the awaited future completes. redis-py sends through `wait_for`.
    """
    running = {task for task in tasks if not task.done()}
    while running:
        for task in running:
            task.cancel()
        _, running = await asyncio.wait(running, timeout=CANCEL_AGAIN_SECONDS)
    for task in tasks:
        if not task.cancelled():
            task.exception()


def tell_ready(settings: Settings, progress: Progress | None = None) -> None:
    """Writes a newline into the pipe `ready_fd`, from which a service manager learns that this service works.

    `progress` knows it from here on, too.

    The pipe stays open, so that its number never means another file. Its reader may have gone.

    Raises:
        StartError: the setting names no open pipe.
    """
    if progress is not None:
        progress.is_ready = True
    if not settings.ready_fd:
        return
    try:
        os.write(settings.ready_fd, b"\n")
    except BrokenPipeError:
        return
    except OSError as error:
        raise StartError(f"TCGX_READY_FD={settings.ready_fd} cannot be written to: {error.strerror}") from error


class Backoff:
    """The pause after a failure. It doubles up to a bound; a success resets it, and a stop ends it early."""

    def __init__(self, stopping: asyncio.Event) -> None:
        self._stopping = stopping
        self._seconds = RETRY_SECONDS_MIN

    def succeeded(self) -> None:
        """Resets the pause to the shortest one."""
        self._seconds = RETRY_SECONDS_MIN

    async def wait(self) -> None:
        """Pauses before the next attempt."""
        try:
            await asyncio.wait_for(self._stopping.wait(), self._seconds)
        except TimeoutError:
            self._seconds = min(2 * self._seconds, RETRY_SECONDS_MAX)


def freeze_garbage() -> None:
    """Excludes all objects that exist now from later garbage collections.

    The objects of a started service live until it ends. A full collection over them takes about 50 ms, and no
    request is answered meanwhile.
    """
    gc.collect()
    gc.freeze()


def run(
    service: str,
    work: Callable[[Settings, asyncio.Event, Progress], Awaitable[None]],
    environment: dict[str, str],
) -> int:
    """Runs a service until a signal stops it. The exit code is 0 after a stop and 1 after a `TcgxError`.

    `work` may record its activities in the progress. Heartbeats end if one of them stands still.
    """

    async def main(settings: Settings) -> None:
        stopping, progress = stop_on_signals(), Progress()
        async with heartbeat.sent_to_parent(environment, progress):
            freeze_garbage()
            await work(settings, stopping, progress)

    standard_streams.open_missing()
    standard_streams.replace_unencodable()
    try:
        settings = read(environment)
        configure_logging(settings, service)
        raise_file_limit()
        uvloop.run(main(settings))
    except TcgxError as error:
        print(f"tcgx {service}: {error}", file=sys.stderr)  # noqa: T201 - the reason why it did not start
        return 1
    return 0
