"""The commands of `tcgx` with their options, and the module that runs each.

Only the parser of the given command is built, and no module of a command is imported.
"""

import argparse
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, NoReturn

from cli.numbers import whole
from core.suggestions import did_you_mean

CHECKS = ("redis", "functions", "engine", "database", "archiver", "history", "backlog")
SERVICES = ("api", "engine", "archiver", "grpc", "demo")
SETUPS = ("single", "sentinel", "sentinel-acks", "cluster")
"""The set-ups of `tcgx chaos`, as in testing/chaos/setups.py."""

STANDALONE = ("up", "bench", "chaos", *SERVICES)
"""Commands that take no settings from the exchange that runs in the data directory."""

USAGE_ERROR = 2
MISSING = 1
"""The exit code if a package is not installed."""
DEPTH_MAX = 1_000
FRAMES_MAX = 1_000_000_000
TRADERS_MAX = 1_000_000
ROUNDS_MAX = 100_000
SEED_MAX = 2**63 - 1


class Parser(argparse.ArgumentParser):
    """A parser whose errors suggest a similar option or value."""

    def parse(self, words: Sequence[str]) -> argparse.Namespace:
        """Parses the words. Ends the process if they are invalid or ask for help."""
        arguments, unknown = self.parse_known_args(words)
        if unknown:
            self.error(self._about_unknown(unknown, arguments))
        return arguments

    def error(self, message: str) -> NoReturn:
        """Prints the usage of the command and a sentence, and ends the process."""
        self.print_usage(sys.stderr)
        sentence = message.removeprefix("argument ").replace(": must ", " must ", 1)
        self.exit(USAGE_ERROR, f"{self.prog}: {sentence}\n")

    def _about_unknown(self, unknown: Sequence[str], arguments: argparse.Namespace) -> str:
        options = [word for word in unknown if word.startswith("-")]
        if not options:
            return f"takes no {' '.join(unknown)!r}"
        name = options[0].partition("=")[0]
        known = [option for option in _options(self, arguments) if option.startswith("--")]
        return f"there is no option {name}{did_you_mean(name, known)}"

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        names = [str(choice) for choice in action.choices or ()]
        if action.choices is not None and value not in action.choices:
            suggestion = did_you_mean(str(value), names)
            raise argparse.ArgumentError(action, f"{value!r} is none of {', '.join(names)}{suggestion}")


def _options(parser: argparse.ArgumentParser, arguments: argparse.Namespace) -> Iterator[str]:
    """Yields the options of a parser and of its chosen subcommand."""
    for action in parser._actions:
        yield from action.option_strings
        chosen = getattr(arguments, action.dest, None)
        if isinstance(action.choices, Mapping) and chosen in action.choices:
            yield from _options(action.choices[chosen], arguments)


def _data_dir(text: str) -> str:
    if not text.strip():
        raise argparse.ArgumentTypeError("must name a folder")
    return text


def _add_data_dir(parser: argparse.ArgumentParser) -> None:
    """Adds --data-dir without a default: the outer parser may have read it already."""
    parser.add_argument(
        "--data-dir",
        metavar="FOLDER",
        type=_data_dir,
        default=argparse.SUPPRESS,
        help="where `tcgx up` keeps its data (TCGX_DATA_DIR, ./.tcgx)",
    )


def _add_port(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--port", type=whole(1, 65_535), help="the port of the API (TCGX_PORT, 8000)")


def _nothing(_: Parser) -> None:
    pass


def _up(parser: Parser) -> None:
    parser.add_argument("--ephemeral", action="store_true", help="keep nothing")
    parser.add_argument("--grpc", action="store_true", help="a gRPC process as well, on TCGX_GRPC_PORT (50051)")
    parser.add_argument("--demo", action="store_true", help="make-believe traders, so that there is something to see")
    parser.add_argument("--observe", action="store_true", help="metrics, log files and Prometheus: the page /operate")
    _add_port(parser)


def _urls(parser: Parser) -> None:
    parser.add_argument("--json", action="store_true", help="for programs")


def _book(parser: Parser) -> None:
    parser.add_argument("card", metavar="CARD")
    parser.add_argument("--depth", type=whole(1, DEPTH_MAX), default=15, help="levels a side (15)")
    parser.add_argument(
        "--color", choices=("auto", "always", "never"), default="auto", help="bids green, asks red (auto)"
    )


def _watch(parser: Parser) -> None:
    parser.add_argument("card", metavar="CARD")
    parser.add_argument("--url", help="the exchange (the one in the data directory, else TCGX_PORT of this machine)")
    parser.add_argument("--frames", type=whole(1, FRAMES_MAX), help="end after so many pictures (never)")
    parser.add_argument(
        "--color", choices=("auto", "always", "never"), default="auto", help="bids green, asks red (auto)"
    )


def _traders(parser: Parser) -> None:
    from pathlib import Path  # noqa: PLC0415 - only some commands need it

    from core.model import TRADER_ID_MAX  # noqa: PLC0415

    actions = parser.add_subparsers(required=True, dest="action", metavar="ACTION")
    seed = actions.add_parser("seed", help="create traders with random API keys")
    seed.add_argument("--count", type=whole(1, TRADERS_MAX), default=10_000, help="how many there shall be (10,000)")
    seed.add_argument(
        "--out", type=Path, required=True, metavar="FILE", help="the CSV file that gets trader_id,api_key"
    )
    token = actions.add_parser("token", help="print an access token a line")
    token.add_argument("ids", type=whole(1, TRADER_ID_MAX), nargs="+", metavar="ID")
    token.add_argument("--admin", action="store_true", help="with the role admin")
    role = actions.add_parser("role", help="make a trader an admin, or an admin a trader")
    role.add_argument("id", type=whole(1, TRADER_ID_MAX), metavar="ID")
    role.add_argument("role", choices=("trader", "admin"), metavar="ROLE", help="trader or admin")
    for action in (seed, token, role):
        _add_data_dir(action)


def _keys(parser: Parser) -> None:
    from core.model import API_KEY_GRACE_SECONDS_MAX, TRADER_ID_MAX  # noqa: PLC0415

    actions = parser.add_subparsers(required=True, dest="action", metavar="ACTION")
    listed = actions.add_parser("list", help="the keys of a trader, without their secrets")
    create = actions.add_parser("create", help="create another key for a trader, and print it")
    rotate = actions.add_parser("rotate", help="create a key in place of another one, and print it")
    revoke = actions.add_parser("revoke", help="revoke a key and every token that was issued for it")
    for action in (listed, create):
        action.add_argument("trader_id", type=whole(1, TRADER_ID_MAX), metavar="TRADER")
    for action in (rotate, revoke):
        action.add_argument("key_id", metavar="KEY_ID")
    create.add_argument("--label", default="", metavar="TEXT", help="what the key is for")
    rotate.add_argument(
        "--grace",
        type=whole(0, API_KEY_GRACE_SECONDS_MAX),
        default=0,
        metavar="SECONDS",
        help="how long the old key stays valid (0)",
    )
    for action in (listed, create, rotate, revoke):
        _add_data_dir(action)


def _halt(parser: Parser) -> None:
    parser.add_argument("card", metavar="CARD")
    parser.add_argument("--reason", default="", metavar="TEXT", help="what traders read in the refusal of an order")


def _resume(parser: Parser) -> None:
    parser.add_argument("card", metavar="CARD")


def _replay(parser: Parser) -> None:
    from pathlib import Path  # noqa: PLC0415

    from core.settings import BOUNDS, Settings  # noqa: PLC0415

    parser.add_argument(
        "--file", type=Path, metavar="FILE", help="a file that --export wrote, instead of the live server"
    )
    parser.add_argument(
        "--export", type=Path, metavar="FILE", help="write the live server's log to this file, and replay nothing"
    )
    default = Settings().match_batch
    batch = whole(*BOUNDS["match_batch"])
    parser.add_argument("--batch", type=batch, help=f"commands a match call (TCGX_MATCH_BATCH, {default:,})")


def _recover(parser: Parser) -> None:
    from pathlib import Path  # noqa: PLC0415

    parser.add_argument("--yes", action="store_true", help="do not ask")
    parser.add_argument("--report", type=Path, metavar="FILE", help="write the orders that are lost to this CSV file")


def _backup(parser: Parser) -> None:
    from pathlib import Path  # noqa: PLC0415

    parser.add_argument("file", type=Path, metavar="FILE", help="the file that is written; it must not exist")
    parser.add_argument("--no-compress", action="store_true", help="a larger file, in less time")


def _restore(parser: Parser) -> None:
    from pathlib import Path  # noqa: PLC0415

    parser.add_argument("file", type=Path, metavar="FILE", help="a file that `tcgx backup` wrote")
    parser.add_argument("--check", action="store_true", help="check the file, and restore nothing")
    parser.add_argument("--overwrite", action="store_true", help="delete the exchange that is on the servers")
    parser.add_argument(
        "--keep-history",
        action="store_true",
        help="continue at the next order id: only if no order was accepted after the backup",
    )


def _repair(parser: Parser) -> None:
    parser.add_argument("--yes", action="store_true", help="cut, and keep what is cut in a file beside")


def _service(text: str) -> str:
    if text not in SERVICES:
        raise argparse.ArgumentTypeError(f"{text!r} is none of {', '.join(SERVICES)}{did_you_mean(text, SERVICES)}")
    return text


def _restart(parser: Parser) -> None:
    parser.add_argument(
        "services", nargs="*", type=_service, metavar="SERVICE", help=f"{', '.join(SERVICES)} (all of them)"
    )


def _doctor(parser: Parser) -> None:
    parser.add_argument("--only", choices=CHECKS, help="this check alone")


def _bench(parser: Parser) -> None:
    from bench.options import add_benches  # noqa: PLC0415 - no other command needs the benchmarks

    add_benches(parser)


def _chaos(parser: Parser) -> None:
    from pathlib import Path  # noqa: PLC0415

    parser.add_argument("--rounds", type=whole(1, ROUNDS_MAX), default=10, help="how many rounds (10)")
    parser.add_argument(
        "--seed", type=whole(0, SEED_MAX), default=1, help="of the first round; the next has one more (1)"
    )
    parser.add_argument(
        "--setup", choices=SETUPS, default=SETUPS[0], help="the servers: one Redis, or several with sentinels (single)"
    )
    parser.add_argument("--results", type=Path, metavar="FILE", help="write the outcome of every round as JSON")
    parser.add_argument("--faketime", type=Path, metavar="FILE", help="libfaketime, if it is not where Debian puts it")
    parser.add_argument(
        "--report", type=Path, nargs="+", metavar="FILE", help="run nothing; the table of the results in these files"
    )


def _help(parser: Parser) -> None:
    parser.add_argument("words", nargs="*", metavar="COMMAND", help="the command that is explained")


class Command(NamedTuple):
    """A command: its purpose, the module whose `run` it calls, and the function that adds its options to a parser.

    `needs` names packages that only the extra with the command's name installs.
    """

    summary: str
    module: str
    add_options: Callable[[Parser], None] = _nothing
    needs: tuple[str, ...] = ()


COMMANDS: Mapping[str, Command] = {
    "up": Command("run the whole exchange on this machine until Ctrl-C", "cli.up", _up),
    "restart": Command("replace the services of a running `tcgx up`, one by one", "cli.restart", _restart),
    "urls": Command("where the running exchange is reached", "cli.urls", _urls),
    "book": Command("draw a card's order book", "cli.book", _book),
    "watch": Command("a card's book and trades as they change", "cli.watch", _watch, needs=("tcgx_client",)),
    "traders": Command("create traders and admins, or make access tokens", "cli.traders", _traders),
    "keys": Command("list, create, rotate and revoke API keys of traders", "cli.keys", _keys),
    "halt": Command("refuse the orders of a card, and take cancels", "cli.halt", _halt),
    "resume": Command("take the orders of a halted card again", "cli.halt", _resume),
    "replay": Command("run a log through an empty server and compare the state hash", "cli.replay", _replay),
    "state-hash": Command("a hash over each card's books, open orders and cursor", "cli.state_hash"),
    "migrate": Command("bring the database, and data of earlier versions, up to date", "cli.migrate"),
    "recover": Command("begin a new history where log and archive have parted", "cli.recover", _recover),
    "rebuild-archive": Command("rows that the archive has lost, made of the log again", "cli.rebuild_archive"),
    "backup": Command("log, books and archive in one file, while orders flow", "cli.backup", _backup),
    "restore": Command("a backup into empty servers", "cli.restore", _restore),
    "repair": Command("cut damage from the end of the log of a stopped `tcgx up`", "cli.repair", _repair),
    "settings": Command("every setting with its value, default and source", "cli.settings"),
    "doctor": Command("check the servers, the database and how far everything is", "cli.doctor", _doctor),
    "bench": Command("benchmarks, on throw-away servers", "bench.command", _bench, needs=("matplotlib", "rich")),
    "chaos": Command("faults on purpose, on throw-away exchanges under load", "cli.chaos", _chaos),
    "api": Command("run one API process, as in production", "api.__main__", _add_port),
    "engine": Command("run one engine process, as in production", "engine.matcher"),
    "archiver": Command("run one archiver process, as in production", "archiver.archiver"),
    "grpc": Command("run one gRPC process, as in production", "rpc.server", needs=("grpc", "grpc_health")),
    "demo": Command("trade on the API of the environment with make-believe traders", "cli.demo"),
    "version": Command("print the version", ""),
    "help": Command("explain a command", "", _help),
}
"""The modules of SERVICES have `work` instead of `run`. `version` and `help` need no module."""


def read(words: Sequence[str]) -> argparse.Namespace:
    """Parses the command (`name`) and its options. Ends the process if they are invalid or ask for help."""
    first = _top().parse(words)
    if first.version:
        return argparse.Namespace(name="version")
    if first.name is None:
        _top().print_help(sys.stderr)
        raise SystemExit(USAGE_ERROR)
    _refuse_without_extra(_known(first.name), first.words)
    arguments = _parser(first.name).parse(first.words)
    arguments.name = first.name
    if arguments.name == "help":
        return read([*arguments.words, "--help"])
    if hasattr(first, "data_dir") and not hasattr(arguments, "data_dir"):
        arguments.data_dir = first.data_dir
    if hasattr(arguments, "data_dir") and not _has_data_dir(arguments.name):
        _parser(arguments.name).error("takes no --data-dir")
    return arguments


def _known(name: str) -> str:
    if name not in COMMANDS:
        suggestion = did_you_mean(name, COMMANDS) or ": `tcgx help` lists what there is"
        _top().error(f"there is no command {name}{suggestion}")
    return name


def missing_packages(name: str) -> list[str]:
    """The packages of a command's extra that are not installed."""
    from importlib.util import find_spec  # noqa: PLC0415 - most commands have no extra

    return [package for package in COMMANDS[name].needs if find_spec(package) is None]


def _refuse_without_extra(name: str, words: Sequence[str]) -> None:
    """Ends the process if a package of the command's extra is missing. Help works without the extra."""
    if not COMMANDS[name].needs or {"-h", "--help"} & set(words):
        return
    missing = missing_packages(name)
    if missing:
        _top().exit(MISSING, f"tcgx: `tcgx {name}` needs {' and '.join(missing)}: pip install 'tcgx[{name}]'\n")


def _top() -> Parser:
    listed = "\n".join(f"  {name:<16}{command.summary}" for name, command in COMMANDS.items())
    parser = Parser(
        prog="tcgx",
        usage="tcgx [--data-dir FOLDER] COMMAND …",
        description="A trading platform for Pokémon cards.",
        epilog=f"commands:\n{listed}\n\n`tcgx help COMMAND` explains one.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="store_true", help="print the version")
    _add_data_dir(parser)
    parser.add_argument("name", nargs="?", help=argparse.SUPPRESS)
    parser.add_argument("words", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)
    return parser


def _parser(name: str) -> Parser:
    command = COMMANDS[name]
    parser = Parser(prog=f"tcgx {name}", description=command.summary)
    if _has_data_dir(name):
        _add_data_dir(parser)
    command.add_options(parser)
    return parser


def _has_data_dir(name: str) -> bool:
    return name not in ("bench", "chaos", "version", "help", *SERVICES)
