"""An exchange on a Kubernetes that is there: restarts, killed pods and drained nodes under load.

`python -m testing.kubernetes --url http://HOST:PORT` needs a `kubectl` that leads to the cluster, an exchange without
orders in a namespace of it (docs/deployment.md), with the two servers for trying, and an address at which its Service
`tcgx-api` is reached from here. First each service is restarted as a release does it, while strict clients count every
request without an acknowledgement. Then clients that repeat what is not answered go on while pods are killed, one kind
after the other, and every node is drained. Every acknowledged order must be in log, books and archive, once.
"""

import argparse
import base64
import json
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import httpx

from core.errors import StartError
from core.settings import Settings, read
from testing.chaos.checker import check
from testing.chaos.evidence import gather
from testing.chaos.ledger import Ledger
from testing.chaos.load import Door, Load
from testing.oracle.judge import settle
from testing.rolling_restart import StrictLoad
from testing.waiting import NotInTime, until

SERVICES = ("api", "engine", "archiver")
PODS = (*SERVICES, "redis", "postgres")
LABEL = "app.kubernetes.io/component"
STRICT_TRADERS = 101
"""The first trader of the strict clients. The others begin with 1."""
BUSY_SECONDS = 3.0
"""The load goes on for so long before each fault."""
WORKS_SECONDS = 240.0
COMMAND_SECONDS = 300.0
SMOKE = "smoke"
"""How the client_order_ids of `testing.first_order` begin."""
FORWARDS = re.compile(r"Forwarding from 127\.0\.0\.1:(\d+)")


class Exchange:
    """The exchange in its namespace."""

    def __init__(self, namespace: str, url: str) -> None:
        self._namespace = namespace
        self._url = url
        config: dict[str, str] = self.get("configmap", "tcgx")["data"]
        secrets: dict[str, str] = self.get("secret", "tcgx")["data"]
        self._secrets = {name: base64.b64decode(value).decode() for name, value in secrets.items()}
        self._config = {name: value for name, value in config.items() if name == "TCGX_CARDS"}

    def kubectl(self, *words: str) -> str:
        """What `kubectl WORDS` prints.

        Raises:
            StartError: it fails.
        """
        command = ["kubectl", "--namespace", self._namespace, *words]
        done = subprocess.run(command, capture_output=True, text=True, timeout=COMMAND_SECONDS, check=False)
        if done.returncode:
            raise StartError(f"{' '.join(command)} ended with {done.returncode}: {done.stderr.strip()[-500:]}")
        return done.stdout

    def get(self, *words: str) -> Any:
        """What `kubectl get WORDS` knows."""
        return json.loads(self.kubectl("get", *words, "--output", "json"))

    def pods(self, component: str) -> list[str]:
        """The pods of a component that run."""
        found = self.get("pods", "--selector", f"{LABEL}={component}", "--field-selector", "status.phase=Running")
        return [pod["metadata"]["name"] for pod in found["items"] if "deletionTimestamp" not in pod["metadata"]]

    def ids(self, component: str, condition: str = "PodScheduled") -> set[str]:
        """The ids of the pods of a component for which a condition holds."""
        found = self.get("pods", "--selector", f"{LABEL}={component}")["items"]
        return {
            pod["metadata"]["uid"]
            for pod in found
            for one in pod["status"].get("conditions", [])
            if one["type"] == condition and one["status"] == "True"
        }

    def nodes(self) -> list[str]:
        """The nodes of the cluster."""
        return [node["metadata"]["name"] for node in self.get("nodes")["items"]]

    def places(self) -> dict[str, list[str]]:
        """The nodes on which the pods of each service are."""
        found: dict[str, list[str]] = {}
        for pod in self.get("pods", "--field-selector", "status.phase=Running")["items"]:
            found.setdefault(pod["metadata"]["labels"].get(LABEL, ""), []).append(pod["spec"]["nodeName"])
        return found

    def door(self) -> Door:
        """Where clients reach it."""
        part = urlsplit(self._url)
        assert part.hostname, "the URL has no host"
        return Door(part.port or 80, self._secrets["jwt-secret"], self._settings({}).cards, [part.hostname])

    def works(self) -> bool:
        """Whether every part does its work."""
        with suppress(httpx.TransportError):
            return httpx.get(f"{self._url}/health", timeout=5, trust_env=False).status_code == 200
        return False

    def is_whole(self) -> bool:
        """Whether every service has all its pods, ready."""
        for service in SERVICES:
            status = self.get("deployment", f"tcgx-{service}")["status"]
            if status.get("readyReplicas", 0) < status["replicas"] or status.get("unavailableReplicas"):
                return False
        return self.works()

    def wait(self) -> None:
        """Returns when all of it is there."""
        until(self.is_whole, "the exchange is not whole again", seconds=WORKS_SECONDS)

    @contextmanager
    def settings(self) -> Iterator[Settings]:
        """Settings that lead to its servers, as long as the context lasts."""
        with ExitStack() as stack:
            urls = {}
            for name, service in (("redis-url", "tcgx-redis"), ("database-url", "tcgx-postgres")):
                part = urlsplit(self._secrets[name])
                port = stack.enter_context(self._forwarded(service, part.port or 0))
                login = part.netloc.rpartition("@")[0]
                urls[name] = part._replace(netloc=f"{login}@127.0.0.1:{port}").geturl()
            yield self._settings({"TCGX_REDIS_URL": urls["redis-url"], "TCGX_DATABASE_URL": urls["database-url"]})

    def _settings(self, urls: dict[str, str]) -> Settings:
        return read({**self._config, **urls, "TCGX_JWT_SECRET": self._secrets["jwt-secret"]})

    @contextmanager
    def _forwarded(self, service: str, port: int) -> Iterator[int]:
        command = ["kubectl", "--namespace", self._namespace, "port-forward", f"service/{service}", f":{port}"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            try:
                assert process.stdout
                found = FORWARDS.search(process.stdout.readline())
                if not found:
                    raise StartError(f"{' '.join(command)} forwards nothing")
                yield int(found[1])
            finally:
                process.terminate()


class Act(NamedTuple):
    """Something that is done to the exchange."""

    name: str
    do: Callable[[Exchange], object]


def restart(service: str) -> Act:
    """A rolling restart."""

    def do(exchange: Exchange) -> None:
        exchange.kubectl("rollout", "restart", f"deployment/tcgx-{service}")
        exchange.kubectl("rollout", "status", f"deployment/tcgx-{service}", "--timeout=200s")

    return Act(f"rolling restart of {service}", do)


def kill(component: str) -> Act:
    """All pods of a component end at once, without a warning; of the API one."""

    def do(exchange: Exchange) -> None:
        pods = exchange.pods(component)
        killed = pods[: 1 if component == "api" else None]
        ids = exchange.ids(component)
        exchange.kubectl("delete", "pod", "--grace-period=0", "--force", *killed)
        until(
            lambda: len(exchange.ids(component, "Ready") - ids) >= len(killed),
            f"no other pod of {component} is ready",
            seconds=WORKS_SECONDS,
        )

    return Act(f"killed: {'one pod of api' if component == 'api' else f'every pod of {component}'}", do)


def drain(node: str) -> Act:
    """A node is drained, and takes pods again once the exchange is whole."""

    def do(exchange: Exchange) -> None:
        options = ["--ignore-daemonsets", "--delete-emptydir-data", "--timeout=240s"]
        exchange.kubectl("drain", node, *options)
        try:
            exchange.wait()
        finally:
            exchange.kubectl("uncordon", node)

    return Act(f"drain of {node}", do)


def strictly(exchange: Exchange, acts: Sequence[Act], ledger: Ledger) -> int:
    """Restarts while strict clients count. How many requests had no acknowledgement."""
    failed = 0
    for number, act in enumerate(acts):
        with StrictLoad(exchange.door(), first_trader=STRICT_TRADERS + 20 * number) as load:
            seconds = _done(exchange, act)
            time.sleep(BUSY_SECONDS)  # the load of this time, not a wait for something
        print(
            f"{act.name}: whole after {seconds:.1f} s; {load.requests} requests, {len(load.unanswered)} unanswered, "
            f"{len(load.refused)} refused",
            flush=True,
        )
        for text in (*load.unanswered, *load.refused):
            print(f"  {text[:300]}")
        failed += len(load.unanswered) + len(load.refused)
        ledger.placed += load.ledger.placed
    return failed


def insistently(exchange: Exchange, acts: Sequence[Act], load: Load) -> None:
    """Faults while clients repeat what is not answered. Prints the longest wait for an answer."""
    try:
        load.start()
        for act in acts:
            began = time.monotonic()
            seconds = _done(exchange, act)
            print(
                f"{act.name}: whole after {seconds:.1f} s; longest wait for an answer {_longest(load, began):.1f} s",
                flush=True,
            )
        time.sleep(BUSY_SECONDS)
        load.stop()
        until(lambda: not load.works(), "clients get no answers", seconds=WORKS_SECONDS)
    finally:
        load.abandon()


def _done(exchange: Exchange, act: Act) -> float:
    time.sleep(BUSY_SECONDS)  # likewise
    began = time.monotonic()
    act.do(exchange)
    exchange.wait()
    return time.monotonic() - began


def _longest(load: Load, began: float) -> float:
    """The longest time from the first request for an order to its acknowledgement, of those sent since `began`."""
    waits = [
        placed.answered_at - placed.sent_at
        for placed in list(load.ledger.placed)
        if placed.answered_at is not None and placed.answered_at > began
    ]
    return max(waits, default=0.0)


def main() -> int:
    """The command; the exit code is 0 if nothing was lost, and no request of a restart failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", required=True, help="where the Service tcgx-api is reached from here")
    parser.add_argument("--namespace", default="tcgx", help="the namespace of the exchange (tcgx)")
    parser.add_argument("--seed", type=int, default=1, help="the seed of the load (1)")
    given = parser.parse_args()
    try:
        exchange = Exchange(given.namespace, given.url)
        exchange.wait()
        print(f"pods are on {exchange.places()}", flush=True)
        load = Load(exchange.door(), given.seed)
        failed = strictly(exchange, [restart(service) for service in SERVICES], load.ledger)
        insistently(exchange, [*map(kill, PODS), *map(drain, exchange.nodes())], load)
        with exchange.settings() as settings:
            settle(settings.redis_url, settings.database_url, settings.cards)
            violations = check(load.ledger, gather(settings))
    except (StartError, NotInTime) as error:
        print(f"kubernetes: {error}", file=sys.stderr)
        return 1
    found = [str(one) for one in violations if f"nobody has sent order '{SMOKE}-" not in one.text]
    print(
        f"{len(load.ledger.placed)} orders sent, {load.ledger.repeats} requests repeated, "
        f"{load.ledger.acknowledged} orders acknowledged; {failed} requests failed in restarts; {len(found)} violations"
    )
    for text in found:
        print(f"FAULT  {text}")
    return 1 if failed or found else 0


if __name__ == "__main__":
    sys.exit(main())
