"""`tcgx chaos`: faults on purpose, under load, judged by the clients' own ledger. The harness is in testing/chaos."""

import argparse
import importlib.util

from core.errors import StartError
from core.settings import Settings


async def run(arguments: argparse.Namespace, settings: Settings) -> int:
    """The exit code, which is 1 where a rule does not hold.

    Raises:
        StartError: the harness is not installed, or an exchange does not start.
    """
    if importlib.util.find_spec("testing") is None or importlib.util.find_spec("testing.chaos") is None:
        raise StartError("`tcgx chaos` needs the package `testing` of tcgx, which is not installed here")
    from testing.chaos import command  # noqa: PLC0415 - no other command needs the harness

    return await command.run(arguments, settings)
