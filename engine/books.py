"""Reading what matching has made: books, orders, trades, positions. Nothing here writes."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import redis.exceptions
from redis.asyncio import Redis

from engine import codec, keys, library
from engine.connection import ENGINE_NAME, is_forbidden, refuse_replica, understood
from engine.model import LATEST, Order, Trade

EVENTS_A_READ = 64
OPEN_MAX = 10_000
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


class Books:
    """The cards' state in Redis."""

    def __init__(self, redis: Redis) -> None:
        self._redis: Any = redis  # redis-py's types of stream replies admit shapes that its RESP2 never gives
        self._turns = asyncio.Semaphore(READS_MAX)

    @property
    def client(self) -> Redis:
        """The connections, for what is read beside this (archiver/lag.py)."""
        client: Redis = self._redis
        return client

    async def order(self, card: str, sequence: int, trader_id: int | None = None) -> Order | None:
        """An order that is accepted, open or lately completed; None if Redis does not hold it. Whose it is, where that
        is known, saves looking it up in the log; a completed order of another trader is not found then."""
        reply = await self._read("order", card, sequence, *([] if trader_id is None else [trader_id]))
        if reply is None:
            return None
        state, *values = [value.decode() for value in reply[1::2]]
        return codec.order(card, values, accepted=state == "accepted")

    async def trader_orders(self, card: str, trader_id: int, limit: int = LATEST) -> list[Order]:
        """A trader's latest orders on a card, newest first."""
        reply = await self._read("trader_orders", card, trader_id, limit, "all")
        return _orders(card, reply)

    async def open_orders(self, card: str, trader_id: int) -> list[Order]:
        """A trader's orders that rest in the book of a card, newest first, at most `OPEN_MAX`."""
        return _orders(card, await self._read("trader_orders", card, trader_id, OPEN_MAX, "open"))

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

    async def taker_trades(self, card: str, sequence: int) -> list[Trade] | None:
        """The trades that an order made when it arrived; None if its event is gone (then the archive has them)."""
        async with self._turn():
            entries = await self._redis.xrange(keys.key(card, "events"), min=f"{sequence}-0", count=1)
        if not entries or int(entries[0][1][b"first"]) > sequence:
            return None
        as_taker = f",{codec.sequence_text(sequence)},".encode()
        lines = [line for line in entries[0][1].get(b"trades", b"").splitlines() if as_taker in line]
        trades = [codec.trade(card, line.decode()) for line in lines]
        return [trade for trade in trades if trade.taker_sequence == sequence]

    async def completed_order(self, card: str, sequence: int, after: str) -> Order | None:
        """A completed order from the events after an id, for one that is completed but not archived yet."""
        prefix = codec.sequence_text(sequence).encode() + b","
        while True:
            async with self._turn():
                entries = await self._redis.xrange(keys.key(card, "events"), min=f"({after}", count=EVENTS_A_READ)
            for _, fields in entries:
                lines = fields.get(b"orders", b"")
                if lines.startswith(prefix) or b"\n" + prefix in lines:
                    return next(order for order in codec.orders(card, lines) if order.sequence == sequence)
            if len(entries) < EVENTS_A_READ:
                return None
            after = entries[-1][0].decode()

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
            with understood():
                yield

    async def _read(self, function: str, card: str, *arguments: str | int) -> Any:
        async with self._turn():
            return await library.call(self._redis, function, keys.tag(card), *arguments)


def _orders(card: str, reply: list[bytes]) -> list[Order]:
    return [codec.order(card, line.decode().split(",")) for line in reply]
