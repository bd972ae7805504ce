"""What a visitor of the repository sees first: badges, changelog, and how to contribute and report."""

import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
README = (ROOT / "README.md").read_text()


def test_badges_are_files_of_the_repository_and_tell_the_truth() -> None:
    badges = {
        name: (ROOT / path).read_text() for path, name in re.findall(r"\]\((docs/images/badge-(\w+)\.svg)\)", README)
    }

    assert f">{PROJECT['version']}<" in badges["version"]
    assert f">{PROJECT['license']}<" in badges["licence"]
    assert f">{PROJECT['requires-python'].removeprefix('>=')}+<" in badges["python"]
    assert f"version {PROJECT['version']}" in README


def test_pictures_of_the_readme_are_in_the_repository() -> None:
    pictures = re.findall(r"!\[[^\]]+\]\(([^)]+)\)", README)

    assert len(pictures) >= 4
    assert [picture for picture in pictures if not (ROOT / picture).is_file()] == []


def test_the_first_heading_of_the_changelog_is_this_version_or_the_one_to_come() -> None:
    headings = re.findall(r"^## (.+)$", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)

    assert re.fullmatch(r"\d+\.\d+\.\d+ - (Unreleased|\d{4}-\d\d-\d\d)", headings[0])
    assert headings[0].partition(" ")[0] >= PROJECT["version"]


def test_the_readme_leads_to_contributing_and_reporting() -> None:
    for name in ("CONTRIBUTING.md", "SECURITY.md", "docs/versioning.md", "docs/index.md"):
        assert f"]({name})" in README
        assert (ROOT / name).is_file()
