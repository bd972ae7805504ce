"""The servers of a command that works with or without a running exchange."""

import argparse
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import msgspec

from cli import datadir
from cli.embedded_postgres import PostgresServer
from cli.embedded_redis import RedisServer
from core.settings import Settings, variable


@asynccontextmanager
async def reached(arguments: argparse.Namespace, configured: Settings) -> AsyncIterator[Settings]:
    """Settings with the addresses of the servers.

    Servers that neither a variable nor a running exchange names are those of the data directory. They are started for
    as long as the context lasts.

    Raises:
        StartError: a server does not start, or a `tcgx up` that is starting or stopping has the data directory.
    """
    data_dir = Path(configured.data_dir)
    named = set(arguments.sources)
    async with AsyncExitStack() as stack:
        if {variable("redis_url"), variable("database_url")} <= named:
            yield configured
            return
        stack.enter_context(datadir.lock(data_dir))
        secrets = datadir.load_secrets(data_dir)
        if variable("redis_url") not in named:
            redis = RedisServer(configured, secrets)
            await redis.start()
            stack.push_async_callback(redis.stop)
            configured = msgspec.structs.replace(configured, redis_url=redis.socket_url)
        if variable("database_url") not in named:
            postgres = PostgresServer(configured, secrets)
            await postgres.start()
            stack.push_async_callback(postgres.stop)
            configured = msgspec.structs.replace(configured, database_url=postgres.url)
        yield configured
