"""The wheel of the client, alone in an empty environment: with what it depends on, and without the exchange."""

import re
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest

from testing.exchange import ExchangeServer
from testing.processes import finished

pytestmark = pytest.mark.server

FOLDER = Path(__file__).parents[2] / "client"
INDEX_SECONDS = 120
AWAY = re.compile(r"from versions: none|Failed to establish|name resolution|not known|ConnectTimeout|ProxyError")
USE = """
import sys
from tcgx_client import Tcgx
assert "litestar" not in sys.modules and "core" not in sys.modules
with Tcgx(sys.argv[1], trader_id=int(sys.argv[2]), api_key=sys.argv[3]) as client:
    order = client.place("pikachu", "buy", "1.50", wait=5)
    with client.live_book("pikachu", transport="ws") as book:
        print(order.status, book.best_bid[0], client.cancel(order.order_id, wait=5).status)
"""


def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """A program, run to its end."""
    return finished(arguments, seconds=INDEX_SECONDS, where=FOLDER)


def test_the_wheel_works_alone_in_an_empty_environment(
    exchange: ExchangeServer, trader_id: int, tmp_path: Path
) -> None:
    built = run(sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", tmp_path)
    assert built.returncode == 0, built.stderr
    (wheel,) = tmp_path.glob("*.whl")
    venv.create(tmp_path / "venv", symlinks=True)
    python = tmp_path / "venv" / "bin" / "python"
    installing = ("-m", "pip", "--python", python, "install", "--disable-pip-version-check", "--retries", "0", wheel)
    installed = run(sys.executable, *installing)
    if AWAY.search(installed.stderr):
        pytest.skip(f"the package index can't be reached: {installed.stderr.strip().splitlines()[-1]}")
    assert installed.returncode == 0, installed.stderr

    used = run(python, "-c", USE, exchange.url, str(trader_id), exchange.api_key(trader_id))

    assert used.stdout.split() == ["open", "1.50", "canceled"], used.stderr
    with zipfile.ZipFile(wheel) as opened:
        names = opened.namelist()
    assert "tcgx_client/py.typed" in names
    assert all(name.startswith(("tcgx_client/", "tcgx_client-")) for name in names)
