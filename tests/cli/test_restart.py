"""Successors of services: the old process stays until the new one works, and nothing is left behind."""

import asyncio
import os
import shutil
import signal
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from cli import control, datadir, supervisor
from cli.embedded_postgres import PostgresServer
from cli.embedded_redis import RedisServer
from cli.supervisor import Supervisor
from core.errors import StartError
from core.settings import Settings
from testing.processes import tcgx
from testing.servers import folder
from testing.waiting import until_async
from tests.cli.test_embedded import lives, postgres_says, redis_says, socket_folder
from tests.cli.test_supervisor import CHILD, IGNORES_SIGTERM, Diary, ended

pytestmark = pytest.mark.server

WORKS = CHILD.replace(
    "signal.sigwait",
    "ready = int(os.environ.get('TCGX_READY_FD', 0))\nif ready: os.write(ready, b'\\n')\nsignal.sigwait",
)
SUCCESSOR_DIES = WORKS.replace("b'\\n')", "b'\\n'); sys.exit(1)").replace(
    'say("stopped")', 'import time; time.sleep(0.5); say("stopped")'
)
SUCCESSOR_ENDS = CHILD.replace("signal.sigwait", "sys.exit(1) if 'TCGX_READY_FD' in os.environ else signal.sigwait")


@pytest.fixture
def diary(tmp_path: Path) -> Diary:
    return Diary(tmp_path / "diary")


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """A new process has a second to say that it works."""
    monkeypatch.setattr(supervisor, "READY_SECONDS", 1.0)


class Running:
    """A supervisor of `engine`, `api-1` and `api-2`."""

    def __init__(self, diary: Diary, script: str, *, api: str = "", stop_seconds: float = 5) -> None:
        self.diary = diary
        scripts = {"engine": script, "api-1": api or script, "api-2": api or script}
        services = [diary.service(name, script=text, stop_seconds=stop_seconds) for name, text in scripts.items()]
        self.supervisor = Supervisor(services)
        self.lines: list[str] = []
        self._stop = asyncio.Event()

    async def __aenter__(self) -> "Running":
        self._task = asyncio.create_task(self.supervisor.run_until(self._stop))
        await self.diary.has(3)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()
        await ended(self.diary.pids())

    async def stop(self) -> None:
        self._stop.set()
        await self._task

    async def restart(self, *names: str) -> None:
        await self.supervisor.restart(names, self.lines.append)

    def alive(self) -> list[int]:
        return [pid for pid in self.diary.pids() if lives(pid)]


def test_services_are_replaced_one_after_the_other(diary: Diary) -> None:
    async def scenario() -> None:
        async with Running(diary, WORKS) as running:
            await running.restart("api")

            assert [line.split()[0] for line in diary.lines()[3:]] == ["api-1", "api-1", "api-2", "api-2"]
            assert [line.endswith("stopped") for line in diary.lines()[3:]] == [False, True, False, True]
            assert running.alive() == [*diary.pids("engine"), *diary.pids()[3:]]
            assert [line.split()[:2] for line in running.lines] == [
                ["1/2", "api-1:"],
                ["1/2", "api-1:"],
                ["2/2", "api-2:"],
                ["2/2", "api-2:"],
            ]
            assert f"process {diary.pids()[4]} has taken over" in running.lines[-1]

            os.kill(diary.pids()[3], signal.SIGKILL)  # of a successor as of any other
            await diary.has(6)

    asyncio.run(scenario())


@pytest.mark.usefixtures("hasty")
@pytest.mark.parametrize(
    ("script", "reason"), [(CHILD, r"does not work after 1 s"), (SUCCESSOR_ENDS, r"has ended \(exit code 1\)")]
)
def test_without_a_successor_the_old_process_stays_and_the_next_service_is_left_alone(
    diary: Diary, script: str, reason: str
) -> None:
    async def scenario() -> None:
        async with Running(diary, WORKS, api=script) as running:
            before = diary.pids()
            with pytest.raises(StartError, match=f"the new process of api-1 {reason}.*the old one goes on"):
                await running.restart("api")

            assert running.alive() == before
            await running.restart("engine")  # no restart is under way any more
            assert len(diary.pids("api-2")) == 1

    asyncio.run(scenario())


def test_a_stop_ends_a_restart_and_both_processes(diary: Diary) -> None:
    async def scenario() -> None:
        async with Running(diary, WORKS, api=CHILD) as running:
            restarting = asyncio.create_task(running.restart("api"))
            await diary.has(2, "api-1")
            with pytest.raises(StartError, match="another restart is under way"):
                await running.restart("engine")
            await running.stop()

            with pytest.raises(StartError, match="stopped before the end of the restart"):
                await restarting
            with pytest.raises(StartError, match="starting or stopping"):
                await running.restart("engine")
            assert running.alive() == []

    asyncio.run(scenario())


def test_a_stop_ends_a_successor_that_ignores_it(diary: Diary) -> None:
    async def scenario() -> None:
        async with Running(diary, WORKS, api=IGNORES_SIGTERM, stop_seconds=0.5) as running:
            restarting = asyncio.create_task(running.restart("api"))
            await diary.has(2, "api-1")
            await running.stop()

            with pytest.raises(StartError, match="stopped before the end of the restart"):
                await restarting
            assert running.alive() == []

    asyncio.run(scenario())


def test_a_successor_that_ends_while_the_old_process_stops_ends_the_restart(diary: Diary) -> None:
    async def scenario() -> None:
        async with Running(diary, WORKS, api=SUCCESSOR_DIES) as running:
            with pytest.raises(StartError, match="the new process of api-1 ended while the old one stopped"):
                await running.restart("api")

            await diary.has(3, "api-1")  # it is started again
            assert len(diary.pids("api-2")) == 1

    asyncio.run(scenario())


def test_a_service_that_does_not_run_here_is_named(diary: Diary) -> None:
    async def scenario() -> None:
        async with Running(diary, WORKS) as running:
            with pytest.raises(StartError, match="archiver: no such service runs here"):
                await running.restart("engine", "archiver")
            assert len(diary.pids()) == 3

    asyncio.run(scenario())


# -- the control socket


def test_lines_and_errors_pass_the_control_socket(tmp_path: Path) -> None:
    asked: list[Sequence[str]] = []

    async def restart(names: Sequence[str], tell: Callable[[str], None]) -> None:
        asked.append(names)
        tell("a line")
        if "engine" in names:
            raise StartError("it does not work")

    async def said(path: str, *names: str) -> list[str]:
        return [line async for line in control.ask(path, names, seconds=5)]

    async def scenario() -> None:
        async with control.listening(tmp_path, restart) as path:
            assert Path(path).parent.stat().st_mode & 0o777 == 0o700
            assert await said(path, "api") == ["a line"]
            with pytest.raises(StartError, match="it does not work"):
                await said(path, "api", "engine")
            reader, writer = await asyncio.open_unix_connection(path)
            writer.write(b"nonsense\n")
            assert b"this is no request" in await reader.readline()
            writer.close()
        assert asked == [["api"], ["api", "engine"]]
        with pytest.raises(StartError, match="`tcgx up` does not answer at"):
            await said(path)

    asyncio.run(scenario())


def test_a_restart_goes_on_without_its_client(tmp_path: Path) -> None:
    go, done = asyncio.Event(), asyncio.Event()

    async def restart(_: Sequence[str], tell: Callable[[str], None]) -> None:
        tell("begins")
        await go.wait()
        tell("goes on")
        done.set()

    async def scenario() -> None:
        async with control.listening(tmp_path, restart) as path:
            lines = control.ask(path, ["api"], seconds=5)
            assert await anext(lines) == "begins"
            await lines.aclose()  # type: ignore[attr-defined]
            go.set()
            await until_async(done.is_set)

    asyncio.run(scenario())


def test_without_an_exchange_a_restart_says_so(tmp_path: Path) -> None:
    result = tcgx(tmp_path, "restart")
    mistyped = tcgx(tmp_path, "restart", "engin")

    assert result.returncode == 1
    assert result.stderr.startswith("tcgx: no exchange runs in ./.tcgx: start one with `tcgx up`")
    assert mistyped.returncode == 2
    assert "'engin' is none of api, engine, archiver, grpc, demo: did you mean engine?" in mistyped.stderr


# -- a removed socket


def test_servers_whose_sockets_were_removed_are_started_again_at_the_same_addresses(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(supervisor, "REACHABLE_SECONDS", 0.1)

    async def scenario(data_dir: Path) -> None:
        local, secrets = Settings(data_dir=str(data_dir)), datadir.load_secrets(data_dir)
        redis, postgres = RedisServer(local, secrets), PostgresServer(local, secrets)
        stop = asyncio.Event()
        keeping = asyncio.create_task(Supervisor([redis, postgres]).run_until(stop))
        try:
            await until_async(lambda: redis.is_up and postgres.is_up)
            before, urls = (redis.pid, postgres.pid), (redis.socket_url, postgres.url)
            await redis_says(redis.socket_url, "SET", "order", "1")
            for server in (redis, postgres):
                shutil.rmtree(socket_folder(server))
            await until_async(lambda: redis.is_up and postgres.is_up and not {redis.pid, postgres.pid} & {*before})

            assert (redis.socket_url, postgres.url) == urls
            assert await redis_says(redis.socket_url, "GET", "order") == b"1"
            assert await postgres_says(postgres.url, "SELECT 1") == 1
        finally:
            stop.set()
            await keeping

    with folder() as where, datadir.lock(where / "data"):
        asyncio.run(scenario(where / "data"))
