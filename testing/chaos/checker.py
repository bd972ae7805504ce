"""The checker: compares the ledger of the clients with the log, and the log with everything that follows from it.

It trusts neither the exchange nor the harness: each rule is checked over all orders, and the state of each card is
computed twice again, by the reference book and by an empty server.
"""

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

import msgspec

from core.model import CancelOrder, Command, Order, PlaceOrder, Trade, order_id, price_text
from testing.chaos.ledger import Ledger, Placed
from testing.chaos.reads import Reads
from testing.oracle.judge import differences
from testing.oracle.reference_book import ReferenceBook

Rule = Literal["lost", "doubled", "altered", "order", "answer", "log", "state", "archive", "read", "start"]
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


def check(ledger: Ledger, evidence: Evidence, reads: Reads | None = None) -> list[Violation]:
    """Every violation, those of orders first. `reads`: what the API answered, judged where logs have no gap."""
    found = [*_acknowledged(ledger, evidence), *_canceled(ledger, evidence), *_in_order(ledger), *_batches(ledger)]
    books: dict[str, ReferenceBook] = {}
    for card, of_card in evidence.items():
        gaps = [*_dense(card, of_card)]
        if not gaps:
            books[card] = _book(card, of_card)
            found += _follows(card, of_card, books[card])
        found += gaps
    if reads is not None:
        found += _reads(reads, books)
    return found


def _acknowledged(ledger: Ledger, evidence: Evidence) -> Iterator[Violation]:
    """Acknowledged orders are in the log once and unaltered, at the id of the answer. The log has no other orders."""
    places: dict[tuple[int, str], list[tuple[int, PlaceOrder]]] = defaultdict(list)
    for of_card in evidence.values():
        for sequence, _, command in of_card.log:
            if isinstance(command, PlaceOrder):
                places[command.trader_id, command.client_order_id or ""].append((sequence, command))
    given: Counter[tuple[str, int]] = Counter()
    for placed in ledger.placed:
        given.update({(placed.command.card, sequence) for sequence in placed.sequences})
        yield from _order(placed, places.pop((placed.command.trader_id, placed.name), []))
    for card, sequence in [place for place, count in given.items() if count > 1]:
        yield Violation("doubled", f"the id {card}-{sequence} was given to {given[card, sequence]} orders")
    for (trader_id, name), found in places.items():
        yield Violation("altered", f"nobody has sent order {name!r} of trader {trader_id}, which the log has: {found}")


def _order(placed: Placed, found: Sequence[tuple[int, PlaceOrder]]) -> Iterator[Violation]:
    name, where = placed.name, [sequence for sequence, _ in found]
    if placed.refusal:
        yield Violation("answer", f"{name} was refused: {placed.refusal}")
    elif placed.answered_at is None:
        yield Violation("answer", f"{name} was never acknowledged, however often it was repeated")
    if len(found) > 1:
        yield Violation("doubled", f"{name} is in the log {len(found)} times: {where}")
    if len({*placed.sequences}) > 1:
        yield Violation("doubled", f"{name} was acknowledged with several sequences: {placed.sequences}")
    for sequence in {*placed.sequences} - {*where}:
        yield Violation(
            "lost", f"{placed.command.card}-{sequence} was acknowledged for {name}, and the log has {where}"
        )
    for sequence, command in found:
        if command != placed.command:
            yield Violation("altered", f"{name} is {command} at {sequence} of the log, and {placed.command} was sent")


def _canceled(ledger: Ledger, evidence: Evidence) -> Iterator[Violation]:
    """An acknowledged cancel is in the log after its order. No order rests that was canceled with all others."""
    logged: dict[tuple[str, int, int], int] = {}
    for card, of_card in evidence.items():
        for place, _, command in of_card.log:
            if isinstance(command, CancelOrder):
                logged[card, command.trader_id, command.sequence] = place
    for cancel in ledger.canceled:
        place = logged.get((cancel.card, cancel.trader_id, cancel.sequence), 0)
        if place <= cancel.sequence:
            yield Violation("lost", f"the acknowledged cancel of {cancel.card}-{cancel.sequence} is not in the log")
    resting = {(card, order.sequence) for card, of_card in evidence.items() for order in of_card.resting}
    for card, sequence in resting.intersection(ledger.canceled_with_all):
        yield Violation("lost", f"{card}-{sequence} rests, and a cancel of all orders of its trader was acknowledged")
    for name in ledger.unfound:
        yield Violation("answer", f"{name} was acknowledged, and was not found when it was canceled")


def _in_order(ledger: Ledger) -> Iterator[Violation]:
    """An order that was acknowledged before another one of its card was sent has the lower sequence."""
    by_card: dict[str, list[Placed]] = defaultdict(list)
    for placed in ledger.placed:
        if placed.answered_at is not None:
            by_card[placed.command.card].append(placed)
    for card, orders in by_card.items():
        answered = sorted(orders, key=lambda placed: placed.answered_at or 0.0)
        following, highest = 0, 0
        for placed in sorted(orders, key=lambda placed: placed.sent_at):
            while (answered[following].answered_at or 0.0) < placed.sent_at:
                highest = max(highest, *answered[following].sequences)
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


def _reads(reads: Reads, books: Mapping[str, ReferenceBook]) -> Iterator[Violation]:
    """Every read was answered, with what the reference book has."""
    for text in reads.failed:
        yield Violation("read", text)
    for name, body in reads.orders.items():
        card, _, sequence = name.rpartition("-")
        expected = books[card].order(int(sequence)) if card in books else None
        if expected is not None and body:
            yield from _single(body, expected, books[card])
    for (card, trader_id), bodies in reads.latest.items():
        if card in books:
            orders = [_order_body(order) for order in books[card].latest_orders(trader_id)]
            yield from _differing("read", f"latest orders of trader {trader_id} on {card}", bodies, orders)
    for card, bodies in reads.trades.items():
        if card in books:
            trades = [_trade_body(trade) for trade in books[card].latest_trades()]
            yield from _differing("read", f"latest trades of {card}", bodies, trades)


def _single(body: Mapping[str, Any], expected: Order, book: ReferenceBook) -> Iterator[Violation]:
    """An order with its fills, oldest first."""
    order = _order_body(expected)
    found = {name: body.get(name) for name in order}
    if found != order:
        yield Violation("read", f"GET of an order: {found}, not {order}")
    sequence = expected.sequence
    trades = [trade for trade in book.trades if sequence in (trade.taker_sequence, trade.maker_sequence)]
    fills = [{name: fill.get(name) for name in TRADE_NAMES} for fill in body.get("trades", [])]
    yield from _differing("read", f"fill of {order['order_id']}", fills, [_trade_body(trade) for trade in trades])


TRADE_NAMES = ("trade_id", "card", "price", "quantity", "taker_side", "executed_at")


def _order_body(order: Order) -> dict[str, Any]:
    return {
        "order_id": f"{order.card}-{order.sequence}",
        "client_order_id": order.client_order_id,
        "card": order.card,
        "side": order.side.value,
        "price": price_text(order.price_cents),
        "quantity": order.quantity,
        "filled_quantity": order.filled_quantity,
        "status": order.status.value,
        "time_in_force": order.time_in_force.value,
        "accepted_at": order.accepted_at,
        "closed_at": order.closed_at,
        "post_only": order.post_only,
        "replaces": order.replaces and order_id(order.card, order.replaces),
        "carried_quantity": order.carried_quantity,
        "reason": order.reason,
        "replaced_by": order.replaced_by and order_id(order.card, order.replaced_by),
    }


def _trade_body(trade: Trade) -> dict[str, Any]:
    values = (
        f"{trade.card}-t{trade.number}",
        trade.card,
        price_text(trade.price_cents),
        trade.quantity,
        trade.taker_side.value,
        trade.executed_at,
    )
    return dict(zip(TRADE_NAMES, values, strict=True))
