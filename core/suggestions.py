"""Suggestions for mistyped names."""

from collections.abc import Iterable


def did_you_mean(typed: str, names: Iterable[str]) -> str:
    """The text `: did you mean …?` with the most similar name. Empty if no name is similar."""
    import difflib  # noqa: PLC0415 - 10 ms, and only after a mistake

    close = difflib.get_close_matches(typed, list(names), n=1)
    return f": did you mean {close[0]}?" if close else ""
