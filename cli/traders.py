"""`tcgx traders`: creates traders with API keys, and prints access tokens."""

import argparse
import asyncio
import sys
from collections.abc import Sequence
from contextlib import suppress

from archiver import schema, traders
from cli import configuration, paths
from cli.database import open_database
from core.errors import StartError, TcgxError
from core.settings import Settings, variable
from exchange import tokens

DATABASE_SECONDS = 2  # how long a warning may take


async def run(arguments: argparse.Namespace, configured: Settings) -> int:
    """Creates traders, or prints a token a line."""
    if arguments.action == "token":
        if not configured.jwt_secret:
            raise StartError(
                f"no key to sign with: {configuration.not_running_text(configured)}, or set TCGX_JWT_SECRET"
            )
        for trader_id in arguments.ids:
            role: tokens.Role = "admin" if arguments.admin else "trader"
            print(tokens.issue_token(configured.jwt_secret, trader_id, role, configured.token_seconds), flush=True)
        if variable("database_url") in arguments.sources:
            await _warn_of_missing(arguments.ids, configured)
        return 0
    if arguments.action == "role":
        from cli.administration import actor, administration  # noqa: PLC0415 - tokens need no servers

        async with administration(configured) as admin:
            revoked = await admin.set_role(actor(), arguments.id, arguments.role)
        lost = f"; its {len(revoked)} API keys are revoked, since tokens carry the role" if revoked else ""
        print(f"trader {arguments.id} has the role {arguments.role}{lost}")
        return 0
    paths.check_file(arguments.out)
    async with open_database(configured) as database:
        await schema.check(database, configured.cards)
        created = await traders.seed(database, arguments.count, arguments.out)
    where = f"; their API keys are in {arguments.out}" if created else ""
    print(f"created {created} traders, {arguments.count - created} existed{where}")
    return 0


async def _warn_of_missing(ids: Sequence[int], configured: Settings) -> None:
    """Warns of traders that do not exist. Tokens need no database, so an unreachable one is no error."""
    with suppress(TcgxError, TimeoutError):
        async with asyncio.timeout(DATABASE_SECONDS), open_database(configured) as database:
            for trader_id in await traders.missing(database, ids):
                print(f"tcgx: there is no trader {trader_id}: its token is valid all the same", file=sys.stderr)
