"""Whole numbers as people write them on a command line."""

import argparse
import re
from collections.abc import Callable

_GROUPED = re.compile(r"[0-9]{1,3}(?:[,_][0-9]{3})+")
_NUMBER = re.compile(r"([0-9]{1,30})(?:\.([0-9]{1,30}))?(?:e\+?([0-9]{1,2})|([km]))?")
_POWERS = {"k": 3, "m": 6}


def whole(low: int, high: int) -> Callable[[str], int]:
    """Makes a type for argparse: a whole number from `low` to `high`, also as 1,000, 1_000, 10k, 2M or 1e5."""

    def read(text: str) -> int:
        number = _value(text)
        if number is None or not low <= number <= high:
            raise argparse.ArgumentTypeError(f"must be a whole number from {low:,} to {high:,}, got {text!r}")
        return number

    return read


def _value(text: str) -> int | None:
    plain = text.strip().lower()
    if _GROUPED.fullmatch(plain):
        return int(re.sub("[,_]", "", plain)) if len(plain) <= 40 else None
    found = _NUMBER.fullmatch(plain)
    if not found:
        return None
    before, after, exponent, suffix = found.groups()
    after = (after or "").rstrip("0")
    power = int(exponent or _POWERS.get(suffix, 0))
    return int(before + after) * 10 ** (power - len(after)) if len(after) <= power else None
