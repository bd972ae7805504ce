"""What admins do, for every door and the command line: halt cards, and manage API keys. Each action is audited."""

import re
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import asyncpg
import msgspec

from archiver import api_keys, audit, queries, traders
from archiver.api_keys import ApiKey, NewKey
from archiver.audit import Actor, AuditRow
from archiver.postgres import postgres_errors
from core.errors import Forbidden, InvalidRequest, TcgxError, UnknownCard, Violation
from core.model import Order
from core.settings import Settings
from engine import halts
from engine.book_reader import BookReader
from exchange.service import Exchange
from exchange.tokens import Caller

REASON_CHARACTERS_MAX = 200
LABEL_CHARACTERS_MAX = 100
TEXT = re.compile(r"^[^\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]*$")
"""Text that people read: no control characters, no breaks of lines, nothing that turns the direction of writing."""

AUDIT_LIMIT_MAX = 500


class CardState(msgspec.Struct, frozen=True, kw_only=True):
    """How far a card is. `halted` is `<time> <reason>`, or empty. Sequences are the last ones of each step."""

    card: str
    halted: str
    appended: int
    matched: int
    archived: int


def require_admin(caller: Caller) -> None:
    """Checks that a caller is an admin.

    Raises:
        Forbidden: the caller is none.
    """
    if caller.role != "admin":
        raise Forbidden


def actor_of(caller: Caller, address: str | None) -> Actor:
    """The actor of a caller of a door."""
    key = f" key {caller.api_key_id}" if caller.api_key_id else ""
    return Actor(f"trader {caller.trader_id}{key}", address or "")


class Administration:
    """Admin actions. `redis` and `database` are clients of the exchange's servers."""

    def __init__(self, settings: Settings, redis: Any, database: asyncpg.Pool) -> None:
        self._cards = settings.cards
        self._redis = redis
        self._database = database
        self._books = BookReader(redis)

    # -- cards

    async def halt(self, actor: Actor, card: str, reason: str) -> CardState:
        """Halts a card: orders are refused from now on, in every API process. A halt that holds keeps its reason.

        Raises:
            UnknownCard, InvalidRequest: the card is not traded, or the reason is too long.
            Unavailable: a server does not answer. Without PostgreSQL nothing is halted.
        """
        self._check_card(card)
        _check_reason(reason)
        async with audit.audited(self._database, actor, "halt", f"{card}: {reason}"):
            await halts.halt(self._redis, card, reason or "by an admin")
        return await self.card(card)

    async def resume(self, actor: Actor, card: str) -> CardState:
        """Lets a card go on.

        Raises:
            UnknownCard: the card is not traded.
            Unavailable: a server does not answer. Without PostgreSQL nothing changes.
        """
        self._check_card(card)
        async with audit.audited(self._database, actor, "resume", card):
            await halts.resume(self._redis, card)
        return await self.card(card)

    async def card(self, card: str) -> CardState:
        """How far a card is, and whether it is halted.

        Raises:
            UnknownCard: the card is not traded.
            Unavailable: a server does not answer.
        """
        self._check_card(card)
        position = await self._books.position(card)
        cursor = (await queries.cursors(self._database)).get(card, queries.START)
        return CardState(
            card=card,
            halted=await halts.halted(self._redis, card),
            appended=position.appended,
            matched=position.matched,
            archived=cursor.sequence,
        )

    # -- traders and keys

    async def keys(self, trader_id: int) -> Sequence[ApiKey]:
        """The keys of a trader, newest first.

        Raises:
            TraderNotFound: there is no such trader.
            Unavailable: PostgreSQL does not answer.
        """
        return await api_keys.of_trader(self._database, trader_id)

    async def create_key(self, actor: Actor, trader_id: int, label: str) -> NewKey:
        """Creates a key for a trader.

        Raises:
            TraderNotFound, TooManyKeys, InvalidRequest: it cannot be created.
            Unavailable: PostgreSQL does not answer.
        """
        _check_label(label)
        async with self._transaction(actor, "create_key", f"trader {trader_id}: {label}") as connection:
            return await api_keys.create(connection, trader_id, label)

    async def rotate_key(self, actor: Actor, key_id: str, grace_seconds: int) -> NewKey:
        """Creates a key in place of another one, which is revoked after `grace_seconds`.

        Raises:
            KeyNotFound, TooManyKeys: it cannot be rotated.
            Unavailable: PostgreSQL does not answer.
        """
        async with self._transaction(actor, "rotate_key", f"key {key_id}, grace {grace_seconds} s") as connection:
            return await api_keys.rotate(connection, key_id, grace_seconds=grace_seconds)

    async def revoke_key(self, actor: Actor, key_id: str) -> ApiKey:
        """Revokes a key. Its tokens are refused by every process within seconds.

        Raises:
            KeyNotFound: there is no such key.
            Unavailable: PostgreSQL does not answer.
        """
        async with self._transaction(actor, "revoke_key", f"key {key_id}") as connection:
            return await api_keys.revoke(connection, key_id)

    async def set_role(self, actor: Actor, trader_id: int, role: str) -> Sequence[str]:
        """Gives a trader a role. Returns the keys that were revoked, since the trader is no admin any more.

        Raises:
            TraderNotFound: there is no such trader.
            Unavailable: PostgreSQL does not answer.
        """
        async with self._transaction(actor, "set_role", f"trader {trader_id}: {role}") as connection:
            return await traders.set_role(connection, trader_id, role)

    # -- audit

    async def note(self, actor: Actor, action: str, target: str) -> None:
        """Audits a read of another trader's data, before it is shown.

        Raises:
            Unavailable: PostgreSQL does not answer.
        """
        await audit.add(self._database, actor, action, target, audit.DONE)

    @asynccontextmanager
    async def audited(self, actor: Actor, action: str, target: str) -> AsyncIterator[None]:
        """Audits a change outside of PostgreSQL (`audit.audited`)."""
        async with audit.audited(self._database, actor, action, target):
            yield

    async def find_order(self, exchange: Exchange, caller: Caller, actor: Actor, name: str) -> Order:
        """Reads an order for a caller. An admin's read of another trader's order is audited before it is shown.

        Raises:
            OrderNotFound, Unavailable: see `Exchange.find`.
        """
        order = await exchange.find(caller, name)
        if order.trader_id != caller.trader_id:  # the caller is an admin
            await self.note(actor, "get_order", f"{name} of {order.trader_id}")
        return order

    async def cancel_order(
        self, exchange: Exchange, caller: Caller, actor: Actor, name: str, seconds: float
    ) -> tuple[Order, bool]:
        """Cancels an order for a caller. An admin's cancel of another trader's order is audited.

        Raises:
            OrderNotFound, OrderCompleted, HistoryConflict, Overloaded, Unavailable: see `Exchange.cancel`.
        """
        order = await exchange.find(caller, name) if caller.role == "admin" else None
        if order is None or order.trader_id == caller.trader_id:
            return await exchange.cancel(caller, name, seconds)
        async with self.audited(actor, "cancel_order", f"{name} of {order.trader_id}"):
            return await exchange.cancel(caller, name, seconds)

    async def audit(self, *, before: int | None, limit: int) -> Sequence[AuditRow]:
        """The audit, newest first.

        Raises:
            Unavailable: PostgreSQL does not answer.
        """
        return await audit.rows(self._database, before=before, limit=limit)

    @asynccontextmanager
    async def _transaction(self, actor: Actor, action: str, target: str) -> AsyncIterator[asyncpg.Connection]:
        """A transaction whose change and audit row are both committed, or neither. A refusal has a row as well."""
        try:
            async with _acquired(self._database) as connection, connection.transaction():
                yield connection
                await audit.add(connection, actor, action, target, audit.DONE)
        except TcgxError as error:
            await audit.add(self._database, actor, action, target, f"{error.code}: {error.detail}")
            raise

    def _check_card(self, card: str) -> None:
        if card not in self._cards:
            raise UnknownCard(card, self._cards)


@asynccontextmanager
async def _acquired(database: asyncpg.Pool) -> AsyncIterator[Any]:
    with postgres_errors():
        connection = await database.acquire()
    try:
        yield connection
    finally:
        await database.release(connection)


def _check_reason(text: str) -> None:
    if not _is_printable(text, REASON_CHARACTERS_MAX):
        raise InvalidRequest([Violation("reason", "invalid_reason", _rule(REASON_CHARACTERS_MAX), text)])


def _check_label(text: str) -> None:
    if not _is_printable(text, LABEL_CHARACTERS_MAX):
        raise InvalidRequest([Violation("label", "invalid_label", _rule(LABEL_CHARACTERS_MAX), text)])


def _is_printable(text: str, characters_max: int) -> bool:
    is_unicode = not any("\ud800" <= character <= "\udfff" for character in text)
    return len(text) <= characters_max and is_unicode and TEXT.fullmatch(text) is not None


def _rule(characters_max: int) -> str:
    return f"must be at most {characters_max} printable characters"
