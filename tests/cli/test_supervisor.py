"""Children are kept running, stopped in order, and never outlive their supervisor."""

import asyncio
import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import redis.exceptions
from structlog.testing import capture_logs

from cli import datadir, supervisor
from cli.embedded_redis import RedisServer
from cli.supervisor import Member, Service, Supervisor
from core.errors import StartError
from core.settings import Settings
from tests.cli.test_embedded import lives, redis_says

pytestmark = pytest.mark.server

WAITS_MAX = 2_000

# Appends "<name> <pid>" when it has started and "<name> stopped" when it was asked to stop.
CHILD = textwrap.dedent(
    """
    import os, signal, sys
    name, path = sys.argv[1:3]
    def say(text):
        with open(path, "a") as file:
            file.write(f"{name} {text}\\n")
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
    say(os.getpid())
    signal.sigwait([signal.SIGTERM])
    say("stopped")
    """
)
IGNORES_SIGTERM = CHILD.replace('say("stopped")', "signal.pause()")
LEAVES_A_WORKER = "import os\nif os.fork():\n    pass\n" + CHILD


class Diary:
    def __init__(self, path: Path) -> None:
        self.path = path
        path.touch()

    def service(self, name: str, *, script: str = CHILD, stop_seconds: float = 5) -> Service:
        argv = [sys.executable, "-c", script, name, str(self.path)]
        return Service(name, argv, environment=os.environ, stop_seconds=stop_seconds)

    def lines(self) -> list[str]:
        return self.path.read_text().splitlines()

    def pids(self, name: str = "") -> list[int]:
        words = [line.split() for line in self.lines()]
        return [int(text) for who, text in words if text.isdigit() and name in ("", who)]

    async def has(self, count: int, name: str = "") -> list[int]:
        for _ in range(WAITS_MAX):
            if len(self.pids(name)) >= count:
                return self.pids(name)
            await asyncio.sleep(0.01)
        raise AssertionError(f"{count} starts of {name or 'all'} expected: {self.lines()}")


async def ended(pids: list[int]) -> None:
    for _ in range(WAITS_MAX):
        if not any(lives(pid) for pid in pids):
            return
        await asyncio.sleep(0.01)
    raise AssertionError(f"still running: {[pid for pid in pids if lives(pid)]}")


async def answer_after_a_restart(url: str) -> bytes:
    for _ in range(WAITS_MAX):
        try:
            answer: bytes = await redis_says(url, "GET", "order")
            return answer
        except redis.exceptions.ConnectionError:
            await asyncio.sleep(0.01)
    raise AssertionError(f"{url} does not come back")


@pytest.fixture
def diary(tmp_path: Path) -> Diary:
    return Diary(tmp_path / "diary")


@asynccontextmanager
async def supervised(*members: Member, stop_order: tuple[str, ...] = ()) -> AsyncIterator[None]:
    stop = asyncio.Event()
    task = asyncio.create_task(Supervisor(members, stop_order=stop_order).run_until(stop))
    try:
        yield
    finally:
        stop.set()
        await task


def test_a_killed_service_is_started_again(diary: Diary) -> None:
    async def scenario() -> None:
        async with supervised(diary.service("api"), diary.service("engine")):
            first, _ = await diary.has(2)
            for starts in (2, 3):
                os.kill(diary.pids("api")[-1], signal.SIGKILL)
                await diary.has(starts, "api")
            assert first != diary.pids("api")[-1]
            assert len(diary.pids("engine")) == 1
        assert not any(lives(pid) for pid in diary.pids())

    asyncio.run(scenario())


def test_a_service_that_ends_by_itself_is_started_again_after_growing_delays(diary: Diary) -> None:
    async def scenario() -> float:
        began = asyncio.get_running_loop().time()
        async with supervised(diary.service("api", script=CHILD.replace("signal.sigwait", "sys.exit(3) #"))):
            await diary.has(4)
        return asyncio.get_running_loop().time() - began

    assert asyncio.run(scenario()) > 0.1 + 0.2 + 0.4


REFUSES = CHILD.replace("signal.sigwait", "sys.exit(1) #")
CRASHES = CHILD.replace("signal.sigwait", "sys.exit(3) #")


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """A supervisor whose seconds are hundredths."""
    for name in ("RESTART_SECONDS_MIN", "RESTART_SECONDS_MAX", "REFUSED_SECONDS_MAX"):
        monkeypatch.setattr(supervisor, name, getattr(supervisor, name) / 100)


@pytest.mark.usefixtures("hasty")
def test_a_service_that_refuses_to_start_is_tried_ever_more_rarely_and_told_once(diary: Diary) -> None:
    async def scenario(script: str) -> int:
        before = len(diary.pids())
        async with supervised(diary.service("api", script=script)):
            await diary.has(before + 9)
            began = asyncio.get_running_loop().time()
            await diary.has(before + 10)
        return round((asyncio.get_running_loop().time() - began) * 100)

    with capture_logs() as lines:
        assert asyncio.run(scenario(REFUSES)) >= 25
    told = [line["event"].partition(",")[0] for line in lines]
    assert told == ["ended unexpectedly"] * 6 + ["does not start"]

    with capture_logs() as lines:
        asyncio.run(scenario(CRASHES))
    assert {line["event"].partition(",")[0] for line in lines} == {"ended unexpectedly"}
    assert max(line["delay_seconds"] for line in lines) == supervisor.RESTART_SECONDS_MAX


class Kept:
    """A server that the test ends."""

    name, serves = "redis", True

    def __init__(self, *, words: str = "") -> None:
        self.pid: int | None = None
        self.ends = asyncio.Event()
        self._words = words

    def log_tail(self) -> str:
        return self._words

    async def start(self) -> None:
        self.pid = 1
        self.ends.clear()

    async def wait(self) -> int:
        await self.ends.wait()
        self.pid = None
        return 1

    async def stop(self) -> None:
        self.pid = None

    async def end_if_unreachable(self) -> None:
        """It is always reachable."""


def test_a_service_that_refused_is_tried_at_once_when_a_server_is_back(
    diary: Diary, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervisor, "RESTART_SECONDS_MAX", 60.0)

    async def scenario() -> None:
        server = Kept(words="Can't recover from AOF write error")
        async with supervised(server, diary.service("api", script=REFUSES)):
            await diary.has(6)
            server.ends.set()
            began = asyncio.get_running_loop().time()
            await diary.has(9)  # the next three would have come after 3.2 s, 9.6 s and 22.4 s
            assert asyncio.get_running_loop().time() - began < 3.2

    with capture_logs() as lines:
        asyncio.run(scenario())
    assert [line["said"] for line in lines if line["service"] == "redis"] == ["Can't recover from AOF write error"]


def test_services_stop_one_after_the_other_in_the_given_order(diary: Diary) -> None:
    async def scenario() -> None:
        order = ("api", "engine", "archiver")
        async with supervised(*(diary.service(name) for name in sorted(order)), stop_order=order):
            await diary.has(3)

    asyncio.run(scenario())

    assert diary.lines()[3:] == ["api stopped", "engine stopped", "archiver stopped"]


def test_the_default_order_is_that_of_the_start_reversed(diary: Diary) -> None:
    async def scenario() -> None:
        async with supervised(diary.service("engine"), diary.service("api")):
            await diary.has(2)

    asyncio.run(scenario())

    assert diary.lines()[2:] == ["api stopped", "engine stopped"]


def test_a_stop_order_that_forgets_a_member_is_refused(diary: Diary) -> None:
    with pytest.raises(ValueError, match="must name every member once"):
        Supervisor([diary.service("api"), diary.service("engine")], stop_order=["api"])


def test_a_service_that_ignores_the_request_is_killed(diary: Diary) -> None:
    async def scenario() -> None:
        async with supervised(diary.service("api", script=IGNORES_SIGTERM, stop_seconds=0.2)):
            await diary.has(1)
        assert not lives(diary.pids()[0])

    asyncio.run(scenario())


def test_workers_of_a_killed_service_end_with_it(diary: Diary) -> None:
    async def scenario() -> None:
        service = diary.service("api", script=LEAVES_A_WORKER)
        async with supervised(service):
            leader_and_worker = await diary.has(2)
            os.kill(service.pid or 0, signal.SIGKILL)
            await diary.has(4)
            await ended(leader_and_worker)
        await ended(diary.pids())

    asyncio.run(scenario())


def test_a_program_that_does_not_exist_stops_everything(diary: Diary) -> None:
    async def scenario() -> None:
        missing = Service("api", ["/no/such/program"], environment={}, stop_seconds=5)
        with pytest.raises(StartError, match="/no/such/program cannot be started"):
            await Supervisor([diary.service("engine"), missing]).run_until(asyncio.Event())

    asyncio.run(scenario())

    assert not any(lives(pid) for pid in diary.pids())


def test_a_canceled_supervisor_stops_everything(diary: Diary) -> None:
    async def scenario() -> None:
        task = asyncio.create_task(Supervisor([diary.service("api")]).run_until(asyncio.Event()))
        await diary.has(1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(scenario())

    assert not any(lives(pid) for pid in diary.pids())


def test_a_stop_while_a_restart_is_due_does_not_wait_for_it(diary: Diary) -> None:
    async def scenario() -> None:
        service = diary.service("api")
        async with supervised(service):
            await diary.has(1)
            os.kill(service.pid or 0, signal.SIGKILL)
            await service.wait()
            await asyncio.sleep(0)

    asyncio.run(scenario())

    assert len(diary.pids()) == 1


def test_services_end_with_a_killed_supervisor(diary: Diary) -> None:
    script = textwrap.dedent(
        f"""
        import asyncio
        from pathlib import Path
        from cli.supervisor import Supervisor
        from tests.cli.test_supervisor import Diary

        diary = Diary(Path({str(diary.path)!r}))
        asyncio.run(Supervisor([diary.service("engine"), diary.service("api")]).run_until(asyncio.Event()))
        """
    )

    async def scenario(supervisor: int) -> None:
        await diary.has(2)
        os.kill(supervisor, signal.SIGKILL)
        await ended(diary.pids())

    with subprocess.Popen([sys.executable, "-c", script]) as supervisor:
        asyncio.run(scenario(supervisor.pid))

    assert sorted(diary.lines()[2:]) == ["api stopped", "engine stopped"]


def test_ctrl_c_in_the_terminal_does_not_reach_the_services(diary: Diary) -> None:
    async def scenario() -> None:
        async with supervised(diary.service("api")):
            pid = (await diary.has(1))[0]
            assert os.getpgid(pid) == os.getsid(pid) == pid

    asyncio.run(scenario())


def test_a_killed_embedded_server_is_started_again_at_the_same_address(tmp_path: Path, diary: Diary) -> None:
    async def scenario() -> None:
        server = RedisServer(Settings(data_dir=str(tmp_path)), datadir.load_secrets(tmp_path))
        await server.start()
        url, killed = server.url, server.pid
        await redis_says(url, "SET", "order", "1")
        async with supervised(server, diary.service("api")):
            await diary.has(1)
            assert server.pid == killed
            os.kill(killed or 0, signal.SIGKILL)
            assert await answer_after_a_restart(url) == b"1"
            assert server.url == url
            assert server.pid != killed
        assert server.pid is None

    asyncio.run(scenario())
