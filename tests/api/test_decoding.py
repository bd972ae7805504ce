"""Bodies without a server: what the fast decoder takes, and what the explaining one says, is always the same."""

import asyncio
import gc
import itertools
import json
import random
import time
from collections.abc import Callable, Coroutine
from typing import Any

import msgspec
import pytest

from api import decoding
from api.decoding import SLICE_SECONDS, OrderDecoder
from api.problems import Problem, problem_of
from api.routes.orders import _with_refusals
from core.errors import Overloaded, RequestError
from core.model import PlaceOrder, Side, TimeInForce
from core.rules import ERRORS_MAX, BatchItem
from core.settings import Settings

SEED = 20_260_101
BODIES = 20_000
TRADER = 7
SETTINGS = Settings()
PRICES = range(SETTINGS.price_cents_min, SETTINGS.price_cents_max + 1)

fast = OrderDecoder(SETTINGS)


class ExplainingBodies(OrderDecoder):
    """The same rules, always the slow way."""

    def decode_order(self, body: bytes, trader_id: int, errors_max: int = ERRORS_MAX) -> PlaceOrder:
        return self._decode_with_errors(body, trader_id, errors_max)


slow = ExplainingBodies(SETTINGS)


def outcome(decoder: OrderDecoder, body: bytes) -> PlaceOrder | Problem:
    try:
        return decoder.decode_order(body, TRADER)
    except RequestError as error:
        return problem_of(error)


def spellings(cents: int) -> list[str]:
    """Every usual way to write a price in JSON."""
    dollars, rest = divmod(cents, 100)
    plain = {f"{dollars}.{rest:02d}"}
    if rest % 10 == 0:
        plain.add(f"{dollars}.{rest // 10}")
    if rest == 0:
        plain.add(f"{dollars}")
    return sorted(plain | {f'"{text}"' for text in plain})


def unusual_spellings(cents: int) -> list[str]:
    """Ways that only the explaining decoder knows."""
    text = f"{cents // 100}.{cents % 100:02d}"
    return [f"{text}0", f'"{text}0"', f'"0{text}"', f"{cents}e-2", f"{cents * 10}E-3", f"{text}{'0' * 40}"]


def is_taken_fast(body: bytes, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Whether the explaining decoder is not asked."""
    asked: list[bytes] = []
    with monkeypatch.context() as patched:
        patched.setattr(fast, "_decode_with_errors", lambda text, *_: asked.append(text))
        fast.decode_order(body, TRADER)
    return not asked


def test_every_price_in_every_usual_spelling_is_taken_fast(monkeypatch: pytest.MonkeyPatch) -> None:
    for cents in PRICES:
        for text in spellings(cents):
            body = f'{{"card":"pikachu","side":"buy","price":{text}}}'.encode()

            order = fast.decode_order(body, TRADER)

            assert order.price_cents == cents
            assert outcome(slow, body) == order
            assert is_taken_fast(body, monkeypatch), text
    assert len(PRICES) == 901


def test_every_price_in_unusual_spellings_is_the_same_price() -> None:
    for cents in PRICES:
        for text in unusual_spellings(cents):
            order = fast.decode_order(f'{{"card":"pikachu","side":"sell","price":{text}}}'.encode(), TRADER)

            assert order.price_cents == cents, text


def test_no_price_beside_the_901_is_taken() -> None:
    beside = [*range(-50, PRICES.start), *range(PRICES.stop, PRICES.stop + 200)]
    texts = [f"{cents / 100:.2f}" for cents in beside]
    texts += [f"{cents // 100}.{cents % 100:02d}{digit}" for cents in PRICES[:-1] for digit in "159"]
    texts += [f"{cents // 100}.{cents % 100:02d}{'0' * 40}1" for cents in PRICES[:-1]]

    for text, quote in itertools.product(texts, ("", '"')):
        problem = outcome(fast, f'{{"card":"pikachu","side":"buy","price":{quote}{text}{quote}}}'.encode())

        assert isinstance(problem, Problem), text
        assert problem.code == "invalid_price"


@pytest.mark.parametrize("time_in_force", ["gtc", "ioc", "fok"])
@pytest.mark.parametrize("side", ["buy", "sell"])
def test_a_body_with_every_field_is_taken_fast(side: str, time_in_force: str, monkeypatch: pytest.MonkeyPatch) -> None:
    fields = {
        "card": "squirtle",
        "side": side,
        "price": "9.99",
        "quantity": 10_000,
        "client_order_id": "quantity",
        "time_in_force": time_in_force,
    }
    body = json.dumps(fields).encode()

    order = fast.decode_order(body, TRADER)

    assert order == PlaceOrder(
        trader_id=TRADER,
        card="squirtle",
        side=Side(side),
        price_cents=999,
        quantity=10_000,
        time_in_force=TimeInForce(time_in_force),
        client_order_id="quantity",
    )
    assert outcome(slow, body) == order
    assert is_taken_fast(body, monkeypatch)


@pytest.mark.parametrize("client_order_id", ["quantity", "client_order_id", "time_in_force", "price", "card", None])
@pytest.mark.parametrize("twice", ["card", "side", "price", "quantity", "client_order_id", "time_in_force"])
def test_a_field_that_is_given_twice_is_never_taken(twice: str, client_order_id: str | None) -> None:
    fields: list[tuple[str, Any]] = [("card", "pikachu"), ("side", "buy"), ("price", 5)]
    fields.append(("client_order_id", client_order_id))
    values: dict[str, list[Any]] = {"quantity": [1, 2], "time_in_force": ["gtc", "ioc"]}
    fields += [(twice, value) for value in values.get(twice, [dict(fields).get(twice)])]

    for order in itertools.permutations(fields):
        body = "{" + ",".join(f"{json.dumps(name)}:{json.dumps(value)}" for name, value in order) + "}"
        problem = outcome(fast, body.encode())

        assert isinstance(problem, Problem), body
        assert problem.code == "duplicate_field"
        assert f"{twice} must be given once" in problem.detail


def a_value(choose: random.Random, field: str) -> str:
    """A value of a field as it stands in JSON; right ones more often than wrong ones."""
    right: dict[str, list[str]] = {
        "card": [f'"{card}"' for card in SETTINGS.cards],
        "side": ['"buy"', '"sell"'],
        "price": spellings(choose.choice(PRICES)),
        "quantity": ["1", "10000", str(choose.randint(1, 10_000)), "5.0", "1e2"],
        "client_order_id": ['"a"', '"quantity"', '"time_in_force"', '"A.b_c:d-9"', f'"{"x" * 64}"', "null"],
        "time_in_force": ['"gtc"', '"ioc"', '"fok"'],
    }
    wrong = [
        *('""', "0", "-1", "null", "true", "[]", "{}", "1.5", '"1"', "1e400", "1e1000000", "9" * 30, "-0", "NaN", "05"),
        *('"\\ud800"', '"gt\\u0063"', '"\\u0070ikachu"', '"é"', '"a b"', '"mew"', '"BUY"', "5.505", '"5.505"', "0.99"),
        *('{"card":"pikachu"}', '["a","b"]', '"a\\"b"', '"\x01"', "10.01", "10001", "5.000", '"5.5000"', "", "'a'"),
    ]
    if field in right and choose.random() < 0.9:
        return choose.choice(right[field])
    return choose.choice(wrong)


def a_body(choose: random.Random) -> bytes:
    """A body that may be right, or wrong in any of many ways."""
    fields = ["card", "side", "price"]
    fields += [field for field in ("quantity", "client_order_id", "time_in_force") if choose.random() < 0.5]
    if choose.random() < 0.1:
        fields.remove(choose.choice(fields))
    if choose.random() < 0.1:
        fields.append(choose.choice([*fields, "trader_id", "Card", "", "pri\\u0063e", "\\ud800"]))
    choose.shuffle(fields)
    space = choose.choice(["", "", " ", "\n", "\t "])
    pairs = [f'"{field}"{space}:{space}{a_value(choose, field)}' for field in fields]
    body = space + "{" + f",{space}".join(pairs) + "}" + space
    encoded = body.encode(choose.choice(["utf-8"] * 30 + ["utf-16", "utf-8-sig"]), errors="surrogatepass")
    if choose.random() < 0.03:
        place = choose.randrange(len(encoded))
        encoded = encoded[:place] + choose.choice([b"\xff", b"\x00", b"", b'"', b"{", b","]) + encoded[place + 1 :]
    return encoded


def test_both_decoders_agree_on_twenty_thousand_bodies() -> None:
    choose = random.Random(SEED)
    taken = refused = 0

    for _ in range(BODIES):
        body = a_body(choose)
        found, expected = outcome(fast, body), outcome(slow, body)

        assert found == expected, (SEED, body)
        if isinstance(found, Problem):
            refused += 1
            assert found.status == 422
            assert msgspec.json.decode(msgspec.json.encode(found))["detail"], body
        else:
            taken += 1
    assert taken > BODIES // 4
    assert refused > BODIES // 4


def test_a_problem_never_grows_with_the_body() -> None:
    bodies_of_a_megabyte = [
        b'{"card":"' + b"x" * 1_000_000 + b'"}',
        b'{"price":' + b"9" * 1_000_000 + b"}",
        b'{"price":0.' + b"9" * 1_000_000 + b"}",
        b'{"' + b"x" * 1_000_000 + b'":1}',
        b"{" + b",".join(b'"%d":1' % number for number in range(100_000)) + b"}",
        b"{" + b",".join(b'"card":1' for _ in range(100_000)) + b"}",
        b"[" * 1_000_000,
    ]

    for body in bodies_of_a_megabyte:
        problem = outcome(fast, body)

        assert isinstance(problem, Problem)
        assert len(msgspec.json.encode(problem)) < 20_000


@pytest.mark.parametrize(
    ("body", "trader_id", "api_key"),
    [
        (b'{"trader_id":"1","api_key":"abc"}', 1, "abc"),
        (b'{"trader_id":1,"api_key":"abc"}', 1, "abc"),
        (b'{"api_key":"\\u0061","trader_id":2147483647}', 2_147_483_647, "a"),
        (b'{"trader_id":2.0,"api_key":"a"}', 2, "a"),
    ],
)
def test_a_token_body_is_read(body: bytes, trader_id: int, api_key: str) -> None:
    found = decoding.decode_token_body(body)

    assert (found.trader_id, found.api_key) == (trader_id, api_key)


GOOD = '{"card":"pikachu","side":"buy","price":"1.00"}'
SURROGATES = ["\\ud83d", "\\ud800", "\\udc00", "\\udfff\\ud800", "\\uD83D\\u0041", "\\ud83d\\ud83d"]


def batch(*orders: str) -> list[BatchItem | RequestError]:
    """The outcomes of a batch of these orders."""
    return asyncio.run(OrderDecoder(SETTINGS).decode_orders(f'{{"orders":[{",".join(orders)}]}}'.encode(), TRADER))


def alone(order: str) -> PlaceOrder | Problem:
    return outcome(fast, order.encode())


def assert_as_alone(orders: list[str]) -> None:
    """That each order of a batch is what it is alone."""
    found = [problem_of(one) if isinstance(one, RequestError) else one for one in batch(*orders)]
    assert found == [alone(order) for order in orders]


@pytest.mark.parametrize("surrogate", SURROGATES)
@pytest.mark.parametrize(
    "order",
    [
        '{"card":"pikachu","side":"buy","price":"1.00","client_order_id":"x%s"}',
        '{"card":"%s","side":"buy","price":"1.00"}',
        '{"card":"pikachu","side":"buy","price":"%s"}',
        '{"card":"pikachu","side":"buy","price":1,"%s":1}',
        '{"card":"pikachu","side":"buy","price":1,"x":{"%s":["%s"]}}',
        '{"%s":1}',
        '"%s"',
        '["%s"]',
    ],
)
def test_a_half_of_a_character_spoils_no_other_order(order: str, surrogate: str) -> None:
    wrong = order.replace("%s", surrogate)

    assert_as_alone([GOOD, wrong, GOOD])
    assert isinstance(alone(wrong), Problem)


@pytest.mark.parametrize(
    "order",
    ["0", "-0", "1.5", "1e400", "-1E+5", "9" * 30, "true", "false", "null", '""', "[]", "{}", '"\\ud83d\\ude00"']
    + ['{"card":"pikachu","side":"buy","price":1e2}', '{"card":"pik\\u0061chu","side":"buy","price":1}']
    + ['{"orders":[1]}', '{"card":"pikachu","side":"buy","price":1,"client_order_id":"orders"}']
    + [f'{{"card":"pikachu","side":"buy","price":{"[" * deep}{"]" * deep}}}' for deep in (1, 900)]
    + [f'{{"card":"pikachu","side":"buy","price":1,"x":{"[" * deep}{"]" * deep}}}' for deep in (1, 900)],
)
@pytest.mark.parametrize("other", [GOOD, '"\\ud83d"', '{"client_order_id":"orders"}', "1"])
def test_a_batch_has_as_many_outcomes_as_orders(order: str, other: str) -> None:
    assert_as_alone([GOOD, order, other, GOOD])


@pytest.mark.parametrize("deep", [1_000, 1_100, 5_000, 100_000])
@pytest.mark.parametrize("field", ["price", "quantity", "card", "client_order_id", "x"])
@pytest.mark.parametrize("pair", [("[", "]"), ('{"a":', "}"), ('[{"a":', "}]")])
def test_a_value_that_is_nested_too_deeply_is_no_order(field: str, deep: int, pair: tuple[str, str]) -> None:
    opening, closing = pair
    fields = {"card": '"pikachu"', "side": '"buy"', "price": "1", field: f"{opening * deep}1{closing * deep}"}
    order = "{" + ",".join(f'"{name}":{value}' for name, value in fields.items()) + "}"

    problem = alone(order)

    assert isinstance(problem, Problem)
    assert problem.status == 422
    if problem.code == "invalid_json":
        with pytest.raises(RequestError, match="the body is not JSON"):
            batch(GOOD, order, GOOD)
    else:
        assert [isinstance(one, PlaceOrder) for one in batch(GOOD, order, GOOD)] == [True, False, True]
    with pytest.raises(RequestError):
        decoding.decode_token_body(order.encode())


def test_batches_of_random_orders_have_the_outcomes_of_their_orders() -> None:
    choose = random.Random(SEED)
    decoder = OrderDecoder(SETTINGS)

    async def compare() -> int:
        """How many batches were compared; the others have something in them that is no JSON."""
        compared = 0
        for _ in range(2_000):
            orders = [a_body(choose) for _ in range(choose.randint(1, 6))]
            body = b'{"orders":[' + b",".join(orders) + b"]}"
            try:
                found = await decoder.decode_orders(body, TRADER)
            except RequestError:
                continue
            compared += 1
            problems = [problem_of(one) if isinstance(one, RequestError) else one for one in found]
            assert problems == [outcome(slow, order) for order in orders], (SEED, body)
        return compared

    assert asyncio.run(compare()) > 500


def wrong_orders(count: int) -> dict[str, str]:
    """Batches of so many wrong orders, each in another way wrong."""
    unknown = ",".join(f'"x{number}":1' for number in range(140))
    shout = ",".join(f'"{chr(233) * 4}{number}":1' for number in range(100))
    return {
        "nothing given": ",".join(["{}"] * count),
        "unknown fields": ",".join([f"{{{unknown}}}"] * count),
        "accents": ",".join([f"{{{shout}}}"] * count),
        "half characters": ",".join(['{"\\ud800":1,"card":"\\ud800","side":"\\ud800","price":"\\ud800"}'] * count),
        "controls": ",".join(['{"card":"' + "\\u0001" * 90 + '","side":"' + "\\u0001" * 60 + '"}'] * count),
        "every field": ",".join(
            ['{"card":1,"side":1,"price":0,"quantity":0,"client_order_id":0,"time_in_force":0}'] * count
        ),
    }


@pytest.mark.parametrize("name", wrong_orders(1))
def test_a_wrong_batch_has_a_bounded_answer_which_says_that_there_is_more(name: str) -> None:
    body = f'{{"orders":[{wrong_orders(1_000)[name]}]}}'.encode()
    found = asyncio.run(OrderDecoder(SETTINGS).decode_orders(body, TRADER))

    problems = [problem_of(one) for one in found if isinstance(one, RequestError)]
    assert len(problems) == 1_000
    assert sum(len(problem.errors) for problem in problems) <= 2 * decoding.BATCH_ERRORS_MAX + 4 * 1_000
    assert len(msgspec.json.encode(problems)) < 2_500_000
    for problem in problems:
        assert problem.errors
        assert problem.code == problem.errors[0].code
    assert problems[0] == alone(json.dumps(json.loads(body)["orders"][0]))
    if name not in ("nothing given", "controls"):
        last = [error.code for error in problems[-1].errors]
        assert last[1] == "too_many_errors"


def test_an_order_with_few_errors_is_told_all_of_them_in_a_small_batch() -> None:
    (found,) = batch(wrong_orders(1)["every field"])

    assert isinstance(found, RequestError)
    assert len(found.violations) == 6


@pytest.mark.parametrize("name", wrong_orders(1))
def test_others_are_served_while_a_wrong_batch_is_looked_at(name: str) -> None:
    decoder = OrderDecoder(SETTINGS)
    body = f'{{"orders":[{wrong_orders(1_000)[name]}]}}'.encode()

    async def turns() -> int:
        """How often somebody else is served while four such batches are looked at."""
        looking = asyncio.gather(*(decoder.decode_orders(body, TRADER) for _ in range(4)))
        count = 0
        while not looking.done():
            count += 1
            await asyncio.sleep(0)
        assert [len(found) for found in looking.result()] == [1_000] * 4
        return count

    assert asyncio.run(turns()) > 10


def test_a_large_batch_that_waits_for_its_turn_is_refused_once_there_is_no_room() -> None:
    decoder = OrderDecoder(SETTINGS)
    body = f'{{"orders":[{",".join([GOOD] * 1_000)}]}}'.encode()
    assert len(body) > decoding.LARGE_BYTES
    is_full = False

    def check_room() -> None:
        if is_full:
            raise Overloaded("no room")

    def fill(_: object) -> None:
        nonlocal is_full
        is_full = True

    async def outcomes() -> list[Any]:
        waiting = [asyncio.create_task(decoder.decode_orders(body, TRADER, check_room)) for _ in range(3)]
        waiting[0].add_done_callback(fill)
        return await asyncio.gather(*waiting, return_exceptions=True)

    first, *others = asyncio.run(outcomes())
    assert len(first) == 1_000
    assert [type(outcome) for outcome in others] == [Overloaded, Overloaded]


def test_a_right_batch_waits_for_no_wrong_one() -> None:
    decoder = OrderDecoder(SETTINGS)
    wrong = f'{{"orders":[{wrong_orders(1_000)["unknown fields"]}]}}'.encode()

    async def first() -> str:
        slow = asyncio.create_task(decoder.decode_orders(wrong, TRADER), name="wrong")
        await asyncio.sleep(0)
        right = asyncio.create_task(decoder.decode_orders(f'{{"orders":[{GOOD}]}}'.encode(), TRADER), name="right")
        done, _ = await asyncio.wait({slow, right}, return_when=asyncio.FIRST_COMPLETED)
        await slow
        return ", ".join(task.get_name() for task in done)

    assert asyncio.run(first()) == "right"


@pytest.mark.parametrize(
    "body",
    [
        b"{" + b",".join(b'"x%d":1' % number for number in range(60_000)) + b"}",
        b'{"orders":[' + b"{}," * 300_000 + b"1]}",
        b'{"orders":[{"x":[' + b"{}," * 300_000 + b"1]}]}",
        b'{"orders":[{"\\u0040":[' + b"{}," * 300_000 + b"1]}]}",
    ],
    ids=["fields", "too many orders", "one large order", "one large order with an escape"],
)
@pytest.mark.parametrize("call", ["order", "batch", "token"])
def test_others_are_served_while_a_large_body_is_looked_at(call: str, body: bytes) -> None:
    decoder = OrderDecoder(SETTINGS)

    async def turns() -> int:
        """How often somebody else is served meanwhile."""
        calls: dict[str, Callable[[], Coroutine[Any, Any, Any]]] = {
            "order": lambda: decoder.offload(decoder.decode_order, body, TRADER),
            "batch": lambda: decoder.decode_orders(body, TRADER),
            "token": lambda: decoder.offload(decoding.decode_token_body, body),
        }
        looking = asyncio.create_task(calls[call]())
        count = 0
        while not looking.done():
            count += 1
            await asyncio.sleep(0)
        error = looking.exception() or looking.result()[0]
        assert isinstance(error, RequestError)
        assert len(error.violations or [error]) <= ERRORS_MAX + 4
        return count

    assert asyncio.run(turns()) > 10


def test_large_batches_that_arrive_together_leave_turns_of_the_loop_to_others() -> None:
    body = msgspec.json.encode({"orders": [{"card": "pikachu", "side": "buy", "price": "1.00"}] * 1_000})

    async def main() -> list[int]:
        decoder, turn, decoded_in = OrderDecoder(SETTINGS), 0, list[int]()

        async def decode() -> None:
            assert len(await decoder.decode_orders(body, TRADER)) == 1_000
            decoded_in.append(turn)

        batches = [asyncio.create_task(decode()) for _ in range(10)]
        while not all(batch.done() for batch in batches):
            turn += 1
            await asyncio.sleep(0)
        return decoded_in

    decoded_in = asyncio.run(main())
    assert len(body) > decoding.LARGE_BYTES
    assert len(set(decoded_in)) == 10, "two batches were decoded in one turn"


def test_a_wrong_batch_leaves_no_cycles_to_collect() -> None:
    """A collection of the cycles of a batch would hold up the event loop for 50 ms."""
    body = b'{"orders":[' + b",".join([b"{}"] * 1_000) + b"]}"
    gc.collect()
    gc.disable()
    try:
        asyncio.run(OrderDecoder(Settings()).decode_orders(body, 1))
        cycles = gc.collect()
    finally:
        gc.enable()

    assert cycles < 1_000


def test_other_tasks_run_while_the_refusals_of_a_batch_are_encoded() -> None:
    async def turns() -> int:
        wrong = await OrderDecoder(Settings()).decode_orders(b'{"orders":[' + b",".join([b"{}"] * 1_000) + b"]}", 1)
        count = 0

        async def other() -> None:
            nonlocal count
            while True:
                count += 1
                await asyncio.sleep(0)

        task = asyncio.create_task(other())
        refused = [(None, error) for error in wrong if isinstance(error, RequestError)] * 20
        started = time.perf_counter()
        results = await _with_refusals(refused)
        slices = (time.perf_counter() - started) / SLICE_SECONDS
        task.cancel()
        assert len(results) == len(refused) == 20_000
        assert slices > 2
        return count

    assert asyncio.run(turns()) >= 2
