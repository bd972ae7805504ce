"""The ledger of a long run: nothing that was acknowledged is lost, and nothing is there that was not sent.

A witness copies the logs to files while Redis trims them. At the end acknowledgements, logs and archive are compared,
and an empty server replays the copy to the same state.
"""

import asyncio
from array import array
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import msgspec
from redis.asyncio import Redis

from archiver import postgres
from bench.progress import Task
from cli.replay import Entry, ExpectedState, Line, replay
from core.model import CancelOrder, PlaceOrder
from core.settings import Settings
from engine import codec, connection, keys, library
from engine.book_reader import BookReader
from testing.servers import throwaway_redis
from testing.waiting import until_async

ENTRIES_A_READ = 1_000
LOOK_SECONDS = 0.5
QUERY_SECONDS = 600
ARCHIVED_SECONDS = 300.0
TOLD_MAX = 5


class Ledger(msgspec.Struct, frozen=True):
    """What clients were acknowledged, by card: sequences of orders, and of orders whose cancel was accepted.

    `unanswered` is how many commands may be in the log though nobody was told.
    """

    ordered: Mapping[str, Sequence[int]]
    canceled: Mapping[str, Sequence[int]]
    unanswered: int


class Account(msgspec.Struct, frozen=True):
    """What was found: commands in the logs, orders acknowledged, in the log and in the archive, and all faults."""

    commands: int
    acknowledged: int
    logged: int
    completed: int
    resting: int
    trades: int
    replay_same: bool
    faults: list[str]


class Witness:
    """Copies of the logs, one file a card."""

    def __init__(self, redis: Redis, cards: Sequence[str], folder: Path) -> None:
        self._redis: Any = redis
        self.cards = cards
        self._paths = {card: folder / f"log-{card}" for card in cards}
        self._after = dict.fromkeys(cards, "-")

    async def run(self) -> None:
        """Copies what comes, until it is canceled. The retention of the log must be longer than a pause."""
        while True:
            await self.read()
            await asyncio.sleep(LOOK_SECONDS)

    async def read(self) -> None:
        """Copies what there is."""
        for card in self.cards:
            with self._paths[card].open("ab") as file:
                while await self._read_some(card, file):
                    pass

    async def _read_some(self, card: str, file: BinaryIO) -> bool:
        entries = await self._redis.xrange(keys.key(card, "orders"), min=self._after[card], count=ENTRIES_A_READ)
        for entry_id, fields in entries:
            texts = [text.decode() for pair in fields.items() for text in pair]
            file.write(msgspec.json.encode(Entry(card, entry_id.decode(), texts)) + b"\n")
        if entries:
            self._after[card] = f"({entries[-1][0].decode()}"
        return len(entries) == ENTRIES_A_READ

    def entries(self, card: str) -> Iterator[Entry]:
        """The copy of a card's log."""
        decoder = msgspec.json.Decoder(Entry)
        with self._paths[card].open("rb") as file:
            for line in file:
                yield decoder.decode(line)

    async def lines(self) -> AsyncIterator[Line]:
        """The copy, and the state of each card as it is now, as `tcgx replay` takes them."""
        for card in self.cards:
            for entry in self.entries(card):
                yield entry
            log_id, sequence = await self._redis.hmget(keys.key(card, "cursor"), "log_id", "sequence")
            state_hash = await BookReader(self._redis).state_hash(card)
            yield ExpectedState(card, state_hash, (log_id or b"0-0").decode(), int(sequence or 0))


async def settled(redis: Redis, local: Settings) -> None:
    """Returns when everything that was appended is matched and archived. Nothing may be appended meanwhile.

    Raises:
        NotInTime: it takes longer than `ARCHIVED_SECONDS`.
    """
    client: Any = redis
    sequences = {card: int(await client.get(keys.key(card, "sequence")) or 0) for card in local.cards}
    opened = await postgres.connect(local.database_url)

    async def is_archived() -> bool:
        rows = {row["card"]: row["sequence"] for row in await opened.fetch("SELECT card, sequence FROM archive_cursor")}
        return all(rows.get(card, 0) >= sequence for card, sequence in sequences.items())

    try:
        await until_async(is_archived, "the archive stays behind", seconds=ARCHIVED_SECONDS, poll=LOOK_SECONDS)
    finally:
        await opened.close()


async def account(witness: Witness, local: Settings, ledger: Ledger, task: Task) -> Account:
    """Compares acknowledgements, logs, archive, books and a replay. Everything must be archived."""
    faults: list[str] = []
    commands = logged = completed = resting = 0
    async with connection.connect(local.redis_url) as redis:
        client: Any = redis
        for card in local.cards:
            sequence = int(await client.get(keys.key(card, "sequence")) or 0)
            orders, targets, found = await asyncio.to_thread(_logged, witness.entries(card), card, sequence)
            ended, open_orders = await _archived(local.database_url, card), await client.hkeys(keys.key(card, "open"))
            faults += found
            faults += _acknowledged(card, orders, targets, ledger)
            faults += _kept(card, orders, ended, {int(name) for name in open_orders})
            commands, logged = commands + sequence, logged + len(orders)
            completed, resting = completed + len(ended), resting + len(open_orders)
            task.advance(sequence)
    acknowledged = sum(len(sequences) for sequences in ledger.ordered.values())
    if not acknowledged <= logged <= acknowledged + ledger.unanswered:
        faults.append(
            f"the logs have {logged:,} orders, {acknowledged:,} were acknowledged, {ledger.unanswered:,} not answered"
        )
    local_empty = msgspec.structs.replace(local, durability="everysec", redis_core="any")
    async with throwaway_redis(local_empty) as server, connection.connect(server.socket_url) as empty:
        await library.load(empty)
        outcome = await replay(witness.lines(), empty, batch=local.match_batch)
    differing = [card for card, expected, found_hash in outcome if expected != found_hash]
    faults += [f"a replay of {card} leads to another state" for card in differing]
    return Account(
        commands=commands,
        acknowledged=acknowledged,
        logged=logged,
        completed=completed,
        resting=resting,
        trades=await _trades(local.database_url),
        replay_same=not differing,
        faults=faults,
    )


def _logged(entries: Iterator[Entry], card: str, sequence: int) -> tuple[set[int], set[int], list[str]]:
    """The sequences of a log's orders, the orders that cancels name, and gaps."""
    orders, targets, faults = set[int](), set[int](), list[str]()
    following = 1
    for entry in entries:
        first = int(entry.id.partition("-")[2])
        if first != following:
            faults.append(f"{card}: command {following - 1} is followed by {first}")
        fields = dict(zip(entry.fields[::2], entry.fields[1::2], strict=True))
        encoded = {name.encode(): value.encode() for name, value in fields.items()}
        following = first
        for command in codec.decode(card, encoded):
            if isinstance(command, PlaceOrder):
                orders.add(following)
            elif isinstance(command, CancelOrder):
                targets.add(command.sequence)
            following += 1
    if following != sequence + 1:
        faults.append(f"{card}: the log ends with {following - 1}, and {sequence} was given out")
    return orders, targets, faults


def _acknowledged(card: str, orders: set[int], targets: set[int], ledger: Ledger) -> Iterator[str]:
    acknowledged, canceled = ledger.ordered.get(card, ()), ledger.canceled.get(card, ())
    distinct = {*acknowledged}
    yield from _some(distinct - orders, f"acknowledged orders of {card} are not in its log")
    yield from _some({*canceled} - targets, f"acknowledged cancels of {card} are not in its log")
    if len(distinct) < len(acknowledged):
        yield f"{len(acknowledged) - len(distinct):,} orders of {card} were given the id of another one"


def _kept(card: str, orders: set[int], ended: Sequence[int], resting: set[int]) -> Iterator[str]:
    """Every order of the log rests or is archived, not both, and not twice."""
    archived = {*ended}
    if len(archived) < len(ended):
        yield f"{len(ended) - len(archived):,} orders of {card} are archived twice"
    yield from _some(orders - archived - resting, f"orders of {card} neither rest nor are archived")
    yield from _some(archived & resting, f"orders of {card} rest and are archived")
    yield from _some((archived | resting) - orders, f"orders of {card} were never in its log")


def _some(sequences: set[int], what: str) -> Iterator[str]:
    if sequences:
        yield f"{len(sequences):,} {what}: {sorted(sequences)[:TOLD_MAX]}"


async def _archived(database_url: str, card: str) -> Sequence[int]:
    found = bytearray()

    async def take(data: bytes) -> None:
        found.extend(data)

    opened = await postgres.connect(database_url)
    try:
        query = "SELECT sequence FROM orders WHERE card = $1"
        await opened.copy_from_query(query, card, output=take, timeout=QUERY_SECONDS)
    finally:
        await opened.close()
    return array("q", map(int, found.split()))


async def _trades(database_url: str) -> int:
    opened = await postgres.connect(database_url)
    try:
        return int(await opened.fetchval("SELECT count(*) FROM trades", timeout=QUERY_SECONDS))
    finally:
        await opened.close()
