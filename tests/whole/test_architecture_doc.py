"""The pages of docs/: every path that they name exists, every link leads somewhere, every decision is in the index."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = sorted([*DOCS.rglob("*.md"), ROOT / "README.md", ROOT / "bench" / "README.md"])
PATHS_IN = ["architecture.md", "data.md"]
"""Pages that say where code is now. Decisions and measurements speak of their own time."""

PACKAGES = "core|observe|lua|engine|archiver|exchange|streams|api|cli|client|testing|bench|tests|tcgx|deploy"
PATH = re.compile(rf"`((?:{PACKAGES})/[\w./]*)`")
DECISION = re.compile(r"# (\d{4}) (.+)\n\nDate: (\d{4}-\d\d-\d\d)\. Status: (?:accepted|replaced by \d{4})\.\n")
SECTIONS = ["Context", "Decision", "Consequences"]


def relative(path: Path) -> str:
    """A path as it is named in the repository."""
    return path.resolve().relative_to(ROOT.resolve()).as_posix()


def paths_named(page: str) -> set[str]:
    """The files and folders of the repository that a page of docs/ names."""
    return set(PATH.findall((DOCS / page).read_text()))


def links_of(page: Path) -> set[str]:
    """The files of the repository that a page links to."""
    targets = re.findall(r"\]\(([^)\s]+)\)", page.read_text())
    files = [target.partition("#")[0] for target in targets if "://" not in target]
    return {relative(page.parent / file) for file in files if file}


def missing(paths: set[str]) -> set[str]:
    """Those of these paths that do not exist."""
    return {path for path in paths if not (ROOT / path).exists()}


@pytest.mark.parametrize("page", PATHS_IN)
def test_every_path_that_a_page_names_exists(page: str) -> None:
    named = paths_named(page)

    assert len(named) > 10
    assert missing(named) == set()


def test_every_link_leads_to_a_file() -> None:
    linked = set().union(*(links_of(page) for page in PAGES))

    assert len(linked) > 100
    assert missing(linked) == set()


def test_every_package_is_in_the_code_map() -> None:
    packages = {path.parent.name for path in ROOT.glob("*/__init__.py")} - {"tcgx"}
    code_map = re.search(r"## Code map\n(.*?)\n## ", (DOCS / "architecture.md").read_text(), re.DOTALL)

    assert code_map
    assert packages <= set(re.findall(r"^\| `(\w+)/`", code_map[1], re.MULTILINE))


def test_every_decision_is_a_page_and_in_the_index() -> None:
    index = re.findall(r"^\| \[(\d{4})\]\((.+?)\) \| (.+?) \| (.+?) \|$", _text("README.md"), re.MULTILINE)
    pages = sorted(path.name for path in (DOCS / "decisions").glob("0*.md"))

    assert [name for _, name, *_ in index] == pages
    for place, (number, name, title, date) in enumerate(index, 1):
        head = DECISION.match(_text(name))
        assert head, f"{name} has no number, title, date and status"
        assert head.groups() == (number, title, date) == (f"{place:04}", title, date)
        assert re.findall("^## (.+)$", _text(name), re.MULTILINE) == SECTIONS


def _text(name: str) -> str:
    return (DOCS / "decisions" / name).read_text()
