"""The book of subscribers without servers: its window, its versions, and wrong updates at a client."""

import msgspec

from engine.book_reader import Depth
from engine.events import Event
from streams.book import KNOWN, WINDOW, Book
from testing.clients.stream import LocalBook

CARD = "pikachu"


def event(first: int, last: int, levels: str) -> Event:
    """An event that changes levels."""
    return Event(CARD, f"{last}-0", first, "1-1", b"", b"", b"", levels.encode())


def told(book: Book, reached: int | None) -> dict[str, object]:
    """The message that a subscriber gets."""
    found = book.message(reached)
    assert found is not None
    decoded: dict[str, object] = msgspec.json.decode(found[1])
    return decoded


def test_a_subscriber_of_a_wide_book_sees_the_window_alone_and_levels_that_leave_it_as_0() -> None:
    book = Book(CARD)
    asks = [(10_000 + place, 1) for place in range(WINDOW + 5)]
    book.take(Depth(1, [], asks))
    local = LocalBook()
    assert local.apply(told(book, None))
    assert len(local.levels("asks")) == WINDOW

    book.apply(event(2, 2, ";9999,7"))
    book.publish()
    update = told(book, 1)
    assert local.apply(update)

    assert update["asks"] == [["99.99", 7], ["109.99", 0]]
    assert local.levels("asks") == [
        [f"{price // 100}.{price % 100:02d}", quantity] for price, quantity in book.asks.window()
    ]


def test_a_book_that_becomes_wide_comes_as_a_snapshot() -> None:
    book = Book(CARD)
    book.take(Depth(1, [], [(10_000 + place, 1) for place in range(WINDOW)]))
    book.apply(event(2, 2, ";9999,7"))
    book.publish()

    assert told(book, 1)["type"] == "snapshot"


def test_a_side_that_lost_too_many_known_levels_waits_for_a_snapshot() -> None:
    book = Book(CARD)
    book.take(Depth(1, [], [(10_000 + place, 1) for place in range(KNOWN)]))

    book.apply(event(2, 2, ";" + ",".join(f"{10_000 + place},0" for place in range(KNOWN - WINDOW + 1))))

    assert not book.is_live
    assert book.message(1) is None


def test_events_while_a_snapshot_is_read_are_applied_after_it() -> None:
    book = Book(CARD)
    book.await_snapshot()
    book.apply(event(5, 5, "500,1;"))
    book.apply(event(6, 6, "501,2;"))

    assert book.take(Depth(5, [(500, 1)], []))
    assert (book.sequence, book.bids.window()) == (6, [(501, 2), (500, 1)])


def test_an_event_without_levels_ends_a_live_book() -> None:
    book = Book(CARD)
    book.take(Depth(4, [(500, 1)], []))
    book.apply(Event(CARD, "5-0", 5, "1-1", b"", b"", b""))

    assert not book.is_live


def test_a_client_applies_nothing_of_an_update_that_does_not_follow() -> None:
    local = LocalBook()
    snapshot = {"type": "snapshot", "sequence": 5, "bids": [["5.00", 1]], "asks": []}
    assert local.apply(snapshot)

    wrong = {"type": "update", "previous_sequence": 6, "sequence": 7, "bids": [["5.00", 0]], "asks": []}
    assert not local.apply(wrong)
    assert local.levels("bids") == [["5.00", 1]]
    assert not local.is_live
    assert not local.apply({**wrong, "previous_sequence": 7, "sequence": 8})
    assert local.apply({**snapshot, "sequence": 9})
    assert local.is_live


def test_changes_of_901_prices_take_no_more_room_than_901_levels() -> None:
    book, local = Book(CARD), LocalBook()
    book.take(Depth(0, [], []))
    local.apply(told(book, None))
    for sequence in range(1, 20_001):
        price = 100 + sequence * 7 % 901
        book.apply(event(sequence, sequence, f"{price},{sequence % 3};"))
        if sequence % 10 == 0:
            book.publish()
            assert local.apply(told(book, sequence - 10))

    assert len(book.bids.levels) <= 901
    assert len(local.levels("bids")) == len(book.bids.levels)
