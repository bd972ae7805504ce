"""Probes of engine and API: the calls of the manifest, made to the real services."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from testing import faults
from testing.exchange import exchange_server
from testing.servers import LoadedRedis, free_port
from testing.waiting import until
from tests.deploy.test_objects import container_of, environment_of

pytestmark = pytest.mark.server


class Pod:
    """The engine as its container runs it, with another port."""

    def __init__(self, redis_url: str) -> None:
        self._container = container_of("engine")
        self._port = free_port()
        environment = environment_of(self._container)
        del environment["TCGX_REDIS_URL_FILE"]
        changed = {"TCGX_METRICS_PORT": str(self._port), "TCGX_REDIS_URL": redis_url, "TCGX_DURABILITY": "everysec"}
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        self.process = subprocess.Popen(self._container["args"], env={**environment, **changed, "PATH": path})

    def passes(self, probe: str) -> bool:
        """Whether a probe is answered with 200 in time."""
        about = self._container[probe]
        assert about["httpGet"]["port"] == "metrics"
        url = f"http://127.0.0.1:{self._port}{about['httpGet']['path']}"
        try:
            return httpx.get(url, timeout=about["timeoutSeconds"], trust_env=False).status_code == 200
        except httpx.TransportError:
            return False


@pytest.fixture
def pod(own_server: LoadedRedis) -> Iterator[Pod]:
    started = Pod(own_server.url)
    yield started
    started.process.kill()
    started.process.wait()


def test_probes_of_the_engine_follow_its_state(pod: Pod) -> None:
    assert not pod.passes("startupProbe")
    until(lambda: pod.passes("readinessProbe"), "the engine is not ready")
    assert pod.passes("startupProbe")
    assert pod.passes("livenessProbe")

    pod.process.send_signal(signal.SIGSTOP)
    assert not pod.passes("livenessProbe")
    pod.process.send_signal(signal.SIGCONT)
    until(lambda: pod.passes("livenessProbe"), "the engine does not come back to life")

    pod.process.terminate()
    assert pod.process.wait(10) == 0


def test_the_api_stays_ready_while_redis_hangs_and_says_when_to_come_back() -> None:
    about = container_of("api")["readinessProbe"]
    order = {"card": "pikachu", "side": "buy", "price": "1.00"}
    with (
        exchange_server() as exchange,
        httpx.Client(base_url=exchange.url, trust_env=False, timeout=15) as http,
        faults.paused([int(exchange.redis.info("server")["process_id"])]),
    ):
        refused = http.post("/orders", json=order, headers=exchange.bearer(1))
        ready = http.get(about["httpGet"]["path"], timeout=about["timeoutSeconds"])
        report = http.get("/health/ready")
        read = http.get("/history/trades?card=pikachu")

    assert refused.status_code == 503
    assert int(refused.headers["retry-after"]) > 0
    assert ready.status_code == read.status_code == 200
    assert report.status_code == 503
