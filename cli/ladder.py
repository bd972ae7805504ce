"""A drawing of a book for a terminal: bids on the left, asks on the right, bars that grow away from the prices."""

import shutil
import textwrap
from collections.abc import Mapping
from typing import Literal, TextIO

import msgspec

from core.model import price_text
from engine.book_reader import Depth

ColorChoice = Literal["auto", "always", "never"]
Level = tuple[int, int]
"""Price in cents, and quantity."""

WIDTH_MAX = 120
BAR_MAX = 40
GREEN, RED, PLAIN = "\x1b[32m", "\x1b[31m", "\x1b[0m"


class Glyphs(msgspec.Struct, frozen=True):
    """The characters of a drawing. A bar may end with half a character if the encoding has one."""

    column: str
    rule: str
    full: str
    left_half: str
    right_half: str
    between: str


BLOCKS = Glyphs(column="│", rule="─", full="█", left_half="▌", right_half="▐", between=" · ")
ASCII = Glyphs(column="|", rule="-", full="#", left_half="", right_half="", between=", ")


class TerminalStyle(msgspec.Struct, frozen=True):
    """The abilities of a terminal: columns, colours and characters."""

    width: int = 80
    color: bool = False
    glyphs: Glyphs = BLOCKS


def terminal_style(stream: TextIO, environment: Mapping[str, str], color: ColorChoice = "auto") -> TerminalStyle:
    """Returns the style for a stream. `auto` colours on a terminal that is not dumb, unless NO_COLOR is set."""
    able = stream.isatty() and environment.get("TERM", "dumb") != "dumb" and not environment.get("NO_COLOR")
    return TerminalStyle(
        width=shutil.get_terminal_size().columns,
        color=color == "always" or (color == "auto" and able),
        glyphs=_glyphs(stream.encoding),
    )


def _glyphs(encoding: str) -> Glyphs:
    try:
        "".join(msgspec.structs.astuple(BLOCKS)).encode(encoding)
    except UnicodeEncodeError:
        return ASCII
    return BLOCKS


def ladder(card: str, depth: Depth, style: TerminalStyle) -> str:
    """Draws asks above bids, with spread and mid price between them, and the totals of the shown levels below.

    No line is longer than the width of the style; 40 columns have room for prices and quantities of 9 digits.
    """
    if not depth.bids and not depth.asks:
        sentence = f"{card}: the book is empty: nobody buys or sells (after command {depth.sequence:,})"
        return textwrap.fill(sentence, style.width)
    grid = _Grid(depth, style)
    lines = [
        textwrap.fill(f"{card} after command {depth.sequence:,}", style.width),
        grid.line("bids", "price", "asks"),
        *(grid.ask(level) for level in reversed(depth.asks)),
        grid.rule(_between(depth, style.glyphs)),
        *(grid.bid(level) for level in depth.bids),
        grid.rule(),
        grid.line(_total(depth.bids), "total", _total(depth.asks)),
    ]
    return "\n".join(line.rstrip() for line in lines)


class _Grid:
    """The columns: bar, quantity, price, quantity, bar. Both sides are equally wide: the prices are in the middle."""

    def __init__(self, depth: Depth, style: TerminalStyle) -> None:
        levels = [*depth.bids, *depth.asks]
        self._style = style
        self._largest = max(quantity for _, quantity in levels)
        self._price = max(len("total"), *(len(price_text(price_cents)) for price_cents, _ in levels))
        self._quantity = max(len("bids"), len(_total(depth.bids)), len(_total(depth.asks)))
        room = (min(style.width, WIDTH_MAX) - self._price - len(" | ") * 2) // 2 - self._quantity - 1
        self._bar = max(0, min(room, BAR_MAX))

    def line(self, bids: str, price: str, asks: str) -> str:
        """Formats a line with a text on either side of the prices."""
        half, column = self._half(), self._style.glyphs.column
        return f"{bids:>{half}} {column} {price:>{self._price}} {column} {asks}"

    def bid(self, level: Level) -> str:
        """Formats a price level of the bids; its bar grows to the left."""
        price_cents, quantity = level
        text = f"{self._draw_bar(quantity, toward_left=True)} {quantity:>{self._quantity},}".strip()
        blank = " " * (self._half() - len(text))
        return self.line(blank + self._colorize(text, GREEN), price_text(price_cents), "")

    def ask(self, level: Level) -> str:
        """Formats a price level of the asks; its bar grows to the right."""
        price_cents, quantity = level
        text = f"{quantity:<{self._quantity},} {self._draw_bar(quantity, toward_left=False)}".strip()
        return self.line("", price_text(price_cents), self._colorize(text, RED))

    def rule(self, text: str = "") -> str:
        """Formats a horizontal rule with a text in its middle."""
        width = 2 * self._half() + self._price + 2 * len(" | ")
        return (f" {text} " if text else "").center(width, self._style.glyphs.rule)

    def _half(self) -> int:
        return self._quantity + (self._bar + 1 if self._bar else 0)

    def _draw_bar(self, quantity: int, *, toward_left: bool) -> str:
        """Formats a bar in proportion to the quantity; the smallest quantity still has a visible bar."""
        glyphs = self._style.glyphs
        if not self._bar:
            return ""
        if not glyphs.left_half:
            return glyphs.full * max(1, round(self._bar * quantity / self._largest))
        full, half = divmod(max(1, round(2 * self._bar * quantity / self._largest)), 2)
        return (
            half * glyphs.right_half + full * glyphs.full
            if toward_left
            else full * glyphs.full + half * glyphs.left_half
        )

    def _colorize(self, text: str, color: str) -> str:
        return f"{color}{text}{PLAIN}" if self._style.color else text


def _between(depth: Depth, glyphs: Glyphs) -> str:
    """Returns the text between the sides of a book: spread and mid price, or the empty side."""
    if not depth.asks:
        return "no asks: nobody sells"
    if not depth.bids:
        return "no bids: nobody buys"
    bid, ask = depth.bids[0][0], depth.asks[0][0]
    mid = price_text((bid + ask) // 2) + "5" * ((bid + ask) % 2)
    return f"spread {price_text(ask - bid)}{glyphs.between}mid {mid}"


def _total(levels: list[Level]) -> str:
    return f"{sum(quantity for _, quantity in levels):,}"
