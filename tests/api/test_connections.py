"""The bounds of connections: which connection gives way, what the surplus is answered, and what a request costs."""

import asyncio
import errno
from typing import Any

import pytest
from structlog.testing import capture_logs

from api.connections import BODY, HEAD, IDLE, REFUSED_MAX, Connections, Wait
from core.settings import Settings

NOW = 1_000.0
FILE = 10


class Fake:
    """A connection that waits for something since a moment."""

    def __init__(self, wait: Wait | None) -> None:
        self.wait = wait
        self.has_given_way = False

    def waits(self) -> Wait | None:
        return self.wait

    def give_way(self) -> None:
        self.has_given_way = True


def full_of(*waits: Wait | None, **options: Any) -> tuple[Connections, list[Fake]]:
    """A process that is full of these connections."""
    bounds = Connections(len(waits), clock=lambda: NOW, **options)
    made = [Fake(wait) for wait in waits]
    for connection in made:
        assert bounds.enter(connection, "10.0.0.1", FILE) is None
    return bounds, made


def entered(bounds: Connections, address: str | None = "10.0.0.2", file: int = FILE) -> int | None:
    """A new connection; the status of its refusal."""
    refused = bounds.enter(Fake(None), address, file)
    return None if refused is None else refused.problem.status


@pytest.mark.parametrize(
    ("waits", "closed"),
    [
        ([Wait(IDLE, NOW - 5), Wait(IDLE, NOW - 9), Wait(HEAD, NOW - 20)], 1),
        ([Wait(IDLE, NOW - 0.5), Wait(BODY, NOW - 20), Wait(HEAD, NOW - 5)], 2),
        ([Wait(IDLE, NOW - 0.5), Wait(BODY, NOW - 20), Wait(HEAD, NOW - 0.9)], 1),
        ([Wait(IDLE, NOW - 0.5), Wait(IDLE, NOW - 0.6), Wait(HEAD, NOW - 0.9)], 1),
        ([None, Wait(IDLE, NOW), Wait(BODY, NOW - 0.9)], 1),
        ([None, Wait(BODY, NOW - 0.9), Wait(HEAD, NOW - 0.2)], 2),
        ([None, Wait(HEAD, NOW - 0.05), Wait(BODY, NOW - 0.2)], 2),
        ([None, Wait(HEAD, NOW - 0.05), Wait(BODY, NOW - 0.05)], None),
        ([None, None, None], None),
    ],
)
def test_the_connection_that_keeps_a_full_process_waiting_gives_way(
    waits: list[Wait | None], closed: int | None
) -> None:
    bounds, made = full_of(*waits)

    status = entered(bounds)

    assert [place for place, connection in enumerate(made) if connection.has_given_way] == (
        [] if closed is None else [closed]
    )
    assert status == (503 if closed is None else None)


def test_a_connection_that_became_busy_since_the_scan_is_passed_over() -> None:
    bounds, made = full_of(*(Wait(IDLE, NOW - 10 + place) for place in range(4)))
    entered(bounds)
    made[1].wait = None
    made[2].wait = Wait(IDLE, NOW)

    entered(bounds)

    assert [connection.has_given_way for connection in made] == [True, False, False, True]


def test_a_scan_serves_many_new_connections() -> None:
    """The number of looks at connections grows with the new connections, not with their product with the bound."""
    count, new = 2_000, 400
    bounds, made = full_of(*(Wait(IDLE, NOW - 10 + place / count) for place in range(count)))
    looks = 0

    def counted(self: Fake) -> Wait | None:
        nonlocal looks
        looks += 1
        return self.wait

    for connection in made:
        connection.waits = counted.__get__(connection)  # type: ignore[method-assign]
    for _ in range(new):
        assert entered(bounds) is None

    assert [connection.has_given_way for connection in made] == [True] * new + [False] * (count - new)
    assert looks < 25 * new


def test_files_that_run_short_close_connections_too() -> None:
    bounds = Connections(100, files_max=50, clock=lambda: NOW)
    idle = Fake(Wait(IDLE, NOW - 5))
    assert bounds.enter(idle, None, 49) is None

    with capture_logs() as logs:
        assert entered(bounds, file=50) is None
        assert entered(bounds, file=50) == 503

    assert idle.has_given_way
    assert "files run short" in logs[0]["event"]


def test_the_surplus_of_an_address_is_refused_and_no_other() -> None:
    bounds = Connections(100, 2)
    mine = [Fake(Wait(IDLE, 0.0)) for _ in range(2)]
    for connection in mine:
        bounds.enter(connection, "2001:db8::1", FILE)

    assert entered(bounds, "2001:db8::2") == 429  # the same network of 64 bits
    assert entered(bounds, "2001:db8:0:1::2") is None
    assert entered(bounds, None) is None
    bounds.leave(mine[0])
    assert entered(bounds, "2001:db8::2") is None


def test_few_refused_connections_may_wait_for_their_request() -> None:
    bounds, _ = full_of(None)
    refused = [bounds.enter(Fake(None), None, FILE) for _ in range(REFUSED_MAX + 1)]

    assert [each.waits for each in refused if each] == [True] * REFUSED_MAX + [False]


def test_the_bound_leaves_files_to_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("api.connections.open_files_max", lambda: 1_024)

    with capture_logs() as logs:
        derived = Connections.of(Settings())
        lowered = Connections.of(Settings(connections_max=5_000))

    assert derived._total_max == lowered._total_max == 896
    assert [line["connections_max"] for line in logs if line["log_level"] == "warning"] == [5_000]


def test_files_that_are_gone_are_logged(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_file(*_: Any) -> int:
        raise OSError(errno.EMFILE, "Too many open files")

    async def look() -> None:
        Connections().watch().cancel()

    monkeypatch.setattr("api.connections.os.open", no_file)
    with capture_logs() as logs:
        asyncio.run(look())

    assert [(line["event"], line["reason"]) for line in logs] == [
        ("no file can be opened: new connections are closed", "Too many open files")
    ]
