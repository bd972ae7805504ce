"""The exchange as every door calls it: check, place, find, list, cancel and wait for orders; read market data.

This module knows no transport. A call that waits has one deadline, which also holds for the reads after the match. Only
the append is never cut short: otherwise the caller would not know whether the order is in the log.
"""

import asyncio
import contextlib
import re
from collections.abc import Iterable, Sequence

import msgspec

from archiver.queries import Archive
from core.errors import (
    CardHalted,
    HistoryConflict,
    InvalidRequest,
    OrderCompleted,
    OrderNotFound,
    Overloaded,
    RateLimited,
    RequestError,
    TcgxError,
    Unavailable,
    UnknownCard,
    Violation,
)
from core.model import (
    CLIENT_ORDER_ID_RULE,
    COMPLETED,
    LATEST,
    SEQUENCE_PATTERN,
    Accepted,
    CancelOrder,
    Change,
    Command,
    Fill,
    Order,
    PlaceOrder,
    ReplaceOrder,
    Side,
    Trade,
    order_id,
)
from core.rules import CLIENT_ORDER_ID, BatchItem, CancelItem, OrderRules, ReplaceItem, printable
from core.settings import Settings
from engine.book_reader import BookReader, Depth
from engine.deadlines import DeadlineKeeper, Deadlines
from engine.match_notifications import MatchNotifier
from engine.order_log import CancelAllResult, OrderLog
from exchange.order_changes import OrderChanges
from exchange.order_reader import FillKey, OrderReader, order_key, parse_orders
from exchange.tokens import Caller

SEQUENCE = re.compile(SEQUENCE_PATTERN)
CANCELED_MAX = 10_000
"""Orders that one cancel-all lists for a card, at most; the newest ones."""
OPEN_LIMIT_MAX = 500
"""Orders of a page of open orders, at most."""
PAGE_LIMIT_MAX = 500
"""Fills of a page, at most."""
DEPTH_MAX = 1_000
"""Price levels of each side of a book, at most."""

WHOLE_BATCH_ERRORS = RateLimited | CardHalted | HistoryConflict | Overloaded | Unavailable
"""A batch whose orders are all refused for these reasons is refused as a whole, so the caller learns when to repeat."""

PlaceResult = Accepted | Order
"""The place of a new order in the log; or, for a repeated client_order_id, the first order as it is now."""


class OrderFilter(msgspec.Struct, frozen=True, kw_only=True):
    """A filter over one trader's orders; its texts come from a request and are not checked yet.

    `status` is `open`, or None for all. `before` is an order_id of the trader: the list goes on after that order.
    """

    status: str | None = None
    card: str | None = None
    side: str | None = None
    before: str | None = None
    limit: int = LATEST


class Exchange:
    """The exchange of one process. A caller sees only orders of its own; an admin sees those of every trader."""

    def __init__(
        self,
        settings: Settings,
        order_log: OrderLog,
        books: BookReader,
        notifier: MatchNotifier,
        archive: Archive,
        *,
        deadlines: DeadlineKeeper,
    ) -> None:
        self.cards = settings.cards
        self.rules = OrderRules(settings)
        self._books = books
        self._archive = archive
        self._reader = OrderReader(books, archive)
        self._log = order_log
        self._notifier = notifier
        self._changes = OrderChanges(books, self._reader)
        self._deadlines = deadlines

    # -- what operators see

    def waiting_commands(self) -> dict[str, int]:
        """See `OrderLog.waiting`."""
        return self._log.waiting()

    def archive_connections(self) -> tuple[int, int]:
        """See `Archive.connections`."""
        return self._archive.connections()

    async def wait_matched(self, card: str, sequence: int, seconds: float) -> bool:
        """See `MatchNotifier.wait`."""
        return await self._notifier.wait(card, sequence, seconds)

    # -- orders in

    def check_room(self, caller: Caller) -> None:
        """Refuses an order or batch that comes while there is no room for any order of the caller.

        Raises:
            Overloaded: see `OrderLog.check_room`.
        """
        self._log.check_room(caller.trader_id, self.cards)

    async def place(self, command: PlaceOrder) -> PlaceResult:
        """Appends an order that `rules` has checked; the order is durable when this returns.

        Returns the order's place in the log, or the first order if the client_order_id is a repeated one.

        Raises:
            ClientOrderIdConflict, RateLimited, TooManyOpenOrders: see `OrderLog.append`.
            HistoryConflict, Overloaded, Unavailable: see `OrderLog.append`.
        """
        accepted = await self._log.append(command)
        return accepted if accepted.accepted_at else await self._first_order(command, accepted)

    async def place_and_wait(self, command: PlaceOrder, seconds: float) -> tuple[Order, list[Fill]] | PlaceResult:
        """Places an order and waits up to `seconds` for its match.

        Returns the order and its fills after the match, or the result of `place` if the time is over first.

        Raises:
            ClientOrderIdConflict, HistoryConflict, Overloaded, Unavailable: see `OrderLog.append`.
        """
        deadline = _now() + seconds
        accepted = await self._log.append(command)
        if await self._notifier.wait(command.card, accepted.sequence, deadline - _now()):
            result = self._notifier.result(command, accepted)
            if result is not None:
                return result
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout_at(deadline):
                    return await self._order_and_fills(command, accepted)
        return accepted if accepted.accepted_at else await self._first_order(command, accepted)

    async def place_many(self, commands: Sequence[PlaceOrder]) -> list[PlaceResult | TcgxError]:
        """Places many orders; each has its own result or error, in the order of the commands.

        Raises:
            RateLimited, HistoryConflict, Overloaded, Unavailable: no order at all was placed, and this is the first
                one's error.
        """
        outcomes: list[PlaceResult | TcgxError] = [*await self._log.append_all(commands)]
        for place, outcome in enumerate(outcomes):
            if isinstance(outcome, Accepted) and outcome.accepted_at is None:
                try:
                    outcomes[place] = await self._first_order(commands[place], outcome)
                except TcgxError as error:
                    outcomes[place] = error
        if outcomes and all(isinstance(outcome, WHOLE_BATCH_ERRORS) for outcome in outcomes):
            raise next(outcome for outcome in outcomes if isinstance(outcome, TcgxError))
        return outcomes

    async def replace(
        self, caller: Caller, name: str, change: Change, seconds: float = 0.0
    ) -> tuple[Order, list[Fill]] | Order:
        """Appends the replace of an order of the caller, and waits up to `seconds` for its match.

        Returns the order that the replace has led to, and its fills: the new order, or the same one where it kept its
        place. If the time is over first, the result is the order as `OrderChanges.expected` has it.

        Raises:
            OrderNotFound: the order does not exist, or belongs to another trader.
            OrderCompleted: see `OrderChanges.check`.
            ClientOrderIdConflict, RateLimited: see `OrderLog.append`.
            HistoryConflict, Overloaded, Unavailable: see `OrderLog.append`.
        """
        deadline = _now() + seconds
        order = await self._find_own(caller, name)
        await self._changes.check(order, change)
        command = self._changes.replacement(order, change)
        accepted = await self._log.append(command)
        if seconds > 0 and await self._notifier.wait(order.card, accepted.sequence, deadline - _now()):
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout_at(deadline):
                    after = await self._changes.order_after(command, accepted)
                    return after, await self._reader.fills_of(after)
        return await self._changes.expected(order, command, accepted)

    async def submit(self, caller: Caller, asked: Sequence[BatchItem | RequestError]) -> list[PlaceResult | TcgxError]:
        """Places, cancels and replaces the items of a batch. Items that a door has refused keep their places.

        Raises:
            RateLimited, HistoryConflict, Overloaded, Unavailable: see `place_many` and `submit_many`.
        """
        orders = [item for item in asked if isinstance(item, PlaceOrder)]
        if len(orders) == len(asked):
            return await self.place_many(orders)
        items = [item for item in asked if not isinstance(item, RequestError)]
        found = await (self.place_many(orders) if len(orders) == len(items) else self.submit_many(caller, items))
        outcomes = iter(found)
        return [item if isinstance(item, RequestError) else next(outcomes) for item in asked]

    async def submit_many(self, caller: Caller, items: Sequence[BatchItem]) -> list[PlaceResult | TcgxError]:
        """Places, cancels and replaces orders; each item has its own result or error, in the order of the items.

        The result of a cancel is its order as it is before the match; that of a replace is as in `replace`.

        Raises:
            RateLimited, HistoryConflict, Overloaded, Unavailable: nothing was appended, and this is the first item's
                error.
        """
        targets = await self._targets(caller, items)
        outcomes: dict[int, PlaceResult | TcgxError] = {}
        commands: dict[int, Command] = {}
        for place, item in enumerate(items):
            target = targets.get(place)
            if isinstance(target, TcgxError):
                outcomes[place] = target
            else:
                commands[place] = self._changes.command(item, target)
        appended = await self._log.append_all([*commands.values()])
        for (place, command), outcome in zip(commands.items(), appended, strict=True):
            try:
                outcomes[place] = await self._result(command, outcome, targets.get(place))
            except TcgxError as error:
                outcomes[place] = error
        if all(isinstance(outcome, WHOLE_BATCH_ERRORS) for outcome in outcomes.values()):
            raise next(outcome for outcome in outcomes.values() if isinstance(outcome, TcgxError))
        return [outcomes[place] for place in range(len(items))]

    async def _result(
        self, command: Command, outcome: Accepted | TcgxError, target: Order | TcgxError | None
    ) -> PlaceResult | TcgxError:
        """The result of an item of a batch; see `submit_many`.

        Raises:
            Unavailable: an order of an earlier request cannot be read.
        """
        if isinstance(outcome, TcgxError):
            return outcome
        if isinstance(command, ReplaceOrder):
            assert isinstance(target, Order)  # noqa: S101 - a replace is made of its order
            return await self._changes.expected(target, command, outcome)
        if isinstance(target, Order):
            return target
        if outcome.accepted_at is None and isinstance(command, PlaceOrder):
            return await self._first_order(command, outcome)
        return outcome

    async def _targets(self, caller: Caller, items: Sequence[BatchItem]) -> dict[int, Order | TcgxError]:
        """The orders that the items of a batch name, or why there is none, by the places of the items."""
        named = {place: item for place, item in enumerate(items) if isinstance(item, CancelItem | ReplaceItem)}
        resting = await self._resting(caller, {item.order_id for item in named.values()})

        async def target(item: CancelItem | ReplaceItem) -> Order | TcgxError:
            try:
                order = resting.get(item.order_id) or await self._find_own(caller, item.order_id)
                await self._changes.check(order, item.change if isinstance(item, ReplaceItem) else Change())
            except TcgxError as error:
                return error
            return order

        found = await asyncio.gather(*(target(item) for item in named.values()))
        return dict(zip(named, found, strict=True))

    async def _resting(self, caller: Caller, names: Iterable[str]) -> dict[str, Order]:
        """Those of the caller's orders with these ids that rest, in one read a card."""
        sequences: dict[str, list[int]] = {}
        for name in names:
            card, _, digits = name.rpartition("-")
            if card in self.cards and SEQUENCE.fullmatch(digits):
                sequences.setdefault(card, []).append(int(digits))
        found = await asyncio.gather(*(self._books.resting(card, each) for card, each in sequences.items()))
        return {order.order_id: order for orders in found for order in orders if order.trader_id == caller.trader_id}

    async def _find_own(self, caller: Caller, name: str) -> Order:
        """Reads an order of the caller's own: an admin changes no order of another trader this way.

        Raises:
            OrderNotFound, Unavailable: see `find`.
        """
        order = await self.find(caller, name)
        if order.trader_id != caller.trader_id:
            raise OrderNotFound(name)
        return order

    async def cancel(self, caller: Caller, name: str, seconds: float = 0.0) -> tuple[Order, bool]:
        """Appends the cancel of an order, and waits up to `seconds` for the match of the cancel.

        Returns the order as it is then, and whether the cancel is matched.

        Raises:
            OrderNotFound: the order does not exist, or belongs to another trader.
            OrderCompleted: the order is completed already.
            HistoryConflict, Overloaded, Unavailable: see `OrderLog.append`.
        """
        order = await self.find(caller, name)
        if order.status in COMPLETED:
            raise OrderCompleted(order.order_id, order.status.value)
        deadline = _now() + seconds
        accepted = await self._log.append(
            CancelOrder(trader_id=order.trader_id, card=order.card, sequence=order.sequence)
        )
        if seconds > 0 and await self._notifier.wait(order.card, accepted.sequence, deadline - _now()):
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout_at(deadline):
                    return await self._reader.find(order.card, order.sequence) or order, True
        return order, False

    async def cancel_all(
        self, caller: Caller, card: str | None = None, seconds: float = 0.0
    ) -> tuple[list[Order], bool]:
        """Cancels every order of the caller that was accepted before this call, matched or not.

        `card` None means all cards. With `seconds` the call waits for the match of the cancels. It returns the canceled
        orders and True; or, without a wait or after a timeout, the orders that were open and False. The newest order
        comes first, and each card has at most `CANCELED_MAX`.

        Raises:
            InvalidRequest: the card is not traded.
            HistoryConflict, Overloaded, Unavailable: see `OrderLog.cancel_all`.
        """
        cards, trader_id = self._cards_of(card), caller.trader_id
        deadline = _now() + seconds
        resting = await asyncio.gather(
            *(self._open_lines(card, trader_id, deadline if seconds else None) for card in cards)
        )
        cancels = await self._cancel_each(trader_id, cards)
        if seconds > 0:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout_at(deadline):
                    canceled = await asyncio.gather(
                        *(
                            self._canceled_orders(card, each, deadline)
                            for card, each in zip(cards, cancels, strict=True)
                        )
                    )
                    return _newest_first(canceled), True
        return _newest_first(
            [await parse_orders(card, lines) for card, lines in zip(cards, resting, strict=True)]
        ), False

    async def cancel_after(self, caller: Caller, seconds: int) -> Deadlines:
        """Cancels every open order of the caller after so many seconds, unless it calls again; 0: never.

        Raises:
            HistoryConflict, Overloaded, Unavailable: see `DeadlineKeeper.set_switch`.
        """
        await self._deadlines.set_switch(caller.trader_id, seconds)
        return await self.deadlines_of(caller)

    async def deadlines_of(self, caller: Caller) -> Deadlines:
        """When the caller's open orders are canceled.

        Raises:
            Unavailable: Redis does not answer.
        """
        return await self._deadlines.read(caller.trader_id)

    # -- orders out

    async def find(self, caller: Caller, name: str) -> Order:
        """Reads an order by its order_id.

        Raises:
            OrderNotFound: the order does not exist, or belongs to another trader.
            Unavailable: Redis or PostgreSQL does not answer.
        """
        card, _, digits = name.rpartition("-")
        if card not in self.cards or not SEQUENCE.fullmatch(digits):
            raise OrderNotFound(name)
        order = await self._reader.find(card, int(digits))
        if order is None or not _may_see(caller, order):
            raise OrderNotFound(name)
        return order

    async def find_by_client_id(self, caller: Caller, client_order_id: str) -> Order:
        """Reads the caller's latest order with this client_order_id, over all cards.

        Raises:
            OrderNotFound: the caller has no such order.
            Unavailable: Redis or PostgreSQL does not answer.
        """
        trader_id = caller.trader_id
        if not CLIENT_ORDER_ID.fullmatch(client_order_id):
            raise OrderNotFound(client_order_id, f"; a client_order_id {CLIENT_ORDER_ID_RULE}")
        remembered = await asyncio.gather(
            *(self._books.client_order(card, trader_id, client_order_id) for card in self.cards)
        )
        found = await asyncio.gather(
            *(
                self._changes.find(card, known.sequence, known.replaces)
                for card, known in zip(self.cards, remembered, strict=True)
                if known is not None
            )
        )
        if not any(found):
            # An order may rest for longer than Redis keeps its client_order_id.
            found = await asyncio.gather(
                *(self._reader.find_open(card, trader_id, client_order_id) for card in self.cards)
            )
        orders = [order for order in found if order is not None]
        if not orders:
            archived = await self._archive.client_order(trader_id, client_order_id)
            orders = [archived] if archived else []
        if not orders:
            raise OrderNotFound(client_order_id)
        return max(orders, key=order_key)

    def end_waits(self) -> None:
        """Ends all waits for matches, now and later, since the process stops."""
        self._notifier.end_waits()

    async def orders(self, caller: Caller, order_filter: OrderFilter) -> tuple[list[Order], Order | None]:
        """Lists the caller's orders, newest first.

        Returns a page, and the order that is `before` of the next page: None if this page is the last one. A page that
        is filtered by side may be short although more orders follow.

        Raises:
            InvalidRequest: a filter is wrong; the error names every wrong one.
            Unavailable: Redis or PostgreSQL does not answer.
        """
        self._check_filter(order_filter)
        limit, trader_id = order_filter.limit, caller.trader_id
        cards = self._cards_of(order_filter.card)
        side = None if order_filter.side is None else Side(order_filter.side)
        before = None if order_filter.before is None else await self._own_order(caller, "before", order_filter.before)
        if order_filter.status is not None:
            found = await self._reader.open_orders(trader_id, cards, side=side, before=before, limit=limit + 1)
            return found[:limit], found[limit - 1] if len(found) > limit else None
        if before is None and side is None:
            return await self._reader.latest(trader_id, cards, limit)
        return await self._reader.orders(trader_id, cards, side=side, before=before, limit=limit)

    async def fills_of(self, order: Order) -> list[Fill]:
        """Reads all fills of an order, oldest first; their quantities add up to `filled_quantity`.

        Raises:
            Unavailable: some fills are in the archive, and the archive cannot be read.
        """
        return await self._reader.fills_of(order)

    async def fills_of_many(self, orders: Iterable[Order]) -> dict[str, list[Fill]]:
        """Reads all fills of many orders, by their order_ids, oldest first.

        Raises:
            Unavailable: the archive cannot be read.
        """
        return await self._reader.fills_of_many(orders)

    async def fills(
        self, caller: Caller, *, card: str | None = None, name: str | None = None, before: str | None, limit: int
    ) -> tuple[list[Fill], str | None]:
        """Lists the caller's fills, newest first: on one card, or of the order with the order_id `name`.

        Returns a page, and `before` of the next page: None if this page is the last one. A page may be short although
        more fills follow.

        Raises:
            InvalidRequest: the card, the order_id, `before` or `limit` is wrong.
            Unavailable: the archive cannot be read.
        """
        _check_count("limit", limit, PAGE_LIMIT_MAX)
        cards = self._cards_of(card)
        start = None if before is None else FillKey.parse(before)
        if name is None:
            found, following = await self._reader.fills(caller.trader_id, cards, before=start, limit=limit)
            return found, following and following.text
        order = await self._own_order(caller, "order_id", name)
        if card not in (None, order.card):
            raise InvalidRequest([Violation("order_id", "invalid_order_id", f"must be an order_id of {card}", name)])
        found, following = await self._reader.fills_of_order(order, before=start, limit=limit)
        return found, following and following.text

    # -- market data

    async def book(self, card: str, levels: int) -> Depth:
        """Reads the best price levels of a card's book, at most `levels` of each side.

        Raises:
            UnknownCard: the card is not traded.
            InvalidRequest: `levels` is not from 1 to `DEPTH_MAX`.
            Unavailable: Redis does not answer.
        """
        self._check_traded(card)
        _check_count("depth", levels, DEPTH_MAX)
        return await self._books.depth(card, levels)

    async def latest_trades(self, card: str, limit: int) -> list[Trade]:
        """Reads a card's latest trades, newest first.

        Raises:
            UnknownCard: the card is not traded.
            InvalidRequest: `limit` is not from 1 to `LATEST`.
            Unavailable: Redis does not answer.
        """
        self._check_traded(card)
        _check_count("limit", limit, LATEST)
        return await self._books.latest_trades(card, limit)

    # -- internal

    def _check_traded(self, card: str) -> None:
        if card not in self.cards:
            raise UnknownCard(card, self.cards)

    def _cards_of(self, card: str | None) -> tuple[str, ...]:
        """The cards that a filter by card selects: one, or all for None."""
        if card is None:
            return self.cards
        if card not in self.cards:
            raise InvalidRequest([self._unknown_card(card)])
        return (card,)

    def _unknown_card(self, card: str) -> Violation:
        rule = "must be one of " + ", ".join(self.cards)
        return Violation("card", "unknown_card", rule, printable(card))

    def _check_filter(self, order_filter: OrderFilter) -> None:
        errors = []
        if order_filter.status is not None and order_filter.status != "open":
            errors.append(Violation("status", "invalid_status", "must be open", printable(order_filter.status)))
        if order_filter.card is not None and order_filter.card not in self.cards:
            errors.append(self._unknown_card(order_filter.card))
        if order_filter.side is not None and order_filter.side not in tuple(Side):
            rule = "must be one of " + ", ".join(Side)
            errors.append(Violation("side", "invalid_side", rule, printable(order_filter.side)))
        limit_max = LATEST if order_filter.status is None else OPEN_LIMIT_MAX
        if not 1 <= order_filter.limit <= limit_max:
            rule = f"must be a whole number from 1 to {LATEST}, or to {OPEN_LIMIT_MAX} with status=open"
            errors.append(Violation("limit", "invalid_limit", rule, str(order_filter.limit)))
        if errors:
            raise InvalidRequest(errors)

    async def _own_order(self, caller: Caller, field: str, name: str) -> Order:
        """Reads the order whose order_id a field of a request has.

        Raises:
            InvalidRequest: the caller has no such order.
        """
        try:
            return await self.find(caller, name)
        except OrderNotFound:
            rule = "must be an order_id of yours, like pikachu-1001"
            raise InvalidRequest([Violation(field, f"invalid_{field}", rule, printable(name))]) from None

    async def _order_and_fills(self, command: PlaceOrder, accepted: Accepted) -> tuple[Order, list[Fill]]:
        """Reads a matched order and its fills back."""
        order = await self._reader.find(command.card, accepted.sequence)
        if order is None:
            raise Unavailable(f"order {order_id(command.card, accepted.sequence)} was matched but can't be read now")
        return order, await self._reader.fills_of(order)

    async def _open_lines(self, card: str, trader_id: int, deadline: float | None) -> list[bytes]:
        """Reads the lines of a trader's open orders on a card, as many as the deadline allows."""
        found: list[bytes] = []
        with contextlib.suppress(TimeoutError):
            async with (
                asyncio.timeout_at(deadline),
                contextlib.aclosing(self._books.open_lines(card, trader_id)) as pages,
            ):
                async for lines in pages:
                    found += lines
                    if len(found) >= CANCELED_MAX:
                        break
        return found[:CANCELED_MAX]

    async def _cancel_each(self, trader_id: int, cards: Sequence[str]) -> list[CancelAllResult]:
        """Appends a trader's cancels to the log of each card.

        Raises:
            TcgxError: the append to one of the logs failed.
        """
        outcomes = await asyncio.gather(
            *(self._log.cancel_all(card, trader_id) for card in cards), return_exceptions=True
        )
        appended = [outcome for outcome in outcomes if isinstance(outcome, CancelAllResult)]
        for outcome in outcomes:
            if isinstance(outcome, TcgxError) and any(cancels.orders for cancels in appended):
                raise Unavailable("Only a part of the cards was asked to cancel") from outcome
            if isinstance(outcome, BaseException):
                raise outcome
        return appended

    async def _canceled_orders(self, card: str, cancels: CancelAllResult, deadline: float) -> list[Order]:
        """Waits for the match of the cancels, and reads the orders that they canceled.

        Raises:
            TimeoutError: the cancels are not matched by the deadline.
        """
        if not await self._notifier.wait(card, cancels.last, deadline - _now()):
            raise TimeoutError
        return await self._reader.canceled_orders(card, cancels, CANCELED_MAX)

    async def _first_order(self, command: PlaceOrder, accepted: Accepted) -> Order:
        """Reads the first order with the client_order_id of a repeated one."""
        first = await self._reader.find(command.card, accepted.sequence)
        if first is None:
            raise Unavailable(f"order {order_id(command.card, accepted.sequence)} can't be read now")
        return first


def _check_count(field: str, count: int, count_max: int) -> None:
    """Bounds a number of items that a caller asks for.

    Raises:
        InvalidRequest: the count is not from 1 to `count_max`.
    """
    if not 1 <= count <= count_max:
        rule = f"must be a whole number from 1 to {count_max}"
        raise InvalidRequest([Violation(field, f"invalid_{field}", rule, str(count))])


def _may_see(caller: Caller, order: Order) -> bool:
    return caller.role == "admin" or order.trader_id == caller.trader_id


def _newest_first(by_card: Iterable[list[Order]]) -> list[Order]:
    return sorted((order for orders in by_card for order in orders), key=order_key, reverse=True)


def _now() -> float:
    """The time of the event loop, in which deadlines are given."""
    return asyncio.get_running_loop().time()
