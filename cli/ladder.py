"""A book drawn for a terminal."""

from engine.books import Depth
from engine.model import price_text

BAR = 24


def ladder(card: str, depth: Depth) -> str:
    """Asks above bids, best prices in the middle, bars in proportion to quantity."""
    if not depth.bids and not depth.asks:
        return f"{card}: the book is empty (command {depth.sequence})"
    largest = max(quantity for _, quantity in (*depth.bids, *depth.asks))
    lines = [f"{card} after command {depth.sequence}", f"{'bid':>10} │ {'price':^6} │ {'ask':<10}"]
    for price_cents, quantity in reversed(depth.asks):
        lines.append(f"{'':>10} │ {price_text(price_cents):>6} │ {quantity:<10}{_bar(quantity, largest)}".rstrip())
    lines.append(f"{'':─>11}┼{'':─>8}┼{'':─>11}")
    for price_cents, quantity in depth.bids:
        lines.append(f"{quantity:>10} │ {price_text(price_cents):>6} │ {'':<10}{_bar(quantity, largest)}".rstrip())
    return "\n".join(lines)


def _bar(quantity: int, largest: int) -> str:
    return "█" * max(1, round(BAR * quantity / largest))
