"""How every plot looks: one sheet with a head that says what was found, panels, and the conditions below.

A colour has one meaning in all plots. Numbers have thousands separators. matplotlib is imported when a sheet is made:
it takes half a second, and benchmarks measure before they draw.
"""

import textwrap
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import mean
from typing import TYPE_CHECKING, Any, Literal

import msgspec

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.text import Text

Role = Literal["tcgx", "api", "engine", "archiver", "redis", "postgres", "client", "other"]
"""What a colour stands for. `tcgx`: a whole exchange; `engine`: matching; `other`: what tcgx is compared with."""
Format = Literal["png", "svg"]

COLORS: Mapping[Role, str] = {
    "tcgx": "#173f6b",
    "api": "#2e86c1",
    "engine": "#d9730d",
    "archiver": "#2e8b57",
    "redis": "#b8322a",
    "postgres": "#7d5ba6",
    "client": "#8d6e63",
    "other": "#8d959e",
}
NAMES: Mapping[Role, str] = {
    "tcgx": "tcgx",
    "api": "API",
    "engine": "engine",
    "archiver": "archiver",
    "redis": "Redis",
    "postgres": "PostgreSQL",
    "client": "clients",
    "other": "compared with",
}
INK, PALE, RULE = "#1d232a", "#5b6570", "#dfe3e8"

WIDTH, DPI = 8.0, 200
"""Inches and dots an inch: twice the width that a README has on a page."""
EDGE = 0.14
TITLE_POINTS, TEXT_POINTS, FOOT_POINTS = 13.0, 9.0, 7.5
TITLE_CHARACTERS, SUBTITLE_CHARACTERS, FOOT_CHARACTERS = 70, 116, 130
LINE = 1.35
"""Height of a line of text, in heights of its letters."""
KEY_LINES = 1.5
"""Of text, the space that the key takes with that above it."""
POINTS_AN_INCH = 72
LABEL_GAP_POINTS = 4.0
BAR_INCHES = 0.27
BAR_SHARE = 0.72
"""Of the place that a bar has, the part that it fills."""
STYLE: Mapping[str, Any] = {
    "font.family": "DejaVu Sans",
    "font.size": TEXT_POINTS,
    "text.color": INK,
    "axes.titlesize": TEXT_POINTS + 1,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.titlepad": 7.0,
    "axes.labelcolor": PALE,
    "axes.edgecolor": "#9aa1a9",
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": RULE,
    "grid.linewidth": 0.8,
    "xtick.color": PALE,
    "ytick.color": PALE,
    "xtick.labelcolor": PALE,
    "ytick.labelcolor": INK,
    "lines.linewidth": 2.0,
    "lines.markersize": 5.5,
    "lines.solid_capstyle": "round",
    "legend.frameon": False,
    "figure.facecolor": "white",
    "savefig.facecolor": "white",
    "svg.hashsalt": "tcgx",
    "svg.fonttype": "path",
}


class Bar(msgspec.Struct, frozen=True):
    """A horizontal bar: what stands before it, how long it is, what it stands for, and what stands behind it."""

    name: str
    value: float
    role: Role
    label: str


class Head(msgspec.Struct, frozen=True):
    """What a plot says: the finding, how it was found, and which colour is what where the panels do not tell."""

    title: str
    subtitle: str
    key: Mapping[Role, str] = {}


def rated(name: str, value: float, role: Role, more: str = "") -> Bar:
    """A bar of a rate: its label is the number without fractions, and `more` after that."""
    return Bar(name, value, role, f"{value:,.0f}{more}")


def role_of(process: str) -> Role:
    """The role of a process, by the name that results have for it.

    Raises:
        ValueError: no process of an exchange has this name.
    """
    name = "client" if process == "clients" else process
    for role in COLORS:
        if role == name:
            return role
    raise ValueError(f"no colour stands for the process {process!r}")


def amount(value: float, _place: object = None) -> str:
    """A number as axes have it: thousands separated, no more digits than it needs."""
    return f"{value:,.10g}"


def counted(number: int, noun: str) -> str:
    """A number and its noun."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def micros(value: float, most: float) -> str:
    """Microseconds, with as many digits behind the point as the largest of its panel needs."""
    return f"{value:,.{2 if most < 10 else 1 if most < 100 else 0}f} µs"


@contextmanager
def style() -> Iterator[None]:
    """Inside, matplotlib makes what it makes in the style of all plots."""
    import matplotlib as mpl  # noqa: PLC0415 - half a second, and only after everything is measured

    rc: Any = dict(STYLE)  # matplotlib's type has a literal for each of its 400 names
    with mpl.rc_context(rc):
        yield


class Sheet:
    """A figure with head and foot. `finish` comes last: only then is known how much room texts take."""

    def __init__(self, head: Head, foot: str) -> None:
        from matplotlib.backends.backend_agg import FigureCanvasAgg  # noqa: PLC0415
        from matplotlib.figure import Figure  # noqa: PLC0415

        self.figure = Figure(figsize=(WIDTH, 4.0))
        FigureCanvasAgg(self.figure)
        self._head = head
        self._title = textwrap.wrap(head.title, TITLE_CHARACTERS)
        self._subtitle = textwrap.wrap(head.subtitle, SUBTITLE_CHARACTERS)
        self._foot = textwrap.wrap(foot, FOOT_CHARACTERS)
        self._late: list[Callable[[], None]] = []

    def panels(self, rows: int, columns: int, *, inches: float, **shape: Any) -> list[list["Axes"]]:
        """Axes in rows. `inches`: how high all of them are together, without head and foot."""
        top, bottom = self._top_inches(), self._bottom_inches()
        height = top + inches + bottom
        self.figure.set_size_inches(WIDTH, height)
        rect = (EDGE / WIDTH, bottom / height, 1 - 2 * EDGE / WIDTH, inches / height)
        self.figure.set_layout_engine("constrained", rect=rect, w_pad=0.08, h_pad=0.06, wspace=0.03, hspace=0.02)
        made: Any = self.figure.subplots(rows, columns, squeeze=False, **shape)
        for ax in self.figure.axes:
            ax.xaxis.set_major_formatter(amount)
            ax.yaxis.set_major_formatter(amount)
        self._write(height)
        return [list(row) for row in made]

    def bars(self, ax: "Axes", groups: Sequence[Sequence[Bar]], *, names: Sequence[str] | None = None) -> None:
        """Horizontal bars from the top down, a little space between groups. `names`: of the groups, instead of the
        names of their bars. Each bar has its value behind it, so there is no axis to read it from."""
        place, places, middles = 0.0, [], []
        for group in groups:
            own = [place + number for number in range(len(group))]
            places += own
            middles.append((own[0] + own[-1]) / 2)
            place = own[-1] + (1.5 if len(group) > 1 else 1.0)
        bars = [bar for group in groups for bar in group]
        drawn = ax.barh(
            places, [bar.value for bar in bars], BAR_SHARE, color=[COLORS[bar.role] for bar in bars], linewidth=0
        )
        if names is None:
            ax.set_yticks(places, [bar.name for bar in bars])
        else:
            ax.set_yticks(middles, list(names))
        labels = ax.bar_label(drawn, [bar.label for bar in bars], padding=LABEL_GAP_POINTS)
        for text in (*labels, *ax.get_yticklabels()):
            text.set_verticalalignment("center_baseline")
        ax.set_ylim(places[-1] + 0.6, -0.6)
        ax.set_xlim(0, max([bar.value for bar in bars], default=0) or 1)
        ax.tick_params(length=0)
        ax.set_xticks([])
        ax.grid(visible=False)
        ax.spines["bottom"].set_visible(False)
        self._late.append(lambda: _make_room(ax, bars, labels))

    def line_ends(self, ax: "Axes", ends: Sequence[tuple[float, str, Role]]) -> None:
        """Names right of the lines that end at these values, one above the other where lines meet."""
        labels = [
            ax.annotate(
                text,
                (1.0, value),
                (LABEL_GAP_POINTS + 2, 0),
                xycoords=("axes fraction", "data"),
                textcoords="offset points",
                color=COLORS[role],
                va="center",
                annotation_clip=False,
            )
            for value, text, role in ends
        ]
        self._late.append(lambda: _spread(labels))

    def finish(self) -> "Figure":
        """The figure, laid out."""
        self.figure.draw_without_rendering()
        for work in self._late:
            work()
        self.figure.draw_without_rendering()
        return self.figure

    def _top_inches(self) -> float:
        lines = len(self._subtitle) + KEY_LINES * bool(self._head.key)
        return 1.5 * EDGE + LINE * (TITLE_POINTS * len(self._title) + TEXT_POINTS * lines) / POINTS_AN_INCH

    def _bottom_inches(self) -> float:
        return EDGE + LINE * FOOT_POINTS * len(self._foot) / POINTS_AN_INCH

    def _write(self, height: float) -> None:
        """Head and foot, which are no part of the layout of the panels."""
        left, below = EDGE / WIDTH, 1 - EDGE / height
        text = self.figure.text
        title = "\n".join(self._title)
        text(left, below, title, fontsize=TITLE_POINTS, fontweight="bold", va="top", linespacing=LINE)
        below -= LINE * TITLE_POINTS * len(self._title) / POINTS_AN_INCH / height
        text(left, below, "\n".join(self._subtitle), color=PALE, va="top", linespacing=LINE)
        below -= LINE * TEXT_POINTS * (len(self._subtitle) + KEY_LINES - 1) / POINTS_AN_INCH / height
        foot = "\n".join(self._foot)
        text(left, EDGE / height / 2, foot, color=PALE, fontsize=FOOT_POINTS, va="bottom", linespacing=LINE)
        if self._head.key:
            self._write_key(left, below)

    def _write_key(self, left: float, top: float) -> None:
        from matplotlib.patches import Patch  # noqa: PLC0415

        self.figure.legend(
            [Patch(color=COLORS[role]) for role in self._head.key],
            list(self._head.key.values()),
            loc="upper left",
            bbox_to_anchor=(left, top),
            ncols=len(self._head.key),
            borderaxespad=0.15,
            borderpad=0.0,
            handlelength=1.0,
            handleheight=1.0,
            columnspacing=1.6,
        ).set_in_layout(False)


def curves(ax: "Axes") -> None:
    """For lines: values from zero, some space above the highest, no line cut at the frame."""
    from matplotlib.ticker import MaxNLocator  # noqa: PLC0415

    ax.set_ylim(0, 1.1 * ax.dataLim.y1 or 1)
    ax.yaxis.set_major_locator(MaxNLocator(5))
    ax.tick_params(length=0)
    for line in ax.lines:
        line.set_clip_on(False)


def logarithmic(ax: "Axes") -> None:
    """For lines over several powers of ten."""
    ax.set_yscale("log")
    ax.yaxis.set_major_formatter(amount)
    ax.minorticks_off()
    ax.tick_params(length=0)


def save(figure: "Figure", path: Path, source: str) -> None:
    """Writes a picture, in the format of the path's suffix. `source`: of which figures it is one, kept in the file."""
    about = {"Source": source} | ({"Date": None} if path.suffix == ".svg" else {"Software": None})
    with style():
        figure.savefig(path, dpi=DPI, metadata=about)


def _make_room(ax: "Axes", bars: Sequence[Bar], labels: Sequence["Text"]) -> None:
    """Makes the axis so long that the label behind each bar ends inside."""
    width = ax.get_window_extent().width
    gap = 2 * LABEL_GAP_POINTS * _pixels_a_point(ax)
    longest = max(bar.value for bar in bars) or 1.0
    needed = [
        bar.value * width / max(width - gap - label.get_window_extent().width, 1)
        for bar, label in zip(bars, labels, strict=True)
    ]
    ax.set_xlim(0, max(longest, *needed))


def _spread(labels: Sequence["Text"]) -> None:
    """Moves labels apart that lie over each other, none farther than it takes, and none out of the axes."""
    ax: Any = labels[0].axes
    boxes = {label: label.get_window_extent() for label in labels}
    ordered = sorted(labels, key=lambda label: float(boxes[label].y0))
    middles = [float(boxes[label].y0 + boxes[label].y1) / 2 for label in ordered]
    frame, step = ax.get_window_extent(), 1.1 * max(float(box.height) for box in boxes.values())
    for label, middle, to in zip(ordered, middles, apart(middles, step, frame.y0, frame.y1), strict=True):
        label.set_position((label.get_position()[0], (to - middle) / _pixels_a_point(ax)))


def apart(places: Sequence[float], step: float, lowest: float, highest: float) -> list[float]:
    """Places from the lowest up, moved so that each is at least a step above the one before; a heap of them stays
    around its middle. Where all of them have room between `lowest` and `highest`, they are there."""
    heaps: list[list[float]] = []
    for number, place in enumerate(places):
        heaps.append([place - number * step])
        while len(heaps) > 1 and mean(heaps[-2]) > mean(heaps[-1]):
            heaps[-2:] = [heaps[-2] + heaps[-1]]
    top = highest - step * (len(places) - 1)
    middles = [max(lowest, min(mean(heap), top)) for heap in heaps for _ in heap]
    return [middle + number * step for number, middle in enumerate(middles)]


def _pixels_a_point(ax: "Axes") -> float:
    figure: Any = ax.figure
    return float(figure.dpi) / POINTS_AN_INCH
