"""`tcgx watch`: a card's book, its last trades and rates, drawn anew as they change. It is made with `tcgx_client`."""

import argparse
import os
import shutil
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import TextIO

from tcgx_client import (
    AsyncStream,
    AsyncTcgx,
    BookSnapshot,
    BookState,
    BookUpdate,
    Connected,
    Disconnected,
    Event,
    Gap,
    Outcome,
    TcgxError,
    Trade,
    Trades,
)
from tcgx_client.models import Level

from cli.ladder import GREEN, PLAIN, RED, TerminalStyle, ladder, terminal_style
from cli.run_file import find_running
from core.errors import StartError
from core.settings import Settings
from engine.book_reader import Depth

FRAME_SECONDS = 0.1
"""The shortest time between two frames in a terminal."""

PLAIN_FRAME_SECONDS = 1.0
"""The same where the output is no terminal."""

RATE_SECONDS = 10.0
TAPE_MAX = 8
FIXED_ROWS = 8
"""Rows of a frame beside levels and trades."""

ENTER, LEAVE = "\x1b[?1049h\x1b[?25l", "\x1b[?25h\x1b[?1049l"
HOME, CLEAR_LINE, CLEAR_REST = "\x1b[H", "\x1b[K", "\x1b[J"
Clock = Callable[[], float]


class Rates:
    """Counts of the last seconds."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._began = clock()
        self._counts: deque[tuple[float, int]] = deque()

    def add(self, count: int) -> None:
        """Counts something that happened now."""
        self._counts.append((self._clock(), count))

    def per_second(self) -> float:
        """How many there were in each of the last seconds."""
        now = self._clock()
        while self._counts and self._counts[0][0] < now - RATE_SECONDS:
            self._counts.popleft()
        seconds = min(RATE_SECONDS, max(1.0, now - self._began))
        return sum(count for _, count in self._counts) / seconds


class Screen:
    """What is known of a card, and how it is drawn."""

    def __init__(self, card: str, style: TerminalStyle, *, color: bool, clock: Clock = time.monotonic) -> None:
        self.state = "connecting"
        self._card = card
        self._style = style
        self._color = color
        self._book = BookState(card)
        self._tape: deque[Trade] = deque(maxlen=TAPE_MAX)
        self._commands, self._trades, self._cards = Rates(clock), Rates(clock), Rates(clock)

    def take(self, event: Event) -> Outcome | None:
        """Takes an event of the stream. Returns what it did to the book, if it is about the book."""
        if isinstance(event, BookSnapshot | BookUpdate):
            return self._take_book(event)
        if isinstance(event, Trades):
            self._tape.extendleft(event.trades)
            self._trades.add(len(event.trades))
            self._cards.add(sum(trade.quantity for trade in event.trades))
        elif isinstance(event, Connected):
            self.state = "waiting for the book"
        elif isinstance(event, Disconnected):
            self._book.invalidate()
            self.state = f"STALE: {event.detail or event.code}; next try in {event.retry_seconds:.1f} s"
        elif isinstance(event, Gap):
            self.state = f"trades of the commands {event.after + 1} to {event.before - 1} are missing"
        return None

    def _take_book(self, message: BookSnapshot | BookUpdate) -> Outcome:
        outcome = self._book.apply(message)
        if outcome is Outcome.APPLIED:
            self.state = "live"
            if isinstance(message, BookUpdate):
                self._commands.add(message.sequence - message.previous_sequence)
        elif outcome is Outcome.BROKEN:
            self.state = "STALE: an update is missing"
        return outcome

    def frame(self, rows: int) -> str:
        """The picture, in so many rows at most."""
        view = self._book.view()
        levels = max(1, (rows - FIXED_ROWS - TAPE_MAX) // 2)
        depth = Depth(view.sequence, _cents(view.bids[:levels]), _cents(view.asks[:levels]))
        rates = (
            f"{self._commands.per_second():,.0f} commands/s, {self._trades.per_second():,.0f} trades/s, "
            f"{self._cards.per_second():,.0f} cards/s"
        )
        lines = [f"{self.state} - {rates}", *ladder(self._card, depth, self._style).splitlines(), ""]
        lines += [self._line(trade) for trade in self._tape]
        return "\n".join(line if "\x1b" in line else line[: self._style.width] for line in lines[:rows])

    def _line(self, trade: Trade) -> str:
        at = _local(trade.executed_at)
        word = "bought" if trade.taker_side == "buy" else "sold"
        text = f"{at} {trade.price:>9} {trade.quantity:>7,} {word}"[: self._style.width]
        return f"{GREEN if word == 'bought' else RED}{text}{PLAIN}" if self._color else text


def _cents(levels: tuple[Level, ...]) -> list[tuple[int, int]]:
    return [(int(price * 100), quantity) for price, quantity in levels]


def _local(at: datetime) -> str:
    return at.astimezone().strftime("%H:%M:%S.") + f"{at.microsecond // 1_000:03d}"


@contextmanager
def _screen(output: TextIO, *, is_terminal: bool) -> Iterator[Callable[[str], None]]:
    """Where frames are drawn: the other screen of a terminal, or one below the other."""
    if not is_terminal:
        yield lambda frame: print(frame, end="\n\n", file=output, flush=True)
        return

    def draw(frame: str) -> None:
        output.write(HOME + frame.replace("\n", f"{CLEAR_LINE}\n") + CLEAR_LINE + CLEAR_REST)
        output.flush()

    output.write(ENTER)
    try:
        yield draw
    finally:
        output.write(LEAVE)
        output.flush()


def _url(arguments: argparse.Namespace, configured: Settings) -> str:
    if arguments.url:
        return str(arguments.url)
    here = find_running(configured.data_dir)
    return here.api if here is not None else f"http://127.0.0.1:{configured.port}"


async def run(arguments: argparse.Namespace, configured: Settings) -> int:
    """Draws until Ctrl-C, or so many frames as are asked for."""
    style = terminal_style(sys.stdout, os.environ, arguments.color)
    screen = Screen(arguments.card, style, color=style.color)
    try:
        async with AsyncTcgx(_url(arguments, configured)) as client:
            await _check(client, arguments.card)
            await _watch(client, screen, arguments)
    except (TcgxError, ValueError) as error:
        raise StartError(str(error)) from error
    return 0


async def _check(client: AsyncTcgx, card: str) -> None:
    names = [each.card for each in await client.cards()]
    if card not in names:
        raise StartError(f"there is no card {card!r}; there are {', '.join(names)}")


async def _watch(client: AsyncTcgx, screen: Screen, arguments: argparse.Namespace) -> None:
    is_terminal = sys.stdout.isatty()
    pause = FRAME_SECONDS if is_terminal else PLAIN_FRAME_SECONDS
    left: int | None = arguments.frames
    channels = (f"book:{arguments.card}", f"trades:{arguments.card}")
    with _screen(sys.stdout, is_terminal=is_terminal) as draw:
        while left != 0:
            async with client.stream(*channels) as stream:
                is_whole = True
                while is_whole and left != 0:
                    is_whole = await _gather(stream, screen, pause)
                    rows = shutil.get_terminal_size().lines if is_terminal else 40
                    draw(screen.frame(rows))
                    left = None if left is None else left - 1


async def _gather(stream: AsyncStream, screen: Screen, seconds: float) -> bool:
    """Takes events for so long. Returns False if the book is broken, so that another stream is needed."""
    deadline = time.monotonic() + seconds
    while (rest := deadline - time.monotonic()) > 0:
        event = await stream.next(rest)
        if event is not None and screen.take(event) is Outcome.BROKEN:
            return False
    return True
