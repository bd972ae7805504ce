"""A load of single orders over keep-alive connections, as `http`, `baseline` and `scale` measure it."""

from collections.abc import Sequence

from cli import datadir
from testing.clients.closed_loop import Client, Load

WARM_SECONDS = 1
"""Before each measurement; nothing of it is counted."""


async def load(
    client: Client, address: tuple[str, int], requests: Sequence[bytes], *, connections: int, seconds: float
) -> Load:
    """Loads a server for this long; the client's files are thrown away."""
    with datadir.ephemeral() as folder:
        return await client(address, requests, connections=connections, seconds=seconds, folder=folder)


def rate(load: Load) -> float:
    """Answered requests a second."""
    return load.requests / load.seconds
