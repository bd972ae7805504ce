"""When a request is sent again, and what is raised when it is not. No server: answers are written down."""

import pickle
from typing import Any

import pytest
from tcgx_client import calls
from tcgx_client.errors import (
    ApiError,
    ConnectFailed,
    InvalidRequest,
    OutcomeUnknown,
    RateLimited,
    Timeout,
    Unauthorized,
    Unavailable,
)
from tcgx_client.models import NewOrder, Order, Rejected
from tcgx_client.session import Session

from tests.client.scripted import Scripted, answer

ORDER = {
    **{"order_id": "pikachu-1", "client_order_id": "c-1", "card": "pikachu", "side": "buy", "price": "5.50"},
    **{"quantity": 1, "filled_quantity": 0, "status": "accepted", "time_in_force": "gtc"},
    **{"accepted_at": "2026-11-27T08:00:00.000Z", "closed_at": None},
}
TOKEN = {"access_token": "new", "token_type": "bearer", "expires_in": 900}


def problem(status: int, code: str, **headers: str) -> Any:
    return answer(status, {"status": status, "code": code, "title": code, "detail": f"{code}!"}, **headers)


def place(script: Scripted, session: Session) -> Order:
    call = calls.place(
        session, "pikachu", "buy", "5.50", 1, time_in_force="gtc", post_only=False, client_order_id=None, wait=None
    )
    return script.run(call)


def test_a_lost_answer_is_asked_for_again_with_the_same_id() -> None:
    script = Scripted([Timeout("late"), Timeout("late"), answer(202, ORDER)])

    order = place(script, script.session(token="t"))

    assert order.order_id == "pikachu-1"
    assert len({request.body for request in script.requests}) == 1
    assert b'"client_order_id":"c-' in (script.requests[0].body or b"")
    assert len(script.sleeps) == 2


def test_after_the_last_lost_answer_the_outcome_is_unknown_and_can_be_asked_for() -> None:
    script = Scripted([Timeout("late")] * 3 + [answer(200, ORDER)])
    session = script.session(token="t", max_retries=2)

    with pytest.raises(OutcomeUnknown) as unknown:
        place(script, session)

    name = unknown.value.client_order_id
    assert name is not None
    assert f'"client_order_id":"{name}"'.encode() in (script.requests[2].body or b"")
    assert (unknown.value.operation, str(unknown.value.__cause__)) == ("place", "late")
    found = script.run(calls.resolve(session, name, None, 10))
    assert found is not None
    assert found.order_id == "pikachu-1"
    assert script.requests[3].target == f"/orders/by-client-id/{name}"


def test_an_order_is_missing_only_when_it_stays_so() -> None:
    missing = problem(404, "order_not_found")
    script = Scripted([missing, missing, Timeout("late"), missing, answer(200, ORDER)])
    never = Scripted([missing] * 50)

    assert script.run(calls.resolve(script.session(token="t", max_retries=0), "c-1", None, 10)) is not None
    assert never.run(calls.resolve(never.session(token="t"), "c-1", None, 10)) is None
    assert sum(never.sleeps) >= calls.SETTLE_SECONDS


def test_an_exchange_that_stays_silent_is_no_certain_answer() -> None:
    script = Scripted([ConnectFailed("no")] * 500)

    with pytest.raises(Timeout):
        script.run(calls.resolve(script.session(token="t", max_retries=0), "c-1", None, 10))


def test_retry_after_is_obeyed_and_a_little_more() -> None:
    script = Scripted([problem(503, "overloaded", retry_after="2"), answer(202, ORDER)])

    place(script, script.session(token="t"))

    assert 2.0 <= script.sleeps[0] <= 2.5


def test_what_was_surely_not_accepted_is_no_unknown_outcome() -> None:
    for failure, expected in [
        (problem(503, "overloaded"), Unavailable),
        (problem(429, "rate_limited"), RateLimited),
        (ConnectFailed("refused"), ConnectFailed),
        (problem(503, "card_halted"), Unavailable),
    ]:
        script = Scripted([failure] * 4)
        with pytest.raises(expected):
            place(script, script.session(token="t"))


@pytest.mark.parametrize("last", [problem(503, "overloaded"), ConnectFailed("refused"), problem(429, "rate_limited")])
def test_one_try_without_an_answer_makes_the_outcome_unknown(last: Any) -> None:
    script = Scripted([Timeout("late"), last, last, last])

    with pytest.raises(OutcomeUnknown):
        place(script, script.session(token="t"))


@pytest.mark.parametrize("status", [502, 504, 500])
def test_an_error_of_a_server_on_the_way_makes_the_outcome_unknown(status: int) -> None:
    script = Scripted([answer(status)] * 4)

    with pytest.raises(OutcomeUnknown):
        place(script, script.session(token="t"))
    assert len(script.requests) == 4


def test_a_refusal_that_says_what_became_of_the_order_is_raised_as_it_is() -> None:
    script = Scripted([Timeout("late"), problem(409, "client_order_id_conflict")])

    with pytest.raises(ApiError) as conflict:
        place(script, script.session(token="t"))
    assert conflict.value.code == "client_order_id_conflict"


@pytest.mark.parametrize(("status", "code"), [(422, "invalid_price"), (404, "unknown_card"), (401, "token_missing")])
def test_a_refused_request_is_not_repeated(status: int, code: str) -> None:
    script = Scripted([problem(status, code)])

    with pytest.raises(ApiError):
        place(script, script.session(token="t"))
    assert script.sleeps == []


def test_a_halted_card_is_not_asked_again() -> None:
    script = Scripted([problem(503, "card_halted")])

    with pytest.raises(Unavailable):
        place(script, script.session(token="t"))
    assert len(script.requests) == 1


def test_pauses_grow_and_stay_below_five_seconds() -> None:
    script = Scripted([Timeout("late")] * 12, chance=lambda: 0.999)

    with pytest.raises(OutcomeUnknown):
        place(script, script.session(token="t", max_retries=10))

    assert script.sleeps == sorted(script.sleeps)
    assert script.sleeps[0] <= 0.2
    assert 4.9 < script.sleeps[-1] <= 5.0


def test_the_deadline_of_a_call_ends_its_tries() -> None:
    script = Scripted([problem(503, "overloaded", retry_after="3")] * 9)

    with pytest.raises(Unavailable):
        place(script, script.session(token="t", max_retries=8, deadline=7.0))
    assert len(script.requests) == 3


def test_a_retry_after_of_an_hour_is_told_and_not_waited_for() -> None:
    script = Scripted([problem(429, "rate_limited", retry_after="3600")])

    with pytest.raises(RateLimited) as limited:
        place(script, script.session(token="t"))
    assert limited.value.retry_after == 3_600


# -- tokens


def test_a_token_is_fetched_once_and_before_its_end() -> None:
    script = Scripted(
        [answer(200, TOKEN), answer(202, ORDER), answer(202, ORDER), answer(200, TOKEN), answer(202, ORDER)]
    )
    session = script.session(trader_id=1, api_key="key")

    place(script, session)
    place(script, session)
    script.now += 900 - 59
    place(script, session)

    targets = [request.target for request in script.requests]
    assert targets == ["/auth/token", "/orders", "/orders", "/auth/token", "/orders"]
    assert script.requests[1].headers["authorization"] == "Bearer new"


def test_an_expired_token_is_replaced_once() -> None:
    expired = problem(401, "token_expired")
    script = Scripted([answer(200, TOKEN), expired, answer(200, TOKEN), answer(202, ORDER)])
    stubborn = Scripted([answer(200, TOKEN), expired, answer(200, TOKEN), expired])

    assert place(script, script.session(trader_id=1, api_key="key")).order_id == "pikachu-1"
    with pytest.raises(Unauthorized):
        place(stubborn, stubborn.session(trader_id=1, api_key="key"))


def test_a_token_that_was_given_is_not_replaced() -> None:
    script = Scripted([problem(401, "token_expired")])

    with pytest.raises(Unauthorized):
        place(script, script.session(token="t"))


# -- batches and cancels


def test_of_a_batch_only_what_the_exchange_could_not_take_is_sent_again() -> None:
    refused = {"error": {"status": 503, "code": "overloaded", "title": "x", "detail": "y", "retry_after": 1}}
    wrong = {"error": {"status": 422, "code": "invalid_price", "title": "x", "detail": "y"}}
    script = Scripted(
        [
            answer(202, {"results": [ORDER, refused, wrong]}),
            answer(202, {"results": [{**ORDER, "order_id": "pikachu-2"}]}),
        ]
    )
    orders = [NewOrder(card="pikachu", side="buy", price=5)] * 3

    results = script.run(calls.place_many(script.session(token="t"), orders))

    kinds = [result.order_id if isinstance(result, Order) else result.code for result in results]
    assert kinds == ["pikachu-1", "pikachu-2", "invalid_price"]
    assert (script.requests[1].body or b"").count(b"client_order_id") == 1
    assert script.sleeps[0] >= 1.0


def test_a_batch_of_unknown_outcome_names_its_orders_and_the_outcomes_before() -> None:
    first = {"results": [ORDER] * 1_000}
    script = Scripted([answer(202, first), *[Timeout("late")] * 4])
    orders = [NewOrder(card="pikachu", side="buy", price=5)] * 1_002

    with pytest.raises(OutcomeUnknown) as unknown:
        script.run(calls.place_many(script.session(token="t"), orders))

    assert len(unknown.value.results) == 1_000
    assert len(set(unknown.value.client_order_ids)) == 2


def test_a_cancel_whose_answer_was_lost_is_found_done() -> None:
    canceled = {**ORDER, "status": "canceled", "closed_at": "2026-11-27T08:00:01.000Z"}
    script = Scripted([Timeout("late"), problem(409, "order_completed"), answer(200, canceled)])
    filled = Scripted([Timeout("late"), problem(409, "order_completed"), answer(200, {**canceled, "status": "filled"})])

    assert script.run(calls.cancel(script.session(token="t"), "pikachu-1", None)).status == "canceled"
    with pytest.raises(ApiError):
        filled.run(calls.cancel(filled.session(token="t"), "pikachu-1", None))


# -- answers and exceptions


def test_unknown_words_stay_text_and_unknown_fields_are_ignored() -> None:
    script = Scripted([answer(202, {**ORDER, "status": "parked", "color": {"of": "foil"}})])

    assert place(script, script.session(token="t")).status == "parked"


@pytest.mark.parametrize("body", [b"", b"<html>busy</html>", b"\xff\xfe", b"[]", b'{"code":7}'])
def test_an_error_that_is_no_problem_of_the_exchange_is_told_all_the_same(body: bytes) -> None:
    script = Scripted([answer(418)])
    script._answers[0] = type(script._answers[0])(418, {}, body)

    with pytest.raises(InvalidRequest) as told:
        place(script, script.session(token="t"))
    assert told.value.status == 418
    assert "418" in str(told.value)


def test_exceptions_survive_being_pickled() -> None:
    script = Scripted([problem(422, "invalid_price"), *[Timeout("late")] * 4])
    session = script.session(token="t")
    found: list[Any] = []
    for _ in range(2):
        try:
            place(script, session)
        except (ApiError, OutcomeUnknown) as error:
            found.append(pickle.loads(pickle.dumps(error)))  # noqa: S301 - our own

    assert (found[0].status, found[0].code, str(found[0])) == (422, "invalid_price", "invalid_price!")
    assert found[1].client_order_id
    assert "place" in str(found[1])
    with pytest.raises(TypeError):
        found[1].resolve()


def test_ids_of_orders_are_unique_and_sort_by_time() -> None:
    ids = [calls.new_client_order_id() for _ in range(1_000)]

    assert len(set(ids)) == 1_000
    assert [each[:14] for each in ids] == sorted(each[:14] for each in ids)
    assert all(len(each) == 34 and each[14] == "7" for each in ids)


def test_a_rejected_order_has_code_and_sentence() -> None:
    wrong = {"error": {"status": 422, "code": "invalid_price", "title": "x", "detail": "price must …"}}
    script = Scripted([answer(202, {"results": [wrong]})])

    (result,) = script.run(calls.place_many(script.session(token="t"), [NewOrder(card="pikachu", side="buy", price=5)]))

    assert isinstance(result, Rejected)
    assert (result.code, result.detail) == ("invalid_price", "price must …")
