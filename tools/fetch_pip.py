"""Installs pip into the environment that runs this, from PyPI (or PIP_INDEX_URL), where ensurepip is missing."""

import json
import os
import re
import subprocess
import sys
import tempfile
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path

INDEX = os.environ.get("PIP_INDEX_URL", "https://pypi.org/simple").rstrip("/")
TYPES = "application/vnd.pypi.simple.v1+json, text/html;q=0.5"


def newest_wheel() -> str:
    """The address of the newest pip wheel of the index."""
    page = f"{INDEX}/pip/"
    with urllib.request.urlopen(urllib.request.Request(page, headers={"Accept": TYPES})) as answer:  # noqa: S310
        text = answer.read().decode()
        is_json = "json" in answer.headers.get_content_type()
    links = [file["url"] for file in json.loads(text)["files"]] if is_json else re.findall(r'href="([^"]+)"', text)
    wheels = [link for link in links if re.search(r"/pip-[0-9.]+-py3-none-any\.whl", link)]
    if not wheels:
        sys.exit(f"{page} has no wheel of pip")
    return urllib.parse.urljoin(page, max(wheels, key=version_of))


def version_of(link: str) -> tuple[int, ...]:
    """The version in a wheel's address."""
    found = re.search(r"/pip-([0-9.]+)-py3", link)
    return tuple(int(part) for part in found.group(1).split(".")) if found else ()


def main() -> None:
    """Fetches the wheel and lets it install itself."""
    try:
        fetch_and_install()
    except urllib.error.URLError as error:
        sys.exit(f"tcgx: pip can't be fetched from {INDEX} ({error.reason}); PIP_INDEX_URL names another index")


def fetch_and_install() -> None:
    """Raises `URLError` when the index can't be reached."""
    address = newest_wheel()
    with tempfile.TemporaryDirectory() as folder:
        wheel = Path(folder) / Path(urllib.parse.urlparse(address).path).name
        with urllib.request.urlopen(address) as answer:  # noqa: S310 - the index chosen above
            wheel.write_bytes(answer.read())
        subprocess.run([sys.executable, f"{wheel}/pip", "install", "--quiet", "--no-index", str(wheel)], check=True)


if __name__ == "__main__":
    main()
