"""`tcgx api`, `tcgx engine`, `tcgx archiver`: the services, as production runs them."""

import asyncio
import importlib
import os
from collections.abc import Awaitable, Callable

from cli.arguments import COMMANDS
from core import service
from core.heartbeat import Progress
from core.settings import Settings, variable

Work = Callable[[Settings, asyncio.Event, Progress], Awaitable[None]]


def run(name: str, *, port: int | None = None) -> int:
    """Runs a service until a signal stops it; returns its exit code. `port` overrides the environment."""
    environment = dict(os.environ)
    if port is not None:
        environment[variable("port")] = str(port)
    return service.run(name, _work(name), environment)


def _work(name: str) -> Work:
    """Returns the function of a service; only the module of that service is imported."""
    work: Work = importlib.import_module(COMMANDS[name].module).work
    return work
