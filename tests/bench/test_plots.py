"""The pictures of the benchmarks: drawn from results alone, readable, and in git those of the results beside them.

Every text of a picture is measured as it is drawn: none lies over another one or ends outside.
"""

import json
import re
import warnings
from collections.abc import Callable, Iterator, Mapping
from itertools import combinations
from pathlib import Path
from typing import Any

import matplotlib as mpl
import msgspec
import pytest
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.transforms import Bbox
from PIL import Image

from bench import plots, result
from bench.plot_style import COLORS, DPI, NAMES, Role, amount, apart, role_of
from core.errors import StartError
from testing.processes import tcgx
from testing.servers import folder

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "bench" / "results"
COMMITTED = sorted(path.stem for path in RESULTS.glob("*.json"))
TOUCHING_PIXELS = 0.5
LONG_CPU = "Intel(R) Xeon(R) Platinum 8370C CPU @ 2.80GHz, 2nd generation"


def of_git(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((RESULTS / f"{name}.json").read_text())
    return found


def figure_of(figures: Mapping[str, Any]) -> Figure:
    """The picture of a result, as `tcgx bench` draws it."""
    decoded = msgspec.convert(figures, type=plots.KINDS[figures["bench"]])
    return result.drawn(decoded)


def headline_of(million: Mapping[str, Any], baseline: Mapping[str, Any], http: Mapping[str, Any]) -> Figure:
    three: Any = [msgspec.convert(one, type=plots.KINDS[one["bench"]]) for one in (million, baseline, http)]
    return plots.headline(*three)


def texts(figure: Figure) -> Iterator[Text]:
    """Those that are seen: tick labels only within their axis."""
    unseen: set[Text] = set()
    for ax in figure.axes:
        for axis, limits in ((ax.xaxis, ax.get_xlim()), (ax.yaxis, ax.get_ylim())):
            places = axis.get_majorticklocs()
            labels = axis.get_majorticklabels()
            low, high = min(limits), max(limits)
            unseen.update(label for label, at in zip(labels, places, strict=False) if not low <= at <= high)
    for text in figure.findobj(Text):
        if isinstance(text, Text) and text not in unseen and text.get_visible() and text.get_text().strip():
            yield text


def boxes(figure: Figure) -> dict[str, Bbox]:
    figure.draw_without_rendering()
    return {
        f"{number}: {text.get_text()!r}": text.get_window_extent().padded(-TOUCHING_PIXELS)
        for number, text in enumerate(texts(figure))
    }


def assert_readable(figure: Figure) -> None:
    found = boxes(figure)
    assert len(found) > 3
    page = figure.bbox
    outside = [name for name, box in found.items() if box.x0 < 0 or box.y0 < 0 or box.x1 > page.x1 or box.y1 > page.y1]
    assert outside == []
    over = [(one, other) for (one, a), (other, b) in combinations(found.items(), 2) if a.overlaps(b)]
    assert over == []


def scaled(value: Any, factor: float) -> Any:
    """Every number of a result, times this: another machine's, or another number of orders."""
    if isinstance(value, bool) or value is None or isinstance(value, str):
        return value
    if isinstance(value, Mapping):
        kept = ("machine", "seed", "sha256", "batch")
        return {key: one if key in kept else scaled(one, factor) for key, one in value.items()}
    if isinstance(value, list):
        return [scaled(one, factor) for one in value]
    return max(1, round(value * factor)) if isinstance(value, int) else value * factor


def elsewhere(figures: dict[str, Any]) -> dict[str, Any]:
    machine = figures["machine"] | {"cpu": LONG_CPU, "cores": 128, "commit": "0123456789-dirty"}
    return figures | {"machine": machine, "flow": "market", "server": "valkey 10.11.12", "seed": 1234567}


VARIATIONS: Mapping[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
    "as it is": lambda figures: figures,
    "a thousand times as much": lambda figures: scaled(figures, 1_000),
    "a thousandth": lambda figures: scaled(figures, 0.001),
    "on a machine with long names": elsewhere,
}
PARTS: Mapping[str, tuple[str, Callable[[Any], Any]]] = {
    "match of one round": ("match", lambda it: it | {"rounds": it["rounds"][:1]}),
    "match of twelve rounds": ("match", lambda it: it | {"rounds": it["rounds"] * 4}),
    "match of the deep flow": ("match", lambda it: it | {"flow": "deep", "resting_orders_before": 1_000_000}),
    "scale of one part": ("scale", lambda it: it | {"parts": {"nodes": it["parts"]["nodes"]}, "depth_cpu_ratio": None}),
    "scale of one depth": ("scale", lambda it: it | {"parts": {"depth": it["parts"]["depth"][:1]}}),
    "a few orders": ("million", lambda it: it | {"samples": it["samples"][:1]}),
    "servers of others": (
        "million",
        lambda it: (
            it
            | {
                "samples": [
                    one
                    | {"memory_bytes": {name: size for name, size in one["memory_bytes"].items() if name != "postgres"}}
                    for one in it["samples"]
                ]
            }
        ),
    ),
    "archived at once": ("archive", lambda it: it | {"points": [[0.0, 1]]}),
    "no time at all": ("archive", lambda it: it | {"cpu_us_per_row": {"archiver": 0.0, "redis": 0.0}}),
}


# -- what is drawn


def test_every_benchmark_has_a_result_in_git_but_reads_whose_figures_are_in_the_measurements() -> None:
    assert {of_git(name)["bench"] for name in COMMITTED} == set(plots.KINDS) - {"reads"}


@pytest.mark.parametrize("change", VARIATIONS)
@pytest.mark.parametrize("name", COMMITTED)
def test_no_text_lies_over_another_or_outside(name: str, change: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        figure = figure_of(VARIATIONS[change](of_git(name)))

    assert_readable(figure)


@pytest.mark.parametrize("case", PARTS)
def test_parts_of_a_benchmark_are_as_readable(case: str) -> None:
    name, change = PARTS[case]

    assert_readable(figure_of(change(of_git(name))))


@pytest.mark.parametrize("change", VARIATIONS)
def test_the_headline_is_as_readable(change: str) -> None:
    assert_readable(headline_of(*(VARIATIONS[change](of_git(name)) for name in plots.HEADLINE_OF)))


def test_a_text_over_another_is_noticed() -> None:
    figure = figure_of(of_git("match"))
    figure.text(0.02, 0.9, "over the title", fontsize=20)

    with pytest.raises(AssertionError, match="over the title"):
        assert_readable(figure)


def test_a_text_that_leaves_the_picture_is_noticed() -> None:
    figure = figure_of(of_git("match"))
    figure.text(0.97, 0.5, "cut at the edge")

    with pytest.raises(AssertionError, match="cut at the edge"):
        assert_readable(figure)


@pytest.mark.parametrize("change", [name for name in VARIATIONS if "long names" not in name])
@pytest.mark.parametrize("name", COMMITTED)
def test_numbers_have_thousands_separators(name: str, change: str) -> None:
    figure = figure_of(VARIATIONS[change](of_git(name)))
    said = [text.get_text() for text in texts(figure)]

    assert [text for text in said if re.search(r"(?<![\d.])\d{4}|\de[+-]?\d", text)] == []
    assert change == "a thousandth" or any(re.search(r"\d,\d{3}", text) for text in said)


@pytest.mark.parametrize("name", COMMITTED)
def test_a_picture_says_what_was_found_and_under_which_conditions(name: str) -> None:
    figures = of_git(name)
    title, *_, foot = [text.get_text() for text in figure_of(figures).texts]

    assert re.match(r"tcgx[ :]", title)
    assert re.search(r"\d", title)
    assert f"2 cores, AMD EPYC · {figures['server'][:1].upper()}{figures['server'][1:]}, fsync always" in foot
    assert f"flow {figures['flow']}, seed 0 · tcgx 0.1.0, Python 3.11.7" in foot


def test_the_commit_is_said_where_it_is_known() -> None:
    figures = of_git("match")
    figures["machine"]["commit"] = "b24ae6b"

    assert "tcgx 0.1.0, commit b24ae6b" in figure_of(figures).texts[-1].get_text()


@pytest.mark.parametrize("name", COMMITTED)
def test_a_panel_has_one_axis_and_its_grid_lies_below(name: str) -> None:
    figure = figure_of(of_git(name))
    places = [ax.get_position().bounds for ax in figure.axes]

    assert len(set(places)) == len(places)
    assert all(ax.get_axisbelow() is True and ax.has_data() for ax in figure.axes)


def test_latency_prints_the_percentiles_that_matter() -> None:
    said = [text.get_text() for text in texts(figure_of(of_git("latency")))]

    assert {"p50\n1.0 ms", "p99\n2.3 ms", "p99.9\n4.5 ms"} <= set(said)


def test_the_headline_shows_tcgx_beside_the_usual_design() -> None:
    figure = headline_of(*(of_git(name) for name in plots.HEADLINE_OF))
    said = [text.get_text() for text in texts(figure)]

    assert "tcgx: 1,000,000 orders in 6.3 s, 54 times as fast as the usual design" in said
    assert {"6.3 s", "3 min 32 s, 34 times", "5 min 38 s, 54 times", "24,036, 8.1 times", "2,959"} <= set(said)


def test_results_of_two_machines_are_not_compared() -> None:
    million, baseline, http = (of_git(name) for name in plots.HEADLINE_OF)

    with pytest.raises(StartError, match="different machines"):
        headline_of(million, elsewhere(baseline), http)


# -- colours


def test_a_colour_means_one_thing() -> None:
    assert len({to_hex(color) for color in COLORS.values()}) == len(COLORS) == len(NAMES)


@pytest.mark.parametrize(
    ("process", "role"),
    [("api", "api"), ("engine", "engine"), ("postgres", "postgres"), ("client", "client"), ("clients", "client")],
)
def test_a_process_has_its_colour_by_whatever_name_a_result_has_for_it(process: str, role: Role) -> None:
    assert role_of(process) == role


def test_a_process_without_a_colour_is_an_error() -> None:
    with pytest.raises(ValueError, match="no colour stands for the process 'proxy'"):
        role_of("proxy")


def test_lines_of_a_service_have_its_colour_in_every_panel() -> None:
    orders, memory = figure_of(of_git("million")).axes
    services = list(of_git("million")["samples"][0]["memory_bytes"])

    assert [line.get_color() for line in orders.lines] == [COLORS[role] for role in ("api", "engine", "archiver")]
    assert [line.get_color() for line in memory.lines] == [COLORS[role_of(name)] for name in services]


# -- parts


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (0.5, "0.5"), (2.5, "2.5"), (1000, "1,000"), (1e6, "1,000,000"), (1234567.5, "1,234,567.5")],
)
def test_an_amount_has_separators_and_no_exponent(value: float, text: str) -> None:
    assert amount(value) == text


@pytest.mark.parametrize(
    ("places", "moved"),
    [
        ([10, 50], [10, 50]),
        ([30, 30], [25, 35]),
        ([30, 30, 32, 80], [20.666667, 30.666667, 40.666667, 80]),
        ([0, 0], [0, 10]),
        ([100, 100], [90, 100]),
        ([5], [5]),
    ],
)
def test_labels_that_meet_move_apart_around_their_middle(places: list[float], moved: list[float]) -> None:
    assert apart(places, 10, 0, 100) == pytest.approx(moved)


# -- files


def source_of(picture: Path) -> str:
    with Image.open(picture) as image:
        assert image.format == "PNG"
        assert image.info["dpi"][0] == pytest.approx(DPI, abs=1)
        return str(image.info["Source"])


@pytest.mark.parametrize("name", COMMITTED)
def test_a_picture_in_git_is_that_of_the_result_beside_it(name: str) -> None:
    assert source_of(RESULTS / f"{name}.png") == result.digest((RESULTS / f"{name}.json").read_bytes())


def test_the_headline_in_git_is_that_of_its_three_results() -> None:
    of = [(RESULTS / f"{name}.json").read_bytes() for name in plots.HEADLINE_OF]

    assert source_of(RESULTS / "headline.png") == result.digest(*of)


def test_git_has_one_picture_of_each_and_all_of_them_are_shown() -> None:
    pictures = {path.name for path in RESULTS.iterdir() if path.suffix != ".json"}
    readme = (ROOT / "README.md").read_text()
    shown = set(re.findall(r"!\[[^]]+\]\(results/([^)]+)\)", (ROOT / "bench" / "README.md").read_text()))

    assert pictures == {f"{name}.png" for name in (*COMMITTED, "headline")}
    assert shown | {"headline.png"} == pictures
    assert "](bench/results/headline.png)" in readme


def test_pictures_are_drawn_again_from_results_alone() -> None:
    with folder() as place:
        for name in ("million", "baseline", "http"):
            (place / f"{name}.json").write_bytes((RESULTS / f"{name}.json").read_bytes())
        before = {path: path.read_bytes() for path in place.iterdir()}

        done = tcgx(place, "bench", "plots", ".")

        assert done.returncode == 0, done.stderr
        assert done.stdout.splitlines() == [f"drew {name}.png" for name in ("baseline", "http", "million", "headline")]
        assert {path: path.read_bytes() for path in before} == before
        assert source_of(place / "headline.png") == source_of(RESULTS / "headline.png")
        assert tcgx(place, "bench", "plots", ".", "--format", "svg").returncode == 0
        assert "<svg" in (place / "headline.svg").read_text()


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (None, "there are no results in"),
        ("[]", "x.json holds no result of a benchmark"),
        ("{", "x.json holds no result of a benchmark"),
        ('{"bench":"tide"}', "x.json: bench='tide' is none of append, archive"),
        ('{"bench":"match"}', "x.json holds no result of a benchmark: Object missing required field"),
    ],
)
def test_a_folder_without_results_gets_a_sentence(tmp_path: Path, content: str | None, sentence: str) -> None:
    if content is not None:
        (tmp_path / "x.json").write_text(content)

    with pytest.raises(StartError, match=re.escape(sentence)):
        plots.redraw(tmp_path)
    assert list(tmp_path.glob("*.png")) == []


def test_drawing_leaves_matplotlib_as_it_was() -> None:
    before = dict(mpl.rcParams)

    figure_of(of_git("append"))

    assert dict(mpl.rcParams) == before
