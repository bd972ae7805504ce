"""A panel as SVG: lines over time, with units, a key with the last values, and nothing from elsewhere."""

import math
import time
from collections.abc import Mapping, Sequence
from html import escape
from itertools import pairwise
from typing import NamedTuple

from observe.panels import COLORS, OTHERS, Panel, Unit

WIDTH, HEIGHT = 560, 230
LEFT, RIGHT, TOP, BOTTOM = 62, 14, 40, 24
KEY_LINE = 17
KEY_COLUMNS = 3
KEY_CHARACTERS = 20
LEAST_TOP: Mapping[Unit, float] = {
    "seconds": 0.001,
    "per second": 1.0,
    "number": 3.8,
    "bytes": 1_000.0,
    "cores": 0.1,
    "share": 0.1,
}
"""The value for which an axis has room at least."""
SERIES_MAX = 12
"""Lines of a panel. Of more series, those with the largest last values are drawn."""
STEPS = (1, 2, 2.5, 5, 10)
TICKS = 4
TIME_TICKS = 5
INK, PALE, RULE, PAPER = "#1d232a", "#5b6570", "#dfe3e8", "#ffffff"

Point = tuple[float, float]


class Series(NamedTuple):
    """A line: its name, its colour, and times (seconds since 1970) with values. `is_bound`: drawn with dashes."""

    name: str
    color: str
    points: Sequence[Point]
    is_bound: bool = False

    @property
    def last(self) -> float:
        """The last value; 0 without one."""
        return self.points[-1][1] if self.points else 0.0


def number_text(value: float, unit: Unit) -> str:
    """A value with its unit, with about three digits."""
    if unit == "share":
        return f"{value * 100:.3g} %"
    if unit == "seconds":
        for factor, name in ((1.0, "s"), (1e-3, "ms"), (1e-6, "µs")):
            if abs(value) >= factor or name == "µs":
                return f"{value / factor:.3g} {name}" if value else "0 s"
    if unit == "bytes":
        for exponent, name in ((3, "GB"), (2, "MB"), (1, "KB")):
            if abs(value) >= 1_000**exponent:
                return f"{value / 1_000**exponent:.3g} {name}"
        return f"{value:.0f} B"
    for exponent, name in ((9, "G"), (6, "M"), (3, "k")):
        if abs(value) >= 10**exponent:
            return f"{value / 10**exponent:.3g}{name}{_per(unit)}"
    return f"{value:.3g}{_per(unit)}"


def _per(unit: Unit) -> str:
    return "/s" if unit == "per second" else ""


def svg(panel: Panel, series: Sequence[Series], began_at: float, ended_at: float) -> str:
    """The picture of a panel between two times."""
    shown = sorted(series, key=lambda one: -one.last)[:SERIES_MAX] if len(series) > SERIES_MAX else list(series)
    key_lines = -(-max(1, len(shown)) // KEY_COLUMNS)
    height = HEIGHT + key_lines * KEY_LINE
    top = _top(max((value for one in shown for _, value in one.points), default=0.0), panel.unit)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" role="img" '
        f'font-family="system-ui, sans-serif" font-size="11">',
        f"<title>{escape(panel.title)}</title>",
        f'<rect width="{WIDTH}" height="{height}" fill="{PAPER}"/>',
        _text(8, 16, panel.title, INK, size=13, weight="600"),
        _text(8, 31, panel.text, PALE, size=10),
    ]
    parts += _axes(panel.unit, top, began_at, ended_at)
    for one in shown:
        parts += _line(one, top, began_at, ended_at)
    if not any(one.points for one in shown):
        parts.append(_text(WIDTH / 2, (TOP + HEIGHT - BOTTOM) / 2 + 8, "no data", PALE, anchor="middle"))
    for place, one in enumerate(shown):
        parts += _key(place, one, panel.unit)
    return "".join([*parts, "</svg>"])


def colored(panel: Panel, found: Sequence[Sequence[tuple[dict[str, str], Sequence[Point]]]]) -> list[Series]:
    """The series of a panel: for each query, labels and points of each of its series, as Prometheus gives them."""
    others = iter(OTHERS * SERIES_MAX)
    made = []
    for query, results in zip(panel.queries, found, strict=True):
        for labels, points in sorted(results, key=lambda each: sorted(each[0].items())):
            name = query.legend
            for label, value in labels.items():
                name = name.replace(f"{{{{{label}}}}}", value)
            if "{{" in name:
                name = "none"
            color = next(others) if query.color == "others" else COLORS[query.color]
            made.append(Series(name, color, [p for p in points if math.isfinite(p[1])], query.color == "bound"))
    return made


def _top(largest: float, unit: Unit) -> float:
    """A round number above all values."""
    least = LEAST_TOP[unit]
    wanted = max(largest, least) * 1.05 / TICKS
    power = 10.0 ** math.floor(math.log10(wanted))
    return TICKS * power * next(step for step in STEPS if step * power >= wanted * 0.9999)


def _x(at: float, began_at: float, ended_at: float) -> float:
    return LEFT + (WIDTH - LEFT - RIGHT) * (at - began_at) / (ended_at - began_at)


def _y(value: float, top: float) -> float:
    return HEIGHT - BOTTOM - (HEIGHT - BOTTOM - TOP) * min(value, top) / top


def _axes(unit: Unit, top: float, began_at: float, ended_at: float) -> list[str]:
    parts = []
    for tick in range(TICKS + 1):
        value = top * tick / TICKS
        y = _y(value, top)
        parts.append(f'<path d="M{LEFT} {y:.1f}H{WIDTH - RIGHT}" stroke="{RULE}" stroke-width="1"/>')
        parts.append(_text(LEFT - 6, y + 4, number_text(value, unit), PALE, anchor="end"))
    for tick in range(TIME_TICKS):
        at = began_at + (ended_at - began_at) * tick / (TIME_TICKS - 1)
        anchor = "start" if tick == 0 else "end" if tick == TIME_TICKS - 1 else "middle"
        clock = time.strftime("%H:%M:%S", time.gmtime(at)) + (" UTC" if tick == TIME_TICKS - 1 else "")
        parts.append(_text(_x(at, began_at, ended_at), HEIGHT - 8, clock, PALE, anchor=anchor))
    return parts


def _line(one: Series, top: float, began_at: float, ended_at: float) -> list[str]:
    """A path, with a gap where points are missing."""
    if not one.points:
        return []
    times = [at for at, _ in one.points]
    gaps = sorted(b - a for a, b in pairwise(times))
    gap = 2.5 * gaps[len(gaps) // 2] if gaps else math.inf
    moves, before = [], -math.inf
    for at, value in one.points:
        letter = "L" if at - before <= gap else "M"
        moves.append(f"{letter}{_x(at, began_at, ended_at):.1f} {_y(value, top):.1f}")
        before = at
    dashes = ' stroke-dasharray="6 4"' if one.is_bound else ""
    return [
        f'<path d="{"".join(moves)}" fill="none" stroke="{one.color}" stroke-width="1.8" stroke-linejoin="round"'
        f' stroke-linecap="round"{dashes}/>'
    ]


def _key(place: int, one: Series, unit: Unit) -> list[str]:
    x = 8 + (WIDTH - 16) / KEY_COLUMNS * (place % KEY_COLUMNS)
    y = HEIGHT + 9 + KEY_LINE * (place // KEY_COLUMNS)
    name = one.name if len(one.name) <= KEY_CHARACTERS else f"{one.name[: KEY_CHARACTERS - 1]}…"
    last = number_text(one.last, unit) if one.points else "no data"
    return [
        f'<rect x="{x:.0f}" y="{y - 6:.0f}" width="14" height="4" rx="2" fill="{one.color}"/>',
        _text(x + 19, y, f"{name}  {last}", INK),
    ]


def _text(x: float, y: float, text: str, color: str, *, anchor: str = "start", size: int = 11, weight: str = "") -> str:
    bold = f' font-weight="{weight}"' if weight else ""
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" fill="{color}" text-anchor="{anchor}" font-size="{size}"{bold}>'
        f"{escape(text)}</text>"
    )
