"""Another client's orders beside floods, at a limit of 1,024 files.

The bounds are wide, since a busy machine delays everything. `python -m testing.floods` measures them.
"""

from collections.abc import Iterator

import pytest

from testing.floods import FloodedApi, Outcome, flooded_api

pytestmark = pytest.mark.server

SECONDS = 1.0
SLACK_MS = 100.0
FACTOR = 12
BODIES_MB_MAX = 60.0
"""Memory that 600 connections with bodies of 998 kB may take: a tenth of the bodies."""


@pytest.fixture(scope="module")
def api() -> Iterator[FloodedApi]:
    with flooded_api() as started:
        yield started


@pytest.fixture(scope="module")
def calm(api: FloodedApi) -> Outcome:
    return api.under("nothing", SECONDS, settle=0.2)


def assert_others_are_served(seen: Outcome, calm: Outcome) -> None:
    for probe, before in ((seen.fresh, calm.fresh), (seen.kept, calm.kept)):
        assert probe.failed == {}, seen
        assert probe.answers >= 3
        assert probe.p50 < SLACK_MS + FACTOR * before.p50, (seen, calm)


def test_bodies_without_a_token_take_no_memory(api: FloodedApi, calm: Outcome) -> None:
    seen = api.under("bodies without a token", SECONDS, settle=1.0)

    assert_others_are_served(seen, calm)
    assert seen.memory_mb - calm.memory_mb < BODIES_MB_MAX
    assert seen.flood.get("202", 0) == 0


def test_held_connections_shut_nobody_out(api: FloodedApi, calm: Outcome) -> None:
    seen = api.under("held connections", SECONDS)

    assert_others_are_served(seen, calm)
    assert seen.flood["opened"] > 1_024
    assert "the one that waited longest was closed" in api.output()


@pytest.mark.parametrize("flood", ["wrong batches", "batches of a trader", "wrong logins"])
def test_a_flood_leaves_others_their_answers(api: FloodedApi, calm: Outcome, flood: str) -> None:
    seen = api.under(flood, SECONDS, settle=0.5)

    assert_others_are_served(seen, calm)
    assert set(seen.flood) <= {"202", "401", "422", "429", "503", "closed"}
