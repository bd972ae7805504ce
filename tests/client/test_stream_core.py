"""A stream without a server: the bytes of an exchange are written down, and the clock jumps."""

import itertools
import random
from typing import Any

import h11
import msgspec
import pytest
from tcgx_client.errors import ApiError, Closed, ConnectFailed, Stale, TransportError
from tcgx_client.events import (
    BookSnapshot,
    BookUpdate,
    Connected,
    Disconnected,
    Event,
    Gap,
    Heartbeat,
    OrderEvent,
    OrdersSnapshot,
    Reset,
    Trades,
)
from tcgx_client.live import LiveBookCore
from tcgx_client.streaming import Settings, StreamCore, channel_names

from tests.client.scripted import Scripted, answer

HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
AT = "2026-11-27T08:00:00.000Z"


def event(values: dict[str, Any], event_id: str = "") -> bytes:
    """A server-sent event as a chunk."""
    lines = [f"id: {event_id}"] if event_id else []
    lines += [
        f"event: {values.get('channel', values['type'])}",
        f"data: {msgspec.json.encode(values).decode()}",
        "",
        "",
    ]
    text = "\n".join(lines).encode()
    return b"%x\r\n%b\r\n" % (len(text), text)


def hello(log: str = "log-1", **positions: int) -> bytes:
    return event(
        {"type": "hello", "at": AT, "log": log, "heartbeat_seconds": 10, "positions": positions, "lease": None}
    )


def trades(sequence: int, *numbers: int) -> dict[str, Any]:
    listed = [
        {
            **{"trade_id": f"pikachu-t{number}", "card": "pikachu", "price": "5.50", "quantity": 1},
            **{"taker_side": "buy", "executed_at": AT},
        }
        for number in numbers
    ]
    return {"channel": "trades", "card": "pikachu", "type": "trades", "sequence": sequence, "trades": listed}


def book(kind: str, sequence: int, previous: int = 0, **sides: Any) -> dict[str, Any]:
    found = {"channel": "book", "card": "pikachu", "type": kind, "sequence": sequence, "at": AT, "bids": [], "asks": []}
    return found | ({"previous_sequence": previous} if kind == "update" else {}) | sides


def heartbeat(position: int) -> bytes:
    return event({"type": "heartbeat", "at": AT, "positions": {"pikachu": position}, "levels": {}})


def own(sequence: int, order: int, kind: str, trade: str = "") -> dict[str, Any]:
    fill = {"trade_id": trade, "price": "5.50", "quantity": 1, "role": "maker"} if trade else None
    view = {
        **{"order_id": f"pikachu-{order}", "client_order_id": None, "card": "pikachu", "side": "buy", "price": "5.50"},
        **{"quantity": 3, "filled_quantity": 1, "status": "open", "time_in_force": "gtc", "accepted_at": AT},
    }
    return {
        **{"channel": "orders", "card": "pikachu", "type": "order", "sequence": sequence, "event": kind},
        **{"order": view, "fill": fill, "reason": None},
    }


def stream(script: Scripted, *channels: str, **options: Any) -> StreamCore:
    settings = Settings(channels=channels or ("trades:pikachu",), **options)
    return StreamCore(script.session(token="t"), settings)


def take(script: Scripted, core: StreamCore, count: int) -> list[Event]:
    """The next events."""
    found = []
    for _ in range(count):
        one = script.run(core.next())
        assert one is not None
        found.append(one)
    return found


def headers_of(script: Scripted, number: int) -> dict[str, str]:
    """The headers of the request of a connection."""
    server = h11.Connection(h11.SERVER)
    server.receive_data(script.written[number])
    request = server.next_event()
    assert isinstance(request, h11.Request)
    return {name.decode(): value.decode() for name, value in request.headers}


def numbers_of(events: list[Event]) -> list[int]:
    return [trade.number for one in events if isinstance(one, Trades) for trade in one.trades]


# -- positions and doubles


def test_a_cut_stream_goes_on_after_the_last_id_and_gives_no_trade_twice() -> None:
    script = Scripted()
    core = stream(script)
    script.incoming += [HEAD + hello(pikachu=10) + event(trades(11, 1), "pikachu.11") + event(trades(12, 2, 3)), b""]
    script.incoming += [HEAD + hello(pikachu=11) + event(trades(12, 2, 3)) + event(trades(14, 4), "pikachu.14"), b""]
    script.incoming += [HEAD + hello(pikachu=14), b""]
    script.incoming += [HEAD + hello(pikachu=14) + event(trades(15, 5), "pikachu.15")]

    found = take(script, core, 9)

    kinds = [type(one).__name__ for one in found]
    assert kinds == [
        *("Connected", "Trades", "Trades", "Disconnected", "Connected", "Trades", "Disconnected"),
        *("Connected", "Disconnected"),
    ]
    assert numbers_of(found + take(script, core, 2)) == [1, 2, 3, 4, 5]
    assert "last-event-id" not in headers_of(script, 0)
    ids = [headers_of(script, number)["last-event-id"] for number in (1, 2, 3)]
    assert ids == ["pikachu.11", "pikachu.14", "pikachu.14"], "an id is not forgotten by a cut before a new one"
    assert [one.resumed for one in found if isinstance(one, Connected)] == [False, True, True]


def test_a_stream_that_is_cut_before_its_first_id_resumes_where_it_was_greeted() -> None:
    script = Scripted()
    core = stream(script)
    script.incoming += [HEAD + hello(pikachu=10), b"", HEAD + hello(pikachu=10)]

    take(script, core, 3)

    assert headers_of(script, 1)["last-event-id"] == "pikachu.10"


def test_events_of_own_orders_come_once_though_they_are_sent_twice() -> None:
    script = Scripted()
    core = stream(script, "orders")
    snapshot = {"channel": "orders", "type": "snapshot", "positions": {"pikachu": 10}, "complete": True, "orders": []}
    told = [own(12, 11, "open"), own(12, 11, "fill", "pikachu-t1"), own(12, 11, "fill", "pikachu-t2")]
    script.incoming += [HEAD + hello(pikachu=10) + event(snapshot) + b"".join(map(event, told[:2])), b""]
    script.incoming += [
        HEAD + hello(pikachu=10) + b"".join(map(event, told)) + event(own(13, 11, "canceled"), "pikachu.13")
    ]

    found = take(script, core, 8)

    orders = [(one.event, one.fill.trade_id if one.fill else "") for one in found if isinstance(one, OrderEvent)]
    assert orders == [("open", ""), ("fill", "pikachu-t1"), ("fill", "pikachu-t2"), ("canceled", "")]
    assert isinstance(found[1], OrdersSnapshot)
    assert core.positions == {"pikachu": 13}
    assert core._seen_orders == {"pikachu": {}}


def test_a_reset_and_another_log_make_lower_numbers_new_again() -> None:
    script = Scripted()
    core = stream(script)
    script.incoming += [HEAD + hello(pikachu=10) + event(trades(11, 7), "pikachu.11"), b""]
    reset = event({"type": "reset", "card": "pikachu", "position": 5})
    script.incoming += [HEAD + hello(pikachu=5) + reset + event(trades(6, 3), "pikachu.6"), b""]
    script.incoming += [HEAD + hello("log-2", pikachu=6)]
    script.incoming += [HEAD + hello("log-2", pikachu=2) + event(trades(3, 1), "pikachu.3")]

    found = take(script, core, 10)

    assert numbers_of(found) == [7, 3, 1]
    assert any(isinstance(one, Reset) for one in found)
    assert [one.resumed for one in found if isinstance(one, Connected)] == [False, True, False]
    assert "last-event-id" not in headers_of(script, 3)


def test_positions_are_those_of_the_events_that_were_taken() -> None:
    script = Scripted()
    core = stream(script)
    script.incoming += [
        HEAD + hello(pikachu=10) + event(trades(11, 1), "pikachu.11") + event(trades(12, 2), "pikachu.12")
    ]

    seen = []
    for _ in range(3):
        take(script, core, 1)
        seen.append(core.positions["pikachu"])

    assert seen == [10, 11, 12]


def test_a_gap_is_told_with_its_range() -> None:
    script = Scripted()
    core = stream(script)
    gap = {"type": "gap", "channel": "trades", "card": "pikachu", "after": 900, "before": 1_020}
    script.incoming += [HEAD + hello(pikachu=900) + event(gap)]

    assert take(script, core, 2)[1] == Gap("trades", "pikachu", 900, 1_020)


def test_messages_of_a_type_that_nobody_knows_are_passed_over() -> None:
    script = Scripted()
    core = stream(script)
    script.incoming += [
        HEAD + hello() + event({"type": "fireworks"}) + event({"channel": "moon", "type": "phase"}) + heartbeat(1)
    ]

    assert isinstance(take(script, core, 2)[1], Heartbeat)


def test_events_are_found_however_the_bytes_are_cut() -> None:
    data = HEAD + hello(pikachu=10) + event(trades(11, 1), "pikachu.11") + event(trades(12, 2), "pikachu.12")
    for seed in range(20):
        choose = random.Random(seed)
        script = Scripted()
        cuts = [0, *sorted(choose.sample(range(1, len(data)), 30)), len(data)]
        script.incoming += [data[start:end] for start, end in itertools.pairwise(cuts)]

        assert numbers_of(take(script, stream(script), 3)) == [1, 2], f"seed {seed}"


# -- failures and pauses


def test_a_server_that_answers_503_for_30_seconds_is_asked_at_most_12_times() -> None:
    pauses = set()
    for seed in range(200):
        busy = b"HTTP/1.1 503 Busy\r\nretry-after: 1\r\ncontent-length: 0\r\n\r\n"
        script = Scripted(chance=random.Random(seed).random)
        core = stream(script)
        began = script.now
        while script.now < began + 30:
            script.incoming.append(busy)
            assert isinstance(script.run(core.next()), Disconnected)
        gaps = [round(later - earlier, 6) for earlier, later in itertools.pairwise(script.connects)]
        pauses.update(gaps)

        assert len(script.connects) <= 12, f"seed {seed}"
        assert min(gaps) >= 1.0, "Retry-After is obeyed"
    assert len(pauses) > 300, "the pauses are jittered"


def test_pauses_grow_to_half_a_minute_and_begin_anew_after_a_healthy_minute() -> None:
    script = Scripted(chance=lambda: 0.999999)
    core = stream(script)
    for _ in range(9):
        script.incoming.append(ConnectionResetErrorOfOurs("reset"))
    pauses = [one.retry_seconds for one in take(script, core, 9) if isinstance(one, Disconnected)]
    script.incoming += [HEAD + hello(pikachu=1)]
    take(script, core, 1)
    for _ in range(8):
        script.now += 10
        script.incoming.append(heartbeat(1))
        take(script, core, 1)
    script.incoming.append(b"")
    (after,) = take(script, core, 1)

    assert [round(pause, 1) for pause in pauses] == [1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0, 30.0, 30.0]
    assert isinstance(after, Disconnected)
    assert round(after.retry_seconds, 1) == 1.0


class ConnectionResetErrorOfOurs(TransportError):
    """A connection that breaks."""


def test_silence_of_25_seconds_ends_a_connection() -> None:
    script = Scripted()
    core = stream(script)
    script.incoming += [HEAD + hello(pikachu=1)]
    take(script, core, 1)
    began = script.now

    (lost,) = take(script, core, 1)

    assert isinstance(lost, Disconnected)
    assert (lost.code, round(script.now - began)) == ("stale", 25)
    assert script.closed == 1


def test_a_stream_that_is_asked_with_a_timeout_says_in_time_that_nothing_came() -> None:
    script = Scripted()
    core = stream(script)
    script.incoming += [HEAD + hello(pikachu=1)]
    take(script, core, 1)
    began = script.now

    assert script.run(core.next(0.5)) is None
    assert script.now - began == pytest.approx(0.5)
    script.incoming += [event(trades(2, 1))]
    assert isinstance(script.run(core.next(0.5)), Trades)


def test_a_timeout_ends_the_wait_for_the_next_connection_too() -> None:
    script = Scripted([ConnectFailed("refused")] * 3, chance=lambda: 1.0)
    core = stream(script)
    take(script, core, 1)

    assert script.run(core.next(0.25)) is None
    assert script.sleeps == [0.25]


def test_a_restart_is_followed_after_the_time_that_the_exchange_asks_for() -> None:
    script = Scripted()
    core = stream(script)
    bye = {"type": "bye", "code": "restarting", "detail": "soon back", "reconnect_after_ms": 1_800}
    script.incoming += [HEAD + hello(pikachu=1) + event(bye), HEAD + hello(pikachu=1)]

    _, lost, again = take(script, core, 3)

    assert lost == Disconnected("restarting", "soon back", 1.8)
    assert isinstance(again, Connected)
    assert script.connects[1] - script.connects[0] == pytest.approx(1.8)


@pytest.mark.parametrize("code", ["bad_message", "unauthorized", "token_expired"])
def test_an_end_that_would_come_again_is_raised(code: str) -> None:
    script = Scripted()
    core = stream(script)
    script.incoming += [
        HEAD + hello(pikachu=1) + event({"type": "bye", "code": code, "detail": "no", "reconnect_after_ms": 0})
    ]

    take(script, core, 2)
    with pytest.raises(Closed, match=code):
        script.run(core.next())


def test_a_refusal_is_raised_with_its_problem() -> None:
    script = Scripted()
    core = stream(script)
    body = b'{"status":422,"code":"invalid_channels","title":"x","detail":"channels must be"}'
    script.incoming += [b"HTTP/1.1 422 No\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body)]

    assert isinstance(take(script, core, 1)[0], Disconnected)
    with pytest.raises(ApiError) as refused:
        script.run(core.next())
    assert refused.value.code == "invalid_channels"


def test_an_expired_token_is_replaced_before_the_stream_comes_back() -> None:
    token = {"access_token": "second", "token_type": "bearer", "expires_in": 5}
    script = Scripted([answer(200, {**token, "access_token": "first"}), "handle", answer(200, token)])  # type: ignore[list-item]
    session = script.session(trader_id=1, api_key="key")
    core = StreamCore(session, Settings(channels=("orders",)))
    script.incoming += [HEAD + hello(pikachu=1)]
    take(script, core, 1)
    script.now += 10
    script.incoming += [b"", HEAD + hello(pikachu=1)]

    take(script, core, 2)

    bearers = [headers_of(script, number)["authorization"] for number in (0, 1)]
    assert bearers == ["Bearer first", "Bearer second"]


@pytest.mark.parametrize(("channels", "options"), [((), {}), (("orders",), {"lease": 5.0})])
def test_a_stream_that_cannot_be_is_refused_at_once(channels: tuple[str, ...], options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"channel|lease"):
        StreamCore(Scripted().session(), Settings(channels=channels, **options))


def test_channels_may_be_one_text() -> None:
    assert channel_names(["book:a, trades:a", "trades:a"]) == ("book:a", "trades:a")


# -- live books


def live(script: Scripted) -> LiveBookCore:
    core = LiveBookCore(script.session(), "pikachu", allow_stale=False, transport="sse", interval=None)
    script.incoming += [HEAD + hello(pikachu=10) + event(book("snapshot", 10, bids=[["5.50", 3]]))]
    script.run(core.wait_live(5))
    return core


def test_an_update_that_does_not_follow_makes_the_book_stale_and_asks_once() -> None:
    script = Scripted()
    core = live(script)
    script.incoming += [
        event(book("update", 13, 12, bids=[["5.50", 0]]))
        + event(book("update", 14, 13))
        + event(book("update", 15, 14))
    ]

    assert script.run(core.poll(1)) is True
    assert core.is_live is False
    with pytest.raises(Stale):
        core.view()
    assert core.state.view().best_bid is not None
    assert script.closed == 1
    script.incoming += [HEAD + hello(pikachu=15) + event(book("snapshot", 15, bids=[["5.40", 1]]))]
    view = script.run(core.wait_live(5))
    assert (view.sequence, len(script.connects), len(view.bids)) == (15, 2, 1)
    assert script.connects[1] == script.connects[0]


def test_a_book_that_stays_behind_the_heartbeats_is_stale_within_5_seconds_and_comes_back() -> None:
    script = Scripted()
    core = live(script)
    script.incoming += [heartbeat(12)]
    began = script.now

    assert script.run(core.poll(5)) is True

    assert core.is_live is False
    assert script.now - began <= 5
    script.incoming += [HEAD + hello(pikachu=12) + event(book("snapshot", 12))]
    assert script.run(core.wait_for(12, 5)).sequence == 12
    assert len(script.connects) == 2


def test_a_book_that_catches_up_with_the_heartbeat_stays_live() -> None:
    script = Scripted()
    core = live(script)
    script.incoming += [heartbeat(12), event(book("update", 12, 10))]

    assert script.run(core.poll(5)) is True
    assert script.run(core.poll(5)) is False
    assert core.is_live is True
    assert len(script.connects) == 1


def test_a_snapshot_that_never_comes_is_no_reason_to_wait_for_ever() -> None:
    script = Scripted()
    core = LiveBookCore(script.session(), "pikachu", allow_stale=False, transport="sse", interval=None)
    script.incoming += [HEAD + hello(pikachu=10) + heartbeat(10)]
    script.run(core.poll(4))

    assert len(script.connects) >= 1
    assert script.closed >= 1


def test_a_book_that_nobody_reads_is_not_live() -> None:
    script = Scripted()
    core = live(script)

    script.now += 26

    assert core.is_live is False
    assert core.age == 26


def test_a_cut_makes_the_book_stale_until_the_next_snapshot() -> None:
    script = Scripted()
    core = live(script)
    script.incoming += [b""]

    assert script.run(core.next_view(1)) is not None
    assert core.is_live is False
    script.incoming += [HEAD + hello(pikachu=11) + event(book("snapshot", 11))]
    assert script.run(core.wait_for(11, 30)).bids == ()


def test_messages_of_books_are_structs_too() -> None:
    script = Scripted()
    core = stream(script, "book:pikachu")
    script.incoming += [HEAD + hello() + event(book("snapshot", 10)) + event(book("update", 12, 10), "pikachu.12")]

    _, first, second = take(script, core, 3)

    assert isinstance(first, BookSnapshot)
    assert isinstance(second, BookUpdate)
    assert core.positions == {"pikachu": 12}


def test_a_stream_that_is_entered_has_its_connection_before_anything_is_asked() -> None:
    script, refused = Scripted(), Scripted([ConnectFailed("refused")])
    core, failing = stream(script), stream(refused)
    script.incoming += [HEAD + hello(pikachu=10)]

    script.run(core.begin())
    refused.run(failing.begin())

    assert len(script.connects) == len(refused.connects) == 1
    assert core.is_connected
    assert isinstance(script.run(core.next(0)), Connected)
    assert isinstance(refused.run(failing.next(0)), Disconnected)
