"""The admin actions of the command line."""

import getpass
import os
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from archiver import postgres, schema
from archiver.audit import Actor
from cli.database import open_database
from core.settings import Settings
from engine import connection, library
from exchange.administration import Administration


def actor() -> Actor:
    """The user of the operating system, and the host."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a user without a name, as in a container
        user = str(os.getuid())
    return Actor(f"command line, user {user}", socket.gethostname())


@asynccontextmanager
async def administration(configured: Settings) -> AsyncIterator[Administration]:
    """The admin actions on the servers of the settings.

    Raises:
        StartError: the database lacks a migration.
        Unavailable: PostgreSQL does not answer.
    """
    async with open_database(configured) as database:
        await schema.check(database, configured.cards)
    async with connection.connect(configured.redis_url) as redis, postgres.pool(configured.database_url) as pool:
        yield Administration(configured, redis, pool)


@asynccontextmanager
async def cards_administration(configured: Settings) -> AsyncIterator[Administration]:
    """As `administration`, on a Redis that has the library of this version."""
    async with connection.connect(configured.redis_url) as redis:
        await library.load(redis)
    async with administration(configured) as made:
        yield made
