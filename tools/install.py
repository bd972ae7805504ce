"""Installs locked packages with the pip of this Python, and shows how far it is. What pip says comes when it fails.

usage: install.py REQUIREMENTS [argument of pip …]
"""

import os
import queue
import re
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

TICK_SECONDS = 1.0
LINE_SECONDS = 10.0  # between lines where there is no terminal
RETRIES = 2
COLLECTING = re.compile(r"(?:Collecting|Requirement already satisfied:) ([A-Za-z0-9._-]+)")
NOISE = re.compile(r"WARNING: Location .* is ignored|^\[notice\]")
UNREACHABLE = re.compile(
    r"Failed to establish a new connection|name resolution|Name or service not known|ConnectTimeout|ReadTimeout"
    r"|ProxyError|Connection refused|connection broken|Network is unreachable|nodename nor servname",
    re.IGNORECASE,
)


class Progress:
    """One line that changes in a terminal; elsewhere a line now and then."""

    def __init__(self) -> None:
        self._seen: set[str] = set()
        self._what = "asking for packages"
        self._started = self._told = time.monotonic()
        self._is_terminal = sys.stderr.isatty() and os.environ.get("TERM") != "dumb"

    @property
    def seconds(self) -> int:
        """Since the beginning."""
        return round(time.monotonic() - self._started)

    def read(self, line: str) -> None:
        """Takes a line of pip."""
        found = COLLECTING.search(line)
        if found:
            self._seen.add(found[1].lower())
            self._what = f"package {len(self._seen)}: {found[1]}"
        elif line.startswith("Installing collected packages"):
            self._what = f"unpacking {line.count(',') + 1} packages"

    def show(self) -> None:
        """Tells how far it is."""
        text = f"  {self.seconds} s, {self._what}"
        if self._is_terminal:
            columns = shutil.get_terminal_size().columns - 1
            sys.stderr.write(f"\r{text[:columns]:<{columns}}")
            sys.stderr.flush()
        elif time.monotonic() - self._told >= LINE_SECONDS:
            self._told = time.monotonic()
            sys.stderr.write(f"{text}\n")

    def end(self) -> None:
        """Removes the line that changes."""
        if self._is_terminal:
            sys.stderr.write("\r\x1b[K")


def lines_of(pip: "subprocess.Popen[str]") -> Iterator[str | None]:
    """The lines of pip as they come, and None when there was none for a second."""
    lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()

    def read() -> None:
        for line in pip.stdout or ():
            lines.put(line)
        lines.put(None)

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    while True:
        try:
            line = lines.get(timeout=TICK_SECONDS)
        except queue.Empty:
            yield None
            continue
        if line is None:
            return
        yield line


def install(requirements: Path, arguments: list[str]) -> int:
    """The exit code of pip."""
    progress = Progress()
    command = [sys.executable, "-m", "pip", "install", "--no-input", "--progress-bar", "off"]
    command += ["--disable-pip-version-check", "--retries", str(RETRIES), "--requirement", str(requirements)]
    said: list[str] = []
    with subprocess.Popen(
        [*command, *arguments], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as pip:
        try:
            for line in lines_of(pip):
                if line is not None:
                    said.append(line)
                    progress.read(line)
                progress.show()
        except BaseException:
            pip.terminate()
            raise
        finally:
            progress.end()
    if pip.returncode != 0:
        explain("".join(line for line in said if not NOISE.search(line)), pip.returncode)
        return 1
    sys.stderr.write(f"  {progress.seconds} s\n")
    return 0


def explain(said: str, code: int) -> None:
    """Repeats what pip said, and what it means where that is known."""
    index = os.environ.get("PIP_INDEX_URL", "https://pypi.org/simple")
    sys.stderr.write(said)
    if UNREACHABLE.search(said):
        sys.stderr.write(f"tcgx: {index} can't be reached; PIP_INDEX_URL names another index, https_proxy a proxy\n")
    else:
        sys.stderr.write(f"tcgx: pip failed (exit code {code}); its last lines above say why\n")


def main() -> int:
    """Runs pip as the arguments say."""
    try:
        return install(Path(sys.argv[1]), sys.argv[2:])
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
