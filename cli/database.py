"""The database connection of a command."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from archiver import postgres
from core.settings import Settings


@asynccontextmanager
async def open_database(configured: Settings) -> AsyncIterator[Any]:
    """Connects to the database for the duration of the context.

    Raises:
        Unavailable: the database does not answer.
    """
    opened = await postgres.connect(configured.database_url)
    try:
        yield opened
    finally:
        await opened.close()
