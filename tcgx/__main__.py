"""The command `tcgx`, also as `python -m tcgx`. `tcgx up` starts its services with the path of this file."""

import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec, PathFinder
from os.path import abspath, dirname

FOLDER = dirname(dirname(abspath(__file__)))  # noqa: PTH100, PTH120 - pathlib takes 10 ms to import
PACKAGES = frozenset(
    {
        "api",
        "archiver",
        "bench",
        "cli",
        "core",
        "engine",
        "exchange",
        "lua",
        "observe",
        "rpc",
        "streams",
        "tcgx",
        "testing",
    }
)


class OurPackages:
    """Finds the packages of this project beside this one.

    Their names are common: a folder `api` of PYTHONPATH would otherwise take the place of ours.
    """

    @staticmethod
    def find_spec(name: str, path: Sequence[str] | None = None, target: object = None) -> ModuleSpec | None:  # noqa: ARG004
        """The spec of one of our packages; None for every other name."""
        return PathFinder.find_spec(name, [FOLDER]) if name in PACKAGES else None


def main() -> int:
    """Runs a command; the exit code."""
    sys.meta_path.insert(0, OurPackages)
    from core import standard_streams  # noqa: PLC0415 - the finder above must come first

    standard_streams.open_missing()
    from cli.main import main as run  # noqa: PLC0415

    return run(sys.argv[1:])


if __name__ == "__main__":
    sys.exit(main())
