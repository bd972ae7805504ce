"""Halted cards: orders are refused within the append, so a halt is exact over all API processes."""

from typing import Any

from engine import keys, library
from engine.connection import redis_errors


async def halt(client: Any, card: str, reason: str) -> str:
    """Halts a card. Returns `<time> <reason>`: of this halt, or of an earlier one that holds.

    Raises:
        Unavailable: Redis does not answer, or has no history of the card yet.
    """
    return await _call(client, card, reason)


async def resume(client: Any, card: str) -> None:
    """Lets a card go on.

    Raises:
        Unavailable: Redis does not answer.
    """
    await _call(client, card, "")


async def halted(client: Any, card: str) -> str:
    """`<time> <reason>` of the halt of a card; empty if it is not halted.

    Raises:
        Unavailable: Redis does not answer.
    """
    with redis_errors():
        value: bytes | None = await client.hget(keys.key(card, "history"), "halted")
    return value.decode() if value else ""


async def _call(client: Any, card: str, reason: str) -> str:
    with redis_errors():
        _, now = await library.call(client, "halt", keys.tag(card), reason)
    return bytes(now).decode()
