"""The limit of failed logins, with a clock of the test's own."""

import pytest

from core.errors import RateLimited
from exchange.login_limit import ADDRESSES_MAX, LoginLimit

HERE, THERE = "192.0.2.1", "192.0.2.2"


class Clock:
    """A clock that the test sets."""

    def __init__(self) -> None:
        self.seconds = 1_000.0

    def __call__(self) -> float:
        return self.seconds


def limit_after(failures: int, *, per_minute: int = 60, address: str = HERE) -> tuple[LoginLimit, Clock]:
    clock = Clock()
    limit = LoginLimit(per_minute, clock=clock)
    for _ in range(failures):
        limit.add_failure(address)
    return limit, clock


def test_failures_of_an_address_refuse_it_and_no_other_one() -> None:
    limit, _ = limit_after(60)

    limit.check(THERE)
    with pytest.raises(RateLimited, match="60 logins a minute may fail") as refused:
        limit.check(HERE)
    assert (refused.value.limit, refused.value.retry_after, refused.value.reset) == (60, 1, 60)


def test_one_login_less_than_the_limit_may_fail_once_more() -> None:
    limit, _ = limit_after(59)

    limit.check(HERE)


def test_failures_are_paid_off_with_time() -> None:
    limit, clock = limit_after(60)
    clock.seconds += 0.9
    with pytest.raises(RateLimited):
        limit.check(HERE)
    clock.seconds += 0.2

    limit.check(HERE)


def test_hours_without_failures_allow_no_more_than_a_minute_does() -> None:
    limit, clock = limit_after(60)
    clock.seconds += 36_000
    for _ in range(60):
        limit.check(HERE)
        limit.add_failure(HERE)

    with pytest.raises(RateLimited):
        limit.check(HERE)


def test_logins_that_succeed_are_never_refused() -> None:
    limit, _ = limit_after(0, per_minute=1)

    for _ in range(10_000):
        limit.check(HERE)


def test_addresses_of_an_ipv6_network_share_their_failures() -> None:
    limit, _ = limit_after(60, address="2001:db8::1")

    limit.check("2001:db8:0:1::1")
    with pytest.raises(RateLimited):
        limit.check("2001:db8::ffff:1")


def test_an_ipv4_address_is_the_same_within_ipv6() -> None:
    limit, _ = limit_after(60, address=f"::ffff:{HERE}")

    limit.check(f"::ffff:{THERE}")
    with pytest.raises(RateLimited):
        limit.check(f"::ffff:{HERE}")


@pytest.mark.parametrize(("per_minute", "address"), [(0, HERE), (60, None)])
def test_there_may_be_no_limit_or_no_address(per_minute: int, address: str | None) -> None:
    limit = LoginLimit(per_minute)
    for _ in range(1_000):
        limit.add_failure(address)

    limit.check(address)


def test_no_more_addresses_are_remembered_than_a_bound_and_the_newest_stay() -> None:
    limit, _ = limit_after(60)
    for number in range(ADDRESSES_MAX - 1):
        limit.add_failure(f"10.0.{number // 256}.{number % 256}")
    with pytest.raises(RateLimited):
        limit.check(HERE)

    limit.add_failure(THERE)

    limit.check(HERE)
    assert len(limit._failures) == ADDRESSES_MAX
