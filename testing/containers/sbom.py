"""The bill of materials of an image: every package in it with its version, in the format SPDX, made by Syft."""

import json
import os
import re
import subprocess
from pathlib import Path
from typing import Any, NamedTuple

from core.errors import StartError
from testing.containers.engine import Engine
from testing.containers.machine import ROOT

SYFT = ROOT / ".validate/bin/syft"
FORMAT = "spdx-json"
INSTALLED = """
import importlib.metadata as metadata, json
print(json.dumps({one.name: one.version for one in metadata.distributions()}))
"""
"""Prints name and version of each package of a Python, as JSON."""


class Bill(NamedTuple):
    """What was written, and which packages of the image's Python are not in it, as `NAME VERSION`."""

    packages: int
    missing: list[str]


def write(engine: Engine, image: str, target: Path) -> Bill:
    """Writes the bill of an image, and compares it with what the image's own Python has installed.

    Raises:
        StartError: Syft fails, or is not there: `make validate` installs it.
    """
    if not SYFT.exists():
        raise StartError(f"no {SYFT.relative_to(ROOT)}; `make validate` installs it")
    archive = target.with_suffix(".tar")
    engine.docker("save", "--output", str(archive), image)
    try:
        command = [SYFT, "scan", f"docker-archive:{archive}", "--quiet", "--output", f"{FORMAT}={target}"]
        environment = os.environ | {"SYFT_CHECK_FOR_APP_UPDATE": "false"}
        done = subprocess.run([*map(str, command)], env=environment, capture_output=True, text=True, check=False)
    finally:
        archive.unlink()
    if done.returncode:
        raise StartError(f"syft ended with {done.returncode}: {done.stderr.strip()}")
    inside = ("run", "--rm", "--network", "none", "--read-only", image, "python", "-c", INSTALLED)
    installed: dict[str, str] = json.loads(engine.docker(*inside))
    bill = json.loads(target.read_text())
    return Bill(len(bill["packages"]), missing(bill, installed))


def missing(bill: dict[str, Any], installed: dict[str, str]) -> list[str]:
    """The installed packages that a bill has not, or has with another version, as `NAME VERSION`."""
    listed = {(_normal(one["name"]), one.get("versionInfo")) for one in bill["packages"]}
    return [f"{name} {version}" for name, version in installed.items() if (_normal(name), version) not in listed]


def _normal(name: str) -> str:
    """A name of a package of Python as PEP 503 compares it."""
    return re.sub("[-_.]+", "-", name).lower()
