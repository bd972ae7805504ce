"""Runs the coroutine of a command until it ends or a signal cancels it."""

import argparse
import asyncio
import importlib
import signal
from collections.abc import Awaitable, Callable, Mapping

import msgspec
import uvloop

from cli.arguments import COMMANDS
from core import service
from core.settings import Settings

Work = Callable[[argparse.Namespace, Settings], Awaitable[int]]
"""Takes the arguments, with the sources of the settings as `sources`; returns the exit code."""

SIGNALLED = 128
"""The exit code after a signal is this plus the number of the signal."""


def run(given: argparse.Namespace, settings: Settings, sources: Mapping[str, str]) -> int:
    """Runs a command; returns its exit code.

    Raises:
        TcgxError: the command failed; the message says why.
    """
    # `tcgx up` alone adds its lines to the files of the services (cli/observed.py).
    service.configure_logging(msgspec.structs.replace(settings, log_dir=""), "tcgx")
    given.sources = sources
    return uvloop.run(_until_signal(_import_and_run(given, settings)))


async def _import_and_run(given: argparse.Namespace, settings: Settings) -> int:
    """Imports only the module of the command: most commands need neither the benchmarks nor the archive."""
    command: Work = importlib.import_module(COMMANDS[given.name].module).run
    return await command(given, settings)


async def _until_signal(command: Awaitable[int]) -> int:
    """Runs a command; a signal cancels it, so that it cleans up. `up` and `bench` replace these signal handlers."""
    work = asyncio.ensure_future(command)
    received: list[signal.Signals] = []

    def end(number: signal.Signals) -> None:
        received.append(number)
        work.cancel()

    for number in service.ending_signals():
        asyncio.get_running_loop().add_signal_handler(number, end, number)
    try:
        return await work
    except asyncio.CancelledError:
        if not received:
            raise
        return SIGNALLED + received[0]
