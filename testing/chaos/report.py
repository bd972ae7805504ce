"""The report of a run: a line a round, a table of faults, and JSON."""

import statistics
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from core.errors import StartError
from testing.chaos.plan import ALL_KINDS
from testing.chaos.round import Outcome

COLUMNS = ("fault", "rounds", "acknowledged", "repeated", "lost", "doubled", "other", "recovery s")
OTHERS = ("altered", "order", "answer", "log", "state", "archive", "read", "start", "conflict")
SHOWN_MAX = 10
"""How many violations of a round are shown; the JSON has all."""


def line(outcome: Outcome) -> str:
    """A round in a line."""
    names = " + ".join(fault.kind for fault in outcome.faults) or "no fault"
    recovery = "none" if outcome.recovery_seconds is None else f"{outcome.recovery_seconds:.2f} s"
    counts = {
        "acknowledged": outcome.acknowledged,
        "repeated": outcome.repeats,
        "lost": outcome.count("lost"),
        "doubled": outcome.count("doubled"),
        "other": outcome.count(*OTHERS),
    }
    told = ", ".join(f"{name} {count:,}" for name, count in counts.items())
    return f"seed {outcome.seed}: {names}; {told}, recovery {recovery}"


def details(outcome: Outcome, command: str) -> list[str]:
    """Further lines of a round: its violations with the command that repeats it, and what else was noticed."""
    lines = [f"  {violation.rule}: {violation.text}" for violation in outcome.violations[:SHOWN_MAX]]
    if len(outcome.violations) > SHOWN_MAX:
        lines.append(f"  and {len(outcome.violations) - SHOWN_MAX} more")
    if outcome.violations:
        lines.append(f"  repeat it with: {command}")
    if outcome.conflicts:
        lines.append(f"  history conflict of {', '.join(outcome.conflicts)}, reported and recovered from")
    lines += [f"  note: {note}" for note in outcome.notes]
    lines += [f"  note: traceback of {text}" for text in outcome.tracebacks]
    return lines


def table(outcomes: Sequence[Outcome]) -> str:
    """A row a kind of fault. A round with several faults counts in the row of each."""
    rows = _rows(outcomes)
    widths = [max(len(row[place]) for row in rows) for place in range(len(COLUMNS))]
    return "\n".join(_aligned(row, widths) for row in rows)


def markdown(outcomes: Sequence[Outcome]) -> str:
    """The same table for docs/reliability.md."""
    head, *rows = [f"| {' | '.join(row)} |" for row in _rows(outcomes)]
    return "\n".join([head, f"|{'---|' * len(COLUMNS)}", *rows])


def summary(outcomes: Sequence[Outcome], about: Sequence["Run"]) -> str:
    """The sentence above the table: how many rounds, of which seeds, and what came of them."""
    alone = sum(len(outcome.faults) == 1 for outcome in outcomes)
    violations = sum(len(outcome.violations) for outcome in outcomes)
    counts = (
        f"{len(outcomes):,} rounds, {alone:,} of them with one fault",
        f"{sum(outcome.acknowledged for outcome in outcomes):,} orders acknowledged",
        f"{sum(outcome.repeats for outcome in outcomes):,} requests repeated",
        f"{sum(outcome.trades for outcome in outcomes):,} trades archived",
        f"{violations:,} violations",
        f"{sum(len(outcome.tracebacks) for outcome in outcomes):,} tracebacks",
    )
    commands = "; ".join(f"`{run.command}`" for run in about)
    left_out = sorted({kind for run in about for kind in run.left_out})
    more = f" Left out: {', '.join(left_out)}." if left_out else ""
    return f"{commands}: {', '.join(counts)}.{more}"


class Run(msgspec.Struct, kw_only=True):
    """The file that `--results` writes."""

    command: str
    left_out: dict[str, str]
    rounds: list[Outcome]


def read(paths: Iterable[Path]) -> list[Run]:
    """The runs of files.

    Raises:
        StartError: a file is none of a run, or two files have the round of one seed.
    """
    runs, seen = [], dict[tuple[str, int], Path]()
    for path in paths:
        try:
            runs.append(msgspec.json.decode(path.read_bytes(), type=Run))
        except (OSError, msgspec.DecodeError, UnicodeDecodeError) as error:
            raise StartError(f"{path} holds no rounds of chaos: {error}") from error
        for outcome in runs[-1].rounds:
            place = outcome.setup, outcome.seed
            if place in seen:
                raise StartError(f"{path} and {seen[place]} both have seed {outcome.seed}: it would count twice")
            seen[place] = path
    return runs


def _rows(outcomes: Sequence[Outcome]) -> list[tuple[str, ...]]:
    rows: list[tuple[str, ...]] = [COLUMNS]
    for kind in ALL_KINDS:
        of_kind = [outcome for outcome in outcomes if kind.name in {fault.kind for fault in outcome.faults}]
        if of_kind:
            rows.append(_row(kind.name, of_kind))
    without = [outcome for outcome in outcomes if not outcome.faults]
    if without:
        rows.append(_row("no fault", without))
    conflicts = [outcome for outcome in outcomes if outcome.conflicts]
    if conflicts:
        rows.append(_row("with a history conflict", conflicts))
    several = [outcome for outcome in outcomes if outcome.api_processes > 1]
    if several:
        rows.append(_row("with two API processes", several))
    rows.append(_row("all rounds", outcomes))
    return rows


def _row(name: str, outcomes: Sequence[Outcome]) -> tuple[str, ...]:
    times = sorted(outcome.recovery_seconds for outcome in outcomes if outcome.recovery_seconds is not None)
    recovery = f"{statistics.median(times):.2f}, at most {times[-1]:.2f}" if times else ""
    counts = [sum(outcome.count(*rules) for outcome in outcomes) for rules in (("lost",), ("doubled",), OTHERS)]
    acknowledged = sum(outcome.acknowledged for outcome in outcomes)
    repeats = sum(outcome.repeats for outcome in outcomes)
    numbers = (len(outcomes), acknowledged, repeats, *counts)
    return name, *(f"{number:,}" for number in numbers), recovery


def _aligned(row: Iterable[str], widths: Sequence[int]) -> str:
    first, *others = row
    cells = [first.ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(others, widths[1:], strict=True))]
    return "  ".join(cells).rstrip()


def encoded(outcomes: Sequence[Outcome], about: Mapping[str, Any]) -> bytes:
    """The run as JSON."""
    return msgspec.json.format(msgspec.json.encode({**about, "rounds": outcomes}), indent=2) + b"\n"
