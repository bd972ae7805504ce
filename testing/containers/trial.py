"""The trial: compose comes up, orders trade, every container is killed under load, and the ledger is compared."""

import hashlib
import json
import os
import re
import secrets
import signal
import tarfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from itertools import zip_longest
from pathlib import Path
from typing import IO, Any, Literal, NamedTuple

import httpx
import msgspec
from tcgx_client import Tcgx

from core.errors import StartError
from core.settings import Settings, read
from exchange import tokens
from testing.chaos.checker import Violation, check
from testing.chaos.evidence import gather
from testing.chaos.ledger import Ledger
from testing.chaos.load import Door, Load
from testing.clients.trader import Trader, http_client
from testing.containers.engine import Engine
from testing.containers.machine import ROOT
from testing.oracle.judge import settle
from testing.waiting import NotInTime, until

PROJECT = "tcgx-containers"
PORT, GRPC_PORT = 8000, 50051
SERVICES = ("redis", "postgres", "engine", "archiver", "api", "grpc")
STARTS_SECONDS = 180.0
WORKS_SECONDS = 60.0
LOAD_SECONDS = 1.5
"""The load goes on for so long before and after each kill."""
UPGRADE_LOAD_SECONDS = 5.0
AFTER_TRADERS = 101
"""The first trader after an upgrade. Those before begin with 1."""
IMAGE_BYTES_MAX = 250_000_000
BUILD_TOOLS = ("pip", "gcc", "cc", "make", "git", "curl", "uv")
NO_ROOT = "10001:10001"
WRITABLE = ("/tmp", "/var/tmp", "/run/lock")  # noqa: S108 - folders that anybody may write, were the root not read-only
OF_A_BUILD = ("created", "container", "container_config")
TOKEN_DOTS = 2
FIRST = "first"
"""How client_order_ids of the first orders begin, which are not in the ledger."""


class Kill(msgspec.Struct, frozen=True):
    """A kill of a container: how many seconds until it runs again, and until every part of the exchange works."""

    service: str
    runs_seconds: float
    works_seconds: float


class Outcome(msgspec.Struct, kw_only=True):
    """What came of a trial."""

    up_seconds: float
    kills: list[Kill]
    sent: int
    acknowledged: int
    repeats: int
    trades: int
    violations: list[Violation]
    stop_seconds: float
    exit_codes: dict[str, int]
    again_seconds: float
    faults: list[str]


class Stack:
    """The services of the compose file."""

    def __init__(self, engine: Engine, image: str, *, is_private: bool, tree: Path = ROOT) -> None:
        """`is_private`: process ids of the engine are valid here, so that a process can be killed as by a crash.

        `tree`: where the compose file is.
        """
        self._engine = engine
        self._tree = tree
        self._is_private = is_private
        self._variables = {
            "COMPOSE_PROFILES": "grpc",
            "TCGX_IMAGE": image,
            "REDIS_PASSWORD": secrets.token_hex(16),
            "POSTGRES_PASSWORD": secrets.token_hex(16),
            "TCGX_JWT_SECRET": secrets.token_hex(32),
        }

    def compose(self, *words: str) -> str:
        """Runs `docker compose` on the services."""
        return self._engine.compose(*words, project=PROJECT, tree=self._tree, **self._variables)

    def become(self, image: str, tree: Path) -> None:
        """From the next start on it has another image and another compose file; its data and secrets stay."""
        self._variables["TCGX_IMAGE"] = image
        self._tree = tree

    def up(self) -> float:
        """Starts everything; the seconds until every part works."""
        began = time.monotonic()
        self.compose("up", "--detach", "--no-build")
        self._until(self.works, "the exchange does not come up", STARTS_SECONDS)
        return time.monotonic() - began

    def door(self) -> Door:
        """Where clients reach the API."""
        return Door(PORT, self._variables["TCGX_JWT_SECRET"], read({}).cards)

    def settings(self) -> Settings:
        """Settings that lead to the servers in their containers."""
        redis, postgres = (self._address(service) for service in ("redis", "postgres"))
        variables = self._variables
        return read(
            {
                "TCGX_REDIS_URL": f"redis://:{variables['REDIS_PASSWORD']}@{redis}:6379/0",
                "TCGX_DATABASE_URL": f"postgresql://tcgx:{variables['POSTGRES_PASSWORD']}@{postgres}:5432/tcgx",
                "TCGX_JWT_SECRET": variables["TCGX_JWT_SECRET"],
            }
        )

    def works(self) -> bool:
        """Whether every part of the exchange does its work, as the API sees it."""
        with suppress(httpx.TransportError), http_client(f"http://127.0.0.1:{PORT}") as http:
            return http.get("/health").status_code == 200
        return False

    def kill(self, service: str) -> Kill:
        """Kills the first process of a container, and waits until it runs and all parts work again."""
        before = self.state(service)
        began = time.monotonic()
        if self._is_private:
            os.kill(before["Pid"], signal.SIGKILL)
        else:  # an operator's kill, after which the engine restarts nothing
            self._engine.docker("kill", self._name(service))
            self._engine.docker("start", self._name(service))
        self._until(lambda: self._has_restarted(service, before), f"{service} does not start again", WORKS_SECONDS)
        runs = time.monotonic() - began
        self._until(self.works, f"the exchange does not work after a kill of {service}", WORKS_SECONDS)
        return Kill(service, round(runs, 2), round(time.monotonic() - began, 2))

    def state(self, service: str) -> Any:
        """The state of the container of a service."""
        return self._engine.inspect(self._name(service))["State"]

    def faults(self) -> list[str]:
        """What is wrong with the containers of our image: rights beyond their need, and failed health checks."""
        found = []
        for service in ("engine", "archiver", "api", "grpc"):
            about = self._engine.inspect(self._name(service))
            host = about["HostConfig"]
            if not host["ReadonlyRootfs"] or host["CapDrop"] != ["ALL"]:
                found.append(f"{service}: its root is writable, or it has capabilities")
            with suppress(NotInTime):
                self._until(lambda service=service: self._is_healthy(service), "", WORKS_SECONDS)  # type: ignore[misc]
            if not self._is_healthy(service):
                found.append(f"{service}: its health check says {about['State']['Health']}")
        return found

    def logs(self) -> str:
        """The last lines of all services."""
        return self.compose("logs", "--no-color", "--tail", "15")

    def _is_healthy(self, service: str) -> bool:
        return bool(self.state(service)["Health"]["Status"] == "healthy")

    def _has_restarted(self, service: str, before: Any) -> bool:
        now = self.state(service)
        return bool(now["Running"] and now["StartedAt"] != before["StartedAt"])

    def _name(self, service: str) -> str:
        return f"{PROJECT}-{service}-1"

    def _address(self, service: str) -> str:
        networks = self._engine.inspect(self._name(service))["NetworkSettings"]["Networks"]
        return str(next(iter(networks.values()))["IPAddress"])

    @staticmethod
    def _until(holds: Callable[[], bool], why: str, seconds: float) -> None:
        until(holds, why, seconds=seconds)


@contextmanager
def removed_afterwards(stack: Stack) -> Iterator[Stack]:
    """Removes containers, network and volumes at the end."""
    try:
        yield stack
    finally:
        stack.compose("down", "--volumes", "--timeout", "5")


def run(stack: Stack, *, rounds: int, seed: int, say: Callable[[str], None]) -> Outcome:
    """One trial. Each round kills every container once.

    Raises:
        StartError: the exchange does not come up, or does not trade.
    """
    up_seconds = stack.up()
    say(f"up, every part works after {up_seconds:.1f} s")
    _trade(stack)
    say("two orders have traded")
    _trade_over_grpc(stack)
    say("two orders have traded over gRPC")
    say(stack.compose("exec", "--no-TTY", "api", "python", "-m", "testing.first_order").strip())
    if stack.compose("exec", "--no-TTY", "api", "tcgx", "traders", "token", "1").count(".") != TOKEN_DOTS:
        raise StartError("`tcgx traders token` in the container of the API prints no token")
    kills: list[Kill] = []
    load = Load(stack.door(), seed)
    try:
        load.start()
        for service in SERVICES * rounds:
            time.sleep(LOAD_SECONDS)  # the load of this time, not a wait for something
            kills.append(stack.kill(service))
            last = kills[-1]
            say(f"{service} killed: runs after {last.runs_seconds} s, all works after {last.works_seconds} s")
        time.sleep(LOAD_SECONDS)
        load.stop()
        until(lambda: not load.works(), "clients get no answers", seconds=WORKS_SECONDS)
    finally:
        load.abandon()
    settings = stack.settings()
    settle(settings.redis_url, settings.database_url, settings.cards)
    evidence = gather(settings)
    faults = stack.faults()
    began = time.monotonic()
    stack.compose("stop")
    stop_seconds = time.monotonic() - began
    exit_codes = {service: int(stack.state(service)["ExitCode"]) for service in SERVICES}
    again_seconds = stack.up()
    if {card: found.state_hash for card, found in gather(stack.settings()).items()} != {
        card: found.state_hash for card, found in evidence.items()
    }:
        faults.append("the books are others after a stop and a start")
    return Outcome(
        up_seconds=up_seconds,
        kills=kills,
        sent=len(load.ledger.placed),
        acknowledged=load.ledger.acknowledged,
        repeats=load.ledger.repeats,
        trades=sum(len(card.trades) for card in evidence.values()),
        violations=[found for found in check(load.ledger, evidence) if not _is_of_us(found)],
        stop_seconds=stop_seconds,
        exit_codes=exit_codes,
        again_seconds=again_seconds,
        faults=faults,
    )


class Upgrade(msgspec.Struct, kw_only=True):
    """What came of an upgrade: the seconds from `up` until every part works, and what was said of the data."""

    up_seconds: float
    acknowledged_before: int
    acknowledged: int
    trades: int
    migrations: list[str]
    violations: list[Violation]


def upgrade(stack: Stack, image: str, *, seed: int, say: Callable[[str], None]) -> Upgrade:
    """Trades on a stack of an earlier version, upgrades it as docs/deployment.md says, and goes on trading.

    Raises:
        StartError: one of the versions does not come up, or does not trade.
    """
    say(f"the version of before is up after {stack.up():.1f} s")
    before = _traded(stack, seed)
    stack.become(image, ROOT)
    up_seconds = stack.up()
    say(f"upgraded, every part works after {up_seconds:.1f} s")
    ledger = _traded(stack, seed + 1, first_trader=AFTER_TRADERS)
    before.placed += ledger.placed
    before.canceled += ledger.canceled
    before.canceled_with_all += ledger.canceled_with_all
    before.unfound += ledger.unfound
    settings = stack.settings()
    settle(settings.redis_url, settings.database_url, settings.cards)
    evidence = gather(settings)
    return Upgrade(
        up_seconds=up_seconds,
        acknowledged_before=before.acknowledged - ledger.acknowledged,
        acknowledged=before.acknowledged,
        trades=sum(len(card.trades) for card in evidence.values()),
        migrations=re.findall(r"\bran [^\r\n\x1b]+", stack.compose("logs", "--no-color", "migrate")),
        violations=check(before, evidence),
    )


def _traded(stack: Stack, seed: int, *, first_trader: int = 1) -> Ledger:
    """The ledger of clients that have traded for a while."""
    load = Load(stack.door(), seed, is_plain=True, first_trader=first_trader)
    try:
        load.start()
        time.sleep(UPGRADE_LOAD_SECONDS)  # the load of this time, not a wait for something
        load.stop()
        until(lambda: not load.works(), "clients get no answers", seconds=WORKS_SECONDS)
    finally:
        load.abandon()
    return load.ledger


def _trade(stack: Stack) -> None:
    """Two orders meet."""
    door = stack.door()
    card = door.cards[0]
    for trader_id, side in ((901, "sell"), (902, "buy")):
        token = tokens.issue_token(door.jwt_secret, trader_id, "trader", 600)
        with http_client(f"http://127.0.0.1:{door.port}", f"Bearer {token}") as http:
            order = Trader(http, trader_id).place(card, side, "5.50", quantity=3, client_order_id=f"{FIRST}-{side}")
            document = http.get("/schema/openapi.json").status_code
    if order["status"] != "filled":
        raise StartError(f"the first orders have not traded: {order}")
    if document != 200:
        raise StartError(f"/schema/openapi.json answers {document}")


def _trade_over_grpc(stack: Stack) -> None:
    """Two orders meet that came over gRPC."""
    door = stack.door()
    target = f"127.0.0.1:{GRPC_PORT}"
    orders: tuple[tuple[int, Literal["buy", "sell"]], ...] = ((901, "sell"), (902, "buy"))
    for trader_id, side in orders:
        token = tokens.issue_token(door.jwt_secret, trader_id, "trader", 600)
        with Tcgx(f"http://127.0.0.1:{door.port}", token=token, transport="grpc", grpc_target=target) as client:
            order = client.place(door.cards[0], side, "5.60", 2, client_order_id=f"{FIRST}-grpc-{side}", wait=10)
    if order.status != "filled":
        raise StartError(f"the orders over gRPC have not traded: {order}")


def _is_of_us(found: Violation) -> bool:
    """Whether it is about an order that the ledger cannot know: one of the first orders."""
    return any(f"nobody has sent order '{name}-" in found.text for name in (FIRST, "smoke"))


def image_faults(engine: Engine, image: str) -> list[str]:
    """What is wrong with an image."""
    about = engine.inspect(image)
    configuration = about["Config"]
    found = []
    if configuration["User"] != NO_ROOT:
        found.append(f"its user is {configuration['User']!r}")
    if about["Size"] >= IMAGE_BYTES_MAX:
        found.append(f"it has {about['Size'] / 1e6:.0f} MB")
    labels = configuration["Labels"] or {}
    for name in ("title", "licenses", "version", "revision"):
        if not labels.get(f"org.opencontainers.image.{name}"):
            found.append(f"it has no label {name}")
    inside = ["run", "--rm", "--network", "none", "--read-only", image, "sh", "-c"]
    lookup = f"for name in {' '.join(BUILD_TOOLS)}; do ! command -v $name; done; true"
    # The official image of Python has a pip of its own outside of the virtual environment.
    tools = [path for path in engine.docker(*inside, lookup).split() if not path.startswith("/usr/local/bin/pip")]
    if tools:
        found.append(f"it has {', '.join(tools)}")
    if engine.docker(*inside, "id -u").strip() != NO_ROOT.partition(":")[0]:
        found.append("its processes run as another user")
    written = engine.docker(
        *inside, "find / -xdev -writable -not -type l -not -path '/proc*' -not -path '/dev*' | head"
    )
    others = [path for path in written.split() if path not in WRITABLE]
    if others:
        found.append(f"its user may write {', '.join(others)}")
    return found


class Contents(NamedTuple):
    """What an image consists of: what its digest is made of but the time of its build, and its files."""

    configuration: dict[str, Any]
    layers: list[dict[str, tuple[object, ...]]]

    @property
    def digest(self) -> str:
        """Of configuration and layers. Two builds at one time (`SOURCE_DATE_EPOCH`) have the same."""
        return hashlib.sha256(json.dumps(self.configuration, sort_keys=True).encode()).hexdigest()


def differences(images: tuple[Contents, Contents]) -> list[str]:
    """How two images differ, layer by layer; empty if all but the time of their builds is the same."""
    found = []
    configurations = [one.configuration for one in images]
    for name in sorted({*configurations[0], *configurations[1]} - {"rootfs"}):
        first, second = (one.get(name) for one in configurations)
        if first != second:
            found.append(f"{name}: {first} or {second}")
    layers = [one.configuration["rootfs"]["diff_ids"] for one in images]
    if layers[0] == layers[1]:
        return found
    for number, (one, other) in enumerate(zip_longest(*(one.layers for one in images), fillvalue={}), 1):
        names = [name for name in sorted({*one, *other}) if one.get(name) != other.get(name)]
        found += [f"layer {number}: {name}: {one.get(name)} or {other.get(name)}" for name in names]
    return found or [f"the files are the same, in another order: {layers}"]


def contents(engine: Engine, image: str, place: Path) -> Contents:
    """What an image consists of: of each file time, size, rights, owner, target and content."""
    archive = place / "image.tar"
    engine.docker("save", "--output", str(archive), image)
    try:
        with tarfile.open(archive) as saved:
            (manifest,) = json.load(_file(saved, "manifest.json"))
            configuration: dict[str, Any] = json.load(_file(saved, manifest["Config"]))
            layers = [_files(_file(saved, name)) for name in manifest["Layers"]]
    finally:
        archive.unlink()
    return Contents(_without_times(configuration), layers)


def _without_times(configuration: dict[str, Any]) -> dict[str, Any]:
    """A configuration without what the time of a build changes: that time, and ids of what it was built from and in."""
    kept = {name: value for name, value in configuration.items() if name not in OF_A_BUILD}
    return kept | {
        "config": {**configuration["config"], "Image": None},
        "history": [{**step, "created": None} for step in configuration.get("history", ())],
    }


def _file(archive: tarfile.TarFile, name: str) -> IO[bytes]:
    found = archive.extractfile(name)
    assert found, f"{name} is no file"
    return found


def _files(layer: IO[bytes]) -> dict[str, tuple[object, ...]]:
    with tarfile.open(fileobj=layer) as content:
        return {
            one.name: (
                *(one.mtime, one.size, oct(one.mode), one.uid, one.gid, one.linkname),
                hashlib.sha256(_file(content, one.name).read()).hexdigest()[:12] if one.isreg() else "",
            )
            for one in content
        }
