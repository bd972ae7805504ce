"""What every benchmark leaves: a table, a file of JSON, and a plot as PNG and SVG."""

import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from bench.machine import Machine
from bench.options import Options
from engine.errors import StartError, TcgxError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Row = tuple[str, ...]
NEEDED = ("matplotlib", "rich")
COLORS = {"ours": "#2a6f97", "other": "#bc6c25", "third": "#6a994e", "fourth": "#7d4f9e"}
DPI = 120


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

    def draw(self, figure: "Figure") -> None:
        """Draws the plot."""
        raise NotImplementedError

    def headline(self) -> str:
        """The most important figure, in a few words."""
        raise NotImplementedError


def from_zero(ax: "Axes") -> None:
    """Lets the values begin at zero, with some space above the highest."""
    ax.set_ylim(0, 1.12 * ax.dataLim.y1)


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


def check_installed() -> None:
    """That tables and plots can be made.

    Raises:
        StartError: a package is missing; the message says how to get it.
    """
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        raise StartError(f"`tcgx bench` needs {' and '.join(missing)}: pip install '.[bench]' in the checkout")


def encoded(result: Result) -> bytes:
    """As JSON for people and programs."""
    return msgspec.json.format(msgspec.json.encode(result)) + b"\n"


def encoded_all(found: Sequence[Result]) -> bytes:
    """Several, by the name of the benchmark."""
    return msgspec.json.format(msgspec.json.encode({one.bench: one for one in found})) + b"\n"


def save(result: Result, folder: Path) -> list[Path]:
    """Writes `<bench>.json`, `.png` and `.svg` (with the flow in the name unless it is uniform)."""
    import matplotlib as mpl  # noqa: PLC0415 - half a second, and only after everything is measured
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # noqa: PLC0415
    from matplotlib.figure import Figure  # noqa: PLC0415

    name = result.bench if result.flow == "uniform" else f"{result.bench}-{result.flow}"
    folder.mkdir(parents=True, exist_ok=True)
    with mpl.rc_context({"svg.hashsalt": "tcgx", "svg.fonttype": "none", "font.size": 9}):
        figure = Figure(figsize=(7.2, 4.0), layout="constrained")
        FigureCanvasAgg(figure)
        result.draw(figure)
        for ax in figure.axes:
            ax.spines[["top", "right"]].set_visible(False)
            ax.grid(alpha=0.25)
        machine = result.machine
        figure.supxlabel(
            f"{machine.cores} cores, {machine.cpu}, {result.server}, fsync {result.durability}", fontsize=7, color="0.4"
        )
        paths = [folder / f"{name}.{kind}" for kind in ("json", "png", "svg")]
        figure.savefig(paths[1], dpi=DPI)
        figure.savefig(paths[2], metadata={"Date": None})
    paths[0].write_bytes(encoded(result))
    return paths


def print_table(title: str, rows: Sequence[Row], columns: Sequence[str] = ("", "")) -> None:
    """A table on standard output, under a title."""
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
