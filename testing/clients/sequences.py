"""Files of sequences, by card: what a process of clients was acknowledged, for the process that judges it."""

from array import array
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path


def write(prefix: str, sequences: Mapping[str, "array[int]"]) -> None:
    """Writes a file for each card."""
    for card, numbers in sequences.items():
        Path(f"{prefix}.{card}").write_bytes(numbers.tobytes())


def read(prefix: str, cards: Iterable[str]) -> Mapping[str, Sequence[int]]:
    """Reads them back."""
    found = {}
    for card in cards:
        found[card] = array("q")
        found[card].frombytes(Path(f"{prefix}.{card}").read_bytes())
    return found
