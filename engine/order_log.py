"""Order entry: the one way into a card's log, for every door (REST, batches, later others)."""

import asyncio
from collections import deque
from collections.abc import Sequence
from typing import Any

import msgspec
import redis.exceptions
import structlog
from redis.asyncio import Redis

from core.errors import ClientOrderIdConflict, HistoryConflict, Overloaded, TcgxError, Unavailable, reason
from core.log_limit import LimitedLog
from core.model import COMMANDS_MAX, Accepted, Command, PlaceOrder, order_id
from core.service import cancel_and_wait
from engine import codec, keys, library
from engine.connection import redis_errors
from engine.history import History, OwnHistory

log = structlog.get_logger()
limited = LimitedLog(log)

Outcome = Accepted | TcgxError
Group = tuple[Sequence[Command], "asyncio.Future[list[Outcome]]"]
"""Commands of one card that were handed over together, at most `COMMANDS_MAX`, and who waits for their outcomes."""


class Cancels(msgspec.Struct, frozen=True):
    """The cancels of a trader's orders on a card: the first and the last one's place in the log (0 where there was
    nothing to cancel), the times of their appends, and the sequences of the orders, oldest first."""

    first: int
    last: int
    times: Sequence[str]
    orders: Sequence[int]


class OrderLog:
    """Appends commands to the logs of the cards.

    Commands that arrive while an append is in flight go together in the next one, those of one card in order of
    arrival; a lone command goes at once. One flight carries all cards, an append each: the fewer and the larger the
    appends, the less they cost everybody, down to the server's fsync. When `append` returns, its command is in the log,
    durable as the server's fsync setting makes it.

    `history` says what each append must name, and learns which sequences were given out; without one, the log belongs
    to this server alone.
    """

    def __init__(
        self,
        redis: Redis,
        *,
        backlog_max: int,
        pending_max: int,
        self_trade: str = "allow",
        history: History | None = None,
    ) -> None:
        self._redis = redis
        self._history: History = history or OwnHistory(redis)
        self._backlog_max = backlog_max
        self._pending_max = pending_max
        self._self_trade = self_trade
        self._waiting: dict[str, deque[Group]] = {}
        self._pending: dict[str, int] = {}
        self._appending: asyncio.Task[None] | None = None

    async def append(self, command: Command) -> Accepted:
        """The command's place in the log.

        Raises:
            ClientOrderIdConflict: its client_order_id names an order with other contents.
            HistoryConflict: log and archive do not belong together; nothing was appended.
            Overloaded: too many commands wait; nothing was appended.
            Unavailable: no answer; the command may or may not be in the log.
        """
        outcome = (await self._put(command.card, (command,)))[0]
        if isinstance(outcome, Accepted):
            return outcome
        raise outcome

    async def append_all(self, commands: Sequence[Command]) -> list[Outcome]:
        """The same for many, each with its own outcome, in order."""
        places_of_card: dict[str, list[int]] = {}
        for place, command in enumerate(commands):
            places_of_card.setdefault(command.card, []).append(place)
        handed_over = []
        for card, all_places in places_of_card.items():
            for start in range(0, len(all_places), COMMANDS_MAX):
                places = all_places[start : start + COMMANDS_MAX]
                handed_over.append((places, self._put(card, [commands[place] for place in places])))
        outcomes: dict[int, Outcome] = {}
        for places, future in handed_over:
            outcomes.update(zip(places, await future, strict=True))
        return [outcomes[place] for place in range(len(commands))]

    async def cancel_all(self, card: str, trader_id: int) -> Cancels:
        """Appends a cancel for each order of a trader that may be open: what was accepted before this call is canceled,
        matched or not. Some thousands go together, the others in calls that follow.

        Raises:
            HistoryConflict, Overloaded, Unavailable: as `append`. Some of the cancels may be in the log.
        """
        places: list[int] = []
        times: list[str] = []
        orders: list[int] = []
        before, more = 0, 1
        while more:
            after = orders[-1] if orders else 0
            first, at, time_ms, more, before, targets = await self._cancel(card, trader_id, after, before)
            if targets:
                last = first + len(targets) - 1
                places += first, last
                self._history.given(card, last)
                self._history.last_ms = max(self._history.last_ms, time_ms)
                times.append(at.decode())
                orders += targets
        return Cancels(min(places, default=0), max(places, default=0), times, orders)

    async def _cancel(self, card: str, trader_id: int, after: int, before: int) -> Any:
        """The reply of lua/cancel_all.lua. A call that is refused for another mark is made again: nothing was run."""
        for is_last in (False, True):
            mark, least_ms = await self._history.mark(card), self._history.last_ms
            arguments: list[str | int] = [trader_id, mark, self._backlog_max, least_ms, after, before]
            try:
                return await library.call(self._redis, "cancel_all", keys.tag(card), *arguments)
            except (redis.exceptions.RedisError, OSError) as error:
                if is_last or not _is_of_other_history(error):
                    raise _meaning(error) from error
            self._history.forget(card)
        raise AssertionError  # the second round returns or raises

    async def close(self) -> None:
        """Waits until everything that was handed over is appended. A canceled wait cancels the append as well."""
        try:
            while self._appending is not None:
                await asyncio.wait([self._appending])
        finally:
            if self._appending is not None:
                await cancel_and_wait(self._appending)

    def _put(self, card: str, commands: Sequence[Command]) -> "asyncio.Future[list[Outcome]]":
        future: asyncio.Future[list[Outcome]] = asyncio.get_running_loop().create_future()
        pending = self._pending.get(card, 0)
        if pending >= self._pending_max:
            _settle(future, [Overloaded(f"{pending} commands of {card} wait to be appended")] * len(commands))
            return future
        self._waiting.setdefault(card, deque()).append((commands, future))
        self._pending[card] = pending + len(commands)
        if self._appending is None:
            self._appending = asyncio.create_task(self._append_waiting())
        return future

    async def _append_waiting(self) -> None:
        """One flight after the other, until nothing waits."""
        try:
            while cards := [card for card, pending in self._pending.items() if pending]:
                await self._append([_Append(card, self._next_groups(card)) for card in cards])
        except BaseException as error:
            for card in self._waiting:
                self._refuse_waiting(card, error)
            raise
        finally:
            self._appending = None

    def _next_groups(self, card: str) -> list[Group]:
        """What goes into a card's next append: whole groups in order of arrival, at most `COMMANDS_MAX` commands."""
        waiting = self._waiting[card]
        groups = [waiting.popleft()]
        count = len(groups[0][0])
        while waiting and count + len(waiting[0][0]) <= COMMANDS_MAX:
            groups.append(waiting.popleft())
            count += len(groups[-1][0])
        self._pending[card] -= count
        return groups

    async def _append(self, flight: Sequence["_Append"]) -> None:
        """Appends these, without those that repeat a client_order_id: they get the first order's place."""
        try:
            while calling := [append for append in flight if append.is_open]:
                for append, reply in zip(calling, await self._call(calling), strict=True):
                    if isinstance(reply, Exception):
                        append.fail(_meaning(reply))
                    else:
                        self._take(append, reply)
        except BaseException as error:
            for append in flight:
                append.fail(error)
            raise
        finally:
            for append in flight:
                append.settle()
                if append.error is not None:
                    limited.warning(
                        "an append failed", card=append.card, commands=append.count, reason=reason(append.error)
                    )
                if isinstance(append.error, Unavailable):
                    self._refuse_waiting(append.card, append.error)

    def _take(self, append: "_Append", reply: Any) -> None:
        last = append.take(reply)
        if last:
            self._history.given(append.card, last)
            self._history.last_ms = max(self._history.last_ms, reply[2])

    async def _call(self, appends: Sequence["_Append"]) -> list[Any]:
        """A reply for each, or the error in its place."""
        try:
            replies = await self._send(appends)
            refused = [place for place, reply in enumerate(replies) if self._is_to_be_repeated(appends[place], reply)]
            if refused:
                # A server that was replaced has no library yet, or another mark; nothing was run, so it is safe to
                # call again.
                if any(library.is_missing(replies[place]) for place in refused):
                    await library.load_again(self._redis)
                for place, reply in zip(refused, await self._send([appends[place] for place in refused]), strict=True):
                    replies[place] = reply
            return replies
        except (TcgxError, redis.exceptions.RedisError, OSError) as error:
            return [error] * len(appends)

    def _is_to_be_repeated(self, append: "_Append", reply: Any) -> bool:
        """Whether this call was refused for what can be learned anew."""
        if not library.is_missing(reply) and not _is_of_other_history(reply):
            return False
        self._history.forget(append.card)
        return True

    async def _send(self, appends: Sequence["_Append"]) -> list[Any]:
        """Calls these; in the place of a reply the error, also of those that may not be called."""
        pipeline = self._redis.pipeline(transaction=False)
        unmarked: dict[int, Exception] = {}
        for place, append in enumerate(appends):
            try:
                mark = await self._history.mark(append.card)
            except TcgxError as error:
                unmarked[place] = error
                continue
            arguments = append.arguments(mark, self._backlog_max, self._history.last_ms, self._self_trade)
            pipeline.fcall("append", 1, keys.tag(append.card), *arguments)
        if len(unmarked) == len(appends):
            return list(unmarked.values())
        replies = iter(await pipeline.execute(raise_on_error=False))
        return [unmarked[place] if place in unmarked else next(replies) for place in range(len(appends))]

    def _refuse_waiting(self, card: str, error: BaseException) -> None:
        """What waits behind an append without an answer was not sent: it is refused now rather than after a timeout
        of its own."""
        self._pending[card] = 0
        while self._waiting[card]:
            commands, future = self._waiting[card].popleft()
            _settle(future, [Overloaded(reason(error))] * len(commands))


class _Append:
    """One card's part of a flight: the groups that it carries, and what became of each command.

    The server appends all of a call or, where client_order_ids repeat, nothing: then those that repeat an order of the
    log are settled, the fresh ones are called again, and then those that repeat one of the fresh ones. A call that
    appends nothing is followed by smaller ones alone, so there is an end.
    """

    def __init__(self, card: str, groups: Sequence[Group]) -> None:
        self.card = card
        self.error: BaseException | None = None
        self._groups = groups
        self._commands = [command for commands, _ in groups for command in commands]
        self._outcomes: list[Outcome | None] = [None] * len(self._commands)
        self._calls: list[Sequence[int]] = [range(len(self._commands))]  # the places of each call to make, last first

    @property
    def is_open(self) -> bool:
        """Whether there is a call to make."""
        return bool(self._calls)

    @property
    def count(self) -> int:
        """How many commands it carries."""
        return len(self._commands)

    def arguments(self, mark: str, backlog_max: int, time_ms_min: int, self_trade: str) -> list[str | int]:
        """The arguments of the next call (lua/append.lua)."""
        commands = [self._commands[place] for place in self._calls[-1]]
        columns = codec.encode(commands)
        arguments = [len(commands), mark, backlog_max, time_ms_min, self_trade, *columns.arguments()]
        for place, command in enumerate(commands if columns.clients else ()):
            if isinstance(command, PlaceOrder) and command.client_order_id is not None:
                arguments += [place, f"{command.trader_id}:{command.client_order_id}", codec.order_terms(command)]
        return arguments

    def take(self, reply: Any) -> int:
        """Takes the reply of a call. The last sequence that it gave out; 0 where it gave none."""
        places = self._calls.pop()
        if reply[0] > 0:
            accepted_at = reply[1].decode()
            for sequence, place in enumerate(places, reply[0]):
                self._outcomes[place] = Accepted(sequence, accepted_at)
            return int(reply[0]) + len(places) - 1
        repeats = dict(zip(reply[1::2], reply[2::2], strict=True))
        fresh, again = [], []
        for offset, place in enumerate(places):
            first = repeats.get(offset)
            if first:
                self._outcomes[place] = _entered_before(self._commands[place], first)
            elif first is None:
                fresh.append(place)
            else:
                again.append(place)
        self._calls += [call for call in (again, fresh) if call]
        return 0

    def fail(self, error: BaseException) -> None:
        """What has no outcome yet will have none but this."""
        if self._calls:
            self.error = error
            self._calls.clear()

    def settle(self) -> None:
        """Tells those who wait."""
        start = 0
        for commands, future in self._groups:
            outcomes = self._outcomes[start : start + len(commands)]
            start += len(commands)
            found = [outcome for outcome in outcomes if outcome is not None]
            if len(found) == len(outcomes):
                _settle(future, found)
            elif isinstance(self.error, TcgxError):
                _settle(future, [outcome or self.error for outcome in outcomes])
            else:
                assert self.error is not None  # noqa: S101 - only a failure leaves one without an outcome
                _settle(future, self.error)


def _entered_before(command: Command, remembered: bytes) -> Outcome:
    assert isinstance(command, PlaceOrder)  # noqa: S101 - only these carry an id
    sequence, _, contents = remembered.decode().partition(" ")
    if contents != codec.order_terms(command):
        return ClientOrderIdConflict(str(command.client_order_id), order_id(command.card, int(sequence)))
    return Accepted(int(sequence), None)


def _is_of_other_history(reply: Any) -> bool:
    return isinstance(reply, redis.exceptions.ResponseError) and str(reply).startswith("HISTORY ")


def _meaning(error: Exception) -> TcgxError:
    """An error of redis-py as one of ours."""
    if _is_of_other_history(error):
        return HistoryConflict("the log began another history while orders were appended")
    try:
        with redis_errors():
            raise error
    except TcgxError as meaning:
        return meaning


def _settle(future: "asyncio.Future[list[Outcome]]", outcome: list[Outcome] | BaseException) -> None:
    """Gives a caller its outcomes, unless it has gone away."""
    if future.done():
        return
    if isinstance(outcome, BaseException):
        future.set_exception(outcome)
    else:
        future.set_result(outcome)
