"""Login codes: what a link of `tcgx up` is worth, and for how long."""

import threading

import httpx
import pytest

from exchange import login_codes
from testing.exchange import ExchangeServer, exchange_server, login_code

pytestmark = pytest.mark.server

TRADER = 7
PATH = "/auth/login-code"


def use(exchange: ExchangeServer, code: object) -> httpx.Response:
    return exchange.http.post(PATH, json={"login_code": code})


def test_a_code_is_worth_one_token_of_its_trader(exchange: ExchangeServer) -> None:
    code = login_code(exchange.settings.redis_url, TRADER)

    first, second = use(exchange, code), use(exchange, code)

    view = first.json()
    assert (first.status_code, view["trader_id"], view["token_type"]) == (200, TRADER, "bearer")
    assert view["expires_in"] == exchange.settings.token_seconds
    order = {"card": "pikachu", "side": "buy", "price": "1.00"}
    bearer = {"authorization": f"Bearer {view['access_token']}"}
    assert exchange.http.post("/orders", json=order, headers=bearer).status_code == 202
    assert exchange.http.get("/admin/audit", headers=bearer).status_code == 403
    assert (second.status_code, second.json()["code"]) == (401, "login_code_invalid")


def test_of_many_who_have_a_code_one_is_let_in(exchange: ExchangeServer) -> None:
    code = login_code(exchange.settings.redis_url, TRADER)
    statuses: list[int] = []
    threads = [threading.Thread(target=lambda: statuses.append(use(exchange, code).status_code)) for _ in range(8)]

    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert sorted(statuses) == [200, *[401] * 7]


def test_redis_has_the_hash_of_a_code_for_an_hour(exchange: ExchangeServer) -> None:
    code = login_code(exchange.settings.redis_url, TRADER)

    key = login_codes.key_of(code)

    assert code not in key
    assert exchange.redis.get(key) == b"7"
    assert 3_590 <= int(exchange.redis.ttl(key)) <= 3_600
    assert use(exchange, code).status_code == 200
    assert exchange.redis.exists(key) == 0


@pytest.mark.parametrize("code", ["", "x" * 101, 5, None])
def test_a_code_of_another_form_is_refused_by_name(exchange: ExchangeServer, code: object) -> None:
    refused = use(exchange, code)

    assert (refused.status_code, refused.json()["code"]) == (422, "invalid_login_code")
    assert "1 to 100 characters" in refused.json()["detail"]


def test_guesses_are_limited_as_wrong_keys_are() -> None:
    with exchange_server(failed_logins_per_minute=3) as limited:
        statuses = [use(limited, f"guess-{number}").status_code for number in range(5)]
        code = login_code(limited.settings.redis_url, TRADER)

        assert statuses == [401, 401, 401, 429, 429]
        assert use(limited, code).status_code == 429
