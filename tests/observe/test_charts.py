"""Pictures of panels: units, gaps, names from elsewhere, and axes that hold all values."""

import math
import re
from xml.etree import ElementTree

import pytest

from observe import charts
from observe.charts import Series, number_text
from observe.panels import COLORS, OTHERS, Panel, Query, Unit, panels

Found = list[list[tuple[dict[str, str], list[tuple[float, float]]]]]

PANEL = Panel("Waits", "number", "What waits.", [Query("max(x)", "waits", "engine"), Query("y", "{{card}}")])


def paths(picture: str, color: str) -> list[str]:
    """The lines of a colour."""
    return re.findall(rf'<path d="([^"]+)" fill="none" stroke="{color}"', picture)


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (0, "seconds", "0 s"),
        (0.0005, "seconds", "500 µs"),
        (0.0471, "seconds", "47.1 ms"),
        (3, "seconds", "3 s"),
        (1_234_567, "bytes", "1.23 MB"),
        (12, "bytes", "12 B"),
        (0.123, "share", "12.3 %"),
        (937, "per second", "937/s"),
        (21_500, "per second", "21.5k/s"),
        (2_000_000, "number", "2M"),
        (0.25, "cores", "0.25"),
    ],
)
def test_a_value_has_its_unit_and_three_digits(value: float, unit: Unit, text: str) -> None:
    assert number_text(value, unit) == text


def test_a_gap_in_the_data_is_a_gap_in_the_line() -> None:
    points = [(float(at), 1.0) for at in range(60) if not 20 <= at < 30]
    picture = charts.svg(PANEL, [Series("waits", COLORS["engine"], points)], 0, 60)

    (line,) = paths(picture, COLORS["engine"])
    assert line.count("M") == 2


def test_names_from_elsewhere_are_text() -> None:
    evil = '<script>alert("1")</script>'
    found: Found = [[({}, [(0.0, 1.0)])], [({"card": evil}, [(0.0, 2.0)])]]
    picture = charts.svg(PANEL, charts.colored(PANEL, found), 0, 60)

    assert "<script" not in picture
    assert "".join(ElementTree.fromstring(picture).itertext()).count("<script>") == 1  # noqa: S314 - made here


@pytest.mark.parametrize("largest", [0.0, 1e-6, 0.3, 1.0, 4.0, 999.0, 123_456.0, 1e12])
@pytest.mark.parametrize("unit", ["number", "seconds", "share", "bytes"])
def test_the_axis_has_room_for_all_values(largest: float, unit: Unit) -> None:
    panel = PANEL._replace(unit=unit)
    picture = charts.svg(panel, [Series("waits", COLORS["engine"], [(0.0, 0.0), (60.0, largest)])], 0, 60)

    (line,) = paths(picture, COLORS["engine"])
    heights = [float(y) for y in re.findall(r" ([\d.]+)", line)]
    assert all(charts.TOP <= y <= charts.HEIGHT - charts.BOTTOM for y in heights)


def test_values_that_are_no_numbers_are_left_out() -> None:
    found: Found = [[({}, [(0.0, math.nan), (1.0, 2.0), (2.0, math.inf)])], []]

    assert [series.points for series in charts.colored(PANEL, found)] == [[(1.0, 2.0)]]


def test_a_panel_without_data_says_so() -> None:
    assert ">no data<" in charts.svg(PANEL, charts.colored(PANEL, [[], []]), 0, 60)


def test_no_two_roles_share_a_colour_and_no_panel_uses_one_twice() -> None:
    colors = [*COLORS.values(), *OTHERS]

    assert len({*colors}) == len(colors)
    for panel in panels():
        roles = [query.color for query in panel.queries if query.color != "others"]
        assert len({*roles}) == len(roles), panel.title


def test_texts_fit_their_panel() -> None:
    for panel in panels():
        assert len(panel.text) <= 100, panel.title
        assert len(panel.title) <= 60
        for query in panel.queries:
            assert "{{" in query.legend or len(query.legend) <= charts.KEY_CHARACTERS, query.legend
