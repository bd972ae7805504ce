"""The order log: the only way to append commands to the log of a card, for all doors."""

import asyncio
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec
import redis.exceptions
import structlog
from redis.asyncio import Redis

from core.errors import (
    CardHalted,
    ClientOrderIdConflict,
    HistoryConflict,
    Overloaded,
    TcgxError,
    TooManyOpenOrders,
    Unavailable,
    reason,
)
from core.log_limit import RateLimitedLog
from core.model import COMMANDS_MAX, Accepted, CancelOrder, Command, PlaceOrder, ReplaceOrder, order_id
from core.service import cancel_and_wait
from engine import codec, keys, library
from engine.connection import pack_command, redis_errors
from engine.fair_queue import FairQueue, Outcome, Submission, is_cancels, with_reserve
from engine.history import History, StandaloneHistory
from engine.memory import MemoryWatch
from engine.replica_acks import ReplicaAcks
from engine.trader_limits import NO_LIMITS, Refusal, TraderLimits
from observe.tallies import SIZES, Count, Distribution

log = structlog.get_logger()
rate_limited_log = RateLimitedLog(log)

HALTED = -2
"""The first item of the reply to an append whose card is halted (lua/append.lua)."""

appended_commands = Count("tcgx_appended_commands", "Commands that this process has appended to the log", ("card",))
refused_commands = Count(
    "tcgx_refused_commands", "Commands that were not appended, by the code of the error", ("code",)
)
append_seconds = Distribution("tcgx_append_seconds", "The time of a pipeline of appends, with the fsync of Redis")
append_commands = Distribution("tcgx_append_commands", "Commands of a pipeline of appends", bounds=SIZES)


class CancelAllResult(msgspec.Struct, frozen=True):
    """The cancels that `OrderLog.cancel_all` appended for a trader on a card.

    `first`, `last`: the sequences of the first and the last cancel; 0 if there was nothing to cancel.
    `times`: the times of the appends. `orders`: the sequences of the orders to cancel, oldest first.
    """

    first: int
    last: int
    times: Sequence[str]
    orders: Sequence[int]


class OrderLog:
    """Appends commands to the logs of the cards.

    At most one batch is in flight. Commands that arrive meanwhile wait for the next batch; a single command is sent at
    once. A batch has one append per card, with its commands in order of arrival. Fewer and larger appends cost less,
    down to the fsync of the server. When `append` returns, its command is in the log, as durable as the server's fsync
    setting makes it.

    Where more commands of a card wait than an append takes, traders take turns. Of one trader on a card, the order of
    commands is kept. `pending_max`: how many commands of a card may wait; a trader may not take all of that room
    (`FairQueue`).

    Cancels are taken where orders are refused: while the memory of Redis is nearly full (`memory`), and in a reserve of
    a tenth beyond both bounds. Submissions of orders and cancels count as orders.

    `history` supplies the mark of each append and records the sequences. The default is for servers without an archive.

    `acks`: replicas that must have an order before it counts as appended. An order that they do not confirm in time is
    in the log and is matched, but its caller gets `Unavailable`. The same holds for a repeat of it.
    """

    def __init__(
        self,
        redis: Redis,
        *,
        backlog_max: int,
        pending_max: int,
        self_trade: str = "allow",
        limits: TraderLimits = NO_LIMITS,
        history: History | None = None,
        memory: MemoryWatch | None = None,
        acks: ReplicaAcks | None = None,
    ) -> None:
        """`memory`: the watch over the server. By default orders are taken until the server refuses them."""
        self._redis = redis
        self.memory = memory or MemoryWatch(redis, percent=100)
        self._acks = acks
        self._history: History = history or StandaloneHistory(redis)
        self._backlog_max = backlog_max
        self._pending_max = pending_max
        self._self_trade = self_trade
        self._limits = limits
        self._waiting: dict[str, FairQueue] = {}
        self._appending: asyncio.Task[None] | None = None

    def check_room(self, trader_id: int, cards: Iterable[str]) -> None:
        """Refuses a request that no card has room for, before it is decoded: a refusal must cost less than an append.

        Raises:
            Overloaded: every card would refuse each command of this trader.
        """
        for card in cards:
            waiting = self._waiting.get(card)
            if waiting is None or waiting.has_room(trader_id):
                return
        raise Overloaded("too many commands of each card wait to be appended")

    async def append(self, command: Command) -> Accepted:
        """Appends a command and returns its place in the log.

        Raises:
            ClientOrderIdConflict: the client_order_id belongs to an order with other terms.
            RateLimited, TooManyOpenOrders: the trader is above a limit (`TraderLimits`); nothing was appended.
            CardHalted: the card is halted, and the command is an order; nothing was appended.
            HistoryConflict: log and archive have different histories; nothing was appended.
            Overloaded: too many commands wait; nothing was appended.
            Unavailable: no answer; the command may or may not be in the log.
        """
        outcome = (await self._submit(command.card, command.trader_id, (command,)))[0]
        if isinstance(outcome, Accepted):
            return outcome
        raise outcome

    async def append_all(self, commands: Sequence[Command]) -> list[Outcome]:
        """Appends many commands. Returns an outcome for each, in order: a place in the log, or an error of `append`.

        Those of a card wait as commands of the first one's trader.
        """
        places_of_card: dict[str, list[int]] = {}
        for place, command in enumerate(commands):
            places_of_card.setdefault(command.card, []).append(place)
        submitted = []
        for card, all_places in places_of_card.items():
            trader_id = commands[all_places[0]].trader_id
            for start in range(0, len(all_places), COMMANDS_MAX):
                places = all_places[start : start + COMMANDS_MAX]
                submitted.append((places, self._submit(card, trader_id, [commands[place] for place in places])))
        outcomes: dict[int, Outcome] = {}
        for places, future in submitted:
            outcomes.update(zip(places, await future, strict=True))
        await self._append_cancels_alone(commands, outcomes)
        return [outcomes[place] for place in range(len(commands))]

    async def _append_cancels_alone(self, commands: Sequence[Command], outcomes: dict[int, Outcome]) -> None:
        """Appends cancels that were refused together with orders, since there may be room for cancels alone."""
        refused: dict[str, list[int]] = {}
        for place, outcome in outcomes.items():
            if isinstance(outcome, Overloaded) and isinstance(commands[place], CancelOrder):
                refused.setdefault(commands[place].card, []).append(place)
        if sum(map(len, refused.values())) == len(commands):
            return
        for card, places in refused.items():
            trader_id = commands[places[0]].trader_id
            future = self._submit(card, trader_id, [commands[place] for place in places])
            outcomes.update(zip(places, await future, strict=True))

    async def cancel_all(self, card: str, trader_id: int) -> CancelAllResult:
        """Appends a cancel for each order of a trader that may be open, matched or not.

        All orders that were accepted before this call are covered. One call of Lua appends a thousand cancels at most,
        and further calls append the rest.

        Raises:
            HistoryConflict, Overloaded, Unavailable: as in `append`. Some of the cancels may be in the log.
        """
        if self._acks:
            await self._acks.check()
        places: list[int] = []
        times: list[str] = []
        orders: list[int] = []
        before, after, is_done = 0, 0, False
        while not is_done:
            mark, reply = await self._cancel(card, trader_id, after, before)
            first, at, time_ms, after, before, targets = reply
            is_done = after == 0
            if targets:
                last = first + len(targets) - 1
                places += first, last
                if self._acks:
                    self._history.record_unconfirmed(card, last)
                else:
                    self._history.record_sequence(card, last, mark)
                self._history.last_ms = max(self._history.last_ms, time_ms)
                times.append(at.decode())
                orders += targets
        if self._acks:
            await self._acks.confirm()
            if places:
                self._history.record_sequence(card, max(places), mark)
        return CancelAllResult(min(places, default=0), max(places, default=0), times, orders)

    async def _cancel(self, card: str, trader_id: int, after: int, before: int) -> tuple[str, Any]:
        """The mark and the reply of lua/cancel_all.lua. A refused mark is replaced once."""
        for is_last in (False, True):
            mark, time_ms_min = await self._history.mark(card), self._history.last_ms
            waiting_max = with_reserve(self._backlog_max)
            arguments: list[str | int] = [trader_id, mark, waiting_max, time_ms_min, after, before]
            try:
                return mark, await library.call(self._redis, "cancel_all", keys.tag(card), *arguments)
            except (redis.exceptions.RedisError, OSError) as error:
                if is_last or not _is_mark_refused(error):
                    raise _mapped(error) from error
            self._history.forget(card)
        raise AssertionError  # the second attempt returns or raises

    async def close(self) -> None:
        """Waits until all submitted commands are appended. A canceled wait cancels the append as well."""
        try:
            while self._appending is not None:
                await asyncio.wait([self._appending])
        finally:
            if self._appending is not None:
                await cancel_and_wait(self._appending)

    def _submit(self, card: str, trader_id: int, commands: Sequence[Command]) -> "asyncio.Future[list[Outcome]]":
        future: asyncio.Future[list[Outcome]] = asyncio.get_running_loop().create_future()
        if self.memory.state.is_full and not is_cancels(commands):
            _refuse(future, Overloaded(self.memory.state.sentence), len(commands))
            return future
        waiting = self._waiting.get(card)
        if waiting is None:
            waiting = self._waiting[card] = FairQueue(self._pending_max)
        if not waiting.put((trader_id, commands, future)):
            own = waiting.pending_of(trader_id)
            text = f"{waiting.pending} commands of {card} wait to be appended, {own} of them of this trader"
            _refuse(future, Overloaded(text), len(commands))
            return future
        if self._appending is None:
            self._appending = asyncio.create_task(self._append_waiting())
        return future

    async def _append_waiting(self) -> None:
        """Sends batches, one after the other, until no command waits."""
        try:
            while cards := [card for card, waiting in self._waiting.items() if waiting.pending]:
                await self._append([_CardAppend(card, self._waiting[card].take(), self._limits) for card in cards])
        except BaseException as error:
            for card in self._waiting:
                self._refuse_waiting(card, error)
            raise
        finally:
            self._appending = None

    async def _append(self, batch: Sequence["_CardAppend"]) -> None:
        """Makes the calls of a batch until all commands have an outcome, and resolves the futures of the callers."""
        try:
            while open_appends := [append for append in batch if append.is_open]:
                for append, reply in zip(open_appends, await self._call(open_appends), strict=True):
                    if isinstance(reply, Exception):
                        append.refuse(_mapped(reply))
                    else:
                        self._handle(append, reply)
        except BaseException as error:
            for append in batch:
                append.fail(error)
            raise
        finally:
            for append in batch:
                append.resolve()
                if append.error is not None:
                    rate_limited_log.warning(
                        "an append failed", card=append.card, commands=append.count, reason=reason(append.error)
                    )
                if isinstance(append.error, Unavailable):
                    self._refuse_waiting(append.card, append.error)

    def _handle(self, append: "_CardAppend", reply: Any) -> None:
        last = append.handle(reply)
        if last:
            if append.doubt is None:
                self._history.record_sequence(append.card, last, append.mark)
            self._history.last_ms = max(self._history.last_ms, reply[2])

    async def _call(self, appends: Sequence["_CardAppend"]) -> list[Any]:
        """The reply to each append, or its error. Calls that were refused without effect are repeated once."""
        try:
            if self._acks:
                await self._acks.check()
            replies = await self._send(appends)
            refused = [place for place, reply in enumerate(replies) if self._is_repeatable(appends[place], reply)]
        except (TcgxError, redis.exceptions.RedisError, OSError) as error:
            return [error] * len(appends)
        if refused:
            for place, reply in zip(refused, await self._repeat(appends, replies, refused), strict=True):
                replies[place] = reply
        return replies

    async def _repeat(
        self, appends: Sequence["_CardAppend"], replies: Sequence[Any], refused: Sequence[int]
    ) -> list[Any]:
        """Repeats calls that had no effect, since a replaced server has no library yet, or another mark.

        An error is the reply to these calls alone: the others have theirs.
        """
        try:
            if any(library.is_missing(replies[place]) for place in refused):
                await library.load_again(self._redis)
            return await self._send([appends[place] for place in refused])
        except (TcgxError, redis.exceptions.RedisError, OSError) as error:
            return [error] * len(refused)

    def _is_repeatable(self, append: "_CardAppend", reply: Any) -> bool:
        """Whether a call was refused because of a missing library or an old mark. The old mark is discarded."""
        if not library.is_missing(reply) and not _is_mark_refused(reply):
            return False
        self._history.forget(append.card)
        return True

    def waiting(self) -> dict[str, int]:
        """The number of commands of each card that wait for an append."""
        return {card: waiting.pending for card, waiting in self._waiting.items()}

    async def _send(self, appends: Sequence["_CardAppend"]) -> list[Any]:
        """Sends all appends in one pipeline. The reply to an append that failed, or has no mark, is its error."""
        calls: list[_Call] = []
        unmarked: dict[int, Exception] = {}
        for place, append in enumerate(appends):
            try:
                mark = await self._history.mark(append.card)
            except TcgxError as error:
                unmarked[place] = error
                continue
            append.mark = mark
            call = append.call(mark, self._backlog_max, self._history.last_ms, self._self_trade)
            calls.append((append, *call))
        if not calls:
            return list(unmarked.values())
        began_at = time.perf_counter()
        replies = iter(await (self._send_confirmed(calls) if self._acks else self._send_plain(calls)))
        append_seconds.add(time.perf_counter() - began_at)
        append_commands.add(sum(append.count for append in appends))
        return [unmarked[place] if place in unmarked else next(replies) for place in range(len(appends))]

    async def _send_plain(self, calls: Sequence["_Call"]) -> list[Any]:
        pipeline = self._redis.pipeline(transaction=False)
        for append, function, arguments in calls:
            pipeline.fcall(function, 1, keys.tag(append.card), *arguments)
        replies: list[Any] = await pipeline.execute(raise_on_error=False)
        return replies

    async def _send_confirmed(self, calls: Sequence["_Call"]) -> list[Any]:
        """Sends appends, and waits until replicas have them. Appends that they do not confirm are in doubt."""
        assert self._acks is not None  # noqa: S101 - the caller has looked
        packed = [
            pack_command("FCALL", function, 1, keys.tag(append.card), *arguments)
            for append, function, arguments in calls
        ]
        replies: list[Any] = []
        try:
            doubt = await self._acks.call(packed, replies)
        except BaseException:
            self._record_unconfirmed(calls, replies)
            raise
        if doubt:
            self._record_unconfirmed(calls, replies)
        for (append, *_), reply in zip(calls, replies, strict=True):
            if doubt:
                append.doubt = doubt
            elif isinstance(reply, list):  # the mark is right, so it is the server of before
                self._history.record_confirmed(append.card)
        return replies

    def _record_unconfirmed(self, calls: Sequence["_Call"], replies: Sequence[Any]) -> None:
        """Readers may have seen these orders, so their sequences must not be given out again after a failover."""
        for (append, *_), reply in zip(calls, replies, strict=False):
            last = append.last_sequence(reply)
            if last:
                self._history.record_unconfirmed(append.card, last)

    def _refuse_waiting(self, card: str, error: BaseException) -> None:
        """Refuses the commands that wait behind a failed append. They were not sent and need not wait for a timeout."""
        for _, commands, future in self._waiting[card].take_all():
            _refuse(future, Overloaded(reason(error)), len(commands))


_Call = tuple["_CardAppend", str, list[str | int]]
"""The next call of an append: the append, the function, and its arguments."""


class _CardAppend:
    """The append of one card within a batch: its submissions, and the outcome of each command.

    A call appends all of its commands, or none if a client_order_id is repeated. In the second case the reply names the
    repeats. Commands that repeat an order of the log get their outcome. The fresh commands are called again, and after
    them the commands that repeat a fresh one. A call appends nothing either if a trader is above a limit. Then the
    orders that the trader may not place get their outcome, its later ones first, and the others are called again. If
    the backlog or the memory is full, orders get their outcome, and cancels are called alone. Each of these calls is
    smaller than the first, so the loop ends.
    """

    def __init__(self, card: str, submissions: Sequence[Submission], limits: TraderLimits) -> None:
        self.card = card
        self._limits = limits
        self.error: BaseException | None = None
        self.doubt: Unavailable | None = None
        self.mark = ""
        self._submissions = submissions
        self._commands = [command for _, commands, _ in submissions for command in commands]
        self._outcomes: list[Outcome | None] = [None] * len(self._commands)
        self._accepted = 0
        # The places of the commands of each pending call; the next call is the last item.
        self._calls: list[Sequence[int]] = [range(len(self._commands))]

    @property
    def is_open(self) -> bool:
        """Whether a call is pending."""
        return bool(self._calls)

    @property
    def count(self) -> int:
        """The number of commands."""
        return len(self._commands)

    def call(self, mark: str, backlog_max: int, time_ms_min: int, self_trade: str) -> tuple[str, list[str | int]]:
        """The function of the next call (lua/append.lua, lua/append_cancels.lua) and its arguments."""
        commands = [self._commands[place] for place in self._calls[-1]]
        columns = codec.encode(commands)
        arguments: list[str | int]
        if not columns.kinds.strip(codec.CANCEL):
            arguments = [len(commands), mark, with_reserve(backlog_max), time_ms_min, columns.traders, columns.prices]
            return "append_cancels", arguments
        arguments = [len(commands), mark, backlog_max, time_ms_min, self_trade, self._limits.text]
        arguments += columns.arguments()
        for place, command in enumerate(commands if columns.clients else ()):
            if isinstance(command, PlaceOrder) and command.client_order_id is not None:
                arguments += [place, f"{command.trader_id}:{command.client_order_id}", codec.order_terms(command)]
        return "append", arguments

    def handle(self, reply: Any) -> int:
        """Records the reply to a call. Returns the last sequence of the append, or 0 if nothing was appended."""
        places = self._calls.pop()
        if reply[0] > 0:
            accepted_at = reply[1].decode()
            appended_commands.add(len(places), self.card)
            self._accepted += len(places)
            for sequence, place in enumerate(places, reply[0]):
                self._outcomes[place] = Accepted(sequence, accepted_at)
            return int(reply[0]) + len(places) - 1
        if reply[0] == HALTED:
            self._refuse_halted(places, reply[1].decode())
            return 0
        if reply[0] < 0:
            self._refuse_limited(places, self._limits.refusals(self.card, reply))
            return 0
        repeats = dict(zip(reply[1::2], reply[2::2], strict=True))
        fresh, repeats_of_fresh = [], []
        for offset, place in enumerate(places):
            original = repeats.get(offset)
            if original:
                self._outcomes[place] = _outcome_of_repeat(self._commands[place], original)
            elif original is None:
                fresh.append(place)
            else:
                repeats_of_fresh.append(place)
        self._calls += [call for call in (repeats_of_fresh, fresh) if call]
        return 0

    def last_sequence(self, reply: Any) -> int:
        """The last sequence of the next call, if it has this reply. 0 if it appended nothing."""
        appended = isinstance(reply, list) and reply[0] > 0
        return int(reply[0]) + len(self._calls[-1]) - 1 if appended else 0

    def _refuse_halted(self, places: Sequence[int], halted: str) -> None:
        """Refuses the orders of a card that is halted, and calls the cancels again."""
        cancels = [place for place in places if not isinstance(self._commands[place], PlaceOrder)]
        for place in set(places).difference(cancels):
            self._outcomes[place] = CardHalted(self.card, halted)
        if cancels:
            self._calls.append(cancels)

    def _refuse_limited(self, places: Sequence[int], refusals: Mapping[int, Refusal]) -> None:
        """Refuses the orders that are above a limit, and calls the other commands again."""
        orders = dict.fromkeys(refusals, 0)
        allowed = []
        for place in places:
            command = self._commands[place]
            trader_id = command.trader_id
            if isinstance(command, PlaceOrder) and trader_id in refusals:
                if isinstance(command, ReplaceOrder) and isinstance(refusals[trader_id].error, TooManyOpenOrders):
                    allowed.append(place)
                    continue
                orders[trader_id] += 1
                if orders[trader_id] > refusals[trader_id].orders:
                    self._outcomes[place] = refusals[trader_id].error
                    continue
            allowed.append(place)
        if allowed:
            self._calls.append(allowed)

    def refuse(self, error: TcgxError) -> None:
        """Handles the refusal of a call. Without room for orders, the cancels of the call are called again."""
        places = self._calls[-1] if self._calls else ()
        cancels = [place for place in places if not isinstance(self._commands[place], PlaceOrder)]
        if not isinstance(error, Overloaded) or len(cancels) in (0, len(places)):
            self.fail(error)
            return
        self.error = error
        self._calls.pop()
        for place in set(places).difference(cancels):
            self._outcomes[place] = error
        self._calls.append(cancels)

    def fail(self, error: BaseException) -> None:
        """Makes the error the outcome of all commands that have none yet."""
        if self._calls:
            self.error = error
            self._calls.clear()

    def resolve(self) -> None:
        """Gives the callers their outcomes."""
        if self.doubt is not None:
            self._outcomes = [self.doubt if isinstance(each, Accepted) else each for each in self._outcomes]
            self.error = self.error or self.doubt
        if self._accepted < self.count:
            self._count_refused()
        start = 0
        for _, commands, future in self._submissions:
            outcomes = self._outcomes[start : start + len(commands)]
            start += len(commands)
            known = [outcome for outcome in outcomes if outcome is not None]
            if len(known) == len(outcomes):
                _resolve(future, known)
            elif isinstance(self.error, TcgxError):
                _resolve(future, [outcome or self.error for outcome in outcomes])
            else:
                assert self.error is not None  # noqa: S101 - only a failure leaves a command without an outcome
                _resolve(future, self.error)

    def _count_refused(self) -> None:
        """Counts the commands that were not appended. Repeats of an order of the log are no refusals."""
        for outcome in self._outcomes:
            error = self.error if outcome is None else outcome
            if isinstance(error, BaseException):
                refused_commands.add(1, error.code if isinstance(error, TcgxError) else "internal")


def _refuse(future: "asyncio.Future[list[Outcome]]", error: TcgxError, count: int) -> None:
    """Makes an error the outcome of each of `count` commands, and counts them as refused."""
    refused_commands.add(count, error.code)
    _resolve(future, [error] * count)


def _outcome_of_repeat(command: Command, original: bytes) -> Outcome:
    """The outcome of a command whose client_order_id belongs to an order of the log: `sequence terms`."""
    assert isinstance(command, PlaceOrder)  # noqa: S101 - only orders have a client_order_id
    sequence, _, terms = original.decode().partition(" ")
    if terms != codec.order_terms(command):
        return ClientOrderIdConflict(str(command.client_order_id), order_id(command.card, int(sequence)))
    return Accepted(int(sequence), None)


def _is_mark_refused(reply: Any) -> bool:
    return isinstance(reply, redis.exceptions.ResponseError) and str(reply).startswith("HISTORY ")


def _mapped(error: Exception) -> TcgxError:
    """Maps an error of redis-py to one of core/errors.py."""
    if _is_mark_refused(error):
        return HistoryConflict("the log began another history while orders were appended")
    try:
        with redis_errors():
            raise error
    except TcgxError as mapped:
        return mapped


def _resolve(future: "asyncio.Future[list[Outcome]]", outcome: list[Outcome] | BaseException) -> None:
    """Sets the outcomes, or an error, of a future. A caller that was canceled is skipped."""
    if future.done():
        return
    if isinstance(outcome, BaseException):
        future.set_exception(outcome)
    else:
        future.set_result(outcome)
