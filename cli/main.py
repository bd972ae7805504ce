"""Runs a command: parses the words, loads the settings, and prints an error as one sentence."""

import argparse
import sys
from collections.abc import Sequence

from cli import arguments
from core import standard_streams

INTERRUPTED = 130


def main(words: Sequence[str]) -> int:
    """Runs a command; returns its exit code: 1 for a TcgxError, 2 for invalid words."""
    standard_streams.replace_unencodable()
    try:
        code = _run(words)
    except SystemExit as ended:  # argparse has printed the reason
        code = ended.code if isinstance(ended.code, int) else 0
    except BrokenPipeError:
        code = standard_streams.CLOSED_PIPE
    except OSError as error:  # a full disk, a removed folder: a traceback would not explain it
        reason = error.strerror or str(error)
        code = _print_error(f"{error.filename}: {reason}" if error.filename else reason)
    except KeyboardInterrupt:
        code = INTERRUPTED
    return standard_streams.flush_output(code)


def _run(words: Sequence[str]) -> int:
    given = arguments.read(words)
    if given.name == "version":
        from importlib.metadata import version  # noqa: PLC0415 - like all imports here: help needs none of them

        print(f"tcgx {version('tcgx')}")
        return 0
    if given.name in arguments.SERVICES:
        from cli import services  # noqa: PLC0415

        return services.run(given.name, port=getattr(given, "port", None))
    return _run_command(given)


def _run_command(given: argparse.Namespace) -> int:
    from cli import configuration  # noqa: PLC0415
    from cli.runner import run  # noqa: PLC0415
    from core.errors import TcgxError  # noqa: PLC0415

    try:
        settings, sources = configuration.load(given)
    except TcgxError as error:
        return _print_error(str(error))
    try:
        return run(given, settings, sources)
    except TcgxError as error:
        return _print_error(configuration.explain(error, settings, sources))


def _print_error(sentence: str) -> int:
    print(f"tcgx: {sentence}", file=sys.stderr)
    return 1
