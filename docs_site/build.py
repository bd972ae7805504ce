"""Builds docs/ into a folder of static files: `python -m docs_site [FOLDER]`, by default api/site.

Pages are staged in a temporary folder, so that links to files beside docs/ lead to a page of the site, or become text.
The build hook of the wheel imports this module; it therefore imports nothing of the exchange.
"""

import base64
import hashlib
import json
import mimetypes
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

ROOT = Path(__file__).parents[1]
SITE = ROOT / "api" / "site"
BESIDE = ("CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md", "bench/README.md")
"""Pages of the site that are outside docs/."""
PICTURES = "bench/results/*.png"
BUILD_SECONDS = 60
LINK = re.compile(r"(!?)\[((?:[^\[\]]|\[[^\]]*\])*)\]\(([^)\s]+)\)")
FENCE = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)
SCRIPT = re.compile(rb"<script>(.*?)</script>", re.DOTALL)
COLOR = re.compile(r"\x1b\[[0-9;]*m")
LEFT_OUT = ("objects.inv", "sitemap.xml", "404.html")
"""Files that only a site at a known address needs."""


class BuildError(Exception):
    """The site could not be built. The text has the output of the generator."""


def build(target: Path = SITE, *, replaced: Mapping[str, str] | None = None) -> int:
    """Builds the site strictly: a link that leads nowhere is an error. Returns the number of files.

    `replaced` has other texts for pages, by their path below docs/.

    Raises:
        BuildError: the generator refuses the pages, or is missing.
    """
    with tempfile.TemporaryDirectory() as made:
        staging = Path(made)
        _stage(staging, replaced or {})
        _generate(staging)
        site = staging / "site"
        for name in LEFT_OUT:
            (site / name).unlink(missing_ok=True)
        manifest = _manifest(site)
        (site / "manifest.json").write_text(json.dumps(manifest, indent=0, sort_keys=True))
        fresh = target.with_name(f"{target.name}.new")
        shutil.rmtree(fresh, ignore_errors=True)
        shutil.copytree(site, fresh)
        shutil.rmtree(target, ignore_errors=True)
        fresh.replace(target)
    return len(manifest["files"])


def _stage(staging: Path, replaced: Mapping[str, str]) -> None:
    """Puts all pages and pictures below one folder, with links that hold there."""
    shutil.copy(ROOT / "mkdocs.yml", staging)
    pages = staging / "docs"
    shutil.copytree(ROOT / "docs", pages)
    for source in [*(ROOT / name for name in BESIDE), *ROOT.glob(PICTURES)]:
        place = pages / source.relative_to(ROOT)
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(source, place)
    for name, text in replaced.items():
        (pages / name).write_text(text)
    staged = {path.relative_to(pages).as_posix() for path in pages.rglob("*") if path.is_file()}
    for page in sorted(pages.rglob("*.md")):
        where = page.relative_to(pages)
        inside = where.as_posix() in BESIDE
        source = ROOT / where if inside else ROOT / "docs" / where
        page.write_text(with_links(page.read_text(), source, where, staged))


def with_links(text: str, source: Path, where: Path, staged: set[str]) -> str:
    """The text of a page with the links of the site. Code blocks stay as they are."""

    def link(found: re.Match[str]) -> str:
        mark, label, target = found.groups()
        path, _, fragment = target.partition("#")
        if not path or "://" in target:
            return found[0]
        place = _place(source.parent / path)
        if place not in staged:
            is_code = not mark and (source.parent / path).exists()
            return label if is_code else found[0]
        relative = os.path.relpath(place, where.parent)
        return f"{mark}[{label}]({relative}{'#' + fragment if fragment else ''})"

    parts: list[str] = []
    end = 0
    for fence in FENCE.finditer(text):
        parts += [LINK.sub(link, text[end : fence.start()]), fence[0]]
        end = fence.end()
    return "".join([*parts, LINK.sub(link, text[end:])])


def _place(path: Path) -> str:
    """The place of a file of the repository in the site."""
    name = os.path.relpath(path.resolve(), ROOT.resolve())
    return name.removeprefix("docs/")


def _generate(staging: Path) -> None:
    """Runs the generator. It reaches no network, since no address is configured."""
    command = [sys.executable, "-m", "zensical", "build", "--strict", "--clean"]
    done = subprocess.run(
        command, cwd=staging, capture_output=True, text=True, timeout=BUILD_SECONDS, check=False,
        env={**os.environ, "NO_COLOR": "1"},
    )  # fmt: skip
    if done.returncode != 0 or not (staging / "site" / "index.html").is_file():
        said = COLOR.sub("", done.stdout + done.stderr)
        raise BuildError(f"the docs could not be built:\n{said}")


def _manifest(site: Path) -> dict[str, dict[str, list[str]] | list[str]]:
    """What the API needs to serve the files: type, validator, and the scripts that stand within pages."""
    files: dict[str, list[str]] = {}
    scripts: set[str] = set()
    for path in _files(site):
        content = path.read_bytes()
        name = path.relative_to(site).as_posix()
        files[name] = [_media_type(name), hashlib.sha256(content).hexdigest()[:32]]
        if name.endswith(".html"):
            scripts |= {_hash(found) for found in SCRIPT.findall(content)}
    return {"files": files, "scripts": sorted(scripts)}


def _files(site: Path) -> Iterator[Path]:
    return (path for path in sorted(site.rglob("*")) if path.is_file())


def _media_type(name: str) -> str:
    return mimetypes.guess_type(name)[0] or "application/octet-stream"


def _hash(script: bytes) -> str:
    return base64.b64encode(hashlib.sha256(script).digest()).decode()
