"""The audit of admin actions in PostgreSQL: rows are added and read, nothing else."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime

import asyncpg
import msgspec

from archiver.postgres import postgres_errors
from core.errors import TcgxError

TARGET_CHARACTERS_MAX = 200
OUTCOME_CHARACTERS_MAX = 500
STARTED, DONE = "started", "done"


class Actor(msgspec.Struct, frozen=True):
    """Who acts, and from where: `trader 5 key 0f…` and an address, or a user of the command line and its host."""

    name: str
    address: str


class AuditRow(msgspec.Struct, frozen=True, kw_only=True):
    """One row of the audit. `outcome`: `started`, `done`, or the code and the text of an error."""

    audit_id: int
    at: datetime
    actor: str
    address: str
    action: str
    target: str
    outcome: str


async def add(
    database: asyncpg.Connection | asyncpg.Pool, actor: Actor, action: str, target: str, outcome: str
) -> None:
    """Adds a row; it is durable once the transaction of the caller is.

    Raises:
        Unavailable: PostgreSQL does not answer.
    """
    with postgres_errors():
        await database.execute(
            "INSERT INTO admin_audit (actor, address, action, target, outcome) VALUES ($1, $2, $3, $4, $5)",
            actor.name[:TARGET_CHARACTERS_MAX],
            actor.address[:TARGET_CHARACTERS_MAX],
            action,
            target[:TARGET_CHARACTERS_MAX],
            outcome[:OUTCOME_CHARACTERS_MAX],
        )


@asynccontextmanager
async def audited(database: asyncpg.Pool, actor: Actor, action: str, target: str) -> AsyncIterator[None]:
    """Audits an action outside of PostgreSQL: a row `started` before it, and its outcome after it.

    Without the first row the action does not happen. A process that dies within it leaves that row alone.

    Raises:
        Unavailable: PostgreSQL does not answer.
    """
    await add(database, actor, action, target, STARTED)
    try:
        yield
    except TcgxError as error:
        await add(database, actor, action, target, f"{error.code}: {error.detail}")
        raise
    await add(database, actor, action, target, DONE)


async def rows(database: asyncpg.Connection | asyncpg.Pool, *, before: int | None, limit: int) -> list[AuditRow]:
    """The newest rows, newest first; with `before` only those with a smaller audit_id.

    Raises:
        Unavailable: PostgreSQL does not answer.
    """
    with postgres_errors():
        found = await database.fetch(
            "SELECT audit_id, at, actor, address, action, target, outcome FROM admin_audit "
            "WHERE audit_id < coalesce($1, 9223372036854775807) ORDER BY audit_id DESC LIMIT $2",
            before,
            limit,
        )
    return [AuditRow(**dict(row)) for row in found]
