"""A flow of new orders, cancels and modifies, sent as mixed batches over REST, against a plain book."""

import pytest

from testing.consensus import CARD, MODIFY_REJECTED, digest, flow, send
from testing.exchange import exchange_server
from testing.oracle.judge import assert_archived, assert_books, judged

pytestmark = pytest.mark.server


def test_each_modify_is_one_replace_and_gives_what_a_plain_book_gives() -> None:
    with exchange_server() as exchange:
        outcome = send(exchange, flow(seed=7, count=4_000))
        books = judged(exchange.settings.redis_url, (CARD,))
        assert_archived(exchange.settings.database_url, books)
        assert_books(exchange.settings.redis_url, books)

    assert digest(outcome.found) == digest(outcome.right)
    assert outcome.replaces > 800
    assert 10 < sum(report[1] == MODIFY_REJECTED for report in outcome.right) < outcome.replaces
