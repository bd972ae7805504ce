"""The evidence: what Redis and PostgreSQL hold once everything is matched and archived, read past the API."""

import asyncio
from collections.abc import Sequence
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

NOT_REPLAYED = ("", "")
"""The hashes of a card that is not replayed."""


def gather(settings: Settings, *, without_replay: frozenset[str] = frozenset()) -> Evidence:
    """The evidence of every card. Nothing may be appended meanwhile.

    `without_replay`: cards whose history began after a loss, so that their log does not begin with empty books.
    """
    hashes = asyncio.run(_hashes(settings, [card for card in settings.cards if card not in without_replay]))
    with client_of(settings.redis_url) as redis:
        return {
            card: CardEvidence(
                log=_log(redis, card),
                sequence=int(_text(redis.get(keys.key(card, "sequence"))) or 0),
                resting=_resting(redis, card),
                state_hash=hashes.get(card, NOT_REPLAYED)[0],
                replayed_hash=hashes.get(card, NOT_REPLAYED)[1],
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


async def _hashes(settings: Settings, cards: Sequence[str]) -> dict[str, tuple[str, str]]:
    """Of each of these cards: the state hash of the exchange, and the one that the log leads to on an empty server."""
    local = msgspec.structs.replace(settings, durability="everysec", redis_core="any")
    async with (
        throwaway_redis(local) as server,
        connection.connect(server.socket_url) as empty,
        connection.connect(settings.redis_url) as live,
    ):
        await library.load(empty)
        outcome = await replay.replay(replay.server_lines(live, cards), empty, batch=settings.match_batch)
    return {card: (expected, found) for card, expected, found in outcome}
