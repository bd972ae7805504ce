"""The queue of a card's commands that wait for an append, shared fairly between traders."""

import asyncio
import heapq
from collections import Counter
from collections.abc import Sequence

from core.errors import TcgxError
from core.model import COMMANDS_MAX, Accepted, CancelOrder, Command

Outcome = Accepted | TcgxError
Submission = tuple[int, Sequence[Command], "asyncio.Future[list[Outcome]]"]
"""The trader, commands of one card (at most `COMMANDS_MAX`), and the future of their outcomes."""

CANCELS_SHARE = 10
"""Bounds of orders have a tenth more for cancels, which are taken where orders are refused."""

SHARE = 8
"""A trader may have this many waiting commands for each command that the queue still has room for."""


def is_cancels(commands: Sequence[Command]) -> bool:
    """Whether commands are cancels alone."""
    return all(isinstance(command, CancelOrder) for command in commands)


def with_reserve(bound: int) -> int:
    """A bound of orders as it is for cancels."""
    return bound + max(1, bound // CANCELS_SHARE)


class FairQueue:
    """Submissions leave in order of arrival while all of them fit into one append. Beyond that, traders take turns.

    The turns are those of self-clocked fair queuing (Golestani, 1994), counted in commands. A submission comes as many
    commands after the trader's previous one as it has itself, or after the current turn if that is later. So a single
    order goes before the second batch of another trader. The submissions of one trader keep their order.

    The room is shared by dynamic thresholds (Choudhury and Hahne, 1998): the fuller the queue, the fewer commands of
    one trader may wait. A flood of one trader leaves a ninth of the queue to others, floods of ten traders an 81st.

    Where an order has no room, a cancel may have: the reserve is a tenth of the queue, shared by the same rule. What
    waits in the reserve takes no room from orders.
    """

    def __init__(self, pending_max: int) -> None:
        self.pending = 0
        self._pending_max = pending_max
        self._pending_max_of_any = pending_max * SHARE // (SHARE + 1)
        self._reserve_max = with_reserve(pending_max) - pending_max
        self._reserved: set[int] = set()  # identities of the submissions that wait in the reserve
        self._reserved_of: Counter[int] = Counter()  # their commands by trader
        self._arrived: list[Submission] = []
        self._turns: _Turns | None = None

    def put(self, submission: Submission) -> bool:
        """Adds a submission. Returns whether there was room for it."""
        if not self.has_room(submission[0]):
            if not self._has_reserve(submission):
                return False
            self._reserved.add(id(submission))
            self._reserved_of[submission[0]] += len(submission[1])
        self.pending += len(submission[1])
        if self._turns is not None:
            self._turns.put(submission)
            return True
        self._arrived.append(submission)
        if self.pending > COMMANDS_MAX:
            self._take_turns()
        return True

    def pending_of(self, trader_id: int) -> int:
        """The number of a trader's waiting commands."""
        return self._take_turns().pending_of.get(trader_id, 0)

    def take(self) -> list[Submission]:
        """Takes whole submissions for the next append, up to `COMMANDS_MAX` commands."""
        if self._turns is None or self.pending <= COMMANDS_MAX:
            return self.take_all()
        taken = self._turns.take()
        self.pending -= sum(len(commands) for _, commands, _ in taken)
        for submission in taken if self._reserved else ():
            if id(submission) in self._reserved:
                self._reserved.discard(id(submission))
                self._reserved_of[submission[0]] -= len(submission[1])
        return taken

    def take_all(self) -> list[Submission]:
        """Takes all submissions, in order of arrival."""
        taken = self._arrived if self._turns is None else self._turns.arrived()
        self.pending, self._arrived, self._turns = 0, [], None
        self._reserved.clear()
        self._reserved_of.clear()
        return taken

    def has_room(self, trader_id: int) -> bool:
        """Whether `put` adds orders of this trader now."""
        if self.pending < self._pending_max_of_any:
            return True
        room = self._pending_max - self.pending + self._reserved_of.total()
        return room > 0 and self.pending_of(trader_id) - self._reserved_of[trader_id] < SHARE * room

    def _has_reserve(self, submission: Submission) -> bool:
        trader_id, commands, _ = submission
        room = self._reserve_max - self._reserved_of.total()
        return len(commands) <= room and self._reserved_of[trader_id] < SHARE * room and is_cancels(commands)

    def _take_turns(self) -> "_Turns":
        if self._turns is None:
            self._turns = _Turns()
            for submission in self._arrived:
                self._turns.put(submission)
            self._arrived = []
        return self._turns


class _Turns:
    """Submissions by turn. Only a crowded queue needs them, which keeps a calm one as cheap as a list."""

    def __init__(self) -> None:
        self.pending_of: dict[int, int] = {}  # by trader with waiting commands
        self._last_turn_of: dict[int, int] = {}  # by the same traders
        self._heap: list[tuple[int, int, Submission]] = []  # turn, arrival, submission
        self._arrivals = 0
        self._turn = 0

    def put(self, submission: Submission) -> None:
        """Gives a submission its turn."""
        trader_id, commands, _ = submission
        turn = max(self._last_turn_of.get(trader_id, 0), self._turn) + len(commands)
        self._last_turn_of[trader_id] = turn
        self.pending_of[trader_id] = self.pending_of.get(trader_id, 0) + len(commands)
        self._arrivals += 1
        heapq.heappush(self._heap, (turn, self._arrivals, submission))

    def take(self) -> list[Submission]:
        """Takes the submissions whose turn it is, up to `COMMANDS_MAX` commands; among them those that came first are
        first."""
        heap, taken, room = self._heap, [], COMMANDS_MAX
        while heap and len(heap[0][2][1]) <= room:
            turn, arrival, submission = heapq.heappop(heap)
            trader_id, commands, _ = submission
            taken.append((arrival, submission))
            room -= len(commands)
            self._turn = turn
            self.pending_of[trader_id] -= len(commands)
            if not self.pending_of[trader_id]:
                del self.pending_of[trader_id], self._last_turn_of[trader_id]
        taken.sort()
        return [submission for _, submission in taken]

    def arrived(self) -> list[Submission]:
        """All submissions, in order of arrival."""
        return [submission for _, _, submission in sorted(self._heap, key=lambda entry: entry[1])]
