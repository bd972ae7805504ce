"""The report of a run: a line a round, a table of faults, and JSON."""

import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec

from testing.chaos.plan import KINDS
from testing.chaos.round import Outcome

COLUMNS = ("fault", "rounds", "acknowledged", "repeated", "lost", "doubled", "other", "recovery s")
OTHERS = ("altered", "order", "answer", "log", "state", "archive")
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
    lines += [f"  note: {note}" for note in outcome.notes]
    lines += [f"  note: traceback of {text}" for text in outcome.tracebacks]
    return lines


def table(outcomes: Sequence[Outcome]) -> str:
    """A row a kind of fault. A round with several faults counts in the row of each."""
    rows: list[tuple[str, ...]] = [COLUMNS]
    for kind in KINDS:
        of_kind = [outcome for outcome in outcomes if kind.name in {fault.kind for fault in outcome.faults}]
        if of_kind:
            rows.append(_row(kind.name, of_kind))
    without = [outcome for outcome in outcomes if not outcome.faults]
    if without:
        rows.append(_row("no fault", without))
    rows.append(_row("all rounds", outcomes))
    widths = [max(len(row[place]) for row in rows) for place in range(len(COLUMNS))]
    return "\n".join(_aligned(row, widths) for row in rows)


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
