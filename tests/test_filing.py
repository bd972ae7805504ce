"""When a bucket of traders' orders is to be sorted, and what becomes of what other engines do; without a server."""

from typing import Any

import pytest
from redis.exceptions import ResponseError

from engine.filing import COMMANDS_MIN, Filing, Position, by_bucket
from engine.sorting import BUCKET_BYTES, Sorting


def sorted_up_to(sorting: Sorting, portion: bytes | None) -> bool:
    """Answers what it asks, up to which portion its one bucket is sorted; whether it is due then."""
    ((_, take),) = sorting.reads()
    take(portion)
    return sorting.is_due


def entered_once(reply: Any, lines: bytes) -> Sorting:
    """With a bucket 05 that was due and read, and to whose sort call this was the reply."""
    sorting = Sorting("pikachu")
    sorting.grown(5 * 512, 1, {b"05": 2 * BUCKET_BYTES + 1})
    assert sorted_up_to(sorting, None)
    ((_, take),) = sorting.reads()
    take([lines])
    ((_, entered),) = sorting.writes()
    entered(reply)
    return sorting


@pytest.mark.parametrize(
    ("sequence", "size", "due"),
    [
        (5 * 512 - 1, BUCKET_BYTES + 1, False),  # before its turn
        (5 * 512, BUCKET_BYTES, False),
        (5 * 512, BUCKET_BYTES + 1, True),
        (6 * 512, BUCKET_BYTES + 1, True),
        (1, 2 * BUCKET_BYTES + 1, True),
    ],
)
def test_a_bucket_is_due_at_its_turn_if_it_is_large_or_as_soon_as_it_has_twice_as_much(
    sequence: int, size: int, due: bool
) -> None:
    sorting = Sorting("pikachu")
    sorting.grown(0, 0, {})
    sorting.grown(sequence, 1, {b"05": size})

    assert (sorting.is_due and sorted_up_to(sorting, None)) is due


def test_one_that_others_have_filled_is_due_at_its_turn_however_small() -> None:
    sorting = Sorting("pikachu")
    sorting.grown(0, 8, {})
    sorting.grown(5 * 512, 9, {b"05": 100})

    assert sorted_up_to(sorting, b"3")


def test_a_bucket_of_few_traders_is_due_early_the_next_time() -> None:
    sorting = entered_once(1, b"000000000001,5,\n000000000002,105,\n")

    sorting.grown(5 * 512, 2, {b"05": 8_192 + 2 * 4_096})
    assert not sorting.is_due
    sorting.grown(5 * 512, 3, {b"05": 1})
    assert sorting.is_due


def test_a_bucket_is_sorted_for_the_number_of_its_portions_however_small_or_empty() -> None:
    sorting = Sorting("pikachu")
    for portion in range(1, 100):
        sorting.grown(portion, portion, {b"05": 1} if portion == 3 else {})
        assert not sorting.is_due
    asked: dict[bytes, int] = {}
    for portion in range(100, 500):
        sorting.grown(portion, portion, {})
        for command, take in sorting.reads():
            digits = command.split(b"\r\n")[6].partition(b":")[0]
            asked[digits] = asked.get(digits, 0) + 1
            take([] if b"HMGET" in command else b"0")
        for _, take in sorting.writes():
            take(1)
    assert len(asked) == 110  # 00 to 99, and 0 to 9
    assert set(asked.values()) <= {5, 6}  # up to where it is sorted, then every hundred portions, 128 at most at once


@pytest.mark.parametrize("reply", [0, ResponseError("WRONGTYPE")])
def test_a_bucket_that_could_not_be_sorted_is_looked_at_anew(reply: Any) -> None:
    sorting = entered_once(reply, b"000000000001,5,\n")
    assert not sorting.is_due

    sorting.grown(105 * 512, 2, {b"05": 1})
    assert sorted_up_to(sorting, b"1") is False  # somebody else has
    sorting.grown(205 * 512, 3, {b"05": BUCKET_BYTES})
    assert sorting.is_due


def event(number: int) -> list[Any]:
    """An event with one line."""
    return [b"%d-0" % number, [b"first", b"%d" % number, b"orders", b"%012d,%d,sell\n" % (number, number)]]


def test_lines_go_to_the_bucket_of_the_last_digits_of_the_trader() -> None:
    texts = [b"000000000001,7,\n000000000002,107,\n", b"000000000003,7,buy\n000000000004,12345,buy\n"]

    assert by_bucket(texts) == {
        b"7": b"000000000001,7,\n000000000003,7,buy\n",
        b"07": b"000000000002,107,\n",
        b"45": b"000000000004,12345,buy\n",
    }


def test_events_that_somebody_else_has_filed_are_read_from_there() -> None:
    filing = Filing("pikachu")
    ((_, position),) = filing.reads()
    position(b"3-0 1")
    ((read, events),) = filing.reads()
    assert b"(3-0" in read
    assert filing.reads() == []  # not twice at once
    events([event(4)])
    ((_, filed),) = filing.writes()
    filing.waiting += COMMANDS_MIN
    ((_, stale),) = filing.reads()
    filed(b"9-0 3")
    stale([event(5)])

    assert not filing.has_read
    ((read, _),) = filing.reads()
    assert b"(9-0" in read


@pytest.mark.parametrize(("size", "at_once"), [(100, 8), (1_000_000, 4)])
def test_events_are_read_by_their_size_but_not_fewer_than_come_meanwhile(size: int, at_once: int) -> None:
    filing = Filing("pikachu")
    ((_, position),) = filing.reads()
    position(None)
    ((read, events),) = filing.reads()
    assert read.endswith(b"\r\n4\r\n")
    events([[b"%d-0" % number, [b"first", b"%d" % number, b"trades", b"x" * size]] for number in range(1, 5)])
    filing.writes()

    ((read, _),) = filing.reads()
    assert read.endswith(b"\r\n%d\r\n" % at_once)


def test_what_cannot_be_filed_waits_for_more_and_is_not_lost() -> None:
    filing = Filing("pikachu")
    ((_, position),) = filing.reads()
    position(None)
    ((_, events),) = filing.reads()
    events([event(1)])
    ((_, filed),) = filing.writes()
    filed(ResponseError("WRONGTYPE"))
    for _ in range(3):  # what was sent meanwhile, and is answered
        for _, take in filing.reads():
            take([])

    assert not filing.is_due
    filing.waiting += COMMANDS_MIN
    ((read, position),) = filing.reads()
    assert b"HGET" in read
    position(None)
    ((read, _),) = filing.reads()
    assert b"(0-0" in read


def test_a_position_is_read_as_it_is_written() -> None:
    assert Position.of(bytes(Position(b"12-3", 4))) == Position(b"12-3", 4)
    assert Position.of(None) == Position(b"0-0", 0)
