"""`tcgx keys`: the API keys of traders."""

import argparse
from collections.abc import Sequence
from datetime import UTC, datetime

from archiver.api_keys import ApiKey, NewKey
from cli.administration import actor, administration
from core.settings import Settings

UNKNOWN_PREFIX = "-"


async def run(arguments: argparse.Namespace, configured: Settings) -> int:
    """Lists, creates, rotates or revokes keys."""
    async with administration(configured) as admin:
        if arguments.action == "list":
            _print(await admin.keys(arguments.trader_id))
        elif arguments.action == "create":
            _print_new(await admin.create_key(actor(), arguments.trader_id, arguments.label))
        elif arguments.action == "rotate":
            _print_new(await admin.rotate_key(actor(), arguments.key_id, arguments.grace))
        else:
            key = await admin.revoke_key(actor(), arguments.key_id)
            print(f"key {key.key_id} of trader {key.trader_id} is revoked; its tokens are refused within 5 seconds")
    return 0


def _print_new(made: NewKey) -> None:
    print(f"trader_id  {made.key.trader_id}\nkey_id     {made.key.key_id}\napi_key    {made.secret}")


def _print(keys: Sequence[ApiKey]) -> None:
    print(f"{'KEY_ID':<16}  {'PREFIX':<6}  {'CREATED':<20}  {'REVOKED':<20}  LABEL")
    for key in keys:
        revoked = _time(key.revoked_at) if key.revoked_at else ""
        prefix = key.prefix or UNKNOWN_PREFIX
        print(f"{key.key_id:<16}  {prefix:<6}  {_time(key.created_at):<20}  {revoked:<20}  {key.label}".rstrip())


def _time(at: datetime) -> str:
    return at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
