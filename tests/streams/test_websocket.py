"""Streams over a WebSocket: requests, answers, and the codes of the end."""

import time

import pytest

from exchange import tokens
from testing.clients.stream import LocalBook
from testing.exchange import ExchangeServer
from tests.streams.conftest import ADDRESS_STREAMS, TRADER_STREAMS, Socket

pytestmark = pytest.mark.server


def test_hello_comes_first_and_a_subscription_is_answered(limited: ExchangeServer) -> None:
    with Socket(limited) as socket:
        hello = socket.next()
        socket.say(op="subscribe", channels=["book:pikachu", "trades:bulbasaur"], id=7)
        answer = socket.next()
        snapshot = socket.next("book")

    assert (hello["type"], hello["positions"]) == ("hello", {})
    assert answer == {"type": "subscribed", "id": 7, "channels": ["book:pikachu", "trades:bulbasaur"]}
    assert snapshot["type"] == "snapshot"


def test_books_and_trades_come_as_they_do_over_sse(limited: ExchangeServer) -> None:
    maker, taker = limited.trader(), limited.trader()
    book = LocalBook()
    with Socket(limited) as socket:
        socket.say(op="subscribe", channels=["book:squirtle", "trades:squirtle"], interval=0)
        assert book.apply(socket.next("book"))
        maker.place("squirtle", "sell", "5.60", quantity=3)
        order = taker.place("squirtle", "buy", "5.60", quantity=2)
        trades = None
        while trades is None or book.sequence < trades["sequence"]:
            message = socket.next("book", "trades")
            if message["channel"] == "trades":
                trades = message
            else:
                assert book.apply(message)

    assert [trade["trade_id"] for trade in trades["trades"]] == [trade["trade_id"] for trade in order["trades"]]
    assert book.levels("asks") == limited.http.get("/cards/squirtle/book").json()["asks"]


def test_an_unsubscribed_channel_is_silent(limited: ExchangeServer) -> None:
    trader = limited.trader()
    with Socket(limited) as socket:
        socket.say(op="subscribe", channels=["book:charmander", "trades:charmander"])
        socket.next("book")
        socket.say(op="unsubscribe", channels=["book:charmander"])
        socket.next("subscribed")
        trader.place("charmander", "sell", "5.60")
        trader.place("charmander", "buy", "5.60")
        found = socket.next("book", "trades")

    assert found["channel"] == "trades"


def test_a_request_that_fails_is_answered_and_the_stream_goes_on(limited: ExchangeServer) -> None:
    with Socket(limited) as socket:
        socket.next("hello")
        socket.say(op="subscribe", channels=["prices:pikachu"], id="a")
        unknown = socket.next()
        socket.say(op="subscribe", channels=["orders"], id="b")
        missing = socket.next()
        socket.say(op="ping", id="c")
        pong = socket.next()

    assert (unknown["type"], unknown["code"], unknown["id"]) == ("error", "invalid_channels", "a")
    assert "prices:pikachu" in unknown["detail"]
    assert (missing["code"], missing["id"]) == ("token_missing", "b")
    assert (pong["type"], pong["id"]) == ("pong", "c")


def test_a_token_may_be_the_first_message(limited: ExchangeServer) -> None:
    token = limited.bearer(21)["authorization"].removeprefix("Bearer ")
    with Socket(limited) as socket:
        socket.say(op="auth", token=token, id=1)
        assert socket.next("authenticated")["id"] == 1
        socket.say(op="subscribe", channels=["orders"])
        snapshot = socket.next("orders")

    assert snapshot["type"] == "snapshot"
    assert set(snapshot["positions"]) == set(limited.settings.cards)


@pytest.mark.parametrize(
    ("text", "code", "reason"),
    [
        ("{", 4400, "bad_message"),
        ('{"op":"dance"}', 4400, "bad_message"),
        ('{"op":"ping","colour":"red"}', 4400, "bad_message"),
        ('{"op":"auth","token":"x"}', 4401, "unauthorized"),
    ],
)
def test_a_wrong_message_ends_the_stream_with_its_code(
    limited: ExchangeServer, text: str, code: int, reason: str
) -> None:
    with Socket(limited) as socket:
        socket.socket.send(text)
        found, closed = socket.until_closed()

    assert (closed, found[-1]["type"], found[-1]["code"]) == (code, "bye", reason)


def test_a_wrong_token_in_the_header_is_told_after_the_handshake(limited: ExchangeServer) -> None:
    with Socket(limited, headers={"authorization": "Bearer x"}) as socket:
        found, closed = socket.until_closed()

    assert (closed, found[-1]["code"]) == (4401, "token_invalid")


def test_an_address_with_parameters_is_refused_since_tokens_must_not_be_in_it(limited: ExchangeServer) -> None:
    with Socket(limited, path="/stream/ws?token=secret") as socket:
        found, closed = socket.until_closed()

    assert (closed, found[-1]["code"]) == (4400, "bad_message")


def test_too_many_messages_end_the_stream(limited: ExchangeServer) -> None:
    with Socket(limited) as socket:
        for number in range(60):
            socket.say(op="ping", id=number)
        found, closed = socket.until_closed()

    assert closed == 4429
    assert found[-1]["code"] == "too_many"
    assert len([message for message in found if message["type"] == "pong"]) <= 40


def test_a_client_that_never_subscribes_is_closed(limited: ExchangeServer) -> None:
    began = time.monotonic()
    with Socket(limited) as socket:
        found, closed = socket.until_closed()

    assert (closed, found[-1]["code"]) == (4408, "too_late")
    assert 4.5 < time.monotonic() - began < 9


def test_the_newest_stream_of_a_trader_wins(limited: ExchangeServer) -> None:
    sockets: list[Socket] = []
    try:
        for _ in range(TRADER_STREAMS + 1):
            sockets.append(Socket(limited, trader_id=31))
            assert sockets[-1].next("hello")  # the server knows it from here on
        found, closed = sockets[0].until_closed()
        sockets[-1].say(op="ping")
        assert sockets[-1].next("pong")
    finally:
        for socket in sockets:
            socket.close()

    assert (closed, found[-1]["code"]) == (4429, "too_many")


def test_an_address_has_a_number_of_streams(limited: ExchangeServer) -> None:
    sockets = [Socket(limited) for _ in range(ADDRESS_STREAMS)]
    try:
        assert all(socket.next("hello") for socket in sockets)
        with Socket(limited) as one_more:
            found, closed = one_more.until_closed()
        refused = limited.http.get("/stream", params={"channels": "ticker"})
    finally:
        for socket in sockets:
            socket.close()

    assert (closed, found[-1]["code"]) == (4429, "rate_limited")
    assert (refused.status_code, refused.json()["code"]) == (429, "rate_limited")
    assert int(refused.headers["retry-after"]) >= 1


def test_a_stream_ends_with_its_token_unless_a_new_one_comes(limited: ExchangeServer) -> None:
    def token(seconds: int) -> str:
        return tokens.issue_token(limited.settings.jwt_secret, 41, "trader", seconds)

    with Socket(limited) as renewed, Socket(limited) as expired:
        for socket in (renewed, expired):
            socket.say(op="auth", token=token(2))
            assert socket.next("error")["code"] == "token_expiring"
        renewed.say(op="auth", token=token(600))
        found, closed = expired.until_closed()
        renewed.say(op="ping")
        assert renewed.next("pong")

    assert (closed, found[-1]["code"]) == (4401, "token_expired")


def test_a_stream_ends_with_its_api_key(limited: ExchangeServer) -> None:
    login = limited.http.post("/auth/token", json={"trader_id": 9, "api_key": limited.api_key(9)})
    with Socket(limited, headers={"authorization": f"Bearer {login.json()['access_token']}"}) as socket:
        socket.say(op="subscribe", channels=["orders"])
        assert socket.next("orders")["type"] == "snapshot"
        (key,) = limited.execute("SELECT key_id FROM api_keys WHERE trader_id = 9")
        assert limited.tcgx("keys", "revoke", key["key_id"]).returncode == 0
        found, closed = socket.until_closed()

    assert (closed, found[-1]["code"]) == (4401, "token_revoked")


def test_a_heartbeat_tells_where_the_card_stands(limited: ExchangeServer) -> None:
    with Socket(limited) as socket:
        socket.say(op="subscribe", channels=["book:pikachu"])
        snapshot = socket.next("book")
        heartbeat = socket.next("heartbeat")

    assert heartbeat["positions"] == {"pikachu": snapshot["sequence"]}
    assert heartbeat["levels"] == {"pikachu": [len(snapshot["bids"]), len(snapshot["asks"])]}
