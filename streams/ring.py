"""The latest match calls of a card: what subscribers read from, each from its own position on."""

from bisect import bisect_right
from collections.abc import Iterator, Sequence

from engine.events import Event
from streams import messages
from streams.messages import Message
from streams.orders import messages_by_trader


class MatchCall:
    """One match call. Its messages are encoded once, when the first subscriber needs them."""

    __slots__ = ("_event", "_orders", "_trades", "first", "last")

    def __init__(self, event: Event) -> None:
        self.first = event.first
        self.last = event.last
        self._event = event
        self._trades: Message | None = None
        self._orders: dict[int, list[Message]] | None = None

    @property
    def trades(self) -> Message | None:
        """The message with its trades; None if there are none."""
        if self._trades is None and self._event.trade_lines:
            self._trades = messages.trades(self._event.card, self.last, self._event.trade_lines)
        return self._trades

    @property
    def trade_lines(self) -> bytes:
        """The trades as lines (docs/data.md)."""
        return self._event.trade_lines

    @property
    def has_orders(self) -> bool:
        """Whether the event tells what happened to orders."""
        return self._event.opened_lines is not None

    def orders(self, trader_id: int) -> Sequence[Message]:
        """The messages about orders of a trader."""
        if self._orders is None:
            self._orders = messages_by_trader(self._event)
        return self._orders.get(trader_id, ())


class Ring:
    """Successive match calls without a gap, of about the latest `commands_max` commands."""

    def __init__(self, *, commands_max: int, position: int) -> None:
        self._commands_max = commands_max
        self._calls: list[MatchCall] = []
        self._lasts: list[int] = []
        self.floor = position
        """The last command before the first call. A reader before it has missed calls."""

    @property
    def last(self) -> int:
        """The last command."""
        return self._lasts[-1] if self._lasts else self.floor

    def add(self, call: MatchCall) -> None:
        """Adds the next call. After a gap the ring begins anew."""
        if call.first != self.last + 1:
            self.restart(call.first - 1)
        self._calls.append(call)
        self._lasts.append(call.last)
        if self.last - self.floor > 2 * self._commands_max:
            self._drop_oldest()

    def restart(self, position: int) -> None:
        """Drops all calls."""
        self._calls, self._lasts = [], []
        self.floor = position

    def prepend(self, calls: Sequence[MatchCall]) -> None:
        """Adds earlier calls, which must end where the ring begins."""
        if not calls or calls[-1].last != self.floor:
            return
        self._calls = [*calls, *self._calls]
        self._lasts = [call.last for call in self._calls]
        self.floor = calls[0].first - 1

    def after(self, sequence: int) -> Iterator[MatchCall]:
        """The calls that have commands after this one, oldest first."""
        for place in range(bisect_right(self._lasts, sequence), len(self._calls)):
            yield self._calls[place]

    def _drop_oldest(self) -> None:
        count = bisect_right(self._lasts, self.last - self._commands_max)
        if count == 0:
            return
        self.floor = self._lasts[count - 1]
        del self._calls[:count]
        del self._lasts[:count]
