"""`tcgx book`: draws a card's order book."""

import argparse
import os
import sys

from cli import ladder
from core.errors import StartError
from core.settings import Settings
from engine import connection
from engine.book_reader import BookReader


async def run(arguments: argparse.Namespace, configured: Settings) -> int:
    """Draws the book."""
    if arguments.card not in configured.cards:
        raise StartError(f"there is no card {arguments.card!r}; there are {', '.join(configured.cards)}")
    async with connection.connect(configured.redis_url) as redis:
        depth = await BookReader(redis).depth(arguments.card, arguments.depth)
    print(ladder.ladder(arguments.card, depth, ladder.terminal_style(sys.stdout, os.environ, arguments.color)))
    return 0
