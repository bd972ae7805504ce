"""The local book: tests/vectors/book has cases that every implementation of the recipe passes, in any language."""

import sys
from decimal import Decimal
from pathlib import Path
from typing import Any

import msgspec
import pytest
from tcgx_client import BookSnapshot, BookState, BookUpdate
from tcgx_client.events import decode
from tcgx_client.models import Level

FOLDER = Path(__file__).parents[1] / "vectors" / "book"
VECTORS: list[dict[str, Any]] = [
    vector for path in sorted(FOLDER.glob("*.json")) for vector in msgspec.json.decode(path.read_bytes())
]


def message(values: dict[str, Any]) -> BookSnapshot | BookUpdate:
    """The message as a stream has it."""
    found = decode(msgspec.json.encode(values))
    assert isinstance(found, BookSnapshot | BookUpdate)
    return found


def pairs(levels: tuple[Level, ...]) -> list[list[Any]]:
    """Levels as vectors have them."""
    return [[f"{price:.2f}", quantity] for price, quantity in levels]


@pytest.mark.parametrize("vector", VECTORS, ids=[vector["name"] for vector in VECTORS])
def test_the_book_does_what_the_vectors_say(vector: dict[str, Any]) -> None:
    book = BookState(vector["card"])

    for step in vector["steps"]:
        outcome = book.apply(message(step["message"]))
        view = book.view()

        assert outcome == step["outcome"]
        assert (book.sequence, book.is_live) == (step["sequence"], step["live"])
        assert (pairs(view.bids), pairs(view.asks)) == (step["bids"], step["asks"])
        assert (view.sequence, view.is_live) == (step["sequence"], step["live"])


def test_there_are_vectors() -> None:
    assert len(VECTORS) >= 10
    assert len({vector["name"] for vector in VECTORS}) == len(VECTORS)


def test_a_view_stays_as_it_was_and_the_book_does_not_grow() -> None:
    book = BookState("pikachu")
    book.apply(BookSnapshot("pikachu", 0, ((Decimal("5.00"), 1),), ()))
    before = book.view()

    prices = [Decimal(cents) / 100 for cents in range(100, 1_001)]
    for number in range(1, 20_001):
        price = prices[number * 7 % 901]
        book.apply(BookUpdate("pikachu", number - 1, number, ((price, number % 3),), ()))

    assert before.bids == ((Decimal("5.00"), 1),)
    assert len(book.view().bids) <= 901
    assert sys.getsizeof(book._bids) < 100_000
