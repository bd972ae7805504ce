"""`did you mean …?`"""

from collections.abc import Iterable


def did_you_mean(typed: str, names: Iterable[str]) -> str:
    """`: did you mean …?` with the name that is most like what was typed; nothing when none is."""
    import difflib  # noqa: PLC0415 - 10 ms, and only after a mistake

    close = difflib.get_close_matches(typed, list(names), n=1)
    return f": did you mean {close[0]}?" if close else ""
