"""Recovery of a card whose log and archive have different histories.

A new history begins, with sequences above all that were given out:

| fault | Redis | the archive |
|---|---|---|
| empty | starts with an empty book | continues above the gap |
| older | keeps its book, without orders that the archive has as completed | continues above the gap |
| other, diverged | its keys are renamed (`lost:…`), and it starts with an empty book | continues above the gap |
| archive_older | continues | lacks the events that were trimmed, and continues after them |

Resting orders of lost data cannot be restored. The plan lists those that are known.
"""

import asyncio
import time
from collections.abc import Sequence
from datetime import datetime
from typing import Any

import asyncpg
import msgspec
import structlog
from redis.asyncio import Redis

from archiver import conversion, queries, writer
from archiver.history import JUMP, Comparison, Fault, compare, is_archivable, start_cursor
from archiver.queries import Archive, Cursor
from archiver.reader import read_rows
from core.errors import StartError
from core.model import CLIENT_ORDER_ID_SECONDS, LATEST, SEQUENCE_MAX, Order, order_id
from engine import codec, history, keys
from engine.connection import redis_errors
from engine.events import EventReader
from engine.history import LogState

log = structlog.get_logger()

ROUNDED_TO = 1_000_000
"""A history after a loss begins at a multiple of this, which makes the jump visible in order ids."""

RESTORED_ORDERS_MAX = 20_000
"""The largest number of archived orders of a card that are added to traders' lists."""

SCAN_COUNT = 1_000
ARCHIVE_BATCH_BYTES = 4_000_000
ARCHIVE_SECONDS = 30.0
ARCHIVE_TRIES = 150
"""How long, and how often, `recover` looks whether an archiver has archived what is left of a log."""

SECONDS_A_DAY = 86_400
RESTARTING_FAULTS = (Fault.EMPTY, Fault.OTHER, Fault.DIVERGED)
RECOVERABLE_FAULTS = (*RESTARTING_FAULTS, Fault.OLDER, Fault.ARCHIVE_OLDER)


class LostOrder(msgspec.Struct, frozen=True, kw_only=True):
    """A resting order that is lost. `order` is None if only its trades are known."""

    order_id: str
    filled_quantity: int
    order: Order | None = None


class RecoveryPlan(msgspec.Struct, frozen=True, kw_only=True):
    """The recovery of a card: the commands that Redis or the archive lacks, and the lost orders.

    Ranges are first and last sequence. `base` and `trades`: the last sequence and the last trade number before the new
    history. `archived_of_those`: the archived orders in the range that the log lacks.
    `completed`: orders of the book that the archive has as completed.
    """

    card: str
    fault: Fault
    sentence: str
    comparison: Comparison
    base: int
    cursor: Cursor
    trades: int
    log_lacks: tuple[int, int] | None = None
    archived_of_those: int = 0
    archive_lacks: tuple[int, int] | None = None
    resting: int = 0
    completed: Sequence[int] = ()
    lost: Sequence[LostOrder] = ()


async def plans(redis: Redis, database: asyncpg.Connection, cards: Sequence[str]) -> list[RecoveryPlan]:
    """The recovery plans of all cards that have a fault.

    Of the data, only waiting commands change, which are matched, and events that are left, which are archived.

    Raises:
        StartError: recovery cannot repair the fault of a card.
        Unavailable: a server does not answer.
    """
    recovery_plans = []
    for card, found in (await compare(redis, database, cards)).items():
        comparison, fault = found, found.verdict.fault
        if fault is None:
            continue
        if fault not in RECOVERABLE_FAULTS:
            raise StartError(comparison.verdict.sentence)
        if fault is Fault.OLDER:
            await match_waiting(redis, card)
            comparison = await _archive_rest(redis, database, card)
            if comparison.verdict.fault is None:
                continue  # nothing else was wrong
        make = _plan_for_archive if fault is Fault.ARCHIVE_OLDER else _plan_for_redis
        recovery_plans.append(await make(redis, database, card, comparison))
    return recovery_plans


async def recover(redis: Redis, database: asyncpg.Connection, plan: RecoveryPlan) -> str:
    """Carries out a plan and returns the id of the new history.

    The archive is changed first. A process that is killed in between then leaves a fault that can be recovered again.

    Raises:
        StartError: another process began a history meanwhile.
        Unavailable: a server does not answer.
    """
    card, log_state = plan.card, plan.comparison.log_state
    new_id = history.new_id()
    given = max(plan.base, log_state.sequence)
    await writer.succeed_history(database, card, new_id, base=plan.base, given=given, cursor=plan.cursor)
    ended = log_state.history_id
    if plan.fault in RESTARTING_FAULTS:
        await _rename_keys(redis, card, f"lost:{(ended or new_id)[:8]}:")
        ended = ""
    if plan.fault is not Fault.ARCHIVE_OLDER:
        kept_to = 0 if plan.fault in RESTARTING_FAULTS else log_state.sequence
        await _restore(redis, database, plan, kept_to)
    current_id = await history.begin(redis, card, ended=ended, history_id=new_id, base=plan.base, trades=plan.trades)
    if current_id != new_id:
        raise StartError(f"another history of {card} was begun meanwhile: run `tcgx recover` again")
    return new_id


async def mark_histories(redis: Redis, database: asyncpg.Connection, cards: Sequence[str]) -> list[str]:
    """Gives a history to data of versions without histories. Returns the cards that got one.

    Data of the previous format is converted first.

    Raises:
        StartError: Redis and the archive have different data, or Redis has a format that cannot be read.
        Unavailable: a server does not answer.
    """
    await _convert(redis, database, cards)
    marked = []
    for card, comparison in (await compare(redis, database, cards)).items():
        log_state, archive_state = comparison.log_state, comparison.archive_state
        if comparison.verdict.fault is Fault.FORMAT:
            raise StartError(comparison.verdict.sentence)
        if comparison.verdict.fault is not Fault.UNMARKED:
            continue
        archived = archive_state.cursor
        if (
            archived is not None
            and log_state.event_log_id != archived.log_id
            and log_state.next_first != archived.sequence + 1
        ):
            raise StartError(
                f"the archive of {card} ends with event {archived.event_id} of log entry {archived.log_id}, which "
                "Redis does not have: TCGX_REDIS_URL or TCGX_DATABASE_URL names a server of another exchange, or an "
                "older copy"
            )
        history_id = log_state.history_id or archive_state.history_id or history.new_id()
        await writer.register(database, card, history_id, base=log_state.base, given=log_state.sequence)
        await writer.set_cursor_history(database, card, history_id)
        await history.begin(redis, card, ended="", history_id=history_id)
        marked.append(card)
    return marked


async def _convert(redis: Redis, database: asyncpg.Connection, cards: Sequence[str]) -> None:
    for card, comparison in (await compare(redis, database, cards)).items():
        log_state = comparison.log_state
        is_unmarked = not log_state.history_id and log_state.sequence > 0 and log_state.is_known_format
        if is_unmarked or (log_state.history_id and log_state.format in history.CONVERTED_FORMATS):
            log.info("the data in Redis is converted", card=card)
            await conversion.convert(redis, card)


def base_after(highest: int) -> int:
    """The base of a history that begins after a loss. `highest`: the highest sequence that is known."""
    return (highest + JUMP) // ROUNDED_TO * ROUNDED_TO


async def _plan_for_redis(
    redis: Redis, database: asyncpg.Connection, card: str, comparison: Comparison
) -> RecoveryPlan:
    """The plan for a log that lacks commands or has another history."""
    fault, log_state, archive_state = comparison.verdict.fault, comparison.log_state, comparison.archive_state
    assert fault is not None  # noqa: S101 - only cards with a fault get a plan
    kept_to = 0 if fault in RESTARTING_FAULTS else log_state.sequence
    highest = max(log_state.sequence, archive_state.last)
    base = base_after(highest)
    resting = await _resting(redis, card)
    by_sequence = {order.sequence: order for order in resting}
    filled = await queries.filled_quantities(database, card, 0)
    lost = [
        LostOrder(order_id=order_id(card, sequence), filled_quantity=quantity)
        for sequence, quantity in filled.items()
        if sequence not in by_sequence or fault in RESTARTING_FAULTS
    ]
    completed: set[int] = set()
    if fault in RESTARTING_FAULTS:
        lost += [
            LostOrder(order_id=order.order_id, filled_quantity=order.filled_quantity, order=order) for order in resting
        ]
    else:
        completed = await queries.completed_sequences(database, card, list(by_sequence))
    return RecoveryPlan(
        card=card,
        fault=fault,
        sentence=comparison.verdict.sentence,
        comparison=comparison,
        base=base,
        cursor=Cursor(f"{base}-0", f"0-{base}"),
        trades=await queries.trade_count(database, card),
        log_lacks=(kept_to + 1, archive_state.last) if archive_state.last > kept_to else None,
        archived_of_those=await queries.count_after(database, card, kept_to),
        archive_lacks=(1, log_state.sequence) if fault is Fault.OTHER and log_state.sequence else None,
        resting=len(resting),
        completed=sorted(completed),
        lost=lost,
    )


async def _plan_for_archive(
    redis: Redis, database: asyncpg.Connection, card: str, comparison: Comparison
) -> RecoveryPlan:
    """The plan for an archive that lacks events which Redis has trimmed."""
    log_state, archive_state = comparison.log_state, comparison.archive_state
    archived = archive_state.cursor.sequence if archive_state.cursor else archive_state.base
    continues_after = log_state.next_first - 1 if log_state.next_first else log_state.matched
    resting = await _resting(redis, card)
    return RecoveryPlan(
        card=card,
        fault=Fault.ARCHIVE_OLDER,
        sentence=comparison.verdict.sentence,
        comparison=comparison,
        base=log_state.sequence,
        cursor=Cursor(f"{continues_after}-0", f"0-{continues_after}"),
        trades=await queries.trade_count(database, card),
        archive_lacks=(archived + 1, continues_after),
        resting=len(resting),
    )


async def match_waiting(redis: Redis, card: str) -> None:
    """Matches waiting commands. This is safe, since the same log always gives the same books."""
    more = True
    while more:
        with redis_errors():
            reply: Any = await redis.fcall("match", 1, keys.tag(card), "1000")
        more = bool(reply[5])


async def archive_events(redis: Redis, database: asyncpg.Connection, card: str, history_id: str, *, after: str) -> None:
    """Archives the events of a card after an event id. No archiver may work meanwhile."""
    events = EventReader(redis, card, after=after, batch_bytes=ARCHIVE_BATCH_BYTES)
    while rows := await read_rows(events, wait=False):
        await writer.insert(database, [rows], {card: history_id})


async def _archive_rest(redis: Redis, database: asyncpg.Connection, card: str) -> Comparison:
    """Archives what is left of a log that has lost its end, as the new history begins above it.

    An archiver that holds the lock does this by itself.

    Raises:
        StartError: the archiver that holds the lock does not archive.
    """
    for _ in range(ARCHIVE_TRIES):
        comparison = (await compare(redis, database, [card]))[card]
        log_state, archive_state = comparison.log_state, comparison.archive_state
        cursor = start_cursor(log_state, archive_state)
        if 0 < log_state.next_first <= cursor.sequence:
            await _archive_again(redis, database, card, log_state)
            return (await compare(redis, database, [card]))[card]
        if not is_archivable(log_state, archive_state):
            return comparison
        if cursor.sequence >= log_state.matched:
            return comparison
        if await writer.lock_archiver(database):
            try:
                await archive_events(redis, database, card, log_state.history_id, after=cursor.event_id)
            finally:
                await writer.unlock_archiver(database)
        else:
            await asyncio.sleep(ARCHIVE_SECONDS / ARCHIVE_TRIES)
    raise StartError(
        f"commands of {card} are not archived yet, and the archiver that holds the lock does not archive them within "
        f"{ARCHIVE_SECONDS:.0f} s: look at its log"
    )


async def _archive_again(redis: Redis, database: asyncpg.Connection, card: str, log_state: LogState) -> None:
    """Archives events of which the first repeats archived commands. No archiver can: each stops at that gap."""
    before = f"{log_state.next_first - 1}-{SEQUENCE_MAX}"
    events = EventReader(redis, card, after=before, batch_bytes=ARCHIVE_BATCH_BYTES)
    while rows := await read_rows(events, wait=False):
        orders, trades = rows.orders.splitlines(keepends=True), rows.trades.splitlines(keepends=True)
        archived = await queries.completed_sequences(database, card, [_number(line) for line in orders])
        last_trade = await queries.trade_count(database, card)
        fresh = msgspec.structs.replace(
            rows,
            orders=b"".join(line for line in orders if _number(line) not in archived),
            trades=b"".join(line for line in trades if _number(line) > last_trade),
        )
        await writer.insert(database, [fresh], {card: log_state.history_id})


def _number(line: bytes) -> int:
    """The sequence or the trade number that a line begins with."""
    return int(line.partition(b",")[0])


async def _resting(redis: Redis, card: str) -> list[Order]:
    client: Any = redis
    orders = []
    with redis_errors():
        async for _, line in client.hscan_iter(keys.key(card, "open"), count=SCAN_COUNT):
            orders.append(codec.order(card, line.decode().split(",")))
    return sorted(orders, key=lambda order: order.sequence)


async def _rename_keys(redis: Redis, card: str, prefix: str) -> None:
    """Renames all keys of a card. Their data is kept for inspection."""
    client: Any = redis
    with redis_errors():
        names = [name async for name in client.scan_iter(match=f"{keys.tag(card)}:*", count=SCAN_COUNT)]
        for name in names:
            await client.rename(name, prefix.encode() + name)


async def _restore(redis: Redis, database: asyncpg.Connection, plan: RecoveryPlan, kept_to: int) -> None:
    """Restores the data that Redis has lost from the archive.

    Completed orders leave the book, and resting ones get their archived fills. Traders' lists, latest trades and
    client_order_ids get their lost entries. All changes are one transaction.
    """
    client: Any = redis
    card = plan.card
    archived = await queries.orders_after(database, card, kept_to, RESTORED_ORDERS_MAX)
    completed = await _completed(database, card, plan.completed)
    commands = client.pipeline(transaction=True)
    for order in completed:
        member = codec.sequence_text(order.sequence)
        commands.zrem(keys.key(card, "bids"), member)
        commands.zrem(keys.key(card, "asks"), member)
        commands.hdel(keys.key(card, "open"), member)
    if plan.fault not in RESTARTING_FAULTS:
        await _correct_fills(redis, database, plan, commands)
    _add_to_lists(commands, card, archived)
    trades = [codec.trade_line(trade) for trade in await Archive(database).trades(card, before=None, limit=LATEST)]
    if trades:
        commands.delete(keys.key(card, "trades"))
        commands.rpush(keys.key(card, "trades"), *trades)
    _remember_client_ids(commands, card, archived)
    with redis_errors():
        await commands.execute()


async def _completed(database: asyncpg.Connection, card: str, sequences: Sequence[int]) -> list[Order]:
    archive = Archive(database)
    orders = [await archive.order(card, sequence) for sequence in sequences]
    return [order for order in orders if order is not None]


async def _correct_fills(redis: Redis, database: asyncpg.Connection, plan: RecoveryPlan, commands: Any) -> None:
    """Adds the fills of archived trades to the open orders that stay in the book."""
    card, completed = plan.card, set(plan.completed)
    filled = await queries.filled_quantities(database, card, 0)
    for order in await _resting(redis, card):
        quantity = filled.get(order.sequence, 0) + order.carried_quantity
        if order.sequence in completed or quantity <= order.filled_quantity:
            continue
        open_line = codec.order_line(order).split(",")[:8]
        commands.hset(
            keys.key(card, "open"), codec.sequence_text(order.sequence), ",".join([*open_line, str(quantity)])
        )


def _add_to_lists(commands: Any, card: str, orders: Sequence[Order]) -> None:
    """Adds the latest orders of each trader to its list. `orders`: oldest first."""
    of_trader: dict[int, list[int]] = {}
    for order in orders:
        of_trader.setdefault(order.trader_id, []).append(order.sequence)
    for trader_id, sequences in of_trader.items():
        commands.rpush(keys.key(card, f"trader:{trader_id}"), *conversion.items(sequences[-LATEST:]))


def _remember_client_ids(commands: Any, card: str, orders: Sequence[Order]) -> None:
    """Restores client_order_ids, so that a repeated order is still recognized."""
    now = time.time()
    for order in orders:
        accepted = datetime.fromisoformat(order.accepted_at).timestamp()
        if not order.client_order_id or accepted < now - CLIENT_ORDER_ID_SECONDS:
            continue
        key = keys.key(card, f"client_ids:{int(accepted // SECONDS_A_DAY)}")
        commands.hset(key, f"{order.trader_id}:{order.client_order_id}", f"{order.sequence} {codec.order_terms(order)}")
        commands.expire(key, CLIENT_ORDER_ID_SECONDS)
