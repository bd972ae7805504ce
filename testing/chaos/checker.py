"""The checker: compares the ledger of the clients with the log, and the log with everything that follows from it.

It trusts neither the exchange nor the harness: each rule is checked over all orders, and the state of each card is
computed twice again, by the reference book and by an empty server.
"""

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any, Literal

import msgspec

from core.model import CancelOrder, Command, Order, PlaceOrder, Trade
from testing.chaos.ledger import Ledger, Placed
from testing.chaos.reads import Reads
from testing.oracle.judge import differences
from testing.oracle.reads import shown, shown_alone, shown_trade
from testing.oracle.reference_book import ReferenceBook

Rule = Literal["lost", "doubled", "altered", "order", "answer", "log", "state", "archive", "read", "start", "conflict"]
Logged = tuple[int, str, Command]
"""Sequence, time and command of a log."""


class Violation(msgspec.Struct, frozen=True):
    """A rule that does not hold, and a sentence about the place."""

    rule: Rule
    text: str


class CardEvidence(msgspec.Struct, kw_only=True):
    """What the servers hold of a card once everything is matched and archived.

    `sequence` is the last one that Redis has given out, `replayed_hash` the state hash of the log on an empty server.
    """

    log: list[Logged]
    sequence: int
    resting: list[Order]
    state_hash: str
    replayed_hash: str
    orders: list[Order]
    trades: list[Trade]


Evidence = Mapping[str, CardEvidence]


def check(
    ledger: Ledger, evidence: Evidence, reads: Reads | None = None, *, conflicts: frozenset[str] = frozenset()
) -> list[Violation]:
    """Every violation, those of orders first. `reads`: what the API answered, judged where logs have no gap.

    `conflicts`: cards that had a history conflict. Their acknowledged orders and cancels may be lost, and a new history
    begins above a gap. No id may be given twice on them, no order may be altered, and none may be in the log twice.
    """
    found = [
        *_acknowledged(ledger, evidence, conflicts),
        *_canceled(ledger, evidence, conflicts),
        *_in_order(ledger),
        *_batches(ledger),
    ]
    books: dict[str, ReferenceBook] = {}
    for card, of_card in evidence.items():
        if card in conflicts:
            found += _rising(card, of_card)
            continue
        gaps = [*_dense(card, of_card)]
        if not gaps:
            books[card] = _book(card, of_card)
            found += _follows(card, of_card, books[card])
        found += gaps
    if reads is not None:
        found += _reads(reads, books, conflicts)
    return found


def _acknowledged(ledger: Ledger, evidence: Evidence, conflicts: frozenset[str]) -> Iterator[Violation]:
    """Acknowledged orders are in the log once and unaltered, at the id of the answer. The log has no other orders."""
    places: dict[tuple[int, str], list[tuple[int, PlaceOrder]]] = defaultdict(list)
    for of_card in evidence.values():
        for sequence, _, command in of_card.log:
            if isinstance(command, PlaceOrder):
                places[command.trader_id, command.client_order_id or ""].append((sequence, command))
    given: Counter[tuple[str, int]] = Counter()
    for placed in ledger.placed:
        given.update({(placed.command.card, sequence) for sequence in placed.sequences})
        may_be_lost = placed.command.card in conflicts
        yield from _order(placed, places.pop((placed.command.trader_id, placed.name), []), may_be_lost=may_be_lost)
    for card, sequence in [place for place, count in given.items() if count > 1]:
        yield Violation("doubled", f"the id {card}-{sequence} was given to {given[card, sequence]} orders")
    for (trader_id, name), found in places.items():
        yield Violation("altered", f"nobody has sent order {name!r} of trader {trader_id}, which the log has: {found}")


def _order(placed: Placed, found: Sequence[tuple[int, PlaceOrder]], *, may_be_lost: bool) -> Iterator[Violation]:
    name, where = placed.name, [sequence for sequence, _ in found]
    if placed.refusal:
        yield Violation("answer", f"{name} was refused: {placed.refusal}")
    elif placed.answered_at is None:
        yield Violation("answer", f"{name} was never acknowledged, however often it was repeated")
    if len(found) > 1:
        yield Violation("doubled", f"{name} is in the log {len(found)} times: {where}")
    # An order that is sent again after its loss gets another sequence.
    if len({*placed.sequences}) > 1 and not may_be_lost:
        yield Violation("doubled", f"{name} was acknowledged with several sequences: {placed.sequences}")
    for sequence in set() if may_be_lost else {*placed.sequences} - {*where}:
        yield Violation(
            "lost", f"{placed.command.card}-{sequence} was acknowledged for {name}, and the log has {where}"
        )
    for sequence, command in found:
        if command != placed.command:
            yield Violation("altered", f"{name} is {command} at {sequence} of the log, and {placed.command} was sent")


def _canceled(ledger: Ledger, evidence: Evidence, conflicts: frozenset[str]) -> Iterator[Violation]:
    """An acknowledged cancel is in the log after its order. No order rests that was canceled with all others."""
    logged: dict[tuple[str, int, int], int] = {}
    for card, of_card in evidence.items():
        for place, _, command in of_card.log:
            if isinstance(command, CancelOrder):
                logged[card, command.trader_id, command.sequence] = place
    for cancel in ledger.canceled:
        if cancel.card in conflicts:
            continue
        place = logged.get((cancel.card, cancel.trader_id, cancel.sequence), 0)
        if place <= cancel.sequence:
            yield Violation("lost", f"the acknowledged cancel of {cancel.card}-{cancel.sequence} is not in the log")
    judged = {card: of_card for card, of_card in evidence.items() if card not in conflicts}
    resting = {(card, order.sequence) for card, of_card in judged.items() for order in of_card.resting}
    for card, sequence in resting.intersection(ledger.canceled_with_all):
        yield Violation("lost", f"{card}-{sequence} rests, and a cancel of all orders of its trader was acknowledged")
    for order_id in ledger.unfound:
        if order_id.rpartition(" (")[0].rpartition("-")[0] in conflicts:
            continue
        yield Violation("answer", f"{order_id} was acknowledged, and was not found when it was canceled")


def _in_order(ledger: Ledger) -> Iterator[Violation]:
    """An order that was acknowledged before another one of its card was sent has the lower sequence.

    That is the sequence of its first acknowledgement. After a history conflict, a repeat may have got a second one.
    """
    by_card: dict[str, list[Placed]] = defaultdict(list)
    for placed in ledger.placed:
        if placed.answered_at is not None:
            by_card[placed.command.card].append(placed)
    for card, orders in by_card.items():
        answered = sorted(orders, key=lambda placed: placed.answered_at or 0.0)
        following, highest = 0, 0
        for placed in sorted(orders, key=lambda placed: placed.sent_at):
            while (answered[following].answered_at or 0.0) < placed.sent_at:
                highest = max(highest, answered[following].sequences[0])
                following += 1
            if min(placed.sequences) <= highest:
                text = f"{card}-{placed.sequences[0]} ({placed.name}) was sent after {card}-{highest} was acknowledged"
                yield Violation("order", text)


def _batches(ledger: Ledger) -> Iterator[Violation]:
    """Orders of a batch and a card are in the log in the order of the batch."""
    last: dict[tuple[int, str], int] = {}
    for placed in ledger.placed:
        if not placed.batch or not placed.sequences:
            continue
        key, sequence = (placed.batch, placed.command.card), placed.sequences[0]
        if sequence <= last.get(key, 0):
            yield Violation("order", f"{placed.name} follows {last[key]} in its batch, and has the sequence {sequence}")
        last[key] = sequence


def _dense(card: str, evidence: CardEvidence) -> Iterator[Violation]:
    """Sequences count up from 1 without a gap, to the last one that was given out."""
    expected = list(range(1, evidence.sequence + 1))
    found = [sequence for sequence, _, _ in evidence.log]
    for place, sequence, wanted in differences(found, expected):
        yield Violation("log", f"entry {place + 1} of the log of {card} has the sequence {sequence}, not {wanted}")


def _rising(card: str, evidence: CardEvidence) -> Iterator[Violation]:
    """Sequences of a log with gaps rise."""
    found = [sequence for sequence, _, _ in evidence.log]
    for before, after in pairwise(found):
        if after <= before:
            yield Violation("log", f"the log of {card} has the sequence {after} after {before}")


def _book(card: str, evidence: CardEvidence) -> ReferenceBook:
    """The book that follows from the log."""
    book = ReferenceBook(card)
    for sequence, at, command in evidence.log:
        book.apply(sequence, at, command)
    return book


def _follows(card: str, evidence: CardEvidence, book: ReferenceBook) -> list[Violation]:
    """The books and the archive are those that follow from the log."""
    found = []
    if evidence.state_hash != evidence.replayed_hash:
        text = f"the state hash of {card} is {evidence.state_hash}, and a replay gives {evidence.replayed_hash}"
        found.append(Violation("state", text))
    resting = sorted(book.bids() + book.asks(), key=_by_sequence)
    completed = sorted(book.completed, key=_by_sequence)
    found += _differing("state", f"resting order of {card}", sorted(evidence.resting, key=_by_sequence), resting)
    found += _differing("archive", f"archived order of {card}", evidence.orders, completed)
    found += _differing("archive", f"archived trade of {card}", evidence.trades, book.trades)
    return found


def _by_sequence(order: Order) -> int:
    return order.sequence


def _differing(rule: Rule, what: str, found: Sequence[Any], expected: Sequence[Any]) -> list[Violation]:
    places = differences([*found], [*expected])
    return [Violation(rule, f"{what}, place {place + 1}: {is_}, not {wanted}") for place, is_, wanted in places]


def _reads(reads: Reads, books: Mapping[str, ReferenceBook], conflicts: frozenset[str]) -> Iterator[Violation]:
    """Every read was answered, with what the reference book has. A lost order is not found."""
    for text in reads.failed:
        if any(f"/orders/{card}-" in text for card in conflicts):
            continue
        yield Violation("read", text)
    for order_id, body in reads.orders.items():
        card, _, sequence = order_id.rpartition("-")
        expected = books[card].order(int(sequence)) if card in books else None
        if expected is not None and body:
            yield from _single(body, expected, books[card])
    for (card, trader_id), bodies in reads.latest.items():
        if card in books:
            orders = [shown(order) for order in books[card].latest_orders(trader_id)]
            yield from _differing("read", f"latest orders of trader {trader_id} on {card}", bodies, orders)
    for card, bodies in reads.trades.items():
        if card in books:
            trades = [shown_trade(trade) for trade in books[card].latest_trades()]
            yield from _differing("read", f"latest trades of {card}", bodies, trades)


def _single(body: Mapping[str, Any], expected: Order, book: ReferenceBook) -> Iterator[Violation]:
    """An order with its fills, oldest first."""
    yield from _differing("read", "GET of an order", [body], [shown_alone(expected, book)])
