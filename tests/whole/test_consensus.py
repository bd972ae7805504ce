"""A flow of new orders, cancels and modifies, sent as mixed batches over REST, against a plain book."""

from collections.abc import Iterator

import pytest

from testing.cluster_servers import cluster_exchange, redis_cluster
from testing.consensus import CARD, MODIFY_REJECTED, digest, flow, send
from testing.exchange import ExchangeServer, exchange_server
from testing.oracle.judge import assert_archived, assert_books, judged

pytestmark = pytest.mark.server


@pytest.fixture(params=["one server", "a cluster"])
def exchange(request: pytest.FixtureRequest) -> Iterator[ExchangeServer]:
    """An exchange whose books are empty."""
    if request.param == "one server":
        with exchange_server() as alone:
            yield alone
        return
    with redis_cluster() as cluster, cluster_exchange(cluster) as on_cluster:
        yield on_cluster


def test_each_modify_is_one_replace_and_gives_what_a_plain_book_gives(exchange: ExchangeServer) -> None:
    outcome = send(exchange, flow(seed=7, count=4_000))
    books = judged(exchange.settings.redis_url, (CARD,))
    assert_archived(exchange.settings.database_url, books)
    assert_books(exchange.settings.redis_url, books)

    assert digest(outcome.found) == digest(outcome.right)
    assert outcome.replaces > 800
    assert 10 < sum(report[1] == MODIFY_REJECTED for report in outcome.right) < outcome.replaces
