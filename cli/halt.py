"""`tcgx halt` and `tcgx resume`: refuse the orders of a card, and take them again."""

import argparse

from cli.administration import actor, cards_administration
from core.settings import Settings


async def run(arguments: argparse.Namespace, configured: Settings) -> int:
    """Halts a card, or lets it go on."""
    async with cards_administration(configured) as admin:
        if arguments.name == "resume":
            await admin.resume(actor(), arguments.card)
            print(f"{arguments.card} takes orders again")
            return 0
        state = await admin.halt(actor(), arguments.card, arguments.reason)
    print(f"{arguments.card} is halted since {state.halted}; cancels are taken; `tcgx resume {arguments.card}` ends it")
    return 0
