"""Bodies that nobody thought of: the decoder gives an order that the rules allow, or an error of ours."""

import asyncio
import json
from typing import Any

import msgspec
from hypothesis import example, given, settings
from hypothesis import strategies as st

from api import decoding
from api.decoding import OrderDecoder
from api.problems import problem_of
from core.errors import RequestError
from core.model import CancelOrder, Change, PlaceOrder, TimeInForce
from core.rules import CLIENT_ORDER_ID, BatchItem, CancelItem, ReplaceItem
from core.settings import Settings
from engine import codec

SETTINGS = Settings()
DECODER = OrderDecoder(SETTINGS)
TRADER = 7

VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text()
    | st.sampled_from(
        ["pikachu", "buy", "sell", "gtc", "fok", "1.00", "10.00", "5.5", "1e2", "0x10", "\u0661.\u0660\u0660", 1, 5.5]
    ),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=8,
)
FIELDS = st.sampled_from(
    [
        "card",
        "side",
        "price",
        "quantity",
        "client_order_id",
        "time_in_force",
        "post_only",
        "action",
        "order_id",
        "trader_id",
        "api_key",
        "orders",
        "\x00",
        "é",
    ]
)
OBJECTS = st.dictionaries(FIELDS, VALUES, max_size=8)
VALID = st.fixed_dictionaries(
    {
        "card": st.sampled_from(SETTINGS.cards),
        "side": st.sampled_from(["buy", "sell"]),
        "price": st.integers(100, 1_000).map(lambda cents: f"{cents / 100:.2f}"),
    },
    optional={
        "quantity": st.integers(1, SETTINGS.max_quantity),
        "client_order_id": st.from_regex(CLIENT_ORDER_ID, fullmatch=True),
        "time_in_force": st.sampled_from(["gtc", "ioc", "fok"]),
        "post_only": st.just(False),
    },
)
POST_ONLY = st.fixed_dictionaries(
    {"card": st.just("pikachu"), "side": st.just("sell"), "price": st.just("5.50"), "post_only": st.booleans()},
    optional={"time_in_force": st.sampled_from(["gtc", "ioc"]), "action": st.just("place")},
)
CHANGES = st.fixed_dictionaries(
    {},
    optional={
        "price": st.sampled_from(["5.50", 5.5, "0.01"]),
        "quantity": st.integers(0, 3),
        "post_only": st.booleans(),
        "client_order_id": st.sampled_from(["mine", None, "a b"]),
    },
)
ITEMS = st.builds(
    lambda action, change: {"action": action, "order_id": "pikachu-1", **change},
    st.sampled_from(["cancel", "replace", "place", "amend"]),
    CHANGES | st.just({}),
)


def encoded(value: Any) -> bytes:
    return json.dumps(value).encode(errors="surrogatepass")


@st.composite
def damaged(draw: st.DrawFn, source: st.SearchStrategy[bytes]) -> bytes:
    """Bytes of a source with some of them changed, taken out or doubled."""
    body = bytearray(draw(source))
    for _ in range(draw(st.integers(0, 4))):
        place = draw(st.integers(0, max(0, len(body) - 1)))
        how = draw(st.sampled_from(["set", "cut", "double"]))
        if how == "set" and body:
            body[place] = draw(st.integers(0, 255))
        elif how == "cut":
            del body[place : place + draw(st.integers(1, 5))]
        else:
            body[place:place] = body[place : place + draw(st.integers(1, 20))]
    return bytes(body)


ORDER_BODIES = st.binary() | (OBJECTS | VALID | POST_ONLY).map(encoded) | damaged((VALID | POST_ONLY).map(encoded))
BATCH_BODIES = (
    damaged(st.lists(OBJECTS | VALID | POST_ONLY | ITEMS, max_size=6).map(lambda orders: encoded({"orders": orders})))
    | ORDER_BODIES
)


def is_allowed(command: object) -> bool:
    """Whether the rules of the exchange allow an order, and it comes out of the log as it went in."""
    assert isinstance(command, PlaceOrder)
    columns = codec.encode([command])
    fields = {name: getattr(columns, name).encode() for name in ("kinds", "traders", "prices", "quantities", "clients")}
    if not columns.clients:
        del fields["clients"]
    found = codec.decode(command.card, {name.encode(): value for name, value in fields.items()})
    assert not isinstance(found[0], CancelOrder)
    return (
        found == [command]
        and command.card in SETTINGS.cards
        and command.trader_id == TRADER
        and SETTINGS.price_cents_min <= command.price_cents <= SETTINGS.price_cents_max
        and 1 <= command.quantity <= SETTINGS.max_quantity
        and (command.client_order_id is None or CLIENT_ORDER_ID.fullmatch(command.client_order_id) is not None)
        and not (command.post_only and command.time_in_force is not TimeInForce.GTC)
    )


def is_allowed_change(change: Change) -> bool:
    """Whether the rules allow a change."""
    return (
        (change.price_cents is not None or change.quantity is not None)
        and (change.price_cents is None or 100 <= change.price_cents <= 1_000)
        and (change.quantity is None or 1 <= change.quantity <= SETTINGS.max_quantity)
        and (change.client_order_id is None or CLIENT_ORDER_ID.fullmatch(change.client_order_id) is not None)
    )


def explained(error: RequestError) -> None:
    """The problem of an error is JSON in UTF-8, short, and of a client's fault."""
    problem = problem_of(error)
    text = msgspec.json.encode(problem).decode()
    assert 400 <= problem.status < 500
    assert problem.detail
    assert len(text) < 20_000


@settings(max_examples=700, deadline=None)
@given(ORDER_BODIES)
@example(b'{"card":"pikachu","card":"mew","side":"buy","price":"1.00"}')
@example(b'{"card":"pikachu","side":"buy","price":1e400}')
@example(b'{"card":"\\ud83d","side":"buy","price":"1.00"}')
@example(b"[" * 100_000)
def test_a_body_is_an_order_that_is_allowed_or_is_refused(body: bytes) -> None:
    try:
        command = DECODER.decode_order(body, TRADER)
    except RequestError as error:
        explained(error)
        return
    assert is_allowed(command)


@settings(max_examples=300, deadline=None)
@given(VALID)
def test_a_valid_body_is_always_taken(order: dict[str, Any]) -> None:
    command = DECODER.decode_order(encoded(order), TRADER)

    assert is_allowed(command)
    assert (command.card, command.side.value) == (order["card"], order["side"])
    assert command.price_cents == round(float(order["price"]) * 100)
    assert command.quantity == order.get("quantity", 1)
    assert command.client_order_id == order.get("client_order_id")


@settings(max_examples=400, deadline=None)
@given(BATCH_BODIES)
def test_a_batch_gives_an_outcome_for_each_order_or_is_refused(body: bytes) -> None:
    async def decoded() -> list[BatchItem | RequestError]:
        return await OrderDecoder(SETTINGS).decode_orders(body, TRADER)

    try:
        outcomes = asyncio.run(decoded())
    except RequestError as error:
        explained(error)
        return
    assert len(outcomes) == len(json.loads(body)["orders"])
    for outcome in outcomes:
        if isinstance(outcome, RequestError):
            explained(outcome)
        elif isinstance(outcome, CancelItem):
            assert outcome.order_id
        else:
            assert is_allowed_change(outcome.change) if isinstance(outcome, ReplaceItem) else is_allowed(outcome)


@settings(max_examples=600, deadline=None)
@given(damaged(CHANGES.map(encoded)) | (CHANGES | OBJECTS).map(encoded))
@example(b'{"price":"5.50","price":"5.60"}')
@example(b'{"quantity":1,"quantity":2}')
def test_a_change_is_one_that_is_allowed_or_is_refused(body: bytes) -> None:
    try:
        change = DECODER.decode_change(body)
    except RequestError as error:
        explained(error)
        return
    assert is_allowed_change(change)
    fields = json.loads(body, object_pairs_hook=lambda pairs: pairs)
    assert len({name for name, _ in fields}) == len(fields)


@settings(max_examples=600, deadline=None)
@given(ORDER_BODIES | damaged(st.just(b'{"trader_id":1,"api_key":"abc"}')))
def test_credentials_are_read_or_refused(body: bytes) -> None:
    try:
        found = decoding.decode_token_body(body)
    except RequestError as error:
        explained(error)
        return
    assert 1 <= found.trader_id <= 2_147_483_647
    assert 1 <= len(found.api_key) <= 200
