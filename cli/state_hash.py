"""`tcgx state-hash`: a hash over the state of each card."""

import argparse

from core.settings import Settings
from engine import connection
from engine.book_reader import BookReader


async def run(_: argparse.Namespace, configured: Settings) -> int:
    """Prints the hash of each card."""
    async with connection.connect(configured.redis_url) as redis:
        for card in configured.cards:
            print(f"{card:<12} {await BookReader(redis).state_hash(card)}")
    return 0
