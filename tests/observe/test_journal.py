"""Log lines: which requests have one, what is in it, the way of an order by its id, and that no secret is in any."""

import ast
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from core import log_files
from core.log_files import LogFile
from core.settings import Settings
from observe import journal as journals
from observe import log_view
from observe.journal import Answered, Journal
from testing.observed import ObservedExchange
from testing.waiting import until

ROOT = Path(__file__).parents[2]
PACKAGES = ("core", "observe", "engine", "archiver", "exchange", "streams", "api", "cli")
METHODS = {"debug", "info", "warning", "error"}
BY_STRUCTLOG = {"timestamp", "level", "event", "service", "exception", "times"}
"""Fields that structlog and the rate limit add to a line."""
NOT_IN_CALLS = {
    *("code", "ms", "orders"),  # observe/journal.py
    *("commands_per_second", "caught_up_in_seconds"),  # archiver/lag.py
    *("ending", "said"),  # cli/supervisor.py
    *("line", "percent", "megabytes", "megabytes_per_second", "seconds_left"),  # core/loading.py
}


def answered(status: int = 202, body: bytes = b"{}", operation: str = "place_order") -> Answered:
    """An answer."""
    return Answered(operation, status, 0.001, "id-1", 5, body)


def test_nothing_is_kept_unless_it_is_asked_for() -> None:
    assert journals.of(Settings()) is None
    assert journals.of(Settings(metrics_port=1)) is not None
    assert journals.of(Settings(log_requests_one_in=10)) is not None


def test_one_in_so_many_answers_is_due() -> None:
    kept = Journal(log_one_in=10, trace_one_in=0)

    assert [kept.is_due("list_orders", 200, "") for _ in range(20)] == ([True] + [False] * 9) * 2


def test_after_so_many_answers_the_next_accepted_order_is_followed() -> None:
    followed: list[tuple[int, str]] = []
    kept = Journal(log_one_in=0, trace_one_in=5)
    kept.follow = lambda answered, order: followed.append((answered.status, order))

    for number in range(20):
        for operation, status in (("list_orders", 200), ("place_order", 422), ("place_order", 202)):
            if kept.is_due(operation, status, ""):
                kept.record(answered(status, b'{"order_id":"pikachu-%d"}' % number, operation))

    assert followed == [(202, f"pikachu-{number}") for number in range(0, 20, 2)]


def test_every_fault_and_every_traceparent_is_due() -> None:
    kept = Journal(log_one_in=0, trace_one_in=0)
    kept.is_due("place_order", 202, "")

    assert kept.is_due("place_order", 503, "")
    assert kept.is_due("list_cards", 200, "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")
    assert not kept.is_due("list_cards", 404, "")


def test_clients_that_all_send_a_traceparent_are_bounded() -> None:
    kept = Journal(log_one_in=0, trace_one_in=0)

    assert sum(kept.is_due("list_cards", 200, "00-1-2-01") for _ in range(10_000)) <= 2 * journals.TRACEPARENTS_MAX


def test_a_fault_of_the_journal_costs_no_answer() -> None:
    def fails(_: Answered, __: str) -> None:
        raise RuntimeError("the collector is broken")

    kept = Journal(log_one_in=0, trace_one_in=1)
    kept.follow = fails

    assert kept.is_due("place_order", 202, "")
    kept.record(answered())


@pytest.mark.parametrize("body", [b"", b"{", b'{"order_id":5}', b"[1]", b'{"results":7}', b"\xff{"])
def test_an_answer_of_any_kind_has_a_line(body: bytes) -> None:
    kept = Journal(log_one_in=1, trace_one_in=1)

    assert kept.is_due("place_order", 202, "")
    kept.record(answered(body=body))


# -- on a live exchange


def lines_of(output: str) -> list[dict[str, Any]]:
    """The lines that a service has written."""
    return [json.loads(line) for line in output.splitlines() if line.startswith("{")]


@pytest.mark.server
@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/orders", {"card": "squirtle", "side": "buy", "price": "5.00", "time_in_force": "ioc"}),
        ("/orders/batch", {"orders": [{"card": "squirtle", "side": "sell", "price": "5.00", "time_in_force": "ioc"}]}),
    ],
)
def test_a_request_is_followed_by_its_id_from_the_api_to_the_archive(
    observed: ObservedExchange, path: str, body: object
) -> None:
    trader, request_id = observed.trader(), f"way-of-{path.replace('/', '-')}"
    trader.request("POST", path, body, **{"x-request-id": request_id})

    def lines() -> dict[str, dict[str, Any]]:
        found = [line for line in lines_of(observed.log_of("api")) if line.get("request_id") == request_id]
        return {line["event"]: line for line in found}

    way = until(lambda: lines() if "an order was followed" in lines() else None, "the order is not followed")

    assert way["request"]["status"] == 202
    assert way["request"]["trader"] == trader.trader_id
    followed = way["an order was followed"]
    assert followed["order"] == way["request"]["order"]
    assert followed["outcome"] == "archived"
    assert all(followed[name] >= 0 for name in ("append_ms", "match_ms", "archive_ms"))
    card, _, sequence = followed["order"].rpartition("-")
    (row,) = observed.execute("SELECT trader_id FROM orders WHERE card = $1 AND sequence = $2", card, int(sequence))
    assert row["trader_id"] == trader.trader_id


@pytest.mark.server
def test_a_refusal_has_its_code_and_its_caller(observed: ObservedExchange) -> None:
    trader = observed.trader()
    trader.request("GET", "/orders/pikachu-999999999", **{"x-request-id": "refused-1"})

    found = [line for line in lines_of(observed.log_of("api")) if line.get("request_id") == "refused-1"]

    assert [(line["operation"], line["status"], line["code"], line["trader"]) for line in found] == [
        ("get_order", 404, "order_not_found", trader.trader_id)
    ]


@pytest.mark.server
def test_no_line_has_a_secret(observed: ObservedExchange) -> None:
    settings, key = observed.settings, observed.api_key(3)
    token = observed.http.post("/auth/token", json={"trader_id": 3, "api_key": key}).json()["access_token"]
    observed.http.get("/orders", headers={"authorization": f"Bearer {token}"})
    observed.http.post("/auth/token", json={"trader_id": 3, "api_key": f"{key}x"})
    written = "".join(observed.log_of(service) for service in ("api", "engine", "archiver"))

    assert '"create_token"' in written
    for secret in (settings.jwt_secret, key, token, token.rpartition(".")[2]):
        assert secret not in written
    for url in (settings.redis_url, settings.database_url):
        password = re.search(r"://[^:@/]*:([^@]+)@", url)
        assert password is None or password[1] not in written


# -- the list of fields


def fields_of_calls() -> Iterator[str]:
    """The fields that the code gives to log lines."""
    for package in PACKAGES:
        for path in (ROOT / package).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
                    continue
                target = node.func.value
                if node.func.attr in METHODS and isinstance(target, ast.Name) and target.id.endswith("log"):
                    yield from (keyword.arg for keyword in node.keywords if keyword.arg)


def test_the_page_lists_every_field_and_no_other_one() -> None:
    section = (ROOT / "docs" / "observability.md").read_text().partition("### Fields\n")[2].partition("\n## ")[0]
    listed = [name for line in section.splitlines() for name in re.findall(r"`(\w+)`", line.split(" | ")[0])]

    written = {"exception" if name == "exc_info" else name for name in fields_of_calls()}
    assert sorted(listed) == sorted(written | BY_STRUCTLOG | NOT_IN_CALLS)


# -- files and the view


def test_a_full_file_is_replaced_and_no_line_is_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log_files, "BYTES_MAX", 20_000)
    one, other = LogFile(tmp_path, "api"), LogFile(tmp_path, "api")

    for number in range(600):
        (one if number % 2 else other)(None, "info", {"event": "counted", "number": number, "level": "info"})

    files = sorted(path.name for path in tmp_path.iterdir())
    assert files == ["api.1.jsonl", "api.jsonl"]
    kept = [json.loads(line)["number"] for name in files for line in (tmp_path / name).read_text().splitlines()]
    assert kept[-1] == 599
    assert sorted(kept) == list(range(min(kept), 600))


def test_the_view_has_the_latest_lines_with_a_text_and_a_level(tmp_path: Path) -> None:
    for service in ("api", "engine"):
        file = LogFile(tmp_path, service)
        for number in range(10):
            level = "warning" if number % 2 else "info"
            file(None, level, {"timestamp": f"2026-11-27T07:00:0{number}Z", "level": level, "order": f"mew-{number}"})
    with (tmp_path / "api.jsonl").open("ab") as torn:
        torn.write(b'{"level":"error"')

    assert [line["timestamp"][18] for line in log_view.latest(tmp_path, level="warning", limit=4)] == list("9977")
    assert [line["order"] for line in log_view.latest(tmp_path, text="mew-4")] == ["mew-4"] * 2
    assert log_view.latest(tmp_path, text="mew-40") == []
