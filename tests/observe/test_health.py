"""The health of a process at the port of its metrics."""

import asyncio
from collections.abc import Sequence

import httpx
import pytest

from core import heartbeat
from core.heartbeat import Progress
from core.settings import Settings
from observe import exposition
from testing.observed import ObservedExchange
from testing.servers import free_port
from testing.waiting import until_async

LIVE, READY = exposition.LIVE, exposition.READY


@pytest.mark.server
@pytest.mark.parametrize("service", ["engine", "archiver"])
def test_a_service_that_works_lives_and_is_ready(observed: ObservedExchange, service: str) -> None:
    (port,) = observed.ports[service]
    for path in (LIVE, READY):
        answer = httpx.get(f"http://127.0.0.1:{port}{path}", trust_env=False)
        assert (answer.status_code, answer.text) == (200, "ok\n")


def statuses(progress: Progress, *paths: str, method: str = "GET") -> list[tuple[int, str]]:
    """The answers of a process with this progress."""
    return asyncio.run(_statuses(progress, paths, method))


async def _statuses(progress: Progress, paths: Sequence[str], method: str) -> list[tuple[int, str]]:
    port = free_port()
    async with (
        exposition.serving(Settings(metrics_port=port), "engine", progress=progress),
        httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", trust_env=False) as client,
    ):

        async def listens() -> bool:
            try:
                return (await client.get("/metrics")).status_code == 200
            except httpx.TransportError:
                return False

        await until_async(listens, "the port does not listen")
        answers = [await client.request(method, path) for path in paths]
        return [(answer.status_code, answer.text) for answer in answers]


def test_a_service_that_starts_lives_and_is_not_ready() -> None:
    assert statuses(Progress(), LIVE, READY) == [(200, "ok\n"), (503, "starting\n")]


def test_a_service_that_stands_still_neither_lives_nor_is_ready(monkeypatch: pytest.MonkeyPatch) -> None:
    progress = Progress()
    progress.is_ready = True
    progress.begin("matching")
    monkeypatch.setattr(heartbeat, "STALLED_SECONDS", 0.0)

    assert statuses(progress, LIVE, READY) == [(503, "matching for 0 s\n")] * 2


@pytest.mark.parametrize("method", ["GET", "POST", "OPTIONS"])
def test_other_paths_and_methods_are_not_there(method: str) -> None:
    paths = ["/health", "/health/live/", *([LIVE] if method != "GET" else [])]

    assert [status for status, _ in statuses(Progress(), *paths, method=method)] == [404] * len(paths)
