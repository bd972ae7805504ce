"""Read access to the state of cards in Redis: books, orders, trades, events and positions."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Any

import msgspec
import redis.exceptions
from redis.asyncio import Redis

from core.model import LATEST, Order, Trade
from engine import codec, keys, library
from engine.cluster import servers_of
from engine.connection import ENGINE_NAME, is_forbidden, redis_errors, refuse_replica
from engine.events import Event

EVENTS_PER_READ = 16
"""Bounds the reply of one read, since Redis copies it at once. An event of bulk load has about 100 KB."""

OPEN_ORDERS_PER_READ = 500
"""Orders per read. Match calls for other cards run between two reads."""

SEQUENCES_PER_READ_MIN, SEQUENCES_PER_READ_MAX = 1_000, 2_000
"""The first read returns at most `_MIN` sequences of orders that may be open, further reads `_MAX`."""

READS_MAX = 64
"""The largest number of concurrent reads; further reads wait. redis-py opens a connection for each, at most 100."""


class Depth(msgspec.Struct, frozen=True):
    """Price levels of a book, best first: (price_cents, quantity). `sequence` is the last matched command."""

    sequence: int
    bids: list[tuple[int, int]]
    asks: list[tuple[int, int]]


class ClientOrder(msgspec.Struct, frozen=True):
    """A command with a client_order_id: its sequence, and that of the order that it replaces, 0 for none."""

    sequence: int
    replaces: int


class LogPosition(msgspec.Struct, frozen=True):
    """The sequences of the last appended and the last matched command of a card."""

    appended: int
    matched: int


class BookReader:
    """Reads the state of cards in Redis.

    All methods raise `Unavailable` if Redis does not answer.
    """

    def __init__(self, redis: Redis) -> None:
        self._redis: Any = redis  # redis-py's types of stream replies admit shapes that its RESP2 never gives
        self._read_slots = asyncio.Semaphore(READS_MAX)

    @property
    def client(self) -> Redis:
        """The Redis client, for other readers (archiver/lag.py)."""
        client: Redis = self._redis
        return client

    async def order(self, card: str, sequence: int) -> Order | None:
        """An order that is accepted, open, or was recently completed soon after its acceptance; else None."""
        reply = await self._call("order", card, sequence)
        if reply is None:
            return None
        state, *values = [value.decode() for value in reply[1::2]]
        return codec.order(card, values, accepted=state == "accepted")

    async def latest(self, card: str, trader_id: int, limit: int = LATEST) -> tuple[list[Order], list[int]]:
        """A trader's latest orders on a card, newest first.

        The first list has the accepted and open orders, the second the sequences of the completed ones.
        """
        reply = await self._call("trader_orders", card, trader_id, limit, "all")
        orders = [codec.order(card, line.decode().split(",")) for line in reply if len(line) > codec.SEQUENCE_DIGITS]
        return orders, [int(line) for line in reply if len(line) == codec.SEQUENCE_DIGITS]

    async def accepted_orders(
        self, card: str, trader_id: int, *, before: int | None = None, limit: int = LATEST
    ) -> list[Order]:
        """A trader's orders on a card that are not matched yet, newest first. `before`: only lower sequences."""
        bound = [] if before is None else [before]
        reply = await self._call("trader_orders", card, trader_id, limit, "accepted", *bound)
        return [codec.order(card, line.decode().split(",")) for line in reply]

    async def open_orders(self, card: str, trader_id: int, limit: int) -> tuple[int, list[Order]]:
        """The last matched command of a card, and a trader's newest `limit` orders that rest then, newest first."""
        call = ("FCALL_RO", "trader_orders", 1, keys.tag(card), trader_id, limit, "open")
        async with self._read_slot(), self._redis.pipeline(transaction=True) as transaction:
            transaction.hget(keys.key(card, "cursor"), "sequence")
            transaction.execute_command(*call)
            sequence, lines = await transaction.execute()
        return int(sequence or 0), [codec.order(card, line.decode().split(",")) for line in lines]

    async def history_id(self, card: str) -> str:
        """The history that the data of a card belong to; empty if it has none yet."""
        async with self._read_slot():
            return (await self._redis.hget(keys.key(card, "history"), "id") or b"").decode()

    async def open_lines(
        self, card: str, trader_id: int, *, before: int | None = None, page_size: int = OPEN_ORDERS_PER_READ
    ) -> AsyncGenerator[list[bytes], None]:
        """Pages of the lines of a trader's resting orders on a card, newest first, at most `page_size` lines each.

        `before`: only orders with a lower sequence. An order that is placed or completed meanwhile may be missing.
        """
        limit = SEQUENCES_PER_READ_MIN
        while True:
            bound = [] if before is None else [before]
            sequences: list[bytes] = await self._call("trader_orders", card, trader_id, limit, "unfinished", *bound)
            for start in range(0, len(sequences), page_size):
                yield await self._open_lines_of(card, sequences[start : start + page_size])
            if len(sequences) < limit:
                return
            before, limit = int(sequences[-1]), SEQUENCES_PER_READ_MAX

    async def _open_lines_of(self, card: str, sequences: Sequence[bytes]) -> list[bytes]:
        async with self._read_slot():
            lines = await self._redis.hmget(keys.key(card, "open"), sequences)
        return [line for line in lines if line]

    async def sequence_at(self, card: str, at: str) -> int | None:
        """The last sequence that was accepted at or before a time. None if all remaining log entries are later.

        `at` is an RFC 3339 text.
        """
        milliseconds = int(datetime.fromisoformat(at).timestamp() * 1_000 + 0.5)
        async with self._read_slot():
            entries = await self._redis.xrevrange(keys.key(card, "orders"), max=milliseconds, count=1)
        if not entries:
            return None
        entry_id, fields = entries[0]
        if fields.get(b"entry") != entry_id:  # not written by append, so it has no sequence
            return None
        return int(entry_id.partition(b"-")[2]) + len(fields[b"kinds"]) - 1

    async def client_order(self, card: str, trader_id: int, client_order_id: str) -> ClientOrder | None:
        """The command that the trader appended with this client_order_id; None once it is forgotten."""
        reply = await self._call("client_order", card, f"{trader_id}:{client_order_id}")
        return None if reply is None else ClientOrder(*reply)

    async def resting(self, card: str, sequences: Sequence[int]) -> list[Order]:
        """Those of the orders with these sequences that rest in the book of a card, in one read."""
        lines = await self._open_lines_of(card, [codec.sequence_text(sequence).encode() for sequence in sequences])
        return [codec.order(card, line.decode().split(",")) for line in lines]

    async def depth(self, card: str, levels: int) -> Depth:
        """The best price levels of both sides."""
        sequence, bids, asks = await self._call("depth", card, levels)
        return Depth(
            sequence,
            list(zip(bids[::2], bids[1::2], strict=True)),
            list(zip(asks[::2], asks[1::2], strict=True)),
        )

    async def watch(self, card: str, levels: int, *, milliseconds: int, orders: bool) -> Depth:
        """Makes match write changed levels into its events for this time, and with `orders` also resting orders.

        Returns the best `levels` of both sides, from which the events after its sequence go on.
        """
        sequence, bids, asks = await self._call("watch", card, levels, milliseconds, int(orders))
        return Depth(
            sequence,
            list(zip(bids[::2], bids[1::2], strict=True)),
            list(zip(asks[::2], asks[1::2], strict=True)),
        )

    async def latest_trades(self, card: str, limit: int = LATEST) -> list[Trade]:
        """A card's latest trades, newest first."""
        async with self._read_slot():
            lines = await self._redis.lrange(keys.key(card, "trades"), 0, limit - 1)
        return [codec.trade(card, line.decode()) for line in lines]

    async def events_of(self, card: str, first: int, last: int) -> list[Event] | None:
        """The events of the commands `first` to `last`. None if one has been trimmed; the archive then has it."""
        covering: list[Event] = []
        after = first - 1
        while after < last:
            async with self._read_slot():
                entries = await self._redis.xrange(
                    keys.key(card, "events"), min=f"{after + 1}-0", count=EVENTS_PER_READ
                )
            events = [Event.of(card, entry) for entry in entries]
            if not events or events[0].first > after + 1:
                return None
            covering += [event for event in events if event.first <= last]
            after = events[-1].last
        return covering

    async def events(self, card: str, *, after: int) -> AsyncGenerator[Event, None]:
        """The events after a sequence that Redis still has, newest first."""
        newest = "+"
        while True:
            async with self._read_slot():
                entries = await self._redis.xrevrange(
                    keys.key(card, "events"), max=newest, min=f"{after + 1}-0", count=EVENTS_PER_READ
                )
            events = [Event.of(card, entry) for entry in entries]
            for event in events:
                yield event
            if len(events) < EVENTS_PER_READ:
                return
            newest = f"({events[-1].id}"

    async def events_after(self, card: str, after: int) -> AsyncGenerator[list[Event], None]:
        """Pages of the events after a sequence that Redis still has, oldest first."""
        while True:
            async with self._read_slot():
                entries = await self._redis.xrange(
                    keys.key(card, "events"), min=f"{after + 1}-0", count=EVENTS_PER_READ
                )
            events = [Event.of(card, entry) for entry in entries]
            if events:
                yield events
            if len(events) < EVENTS_PER_READ:
                return
            after = events[-1].last

    async def completed_orders(self, card: str, sequences: Iterable[int], *, archived: int) -> list[Order]:
        """Those of these orders that events after the archived sequence completed, from these events."""
        wanted = {codec.sequence_text(sequence).encode(): sequence for sequence in sequences}
        completed: list[Order] = []
        if not wanted:
            return completed
        async for event in self.events(card, after=max(archived, min(wanted.values()) - 1)):
            for line in event.order_lines.splitlines():
                if wanted.pop(line[: codec.SEQUENCE_DIGITS], None):
                    completed.append(codec.order(card, line.decode().split(",")))
            if not wanted:
                break
        return completed

    async def position(self, card: str) -> LogPosition:
        """The last appended and the last matched sequence."""
        async with self._read_slot():
            appended = await self._redis.get(keys.key(card, "sequence"))
            matched = await self._redis.hget(keys.key(card, "cursor"), "sequence")
        return LogPosition(int(appended or 0), int(matched or 0))

    async def state_hash(self, card: str) -> str:
        """A hash of the book, the open orders and the cursor of a card."""
        reply = await self._call("state_hash", card)
        return str(reply.decode())

    async def answers(self) -> bool:
        """True if orders can be written.

        Raises:
            Unavailable: Redis does not answer, is a replica, or its disk is full.
        """
        async with self._read_slot():
            for server in await servers_of(self._redis):
                await refuse_replica(server)
                await server.ping()
            return True

    async def has_functions(self) -> bool:
        """Whether the server has the Lua library of this version."""
        async with self._read_slot():
            return await library.is_loaded(self._redis)

    async def has_engine(self) -> bool:
        """Whether an engine is connected. Also true if the server forbids `CLIENT LIST`."""
        async with self._read_slot():
            try:
                clients = [each for server in await servers_of(self._redis) for each in await server.client_list()]
            except redis.exceptions.ResponseError as error:
                if is_forbidden(error):
                    return True
                raise
        return any(client.get("name") == ENGINE_NAME for client in clients)

    @asynccontextmanager
    async def _read_slot(self) -> AsyncIterator[None]:
        async with self._read_slots:
            with redis_errors():
                yield

    async def _call(self, function: str, card: str, *arguments: str | int) -> Any:
        async with self._read_slot():
            return await library.call(self._redis, function, keys.tag(card), *arguments)
