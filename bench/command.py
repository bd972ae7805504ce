"""`tcgx bench`: runs a benchmark, shows its table, and keeps its result."""

import argparse
import asyncio
import importlib
from pathlib import Path

from bench import result as results
from bench.options import BENCHES, Options, options_of
from bench.result import Failed, Result
from cli import paths
from core import service
from core.settings import Settings

ORDER_OF_ALL = ("match", "append", "archive", "http", "latency", "million", "baseline", "scale")


STOPPED = 130


async def run(arguments: argparse.Namespace, settings: Settings) -> int:
    """The exit code. A signal stops it, with its servers; nothing is left behind.

    Raises:
        StartError: a server is missing, a server holds an exchange, or a result can't be written.
        Failed: what was measured is not right; nothing is written.
    """
    work = asyncio.ensure_future(_chosen(arguments, settings))
    for number in service.ending_signals():
        asyncio.get_running_loop().add_signal_handler(number, work.cancel)
    try:
        return await work
    except asyncio.CancelledError:
        return STOPPED


async def _chosen(arguments: argparse.Namespace, settings: Settings) -> int:
    if arguments.bench == "plots":
        from bench import plots  # noqa: PLC0415 - with it come all benchmarks

        return plots.main(arguments)
    if arguments.bench == "compare":
        from bench import compare  # noqa: PLC0415 - likewise

        return compare.main(arguments)
    _check_writable(arguments.results, arguments.json)
    if arguments.bench != "all":
        options = options_of(arguments.bench, arguments, settings)
        result = await _measured(options)
        _write(options, results.encoded(result))
        return 1 if result.failures() else 0
    found, failed = [], []
    options = options_of(ORDER_OF_ALL[0], arguments, settings)
    for name in ORDER_OF_ALL:
        try:
            found.append(await _measured(options_of(name, arguments, settings)))
        except Failed as error:
            failed.append((name, f"FAILED: {error}"))
    results.print_table("tcgx bench all", [(one.bench, one.headline()) for one in found] + failed)
    _write(options, results.encoded_all(found))
    return 1 if failed else 0


async def _measured(options: Options) -> Result:
    from bench.progress import Board  # noqa: PLC0415 - rich is in the extra of the bench

    module = importlib.import_module(f"bench.{options.name}")
    with Board() as board:
        result: Result = await module.run(options, board)
    title = f"tcgx bench {options.name}: {BENCHES[options.name].summary}\n{result.about()}"
    results.print_table(title, result.rows(), result.columns(), summary=result.headline())
    paths = results.save(result, options.results)
    print("kept in " + ", ".join(str(path) for path in paths))
    return result


def _check_writable(folder: Path, copy: Path | None) -> None:
    """Before anything is measured."""
    paths.check_folder(folder)
    if copy and copy.parent.exists():
        paths.check_file(copy)
    elif copy:
        paths.check_folder(copy.parent)


def _write(options: Options, text: bytes) -> None:
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_bytes(text)
