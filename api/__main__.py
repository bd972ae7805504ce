"""`python -m api`: one API process."""

import asyncio
import os
import sys

from api.app import create_app
from api.server import serve
from core import service
from core.heartbeat import Progress
from core.settings import Settings


async def work(settings: Settings, stopping: asyncio.Event, _: Progress) -> None:
    """The API service."""
    await serve(settings, stopping, create_app)


if __name__ == "__main__":
    sys.exit(service.run("api", work, dict(os.environ)))
