"""`tcgx restart`: a rolling restart of the services of a running `tcgx up`."""

import argparse

from api.listener import HAND_OVER_SECONDS
from cli import configuration, control, run_file
from cli.supervisor import ALL, READY_SECONDS
from core.errors import StartError
from core.settings import Settings

SPARE_SECONDS = 10.0


async def run(arguments: argparse.Namespace, settings: Settings) -> int:
    """Replaces the services of the exchange that runs in the data directory; prints a line for each step.

    Raises:
        StartError: no exchange runs, or a service does not get a successor; its old process then goes on.
    """
    here = run_file.find_running(settings.data_dir)
    if here is None:
        raise StartError(configuration.not_running_text(settings))
    if not here.control:
        raise StartError(f"the `tcgx up` of {settings.data_dir} is of a version without rolling restarts: stop it")
    seconds = READY_SECONDS + settings.stop_seconds + settings.drain_seconds + HAND_OVER_SECONDS + SPARE_SECONDS
    async for line in control.ask(here.control, arguments.services or (ALL,), seconds=seconds):
        print(line, flush=True)
    return 0
