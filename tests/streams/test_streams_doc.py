"""docs/streams.md: its recipe works, its tests exist, and its settings are those of the code."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from core.settings import DESCRIPTIONS, variable
from testing.exchange import ExchangeServer

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "streams.md").read_text()


def recipe() -> Any:
    """The function of the page's Python code."""
    (code,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    names: dict[str, Any] = {}
    exec(compile(code, "docs/streams.md", "exec"), names)  # noqa: S102 - the page's own code
    return names["books"]


@pytest.mark.server
def test_the_recipe_keeps_the_book_that_rest_shows(exchange: ExchangeServer) -> None:
    trader = exchange.trader()
    books: Iterator[Any] = recipe()(exchange.url, "charmander")
    next(books)

    trader.place("charmander", "sell", "5.60", quantity=3)
    trader.place("charmander", "buy", "5.60", quantity=1)
    trader.place("charmander", "buy", "5.50", quantity=4)
    rest = exchange.http.get("/cards/charmander/book").json()
    found = next(found for found in books if found[0] >= rest["sequence"])

    assert found == (rest["sequence"], dict(rest["bids"]), dict(rest["asks"]))


def test_every_test_that_the_page_names_exists() -> None:
    folders = [ROOT / "tests" / name for name in ("streams", "client", "page")]
    code = "".join(path.read_text() for folder in folders for path in folder.glob("*.py"))
    named = set(re.findall(r"`(test_\w+)`", PAGE))

    assert len(named) > 15
    assert {name for name in named if f"def {name}(" not in code} == set()


def test_every_setting_of_streams_is_on_the_page() -> None:
    settings = {variable(name) for name in DESCRIPTIONS if name.startswith("stream_")}

    assert set(re.findall(r"`(TCGX_STREAM_\w+)`", PAGE)) == settings
