"""`tcgx state-hash`: a hash over the state of each card."""

import argparse

from engine import connection
from engine.books import Books
from engine.settings import Settings


async def run(_: argparse.Namespace, configured: Settings) -> int:
    """Prints the hash of each card."""
    async with connection.connect(configured.redis_url) as redis:
        for card in configured.cards:
            print(f"{card:<12} {await Books(redis).state_hash(card)}")
    return 0
