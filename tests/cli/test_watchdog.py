"""A service whose heartbeat stands still is killed and started again, and a healthy one never is."""

import asyncio
import os
import signal
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from cli import watchdog
from cli.supervisor import Service
from core.errors import SettingError
from core.heartbeat import DESCRIPTOR_VARIABLE, Progress, sent_to_parent
from core.settings import read
from testing.exchange import TcgxUp, tcgx_up
from testing.faults import paused
from testing.waiting import until, until_async

HUNG_SECONDS = 2
SERVICES = ("api", "engine", "archiver")

BEATS = textwrap.dedent(
    """
    import asyncio, os, sys, time
    from core import heartbeat
    async def main():
        progress = heartbeat.Progress()
        async with heartbeat.sent_to_parent(os.environ, progress):
            await asyncio.sleep(0.6)
            {then}
    asyncio.run(main())
    """
)


def service(then: str) -> Service:
    """A child whose heart beats; after some beats it does this."""
    argv = [sys.executable, "-c", BEATS.format(then=then)]
    return Service("child", argv, environment=os.environ, stop_seconds=1, hung_seconds=HUNG_SECONDS)


def run(child: Service) -> tuple[int, list[Any]]:
    """The exit code of a child, and the log lines about it."""

    async def ran() -> int:
        await child.start()
        try:
            return await asyncio.wait_for(child.wait(), 30)
        finally:
            await child.stop()

    with capture_logs() as lines:
        return asyncio.run(ran()), [*lines]


@pytest.mark.parametrize(
    "then",
    ["time.sleep(60)", "progress.begin('x'); heartbeat.STALLED_SECONDS = 0; await asyncio.sleep(60)"],
    ids=["loop", "work"],
)
def test_a_child_whose_loop_or_work_stands_still_is_killed_and_the_log_says_why(then: str) -> None:
    code, lines = run(service(then))

    assert code == -signal.SIGKILL
    assert [line["event"] for line in lines] == ["killed, because its heartbeat stands still (TCGX_HUNG_SECONDS)"]
    assert lines[0]["service"] == "child"
    assert HUNG_SECONDS <= lines[0]["heartbeat_seconds"] < HUNG_SECONDS + 2


def test_a_child_whose_heart_beats_is_left_alone_and_its_exit_code_is_told() -> None:
    assert run(service(f"await asyncio.sleep({HUNG_SECONDS + 1.5}); sys.exit(7)")) == (7, [])


def test_a_pause_of_the_supervisor_itself_counts_for_no_child() -> None:
    """The clock jumps between two checks, as it does for a supervisor that was stopped; the child has been, too."""

    async def scenario() -> None:
        jump, killed = 0.0, []
        dog = watchdog.Watchdog("child", hung_seconds=HUNG_SECONDS, clock=lambda: time.monotonic() + jump)
        with dog.pipe() as (_, descriptor):
            os.write(descriptor, b".")
            watching = asyncio.create_task(dog.watch(lambda: killed.append(1)))
            await asyncio.sleep(3 * watchdog.CHECK_SECONDS)
            jump = 100.0
            await asyncio.sleep(HUNG_SECONDS / 2)
            assert killed == []
            await until_async(lambda: killed, "without heartbeats after the pause it is killed all the same")
            await watching
        dog.close()

    asyncio.run(scenario())


# -- `tcgx up`


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TcgxUp]:
    folder = tmp_path_factory.mktemp("watchdog")
    folder.chmod(0o755)
    with tcgx_up(folder, variables={"TCGX_HUNG_SECONDS": str(HUNG_SECONDS)}) as up:
        yield up


def healthy(up: TcgxUp) -> None:
    """Returns when every part works."""
    trader = up.trader()
    until(lambda: trader.insist("GET", "/health").status == 200, "health")


def lines_of(up: TcgxUp, event: str) -> list[str]:
    """The lines of the log with this event."""
    return [line for line in up.errors().splitlines() if event in line]


@pytest.mark.server
@pytest.mark.parametrize("name", SERVICES)
def test_a_service_that_is_stopped_is_killed_and_started_again(running: TcgxUp, name: str) -> None:
    healthy(running)
    pid = running.member(name)
    assert pid
    os.kill(pid, signal.SIGSTOP)

    until(lambda: running.member(name) not in (None, pid), f"another {name}")

    killed = lines_of(running, "its heartbeat stands still")[-1]
    assert name in killed
    assert "heartbeat_seconds" in killed
    assert "killed by SIGKILL" in lines_of(running, "ended unexpectedly")[-1]
    healthy(running)


@pytest.mark.server
@pytest.mark.parametrize("name", ["redis", "postgres"])
def test_a_server_that_hangs_is_not_killed_and_no_healthy_service_is(running: TcgxUp, name: str) -> None:
    healthy(running)
    before = {member: running.member(member) for member in (*SERVICES, name)}
    killed = len(lines_of(running, "its heartbeat stands still"))
    pid = before[name]
    assert pid

    with paused([pid]):
        signal.sigtimedwait([], 3 * HUNG_SECONDS)  # nothing may happen, so there is nothing to wait for

    assert {member: running.member(member) for member in before} == before
    assert len(lines_of(running, "its heartbeat stands still")) == killed
    healthy(running)


@pytest.mark.server
def test_a_supervisor_that_was_stopped_with_its_services_kills_none(running: TcgxUp) -> None:
    healthy(running)
    before = {member: running.member(member) for member in SERVICES}
    killed = len(lines_of(running, "its heartbeat stands still"))

    with paused([pid for pid in before.values() if pid]), paused([running.pid]):
        signal.sigtimedwait([], 2 * HUNG_SECONDS)

    healthy(running)
    assert {member: running.member(member) for member in SERVICES} == before
    assert len(lines_of(running, "its heartbeat stands still")) == killed


@pytest.mark.parametrize("text", ["1", "-1", "x", "3601"])
def test_a_wrong_bound_is_refused(text: str) -> None:
    with pytest.raises(SettingError, match=f"TCGX_HUNG_SECONDS='?{text}"):
        read({"TCGX_HUNG_SECONDS": text})


def test_a_wrong_descriptor_is_refused(tmp_path: Path) -> None:
    async def begin(text: str) -> None:
        async with sent_to_parent({DESCRIPTOR_VARIABLE: text}, Progress()):
            raise AssertionError(tmp_path)

    for text in ("9999", "x"):
        with pytest.raises(SettingError, match=f"{DESCRIPTOR_VARIABLE}='{text}'"):
            asyncio.run(begin(text))
