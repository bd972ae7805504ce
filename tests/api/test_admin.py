"""What admins do over HTTP: halted cards, keys, orders of traders, and the audit of all of it."""

import asyncio
import threading
from collections.abc import Iterator
from pathlib import Path

import asyncpg
import httpx
import pytest

from engine import keys
from testing.clients.trader import Trader
from testing.exchange import ExchangeServer, exchange_server
from testing.servers import client_of
from testing.waiting import until

pytestmark = pytest.mark.server

ADMIN_ID = 5
CARD = "pikachu"
ORDER = {"card": CARD, "side": "buy", "price": "1.00"}
BOUNDARY_BATCHES = 40
KEPT = ("SELECT * FROM api_keys ORDER BY key_id", "SELECT * FROM admin_audit ORDER BY audit_id")


@pytest.fixture(scope="module")
def own() -> Iterator[ExchangeServer]:
    with exchange_server() as server:
        yield server


@pytest.fixture
def admin(own: ExchangeServer) -> Iterator[httpx.Client]:
    with own.client(ADMIN_ID, "admin") as client:
        yield client
        for card in own.settings.cards:
            client.post(f"/admin/cards/{card}/resume")


@pytest.fixture
def owner(own: ExchangeServer) -> Iterator[Trader]:
    trader = own.trader()
    yield trader
    trader.close()


def actions(admin: httpx.Client, count: int) -> list[tuple[str, str, str]]:
    """The newest actions of the audit, oldest first."""
    rows = admin.get("/admin/audit", params={"limit": count}).json()["rows"]
    assert {row["actor"] for row in rows} == {f"trader {ADMIN_ID}"}
    assert {row["address"] for row in rows} == {"127.0.0.1"}
    return [(row["action"], row["target"], row["outcome"]) for row in reversed(rows)]


# -- halted cards


def test_a_halted_card_takes_cancels_and_no_orders(admin: httpx.Client, owner: Trader) -> None:
    resting = owner.place(CARD, "buy", "1.00", client_order_id="before")

    halted = admin.post(f"/admin/cards/{CARD}/halt", params={"reason": "a wrong price"}).json()

    assert (halted["halted"], halted["reason"]) == (True, "a wrong price")
    refused = owner.http.post("/orders", json=ORDER)
    assert (refused.status_code, refused.json()["code"]) == (503, "card_halted")
    assert refused.headers["retry-after"] == "1"
    assert refused.json()["detail"].endswith(f"since {halted['halted_since']}: a wrong price; cancels are taken")
    # The order of before is named by its client_order_id, is canceled, and other cards go on.
    repeated = owner.http.post("/orders", json=ORDER | {"client_order_id": "before"})
    assert (repeated.status_code, repeated.json()["order_id"]) == (202, resting["order_id"])
    canceled = owner.http.delete(f"/orders/{resting['order_id']}", headers={"prefer": "wait=5"})
    assert canceled.json()["status"] == "canceled"
    assert owner.http.post("/orders", json=ORDER | {"card": "squirtle"}).status_code == 202
    owner.cancel_all()

    admin.post(f"/admin/cards/{CARD}/resume")
    assert owner.http.post("/orders", json=ORDER).status_code == 202
    owner.cancel_all()


def test_a_batch_on_a_halted_card_is_refused_in_its_places(admin: httpx.Client, owner: Trader) -> None:
    admin.post(f"/admin/cards/{CARD}/halt")

    mixed = owner.http.post("/orders/batch", json={"orders": [ORDER, ORDER | {"card": "squirtle"}, ORDER]})
    only = owner.http.post("/orders/batch", json={"orders": [ORDER, ORDER]})

    first, second, third = mixed.json()["results"]
    assert mixed.status_code == 202
    assert [first["error"]["code"], third["error"]["code"]] == ["card_halted"] * 2
    assert second["card"] == "squirtle"
    assert (only.status_code, only.json()["code"]) == (503, "card_halted")
    owner.cancel_all()


def test_cancels_that_wait_with_orders_of_a_halted_card_are_appended(
    own: ExchangeServer, admin: httpx.Client, owner: Trader
) -> None:
    resting = [owner.place(CARD, "buy", "1.00")["order_id"] for _ in range(20)]
    admin.post(f"/admin/cards/{CARD}/halt")

    async def at_once() -> list[httpx.Response]:
        async with httpx.AsyncClient(base_url=own.url, headers=owner.http.headers, trust_env=False) as client:
            requests = [client.delete(f"/orders/{order_id}", headers={"prefer": "wait=5"}) for order_id in resting]
            requests += [client.post("/orders", json=ORDER) for _ in range(40)]
            return await asyncio.gather(*requests)

    answers = asyncio.run(at_once())

    assert [answer.json().get("status") for answer in answers[:20]] == ["canceled"] * 20
    assert {answer.json()["code"] for answer in answers[20:]} == {"card_halted"}


def test_nothing_is_accepted_after_the_answer_to_a_halt_by_any_process(
    own: ExchangeServer, admin: httpx.Client
) -> None:
    own.start_service("api-2")
    stopping = threading.Event()
    sent: list[int] = []

    def load() -> None:
        while not stopping.is_set():
            answer = httpx.post(f"{own.url}/orders", json=ORDER, headers=own.bearer(77), trust_env=False)
            sent.append(answer.status_code)

    threads = [threading.Thread(target=load) for _ in range(4)]
    for thread in threads:
        thread.start()
    try:
        until(lambda: sent.count(202) > BOUNDARY_BATCHES, "orders are accepted")
        state = admin.post(f"/admin/cards/{CARD}/halt").json()
        at_halt = own.sequences()[CARD]
        refused = len(sent)
        until(lambda: len(sent) > refused + BOUNDARY_BATCHES, "orders are refused")
    finally:
        stopping.set()
        for thread in threads:
            thread.join()
        own.stop_service("api-2")

    assert state["appended"] == at_halt == own.sequences()[CARD]
    assert set(sent[-BOUNDARY_BATCHES // 2 :]) == {503}


def test_a_halt_outlives_every_process(own: ExchangeServer, admin: httpx.Client, owner: Trader) -> None:
    admin.post(f"/admin/cards/{CARD}/halt", params={"reason": "first"})
    admin.post(f"/admin/cards/{CARD}/halt", params={"reason": "second"})
    own.stop_service("engine", "api")
    asyncio.run(own.servers.redis.stop())
    asyncio.run(own.servers.redis.start())
    own.start_service("engine", "api")
    own.ready()

    assert admin.get(f"/admin/cards/{CARD}").json()["reason"] == "first"
    assert owner.http.post("/orders", json=ORDER).json()["code"] == "card_halted"


def test_the_commands_halt_and_resume_do_the_same(own: ExchangeServer, admin: httpx.Client, owner: Trader) -> None:
    halted = own.tcgx("halt", CARD, "--reason", "by hand")

    assert halted.returncode == 0, halted.stderr
    assert "pikachu is halted since" in halted.stdout
    assert owner.http.post("/orders", json=ORDER).json()["code"] == "card_halted"
    assert own.tcgx("resume", CARD).returncode == 0
    assert owner.http.post("/orders", json=ORDER).status_code == 202
    owner.cancel_all()
    rows = admin.get("/admin/audit", params={"limit": 4}).json()["rows"]
    assert [row["action"] for row in rows] == ["resume", "resume", "halt", "halt"]
    assert all(row["actor"].startswith("command line, user ") for row in rows)
    wrong = own.tcgx("halt", "missingno")
    assert (wrong.returncode, wrong.stdout) == (1, "")
    assert "there is no card 'missingno'" in wrong.stderr


def test_a_card_that_has_no_history_yet_cannot_be_halted(own: ExchangeServer) -> None:
    with client_of(own.settings.redis_url) as client:
        answer = client.fcall("halt", 1, keys.tag(CARD), "")
        assert answer[1] == b""
        with pytest.raises(Exception, match="has no history yet"):
            client.fcall("halt", 1, "{nothing}", "reason")


# -- keys


def test_an_admin_creates_rotates_lists_and_revokes_keys(own: ExchangeServer, admin: httpx.Client) -> None:
    made = admin.post("/admin/traders/11/keys", params={"label": "bot"})
    key_id = made.json()["key"]["key_id"]
    rotated = admin.post(f"/admin/keys/{key_id}/rotate")
    listed = {key["key_id"]: key for key in admin.get("/admin/traders/11/keys").json()["keys"]}
    revoked = admin.delete(f"/admin/keys/{rotated.json()['key']['key_id']}")

    assert (made.status_code, rotated.status_code, revoked.status_code) == (201, 201, 200)
    assert listed[key_id]["revoked_at"] is not None
    assert made.json()["api_key"].startswith(listed[key_id]["prefix"])
    assert len(listed) == 3
    for secret in (made.json()["api_key"], rotated.json()["api_key"]):
        answer = own.http.post("/auth/token", json={"trader_id": 11, "api_key": secret})
        assert answer.json()["code"] == "invalid_credentials"
    seeded = own.http.post("/auth/token", json={"trader_id": 11, "api_key": own.api_key(11)})
    assert seeded.status_code == 200
    assert [action for action, _, outcome in actions(admin, 3) if outcome == "done"] == [
        "create_key",
        "rotate_key",
        "revoke_key",
    ]


def test_the_commands_for_keys_print_a_key_once(own: ExchangeServer) -> None:
    created = dict(line.split() for line in own.tcgx("keys", "create", "12", "--label", "desk").stdout.splitlines())
    rotated = own.tcgx("keys", "rotate", created["key_id"], "--grace", "60")
    listed = own.tcgx("keys", "list", "12").stdout

    assert rotated.returncode == 0
    for secret in (created["api_key"], rotated.stdout.split()[-1]):
        assert own.http.post("/auth/token", json={"trader_id": 12, "api_key": secret}).status_code == 200
        assert secret not in listed
        assert secret[:6] in listed
    assert listed.count("desk") == 2
    assert "there is no trader 999" in own.tcgx("keys", "list", "999").stderr
    assert "there is no valid API key" in own.tcgx("keys", "revoke", "no-key").stderr


def test_the_command_line_makes_admins(own: ExchangeServer) -> None:
    assert own.tcgx("traders", "role", "13", "admin").returncode == 0
    token = own.http.post("/auth/token", json={"trader_id": 13, "api_key": own.api_key(13)}).json()["access_token"]
    headers = {"authorization": f"Bearer {token}"}
    assert own.http.get("/admin/audit", headers=headers).status_code == 200

    demoted = own.tcgx("traders", "role", "13", "trader")
    assert "its 1 API keys are revoked" in demoted.stdout
    until(lambda: own.http.get("/admin/audit", headers=headers).status_code == 401, "the token is refused", seconds=5)


# -- orders of traders, and the audit


def test_what_an_admin_reads_and_cancels_of_others_is_audited(admin: httpx.Client, owner: Trader) -> None:
    order_id = owner.place(CARD, "buy", "1.00")["order_id"]

    listed = admin.get(f"/admin/traders/{owner.trader_id}/orders", params={"status": "open"}).json()
    read = admin.get(f"/orders/{order_id}")
    canceled = admin.delete(f"/orders/{order_id}")
    again = admin.delete(f"/orders/{order_id}", headers={"prefer": "wait=5"})

    assert [order["order_id"] for order in listed["orders"]] == [order_id]
    assert (read.status_code, canceled.status_code) == (200, 202)
    assert again.status_code in (200, 409)
    found = actions(admin, 6)
    target = f"{order_id} of {owner.trader_id}"
    assert found[:4] == [
        ("list_orders", f"trader {owner.trader_id}", "done"),
        ("get_order", target, "done"),
        ("cancel_order", target, "started"),
        ("cancel_order", target, "done"),
    ]


def test_a_refused_action_is_audited_with_its_reason(admin: httpx.Client) -> None:
    admin.post("/admin/traders/4000/keys")
    admin.delete(f"/admin/keys/{'0' * 16}")

    assert actions(admin, 2) == [
        ("create_key", "trader 4000: ", "trader_not_found: there is no trader 4000"),
        (
            "revoke_key",
            f"key {'0' * 16}",
            "key_not_found: there is no valid API key with the key_id '0000000000000000'",
        ),
    ]


def test_the_audit_has_pages(admin: httpx.Client) -> None:
    for _ in range(3):
        admin.post(f"/admin/cards/{CARD}/resume")
    first = admin.get("/admin/audit", params={"limit": 2}).json()["rows"]
    second = admin.get("/admin/audit", params={"limit": 2, "before": first[-1]["audit_id"]}).json()["rows"]

    ids = [row["audit_id"] for row in first + second]
    assert ids == sorted(ids, reverse=True)
    assert len(set(ids)) == 4
    for before in ("0", "-1", "x", "9" * 19, "9" * 30):
        answer = admin.get("/admin/audit", params={"before": before})
        assert (answer.status_code, answer.json()["code"]) == (422, "invalid_before")


@pytest.mark.parametrize(
    "sql",
    [
        "UPDATE admin_audit SET outcome = 'done'",
        "UPDATE admin_audit SET outcome = 'done' WHERE false",
        "DELETE FROM admin_audit",
        "TRUNCATE admin_audit",
    ],
)
def test_the_audit_refuses_changes_even_of_its_owner(own: ExchangeServer, admin: httpx.Client, sql: str) -> None:
    admin.post(f"/admin/cards/{CARD}/resume")
    before = own.execute("SELECT * FROM admin_audit ORDER BY audit_id")

    with pytest.raises(asyncpg.PostgresError, match="append-only"):
        own.execute(sql)
    assert own.execute("SELECT * FROM admin_audit ORDER BY audit_id") == before


def test_without_the_audit_nothing_is_halted(own: ExchangeServer, admin: httpx.Client, owner: Trader) -> None:
    asyncio.run(own.servers.postgres.stop())
    try:
        answer = admin.post(f"/admin/cards/{CARD}/halt")
        accepted = owner.http.post("/orders", json=ORDER)
    finally:
        asyncio.run(own.servers.postgres.start())

    assert (answer.status_code, accepted.status_code) == (503, 202)
    own.ready()
    owner.cancel_all()


def test_a_backup_keeps_keys_and_audit(own: ExchangeServer, admin: httpx.Client, tmp_path: Path) -> None:
    secret = admin.post("/admin/traders/14/keys").json()["api_key"]
    before = [own.execute(query) for query in KEPT]
    assert own.tcgx("backup", str(tmp_path / "b")).returncode == 0
    own.stop_service("api", "archiver", "engine")
    asyncio.run(own.servers.empty())
    restored = own.tcgx("restore", str(tmp_path / "b"), "--keep-history")
    assert restored.returncode == 0, restored.stderr
    own.start_service("engine", "archiver", "api")
    own.ready()

    assert [own.execute(query) for query in KEPT] == before
    assert own.http.post("/auth/token", json={"trader_id": 14, "api_key": secret}).status_code == 200
    admin.post(f"/admin/cards/{CARD}/resume")
    assert len(own.execute("SELECT DISTINCT audit_id FROM admin_audit")) == len(before[1]) + 2
