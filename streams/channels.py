"""The names of channels, as clients write them."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from core.candles import CANDLE_SECONDS
from core.errors import InvalidRequest, Violation
from core.rules import printable
from streams.feed import Kind

CHANNELS_MAX = 64
TEXT_MAX = 4_096
"""Characters of a list of channels or positions."""

PARTS: Mapping[Kind, tuple[int, ...]] = {
    Kind.BOOK: (1,),
    Kind.TRADES: (1,),
    Kind.ORDERS: (0,),
    Kind.TICKER: (0, 1),
    Kind.CANDLES: (2,),
}
"""How many parts the name of a channel has after its kind."""

RULE = "must be book:<card>, trades:<card>, ticker, ticker:<card>, candles:<card>:<1m|5m|1h|1d> or orders"


POSITIONS_RULE = "must be positions like pikachu.1042, separated by commas, of cards that are traded"


class Channel(NamedTuple):
    """A channel. `card` is empty for `orders` and `ticker` of all cards; `interval` is the one of candles."""

    kind: Kind
    card: str = ""
    interval: str = ""

    @property
    def name(self) -> str:
        """The name, as clients write it."""
        return ":".join(part for part in self if part)


def parse(name: str, cards: Sequence[str]) -> Channel:
    """Reads the name of a channel.

    Raises:
        InvalidRequest: there is no channel of this name, or its card is not traded.
    """
    kind_text, *parts = name.split(":")
    kind = Kind(kind_text) if kind_text in list(Kind) else None
    card, interval = [*parts, "", ""][:2]
    is_known = (
        kind is not None
        and len(parts) in PARTS[kind]
        and (not parts or card in cards)
        and (kind is not Kind.CANDLES or interval in CANDLE_SECONDS)
    )
    if kind is None or not is_known:
        rule = f"{RULE}, with a card of {', '.join(cards)}"
        raise InvalidRequest([Violation("channels", "invalid_channels", rule, printable(name))])
    return Channel(kind, card, interval)


def parse_list(text: str, cards: Sequence[str]) -> list[Channel]:
    """Reads a list of channels, separated by commas.

    Raises:
        InvalidRequest: there are none, or too many; or see `parse`.
    """
    names = [name.strip() for name in text[:TEXT_MAX].split(",") if name.strip()]
    if not names or len(names) > CHANNELS_MAX or len(text) > TEXT_MAX:
        rule = f"must be 1 to {CHANNELS_MAX} channels, separated by commas, in at most {TEXT_MAX} characters"
        raise InvalidRequest([Violation("channels", "invalid_channels", rule, printable(text))])
    return list(dict.fromkeys(parse(name, cards) for name in names))


def parse_positions(text: str, cards: Sequence[str]) -> dict[str, int]:
    """Reads positions such as `bulbasaur.77,pikachu.1042`: the last sequence that a client has of each card.

    Raises:
        InvalidRequest: the text is no list of positions of traded cards.
    """
    positions: dict[str, int] = {}
    for part in text[:TEXT_MAX].split(","):
        card, dot, digits = part.strip().partition(".")
        if not part.strip():
            continue
        if not dot or card not in cards or not (digits.isascii() and digits.isdigit()) or len(digits) > 12:
            raise InvalidRequest([Violation("after", "invalid_after", POSITIONS_RULE, printable(text))])
        positions[card] = int(digits)
    return positions


def positions_text(positions: Mapping[str, int]) -> str:
    """Positions as clients send them back."""
    return ",".join(f"{card}.{sequence}" for card, sequence in sorted(positions.items()))
