"""`tcgx api`, `tcgx engine`, `tcgx archiver`: the services, as production runs them."""

import asyncio
import os
from collections.abc import Awaitable, Callable

from core import service
from core.settings import Settings, variable

Work = Callable[[Settings, asyncio.Event], Awaitable[None]]


def run(name: str, *, port: int | None = None) -> int:
    """Runs a service until it is told to stop; the exit code. `port` counts more than the environment."""
    environment = dict(os.environ)
    if port is not None:
        environment[variable("port")] = str(port)
    return service.run(name, _work(name), environment)


def _work(name: str) -> Work:
    """What the service does. Each imports what it needs alone."""
    if name == "api":
        from api.__main__ import work  # noqa: PLC0415

        return work
    if name == "engine":
        from engine.matcher import work  # noqa: PLC0415

        return work
    from archiver.archiver import work  # noqa: PLC0415

    return work
