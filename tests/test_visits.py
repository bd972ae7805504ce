"""What becomes of an engine's visit to a card's traders' orders where others write in between, on the real server."""

from collections.abc import Iterator
from typing import Any

import pytest

from engine.filing import Filing
from tests.market import Market, answered, expiring

pytestmark = pytest.mark.server


class Visits:
    """An engine's visits to the card, a half at a time."""

    def __init__(self, market: Market, connection: Any) -> None:
        self.filing = Filing(market.card)
        self._connection = connection

    def begin(self) -> None:
        answered(self._connection, self.filing.reads())

    def end(self) -> None:
        answered(self._connection, self.filing.writes())

    def visit(self, times: int = 1) -> None:
        for _ in range(times):
            self.filing.flush()
            self.begin()
            self.end()


@pytest.fixture
def two_engines(market: Market) -> Iterator[tuple[Visits, Visits]]:
    with market.connection() as one, market.connection() as other:
        yield Visits(market, one), Visits(market, other)


def lines_of(market: Market) -> dict[bytes, int]:
    """How many lines each portion has."""
    return {name: len(lines.splitlines()) for name, lines in market.portions().items()}


def test_of_two_engines_at_once_one_files_and_the_other_goes_on_from_there(
    market: Market, two_engines: tuple[Visits, Visits]
) -> None:
    market.append(expiring(8, 3))
    market.match()
    for engine in two_engines:
        engine.visit()  # how far it is filed
    for engine in two_engines:
        engine.begin()
    for engine in two_engines:
        engine.end()
    assert lines_of(market) == {b"8:1": 3}

    market.append(expiring(8, 2))
    market.match()
    for engine in reversed(two_engines):
        engine.filing.matched(2)
        engine.visit(2)
    assert lines_of(market) == {b"8:1": 3, b"8:2": 2}
    assert len(market.orders_of(8)) == 5


def file_and_read(market: Market, engine: Visits, count: int) -> None:
    """So many orders, filed by an engine that has begun the visit in which they are sorted."""
    for start in range(0, count, 600):
        market.append(expiring(8, min(600, count - start)))
    market.match()
    engine.filing.matched(count)
    engine.visit(3)  # how far it is filed; the events; how far it is sorted
    assert market.listed(8) == []
    engine.begin()


def test_what_somebody_else_has_sorted_meanwhile_is_not_listed_twice(
    market: Market, two_engines: tuple[Visits, Visits]
) -> None:
    engine, _ = two_engines
    file_and_read(market, engine, 1_200)
    before = market.orders_of(8)
    market.sort(b"8")

    engine.end()

    assert len(market.listed(8)) == 50
    assert market.orders_of(8) == before


def test_a_list_is_not_cut_on_the_ground_of_what_it_was(market: Market, two_engines: tuple[Visits, Visits]) -> None:
    engine, _ = two_engines
    file_and_read(market, engine, 1_200)
    engine.end()
    assert len(market.listed(8)) == 1_200
    engine.begin()
    market.append(expiring(8, 5))
    market.match()
    before = market.orders_of(8)
    market.file()
    market.sort(b"8")

    engine.end()

    assert market.orders_of(8) == before
    assert before[0].sequence == 1_205


def test_what_a_list_cannot_take_is_filed_again(market: Market, two_engines: tuple[Visits, Visits]) -> None:
    engine, _ = two_engines
    file_and_read(market, engine, 1_200)
    before = market.orders_of(8)
    market.redis.set(market.key("trader:8"), "in the way")
    engine.end()
    market.redis.delete(market.key("trader:8"))
    assert lines_of(market) == {}

    engine.begin()  # which reads nothing that comes meanwhile
    market.append(expiring(108, 1))
    market.match()
    market.file()
    engine.end()
    assert sum(lines_of(market).values()) == 1
    engine.visit()

    assert sum(lines_of(market).values()) == 1_201
    assert market.orders_of(8) == before


def test_what_a_list_cannot_take_is_not_tried_again_and_again(
    market: Market, two_engines: tuple[Visits, Visits]
) -> None:
    engine, _ = two_engines
    file_and_read(market, engine, 1_200)
    market.redis.set(market.key("trader:8"), "in the way")
    engine.end()

    due = [engine.filing.is_due]  # to be filed again
    engine.visit()

    assert [*due, engine.filing.is_due] == [True, False]


def test_what_a_visit_reads_stays_where_it_is_not_ended(market: Market, two_engines: tuple[Visits, Visits]) -> None:
    engine, other = two_engines
    file_and_read(market, engine, 1_200)
    before = market.orders_of(8)

    other.filing.matched(1_200)
    other.visit(3)

    assert market.listed(8) == []
    assert market.orders_of(8) == before


def test_older_orders_that_are_completed_are_dropped_when_they_are_many(market: Market) -> None:
    def rest(count: int) -> list[int]:
        """So many come to rest, and enough is completed that the list is cut, to what does not hold them."""
        resting = [market.sell("6.00", trader=8) for _ in range(count)]
        market.append(expiring(8, 151))
        market.match()
        market.file()
        market.sort(b"8")
        return resting

    def older() -> list[int]:
        return [int(sequence) for sequence in market.redis.lrange(market.key("older:8"), 0, -1)]

    first = rest(99)
    assert older() == first
    for sequence in first[:90]:
        market.cancel(sequence, trader=8)
    market.match()
    assert older() == first
    second = rest(60)
    assert older() == first[90:] + second
    third = rest(10)
    assert older() == first[90:] + second + third
    assert [order.sequence for order in market.orders_of(8, limit=100, only="open")] == (first[90:] + second + third)[
        ::-1
    ]
