"""Runs the coroutine of a command until it ends, or a signal ends it."""

import argparse
import asyncio
import signal
from collections.abc import Awaitable, Mapping

import uvloop

from core import service
from core.settings import Settings

SIGNALLED = 128
"""The exit code after a signal, less its number."""


def run(given: argparse.Namespace, settings: Settings, sources: Mapping[str, str]) -> int:
    """The exit code of a command.

    Raises:
        TcgxError: it failed; the message says why.
    """
    service.configure_logging(settings, "tcgx")
    given.sources = sources
    return uvloop.run(_until_signal(_begun(given, settings)))


async def _begun(given: argparse.Namespace, settings: Settings) -> int:
    if given.name == "bench":
        from bench.command import bench  # noqa: PLC0415 - no other command needs the benchmarks

        return await bench(given, settings)
    from cli.commands import COMMANDS  # noqa: PLC0415

    return await COMMANDS[given.name](given, settings)


async def _until_signal(command: Awaitable[int]) -> int:
    """A signal cancels the command, so that it cleans up. `up` and `bench` put handlers of their own in this place."""
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
