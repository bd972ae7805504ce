"""The limits of each trader on a card. lua/append.lua keeps them, exactly over all processes."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from core.errors import RateLimited, TcgxError, TooManyOpenOrders
from core.settings import Settings


class Refusal(NamedTuple):
    """What a call of append replied about a trader above a limit: how many orders it may place, and the error of the
    others."""

    orders: int
    error: TcgxError


class TraderLimits(NamedTuple):
    """How much a trader may do on a card. 0 orders a second, or 0 open orders, is no limit.

    `orders_per_second`, `burst`: rate and size of a token bucket of orders. `open_orders_max`: orders that are accepted
    and not completed. Cancels are free. `text`: the limits as an argument of lua/append.lua, empty if there are none.
    """

    orders_per_second: int
    burst: int
    open_orders_max: int
    text: str

    @classmethod
    def of(cls, settings: Settings) -> "TraderLimits":
        """The limits of these settings."""
        limits = (settings.trader_orders_per_second, settings.trader_burst, settings.trader_open_orders_max)
        is_limited = limits[0] > 0 or limits[2] > 0
        return cls(*limits, text=" ".join(map(str, limits)) if is_limited else "")

    def refusals(self, card: str, reply: Sequence[Any]) -> Mapping[int, Refusal]:
        """The refusals of a reply, by trader."""
        rows = zip(*(reply[first::4] for first in range(1, 5)), strict=True)
        return {
            int(trader_id): Refusal(orders, self._error(card, limit, value)) for trader_id, orders, limit, value in rows
        }

    def _error(self, card: str, limit: bytes, value: int) -> TcgxError:
        if limit == b"open":
            return TooManyOpenOrders(card, self.open_orders_max)
        # As the bucket is then: empty, and `value` milliseconds before the next order.
        reset_seconds = value / 1_000 + (self.burst - 1) / self.orders_per_second
        rule = f"you may place {self.orders_per_second} orders a second on {card}, {self.burst} at once after a pause"
        return RateLimited(rule, limit=self.burst, retry_seconds=value / 1_000, reset_seconds=reset_seconds)


NO_LIMITS = TraderLimits.of(Settings())
