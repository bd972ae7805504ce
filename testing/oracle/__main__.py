"""`python -m testing.oracle`: long flows with replaces and post-only orders through a server and the reference book.

Each flow is matched in batches of random sizes, and compared with the reference book as it goes and at its end. An
assertion ends the run at the first difference.
"""

import argparse
import random
import time

from testing.flows import FLOWS, REPLACE_FLOWS
from testing.oracle.comparison import run
from testing.servers import loaded_redis

SIZES = (1, 3, 50, 51, 200, 1_000, 10_000)


def _batch_size(choose: random.Random) -> int:
    return choose.choice(SIZES)


def main() -> None:
    """Runs the flows of the command line, one after the other."""
    parser = argparse.ArgumentParser(prog="python -m testing.oracle", description=__doc__)
    parser.add_argument("flows", nargs="*", default=list(REPLACE_FLOWS), help="default: %(default)s")
    parser.add_argument("--commands", type=int, default=50_000, help="commands of a flow (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--self-trade", choices=("allow", "cancel_taker"), default="allow")
    arguments = parser.parse_args()
    flows = FLOWS | REPLACE_FLOWS
    with loaded_redis() as server:
        client = server.client()
        for name in arguments.flows:
            client.flushall()
            started = time.monotonic()
            comparisons = run(
                client,
                flow=flows[name],
                seed=arguments.seed,
                count=arguments.commands,
                batch_size=_batch_size,
                self_trade=arguments.self_trade,
            )
            trades = sum(len(comparison.reference.trades) for comparison in comparisons.values())
            seconds = time.monotonic() - started
            print(f"{name}: {arguments.commands} commands, {trades} trades, no difference, {seconds:.0f} s")


if __name__ == "__main__":
    main()
