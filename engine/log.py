"""Order entry: the one way into a card's log, for every door (REST, batches, later others)."""

import asyncio
from collections import deque
from collections.abc import Sequence
from typing import Any

import redis.exceptions
import structlog
from redis.asyncio import Redis

from engine import codec, keys, library
from engine.connection import understood
from engine.errors import ClientOrderIdConflict, Overloaded, TcgxError, Unavailable
from engine.model import COMMANDS_MAX, Command, Entered, PlaceOrder, order_id

log = structlog.get_logger()

Waiting = tuple[Command, "asyncio.Future[Entered]"]


class OrderLog:
    """Appends commands to the logs of the cards.

    Commands that arrive while an append of their card is in flight go together in the next one, in order of
    arrival; a lone command goes at once. When `append` returns, its command is in the log, durable as the
    server's fsync setting makes it.
    """

    def __init__(self, redis: Redis, *, backlog_max: int, pending_max: int, self_trade: str = "allow") -> None:
        self._redis = redis
        self._backlog_max = backlog_max
        self._pending_max = pending_max
        self._self_trade = self_trade
        self._waiting: dict[str, deque[Waiting]] = {}
        self._appending: dict[str, asyncio.Task[None]] = {}

    async def append(self, command: Command) -> Entered:
        """The command's place in the log.

        Raises:
            ClientOrderIdConflict: its client_order_id names an order with other contents.
            Overloaded: too many commands wait; nothing was appended.
            Unavailable: no answer; the command may or may not be in the log.
        """
        return await self._put(command)

    async def append_all(self, commands: Sequence[Command]) -> list[Entered | TcgxError]:
        """The same for many, each with its own outcome, in order."""
        futures = [self._put(command) for command in commands]
        outcomes: list[Entered | TcgxError] = []
        for future in futures:
            try:
                outcomes.append(await future)
            except TcgxError as error:
                outcomes.append(error)
        return outcomes

    async def close(self) -> None:
        """Waits until everything that was handed over is appended."""
        while self._appending:
            await asyncio.gather(*self._appending.values())

    def _put(self, command: Command) -> "asyncio.Future[Entered]":
        card = command.card
        waiting = self._waiting.setdefault(card, deque())
        future: asyncio.Future[Entered] = asyncio.get_running_loop().create_future()
        if len(waiting) >= self._pending_max:
            future.set_exception(Overloaded(f"{len(waiting)} commands of {card} wait to be appended"))
            return future
        waiting.append((command, future))
        if card not in self._appending:
            self._appending[card] = asyncio.create_task(self._append_waiting(card))
        return future

    async def _append_waiting(self, card: str) -> None:
        waiting = self._waiting[card]
        try:
            while waiting:
                batch = [waiting.popleft() for _ in range(min(len(waiting), COMMANDS_MAX))]
                try:
                    await self._append_batch(card, batch)
                except BaseException as error:
                    log.warning("an append failed", card=card, commands=len(batch), reason=str(error))
                    for _, future in batch:
                        _settle(future, error)
                    if isinstance(error, Unavailable) or not isinstance(error, TcgxError):
                        # What still waits was not sent: it is refused now rather than after a timeout of its own.
                        while waiting:
                            _settle(waiting.popleft()[1], Overloaded(str(error)))
                    if not isinstance(error, TcgxError):
                        raise
        finally:
            del self._appending[card]

    async def _append_batch(self, card: str, batch: list[Waiting]) -> None:
        """Appends these, without those that repeat a client_order_id: they get the first order's place.

        Each round that appends nothing settles at least one command, so there are at most `len(batch)` rounds.
        """
        while batch:
            reply = await self._call(card, [command for command, _ in batch])
            if reply[0] > 0:
                accepted_at = reply[1].decode()
                for offset, (_, future) in enumerate(batch):
                    _settle(future, Entered(reply[0] + offset, accepted_at))
                return
            repeats = dict(zip(reply[1::2], reply[2::2], strict=True))
            again = []
            for place, item in enumerate(batch):
                first = repeats.get(place)
                if first:
                    _settle(item[1], _entered_before(item[0], first))
                elif first is not None:
                    again.append(item)
            fresh = [item for place, item in enumerate(batch) if place not in repeats]
            if fresh:
                await self._append_batch(card, fresh)
            batch = again

    async def _call(self, card: str, commands: list[Command]) -> list[Any]:
        arguments: list[str | int] = [
            len(commands),
            self._backlog_max,
            self._self_trade,
            *codec.encode(commands),
        ]
        for place, command in enumerate(commands):
            if isinstance(command, PlaceOrder) and command.client_order_id is not None:
                arguments += [place, f"{command.trader_id}:{command.client_order_id}", codec.contents(command)]
        with understood():
            try:
                return await self._redis.fcall("append", 1, keys.tag(card), *arguments)  # type: ignore[no-any-return]
            except redis.exceptions.ResponseError as error:
                if "Function not found" not in str(error):
                    raise
            # A server that was replaced has no library yet; nothing was run, so it is safe to call again.
            await library.load(self._redis)
            return await self._redis.fcall("append", 1, keys.tag(card), *arguments)  # type: ignore[no-any-return]


def _entered_before(command: Command, remembered: bytes) -> Entered | ClientOrderIdConflict:
    assert isinstance(command, PlaceOrder)  # noqa: S101 - only these carry an id
    sequence, _, contents = remembered.decode().partition(" ")
    if contents != codec.contents(command):
        return ClientOrderIdConflict(str(command.client_order_id), order_id(command.card, int(sequence)))
    return Entered(int(sequence), None)


def _settle(future: "asyncio.Future[Entered]", outcome: Entered | BaseException) -> None:
    """Gives a caller its outcome, unless it has gone away."""
    if future.done():
        return
    if isinstance(outcome, BaseException):
        future.set_exception(outcome)
    else:
        future.set_result(outcome)
