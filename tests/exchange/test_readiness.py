"""Readiness under faults: 200 or 503 by whether an order can be appended, and a true report, within a second."""

import asyncio
import os
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import pytest

from archiver.lag import Lag
from core.heartbeat import Progress
from engine import heartbeat
from engine.book_reader import LogPosition
from engine.heartbeat import Heartbeat
from engine.server_state import ServerState
from exchange import health_report, readiness
from testing.exchange import ExchangeServer, exchange_server
from testing.faults import all_of, paused, without_memory
from testing.waiting import until

ANSWER_SECONDS_MAX = 2.0
CARD = "pikachu"
BUY = {"card": CARD, "side": "buy", "price": "1.00"}


# -- judgements


def state(**changes: Any) -> ServerState:
    """A server that works, with an engine and an archiver."""
    usual: dict[str, Any] = {
        "fault": "",
        "role": "primary",
        "aof": "always",
        "memory_used_bytes": 10,
        "memory_max_bytes": 0,
        "has_functions": True,
        "has_other_library": False,
        "heartbeats": [beat("engine"), beat("archiver", activity="reading")],
        "positions": {CARD: LogPosition(5, 5)},
    }
    return ServerState(**usual | changes)


def beat(
    service: str, *, seconds: float = 0, activity: str = "waiting", activity_seconds: float = 0, process: str = "h:1"
) -> Heartbeat:
    """A heartbeat."""
    return Heartbeat(
        service=service, process=process, activity=activity, seconds=seconds, activity_seconds=activity_seconds
    )


@pytest.mark.parametrize(
    ("used", "maximum", "share", "status"),
    [
        (99, 0, 1.0, "ok"),
        (89, 100, 1.0, "ok"),
        (90, 100, 1.0, "warning"),
        (99, 100, 1.0, "warning"),
        (100, 100, 1.0, "full"),
        (71, 100, 0.8, "ok"),
        (72, 100, 0.8, "warning"),
        (80, 100, 0.8, "full"),
    ],
)
def test_memory_is_full_at_its_bound_and_nearly_full_at_nine_tenths(
    used: int, maximum: int, share: float, status: str
) -> None:
    part = health_report.redis_part(
        state(memory_used_bytes=used, memory_max_bytes=maximum), 0.5, memory_share_max=share
    )

    assert (part.status, part.answered_ms) == (status, 0.5)
    assert ("raise maxmemory" in part.reason) == (status != "ok")


@pytest.mark.parametrize(
    ("beats", "still", "status"),
    [
        ([beat("engine")], 0, "ok"),
        ([beat("engine", seconds=3)], 0, "ok"),
        ([beat("engine", seconds=4)], 0, "hung"),
        ([beat("engine", activity_seconds=11)], 0, "ok"),
        ([beat("engine", activity_seconds=21)], 0, "stuck"),
        ([beat("engine")], 3.5, "stuck"),
        ([beat("engine", seconds=4), beat("engine")], 0, "warning"),
        ([beat("engine", seconds=4), beat("engine", seconds=5)], 0, "hung"),
        ([beat("archiver")], 0, "missing"),
        ([], 0, "missing"),
        (None, 0, "ok"),
        (None, 4, "ok"),
    ],
)
def test_an_engine_is_judged_by_heartbeat_round_and_positions(
    beats: list[Heartbeat] | None, still: float, status: str
) -> None:
    part = health_report.engine_part(state(heartbeats=beats, positions={CARD: LogPosition(9, 5)}), still)

    assert (part.status, part.waiting_commands, part.still_seconds) == (status, 4, still)
    assert bool(part.reason) == (status != "ok")


@pytest.mark.parametrize(
    ("beats", "answers", "lag_seconds", "status"),
    [
        ([beat("archiver", activity="reading")], True, 0, "ok"),
        ([beat("archiver", activity="reading")], True, 59, "ok"),
        ([beat("archiver", activity="reading")], True, 60, "slow"),
        ([beat("archiver", activity="reading")], False, 0, "waiting"),
        ([beat("archiver", activity="writing", activity_seconds=6)], True, 0, "waiting"),
        ([beat("archiver", activity="reading", activity_seconds=21)], True, 0, "stuck"),
        ([beat("archiver", activity="retrying")], True, 0, "waiting"),
        ([beat("archiver", activity="connecting")], True, 0, "waiting"),
        ([beat("archiver", activity="standby")], True, 0, "missing"),
        ([beat("archiver", activity="standby"), beat("archiver", activity="reading")], True, 0, "ok"),
        ([beat("archiver", activity="standby"), beat("archiver", activity="reading", seconds=9)], True, 0, "hung"),
        ([beat("archiver", activity="reading", seconds=4)], True, 0, "hung"),
        ([beat("engine")], True, 0, "missing"),
        (None, True, 0, "ok"),
        (None, False, 0, "waiting"),
    ],
)
def test_an_archiver_is_judged_by_heartbeat_activity_and_lag(
    beats: list[Heartbeat] | None, answers: bool, lag_seconds: float, status: str
) -> None:
    part = health_report.archiver_part(beats, [Lag(CARD, 3, lag_seconds)], has_lock=True, answers=answers)

    assert (part.status, part.lag_commands, part.lag_seconds) == (status, 3, lag_seconds)
    assert bool(part.reason) == (status != "ok")


@pytest.mark.parametrize(
    ("waiting", "status"), [({"a": 9, "b": 0}, "ok"), ({"a": 10, "b": 9}, "warning"), ({"a": 10, "b": 11}, "full")]
)
def test_a_full_card_is_reported_and_stops_orders_only_if_all_are(waiting: Mapping[str, int], status: str) -> None:
    positions = {card: LogPosition(100 + count, 100) for card, count in waiting.items()}

    assert health_report.backlog_part(positions, 10).status == status


@pytest.mark.parametrize(
    ("conflicts", "obstacles", "status"),
    [
        ({}, {"a": "", "b": ""}, "ok"),
        ({}, {"a": "PostgreSQL", "b": ""}, "warning"),
        ({}, {"a": "PostgreSQL", "b": "PostgreSQL"}, "waiting"),
        ({"a": "is lost"}, {"a": "", "b": ""}, "conflict"),
        ({}, {}, "ok"),
    ],
)
def test_one_conflict_stops_orders_and_an_obstacle_only_if_every_card_has_one(
    conflicts: Mapping[str, str], obstacles: Mapping[str, str], status: str
) -> None:
    assert health_report.history_part(conflicts, obstacles).status == status


def test_a_heartbeat_is_read_as_it_was_written(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("socket.gethostname", lambda: "a,b c\n\x7fé-1.example")
    progress = Progress()
    progress.begin("writing")

    name = heartbeat.name_of("engine", progress)

    assert not set(name) - {chr(code) for code in range(0x21, 0x7F)}
    read = heartbeat.heartbeats([{"name": name, "idle": "2"}, {"name": "tcgx-engine", "idle": "1"}, {"idle": "0"}])
    assert [(one.service, one.process, one.activity, one.seconds) for one in read] == [
        ("engine", f"a-b-c----1.example:{os.getpid()}", "writing", 2.0)
    ]
    assert read[0].activity_seconds >= 2.0


class Slow:
    """A question that is asked, and answered when it is told to."""

    def __init__(self) -> None:
        self.asked = 0
        self.told = asyncio.Event()

    async def ask(self) -> int:
        self.asked += 1
        await self.told.wait()
        return self.asked


def test_a_question_that_hangs_is_asked_once_and_its_late_answer_is_heard() -> None:
    async def scenario() -> None:
        slow = Slow()
        question = readiness.Question(slow.ask, "a server")
        first = question.begin()
        await asyncio.wait([first], timeout=0.05)
        assert "a server does not answer in time" in str(question.result(first))
        assert question.begin() is first
        slow.told.set()
        answer = await first
        assert (answer.value, slow.asked) == (1, 1)
        assert await question.begin() != answer
        assert slow.asked == 2
        await question.close()

    asyncio.run(scenario())


# -- on servers


@pytest.fixture(scope="module")
def whole() -> Iterator[ExchangeServer]:
    with exchange_server(backlog_max=1_000) as server:
        server.trader().expired(CARD, 1)
        yield server


@pytest.fixture
def server(whole: ExchangeServer) -> Iterator[ExchangeServer]:
    whole.ready()
    yield whole
    whole.ready()


def report(server: ExchangeServer, path: str = "/health/ready") -> tuple[int, Any]:
    """Status and body of a report, which must come within a second."""
    began = time.monotonic()
    answer = server.http.get(path)
    assert time.monotonic() - began < ANSWER_SECONDS_MAX
    return answer.status_code, answer.json()


def reported(server: ExchangeServer, name: str, status: str) -> tuple[int, Any]:
    """The first report in which a part has this status."""

    def found() -> tuple[int, Any] | None:
        code, body = report(server)
        return (code, body) if body["parts"][name]["status"] == status else None

    return until(found, f"{name} is not {status}")


@contextmanager
def configured(server: ExchangeServer, name: str, value: str) -> Iterator[None]:
    """Redis with another value of an option."""
    before: Any = server.redis.config_get(name)
    server.redis.config_set(name, value)
    try:
        yield
    finally:
        server.redis.config_set(name, before[name])


@contextmanager
def replica(server: ExchangeServer) -> Iterator[None]:
    """Redis as a replica of a server that does not exist."""
    server.redis.replicaof("127.0.0.1", 1)
    try:
        yield
    finally:
        server.redis.replicaof("NO", "ONE")


@pytest.mark.server
@pytest.mark.parametrize(
    ("fault", "status", "words"),
    [
        (without_memory, "full", "out of memory"),
        (replica, "refused", "replica"),
        (lambda server: configured(server, "appendonly", "no"), "refused", "no AOF"),
        (lambda server: configured(server, "appendfsync", "everysec"), "refused", "appendfsync everysec"),
        (lambda server: configured(server, "maxmemory-policy", "allkeys-lru"), "refused", "evicts"),
    ],
    ids=["memory", "replica", "aof", "fsync", "policy"],
)
def test_a_redis_that_takes_no_orders_or_may_lose_them_is_not_ready_and_doctor_says_the_same(
    server: ExchangeServer, fault: Callable[[ExchangeServer], AbstractContextManager[None]], status: str, words: str
) -> None:
    with fault(server):
        code, body = reported(server, "redis", status)
        doctor = server.tcgx("doctor", "--only", "redis")

    assert (code, body["status"]) == (503, "not_ready")
    assert "redis" in body["missing"]
    assert words in body["parts"]["redis"]["reason"]
    assert any(words in reason for reason in body["reasons"])
    assert "127.0.0.1" not in str(body), "a public answer names no address"
    assert (doctor.returncode, doctor.stdout.split()[:2]) == (1, ["FAIL", "redis"])
    assert words in doctor.stdout


@pytest.mark.server
def test_memory_that_is_nearly_full_is_a_warning(server: ExchangeServer) -> None:
    used = report(server)[1]["parts"]["redis"]["memory_used_bytes"]
    with configured(server, "maxmemory", str(int(used * 1.2))):
        code, body = reported(server, "redis", "warning")
        doctor = server.tcgx("doctor", "--only", "redis")

    assert (code, body["missing"]) == (200, [])
    assert "nearly out of memory" in body["reasons"][0]
    assert (doctor.returncode, doctor.stdout.split()[:2]) == (0, ["WARN", "redis"])


@pytest.mark.server
@pytest.mark.parametrize("name", ["engine", "archiver"])
def test_a_service_that_is_stopped_hangs_within_five_seconds_and_orders_flow(server: ExchangeServer, name: str) -> None:
    with paused([server.pid(name)]):
        began = time.monotonic()
        code, body = reported(server, name, "hung")
        seconds = time.monotonic() - began
        assert server.client(1).post("/orders", json=BUY).status_code == 202
        assert report(server, "/health")[0] == 503
        doctor = server.tcgx("doctor", "--only", name)

    assert (code, body["status"], body["missing"]) == (200, "ready", [name])
    assert seconds < 5
    assert body["parts"][name]["heartbeat_seconds"] > health_report.HEARTBEAT_SECONDS_MAX
    assert "hangs" in body["reasons"][0]
    assert (doctor.returncode, doctor.stdout.split()[:2]) == (1, ["FAIL", name])
    assert f":{server.pid(name)})" in doctor.stdout, "doctor names the process"
    assert str(server.pid(name)) not in str(body), "a public answer does not"


@pytest.mark.server
def test_a_postgresql_that_hangs_delays_no_answer_and_orders_flow(server: ExchangeServer) -> None:
    with paused(all_of(server.servers.postgres)):
        code, body = reported(server, "postgresql", "hung")
        for _ in range(10):
            assert report(server)[0] == 200
        assert server.client(1).post("/orders", json=BUY).status_code == 202
        assert (report(server, "/health")[0], body["parts"]["archiver"]["status"]) == (503, "waiting")

    assert (code, body["missing"]) == (200, ["postgresql", "archiver"])


@pytest.mark.server
def test_a_redis_that_hangs_delays_no_answer(server: ExchangeServer) -> None:
    with paused(all_of(server.servers.redis)):
        code, body = reported(server, "redis", "hung")
        with ThreadPoolExecutor(16) as pool:
            assert {code for code, _ in pool.map(lambda _: report(server), range(32))} == {503}
        assert report(server, "/health")[0] == 503

    assert (code, body["missing"]) == (503, ["redis"])
    assert body["parts"]["engine"]["status"] == "unknown"


@pytest.mark.server
def test_an_engine_that_cannot_match_is_stuck_though_its_heart_beats(server: ExchangeServer) -> None:
    server.redis.set("{squirtle}:asks", "put here by hand")
    try:
        server.client(1).post("/orders", json=BUY | {"card": "squirtle"})
        code, body = reported(server, "engine", "stuck")
        doctor = server.tcgx("doctor", "--only", "engine")
    finally:
        server.redis.delete("{squirtle}:asks")

    assert (code, body["missing"]) == (200, ["engine"])
    assert body["parts"]["engine"]["waiting_commands"] == 1
    assert body["parts"]["engine"]["heartbeat_seconds"] <= health_report.HEARTBEAT_SECONDS_MAX
    assert (doctor.returncode, "none was matched" in doctor.stdout) == (1, True)


@pytest.mark.server
def test_a_full_backlog_of_one_card_is_reported_and_of_all_cards_is_not_ready(server: ExchangeServer) -> None:
    assert server.stop_service("engine") == 0
    try:
        for card in server.settings.cards:
            assert report(server)[0] == 200
            batch = {"orders": [BUY | {"card": card}] * 1_000}
            assert server.client(1).post("/orders/batch", json=batch).status_code == 202
            reported(server, "backlog", "full" if card == server.settings.cards[-1] else "warning")
        code, body = report(server)
    finally:
        server.start_service("engine")

    assert (code, body["missing"]) == (503, ["engine", "backlog"])


@pytest.mark.server
def test_a_flood_of_probes_asks_the_servers_a_few_times_a_second(server: ExchangeServer) -> None:
    def asked() -> int:
        stats: Any = server.redis.info("commandstats")
        return int(stats["cmdstat_function|list"]["calls"])

    before, began = asked(), time.monotonic()
    with ThreadPoolExecutor(8) as pool:
        codes = {code for code, _ in pool.map(lambda _: report(server), range(400))}
    seconds = time.monotonic() - began

    assert codes == {200}
    assert asked() - before <= seconds / readiness.CACHE_SECONDS + 2


@pytest.mark.server
@pytest.mark.parametrize("path", ["/health", "/health/ready", "/health/live"])
def test_head_has_the_status_of_get_and_no_body(server: ExchangeServer, path: str) -> None:
    with without_memory(server) if path != "/health/live" else nullcontext():
        wanted = 503 if path != "/health/live" else 200
        until(lambda: server.http.get(path).status_code == wanted, "the status of GET")
        answer = server.http.head(path)

    assert (answer.status_code, answer.content) == (wanted, b"")


@pytest.mark.server
def test_an_api_that_starts_without_postgresql_is_not_ready_until_it_answered_once() -> None:
    with exchange_server() as own:
        own.ready()
        assert own.stop_service("api") == 0
        with paused(all_of(own.servers.postgres)):
            own.start_service("api")
            code, body = reported(own, "history", "waiting")
            placed = own.client(1).post("/orders", json=BUY)

        assert (code, placed.status_code) == (503, 503)
        assert "history" in body["missing"]
        own.ready()
        assert own.client(1).post("/orders", json=BUY).status_code == 202


@pytest.mark.server
def test_a_machine_that_stood_still_as_a_whole_is_healthy_at_once(server: ExchangeServer) -> None:
    pids = [server.pid(name) for name in ("api", "engine", "archiver")]
    with paused([*pids, *all_of(server.servers.redis), *all_of(server.servers.postgres)]):
        signal.sigtimedwait([], 5)  # nothing may happen, so there is nothing to wait for

    server.ready(seconds=5)
