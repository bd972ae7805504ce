"""Services as processes of their own: `python -m engine` and the like, what they write, and how they end."""

import asyncio
import os
import signal
import sys
from pathlib import Path

from cli.supervisor import Process
from core.settings import Settings, environment_of
from testing.processes import environment
from testing.waiting import until

STOP_SECONDS = 10.0
MODULES = {"grpc": "rpc"}
"""The packages of services that have another name."""

WORKING = {"engine": "matching ", "archiver": "archiving ", "grpc": "answering gRPC calls"}
"""The beginning of the log line with which a service begins its work."""


class Service:
    """One process of a service. What it writes is added to the file `output`."""

    def __init__(self, name: str, local: Settings, output: Path, *, module: str = "") -> None:
        """Starts `module` (default: the name without a number, `engine` for `engine-2`) with these settings.

        Raises:
            StartError: the program cannot be executed.
        """
        self.name = name
        self.settings = local
        self._output = output
        with output.open("ab") as file:
            self.process = Process(
                [sys.executable, "-P", "-m", module or MODULES.get(name, name.partition("-")[0])],
                environment=environment(**environment_of(local)),
                output=file,
            )

    @property
    def pid(self) -> int:
        """The process id."""
        return self.process.pid

    def output(self) -> str:
        """All that the file has."""
        return self._output.read_text()

    def works(self) -> "Service":
        """Waits for the line with which an engine or an archiver begins its work."""
        until(self._has_begun, f"{self.name} does not work")
        return self

    def _has_begun(self) -> bool:
        assert not self.process.ended(), f"{self.name} ended:\n{self.output()}"
        words, output = WORKING[self.name.partition("-")[0]], self.output()
        return words in output or f'"event":"{words.strip()}"' in output

    def kill(self) -> None:
        """Kills it with -9; it must have run until now."""
        assert not self.process.ended(), f"{self.name} has ended by itself:\n{self.output()}"
        os.kill(self.pid, signal.SIGKILL)
        self.wait()

    def stop(self, *, seconds: float = STOP_SECONDS) -> int:
        """SIGTERM; the exit code. A service that does not end in time is killed, and this fails."""
        assert asyncio.run(self.process.stop(seconds=seconds)), f"{self.name} does not stop:\n{self.output()}"
        return self.wait()

    def wait(self) -> int:
        """Waits for an end that it finds by itself; the exit code."""
        return asyncio.run(asyncio.wait_for(self.process.wait(), STOP_SECONDS))
