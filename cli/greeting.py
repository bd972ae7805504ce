"""The greeting of `tcgx up`: commands to paste into a shell in the current folder."""

import shlex
import shutil
import sys
from pathlib import Path

from core.model import price_text
from core.settings import Settings

PRICE_CENTS = 550
COLUMNS = 80


def greeting(api: str, local: Settings, *, data_dir: str, login_code: str = "") -> str:
    """Returns the greeting. `data_dir` is the folder in which commands find the exchange.

    `login_code`: what makes the page trader 1's; empty where there is none.
    """
    price_cents = min(max(PRICE_CENTS, local.price_cents_min), local.price_cents_max)
    card = local.cards[0]
    return f"""
The exchange listens on {api} (a page to watch and to trade)
{_login(api, login_code)}Its API, to read and to try: {api}/schema/swagger

A first order, as trader 1:

{_fold(f"  TOKEN=$({command_here('traders token 1', data_dir)})")}
  curl -s {api}/orders \\
    -H "Authorization: Bearer $TOKEN" \\
    -d '{{"card":"{card}","side":"buy","price":"{price_text(price_cents)}"}}'

and to see it, in your orders and in the book:

  curl -s {api}/orders -H "Authorization: Bearer $TOKEN"
{_fold(f"  {command_here(f'book {card}', data_dir)}")}

Stop with Ctrl-C.
"""


def _login(api: str, code: str) -> str:
    return f"The same page as trader 1, once, within an hour:\n  {api}/#code={code}\n" if code else ""


def _fold(line: str) -> str:
    """Splits a command into two lines if it is too long for one."""
    return line if len(line) <= COLUMNS else line.replace(" --data-dir ", " \\\n    --data-dir ")


def command_here(words: str, data_dir: str) -> str:
    """Returns a command of `tcgx` that works in this folder, for the exchange of a data directory."""
    is_default = Path(data_dir) == Path(Settings().data_dir)
    return f"{_program()} {words}{'' if is_default else f' --data-dir {shlex.quote(data_dir)}'}"


def _program() -> str:
    started = Path(sys.argv[0])
    if started.name == "__main__.py":
        is_module = sys.modules["__main__"].__spec__ is not None
        return f"{_shorten(Path(sys.executable))} {'-m tcgx' if is_module else _shorten(started)}"
    found = shutil.which(started.name)
    return started.name if found and Path(found).samefile(started) else _shorten(started)


def _shorten(path: Path) -> str:
    """Returns a path for a shell in this folder: relative if it was, or if it lies in the folder."""
    here = Path.cwd()
    relative = path.relative_to(here) if path.is_relative_to(here) else path
    return shlex.quote(str(relative) if len(relative.parts) > 1 else f"./{relative}")
