"""`tcgx chaos`: its plans repeat, its checker finds every kind of violation, and a short run of it finds none."""

import itertools
import json
import os
import random
import signal
import socket
import socketserver
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
import pytest

from api.views import matched_view, order_view, trade_view
from cli import arguments, datadir
from core.model import CancelOrder, Command, Fill, PlaceOrder, Side, TimeInForce
from core.settings import Settings
from engine import keys
from testing.chaos import evidence, report, supervised
from testing.chaos import round as rounds
from testing.chaos.checker import CardEvidence, Evidence, Violation, check
from testing.chaos.exchange import bound
from testing.chaos.ledger import Ledger, Placed
from testing.chaos.links import Link, Links
from testing.chaos.machine import Unsynced, compiler, inherited
from testing.chaos.plan import FAULTS_MAX, KINDS, KINDS_OF, Fault, kind_of, plan
from testing.chaos.reads import Reads
from testing.chaos.round import Outcome
from testing.chaos.setups import SETUPS
from testing.chaos.supervised import Supervised
from testing.oracle.reference_book import ReferenceBook
from testing.processes import PROGRAM, descendants, ended, environment, finished
from testing.servers import client_of, fetch
from testing.waiting import until

SEED = 7
ORDERS = 400
RUN_SECONDS = 115
STOP_SECONDS = 30
CARD, OTHER_CARD = "pikachu", "squirtle"
AT = "2026-11-26T12:00:00.000Z"

Change = Callable[[Ledger, dict[str, CardEvidence]], None]


def honest() -> tuple[Ledger, dict[str, CardEvidence]]:
    """The ledger of clients of one card, and the evidence of an exchange that did everything right.

    Each order is answered before the next one is sent. Every tenth request is a batch of three, every seventh a cancel.
    """
    choose, ledger, log = random.Random(SEED), Ledger(), list[tuple[int, str, Command]]()
    clock = itertools.count(1)
    for number in range(ORDERS):
        sent_at = float(next(clock))
        commands = [order(choose, f"{number}-{place}") for place in range(3 if number % 10 == 0 else 1)]
        for placed in ledger.enter(commands, sent_at):
            log.append((len(log) + 1, AT, placed.command))
            placed.answered(len(log), float(next(clock)))
        if number % 7 == 0:
            cancel = CancelOrder(trader_id=placed.command.trader_id, card=CARD, sequence=len(log))
            log.append((len(log) + 1, AT, cancel))
            ledger.canceled.append(cancel)
    book = ReferenceBook(CARD)
    for sequence, at, command in log:
        book.apply(sequence, at, command)
    evidence = CardEvidence(
        log=log,
        sequence=len(log),
        resting=book.bids() + book.asks(),
        state_hash="same",
        replayed_hash="same",
        orders=sorted(book.completed, key=lambda completed: completed.sequence),
        trades=[*book.trades],
    )
    return ledger, {CARD: evidence}


def order(choose: random.Random, name: str) -> PlaceOrder:
    return PlaceOrder(
        trader_id=choose.randint(1, 4),
        card=CARD,
        side=choose.choice((Side.BUY, Side.SELL)),
        price_cents=choose.randint(500, 505),
        quantity=choose.randint(1, 9),
        time_in_force=choose.choice((TimeInForce.GTC, TimeInForce.GTC, TimeInForce.IOC)),
        client_order_id=name,
    )


def acknowledged(ledger: Ledger) -> Placed:
    """An order in the middle of the ledger, which is in no batch."""
    return next(placed for placed in ledger.placed[ORDERS // 2 :] if not placed.batch)


# -- each change breaks one promise of the exchange


def replace_command(evidence: CardEvidence, sequence: int, command: Command) -> None:
    evidence.log[sequence - 1] = (sequence, AT, command)


def an_acknowledged_order_is_not_in_the_log(ledger: Ledger, evidence: dict[str, CardEvidence]) -> None:
    sequence = acknowledged(ledger).sequences[0]
    replace_command(evidence[CARD], sequence, CancelOrder(trader_id=1, card=CARD, sequence=1))


def the_end_of_the_log_is_gone(_: Ledger, evidence: dict[str, CardEvidence]) -> None:
    del evidence[CARD].log[-20:]
    evidence[CARD].sequence -= 20


def an_acknowledged_cancel_is_not_in_the_log(ledger: Ledger, _: dict[str, CardEvidence]) -> None:
    kept = acknowledged(ledger)
    ledger.canceled.append(CancelOrder(trader_id=kept.command.trader_id + 1, card=CARD, sequence=kept.sequences[0]))


def an_order_rests_after_all_were_canceled(ledger: Ledger, evidence: dict[str, CardEvidence]) -> None:
    ledger.canceled_with_all.append((CARD, evidence[CARD].resting[0].sequence))


def an_order_is_in_the_log_twice(ledger: Ledger, evidence: dict[str, CardEvidence]) -> None:
    of_card = evidence[CARD]
    of_card.log.append((len(of_card.log) + 1, AT, acknowledged(ledger).command))
    of_card.sequence += 1


def a_repeat_was_answered_with_another_sequence(ledger: Ledger, _: dict[str, CardEvidence]) -> None:
    placed = acknowledged(ledger)
    placed.answered(placed.sequences[0] + 1, 1_000_000.0)


def an_id_was_given_to_two_orders(ledger: Ledger, _: dict[str, CardEvidence]) -> None:
    first, second = [placed for placed in ledger.placed if not placed.batch][10:12]
    second.sequences[:] = first.sequences


def an_order_overtook_one_that_was_acknowledged(ledger: Ledger, evidence: dict[str, CardEvidence]) -> None:
    first, second = [placed for placed in ledger.placed if not placed.batch][20:22]
    replace_command(evidence[CARD], first.sequences[0], second.command)
    replace_command(evidence[CARD], second.sequences[0], first.command)
    first.sequences, second.sequences = second.sequences, first.sequences


def a_batch_is_in_another_order(ledger: Ledger, evidence: dict[str, CardEvidence]) -> None:
    first, second = [placed for placed in ledger.placed if placed.batch][:2]
    replace_command(evidence[CARD], first.sequences[0], second.command)
    replace_command(evidence[CARD], second.sequences[0], first.command)
    first.sequences, second.sequences = second.sequences, first.sequences


def the_log_has_another_quantity(ledger: Ledger, evidence: dict[str, CardEvidence]) -> None:
    placed = acknowledged(ledger)
    replace_command(evidence[CARD], placed.sequences[0], msgspec.structs.replace(placed.command, quantity=777))


def the_log_has_an_order_that_nobody_sent(ledger: Ledger, _: dict[str, CardEvidence]) -> None:
    ledger.placed.remove(acknowledged(ledger))


def an_order_was_never_answered(ledger: Ledger, _: dict[str, CardEvidence]) -> None:
    placed = acknowledged(ledger)
    placed.answered_at = None
    placed.sequences.clear()


def an_order_was_refused(ledger: Ledger, _: dict[str, CardEvidence]) -> None:
    acknowledged(ledger).refusal = "409 client_order_id_conflict"


def an_acknowledged_order_was_not_found(ledger: Ledger, _: dict[str, CardEvidence]) -> None:
    ledger.unfound.append("pikachu-1 (status 404)")


def the_log_has_a_gap(_: Ledger, evidence: dict[str, CardEvidence]) -> None:
    of_card = evidence[CARD]
    of_card.log[-5:] = [(sequence + 1, at, command) for sequence, at, command in of_card.log[-5:]]
    of_card.sequence += 1


def a_sequence_was_given_out_and_is_not_in_the_log(_: Ledger, evidence: dict[str, CardEvidence]) -> None:
    evidence[CARD].sequence += 1


def the_state_hash_is_not_that_of_a_replay(_: Ledger, evidence: dict[str, CardEvidence]) -> None:
    evidence[CARD].state_hash = "other"


def a_resting_order_is_missing(_: Ledger, evidence: dict[str, CardEvidence]) -> None:
    del evidence[CARD].resting[3]


def a_resting_order_has_been_filled_too_much(_: Ledger, evidence: dict[str, CardEvidence]) -> None:
    resting = evidence[CARD].resting
    resting[0] = msgspec.structs.replace(resting[0], filled_quantity=resting[0].filled_quantity + 1)


def an_archived_order_is_missing(_: Ledger, evidence: dict[str, CardEvidence]) -> None:
    del evidence[CARD].orders[-1]


def an_archived_order_is_there_twice(_: Ledger, evidence: dict[str, CardEvidence]) -> None:
    evidence[CARD].orders.insert(5, evidence[CARD].orders[4])


def an_archived_order_has_another_trader(_: Ledger, evidence: dict[str, CardEvidence]) -> None:
    orders = evidence[CARD].orders
    orders[9] = msgspec.structs.replace(orders[9], trader_id=orders[9].trader_id + 1)


def an_archived_trade_is_missing(_: Ledger, evidence: dict[str, CardEvidence]) -> None:
    del evidence[CARD].trades[7]


def an_archived_trade_has_another_price(_: Ledger, evidence: dict[str, CardEvidence]) -> None:
    trades = evidence[CARD].trades
    trades[3] = msgspec.structs.replace(trades[3], price_cents=trades[3].price_cents + 1)


CHANGES: list[tuple[Change, str]] = [
    (an_acknowledged_order_is_not_in_the_log, "lost"),
    (the_end_of_the_log_is_gone, "lost"),
    (an_acknowledged_cancel_is_not_in_the_log, "lost"),
    (an_order_rests_after_all_were_canceled, "lost"),
    (an_order_is_in_the_log_twice, "doubled"),
    (a_repeat_was_answered_with_another_sequence, "doubled"),
    (an_id_was_given_to_two_orders, "doubled"),
    (an_order_overtook_one_that_was_acknowledged, "order"),
    (a_batch_is_in_another_order, "order"),
    (the_log_has_another_quantity, "altered"),
    (the_log_has_an_order_that_nobody_sent, "altered"),
    (an_order_was_never_answered, "answer"),
    (an_order_was_refused, "answer"),
    (an_acknowledged_order_was_not_found, "answer"),
    (the_log_has_a_gap, "log"),
    (a_sequence_was_given_out_and_is_not_in_the_log, "log"),
    (the_state_hash_is_not_that_of_a_replay, "state"),
    (a_resting_order_is_missing, "state"),
    (a_resting_order_has_been_filled_too_much, "state"),
    (an_archived_order_is_missing, "archive"),
    (an_archived_order_is_there_twice, "archive"),
    (an_archived_order_has_another_trader, "archive"),
    (an_archived_trade_is_missing, "archive"),
    (an_archived_trade_has_another_price, "archive"),
]


def test_the_checker_finds_nothing_where_nothing_is_wrong() -> None:
    ledger, evidence = honest()

    assert check(ledger, evidence) == []
    assert ledger.acknowledged > ORDERS
    assert len(evidence[CARD].trades) > 100
    assert len(evidence[CARD].resting) > 10


@pytest.mark.parametrize(("change", "rule"), CHANGES, ids=[change.__name__ for change, _ in CHANGES])
def test_the_checker_finds(change: Change, rule: str) -> None:
    ledger, evidence = honest()

    change(ledger, evidence)

    assert rule in {violation.rule for violation in check(ledger, evidence)}


# -- cards that had a history conflict


def test_a_reported_conflict_covers_what_was_lost_and_nothing_else() -> None:
    for change, _ in CHANGES[:4]:
        ledger, evidence = honest()
        change(ledger, evidence)
        assert check(ledger, evidence, conflicts=frozenset({CARD})) == [], change
        assert check(ledger, evidence, conflicts=frozenset({OTHER_CARD})), change


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        (an_order_is_in_the_log_twice, "doubled"),
        (an_id_was_given_to_two_orders, "doubled"),
        (an_order_overtook_one_that_was_acknowledged, "order"),
        (the_log_has_another_quantity, "altered"),
        (the_log_has_an_order_that_nobody_sent, "altered"),
        (an_order_was_never_answered, "answer"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_a_reported_conflict_covers_nothing_but_losses(change: Change, rule: str) -> None:
    ledger, evidence = honest()

    change(ledger, evidence)

    assert rule in {violation.rule for violation in check(ledger, evidence, conflicts=frozenset({CARD}))}


def test_a_log_with_a_conflict_may_have_gaps_and_must_rise() -> None:
    ledger, evidence = honest()
    log = evidence[CARD].log

    log[-1] = (log[-1][0] + 100_000_000, *log[-1][1:])
    assert [found.rule for found in check(ledger, evidence, conflicts=frozenset({CARD})) if found.rule == "log"] == []
    log.append(log[-2])

    found = check(ledger, evidence, conflicts=frozenset({CARD}))
    assert [violation.rule for violation in found if violation.rule == "log"] == ["log"]


def test_reads_of_lost_orders_are_excused_on_cards_with_a_conflict_alone() -> None:
    ledger, evidence = honest()
    reads = honest_reads(evidence)
    reads.failed += ["GET /orders/pikachu-1 of trader 1: 404", "GET /orders/squirtle-1 of trader 1: 404"]

    found = check(ledger, evidence, reads, conflicts=frozenset({CARD}))

    assert [violation.text for violation in found] == ["GET /orders/squirtle-1 of trader 1: 404"]


# -- what the API answers to reads


def honest_reads(evidence: Evidence) -> Reads:
    """The answers of an API that does everything right, as its own views write them."""
    book = ReferenceBook(CARD)
    for sequence, at, command in evidence[CARD].log:
        book.apply(sequence, at, command)
    reads = Reads(trades={CARD: [msgspec.to_builtins(trade_view(trade)) for trade in book.latest_trades()]})
    for trader_id in book.traders():
        orders = book.latest_orders(trader_id)
        reads.latest[CARD, trader_id] = [msgspec.to_builtins(order_view(order)) for order in orders]
    filled = [completed for completed in book.completed if completed.filled_quantity]
    for completed in filled[:30]:
        every = (Fill(trade, is_taker) for trade in book.trades for is_taker in (False, True))
        fills = [fill for fill in every if fill.sequence == completed.sequence]
        reads.orders[f"{CARD}-{completed.sequence}"] = msgspec.to_builtins(matched_view(completed, fills))
    return reads


def an_order_is_not_found(reads: Reads) -> None:
    reads.failed.append("GET /orders/pikachu-1 of trader 1: 404")


def an_order_has_another_status(reads: Reads) -> None:
    next(iter(reads.orders.values()))["status"] = "open"


def an_order_lacks_a_fill(reads: Reads) -> None:
    next(iter(reads.orders.values()))["trades"].pop()


def the_newest_order_of_a_trader_is_missing(reads: Reads) -> None:
    del next(iter(reads.latest.values()))[0]


def two_orders_of_a_trader_change_places(reads: Reads) -> None:
    next(iter(reads.latest.values()))[:2] = next(iter(reads.latest.values()))[1::-1]


def the_newest_trade_is_missing(reads: Reads) -> None:
    del reads.trades[CARD][0]


READ_CHANGES = [
    an_order_is_not_found,
    an_order_has_another_status,
    an_order_lacks_a_fill,
    the_newest_order_of_a_trader_is_missing,
    two_orders_of_a_trader_change_places,
    the_newest_trade_is_missing,
]


def test_reads_of_an_honest_exchange_are_right() -> None:
    ledger, evidence = honest()
    reads = honest_reads(evidence)

    assert check(ledger, evidence, reads) == []
    assert len(reads.orders) == 30
    assert {len(orders) for orders in reads.latest.values()} == {50}


@pytest.mark.parametrize("change", READ_CHANGES)
def test_the_checker_finds_a_wrong_read(change: Callable[[Reads], None]) -> None:
    ledger, evidence = honest()
    reads = honest_reads(evidence)

    change(reads)

    assert {violation.rule for violation in check(ledger, evidence, reads)} == {"read"}


# -- what faults are made of


class Echo(socketserver.BaseRequestHandler):
    """Sends everything back."""

    def handle(self) -> None:
        while data := self.request.recv(100):
            self.request.sendall(data)


@contextmanager
def linked(folder: Path) -> Iterator[tuple[Link, Path]]:
    """A link to a server that sends everything back, and where the link listens."""
    link = Link(folder / "link", folder / "server", "seed")
    links = Links([link])
    with socketserver.ThreadingUnixStreamServer(str(folder / "server"), Echo) as server:
        serving = threading.Thread(target=server.serve_forever)
        serving.start()
        links.start()
        try:
            yield link, folder / "link"
        finally:
            links.stop()
            server.shutdown()
            serving.join()


def connected(path: Path) -> socket.socket:
    made = socket.socket(socket.AF_UNIX)
    made.settimeout(0.3)
    made.connect(str(path))
    return made


def echoed(connection: socket.socket, text: bytes) -> bytes | None:
    """What comes back; None if nothing does, and empty at the end of the connection."""
    connection.sendall(text)
    try:
        return connection.recv(100)
    except TimeoutError:
        return None


def test_a_mute_connection_swallows_bytes_and_its_end_while_new_ones_pass(tmp_path: Path) -> None:
    with linked(tmp_path) as (link, path), connected(path) as old:
        assert echoed(old, b"before") == b"before"

        link.mute()
        with connected(path) as new:
            assert until(lambda: echoed(new, b"new") == b"new")
        assert echoed(old, b"mute") is None
        link.end_mute()

        assert echoed(old, b"mute") is None, "the client was told"


def test_a_slow_link_carries_every_message_late(tmp_path: Path) -> None:
    with linked(tmp_path) as (link, path), connected(path) as client:
        assert echoed(client, b"fast") == b"fast"
        link.delay_seconds = 0.1
        began = time.monotonic()

        assert echoed(client, b"slow") == b"slow"
        assert time.monotonic() - began >= 0.2, "there and back"


@pytest.mark.skipif(compiler() is None, reason="it needs a C compiler")
def test_a_disk_that_can_not_be_synced_is_one_while_the_fault_lasts(tmp_path: Path) -> None:
    unsynced = Unsynced(tmp_path, compiler() or "")
    code = "import os\nfor call in (os.fsync, os.fdatasync): call(os.open('file', os.O_CREAT | os.O_WRONLY))"

    def synced() -> str:
        done = finished([sys.executable, "-c", code], where=tmp_path, variables=unsynced.variables)
        return done.stderr.strip().rpartition("\n")[2]

    assert synced() == ""
    unsynced.begin()
    assert synced() == "OSError: [Errno 5] Input/output error"
    unsynced.end()
    assert synced() == ""


def test_libraries_of_several_faults_add_up() -> None:
    before = os.environ.get("LD_PRELOAD")

    with inherited([{"LD_PRELOAD": "one.so", "A_CLOCK": "1"}, {"LD_PRELOAD": "two.so"}]):
        assert os.environ["LD_PRELOAD"] == "one.so:two.so"
        assert os.environ["A_CLOCK"] == "1"

    assert os.environ.get("LD_PRELOAD") == before
    assert "A_CLOCK" not in os.environ


def test_ports_of_a_round_are_taken_by_no_other_round() -> None:
    taken = [bound(shared=shared) for shared in (True, False, True, False)]
    try:
        assert len({one.getsockname()[1] for one in taken}) == len(taken)
        for one in taken:
            with socket.socket() as other, pytest.raises(OSError, match="in use"):
                other.bind(one.getsockname())
    finally:
        for one in taken:
            one.close()


@pytest.mark.server
@pytest.mark.parametrize(("exit_code", "text"), [(0, "runs already"), (1, "another reason")])
def test_a_second_supervisor_that_is_not_refused_is_found(
    monkeypatch: pytest.MonkeyPatch, exit_code: int, text: str
) -> None:
    with datadir.ephemeral() as data_dir:
        program = data_dir / "tcgx"
        program.write_text(f"#!/bin/sh\necho '{text}' >&2\nexit {exit_code}\n")
        program.chmod(0o755)
        monkeypatch.setattr(supervised, "PROGRAM", program)
        exchange = Supervised(data_dir, plan(54), programs=Settings(), stopping=threading.Event())
        exchange.start_second()
        exchange.close_ports()

    assert exchange.broken == [f"a second tcgx up ended with {exit_code}: {text}"]


# -- plans and reports


def test_a_seed_gives_the_same_plan_and_consecutive_seeds_all_kinds() -> None:
    plans = [plan(seed) for seed in range(100, 100 + len(KINDS))]

    assert plans == [plan(seed) for seed in range(100, 100 + len(KINDS))]
    assert {one.faults[0].kind for one in plans} == {kind.name for kind in KINDS}
    assert {len(one.faults) for one in plans} == {*range(1, FAULTS_MAX + 1)}


@pytest.mark.parametrize("setup", ["sentinel", "sentinel-acks", "cluster"])
def test_seeds_of_a_set_up_go_through_all_of_its_kinds(setup: str) -> None:
    kinds = {kind.name for kind in KINDS_OF[setup]}

    first = [plan(seed, setup).faults[0].kind for seed in range(len(kinds))]

    assert set(first) == kinds
    assert {fault.kind for seed in range(300) for fault in plan(seed, setup).faults} == kinds
    assert not kinds & {kind.name for kind in KINDS if kind.supervised or kind.needs}


def test_the_command_has_the_set_ups_of_the_harness() -> None:
    assert (*SETUPS,) == arguments.SETUPS


@pytest.mark.parametrize("setup", [*KINDS_OF])
def test_faults_of_one_part_do_not_overlap(setup: str) -> None:
    for seed in range(200):
        by_part: dict[str, list[tuple[float, float]]] = {}
        for fault in plan(seed, setup).faults:
            for part in kind_of(fault.kind).parts:
                by_part.setdefault(part, []).append((fault.begins, fault.ends))
        for times in by_part.values():
            assert all(end < begin for (_, end), (begin, _) in itertools.pairwise(times)), f"seed {seed}"


def outcome(**changes: object) -> Outcome:
    """A round of one fault."""
    whole = Outcome(
        seed=12,
        faults=plan(2).faults,
        sent=1_000,
        acknowledged=1_000,
        repeats=30,
        commands=1_100,
        trades=500,
        load_seconds=5.0,
        recovery_seconds=1.5,
        violations=[],
        ended={},
        tracebacks=[],
        notes=[],
    )
    return msgspec.structs.replace(whole, **changes)


def test_a_violation_is_reported_with_the_command_that_repeats_its_round() -> None:
    broken = outcome(violations=[Violation("lost", "pikachu-1 is gone")])

    assert report.details(broken, "tcgx chaos --rounds 1 --seed 12") == [
        "  lost: pikachu-1 is gone",
        "  repeat it with: tcgx chaos --rounds 1 --seed 12",
    ]
    assert report.line(broken) == (
        "seed 12: kill engine; acknowledged 1,000, repeated 30, lost 1, doubled 0, other 0, recovery 1.50 s"
    )


def test_the_table_has_a_row_for_each_kind_and_the_sums_of_its_rounds() -> None:
    table = report.table([outcome(), outcome(recovery_seconds=2.5, violations=[Violation("state", "another book")])])

    assert [line.split() for line in table.splitlines()[1:]] == [
        ["kill", "engine", "2", "2,000", "60", "0", "0", "1", "2.00,", "at", "most", "2.50"],
        ["all", "rounds", "2", "2,000", "60", "0", "0", "1", "2.00,", "at", "most", "2.50"],
    ]


def test_a_report_of_several_files_has_a_table_and_no_seed_twice(tmp_path: Path) -> None:
    files = [tmp_path / "a.json", tmp_path / "b.json"]
    for number, file in enumerate(files):
        about = {"command": f"tcgx chaos --seed {number}", "left_out": {"disk of redis full": "no root"}}
        file.write_bytes(report.encoded([outcome(seed=number, recovery_seconds=1.0 + number)], about))

    done = finished([PROGRAM, "chaos", "--report", *files], where=tmp_path)
    twice = finished([PROGRAM, "chaos", "--report", files[0], files[0]], where=tmp_path)
    none = finished([PROGRAM, "chaos", "--report", tmp_path / "c.json"], where=tmp_path)

    assert done.returncode == 0, done.stderr
    first, _, head, _, *rows = done.stdout.splitlines()
    assert first.startswith("`tcgx chaos --seed 0`; `tcgx chaos --seed 1`: 2 rounds, 2 of them with one fault, 2,000 ")
    assert first.endswith("Left out: disk of redis full.")
    assert head == "| fault | rounds | acknowledged | repeated | lost | doubled | other | recovery s |"
    assert rows == [
        "| kill engine | 2 | 2,000 | 60 | 0 | 0 | 0 | 1.50, at most 2.00 |",
        "| all rounds | 2 | 2,000 | 60 | 0 | 0 | 0 | 1.50, at most 2.00 |",
    ]
    assert (twice.returncode, none.returncode) == (1, 1)
    assert "both have seed 0: it would count twice" in twice.stderr
    assert "holds no rounds of chaos" in none.stderr


# -- rounds


@pytest.mark.server
def test_a_short_run_loses_nothing_and_doubles_nothing(tmp_path: Path) -> None:
    results = tmp_path / "results.json"

    done = finished(
        [PROGRAM, "chaos", "--rounds", "4", "--seed", "53", "--results", results], where=tmp_path, seconds=RUN_SECONDS
    )

    assert done.returncode == 0, done.stdout + done.stderr
    rounds = json.loads(results.read_text())["rounds"]
    assert [each["seed"] for each in rounds] == [53, 54, 55, 56]
    assert all(each["acknowledged"] == each["sent"] > 50 for each in rounds)
    assert all(each["trades"] > 10 and each["violations"] == [] for each in rounds)
    assert "all rounds" in done.stdout


@pytest.mark.server
def test_what_a_promoted_replica_lacks_is_a_conflict_that_the_round_recovers_from() -> None:
    fault = Fault("cut replicas off and kill redis", begins=0.5, ends=1.0, value=0.5)
    quiet = msgspec.structs.replace(plan(0, "sentinel"), faults=(fault,), api_processes=1)

    found = rounds.run(quiet, programs=Settings(), library=None, stopping=threading.Event())

    assert found.violations == []
    assert found.conflicts
    assert found.tracebacks == []


@pytest.mark.server
def test_a_cluster_loses_nothing_while_a_slot_moves_and_a_primary_is_replaced() -> None:
    faults = (
        Fault("move a slot key by key", begins=0.5, ends=1.0, value=0.5),
        Fault("kill redis until a replica is promoted", begins=1.2, ends=1.7, value=0.5),
    )
    quiet = msgspec.structs.replace(plan(0, "cluster"), faults=faults, api_processes=1)

    found = rounds.run(quiet, programs=Settings(), library=None, stopping=threading.Event())

    assert found.violations == []
    assert found.acknowledged == found.sent > 50
    assert not [note for note in found.notes if "promoted" in note]
    assert found.tracebacks == []


@pytest.mark.server
def test_what_is_missing_in_the_servers_of_a_round_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """The last log entry of a card, and one archived trade of another card, are removed before the verdict."""
    gather = evidence.gather

    def gather_less(settings: Settings, *, without_replay: frozenset[str]) -> Evidence:
        with client_of(settings.redis_url) as redis:
            key = keys.key(CARD, "orders")
            ((last, _),) = redis.xrevrange(key, count=1)
            redis.xdel(key, last)
        fetch(settings.database_url, "DELETE FROM trades WHERE card = $1 AND trade_number = 5", OTHER_CARD)
        return gather(settings, without_replay=without_replay)

    monkeypatch.setattr(rounds, "gather", gather_less)
    monkeypatch.setattr(rounds, "AFTER_SECONDS", 2.0)
    quiet = msgspec.structs.replace(plan(0), faults=())

    found = rounds.run(quiet, programs=Settings(), library=None, stopping=threading.Event())

    assert found.acknowledged == found.sent > 10
    assert {violation.rule for violation in found.violations} == {"lost", "log", "archive"}


@pytest.mark.server
def test_ctrl_c_ends_a_round_with_its_servers_and_shows_those_that_are_done(tmp_path: Path) -> None:
    output = tmp_path / "output"
    with output.open("wb") as file:
        process = subprocess.Popen(
            [PROGRAM, "chaos", "--rounds", "50", "--seed", "61"],
            env=environment(),
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=file,
        )
    try:
        until(lambda: b"round 1 of 50" in output.read_bytes(), "the first round does not end", seconds=RUN_SECONDS)
        started = until(lambda: descendants(process.pid), "the second round does not start")
        process.send_signal(signal.SIGINT)

        assert process.wait(STOP_SECONDS) == 128 + signal.SIGINT
    finally:
        process.kill()
        process.wait()
    assert ended(started, seconds=1)
    assert "all rounds" in output.read_text()


def test_results_that_can_not_be_written_are_refused_before_the_first_round(tmp_path: Path) -> None:
    done = finished([PROGRAM, "chaos", "--results", "/proc/x/y"], where=tmp_path)

    assert done.returncode == 1
    assert "/proc/x/y can't be written" in done.stderr
    assert done.stdout == ""


def test_a_library_that_is_not_there_is_refused_before_the_first_round(tmp_path: Path) -> None:
    done = finished([PROGRAM, "chaos", "--faketime", "libfaketime.so"], where=tmp_path)

    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "tcgx: --faketime libfaketime.so: there is no such file\n"
