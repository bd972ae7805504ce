"""Counts and distributions of a process. Adding to one costs a fraction of a microsecond; a scrape reads them.

A tally is made once, at import, by the module that adds to it. Nothing here knows Prometheus: `observe/exposition.py`
turns tallies into metrics, and only where an operator has asked for them.
"""

import time
from bisect import bisect_left
from collections.abc import Sequence
from typing import NamedTuple

LABEL_VALUES_MAX = 400
"""Combinations of label values that a tally keeps apart. All further ones are added up under `OTHER`."""
OTHER = "other"

SECONDS = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0)
"""Upper bounds of the buckets of a distribution of times."""
SIZES = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1_000, 2_000, 5_000)
"""Upper bounds of the buckets of a distribution of numbers."""

MINUTE = 60.0

Labels = tuple[str, ...]


class Count:
    """A number of events since the start of the process, for each combination of label values."""

    def __init__(self, name: str, text: str, labels: Labels = ()) -> None:
        """`name`: without the suffix `_total`. `text`: a description for operators."""
        self.name, self.text, self.labels = name, text, labels
        self.cells: dict[Labels, list[float]] = {} if labels else {(): [0.0]}
        COUNTS.append(self)

    def add(self, amount: float, *labels: str) -> None:
        """Adds an amount, which may be 0 to make a combination of label values known."""
        (self.cells.get(labels) or self.cell(*labels))[0] += amount

    def cell(self, *labels: str) -> list[float]:
        """The list whose only item is the number of these label values, for code that adds very often."""
        cell = self.cells.get(labels)
        return self.cells.setdefault(_bounded(labels, len(self.cells)), [0.0]) if cell is None else cell


class Distribution:
    """How often values lay below each of the bounds, for each combination of label values."""

    def __init__(self, name: str, text: str, labels: Labels = (), *, bounds: Sequence[float] = SECONDS) -> None:
        """`name`: with its unit. `bounds`: ascending."""
        self.name, self.text, self.labels, self.bounds = name, text, labels, tuple(bounds)
        self.rows: dict[Labels, list[float]] = {} if labels else {(): self._new_row()}
        DISTRIBUTIONS.append(self)

    def _new_row(self) -> list[float]:
        return [0.0] * (len(self.bounds) + 2)

    def add(self, value: float, *labels: str) -> None:
        """Adds a value."""
        row = self.rows.get(labels) or self.row(*labels)
        row[bisect_left(self.bounds, value)] += 1
        row[-1] += value

    def row(self, *labels: str) -> list[float]:
        """The numbers of these label values: one for each bucket, one above all bounds, and the sum of the values."""
        row = self.rows.get(labels)
        return self.rows.setdefault(_bounded(labels, len(self.rows)), self._new_row()) if row is None else row


class Longest:
    """The longest time within the present minute and the one before it."""

    def __init__(self, name: str, text: str) -> None:
        self.name, self.text = name, text
        self._now = self._before = 0.0
        self._ends_at = 0.0
        LONGEST.append(self)

    def add(self, seconds: float, *, now: float | None = None) -> None:
        """Adds a time. `now`: seconds of a monotonic clock."""
        self._turn(time.monotonic() if now is None else now)
        self._now = max(self._now, seconds)

    def seconds(self, *, now: float | None = None) -> float:
        """The longest time of the last one to two minutes; 0 without one."""
        self._turn(time.monotonic() if now is None else now)
        return max(self._now, self._before)

    def _turn(self, now: float) -> None:
        if now < self._ends_at:
            return
        self._before = self._now if now < self._ends_at + MINUTE else 0.0
        self._now, self._ends_at = 0.0, now + MINUTE


class Value(NamedTuple):
    """A value that is read at a scrape: a state, or a count that another program keeps."""

    name: str
    value: float
    labels: tuple[tuple[str, str], ...] = ()


COUNTS: list[Count] = []
DISTRIBUTIONS: list[Distribution] = []
LONGEST: list[Longest] = []
"""All tallies of the process."""


def _bounded(labels: Labels, known: int) -> Labels:
    return labels if known < LABEL_VALUES_MAX else (OTHER,) * len(labels)
