"""Login codes: each is worth one access token, once, within an hour. `tcgx up` prints a link with one.

A code is in the fragment of the link, which browsers send to nobody. Redis has its hash alone.
"""

import hashlib
import secrets
from typing import Any

from redis.asyncio import Redis

from engine.connection import redis_errors

CODE_BYTES = 24
CODE_SECONDS = 3_600
PREFIX = "tcgx:login:"


def key_of(code: str) -> str:
    """The key of a code."""
    return PREFIX + hashlib.sha256(code.encode(errors="surrogatepass")).hexdigest()


async def issue(redis: Redis, trader_id: int) -> str:
    """Makes a code for a trader.

    Raises:
        Unavailable: Redis does not answer.
    """
    code = secrets.token_urlsafe(CODE_BYTES)
    with redis_errors():
        await redis.set(key_of(code), trader_id, ex=CODE_SECONDS)
    return code


async def redeem(redis: Redis, code: str) -> int | None:
    """The trader of a code, which is worth nothing from then on; None if there is no such code.

    Raises:
        Unavailable: Redis does not answer.
    """
    client: Any = redis
    with redis_errors():
        found = await client.getdel(key_of(code))
    return None if found is None else int(found)
