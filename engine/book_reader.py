"""Reading what matching has made: books, orders, trades, positions. Nothing here writes."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Any

import msgspec
import redis.exceptions
from redis.asyncio import Redis

from core.model import LATEST, SEQUENCE_MAX, Order, Trade
from engine import codec, keys, library
from engine.connection import ENGINE_NAME, is_forbidden, redis_errors, refuse_replica

EVENTS_A_READ = 16
"""An event is some 100 KB at the most in the bulk; Redis copies all of a read at once."""

OPEN_A_READ = 500
"""Orders of a read; another card's orders are matched between two reads."""

UNFINISHED_FIRST = 1_000
"""How many sequences of orders that may be open are read at first; the rest, however many, at once."""

READS_MAX = 64
"""How many reads are under way at once; more wait for their turn. redis-py opens a connection for each, and refuses
the 101st."""


class Depth(msgspec.Struct, frozen=True):
    """Price levels of a book, best first: (price_cents, quantity). `sequence` is the last matched command."""

    sequence: int
    bids: list[tuple[int, int]]
    asks: list[tuple[int, int]]


class Position(msgspec.Struct, frozen=True):
    """How far a card is: the last command of the log, and the last one matched."""

    appended: int
    matched: int


class BookReader:
    """The cards' state in Redis."""

    def __init__(self, redis: Redis) -> None:
        self._redis: Any = redis  # redis-py's types of stream replies admit shapes that its RESP2 never gives
        self._turns = asyncio.Semaphore(READS_MAX)

    @property
    def client(self) -> Redis:
        """The connections, for what is read beside this (archiver/lag.py)."""
        client: Redis = self._redis
        return client

    async def order(self, card: str, sequence: int) -> Order | None:
        """An order that is accepted, open, or was completed soon after it was accepted, and lately; else None."""
        reply = await self._read("order", card, sequence)
        if reply is None:
            return None
        state, *values = [value.decode() for value in reply[1::2]]
        return codec.order(card, values, accepted=state == "accepted")

    async def latest(self, card: str, trader_id: int, limit: int = LATEST) -> tuple[list[Order], list[int]]:
        """A trader's latest orders on a card: those that are accepted or open, and the sequences of the completed ones;
        newest first."""
        reply = await self._read("trader_orders", card, trader_id, limit, "all")
        orders = [codec.order(card, line.decode().split(",")) for line in reply if len(line) > codec.SEQUENCE_DIGITS]
        return orders, [int(line) for line in reply if len(line) == codec.SEQUENCE_DIGITS]

    async def accepted_orders(
        self, card: str, trader_id: int, *, before: int | None = None, limit: int = LATEST
    ) -> list[Order]:
        """A trader's orders on a card that are not matched yet, newest first; those below a sequence, if given."""
        bound = [] if before is None else [before]
        reply = await self._read("trader_orders", card, trader_id, limit, "accepted", *bound)
        return [codec.order(card, line.decode().split(",")) for line in reply]

    async def open_lines(
        self, card: str, trader_id: int, *, before: int | None = None, at_once: int = OPEN_A_READ
    ) -> AsyncGenerator[list[bytes], None]:
        """The lines of a trader's orders that rest in the book of a card, newest first, so many (or fewer) at a time.

        `before`: only orders with a lower sequence. An order that is placed or completed meanwhile may be missing.
        """
        limit = UNFINISHED_FIRST
        while True:
            bound = [] if before is None else [before]
            found: list[bytes] = await self._read("trader_orders", card, trader_id, limit, "unfinished", *bound)
            for start in range(0, len(found), at_once):
                yield await self._open(card, found[start : start + at_once])
            if len(found) < limit:
                return
            before, limit = int(found[-1]), SEQUENCE_MAX

    async def _open(self, card: str, sequences: Sequence[bytes]) -> list[bytes]:
        async with self._turn():
            lines = await self._redis.hmget(keys.key(card, "open"), sequences)
        return [line for line in lines if line]

    async def sequence_at(self, card: str, at: str) -> int | None:
        """The last sequence that was accepted at a time or before it, as far as the log remembers; None where all that
        the log still has is later."""
        milliseconds = int(datetime.fromisoformat(at).timestamp() * 1_000 + 0.5)
        async with self._turn():
            entries = await self._redis.xrevrange(keys.key(card, "orders"), max=milliseconds, count=1)
        if not entries:
            return None
        entry_id, fields = entries[0]
        if fields.get(b"entry") != entry_id:  # made by hand: it has no sequence
            return None
        return int(entry_id.partition(b"-")[2]) + len(fields[b"kinds"]) - 1

    async def client_order(self, card: str, trader_id: int, client_order_id: str) -> int | None:
        """The sequence of the order that the trader entered under its own id in the last 24 hours."""
        reply = await self._read("client_order", card, f"{trader_id}:{client_order_id}")
        return None if reply is None else int(reply)

    async def depth(self, card: str, levels: int) -> Depth:
        """The best price levels of both sides."""
        sequence, bids, asks = await self._read("depth", card, levels)
        return Depth(
            sequence,
            list(zip(bids[::2], bids[1::2], strict=True)),
            list(zip(asks[::2], asks[1::2], strict=True)),
        )

    async def latest_trades(self, card: str, limit: int = LATEST) -> list[Trade]:
        """A card's latest trades, newest first."""
        async with self._turn():
            lines = await self._redis.lrange(keys.key(card, "trades"), 0, limit - 1)
        return [codec.trade(card, line.decode()) for line in lines]

    async def events_of(self, card: str, first: int, last: int) -> list[Mapping[bytes, bytes]] | None:
        """The events of the match calls that took these commands; None if one is gone (then the archive has what it
        tells)."""
        found: list[Mapping[bytes, bytes]] = []
        after = first - 1
        while after < last:
            async with self._turn():
                entries = await self._redis.xrange(keys.key(card, "events"), min=f"{after + 1}-0", count=EVENTS_A_READ)
            if not entries or int(entries[0][1][b"first"]) > after + 1:
                return None
            found += [fields for _, fields in entries if int(fields[b"first"]) <= last]
            after = int(entries[-1][0].partition(b"-")[0])
        return found

    async def events(self, card: str, *, after: int) -> AsyncGenerator[Mapping[bytes, bytes], None]:
        """The events with commands after a sequence, as far as Redis has them, the newest first, a few a read."""
        newest = "+"
        while True:
            async with self._turn():
                entries = await self._redis.xrevrange(
                    keys.key(card, "events"), max=newest, min=f"{after + 1}-0", count=EVENTS_A_READ
                )
            for _, fields in entries:
                yield fields
            if len(entries) < EVENTS_A_READ:
                return
            newest = f"({entries[-1][0].decode()}"

    async def completed_orders(self, card: str, sequences: Iterable[int], *, archived: int) -> list[Order]:
        """Completed orders from the events, for those of these that are not archived yet. `archived`: up to which
        sequence all is."""
        wanted = {codec.sequence_text(sequence).encode(): sequence for sequence in sequences}
        found: list[Order] = []
        if not wanted:
            return found
        async for event in self.events(card, after=max(archived, min(wanted.values()) - 1)):
            for line in event.get(b"orders", b"").splitlines():
                if wanted.pop(line[: codec.SEQUENCE_DIGITS], None):
                    found.append(codec.order(card, line.decode().split(",")))
            if not wanted:
                break
        return found

    async def position(self, card: str) -> Position:
        """How many commands the log has had, and how many are matched."""
        async with self._turn():
            appended = await self._redis.get(keys.key(card, "sequence"))
            matched = await self._redis.hget(keys.key(card, "cursor"), "sequence")
        return Position(int(appended or 0), int(matched or 0))

    async def state_hash(self, card: str) -> str:
        """A hash over the books, open orders and cursor of a card."""
        reply = await self._read("state_hash", card)
        return str(reply.decode())

    async def answers(self) -> bool:
        """True, or raises `Unavailable`, also where orders can't be written: to a full disk, to a replica."""
        async with self._turn():
            await refuse_replica(self._redis)
            return bool(await self._redis.ping())

    async def has_functions(self) -> bool:
        """Whether the server has the Lua library of this version."""
        async with self._turn():
            return await library.is_loaded(self._redis)

    async def has_engine(self) -> bool:
        """Whether an engine is connected; also true where the server does not allow to ask."""
        async with self._turn():
            try:
                clients = await self._redis.client_list()
            except redis.exceptions.ResponseError as error:
                if is_forbidden(error):
                    return True
                raise
        return any(client.get("name") == ENGINE_NAME for client in clients)

    @asynccontextmanager
    async def _turn(self) -> AsyncIterator[None]:
        async with self._turns:
            with redis_errors():
                yield

    async def _read(self, function: str, card: str, *arguments: str | int) -> Any:
        async with self._turn():
            return await library.call(self._redis, function, keys.tag(card), *arguments)
