"""What judges a soak and an overload: each fault is made on purpose and must be found. Without servers."""

import random
from array import array
from collections import Counter
from pathlib import Path

import msgspec
import pytest

from bench import overload, soak, witness
from bench.soak import GROWING, Sample, growth, trends_of
from bench.witness import Ledger
from cli.replay import Entry
from core.model import PlaceOrder, Side, TimeInForce
from testing.clients import flood, sequences, steady
from testing.clients.steady import Deck
from testing.flows import CARDS
from testing.oracle.reference_book import ReferenceBook

CARD = CARDS[0]
AT = "2026-11-27T01:00:00.000Z"
SAMPLES = 60


# -- trends


def sample(number: int, **changes: float) -> Sample:
    """A sample of an exchange that stays as it is, with noise. `changes` grow by this in each sample."""
    noise = random.Random(number)

    def value(name: str, size: float, wobble: float) -> float:
        return size + noise.uniform(-wobble, wobble) + number * changes.get(name, 0.0)

    memory = {
        name: int(value(name, 50e6, 1e6)) for name in ("api", "engine", "archiver", "redis", "postgres", "client")
    }
    growing = dict.fromkeys(GROWING, 1000000 * number)
    return Sample(
        window=steady.Window(
            seconds=5.0 * (number + 1),
            commands=10_000,
            completed=100,
            refused=0,
            errors=0,
            waiting=0,
            p50_ms=2.0,
            p99_ms=value("p99", 10.0, 4.0),
            max_ms=50.0,
        ),
        memory_bytes=memory,
        used_memory_bytes=int(value("bounded", 40e6, 3e6)) + sum(growing.values()),
        keys_bytes={"orders": 10_000_000, **growing},
        aof_bytes=1,
        aof_rewrites=0,
        backlog=0,
        archive_lag=0,
    )


def test_an_exchange_that_stays_as_it_is_is_flat_though_it_is_noisy() -> None:
    trends = trends_of([sample(number) for number in range(SAMPLES)])

    assert [one.name for one in trends if not one.is_flat] == []
    assert len(trends) == 6


@pytest.mark.parametrize(
    ("grows", "by", "name"),
    [
        ("api", 60e3, "memory of API"),
        ("engine", 60e3, "memory of engine"),
        ("archiver", 60e3, "memory of archiver"),
        ("postgres", 60e3, "memory of PostgreSQL"),
        ("bounded", 100e3, "memory of Redis but for what grows by design"),
        ("p99", 0.2, "p99"),
    ],
)
def test_what_grows_is_found(grows: str, by: float, name: str) -> None:
    trends = trends_of([sample(number, **{grows: by}) for number in range(SAMPLES)])

    assert [one.name for one in trends if not one.is_flat] == [name]


def test_a_single_peak_is_no_growth() -> None:
    points = [(float(at), 100.0) for at in range(100)]
    points[90] = (90.0, 1e9)

    assert growth(points) == 0.0


# -- what is lost


def entry(first: int, kinds: str, targets: list[int]) -> Entry:
    """An entry of the log: a letter a command, and for a cancel the order that it names."""
    columns = {
        "kinds": kinds,
        "traders": msgspec.json.encode(["1"] * len(kinds)).decode(),
        "prices": msgspec.json.encode(targets).decode(),
        "quantities": msgspec.json.encode([1] * len(kinds)).decode(),
    }
    return Entry(CARD, f"1-{first}", [text for pair in columns.items() for text in pair])


def test_a_log_gives_its_orders_and_the_targets_of_its_cancels() -> None:
    entries = [entry(1, "GGC", [500, 500, 1]), entry(4, "G", [500])]

    assert witness._logged(iter(entries), CARD, 4) == ({1, 2, 4}, {1}, [])


@pytest.mark.parametrize(
    ("entries", "sequence", "fault"),
    [
        ([entry(1, "G", [500]), entry(3, "G", [500])], 3, "pikachu: command 1 is followed by 3"),
        ([entry(1, "G", [500])], 2, "pikachu: the log ends with 1, and 2 was given out"),
    ],
)
def test_a_gap_of_a_log_is_found(entries: list[Entry], sequence: int, fault: str) -> None:
    assert witness._logged(iter(entries), CARD, sequence)[2] == [fault]


@pytest.mark.parametrize(
    ("ordered", "canceled", "fault"),
    [
        ([1, 2], [1], ""),
        ([1, 2, 3], [1], "1 acknowledged orders of pikachu are not in its log: [3]"),
        ([1, 2], [2], "1 acknowledged cancels of pikachu are not in its log: [2]"),
        ([1, 2, 2], [1], "1 orders of pikachu were given the id of another one"),
    ],
)
def test_what_was_acknowledged_and_is_not_in_the_log_is_found(
    ordered: list[int], canceled: list[int], fault: str
) -> None:
    ledger = Ledger({CARD: ordered}, {CARD: canceled}, 0)

    assert [*witness._acknowledged(CARD, {1, 2}, {1}, ledger)] == ([fault] if fault else [])


@pytest.mark.parametrize(
    ("ended", "resting", "fault"),
    [
        ([1, 2], {3}, ""),
        ([1, 2], set(), "1 orders of pikachu neither rest nor are archived: [3]"),
        ([1, 2, 2], {3}, "1 orders of pikachu are archived twice"),
        ([1, 2, 3], {3}, "1 orders of pikachu rest and are archived: [3]"),
        ([1, 2, 9], {3}, "1 orders of pikachu were never in its log: [9]"),
    ],
)
def test_an_order_that_is_not_archived_or_resting_once_is_found(
    ended: list[int], resting: set[int], fault: str
) -> None:
    assert [*witness._kept(CARD, {1, 2, 3}, ended, resting)] == ([fault] if fault else [])


def test_what_the_clients_saw_go_wrong_is_a_fault() -> None:
    told = steady.Told(orders=9, cancels=1, completed=0, refused=0, errors=1, unanswered=2, faults=["cancel: 404"])

    assert soak._wrong(told) == ["1 errors", "2 not answered", "cancel: 404"]


# -- the load


def test_a_deck_leaves_nothing_but_what_is_canceled_later() -> None:
    deck, book = Deck(CARD, random.Random(7)), ReferenceBook(CARD)
    count = sum(steady.DECK.values()) + steady.DECK["pairs"]
    for sequence in range(1, 5 * count + 1):
        body = deck.draw()
        command = PlaceOrder(
            trader_id=sequence,
            card=CARD,
            side=Side(body["side"]),
            price_cents=round(100 * float(body["price"])),
            quantity=body["quantity"],
            time_in_force=TimeInForce(body["time_in_force"]),
        )
        book.apply(sequence, AT, command)

    resting = book.bids() + book.asks()
    assert len(resting) == 5 * steady.DECK["away"]
    assert all(not 500 < order.price_cents < 600 for order in resting)
    assert Counter(order.status.value for order in book.completed)["expired"] == 5 * steady.DECK["expiring"]


def test_cancels_are_a_sixth_of_the_commands_and_as_many_as_rest() -> None:
    orders = steady.PATTERN_COMMANDS - steady.PATTERN["cancel"]
    deck = sum(steady.DECK.values()) + steady.DECK["pairs"]

    assert steady.PATTERN["cancel"] / steady.PATTERN_COMMANDS == 0.15
    assert 0 <= steady.PATTERN["cancel"] - orders * steady.DECK["away"] / deck < 4


def test_sequences_come_back_from_their_files(tmp_path: Path) -> None:
    written = {"pikachu": array("q", [1, 2**40]), "squirtle": array("q")}

    sequences.write(f"{tmp_path}/ordered", written)

    assert {card: [*found] for card, found in sequences.read(f"{tmp_path}/ordered", written).items()} == {
        "pikachu": [1, 2**40],
        "squirtle": [],
    }


# -- overload


def window(number: int, **changes: float) -> flood.Window:
    """A window of half a second after the overload, as before."""
    as_before = flood.Window(
        seconds=0.5 * (number + 1),
        due=1_000,
        sent=1_000,
        acknowledged=1_000,
        refused=0,
        given_up=0,
        errors=0,
        p50_ms=5.0,
        p99_ms=20.0,
        refused_p99_ms=0.0,
    )
    return msgspec.structs.replace(as_before, **changes)


@pytest.mark.parametrize(
    ("bad", "changes", "seconds"),
    [
        ((), {}, 0.0),
        ((0, 1), {"p99_ms": 900.0}, 1.0),
        ((0, 3), {"refused": 50}, 2.0),
        ((0, 1, 2, 3), {"acknowledged": 0}, 2.0),
        ((10, 11), {"p99_ms": 900.0}, 0.0),
        ((10, 11, 12), {"p99_ms": 900.0}, 6.5),
        ((19,), {"acknowledged": 0}, None),
        ((18, 19), {"p99_ms": 900.0}, None),
    ],
)
def test_the_time_until_all_is_as_before_ends_with_the_last_window_that_is_not(
    bad: tuple[int, ...], changes: dict[str, float], seconds: float | None
) -> None:
    windows = [window(number, **(changes if number in bad else {})) for number in range(20)]

    assert overload.back_after(windows, 20.0) == seconds


def result(**changes: object) -> overload.OverloadResult:
    """An overload that the exchange has passed."""
    told = flood.Told(acknowledged=9, refused=1, errors=0, unanswered=0, failed_connects=0, faults=[])
    found = witness.Account(
        commands=9, acknowledged=9, logged=9, completed=9, resting=0, trades=4, replay_same=True, faults=[]
    )
    passed = msgspec.convert(
        {
            "bench": "overload",
            "flow": "uniform",
            "seed": 0,
            "durability": "always",
            "server": "valkey 9",
            "machine": {
                "cores": 2,
                "cpu": "x",
                "load_1m": 0.0,
                "memory_bytes": 1,
                "system": "Linux",
                "python": "3",
                "versions": {"tcgx": "1"},
            },
            "seconds": 60,
            "orders_a_request": 50,
            "possible": 100.0,
            "offered": 300.0,
            "sent": 300.0,
            "goodput": 90.0,
            "refused": 210.0,
            "p99_before_ms": 9.0,
            "p99_ms": 90.0,
            "refused_p99_ms": 9.0,
            "back_seconds": 1.0,
            "told": msgspec.to_builtins(told),
            "account": msgspec.to_builtins(found),
            "parts": [],
            "faults": [],
        },
        type=overload.OverloadResult,
    )
    return msgspec.structs.replace(passed, **changes)


@pytest.mark.parametrize(
    ("changes", "faults"),
    [
        ({}, []),
        ({"goodput": 79.0}, ["goodput falls to 79%"]),
        ({"goodput": 79.0, "seconds": 10}, []),
        ({"back_seconds": 6.0}, ["it was not as before within 5 s"]),
        ({"back_seconds": None}, ["it was not as before within 5 s"]),
    ],
)
def test_an_overload_that_is_not_passed_says_why(changes: dict[str, object], faults: list[str]) -> None:
    assert overload._faults(result(**changes)) == faults
