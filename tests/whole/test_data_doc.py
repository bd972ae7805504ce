"""docs/data.md beside an exchange that runs: it names every key, field, channel, column and index, and no other one."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from engine.codec import ORDER_COLUMNS, TRADE_COLUMNS
from testing.exchange import ExchangeServer, exchange_server, login_code
from testing.waiting import until

ROOT = Path(__file__).parents[2]
DOC = (ROOT / "docs" / "data.md").read_text()
CARD = "pikachu"
COMPACTED_ORDERS = 600
"""Orders of one batch that make an append compact their trader's list and remember its size."""

ANY_OF = {"<id>": r"[1-9][0-9]*", "<day>": r"[0-9]+", "<sha256>": r"[0-9a-f]{64}"}
"""What stands for a part of a key."""

COLUMNS = """
    SELECT t.relname AS "table", a.attname AS "column", format_type(a.atttypid, a.atttypmod) AS type
    FROM pg_attribute a JOIN pg_class t ON t.oid = a.attrelid
    WHERE t.relnamespace = 'public'::regnamespace AND t.relkind IN ('r', 'p') AND NOT t.relispartition
    AND a.attnum > 0 AND NOT a.attisdropped
"""
INDEXES = """
    SELECT i.relname AS "index", t.relname AS "table" FROM pg_index x
    JOIN pg_class i ON i.oid = x.indexrelid JOIN pg_class t ON t.oid = x.indrelid
    WHERE t.relnamespace = 'public'::regnamespace AND NOT t.relispartition
"""


def rows(heading: str) -> list[list[str]]:
    """The cells of the table under a heading, without its head and without backquotes around a whole cell."""
    section = re.search(rf"^## {heading}\n(.*?)(?=^## |\Z)", DOC, re.MULTILINE | re.DOTALL)
    assert section, f"docs/data.md has no section {heading}"
    lines = [line for line in section[1].splitlines() if line.startswith("|")]
    cells = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines[2:]]
    assert cells, f"the section {heading} has no rows"
    return [[re.sub(r"^`([^`]*)`$", r"\1", cell) for cell in row] for row in cells]


def documented_keys() -> dict[str, str]:
    """Types of the documented keys by name."""
    return {name: kind for name, kind, *_ in rows("Redis keys")}


def pattern(name: str) -> re.Pattern[str]:
    """What matches the keys that a documented name stands for, of any card."""
    parts = re.split("({card}|<id>|<day>|<sha256>)", name)
    known = {"{card}": r"\{[a-z0-9_]+\}", **ANY_OF}
    return re.compile("".join(known.get(part, re.escape(part)) for part in parts))


def fields_of(key: str) -> set[str]:
    """The documented fields of a hash."""
    return {field for name, field, _ in rows("Fields of hashes") if name == key}


@pytest.fixture(scope="module")
def used() -> Iterator[ExchangeServer]:
    """An exchange in which everything has happened that writes a key or a field."""
    limits = {"trader_orders_per_second": 1, "trader_burst": 10_000, "trader_open_orders_max": 10_000}
    with exchange_server(self_trade="cancel_taker", **limits) as server:
        trader, other = server.client(1), server.client(2)
        order = {"card": CARD, "side": "sell", "price": "5.50", "quantity": 2}
        batch = {"orders": [order | {"price": "9.00", "quantity": 1}] * COMPACTED_ORDERS}
        waiting = {"Prefer": "wait=10"}
        answers = [
            trader.post("/orders", json=order | {"client_order_id": "mine"}),
            trader.post("/orders/batch", json=batch),
            other.post("/orders", json=order | {"side": "buy", "quantity": 1}, headers=waiting),
            other.post("/orders", json=order | {"side": "buy", "price": "5.30"}),
            other.delete(f"/orders?card={CARD}", headers=waiting),
            other.post("/orders", json=order | {"side": "buy", "price": "5.40"}, headers=waiting),
        ]
        assert [answer.status_code for answer in answers] == [202, 202, 200, 202, 200, 200], [a.text for a in answers]
        assert trader.put("/orders/cancel-after", json={"seconds": 3_600}).status_code == 200
        watched: Any = server.redis.fcall_ro("watch", 1, f"{{{CARD}}}", 10, 60_000, 1)
        assert watched[0] >= len(answers)
        assert other.post("/orders", json=order, headers=waiting).status_code == 200
        mark: Any = server.redis.fcall_ro("history", 1, f"{{{CARD}}}")
        adopted: Any = server.redis.fcall("adopt", 1, f"{{{CARD}}}", mark[0], 1_000_000, 0, 1)
        assert adopted[1] == 1_000_000
        resting = other.post("/orders", json=order | {"price": "9.50", "quantity": 2}, headers=waiting).json()
        for change in ({"quantity": 1}, {"price": "9.60"}):
            assert other.patch(f"/orders/{resting['order_id']}", json=change, headers=waiting).status_code == 200
        server.redis.xadd(f"{{{CARD}}}:orders", {"entry": "made by hand"})
        until(lambda: server.redis.hget(f"{{{CARD}}}:cursor", "rejected") == b"1", why="the entry is rejected")
        server.archived()
        login_code(server.settings.redis_url, 1)
        halted: Any = server.redis.fcall("halt", 1, f"{{{CARD}}}", "of the test")
        assert halted[1].endswith(b" of the test")
        yield server


def entries(server: ExchangeServer, part: str) -> list[set[str]]:
    """The names of the fields of each entry of a stream of the card."""
    stream: Any = server.redis.xrange(f"{{{CARD}}}:{part}")
    return [{name.decode() for name in fields} for _, fields in stream]


@pytest.mark.server
def test_every_key_has_a_documented_name_and_type(used: ExchangeServer) -> None:
    client: Any = used.redis
    found = {key.decode(): client.type(key).decode() for key in client.scan_iter(count=1_000)}

    documented = {name: (pattern(name), kind) for name, kind in documented_keys().items()}
    unknown = {
        (key, kind)
        for key, kind in found.items()
        if not any(known.fullmatch(key) and kind == kind_of for known, kind_of in documented.values())
    }
    assert unknown == set()
    unmet = {name for name, (known, _) in documented.items() if not any(known.fullmatch(key) for key in found)}
    assert unmet == set()


@pytest.mark.server
@pytest.mark.parametrize("part", ["history", "cursor"])
def test_every_field_of_a_hash_is_documented(used: ExchangeServer, part: str) -> None:
    found: Any = used.redis.hkeys(f"{{{CARD}}}:{part}")

    assert {field.decode() for field in found} == fields_of(f"{{card}}:{part}")


@pytest.mark.server
def test_every_field_of_a_log_entry_is_documented(used: ExchangeServer) -> None:
    documented = {field: when for field, _, when in rows("Log entries")}

    *appended, _made_by_hand = entries(used, "orders")
    assert set().union(*appended) == set(documented)
    assert set.intersection(*appended) - {"self_trade"} == {
        field for field, when in documented.items() if when == "always"
    }


@pytest.mark.server
def test_every_field_of_an_event_is_documented(used: ExchangeServer) -> None:
    documented = {field: when for field, _, when in rows("Events")}

    found = entries(used, "events")
    assert set().union(*found) == set(documented)
    assert set.intersection(*found) == {field for field, when in documented.items() if when == "always"}


@pytest.mark.server
def test_every_channel_is_documented(used: ExchangeServer) -> None:
    found: Any = used.redis.pubsub_channels()

    documented = [pattern(name) for name, *_ in rows("Notifications")]
    assert found
    assert [name for name in found if not any(known.fullmatch(name.decode()) for known in documented)] == []


@pytest.mark.server
def test_every_column_is_documented(used: ExchangeServer) -> None:
    found = {(row["table"], row["column"], row["type"]) for row in used.execute(COLUMNS)}

    assert found == {(table, column, kind) for table, column, kind, _ in rows("PostgreSQL columns")}
    assert {table for table, *_ in found} == {table for table, *_ in rows("PostgreSQL tables")}


@pytest.mark.server
def test_every_index_is_documented(used: ExchangeServer) -> None:
    found = {(row["index"], row["table"]) for row in used.execute(INDEXES)}

    documented = {(index, re.split("`", on)[1]) for index, on, _ in rows("PostgreSQL indexes")}
    assert found == documented


def test_every_key_in_the_sources_is_documented() -> None:
    lua = "".join(path.read_text() for path in (ROOT / "lua").rglob("*.lua"))
    keys_module = (ROOT / "engine" / "keys.py").read_text()
    in_lua = set(re.findall(r"':([a-z_]+:?)'", lua))
    in_keys = set(re.findall(r"`([a-z_]+)(?::<[a-z]+>)?`", keys_module.split('"""')[1]))

    names = {name.removeprefix("{card}:") for name in documented_keys() if name.startswith("{card}:")}
    channels = {name.removeprefix("{card}:") for name, *_ in rows("Notifications")}
    assert in_lua == {re.sub("<.*>", "", name) for name in names | channels}
    assert in_keys == {re.sub(":<.*>", "", name) for name in names}


def test_the_values_of_lines_are_documented() -> None:
    documented = {kind: re.findall("`([a-z_]+)`", values) for kind, values, _ in rows("Lines")}

    assert documented == {"order": list(ORDER_COLUMNS), "trade": list(TRADE_COLUMNS)}
