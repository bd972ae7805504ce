"""A regular expression for the prices of an exchange, for the schema of a price."""

from collections.abc import Iterator


def price_pattern(low: int, high: int) -> str:
    """A regular expression for every price from `low` to `high` cents, in dollars with at most two decimals."""
    first, last = low // 100, high // 100
    if first == last:
        return f"^{first}{_cents(low % 100, high % 100)}$"
    parts = []
    if low % 100:
        parts.append(f"{first}{_cents(low % 100, 99)}")
        first += 1
    if first < last:
        parts.append(f"(?:{'|'.join(_numbers(first, last - 1))}){_cents(0, 99)}")
    parts.append(f"{last}{_cents(0, high % 100)}")
    return f"^(?:{'|'.join(parts)})$"


def _cents(low: int, high: int) -> str:
    """A regular expression for the cents after the dollars: .50, .5 for .50, and nothing for .00."""
    if (low, high) == (0, 99):
        return r"(?:\.[0-9]{1,2})?"
    first, last = -(-low // 10), high // 10
    tenths = [_digits(first, last)] if first <= last else []
    return f"(?:\\.(?:{'|'.join([*_numbers(low, high, width=2), *tenths])})){'' if low else '?'}"


def _numbers(low: int, high: int, *, width: int = 0) -> Iterator[str]:
    """Yields regular expressions that together match `low` to `high`, with leading zeros up to `width` digits."""
    while low <= high:
        free = 0
        while low and low % 10 ** (free + 1) == 0 and low + 10 ** (free + 1) - 1 <= high:
            free += 1
        step = 10**free
        prefix, digit = divmod(low // step, 10)
        more = min(9 - digit, (high - low + 1) // step - 1)
        zeros = max(0, width - free - 1)
        start = f"{prefix:0{zeros}d}" if prefix or zeros else ""
        yield f"{start}{_digits(digit, digit + more)}{'[0-9]' * free}"
        low += (more + 1) * step


def _digits(first: int, last: int) -> str:
    return str(first) if first == last else f"[{first}-{last}]"
