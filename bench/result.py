"""What every benchmark leaves: a table, a file of JSON, and a plot."""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from bench import plot_style
from bench.machine import Machine
from bench.options import Options
from bench.plot_style import Head, Sheet
from core.errors import TcgxError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Row = tuple[str, ...]


class Failed(TcgxError):
    """A benchmark whose result would be wrong; it leaves no file."""


class Result(msgspec.Struct, kw_only=True):
    """What all have in common; a benchmark adds its figures."""

    bench: str
    flow: str
    seed: int
    durability: str
    server: str
    machine: Machine

    def about(self) -> str:
        """Under which conditions, in a line."""
        machine = self.machine
        return (
            f"{self.server}, fsync {self.durability}, flow {self.flow}, {machine.cores} cores ({machine.cpu}), "
            f"load {machine.load_1m} at the start"
        )

    def columns(self) -> Row:
        """Names of the table's columns."""
        return ("", "")

    def rows(self) -> list[Row]:
        """Name and value of each figure, as the table shows them."""
        raise NotImplementedError

    def conditions(self) -> str:
        """The line below the plot."""
        machine = self.machine
        commit = f", commit {machine.commit}" if machine.commit else ""
        return (
            f"{machine.cores} cores, {machine.cpu} · {self.server[:1].upper()}{self.server[1:]}, fsync "
            f"{self.durability} · flow {self.flow}, seed {self.seed} · tcgx {machine.versions['tcgx']}{commit}, "
            f"Python {machine.python}"
        )

    def head(self) -> Head:
        """What the plot says above its panels."""
        raise NotImplementedError

    def draw(self, sheet: Sheet) -> None:
        """Draws the panels of the plot, from this result alone."""
        raise NotImplementedError

    def failures(self) -> Sequence[str]:
        """What is not as it must be, where a benchmark is a test too. The result is kept, and the exit code is 1."""
        return ()

    def headline(self) -> str:
        """The most important figure, in a few words."""
        raise NotImplementedError


def common(options: Options, machine: Machine, server: str) -> dict[str, Any]:
    """The fields of `Result`."""
    return {
        "bench": options.name,
        "flow": options.flow,
        "seed": options.seed,
        "durability": options.durability,
        "server": server,
        "machine": machine,
    }


def encoded(result: Result) -> bytes:
    """As JSON for people and programs."""
    return msgspec.json.format(msgspec.json.encode(result)) + b"\n"


def encoded_all(found: Sequence[Result]) -> bytes:
    """Several, by the name of the benchmark."""
    return msgspec.json.format(msgspec.json.encode({one.bench: one for one in found})) + b"\n"


def drawn(result: Result) -> "Figure":
    """The plot of a result."""
    with plot_style.style():
        sheet = Sheet(result.head(), result.conditions())
        result.draw(sheet)
        return sheet.finish()


def digest(*texts: bytes) -> str:
    """Stands in a picture for the files of JSON from which it was drawn."""
    return " ".join(f"sha256:{hashlib.sha256(text).hexdigest()}" for text in texts)


def save(result: Result, folder: Path) -> list[Path]:
    """Writes `<bench>.json` and `.png` (with the flow in the name unless it is uniform)."""
    name = result.bench if result.flow == "uniform" else f"{result.bench}-{result.flow}"
    folder.mkdir(parents=True, exist_ok=True)
    figures, picture = folder / f"{name}.json", folder / f"{name}.png"
    figures.write_bytes(encoded(result))  # first: a measurement takes longer than a plot
    plot_style.save(drawn(result), picture, digest(encoded(result)))
    return [figures, picture]


def print_table(title: str, rows: Sequence[Row], columns: Sequence[str] = ("", ""), *, summary: str = "") -> None:
    """A table on standard output, under a title, and the finding in a line below."""
    from rich.console import Console  # noqa: PLC0415 - with matplotlib in the extra of the bench
    from rich.table import Table  # noqa: PLC0415

    console = Console()
    console.print(title, highlight=False, soft_wrap=True)
    table = Table(show_header=any(columns))
    for number, column in enumerate(columns):
        table.add_column(column, justify="left" if number == 0 else "right", overflow="fold")
    for row in rows:
        table.add_row(*row)
    console.print(table, highlight=False)
    if summary:
        console.print(summary, style="bold", highlight=False, soft_wrap=True)
