"""Probes of the engine: the commands of the manifest, run on the real service."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from deploy import objects
from testing.servers import LoadedRedis
from testing.waiting import until
from tests.deploy.test_objects import container_of, environment_of

pytestmark = pytest.mark.server

HUNG_SECONDS = 2
"""Instead of the seconds of the manifest, for a shorter test."""


class Pod:
    """The engine as its container runs it, with another folder for its files."""

    def __init__(self, place: Path, redis_url: str) -> None:
        self._place = place
        self._container = container_of("engine")
        environment = environment_of(self._container)
        del environment["TCGX_REDIS_URL_FILE"]
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        self.process = subprocess.Popen(
            self._command(self._container["command"]),
            env={**environment, "TCGX_REDIS_URL": redis_url, "TCGX_DURABILITY": "everysec", "PATH": path},
        )

    def passes(self, probe: str) -> bool:
        """Whether a probe's command ends with 0."""
        return subprocess.run(self._command(self._container[probe]["exec"]["command"]), check=False).returncode == 0

    def _command(self, words: list[str]) -> list[str]:
        seconds = f"-{objects.HEARTBEAT_SECONDS} seconds"
        return [
            word.replace(objects.STATE, str(self._place)).replace(seconds, f"-{HUNG_SECONDS} seconds") for word in words
        ]


@pytest.fixture
def pod(tmp_path: Path, own_server: LoadedRedis) -> Iterator[Pod]:
    started = Pod(tmp_path, own_server.url)
    yield started
    started.process.kill()
    started.process.wait()


def test_probes_of_the_engine_follow_its_state(pod: Pod) -> None:
    assert not pod.passes("readinessProbe")
    until(lambda: pod.passes("readinessProbe"), "the engine is not ready")
    assert pod.passes("livenessProbe")

    pod.process.send_signal(signal.SIGSTOP)
    until(lambda: not pod.passes("livenessProbe"), "a hung engine counts as alive")
    pod.process.send_signal(signal.SIGCONT)
    until(lambda: pod.passes("livenessProbe"), "the engine does not come back to life")

    pod.process.terminate()
    assert pod.process.wait(10) == 0
