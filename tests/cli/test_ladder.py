"""`tcgx book`: what is drawn, as it is seen, at every width and on terminals that can do less."""

import io
import random
import re
from collections.abc import Mapping

import pytest

from cli.ladder import ASCII, BLOCKS, GREEN, PLAIN, RED, ColorChoice, Glyphs, TerminalStyle, ladder, terminal_style
from engine.book_reader import Depth

BOOK = Depth(1234, [(540, 20), (539, 7), (500, 1), (95, 333)], [(560, 3), (561, 1200), (700, 12), (100000, 1)])
COLORS = re.compile(r"\x1b\[\d+m")


def drawn(depth: Depth, look: TerminalStyle) -> str:
    return "\n" + ladder("pikachu", depth, look) + "\n"


def test_bids_grow_to_the_left_and_asks_to_the_right_of_the_prices() -> None:
    assert (
        drawn(BOOK, TerminalStyle(width=60))
        == """
pikachu after command 1,234
                   bids │   price │ asks
                        │ 1000.00 │ 1     ▌
                        │    7.00 │ 12    ▌
                        │    5.61 │ 1,200 █████████████████
                        │    5.60 │ 3     ▌
────────────────── spread 0.20 · mid 5.50 ─────────────────
                ▐    20 │    5.40 │
                ▐     7 │    5.39 │
                ▐     1 │    5.00 │
            ▐████   333 │    0.95 │
───────────────────────────────────────────────────────────
                    361 │   total │ 1,216
"""
    )


def test_forty_columns_are_enough() -> None:
    assert (
        drawn(BOOK, TerminalStyle(width=40))
        == """
pikachu after command 1,234
         bids │   price │ asks
              │ 1000.00 │ 1     ▌
              │    7.00 │ 12    ▌
              │    5.61 │ 1,200 ███████
              │    5.60 │ 3     ▌
──────── spread 0.20 · mid 5.50 ───────
      ▐    20 │    5.40 │
      ▐     7 │    5.39 │
      ▐     1 │    5.00 │
     ██   333 │    0.95 │
───────────────────────────────────────
          361 │   total │ 1,216
"""
    )


def test_where_there_is_no_utf_8_it_is_drawn_in_ascii() -> None:
    picture = drawn(Depth(9, [(540, 20), (500, 1)], [(561, 10)]), TerminalStyle(width=48, glyphs=ASCII))

    assert picture.isascii()
    assert (
        picture
        == """
pikachu after command 9
              bids | price | asks
                   |  5.61 | 10   ######
------------ spread 0.21, mid 5.505 -----------
#############   20 |  5.40 |
            #    1 |  5.00 |
-----------------------------------------------
                21 | total | 10
"""
    )


@pytest.mark.parametrize(
    ("depth", "expected"),
    [
        (
            Depth(12, [], []),
            """
pikachu: the book is empty: nobody buys
or sells (after command 12)
""",
        ),
        (
            Depth(12, [(540, 20)], []),
            """
pikachu after command 12
          bids │ price │ asks
──────── no asks: nobody sells ────────
█████████   20 │  5.40 │
───────────────────────────────────────
            20 │ total │ 0
""",
        ),
        (
            Depth(12, [], [(560, 3), (570, 6)]),
            """
pikachu after command 12
          bids │ price │ asks
               │  5.70 │ 6    █████████
               │  5.60 │ 3    ████▌
───────── no bids: nobody buys ────────
───────────────────────────────────────
             0 │ total │ 9
""",
        ),
    ],
)
def test_a_book_that_lacks_a_side_or_both_says_so_in_words(depth: Depth, expected: str) -> None:
    assert drawn(depth, TerminalStyle(width=40)) == expected


@pytest.mark.parametrize("width", [40, 47, 60, 80, 120, 200])
@pytest.mark.parametrize("color", [False, True])
def test_no_line_is_longer_than_the_terminal_is_wide(width: int, color: bool) -> None:
    for seed in range(50):
        choose = random.Random(seed)
        prices = sorted(choose.sample(range(1, 10 ** choose.randint(3, 9)), 20))
        levels = [(price, choose.randint(1, 10 ** choose.randint(1, 7))) for price in prices]
        bids, asks = levels[:10][::-1], levels[10:]
        cut = choose.choice([(10, 10), (10, 0), (0, 10), (1, 1), (0, 0)])
        depth = Depth(choose.randint(0, 10**9), bids[: cut[0]], asks[: cut[1]])
        for glyphs in (ASCII, BLOCKS):
            lines = COLORS.sub("", ladder("a" * 31, depth, TerminalStyle(width, color, glyphs))).splitlines()

            assert max(map(len, lines)) <= width, f"seed {seed}"
            middles = {line.find(f" {glyphs.column} ") for line in lines} - {-1}
            assert len(middles) <= 1, f"seed {seed}: the prices are not below each other"


def test_a_bar_is_in_proportion_and_the_smallest_is_seen() -> None:
    quantities = [100, 50, 25, 1]
    depth = Depth(1, [(500 - place, quantity) for place, quantity in enumerate(quantities)], [(600, 100)])

    lines = ladder("mew", depth, TerminalStyle(width=80)).splitlines()

    halves = [2 * line.count("█") + line.count("▐") for line in lines if "█" in line or "▐" in line]
    longest = halves[1]
    assert halves[1:] == [longest, longest // 2, round(longest / 4), 1]
    assert halves[0] == longest


@pytest.mark.parametrize(("width", "longest"), [(40, 9), (60, 19), (80, 29), (120, 40), (500, 40)])
def test_bars_take_the_room_that_there_is(width: int, longest: int) -> None:
    lines = ladder("mew", Depth(1, [(500, 9)], [(600, 9)]), TerminalStyle(width=width)).splitlines()

    assert sorted({line.count("█") for line in lines}) == [0, longest]


# -- colours and characters


def test_bids_are_green_and_asks_red_where_colour_is_wanted() -> None:
    plain = ladder("pikachu", BOOK, TerminalStyle(width=60))
    colored = ladder("pikachu", BOOK, TerminalStyle(width=60, color=True))

    assert COLORS.sub("", colored) == plain
    assert COLORS.search(plain) is None
    assert re.findall(r"\x1b\[\d+m[^\x1b]+\x1b\[0m", colored) == [
        *(f"{RED}{text}{PLAIN}" for text in ("1     ▌", "12    ▌", f"1,200 {17 * '█'}", "3     ▌")),
        *(f"{GREEN}{text}{PLAIN}" for text in ("▐    20", "▐     7", "▐     1", "▐████   333")),
    ]


class Terminal(io.TextIOWrapper):
    """A stream that says that it is a terminal, or not."""

    def __init__(self, *, encoding: str = "utf-8", tty: bool = True) -> None:
        super().__init__(io.BytesIO(), encoding=encoding)
        self._tty = tty

    def isatty(self) -> bool:
        return self._tty


XTERM = {"TERM": "xterm-256color"}


@pytest.mark.parametrize(
    ("color", "tty", "environment", "expected"),
    [
        ("auto", True, XTERM, True),
        ("auto", False, XTERM, False),
        ("auto", True, XTERM | {"NO_COLOR": "1"}, False),
        ("auto", True, XTERM | {"NO_COLOR": ""}, True),
        ("auto", True, {"TERM": "dumb"}, False),
        ("auto", True, {}, False),
        ("always", False, {"NO_COLOR": "1", "TERM": "dumb"}, True),
        ("never", True, XTERM, False),
    ],
)
def test_colour_is_for_terminals_that_want_it(
    color: ColorChoice, tty: bool, environment: Mapping[str, str], expected: bool
) -> None:
    assert terminal_style(Terminal(tty=tty), environment, color).color is expected


@pytest.mark.parametrize(
    ("encoding", "glyphs"), [("utf-8", BLOCKS), ("ascii", ASCII), ("latin-1", ASCII), ("utf-16", BLOCKS)]
)
def test_characters_are_those_that_the_stream_can_write(encoding: str, glyphs: Glyphs) -> None:
    look = terminal_style(Terminal(encoding=encoding), XTERM)

    assert look.glyphs == glyphs
    assert ladder("mew", BOOK, look).encode(encoding)


@pytest.mark.parametrize(("columns", "width"), [("40", 40), ("132", 132)])
def test_the_width_is_that_of_the_terminal(monkeypatch: pytest.MonkeyPatch, columns: str, width: int) -> None:
    monkeypatch.setenv("COLUMNS", columns)

    assert terminal_style(Terminal(), XTERM).width == width
