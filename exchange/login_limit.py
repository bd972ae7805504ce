"""How often the callers of an address may fail to exchange an API key. Logins that succeed are not limited."""

import ipaddress
import time
from collections.abc import Callable

from core.errors import RateLimited

ADDRESSES_MAX = 10_000
IPV6_HOST_BITS = 64
SECONDS_PER_MINUTE = 60.0


class LoginLimit:
    """A token bucket of failed logins for each address, in this process. 0 a minute is no limit.

    Only failures count. So many bots may log in from one address, and a guess costs its address something. The
    addresses of an IPv6 network of 64 bits share a bucket, since one host may have all of them.
    """

    def __init__(self, per_minute: int, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._limit = per_minute
        self._clock = clock
        # By network, the longest unchanged first: failures that are not paid off yet, and the time of the last one.
        self._failures: dict[str, tuple[float, float]] = {}

    def check(self, address: str | None) -> None:
        """Checks that callers of an address may log in. `address`: None if there is none, as of a Unix socket.

        Raises:
            RateLimited: too many logins from there failed.
        """
        if not self._limit or address is None:
            return
        failures = self._failures_of(network_of(address))
        if failures + 1 <= self._limit:
            return
        per_second = self._limit / SECONDS_PER_MINUTE
        raise RateLimited(
            f"{self._limit} logins a minute may fail from an address",
            limit=self._limit,
            retry_seconds=(failures + 1 - self._limit) / per_second,
            reset_seconds=failures / per_second,
        )

    def add_failure(self, address: str | None) -> None:
        """Counts a login that failed."""
        if not self._limit or address is None:
            return
        network = network_of(address)
        failures = self._failures_of(network) + 1
        self._failures.pop(network, None)
        if len(self._failures) >= ADDRESSES_MAX:
            del self._failures[next(iter(self._failures))]
        self._failures[network] = failures, self._clock()

    def _failures_of(self, network: str) -> float:
        failures, at = self._failures.get(network, (0.0, 0.0))
        return max(0.0, failures - (self._clock() - at) * self._limit / SECONDS_PER_MINUTE)


def network_of(address: str) -> str:
    """The network whose callers count together: an address, or of IPv6 the network of 64 bits.

    A text that is no address is one of its own.
    """
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return address
    if parsed.version == 4:
        return address
    return str(parsed.ipv4_mapped or ipaddress.ip_network((int(parsed), IPV6_HOST_BITS), strict=False))
