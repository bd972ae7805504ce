"""The way out where a card's log and archive do not belong together: another history, above everything given out.

What is done about each fault:

| fault | Redis | the archive |
|---|---|---|
| empty | begins anew, above all that was given out | goes on above it |
| older | keeps its books, less what the archive knows to be completed, and jumps | goes on above it |
| other, diverged | its keys are set aside (`lost:…`), and it begins anew | goes on above it |
| archive_older | goes on | lacks what was trimmed in between, and goes on after it |

An order that rested in what was lost cannot be brought back; those that are known are listed.
"""

import time
from collections.abc import Sequence
from datetime import datetime
from typing import Any

import asyncpg
import msgspec
import structlog
from redis.asyncio import Redis

from archiver import conversion, queries, writer
from archiver.history import JUMP, Comparison, Fault, compare
from archiver.queries import Archive, Cursor
from core.errors import StartError
from core.model import CLIENT_ORDER_ID_SECONDS, LATEST, Order, order_id
from engine import codec, history, keys
from engine.connection import redis_errors

log = structlog.get_logger()

ROUNDED_TO = 1_000_000
"""Histories that follow a loss begin at a multiple of this, so that people see it in an order id."""

BROUGHT_BACK_MAX = 20_000
"""So many archived orders of a card go back into traders' lists."""

SCAN_COUNT = 1_000
SECONDS_A_DAY = 86_400
REBEGUN = (Fault.EMPTY, Fault.OTHER, Fault.DIVERGED)
CURABLE = (*REBEGUN, Fault.OLDER, Fault.ARCHIVE_OLDER)


class Lost(msgspec.Struct, frozen=True, kw_only=True):
    """An order that rested and is gone: what is known of it. Without its line only what its trades say."""

    order_id: str
    filled_quantity: int
    order: Order | None = None


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """What recovering a card means: which commands either side lacks, and which orders are lost with that."""

    card: str
    fault: Fault
    sentence: str
    compared: Comparison
    base: int
    cursor: Cursor
    trades: int
    log_lacks: tuple[int, int] | None = None
    archived_of_those: int = 0
    archive_lacks: tuple[int, int] | None = None
    resting: int = 0
    completed: Sequence[int] = ()
    lost: Sequence[Lost] = ()


async def plans(redis: Redis, database: asyncpg.Connection, cards: Sequence[str]) -> list[Plan]:
    """What there is to do; nothing is changed but that commands which wait are matched.

    Raises:
        StartError: a fault that this is no way out of.
        Unavailable: a server does not answer.
    """
    made = []
    for card, compared in (await compare(redis, database, cards)).items():
        fault = compared.verdict.fault
        if fault is None:
            continue
        if fault not in CURABLE:
            raise StartError(compared.verdict.sentence)
        if fault is Fault.OLDER:
            await _match(redis, card)
        make = _plan_for_archive if fault is Fault.ARCHIVE_OLDER else _plan_for_redis
        made.append(await make(redis, database, card, compared))
    return made


async def recover(redis: Redis, database: asyncpg.Connection, plan: Plan) -> str:
    """Does it: the archive first, so that a process which is killed in between leaves a fault that can be recovered
    again. The id of the history that begins."""
    card, found = plan.card, plan.compared.found
    new_id = history.new_id()
    given = max(plan.base, found.sequence)
    await writer.follow(database, card, new_id, base=plan.base, given=given, cursor=plan.cursor)
    ended = found.history_id
    if plan.fault in REBEGUN:
        await _set_aside(redis, card, f"lost:{(ended or new_id)[:8]}:")
        ended = ""
    if plan.fault is not Fault.ARCHIVE_OLDER:
        kept_to = 0 if plan.fault in REBEGUN else found.sequence
        await _bring_back(redis, database, plan, kept_to)
    begun = await history.begin(redis, card, ended=ended, history_id=new_id, base=plan.base, trades=plan.trades)
    if begun != new_id:
        raise StartError(f"another history of {card} was begun meanwhile: run `tcgx recover` again")
    return new_id


async def mark_histories(redis: Redis, database: asyncpg.Connection, cards: Sequence[str]) -> list[str]:
    """Gives a history to data from before there were any. The cards that have one since. Data of the format of before
    is converted first.

    Raises:
        StartError: Redis and the archive do not belong together, or Redis has a format that cannot be read.
    """
    await _convert(redis, database, cards)
    marked = []
    for card, compared in (await compare(redis, database, cards)).items():
        found, registered = compared.found, compared.registered
        if compared.verdict.fault is Fault.FORMAT:
            raise StartError(compared.verdict.sentence)
        if compared.verdict.fault is not Fault.UNMARKED:
            continue
        archived = registered.cursor
        if archived is not None and found.event_log_id != archived.log_id and found.next_first != archived.sequence + 1:
            raise StartError(
                f"the archive of {card} ends with event {archived.event_id} of log entry {archived.log_id}, which "
                "Redis does not have: TCGX_REDIS_URL or TCGX_DATABASE_URL names a server of another exchange, or an "
                "older copy"
            )
        history_id = found.history_id or registered.history_id or history.new_id()
        await writer.register(database, card, history_id, base=found.base, given=found.sequence)
        await writer.name_cursor(database, card, history_id)
        await history.begin(redis, card, ended="", history_id=history_id)
        marked.append(card)
    return marked


async def _convert(redis: Redis, database: asyncpg.Connection, cards: Sequence[str]) -> None:
    for card, compared in (await compare(redis, database, cards)).items():
        found = compared.found
        is_unmarked = not found.history_id and found.sequence > 0 and found.is_known_format
        if is_unmarked or (found.history_id and found.format == history.CONVERTED_FORMAT):
            log.info("the data in Redis is converted", card=card)
            await conversion.convert(redis, card)


async def _plan_for_redis(redis: Redis, database: asyncpg.Connection, card: str, compared: Comparison) -> Plan:
    """Redis lacks commands, or has those of another history."""
    fault, found, registered = compared.verdict.fault, compared.found, compared.registered
    assert fault is not None  # noqa: S101 - there is no plan without one
    kept_to = 0 if fault in REBEGUN else found.sequence
    highest = max(found.sequence, registered.last)
    base = (highest + JUMP) // ROUNDED_TO * ROUNDED_TO
    resting = await _resting(redis, card)
    by_sequence = {order.sequence: order for order in resting}
    filled = await queries.filled_quantities(database, card, 0)
    lost = [
        Lost(order_id=order_id(card, sequence), filled_quantity=quantity)
        for sequence, quantity in filled.items()
        if sequence not in by_sequence or fault in REBEGUN
    ]
    completed: set[int] = set()
    if fault in REBEGUN:
        lost += [Lost(order_id=order.order_id, filled_quantity=order.filled_quantity, order=order) for order in resting]
    else:
        completed = await queries.completed_among(database, card, list(by_sequence))
    return Plan(
        card=card,
        fault=fault,
        sentence=compared.verdict.sentence,
        compared=compared,
        base=base,
        cursor=Cursor(f"{base}-0", f"0-{base}"),
        trades=await queries.trade_count(database, card),
        log_lacks=(kept_to + 1, registered.last) if registered.last > kept_to else None,
        archived_of_those=await queries.count_after(database, card, kept_to),
        archive_lacks=(1, found.sequence) if fault is Fault.OTHER and found.sequence else None,
        resting=len(resting),
        completed=sorted(completed),
        lost=lost,
    )


async def _plan_for_archive(redis: Redis, database: asyncpg.Connection, card: str, compared: Comparison) -> Plan:
    """The archive lacks events that Redis no longer has."""
    found, registered = compared.found, compared.registered
    archived = registered.cursor.sequence if registered.cursor else registered.base
    goes_on_after = found.next_first - 1 if found.next_first else found.matched
    resting = await _resting(redis, card)
    return Plan(
        card=card,
        fault=Fault.ARCHIVE_OLDER,
        sentence=compared.verdict.sentence,
        compared=compared,
        base=found.sequence,
        cursor=Cursor(f"{goes_on_after}-0", f"0-{goes_on_after}"),
        trades=await queries.trade_count(database, card),
        archive_lacks=(archived + 1, goes_on_after),
        resting=len(resting),
    )


async def _match(redis: Redis, card: str) -> None:
    """Matches what waits: the same log gives the same books, so nothing is made that was not there before."""
    more = True
    while more:
        with redis_errors():
            reply: Any = await redis.fcall("match", 1, keys.tag(card), "1000")
        more = bool(reply[5])


async def _resting(redis: Redis, card: str) -> list[Order]:
    client: Any = redis
    orders = []
    with redis_errors():
        async for _, line in client.hscan_iter(keys.key(card, "open"), count=SCAN_COUNT):
            orders.append(codec.order(card, line.decode().split(",")))
    return sorted(orders, key=lambda order: order.sequence)


async def _set_aside(redis: Redis, card: str, prefix: str) -> None:
    """Renames all keys of a card: nothing is deleted that a person may want to look at."""
    client: Any = redis
    with redis_errors():
        names = [name async for name in client.scan_iter(match=f"{keys.tag(card)}:*", count=SCAN_COUNT)]
        for name in names:
            await client.rename(name, prefix.encode() + name)


async def _bring_back(redis: Redis, database: asyncpg.Connection, plan: Plan, kept_to: int) -> None:
    """Corrects the books by what the archive knows, and gives traders' lists, latest trades and client_order_ids back
    what Redis has lost."""
    client: Any = redis
    card = plan.card
    archived = await queries.orders_after(database, card, kept_to, BROUGHT_BACK_MAX)
    completed = await _completed(database, card, plan.completed)
    commands = client.pipeline(transaction=True)
    for order in completed:
        member = codec.sequence_text(order.sequence)
        commands.zrem(keys.key(card, "bids"), member)
        commands.zrem(keys.key(card, "asks"), member)
        commands.hdel(keys.key(card, "open"), member)
    if plan.fault not in REBEGUN:
        await _correct_fills(redis, database, plan, commands)
    _list(commands, card, archived)
    trades = [codec.trade_line(trade) for trade in await Archive(database).trades(card, before=None, limit=LATEST)]
    if trades:
        commands.delete(keys.key(card, "trades"))
        commands.rpush(keys.key(card, "trades"), *trades)
    _remember_client_ids(commands, card, archived)
    with redis_errors():
        await commands.execute()


async def _completed(database: asyncpg.Connection, card: str, sequences: Sequence[int]) -> list[Order]:
    archive = Archive(database)
    found = [await archive.order(card, sequence) for sequence in sequences]
    return [order for order in found if order is not None]


async def _correct_fills(redis: Redis, database: asyncpg.Connection, plan: Plan, commands: Any) -> None:
    """Orders that stay have been filled further by trades that only the archive knows."""
    card, gone = plan.card, set(plan.completed)
    filled = await queries.filled_quantities(database, card, 0)
    for order in await _resting(redis, card):
        quantity = filled.get(order.sequence, 0)
        if order.sequence in gone or quantity <= order.filled_quantity:
            continue
        open_line = codec.order_line(order).split(",")[:8]
        commands.hset(
            keys.key(card, "open"), codec.sequence_text(order.sequence), ",".join([*open_line, str(quantity)])
        )


def _list(commands: Any, card: str, orders: Sequence[Order]) -> None:
    """Adds orders, oldest first, to the lists of their traders: the latest of each."""
    of_trader: dict[int, list[int]] = {}
    for order in orders:
        of_trader.setdefault(order.trader_id, []).append(order.sequence)
    for trader_id, sequences in of_trader.items():
        commands.rpush(keys.key(card, f"trader:{trader_id}"), *conversion.items(sequences[-LATEST:]))


def _remember_client_ids(commands: Any, card: str, orders: Sequence[Order]) -> None:
    """So that a repeated client_order_id gives the first order back, as before."""
    now = time.time()
    for order in orders:
        accepted = datetime.fromisoformat(order.accepted_at).timestamp()
        if not order.client_order_id or accepted < now - CLIENT_ORDER_ID_SECONDS:
            continue
        key = keys.key(card, f"client_ids:{int(accepted // SECONDS_A_DAY)}")
        commands.hset(key, f"{order.trader_id}:{order.client_order_id}", f"{order.sequence} {codec.order_terms(order)}")
        commands.expire(key, CLIENT_ORDER_ID_SECONDS)
