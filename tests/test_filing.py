"""When a bucket of traders' orders is to be sorted, and what becomes of what other engines do; without a server."""

from typing import Any

import pytest
from redis.exceptions import ResponseError, WatchError

from engine.connection import Command
from engine.filing import COMMANDS_MIN, Filing, Position, by_bucket
from engine.sorting import BUCKET_BYTES, Sorting, cut


def sorted_up_to(sorting: Sorting, portion: bytes | None) -> bool:
    """Answers what it asks, up to which portion its one bucket is sorted; whether it is due then."""
    ((_, take),) = sorting.reads()
    take([portion])
    return sorting.is_due


def entered_once(reply: list[Any] | Exception, lines: bytes) -> Sorting:
    """With a bucket 05 that was due and read, and whose lines were entered with this reply."""
    sorting = Sorting("pikachu")
    sorting.grown(5 * 512, 1, {b"05": 2 * BUCKET_BYTES + 1})
    assert sorted_up_to(sorting, None)
    (_, position), (_, take) = sorting.reads()
    position([None])
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
    sorting = entered_once([1, 1, 1, 0], b"000000000001,5,\n000000000002,105,\n")

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
    stored: dict[bytes, bytes] = {}
    for portion in range(100, 500):
        sorting.grown(portion, portion, {})
        for command, take in sorting.reads():
            names = command.split(b"\r\n")[6::2]
            for digits in {name.partition(b":")[0] for name in names}:
                asked[digits] = asked.get(digits, 0) + 1
            take([stored.get(name) for name in names])
        for commands, take_all in sorting.writes():
            *_, digits, last = commands[-1].split(b"\r\n")[6:-1:2]
            stored[digits] = last
            take_all([0] * len(commands))
    assert len(asked) == 110  # 00 to 99, and 0 to 9
    assert set(asked.values()) <= {9, 10, 11}  # up to where it is sorted; that and 128 portions, every hundred of them


@pytest.mark.parametrize("reply", [WatchError("changed"), ResponseError("EXECABORT")])
def test_a_bucket_that_could_not_be_sorted_is_looked_at_anew(reply: Any) -> None:
    sorting = entered_once(reply, b"000000000001,5,\n")
    assert not sorting.is_due

    sorting.grown(105 * 512, 2, {b"05": 1})
    assert sorted_up_to(sorting, b"1") is False  # somebody else has
    sorting.grown(205 * 512, 3, {b"05": BUCKET_BYTES})
    assert sorting.is_due


def test_nothing_is_entered_where_somebody_else_has_sorted_the_bucket() -> None:
    sorting = entered_once([1, 0, 0], b"000000000001,5,\n")
    sorting.grown(5 * 512, 2, {b"05": 2 * BUCKET_BYTES + 1})
    (_, position), (_, take) = sorting.reads()
    position([b"2"])
    take([b"000000000002,5,\n"])

    assert sorting.writes() == []


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


def begun(filing: Filing, filed: bytes | None) -> list[Command]:
    """What a visit reads after it has asked up to where the card is filed, and was told this."""
    watch, position, *reads = filing.reads()
    watch[1](b"OK")
    position[1](filed)
    return reads


def visited(filed: bytes | None) -> Filing:
    """After a visit that has learned this."""
    filing = Filing("pikachu")
    assert begun(filing, filed) == []
    assert filing.is_read
    ((unwatch, _),) = filing.writes()
    assert b"UNWATCH" in unwatch
    return filing


def test_events_are_read_from_where_the_card_is_filed() -> None:
    ((read, _),) = begun(visited(b"3-0 1"), b"3-0 1")

    assert b"(3-0" in read


def test_what_was_read_from_elsewhere_is_dropped_and_read_from_there() -> None:
    filing = visited(b"3-0 1")
    ((_, events),) = begun(filing, b"9-0 3")
    read = [filing.is_read]
    events([event(4)])
    assert [*read, filing.is_read] == [False, True]
    ((unwatch, _),) = filing.writes()
    assert b"UNWATCH" in unwatch

    ((command, _),) = begun(filing, b"9-0 3")
    assert b"(9-0" in command


@pytest.mark.parametrize(("size", "at_once"), [(100, 8), (2_000_000, 4)])
def test_events_are_read_by_their_size_but_not_fewer_than_come_meanwhile(size: int, at_once: int) -> None:
    filing = visited(None)
    ((read, events),) = begun(filing, None)
    assert read.endswith(b"\r\n4\r\n")
    events([[b"%d-0" % number, [b"first", b"%d" % number, b"trades", b"x" * size]] for number in range(1, 5)])
    filing.writes()

    ((read, _),) = begun(filing, None)
    assert read.endswith(b"\r\n%d\r\n" % at_once)


@pytest.mark.parametrize(("failure", "at_once"), [(ResponseError("OOM"), False), (None, True)])
def test_what_cannot_be_filed_waits_for_more_and_is_not_lost(failure: Exception | None, *, at_once: bool) -> None:
    filing = visited(None)
    ((_, events),) = begun(filing, None)
    events([event(1)])
    *_, (execute, done) = filing.writes()
    assert b"EXEC" in execute
    done(failure)  # nothing: somebody else has written

    assert filing.is_due is at_once
    filing.matched(COMMANDS_MIN)
    assert begun(filing, None) == []
    filing.writes()
    ((read, _),) = begun(filing, None)
    assert b"(0-0" in read


def test_nothing_is_written_where_nothing_is_watched() -> None:
    filing = visited(None)
    watch, position, (_, events) = filing.reads()
    watch[1](ResponseError("NOPERM"))
    position[1](None)
    events([event(1)])

    assert filing.writes() == []
    assert not filing.is_due
    filing.matched(COMMANDS_MIN)
    begun(filing, None)
    filing.writes()
    ((read, _),) = begun(filing, None)
    assert b"(0-0" in read


def test_what_was_due_is_forgotten_where_the_server_was_emptied() -> None:
    filing = visited(None)
    ((_, events),) = begun(filing, None)
    lines = [b"000000000001,%d,%b\n" % (trader, b"x" * BUCKET_BYTES) for trader in range(20)]
    events([[b"1-0", [b"orders", b"".join(lines) * 3]]])  # more buckets than are read at once
    *_, (_, done) = filing.writes()
    done([0])
    due = [filing.is_due]

    begun(filing, None)

    assert [*due, filing.is_due] == [True, False]


def test_the_latest_orders_stay_in_a_list_that_is_cut() -> None:
    lines = [b"%012d,5,\n" % sequence for sequence in range(1, 61)]
    completed = [b"%012d,5,sell,100,1,gtc,,then,1,filled,now\n" % sequence for sequence in (3, 60, 11)]

    stays, older = cut([b"".join(lines[:7]), b"".join(completed), b"".join(lines[7:])])

    assert stays.splitlines(keepends=True) == [
        completed[2],
        *(b"%012d\n" % sequence for sequence in range(12, 60)),
        completed[1],
    ]
    assert older == [b"%012d" % sequence for sequence in (1, 2, 4, 5, 6, 7, 8, 9, 10)]


def test_a_list_that_was_cut_can_be_cut_again() -> None:
    first, older = cut([b"".join(b"%012d,5,\n" % sequence for sequence in range(1, 61))])

    assert len(older) == 10
    assert cut([first]) == (first, [])
    later, older = cut([first, b"%012d,5,\n" % 61])
    assert older == [b"000000000011"]
    assert later.count(b"\n") == 50


def test_a_position_is_read_as_it_is_written() -> None:
    assert Position.of(bytes(Position(b"12-3", 4))) == Position(b"12-3", 4)
    assert Position.of(None) == Position(b"0-0", 0)
