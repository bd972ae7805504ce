"""`tcgx bench compare`: two folders of results."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from bench import compare, plots
from bench.options import BENCHES
from testing.processes import tcgx

RESULTS = Path(__file__).parents[2] / "bench" / "results"


def changed(folder: Path, name: str, **changes: Any) -> Path:
    """A folder with a result in which figures are others."""
    folder.mkdir()
    figures = json.loads((RESULTS / f"{name}.json").read_text())
    (folder / f"{name}.json").write_text(json.dumps(figures | changes))
    return folder


def test_each_benchmark_leaves_results_that_can_be_read_again() -> None:
    assert {*plots.KINDS} == {*BENCHES}


def test_each_figure_is_in_the_published_results() -> None:
    for bench, figures in compare.FIGURES.items():
        found = plots.read(RESULTS / f"{bench}.json")
        assert all(figure.of(found) > 0 for figure in figures)


def test_a_folder_beside_itself_has_ratios_of_one(tmp_path: Path) -> None:
    done = tcgx(tmp_path, "bench", "compare", str(RESULTS), str(RESULTS))

    assert done.returncode == 0, done.stderr
    assert "1.00" in done.stdout
    assert "0 of" in done.stdout
    assert "WORSE" not in done.stdout


@pytest.mark.parametrize(
    ("name", "changes", "is_worse"),
    [
        ("match", {"cpu_us_per_order": 3.5}, True),
        ("match", {"cpu_us_per_order": 3.3}, False),
        ("match", {"cpu_ratio": 6.0}, True),
        ("match", {"cpu_ratio": 20.0}, False),
        ("match", {"orders_per_second": 1000.0}, False),  # by the clock
        ("http", {"ratio": 0.9}, True),
        ("latency", {"p99_ms": 900.0}, False),
        ("million", {"cpu_us_per_order": {"api": 9.0, "clients": 0.4}}, False),
        ("million", {"cpu_us_per_order": {"api": 19.0, "clients": 0.4}}, True),
    ],
)
def test_cpu_and_ratios_judge_and_the_clock_does_not(
    name: str, changes: dict[str, Any], is_worse: bool, tmp_path: Path
) -> None:
    before = tmp_path / "before"
    before.mkdir()
    shutil.copy(RESULTS / f"{name}.json", before)

    done = tcgx(tmp_path, "bench", "compare", "before", str(changed(tmp_path / "after", name, **changes)))

    assert done.returncode == is_worse, done.stdout + done.stderr
    assert ("WORSE" in done.stdout) == is_worse


def test_the_bound_can_be_chosen(tmp_path: Path) -> None:
    after = changed(tmp_path / "after", "match", cpu_us_per_order=3.3)

    assert tcgx(tmp_path, "bench", "compare", str(RESULTS), str(after), "--worse", "1.1").returncode == 1


@pytest.mark.parametrize("what", ["nothing", "others", "no result"])
def test_folders_without_common_results_are_refused_with_a_reason(what: str, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    if what == "others":
        shutil.copy(RESULTS / "soak.json", other)
    elif what == "no result":
        (other / "match.json").write_text("[]")

    done = tcgx(tmp_path, "bench", "compare", str(RESULTS), "other")

    assert done.returncode == 1
    assert {"nothing": "has no results", "others": "in common", "no result": "holds no result"}[what] in done.stderr
