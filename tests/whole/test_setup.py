"""`make setup`: what it shows, and what it says where it can't work. Only the packages are others."""

import os
import subprocess
import sys
import zipfile
from collections.abc import Mapping
from pathlib import Path

import pytest

from testing.processes import environment

REPOSITORY = Path(__file__).parents[2]
SECONDS = 60
NOWHERE = "http://127.0.0.1:1/simple"
ALONE = {"PIP_CONFIG_FILE": os.devnull, "PIP_FIND_LINKS": "", "PIP_EXTRA_INDEX_URL": "", "PIP_INDEX_URL": NOWHERE}
"""No configuration of this machine, and an index that nobody serves."""


def run(*arguments: str | Path, where: Path, **variables: str) -> "subprocess.CompletedProcess[str]":
    """A program that prepares the environment, with this Python."""
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=where,
        env=environment(**(ALONE | variables)),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )


def install(where: Path, *arguments: str, **variables: str) -> "subprocess.CompletedProcess[str]":
    return run(
        REPOSITORY / "tools" / "install.py", "locked.txt", "--target", "made", *arguments, where=where, **variables
    )


def wheel(folder: Path, name: str) -> None:
    """A package with one empty module."""
    about = f"{name}-1.0.dist-info"
    files: Mapping[str, str] = {
        f"{name}.py": "",
        f"{about}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n",
        f"{about}/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{about}/RECORD": "",
    }
    with zipfile.ZipFile(folder / f"{name}-1.0-py3-none-any.whl", "w") as packed:
        for path, text in files.items():
            packed.writestr(path, text)


def test_packages_are_installed_without_a_word_of_pip(tmp_path: Path) -> None:
    wheel(tmp_path, "nothing")
    (tmp_path / "locked.txt").write_text("nothing==1.0\n")

    result = install(
        tmp_path, "--no-index", "--find-links", str(tmp_path), "--find-links", "/nowhere", HOME=str(tmp_path / "none")
    )

    assert result.returncode == 0, result.stderr
    assert (tmp_path / "made" / "nothing.py").exists()
    assert result.stderr.strip().endswith(" s")
    assert "WARNING" not in result.stderr
    assert "Collecting" not in result.stderr


def test_an_index_that_cannot_be_reached_is_named(tmp_path: Path) -> None:
    (tmp_path / "locked.txt").write_text("nothing==1.0\n")

    result = install(tmp_path)

    *_, sentence = result.stderr.splitlines()
    assert result.returncode == 1
    assert sentence.startswith(f"tcgx: {NOWHERE} can't be reached")
    assert "Traceback" not in result.stderr


def test_what_pip_said_is_shown_when_it_fails_for_another_reason(tmp_path: Path) -> None:
    (tmp_path / "locked.txt").write_text("nothing==2.0\n")
    wheel(tmp_path, "nothing")

    result = install(tmp_path, "--no-index", "--find-links", str(tmp_path))

    *_, sentence = result.stderr.splitlines()
    assert result.returncode == 1
    assert "nothing==2.0" in result.stderr
    assert sentence.startswith("tcgx: pip failed")


def test_where_pip_itself_cannot_be_fetched_the_index_is_named(tmp_path: Path) -> None:
    result = run(REPOSITORY / "tools" / "fetch_pip.py", where=tmp_path)

    (sentence,) = result.stderr.splitlines()
    assert result.returncode == 1
    assert sentence.startswith(f"tcgx: pip can't be fetched from {NOWHERE}")


@pytest.mark.parametrize(
    ("python", "expected"), [("no-such-python", "there is no no-such-python"), ("old", "is Python 3")]
)
def test_a_python_that_is_missing_or_too_old_is_named(tmp_path: Path, python: str, expected: str) -> None:
    old = tmp_path / "old"
    old.write_text('#!/bin/sh\ncase "$1" in -V) echo Python 3.9.2;; *) exit 1;; esac\n')
    old.chmod(0o755)

    result = subprocess.run(
        ["/bin/sh", REPOSITORY / "tools" / "setup"],
        env=environment(PYTHON=python, PATH=f"{tmp_path}:{os.environ['PATH']}"),
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )

    (sentence,) = result.stderr.splitlines()
    assert result.returncode == 1
    assert sentence.startswith("tcgx needs Python 3.11 or newer")
    assert expected in sentence
