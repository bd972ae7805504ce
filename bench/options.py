"""What every benchmark is asked for, and how the command line says it."""

import argparse
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

import msgspec

from cli.numbers import whole
from core.settings import BOUNDS, Settings
from testing.flows import CARDS

Durability = Literal["always", "everysec"]

RESULTS = Path("bench-results")
"""Not bench/results, where the published ones are."""

ORDERS_MAX = 100_000_000
ROWS = 10_000_000
ROWS_MIN = 12_000
ROUNDS_MAX = 1_000
SECONDS_MAX = 86_400
RATE_MAX = 1_000_000
CONNECTIONS_MAX = 10_000
SEED_MAX = 2**63 - 1
SCALES = ("depth", "through", "backlog", "cards", "workers", "engines", "nodes")
STREAM_PARTS = ("fans", "silent", "storm")
PLACING_FLOWS = ("uniform", "deep")
"""Flows without cancels, for doors that take orders alone."""


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """The arguments of one benchmark. `seconds`: of one measurement, where time decides and not `orders`."""

    name: str
    settings: Settings
    orders: int
    rounds: int
    seconds: int
    seed: int = 0
    flow: str = "uniform"
    batch: int = Settings().match_batch
    rate: int = 1_000
    connections: int = 64
    rows: int = ROWS
    durability: Durability = "always"
    only: tuple[str, ...] = ()
    redis_url: str = ""
    database_url: str = ""
    results: Path = RESULTS
    json: Path | None = None


class Defaults(msgspec.Struct, frozen=True, kw_only=True):
    """What a benchmark does unless told otherwise; where a number is None, it has no such option."""

    summary: str
    orders: int | None = None
    rounds: int | None = None
    seconds: int | None = None
    rate: int = 1_000
    flows: tuple[str, ...] = ("uniform",)
    more: tuple[str, ...] = ()
    parts: tuple[str, ...] = ()
    database: bool = True


BENCHES: Mapping[str, Defaults] = {
    "match": Defaults(
        summary="orders in the log to orders matched, against one script call an order",
        orders=1_000_000,
        rounds=3,
        flows=("uniform", "market", "deep"),
        more=("batch",),
        database=False,
    ),
    "append": Defaults(
        summary="orders to the log, durable",
        orders=200_000,
        rounds=3,
        flows=("uniform", "market"),
        database=False,
    ),
    "http": Defaults(
        summary="single orders over HTTP, against a Litestar handler that does nothing",
        rounds=3,
        seconds=8,
        flows=PLACING_FLOWS,
        more=("connections",),
    ),
    "million": Defaults(
        summary="REST batches to rows in PostgreSQL, every row checked", orders=1_000_000, flows=PLACING_FLOWS
    ),
    "latency": Defaults(
        summary="time to a matched order at a fixed rate, open loop", seconds=30, flows=PLACING_FLOWS, more=("rate",)
    ),
    "soak": Defaults(
        summary="a steady load for long: memory and latency stay flat, nothing is lost",
        seconds=1_800,
        rate=2_000,
        more=("rate", "minutes"),
    ),
    "overload": Defaults(
        summary="three times the load that is possible: goodput stays, and all is as before within 5 s",
        seconds=60,
    ),
    "streams": Defaults(
        summary="subscribers of live data: what they get, how late, and the books that they keep",
        orders=200_000,
        seconds=20,
        flows=PLACING_FLOWS,
        more=("rate", "connections"),
        parts=STREAM_PARTS,
    ),
    "archive": Defaults(
        summary="matched orders in Redis to rows in PostgreSQL", orders=1_000_000, flows=("uniform", "market")
    ),
    "reads": Defaults(
        summary="candles, tickers, pages and exports over a large archive, while the archiver writes",
        rounds=200,
        more=("rows",),
    ),
    "scale": Defaults(
        summary="cost of an order as books, backlog, cards, processes and nodes grow",
        orders=100_000,
        seconds=5,
        more=("batch",),
        parts=SCALES,
    ),
    "baseline": Defaults(
        summary="the usual design: a PostgreSQL transaction an order, the card's row locked",
        orders=4_000,
        seconds=5,
    ),
}
SUMMARY_OF_ALL = "all of them, one after the other"
SUMMARY_OF_PLOTS = "draw the pictures of results again, without measuring"
SUMMARY_OF_COMPARE = "two folders of results, figure by figure; fails where CPU or a ratio is worse"
WORSE = 1.25
"""CPU time moves by 12 % from run to run on a machine with other work."""


def add_benches(parser: argparse.ArgumentParser) -> None:
    """Adds a subcommand for each benchmark."""
    benches = parser.add_subparsers(required=True, metavar="BENCH", dest="bench")
    for name, defaults in BENCHES.items():
        _add_options(benches.add_parser(name, help=defaults.summary, description=defaults.summary), defaults)
    everything = benches.add_parser("all", help=SUMMARY_OF_ALL, description=SUMMARY_OF_ALL)
    everything.add_argument("--orders", type=whole(1, ORDERS_MAX), help="orders of each (default: as each has it)")
    everything.add_argument("--rounds", type=whole(1, ROUNDS_MAX), help="rounds of those that have rounds")
    everything.add_argument("--seconds", type=whole(1, SECONDS_MAX), help="seconds of those that go by time")
    _add_common(everything)
    plots = benches.add_parser("plots", help=SUMMARY_OF_PLOTS, description=SUMMARY_OF_PLOTS)
    plots.add_argument("folder", type=Path, help="where results are; each picture goes beside its result")
    compare = benches.add_parser("compare", help=SUMMARY_OF_COMPARE, description=SUMMARY_OF_COMPARE)
    compare.add_argument("before", type=Path, help="a folder of results")
    compare.add_argument("after", type=Path, help="another one")
    compare.add_argument("--worse", type=float, default=WORSE, help=f"how many times worse a figure may be ({WORSE})")
    plots.add_argument("--format", choices=("png", "svg"), default="png", help="of the pictures (png)")


def _add_options(sub: argparse.ArgumentParser, defaults: Defaults) -> None:
    help_of = {"orders": "how many orders", "rounds": "how often each is measured", "seconds": "of each measurement"}
    high = {"orders": ORDERS_MAX, "rounds": ROUNDS_MAX, "seconds": SECONDS_MAX}
    for number, text in help_of.items():
        if getattr(defaults, number) is not None:
            default = getattr(defaults, number)
            kind = whole(1, high[number])
            sub.add_argument(f"--{number}", type=kind, default=default, help=f"{text} ({default:,})")
    if len(defaults.flows) > 1:
        sub.add_argument("--flow", choices=defaults.flows, default="uniform", help="the stream of orders (uniform)")
    if "batch" in defaults.more:
        default = Settings().match_batch
        batch = whole(*BOUNDS["match_batch"])
        sub.add_argument("--batch", type=batch, default=default, help=f"commands a match call takes ({default:,})")
    if "rate" in defaults.more:
        rate = defaults.rate
        sub.add_argument("--rate", type=whole(1, RATE_MAX), default=rate, help=f"orders a second ({rate:,})")
    if "rows" in defaults.more:
        rows = whole(ROWS_MIN, ORDERS_MAX)
        sub.add_argument("--rows", type=rows, default=ROWS, help=f"rows of the archive ({ROWS:,})")
    if "minutes" in defaults.more:
        sub.add_argument("--minutes", type=_minutes, dest="seconds", help="the same as --seconds, in minutes")
    if "connections" in defaults.more:
        sub.add_argument("--connections", type=whole(1, CONNECTIONS_MAX), default=64, help="keep-alive ones (64)")
    if defaults.parts:
        sub.add_argument("--only", type=_some_of(defaults.parts), help=f"some of {','.join(defaults.parts)}")
    _add_common(sub, database=defaults.database)


def _add_common(sub: argparse.ArgumentParser, *, database: bool = True) -> None:
    sub.add_argument("--seed", type=whole(0, SEED_MAX), default=0, help="of the stream of orders (0)")
    sub.add_argument("--durability", choices=("always", "everysec"), default="always", help="of Redis (always)")
    sub.add_argument("--redis-url", default="", help="an empty Redis to use, instead of a throw-away one")
    if database:
        sub.add_argument("--database-url", default="", help="an empty database to use, instead of a throw-away one")
    sub.add_argument("--json", type=Path, help="a file that gets the result")
    sub.add_argument("--results", type=Path, default=RESULTS, help=f"where results and plots are kept ({RESULTS}/)")


def _minutes(text: str) -> int:
    """So many minutes, in seconds."""
    return 60 * whole(1, SECONDS_MAX // 60)(text)


def _some_of(parts: tuple[str, ...]) -> Callable[[str], tuple[str, ...]]:
    def some(text: str) -> tuple[str, ...]:
        names = tuple(name.strip() for name in text.split(",") if name.strip())
        wrong = [name for name in names if name not in parts]
        if wrong or not names:
            raise argparse.ArgumentTypeError(f"{', '.join(wrong) or 'nothing'} is none of {', '.join(parts)}")
        return names

    return some


def options_of(name: str, arguments: argparse.Namespace, settings: Settings) -> Options:
    """The options of one benchmark; what it has no option for has its default."""
    defaults = BENCHES[name]
    given: dict[str, Any] = {"only": defaults.parts} | {
        field.name: getattr(arguments, field.name)
        for field in msgspec.structs.fields(Options)
        if getattr(arguments, field.name, None) is not None
    }
    numbers = {
        number: given.get(number) or getattr(defaults, number) or 1 for number in ("orders", "rounds", "seconds")
    }
    local = msgspec.structs.replace(
        settings, cards=CARDS, durability=arguments.durability, redis_url="", database_url="", jwt_secret=""
    )
    if "batch" in given:
        local = msgspec.structs.replace(local, match_batch=given["batch"])
    return Options(**{**given, **numbers, "name": name, "settings": local})
