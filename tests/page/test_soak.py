"""The short form of `python -m testing.page_soak`."""

import pytest

from testing import page_soak
from testing.pages import MISSING, PROGRAM

pytestmark = [pytest.mark.server, pytest.mark.skipif(PROGRAM is None, reason=MISSING)]


def test_ladders_of_three_tabs_are_books_while_others_trade() -> None:
    found = page_soak.run(8.0)

    assert found.wrong == []
    assert found.messages == []
    assert found.sequences > 10
    assert found.books > 10
