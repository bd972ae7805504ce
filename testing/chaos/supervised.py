"""An exchange that `tcgx up` runs, in a round whose faults are those of the supervisor."""

import asyncio
import os
import signal
import subprocess
import threading
import time
from contextlib import suppress
from pathlib import Path

import msgspec

from cli import run_file
from cli.supervisor import Process
from core.errors import StartError
from core.settings import PREFIX, Settings, environment_of
from testing.chaos.exchange import CLIENTS, EVENT_RETENTION, START_SECONDS, Exchange
from testing.chaos.links import Link, Links
from testing.chaos.plan import Plan
from testing.processes import PROGRAM, descendants, ended, environment, finished
from testing.servers import KEEP_ALL, fetch, free_port

STOP_SECONDS = 20.0
SECOND_SECONDS = 30.0
TRADERS = 10
REFUSED = 1
KILLED = -signal.SIGKILL


class Supervised(Exchange):
    """The same for the load, the recovery and the checker. Its services have no links, so only clients' can be cut."""

    def __init__(self, data_dir: Path, plan: Plan, *, programs: Settings, stopping: threading.Event) -> None:
        home = data_dir / "home"
        home.mkdir(mode=0o711)
        super().__init__(home, plan, programs=programs, stopping=stopping)
        self._reserved.close()
        self.port = free_port()
        self._variables = environment_of(
            msgspec.structs.replace(
                programs,
                log_retention=KEEP_ALL,
                event_retention=EVENT_RETENTION,
                match_batch=plan.match_batch,
                archive_batch_bytes=plan.archive_batch_bytes,
                api_workers=plan.api_processes,
                traders=TRADERS,
                redis_core="any",
                port=self.port,
                data_dir=str(home),
            )
        )
        self._process: Process | None = None
        self._known: Settings | None = None

    @property
    def settings(self) -> Settings:
        """The settings that `tcgx up` has announced."""
        if self._known is None:
            announced = run_file.find_running(self.data_dir)
            if announced is None:
                raise StartError("tcgx up has announced nothing")
            values = announced.variables()
            self._known = msgspec.structs.replace(
                self.servers.base,
                redis_url=values[f"{PREFIX}REDIS_URL"],
                database_url=values[f"{PREFIX}DATABASE_URL"],
                jwt_secret=values[f"{PREFIX}JWT_SECRET"],
            )
        return self._known

    def start(self) -> None:
        """Starts `tcgx up`; the exchange is ready when this returns."""
        self.begin()
        self.wait_until(self._is_announced, "tcgx up announces nothing", seconds=START_SECONDS)
        self.links = {CLIENTS: Link(self._door, self.port, f"link {self._plan.seed}")}
        self._links = Links([*self.links.values()])
        self._links.start()
        self.wait_until(self.is_healthy, "the exchange does not get ready", seconds=START_SECONDS)

    def _is_announced(self) -> bool:
        return run_file.find_running(self.data_dir) is not None

    def begin(self) -> None:
        """Starts `tcgx up`, and does not wait."""
        self._started_at["tcgx up"] = time.monotonic()
        with (self.data_dir / "up.output").open("ab") as file:
            self._process = Process([PROGRAM, "up"], environment=environment(**self._variables), output=file)

    def stop(self) -> None:
        """Stops it, with all that it has started."""
        if self._redis is not None:
            self._redis.close()
        if self._process is not None:
            started = descendants(self._process.pid)
            if not asyncio.run(self._process.stop(seconds=STOP_SECONDS)):
                self.notes.append("tcgx up did not end after SIGTERM, and was killed")
            if not ended(started, seconds=STOP_SECONDS):
                self.notes.append("tcgx up left processes behind")
        if self._links is not None:
            self._links.stop()
        self.close_ports()

    def supervise(self) -> None:
        """Starts `tcgx up` again where it has ended by itself, as an operator does."""
        if "tcgx up" in self.held or self._process is None or not self._process.ended():
            return
        if self._may_start("tcgx up"):
            self.broken.append(f"tcgx up ended by itself: {self._last_line()}")
            self.ended["tcgx up"] += 1
            self.begin()

    def _last_line(self) -> str:
        return (self.data_dir / "up.output").read_text(errors="replace").strip().rpartition("\n")[2]

    def archived(self) -> dict[str, int]:
        """The last archived command of each card."""
        rows = fetch(self.settings.database_url, "SELECT card, sequence FROM archive_cursor")
        return {row["card"]: row["sequence"] for row in rows}

    # -- what faults do

    def kill_supervisor(self, *, everything: bool) -> None:
        """SIGKILL to `tcgx up`, whose children end with it; or to all of them, in one moment."""
        assert self._process, "it does not run"
        started = descendants(self._process.pid)
        for pid in [self._process.pid, *(started if everything else [])]:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        if asyncio.run(self._process.wait()) != KILLED:
            self.notes.append("tcgx up had ended before it was killed")
        if not everything and not ended(started, seconds=STOP_SECONDS):
            self.broken.append("processes of a killed tcgx up did not end")

    def start_second(self) -> None:
        """A second `tcgx up` on the same folder, at another port. It must refuse, and say why."""
        variables = self._variables | {f"{PREFIX}PORT": str(free_port())}
        try:
            done = finished([PROGRAM, "up"], variables=variables, seconds=SECOND_SECONDS)
        except subprocess.TimeoutExpired:
            self.broken.append("a second tcgx up ran beside the first, and was killed")
            return
        if done.returncode != REFUSED or "runs already" not in done.stderr:
            self.broken.append(f"a second tcgx up ended with {done.returncode}: {done.stderr.strip()[-500:]}")
