"""`tcgx bench compare BEFORE AFTER`: two folders of results, figure by figure.

CPU time an order, and ratios that were measured in turns, say whether something has become slower: those beyond
`--worse` end with exit code 1. Figures by the clock are shown beside them and judge nothing, since other work on the
machine moves them.
"""

import argparse
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from bench import result as results
from bench.plots import read
from bench.result import Result, Row
from core.errors import StartError


class Figure(NamedTuple):
    """A figure of a benchmark. `judges`: whether a worse one ends with exit code 1."""

    name: str
    of: Callable[[Any], float]
    more_is_better: bool = False
    judges: bool = True


FIGURES: dict[str, tuple[Figure, ...]] = {
    "match": (
        Figure("CPU of Redis an order, µs", lambda found: found.cpu_us_per_order),
        Figure("CPU, times one call an order", lambda found: found.cpu_ratio, more_is_better=True),
        Figure("orders/s", lambda found: found.orders_per_second, more_is_better=True, judges=False),
        Figure("longest call, ms", lambda found: found.longest_call_ms, judges=False),
    ),
    "append": (
        Figure("CPU of Redis an order in a batch, µs", lambda found: found.batch.redis_cpu_us_per_order),
        Figure("CPU of Redis a single order, µs", lambda found: found.single.redis_cpu_us_per_order),
        Figure("orders/s in batches", lambda found: found.orders_per_second, more_is_better=True, judges=False),
    ),
    "http": (
        Figure("CPU of the API an order, µs", lambda found: found.cpu_us_per_order["api"]),
        Figure("times an empty handler", lambda found: found.ratio, more_is_better=True),
        Figure("requests/s", lambda found: found.requests_per_second, more_is_better=True, judges=False),
        Figure("p99, ms", lambda found: found.p99_ms, judges=False),
    ),
    "million": (
        Figure("CPU an order without clients, µs", lambda found: _without_clients(found.cpu_us_per_order)),
        Figure("orders/s, verified", lambda found: found.orders_per_second, more_is_better=True, judges=False),
    ),
    "archive": (
        Figure("CPU a row, µs", lambda found: sum(found.cpu_us_per_row.values())),
        Figure("rows/s", lambda found: found.rows_per_second, more_is_better=True, judges=False),
    ),
    "latency": (
        Figure("p50, ms", lambda found: found.p50_ms, judges=False),
        Figure("p99, ms", lambda found: found.p99_ms, judges=False),
    ),
    "streams": (Figure("p99, ms", lambda found: found.p99_ms, judges=False),),
}
"""What is compared of each benchmark."""


def _without_clients(microseconds: dict[str, float]) -> float:
    return sum(value for name, value in microseconds.items() if name != "clients")


def main(arguments: argparse.Namespace) -> int:
    """The exit code.

    Raises:
        StartError: a folder has no results, or both have none in common.
    """
    before, after = _results(arguments.before), _results(arguments.after)
    rows, worse = [], []
    for name in sorted(before.keys() & after.keys()):
        for row, is_worse in _compared(name, before[name], after[name], arguments.worse):
            rows.append(row)
            worse += [row] if is_worse else []
    if not rows:
        raise StartError(f"{arguments.before} and {arguments.after} have no benchmark in common that can be compared")
    found = f"{len(worse)} of {len(rows)} figures are worse than {arguments.worse} times"
    title = f"tcgx bench compare: {arguments.before} → {arguments.after}"
    results.print_table(title, rows, ("", "before", "after", "ratio", ""), summary=found)
    return 1 if worse else 0


def _results(folder: Path) -> dict[str, Result]:
    """The results of a folder, by the name of their file.

    Raises:
        StartError: there are none.
    """
    found = {path.stem: read(path) for path in sorted(folder.glob("*.json"))}
    if not found:
        raise StartError(f"{folder} has no results of `tcgx bench`")
    return found


def _compared(name: str, before: Result, after: Result, worse: float) -> Iterator[tuple[Row, bool]]:
    for figure in FIGURES.get(before.bench, ()):
        values = figure.of(before), figure.of(after)
        if not all(values):
            continue
        ratio = values[1] / values[0]
        times_worse = 1 / ratio if figure.more_is_better else ratio
        is_worse = figure.judges and times_worse > worse
        word = "WORSE" if is_worse else "" if figure.judges else "by the clock"
        yield (f"{name}: {figure.name}", *(f"{value:,.2f}" for value in values), f"{ratio:.2f}", word), is_worse
