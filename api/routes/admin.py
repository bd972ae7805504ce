"""`/admin`: what admins do. Every call needs a token with the role `admin`; what changes something is audited."""

import re
from typing import Annotated, Any

from litestar import Request, delete, get, post
from litestar.params import FromPath, Parameter

from api.context import Context, caller_of
from api.openapi import operations
from api.routes.orders import BEARER
from api.views import (
    ApiKeysView,
    ApiKeyView,
    AuditView,
    CardStateView,
    NewApiKeyView,
    OrdersPageView,
    audit_view,
    card_state_view,
    key_view,
    keys_view,
    new_key_view,
    orders_page_view,
)
from archiver.audit import Actor
from core.errors import InvalidRequest, KeyNotFound, TraderNotFound, Violation
from core.model import API_KEY_GRACE_SECONDS_MAX, LATEST, TRADER_ID_MAX
from exchange.administration import (
    AUDIT_LIMIT_MAX,
    LABEL_CHARACTERS_MAX,
    REASON_CHARACTERS_MAX,
    TEXT,
    actor_of,
    require_admin,
)
from exchange.service import OPEN_LIMIT_MAX, OrderFilter
from exchange.tokens import Caller

KEY_ID = re.compile(r"[0-9a-f]{16}")
NUMBER = re.compile(r"[1-9][0-9]{0,18}", re.ASCII)
AUDIT_ID_MAX = 2**63 - 1
ADMIN = "403 forbidden"
UNAVAILABLE = "503 unavailable"

AnyRequest = Request[Any, Any, Any]


def _admin_of(request: AnyRequest) -> tuple[Context, Caller, Actor]:
    """The context, the caller, and the actor of the audit.

    Raises:
        TcgxError: the caller is not authenticated, or is no admin.
    """
    context, caller = caller_of(request)
    require_admin(caller)
    return context, caller, actor_of(caller, request.client.host if request.client else None)


def _trader_id(text: str) -> int:
    if not NUMBER.fullmatch(text) or int(text) > TRADER_ID_MAX:
        raise TraderNotFound(text)
    return int(text)


def _key_id(text: str) -> str:
    if not KEY_ID.fullmatch(text):
        raise KeyNotFound(text)
    return text


@get(
    "/admin/cards/{card:str}",
    tags=["admin"],
    summary="The state of a card",
    description="How far the card is, and whether it is halted. Source: Redis, and the archive in PostgreSQL.",
    responses=operations.problems(ADMIN, UNAVAILABLE),
    security=BEARER,
    operation_id="get_card_state",
)
async def get_card(request: AnyRequest, card: FromPath[str]) -> CardStateView:
    """The state of a card."""
    context, _, _ = _admin_of(request)
    return card_state_view(await context.administration.card(card))


@post(
    "/admin/cards/{card:str}/halt",
    status_code=200,
    tags=["admin"],
    summary="Halt a card",
    description=(
        "From the answer on, no process accepts an order on the card: `503 card_halted`. Cancels are taken, and "
        "orders that were accepted before are matched. A halt that holds keeps its time and reason. Traders read the "
        "reason. Audited. Source: Redis."
    ),
    responses=operations.problems(ADMIN, "422 invalid_reason", UNAVAILABLE),
    security=BEARER,
    operation_id="halt_card",
)
async def halt_card(
    request: AnyRequest,
    card: FromPath[str],
    reason: Annotated[
        str | None,
        Parameter(
            description="why, for traders", schema_extra={"maxLength": REASON_CHARACTERS_MAX, "pattern": TEXT.pattern}
        ),
    ] = None,
) -> CardStateView:
    """Halts a card."""
    context, _, actor = _admin_of(request)
    return card_state_view(await context.administration.halt(actor, card, reason or ""))


@post(
    "/admin/cards/{card:str}/resume",
    status_code=200,
    tags=["admin"],
    summary="Let a card go on",
    description="Orders are accepted again. Nothing happens if the card is not halted. Audited. Source: Redis.",
    responses=operations.problems(ADMIN, UNAVAILABLE),
    security=BEARER,
    operation_id="resume_card",
)
async def resume_card(request: AnyRequest, card: FromPath[str]) -> CardStateView:
    """Lets a card go on."""
    context, _, actor = _admin_of(request)
    return card_state_view(await context.administration.resume(actor, card))


@get(
    "/admin/traders/{trader_id:str}/orders",
    tags=["admin"],
    summary="The orders of a trader",
    description="As `GET /orders` lists them to the trader. Audited. Source: Redis, and the archive in PostgreSQL.",
    responses=operations.problems(
        ADMIN, "404 trader_not_found", "422 invalid_status", "422 invalid_before", UNAVAILABLE
    ),
    security=BEARER,
    operation_id="list_orders_of_trader",
)
async def list_orders(
    request: AnyRequest,
    *,
    trader_id: FromPath[str],
    status: Annotated[
        str | None, Parameter(description="`open`: only those that rest in a book", schema_extra={"enum": ["open"]})
    ] = None,
    card: Annotated[str | None, Parameter(description="only this card")] = None,
    before: Annotated[
        str | None, Parameter(description="an order_id of the trader", schema_extra={"format": "order_id"})
    ] = None,
    limit: Annotated[
        int, Parameter(ge=1, le=OPEN_LIMIT_MAX, description=f"how many at most; above {LATEST} only with `status=open`")
    ] = LATEST,
) -> OrdersPageView:
    """A trader's orders, for an admin."""
    context, caller, actor = _admin_of(request)
    number = _trader_id(trader_id)
    await context.administration.note(actor, "list_orders", f"trader {number}")
    trader = Caller(number, "trader", caller.expires_at)
    order_filter = OrderFilter(status=status, card=card, before=before, limit=limit)
    return orders_page_view(*await context.exchange.orders(trader, order_filter))


@get(
    "/admin/traders/{trader_id:str}/keys",
    tags=["admin"],
    summary="The API keys of a trader",
    description="Newest first, revoked ones too, by key_id and prefix. Source: PostgreSQL.",
    responses=operations.problems(ADMIN, "404 trader_not_found", UNAVAILABLE),
    security=BEARER,
    operation_id="list_keys",
)
async def list_keys(request: AnyRequest, trader_id: FromPath[str]) -> ApiKeysView:
    """A trader's keys."""
    context, _, _ = _admin_of(request)
    return keys_view(await context.administration.keys(_trader_id(trader_id)))


@post(
    "/admin/traders/{trader_id:str}/keys",
    status_code=201,
    tags=["admin"],
    summary="Create an API key for a trader",
    description="The answer is the only place in which the key is ever shown. Audited. Source: PostgreSQL.",
    responses=operations.problems(ADMIN, "404 trader_not_found", "409 too_many_keys", "422 invalid_label", UNAVAILABLE),
    security=BEARER,
    operation_id="create_key",
)
async def create_key(
    request: AnyRequest,
    trader_id: FromPath[str],
    label: Annotated[
        str | None,
        Parameter(
            description="what the key is for", schema_extra={"maxLength": LABEL_CHARACTERS_MAX, "pattern": TEXT.pattern}
        ),
    ] = None,
) -> NewApiKeyView:
    """Creates a key."""
    context, _, actor = _admin_of(request)
    return new_key_view(await context.administration.create_key(actor, _trader_id(trader_id), label or ""))


@post(
    "/admin/keys/{key_id:str}/rotate",
    status_code=201,
    tags=["admin"],
    summary="Replace an API key",
    description=(
        "Creates a key with the same trader and label, and revokes the old one after `grace_seconds`. The answer is "
        "the only place in which the new key is ever shown. Audited. Source: PostgreSQL."
    ),
    responses=operations.problems(ADMIN, "404 key_not_found", "409 too_many_keys", UNAVAILABLE),
    security=BEARER,
    operation_id="rotate_key",
)
async def rotate_key(
    request: AnyRequest,
    key_id: FromPath[str],
    grace_seconds: Annotated[
        int, Parameter(ge=0, le=API_KEY_GRACE_SECONDS_MAX, description="how long the old key stays valid")
    ] = 0,
) -> NewApiKeyView:
    """Replaces a key."""
    context, _, actor = _admin_of(request)
    return new_key_view(await context.administration.rotate_key(actor, _key_id(key_id), grace_seconds))


@delete(
    "/admin/keys/{key_id:str}",
    status_code=200,
    tags=["admin"],
    summary="Revoke an API key",
    description=(
        "No token is issued for the key any more, and within five seconds every process refuses the tokens that were: "
        "`401 token_revoked`. Audited. Source: PostgreSQL."
    ),
    responses=operations.problems(ADMIN, "404 key_not_found", UNAVAILABLE),
    security=BEARER,
    operation_id="revoke_key",
)
async def revoke_key(request: AnyRequest, key_id: FromPath[str]) -> ApiKeyView:
    """Revokes a key."""
    context, _, actor = _admin_of(request)
    return key_view(await context.administration.revoke_key(actor, _key_id(key_id)))


@get(
    "/admin/audit",
    tags=["admin"],
    summary="What admins did",
    description=(
        "Newest first. `before=` the last audit_id of a page gives the next page. Rows are added and never changed. "
        "Source: PostgreSQL."
    ),
    responses=operations.problems(ADMIN, "422 invalid_before", UNAVAILABLE),
    security=BEARER,
    operation_id="list_audit",
)
async def list_audit(
    request: AnyRequest,
    before: Annotated[
        str | None,
        Parameter(description="an audit_id", schema_extra={"examples": ["17"], "pattern": "^[1-9][0-9]{0,17}$"}),
    ] = None,
    limit: Annotated[int, Parameter(ge=1, le=AUDIT_LIMIT_MAX, description="how many at most")] = 50,
) -> AuditView:
    """The audit."""
    context, _, _ = _admin_of(request)
    start = None if before is None else _audit_id(before)
    return audit_view(await context.administration.audit(before=start, limit=limit))


def _audit_id(text: str) -> int:
    if not NUMBER.fullmatch(text) or int(text) > AUDIT_ID_MAX:
        raise InvalidRequest([Violation("before", "invalid_before", "must be an audit_id, like 17", text)])
    return int(text)


ROUTES = [
    get_card,
    halt_card,
    resume_card,
    list_orders,
    list_keys,
    create_key,
    rotate_key,
    revoke_key,
    list_audit,
]
