"""The code blocks of Markdown pages, with the reason of each that is not run."""

import re
from collections.abc import Iterator
from pathlib import Path

import msgspec

ROOT = Path(__file__).parents[2]
PAGES = sorted(
    [
        *(ROOT / "docs").rglob("*.md"),
        *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md")),
        *(ROOT / name for name in ("bench/README.md", "client/README.md")),
    ]
)
NOT_RUN = re.compile(r"<!-- not run: (\S.*) -->")


class Block(msgspec.Struct, frozen=True):
    """A code block: where it is, its language, its text, and the reason why it is not run."""

    page: str
    line: int
    language: str
    text: str
    reason: str = ""

    @property
    def place(self) -> str:
        """The place as a tool prints it."""
        return f"{self.page}:{self.line}"


def blocks_of(path: Path) -> Iterator[Block]:
    """The blocks of a page, in order."""
    page, lines = path.relative_to(ROOT).as_posix(), path.read_text().splitlines()
    opened: int | None = None
    for number, line in enumerate(lines):
        if not line.lstrip().startswith("```"):
            continue
        if opened is None:
            opened = number
            continue
        marked = NOT_RUN.fullmatch(lines[opened - 1].strip()) if opened else None
        language = lines[opened].strip().removeprefix("```")
        text = "\n".join(lines[opened + 1 : number])
        yield Block(page, opened + 1, language, text, marked[1] if marked else "")
        opened = None
    assert opened is None, f"{page}:{opened}: the block does not end"


BLOCKS = [block for page in PAGES for block in blocks_of(page)]
