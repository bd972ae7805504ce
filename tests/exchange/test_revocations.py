"""A revoked key and every token of it, in processes that run."""

import asyncio
import time

import httpx
import pytest

from core.errors import Unavailable
from exchange.revocations import Revocations
from testing.exchange import ExchangeServer, exchange_server
from testing.services import Service
from testing.waiting import until

EVERYWHERE_SECONDS = 5.0


def login(own: ExchangeServer, trader_id: int, api_key: str) -> httpx.Response:
    return own.http.post("/auth/token", json={"trader_id": trader_id, "api_key": api_key})


def answers(own: ExchangeServer, path: str) -> bool:
    try:
        return own.http.get(path).status_code == 200
    except httpx.TransportError:
        return False


def bearer(answer: httpx.Response) -> dict[str, str]:
    return {"authorization": f"Bearer {answer.json()['access_token']}"}


def test_nothing_is_judged_before_the_first_answer() -> None:
    with pytest.raises(Unavailable, match="it is not known which API keys are revoked"):
        _ = "0" * 16 in Revocations().key_ids


@pytest.mark.server
def test_a_revoked_key_ends_its_tokens_in_every_process_within_five_seconds() -> None:
    with exchange_server("engine", "archiver", "api") as own:
        own.start_service("api-2")
        tokens = {key: bearer(login(own, key, own.api_key(key))) for key in (7, 8)}
        order = {"card": "pikachu", "side": "buy", "price": "1.00"}
        assert own.http.post("/orders", json=order, headers=tokens[7]).status_code == 202
        (key_id,) = [row["key_id"] for row in own.execute("SELECT key_id FROM api_keys WHERE trader_id = 7")]

        assert own.tcgx("keys", "revoke", key_id).returncode == 0
        revoked_at = time.monotonic()

        def refused_everywhere() -> bool:
            # Connections are spread over both processes by the kernel.
            answers = [
                httpx.post(f"{own.url}/orders", json=order, headers=tokens[7], trust_env=False) for _ in range(16)
            ]
            assert {answer.status_code for answer in answers} <= {202, 401}
            return all(answer.status_code == 401 for answer in answers)

        until(refused_everywhere, "a token of a revoked key is taken", seconds=EVERYWHERE_SECONDS)
        assert time.monotonic() - revoked_at < EVERYWHERE_SECONDS
        refused = own.http.get("/orders", headers=tokens[7])
        assert (refused.status_code, refused.json()["code"]) == (401, "token_revoked")
        assert login(own, 7, own.api_key(7)).json()["code"] == "invalid_credentials"
        assert own.http.get("/orders", headers=tokens[8]).status_code == 200

        # A process that is started later knows it at once, and PostgreSQL may then go away.
        own.stop_service("api-2")
        own.stop_service("api")
        own.start_service("api")
        assert own.http.get("/orders", headers=tokens[7]).status_code == 401
        asyncio.run(own.servers.postgres.stop())
        until(lambda: "revoked API keys are not known anew" in own.log_of("api"), "the failure is logged")
        assert own.http.get("/orders?status=open", headers=tokens[7]).json()["code"] == "token_revoked"
        assert own.http.post("/orders", json=order, headers=tokens[8]).status_code == 202
        assert login(own, 8, own.api_key(8)).status_code == 503
        asyncio.run(own.servers.postgres.start())


@pytest.mark.server
def test_a_process_that_never_reached_postgresql_takes_no_token() -> None:
    with exchange_server("engine", "api") as own:
        token = bearer(login(own, 7, own.api_key(7)))
        own.stop_service("api")
        configured = own.settings
        asyncio.run(own.servers.postgres.stop())
        api = Service("api", configured, own.data_dir / "late.output")
        try:
            until(lambda: answers(own, "/cards"), "the API answers")
            answer = own.http.get("/orders?status=open", headers=token)
            assert (answer.status_code, answer.json()["code"]) == (503, "unavailable")
            asyncio.run(own.servers.postgres.start())
            until(
                lambda: own.http.get("/orders?status=open", headers=token).status_code == 200,
                "the token is taken again",
                seconds=EVERYWHERE_SECONDS,
            )
        finally:
            api.stop()
