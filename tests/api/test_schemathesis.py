"""Schemathesis tries every call of a running exchange with right and wrong data made from its OpenAPI document, and
finds nothing: no 5xx, no answer that the document does not describe, nothing right refused, nothing wrong accepted."""

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from exchange import tokens
from testing.contract import operations
from testing.exchange import ExchangeServer, exchange_server

pytestmark = pytest.mark.server

CONFIGURATION = Path(__file__).with_name("schemathesis.toml")
SEED = 20_261_126
EXAMPLES_MAX = 12  # of each call in each phase
SECONDS_MAX = 180  # on an idle machine it takes 12
# Made-up keys; orders that are completed or unknown; channels (a stream that is right does not end).
NEVER_RIGHT = {
    *(
        "POST /auth/token",
        "POST /auth/login-code",
        "DELETE /orders/{order_id}",
        "PATCH /orders/{order_id}",
        "GET /stream",
    ),
    *("POST /admin/keys/{key_id}/rotate", "DELETE /admin/keys/{key_id}"),
}
PHASES = {"examples", "coverage", "fuzzing", "stateful"}
CALLER, OTHER = 1, 2


@pytest.fixture(scope="module")
def busy() -> Iterator[ExchangeServer]:
    """An exchange of its own, with orders in every state, so that no list is empty."""
    with exchange_server() as started:
        document = started.http.get("/schema/openapi.json").json()
        caller, other = started.client(CALLER), started.client(OTHER)
        waiting = {"prefer": "wait=10"}
        for card in document["components"]["schemas"]["Card"]["enum"]:
            for number in range(3):
                order = {"card": card, "side": "sell", "price": f"{6 + number}.00", "client_order_id": f"ask-{number}"}
                assert other.post("/orders", json=order).status_code == 202
            order = {"card": card, "side": "buy", "price": "6.00", "client_order_id": "my-order-1"}
            assert caller.post("/orders", json=order, headers=waiting).json()["status"] == "filled"
            order = {"card": card, "side": "buy", "price": "5.00", "client_order_id": "my-order-2"}
            assert caller.post("/orders", json=order, headers=waiting).json()["status"] == "open"
        started.archived()
        yield started


@pytest.mark.parametrize(("role", "tested"), [("trader", "^/(?!admin)"), ("admin", "^/admin")])
def test_schemathesis_finds_nothing(busy: ExchangeServer, tmp_path: Path, role: tokens.Role, tested: str) -> None:
    report = tmp_path / "report.json"
    arguments = [
        *("--config-file", str(CONFIGURATION), "run", f"{busy.url}/schema/openapi.json"),
        *("--header", f"Authorization: {busy.bearer(CALLER, role)['authorization']}"),
        *("--include-path-regex", tested),
        *("--seed", str(SEED), "--max-examples", str(EXAMPLES_MAX), "--continue-on-failure"),
        *("--report", "json", "--report-json-path", str(report), "--no-color"),
    ]

    run = subprocess.run(
        [Path(sys.executable).with_name("schemathesis"), *arguments],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=SECONDS_MAX,
        check=False,
    )

    assert run.returncode == 0, run.stdout + run.stderr
    found = msgspec.json.decode(report.read_bytes())
    document = busy.http.get("/schema/openapi.json").json()
    calls = {call for call, _ in operations(document) if re.match(tested, call.partition(" ")[2])}
    assert found["complete"]
    assert found["operations"]["tested"] == len(calls)
    assert {name for name, phase in found["phases"].items() if phase["status"] == "success"} == PHASES
    rates = found["valid_rates"]
    accepted = {call for call in rates if sum(phase["accepted"] for phase in rates[call].values())}
    assert calls - accepted <= NEVER_RIGHT, "calls of which no request was right prove little"
