"""`tcgx bench`, each benchmark with few orders: what it prints, writes, draws and refuses.

Making a PostgreSQL takes seconds, so those that need one share one, by `--redis-url` and `--database-url`; that each
of them begins shows that those before have left it empty.
"""

import argparse
import asyncio
import json
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from redis import Redis

from bench.options import add_benches, options_of
from bench.servers import exchange, listeners
from core.settings import Settings
from engine import keys
from testing.processes import descendants, ended, environment, tcgx
from testing.servers import Servers, fetch, folder, servers

pytestmark = pytest.mark.server

NUMBER = (int, float)
COMMON: Mapping[str, Any] = {"bench": str, "flow": str, "seed": int, "durability": str, "server": str, "machine": dict}
KEYS: Mapping[str, Mapping[str, Any]] = {
    "match": {
        "orders_per_second": NUMBER,
        "baseline_orders_per_second": NUMBER,
        "ratio": NUMBER,
        "longest_call_ms": NUMBER,
        "redis_memory_bytes": int,
        "orders": int,
        "rounds": list,
    },
    "append": {"orders_per_second": NUMBER, "single_orders_per_second": NUMBER},
    "http": {
        "requests_per_second": NUMBER,
        "noop_requests_per_second": NUMBER,
        "ratio": NUMBER,
        "p50_ms": NUMBER,
        "p99_ms": NUMBER,
        "errors": int,
        "cpu_us_per_order": dict,
    },
    "million": {
        "orders": int,
        "accept_seconds": NUMBER,
        "match_seconds": NUMBER,
        "archive_seconds": NUMBER,
        "orders_per_second": NUMBER,
        "verified": bool,
        "peak_memory_bytes": dict,
        "cpu_us_per_order": dict,
    },
    "latency": {"rate": int, "p50_ms": NUMBER, "p99_ms": NUMBER, "p999_ms": NUMBER, "dropped": int, "errors": int},
    "streams": {"subscribers": int, "trades": int, "p50_ms": NUMBER, "p99_ms": NUMBER, "storm_books": int},
    "reads": {"archived_rows": int, "reads": list, "export_first_byte_ms": NUMBER, "row_us": NUMBER},
    "archive": {"rows_per_second": NUMBER, "archived_rows": int, "cpu_us_per_row": dict},
    "soak": {"told": dict, "account": dict, "trends": list, "samples": list, "faults": list},
    "overload": {"possible": NUMBER, "goodput": NUMBER, "told": dict, "account": dict, "parts": list, "faults": list},
    "scale": {"parts": dict, "depth_cpu_ratio": NUMBER, "through_cpu_ratio": NUMBER},
    "baseline": {"orders_per_second": NUMBER, "http_orders_per_second": NUMBER, "pools": list, "doors": list},
}
QUICK: Mapping[str, tuple[str, ...]] = {
    "match": ("--orders", "3000", "--rounds", "1"),
    "append": ("--orders", "3000", "--rounds", "1"),
    "http": ("--rounds", "1", "--seconds", "1"),
    "million": ("--orders", "4500"),
    "latency": ("--rate", "50", "--seconds", "1"),
    "streams": ("--orders", "1000", "--rate", "50", "--seconds", "2", "--connections", "20"),
    "reads": ("--rows", "12000", "--rounds", "1"),
    "archive": ("--orders", "3000"),
    "soak": ("--rate", "100", "--seconds", "4"),
    "overload": ("--seconds", "3"),
    "scale": ("--orders", "200", "--only", "depth,through,cards,nodes"),
    "baseline": ("--orders", "60", "--seconds", "1"),
}


SHARING = ("http", "million", "latency", "archive", "reads", "soak", "overload", "baseline")


class Bystanders:
    """A Redis and a PostgreSQL that are not the benchmark's own."""

    def __init__(self, pair: Servers) -> None:
        self.redis_url, self.database_url = pair.settings.redis_url, pair.settings.database_url
        self.urls = ("--redis-url", self.redis_url, "--database-url", self.database_url)

    def run(self, query: str) -> list[dict[str, Any]]:
        """A query's rows."""
        return fetch(self.database_url, query)


@pytest.fixture(scope="module")
def others() -> Iterator[Bystanders]:
    with servers() as pair:
        yield Bystanders(pair)


@pytest.fixture
def place() -> Iterator[Path]:
    with folder() as made:
        yield made


def bench(place: Path, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """`tcgx bench` in a folder."""
    return tcgx(place, "bench", *arguments, variables=variables)


@pytest.mark.parametrize("name", QUICK)
def test_a_benchmark_shows_progress_ends_with_a_table_and_keeps_figures_and_plots(
    place: Path, others: Bystanders, name: str
) -> None:
    urls = others.urls if name in SHARING else ()

    done = bench(place, name, *QUICK[name], *urls, "--json", "found.json", "--results", "kept", "--seed", "7")

    assert done.returncode == 0, done.stderr
    found = json.loads((place / "found.json").read_text())
    wrong = {
        key: found.get(key) for key, kind in {**COMMON, **KEYS[name]}.items() if not isinstance(found.get(key), kind)
    }
    assert wrong == {}
    assert (found["bench"], found["seed"], found["durability"]) == (name, 7, "always")
    assert json.loads((place / "kept" / f"{name}.json").read_text()) == found
    assert (place / "kept" / f"{name}.png").read_bytes().startswith(b"\x89PNG")
    assert sorted(path.name for path in (place / "kept").iterdir()) == [f"{name}.json", f"{name}.png"]
    assert f"tcgx bench {name}: " in done.stdout
    assert "│" in done.stdout
    assert re.search(r"^[^│└].*\d", done.stdout.partition("└")[2].partition("\n")[2])
    assert done.stderr.startswith("getting ready …\n")
    assert "/s" in done.stderr
    assert "Traceback" not in done.stderr
    assert "tcgx bench" not in done.stderr


def test_the_flow_with_cancels_is_matched_by_both(place: Path) -> None:
    done = bench(place, "match", "--flow", "market", "--orders", "3000", "--rounds", "1", "--results", "kept")

    assert done.returncode == 0, done.stderr
    assert json.loads((place / "kept" / "match-market.json").read_text())["ratio"] > 0


def test_the_usual_design_trades_without_a_door_and_behind_one(place: Path, others: Bystanders) -> None:
    done = bench(place, "baseline", "--orders", "60", "--seconds", "1", "--json", "x.json", *others.urls)

    assert done.returncode == 0, done.stderr
    found = json.loads((place / "x.json").read_text())
    assert [pool["connections"] for pool in found["pools"]] == [4, 8]
    assert [(door["processes"], door["errors"]) for door in found["doors"]] == [(1, 0), (2, 0)]
    assert all(one["trades"] > 0 for one in found["pools"] + found["doors"])
    assert found["orders_per_second"] == max(pool["orders_per_second"] for pool in found["pools"])
    assert found["http_orders_per_second"] == max(door["orders_per_second"] for door in found["doors"])
    assert others.run("SELECT count(*) AS schemas FROM pg_namespace WHERE nspname LIKE 'tcgx%'") == [{"schemas": 0}]


def test_a_million_is_not_reported_when_the_archive_has_another_row(place: Path, others: Bystanders) -> None:
    others.run(
        "CREATE FUNCTION cheat() RETURNS trigger LANGUAGE plpgsql AS "
        "$$ BEGIN IF NEW.trade_number = 3 THEN NEW.price_cents = NEW.price_cents + 1; END IF; RETURN NEW; END $$"
    )
    others.run("CREATE TRIGGER cheat BEFORE INSERT ON trades_pikachu FOR EACH ROW EXECUTE FUNCTION cheat()")
    try:
        done = bench(place, "million", "--orders", "2000", "--json", "x.json", "--results", "kept", *others.urls)
    finally:
        others.run("DROP FUNCTION cheat CASCADE")

    assert done.returncode == 1
    assert "the archive is not what the reference book says" in done.stderr
    assert not (place / "x.json").exists()
    assert not (place / "kept" / "million.json").exists()


def test_the_servers_of_others_keep_what_they_had_and_nothing_else(place: Path, others: Bystanders) -> None:
    with Redis.from_url(others.redis_url) as redis:
        redis.set("somebody:else", 1)
        done = bench(place, "archive", "--orders", "500", "--results", "kept", *others.urls)
        after: Any = redis.keys("*")
    rows = others.run("SELECT (SELECT count(*) FROM orders) + (SELECT count(*) FROM archive_cursor) AS rows")

    assert done.returncode == 0, done.stderr
    assert after == [b"somebody:else"]
    assert rows == [{"rows": 0}]


def test_servers_that_hold_an_exchange_are_refused_and_not_touched(place: Path, others: Bystanders) -> None:
    held_key = keys.key("pikachu", "sequence")
    others.run("INSERT INTO archive_cursor VALUES ('pikachu', '1-0', 1, '1-1', now())")
    with Redis.from_url(others.redis_url) as redis:
        redis.set(held_key, 3)
        try:
            refused_redis = bench(place, "match", "--orders", "500", "--redis-url", others.redis_url)
            refused_database = bench(place, "baseline", "--orders", "20", "--database-url", others.database_url)
            held: Any = redis.get(held_key)
            kept = others.run("SELECT count(*) AS rows FROM archive_cursor")
        finally:
            redis.delete(held_key)
            others.run("DELETE FROM archive_cursor")

    assert (refused_redis.returncode, refused_database.returncode) == (1, 1)
    assert "--redis-url holds orders of an exchange" in refused_redis.stderr
    assert "--database-url has rows in archive_cursor" in refused_database.stderr
    assert held == b"3"
    assert kept == [{"rows": 1}]


def test_all_api_processes_of_a_port_listen_before_anything_is_measured(others: Bystanders) -> None:
    parser = argparse.ArgumentParser()
    add_benches(parser)
    options = options_of("http", parser.parse_args(["http", *others.urls]), Settings())

    async def listening() -> int:
        async with exchange(options, "api-1", "api-2", api_workers=2) as running:
            return listeners(running.settings.port)

    assert asyncio.run(listening()) == 2


@pytest.fixture
def temporary(place: Path) -> Path:
    """Where a benchmark puts what it throws away."""
    made = place / "t"
    made.mkdir()
    made.chmod(0o755)
    return made


def test_nothing_is_left_behind(place: Path, temporary: Path) -> None:
    done = bench(place, "archive", "--orders", "100", "--results", "kept", TMPDIR=str(temporary))

    assert done.returncode == 0, done.stderr
    assert sorted(path.name for path in place.iterdir()) == ["kept", "t"]
    assert [path.name for path in temporary.iterdir()] == []


def test_a_stopped_benchmark_leaves_nothing_behind(place: Path, temporary: Path) -> None:
    with subprocess.Popen(
        [Path(sys.executable).with_name("tcgx"), "bench", "match", "--orders", "200000"],
        cwd=place,
        env=environment(TMPDIR=str(temporary)),
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stderr
        assert process.stderr.readline() == "getting ready …\n"
        assert process.stderr.readline() == "round 1: making 200,000 orders, starting servers …\n"
        assert "to the logs" in process.stderr.readline()
        servers = descendants(process.pid)
        process.terminate()
        _, errors = process.communicate(timeout=20)

    assert process.returncode == 130, errors
    assert "Traceback" not in errors
    assert len(servers) == 2
    assert ended(servers, seconds=0)
    assert [path.name for path in place.iterdir()] == ["t"]
    assert [path.name for path in temporary.iterdir()] == []
