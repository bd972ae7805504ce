"""`tcgx settings`: every setting with its value, default and source."""

import argparse

from core.settings import Settings, table


async def run(arguments: argparse.Namespace, configured: Settings) -> int:
    """Prints a line for each setting."""
    rows = [("SETTING", "VALUE", "DEFAULT", "SOURCE", "WHAT IT DOES"), *table(configured, arguments.sources)]
    widths = [min(44, max(len(row[column]) for row in rows)) for column in range(4)]
    for row in rows:
        print("  ".join([*(text.ljust(width) for text, width in zip(row, widths, strict=False)), row[4]]))
    return 0
