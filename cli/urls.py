"""`tcgx urls`: the addresses of the running exchange."""

import argparse
import json

from cli import configuration
from cli.run_file import find_running
from core.errors import StartError
from core.settings import Settings


async def run(arguments: argparse.Namespace, configured: Settings) -> int:
    """Prints the addresses of the exchange that runs in the data directory."""
    here = find_running(configured.data_dir)
    if here is None:
        raise StartError(configuration.not_running_text(configured))
    urls = {"api": here.api, "redis": here.redis, "database": here.database}
    if arguments.json:
        print(json.dumps(urls))
    else:
        for name, url in urls.items():
            print(f"{name:<9} {url}")
    return 0
