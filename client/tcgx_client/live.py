"""A local book that is kept by a stream, and that knows whether it may be believed."""

from typing import TypeVar

from tcgx_client.book import BookState, BookView, Outcome
from tcgx_client.effects import Call
from tcgx_client.errors import Stale, Timeout
from tcgx_client.events import BookSnapshot, BookUpdate, Disconnected, Event, Heartbeat
from tcgx_client.models import Level
from tcgx_client.session import Session
from tcgx_client.streaming import SILENCE_SECONDS, Settings, StreamCore, Transport

STUCK_SECONDS = 2.0
"""A book may be behind a heartbeat for so long."""

T = TypeVar("T")


class LiveBookCore:
    """The book of one card, and the stream that it comes from."""

    def __init__(
        self, session: Session, card: str, *, allow_stale: bool, transport: Transport, interval: int | None
    ) -> None:
        self._clock = session.clock
        self._allow_stale = allow_stale
        self.state = BookState(card)
        self.stream = StreamCore(session, Settings(channels=(f"book:{card}",), transport=transport, interval=interval))
        self._ahead: tuple[int, float] | None = None
        """A position that the book has to reach, and since when the book is behind it."""

    # -- reading

    @property
    def age(self) -> float:
        """The seconds since anything came from the exchange."""
        return self._clock() - self.stream.heard_at

    @property
    def is_live(self) -> bool:
        """Whether the levels are those of the exchange, as far as the client can know."""
        return self.state.is_live and self.age <= SILENCE_SECONDS and not self._is_stuck()

    def view(self) -> BookView:
        """The book as it is now.

        Raises:
            Stale: the book is not live, and `allow_stale` was not given.
        """
        if not self.is_live and not self._allow_stale:
            raise Stale(f"the book of {self.state.card} is not live: its levels may be wrong")
        return self.state.view()

    # -- following

    def poll(self, timeout: float | None) -> Call[bool]:
        """Waits for a change of the book, or of whether it is live. Returns False if none came in time."""
        deadline = None if timeout is None else self._clock() + timeout
        while not self.stream.is_closed:
            event = yield from self.stream.next(self._patience(deadline))
            is_changed = yield from self._take(event)
            while is_changed and self.stream.has_events:
                yield from self._take((yield from self.stream.next(0)))
            if is_changed:
                return True
            if event is None and deadline is not None and self._clock() >= deadline:
                return False
        return False

    def _patience(self, deadline: float | None) -> float | None:
        times = [] if deadline is None else [deadline]
        if self._ahead is not None:
            times.append(self._ahead[1] + STUCK_SECONDS)
        return max(0.0, min(times) - self._clock()) if times else None

    def _take(self, event: Event | None) -> Call[bool]:
        """Takes an event. Returns whether the book, or whether it is live, has changed."""
        if isinstance(event, BookSnapshot | BookUpdate):
            return (yield from self._apply(event))
        if isinstance(event, Disconnected):
            self._invalidate()
            return True
        if isinstance(event, Heartbeat):
            self._compare(event)
        if self._is_stuck():
            self._invalidate()
            yield from self.stream.reconnect("stuck", "the book stays behind the heartbeats")
            return True
        return False

    def _apply(self, message: BookSnapshot | BookUpdate) -> Call[bool]:
        outcome = self.state.apply(message)
        if outcome is Outcome.BROKEN:
            self._ahead = None
            yield from self.stream.reconnect("broken", "an update does not follow the book")
        elif self._ahead is not None and self.state.sequence >= self._ahead[0]:
            self._ahead = None
        return outcome is not Outcome.IGNORED

    def _compare(self, heartbeat: Heartbeat) -> None:
        position = heartbeat.positions.get(self.state.card, -1)
        reached = self.state.sequence if self.state.is_live else -1
        if position > reached and self._ahead is None:
            self._ahead = (position, self._clock())

    def _is_stuck(self) -> bool:
        return self._ahead is not None and self._clock() - self._ahead[1] >= STUCK_SECONDS

    def _invalidate(self) -> None:
        self._ahead = None
        self.state.invalidate()

    def next_view(self, timeout: float | None) -> Call[BookView | None]:
        """The book after its next change, live or not; None once closed or if there was none in time."""
        is_changed = yield from self.poll(timeout)
        return self.state.view() if is_changed else None

    def wait_live(self, timeout: float) -> Call[BookView]:
        """Waits until the book is live.

        Raises:
            Timeout: it was not in time.
        """
        return (yield from self._wait(0, timeout))

    def wait_for(self, sequence: int, timeout: float) -> Call[BookView]:
        """Waits until the book contains a command.

        Raises:
            Timeout: it did not in time.
        """
        return (yield from self._wait(sequence, timeout))

    def _wait(self, sequence: int, timeout: float) -> Call[BookView]:
        deadline = self._clock() + timeout
        while not (self.is_live and self.state.sequence >= sequence):
            left = deadline - self._clock()
            if left <= 0 or self.stream.is_closed:
                state = "live" if self.is_live else "not live"
                raise Timeout(
                    f"the book of {self.state.card} is {state} at {self.state.sequence}, not at {sequence}, "
                    f"after {timeout:g} s"
                )
            yield from self.poll(left)
        return self.state.view()

    def close(self) -> Call[None]:
        """Ends the stream."""
        self._invalidate()
        yield from self.stream.close()


def first(levels: tuple[Level, ...], count: int | None) -> tuple[Level, ...]:
    """The best levels, all if no count is given."""
    return levels if count is None else levels[:count]
