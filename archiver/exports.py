"""Exports of the archive: all rows of a statement as CSV, read through a cursor in PostgreSQL.

An export sees the archive of one moment. It has a connection of its own as long as it lasts, so reads never wait for
exports. The number of exports at once is bounded. Between two reads PostgreSQL keeps the place of the cursor alone, and
the process keeps one read of lines, so memory does not grow with the number of rows.
"""

import asyncio
from collections.abc import AsyncGenerator, Sequence

import asyncpg
from asyncpg.pool import PoolConnectionProxy

from archiver.archive_pages import Statement
from archiver.postgres import postgres_errors
from core.errors import TooManyExports

EXPORTS_MAX = 2
"""Exports of a process at once."""

LINES_PER_READ = 2_000
END_OF_LINE = "\r\n"


class Exports:
    """The exports of a process."""

    def __init__(self, pool: asyncpg.Pool) -> None:
        """`pool`: connections for exports alone, at least `EXPORTS_MAX`."""
        self._pool = pool
        self._count = 0

    async def open(self, fields: Sequence[str], statement: Statement) -> "Export":
        """Begins an export, and reads its first lines.

        Raises:
            TooManyExports: as many exports go on as may.
            Unavailable: PostgreSQL does not answer.
        """
        if self._count >= EXPORTS_MAX:
            raise TooManyExports(EXPORTS_MAX)
        self._count += 1
        export = Export(self, fields)
        try:
            await export.begin(self._pool, statement)
        except BaseException:
            await export.close()
            raise
        return export

    def ended(self) -> None:
        """Called once by each export that ends."""
        self._count -= 1


class Export:
    """One export. It must be closed."""

    def __init__(self, exports: Exports, fields: Sequence[str]) -> None:
        self._exports = exports
        self._fields = fields
        self._lines: list[str] = []
        self._pool: asyncpg.Pool | None = None
        self._connection: PoolConnectionProxy | None = None
        self._is_closed = False

    async def begin(self, pool: asyncpg.Pool, statement: Statement) -> None:
        """Opens the cursor, and reads the first lines.

        Raises:
            Unavailable: PostgreSQL does not answer.
        """
        with postgres_errors():
            self._pool = pool
            self._connection = await pool.acquire()
            await self._connection.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
            # The plan must give its first row soon, and not sort all rows first.
            await self._connection.execute("SET LOCAL cursor_tuple_fraction = 0")
            await self._connection.execute(f"DECLARE export NO SCROLL CURSOR FOR {statement.query}", *statement.values)
        await self._read()

    async def chunks(self) -> AsyncGenerator[bytes, None]:
        """The header and all lines of the export, in parts.

        Raises:
            Unavailable: PostgreSQL does not answer any more; the export has an end too early.
        """
        lines = [",".join(self._fields), *self._lines]
        while lines:
            yield (END_OF_LINE.join(lines) + END_OF_LINE).encode()
            if len(self._lines) < LINES_PER_READ:
                return
            await self._read()
            lines = self._lines

    async def _read(self) -> None:
        assert self._connection is not None  # noqa: S101 - `begin` has set it
        with postgres_errors():
            rows = await self._connection.fetch(f"FETCH FORWARD {LINES_PER_READ} FROM export")
        self._lines = [row["line"] for row in rows]

    async def close(self) -> None:
        """Ends the export, at any time. Its connection is kept if it is in order."""
        if self._is_closed:
            return
        self._is_closed = True
        self._exports.ended()
        if self._connection is not None:
            await asyncio.shield(self._release())

    async def _release(self) -> None:
        assert self._pool is not None  # noqa: S101 - `begin` has set both
        assert self._connection is not None  # noqa: S101
        try:
            if not self._connection.is_closed():
                await self._connection.execute("ROLLBACK")
        except (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError):
            self._connection.terminate()
        finally:
            await self._pool.release(self._connection)
