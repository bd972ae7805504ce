"""Dockerfile, .dockerignore, compose file, locks, and the command that runs them."""

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

from ruamel.yaml import YAML

from testing.containers import engine as engines

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
BESIDE = {"requirements.lock", "requirements-build.lock", "pyproject.toml", "README.md", "LICENSE", "wheels"}
DOCS = {"docs", "docs_site", "mkdocs.yml", "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md"}


def test_every_package_of_the_wheel_is_in_the_image() -> None:
    packages = set(PROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"])

    assert engines.allowed() == packages | BESIDE | DOCS


def test_the_version_of_the_image_is_that_of_the_project() -> None:
    from deploy.objects import VERSION  # noqa: PLC0415

    assert f"ARG VERSION={PROJECT['project']['version']}\n" in (ROOT / "Dockerfile").read_text()
    assert PROJECT["project"]["version"] == VERSION


def test_wheels_in_the_image_are_built_with_locked_packages_alone() -> None:
    locked = set(re.findall(r"^([a-z0-9-]+)==", (ROOT / "requirements-build.lock").read_text(), re.MULTILINE))

    assert set(PROJECT["build-system"]["requires"]) <= {"hatchling>=1.27", "zensical==0.0.57"}
    assert {"hatchling", "setuptools", "zensical"} <= locked
    for line in (ROOT / "Dockerfile").read_text().splitlines():
        assert "pip wheel" not in line or "--no-build-isolation" in line


def test_stand_ins_are_the_images_of_the_compose_file() -> None:
    services = YAML(typ="safe").load((ROOT / "docker-compose.yml").read_text())["services"]
    images = {service["image"] for service in services.values() if "image" in service}

    assert {image for image in images if not image.startswith("${TCGX_IMAGE")} == set(engines.STANDINS)
    assert f"ARG PYTHON={engines.BASE_IMAGE}\n" in (ROOT / "Dockerfile").read_text()


def test_a_machine_without_an_engine_is_told_what_is_missing(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "testing.containers", "--cache", str(tmp_path)],
        cwd=ROOT,
        env={**os.environ, "PATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 3
    assert re.search(
        r"no Docker engine answers, and a private one can't be started: it needs (root|Debian)", done.stderr
    )
    assert [*tmp_path.iterdir()] == []
