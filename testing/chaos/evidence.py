"""The evidence: what Redis and PostgreSQL hold once everything is matched and archived, read past the API."""

import asyncio
from typing import Any

import msgspec
from redis import Redis

from cli import replay
from core.model import Order
from core.settings import Settings
from engine import codec, connection, keys, library
from testing.chaos.checker import CardEvidence, Evidence, Logged
from testing.oracle.judge import archived_orders, archived_trades
from testing.servers import client_of, throwaway_redis


def gather(settings: Settings) -> Evidence:
    """The evidence of every card. Nothing may be appended meanwhile."""
    hashes = asyncio.run(_hashes(settings))
    with client_of(settings.redis_url) as redis:
        return {
            card: CardEvidence(
                log=_log(redis, card),
                sequence=int(_text(redis.get(keys.key(card, "sequence"))) or 0),
                resting=_resting(redis, card),
                state_hash=hashes[card][0],
                replayed_hash=hashes[card][1],
                orders=archived_orders(settings.database_url, card),
                trades=archived_trades(settings.database_url, card),
            )
            for card in settings.cards
        }


def _log(redis: Redis, card: str) -> list[Logged]:
    """The log as it stands, gaps included."""
    entries: Any = redis.xrange(keys.key(card, "orders"))
    found: list[Logged] = []
    for entry_id, fields in entries:
        first = int(entry_id.decode().partition("-")[2])
        at = fields[b"at"].decode()
        found += [(sequence, at, command) for sequence, command in enumerate(codec.decode(card, fields), first)]
    return found


def _resting(redis: Redis, card: str) -> list[Order]:
    lines: Any = redis.hvals(keys.key(card, "open"))
    return [codec.order(card, line.decode().split(",")) for line in lines]


def _text(value: Any) -> str:
    return value.decode() if value else ""


async def _hashes(settings: Settings) -> dict[str, tuple[str, str]]:
    """Of each card: the state hash of the exchange, and the one that the log leads to on an empty server."""
    local = msgspec.structs.replace(settings, durability="everysec", redis_core="any")
    async with (
        throwaway_redis(local) as server,
        connection.connect(server.socket_url) as empty,
        connection.connect(settings.redis_url) as live,
    ):
        await library.load(empty)
        outcome = await replay.replay(replay.server_lines(live, settings.cards), empty, batch=settings.match_batch)
    return {card: (expected, found) for card, expected, found in outcome}
