"""An archiver whose connection to PostgreSQL goes mute within a transaction: it must not wait twice."""

import asyncio
import gc
import time
import warnings
from pathlib import Path
from urllib.parse import parse_qs, quote, urlsplit

import asyncpg
import pytest

from archiver import postgres, writer
from core.errors import Unavailable
from testing.chaos.exchange import POSTGRES_SOCKET
from testing.chaos.links import Link, Links
from testing.servers import servers

pytestmark = pytest.mark.server

LATE_SECONDS = 2.0


def test_a_transaction_on_a_mute_connection_ends_with_the_first_late_statement(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postgres, "COMMAND_SECONDS", LATE_SECONDS)
    check_current = writer._check_current
    with servers() as pair:
        url = pair.settings.database_url
        place = parse_qs(urlsplit(url).query)["host"][0]
        link = Link(tmp_path / POSTGRES_SOCKET, Path(place) / POSTGRES_SOCKET, "seed")
        links = Links([link])
        links.start()

        async def mute_and_check(database: asyncpg.Connection, histories: dict[str, str]) -> None:
            link.mute()
            await check_current(database, histories)

        async def seconds_of_a_transaction() -> float:
            database = await postgres.connect(url.replace(quote(place), quote(str(tmp_path))))
            monkeypatch.setattr(writer, "_check_current", mute_and_check)
            began = time.monotonic()
            try:
                with pytest.raises(Unavailable):
                    await writer.insert(database, [], {"pikachu": "history"})
                return time.monotonic() - began
            finally:
                database.terminate()
                await asyncio.sleep(0)  # the transport closes in the next turn of the loop

        try:
            seconds = asyncio.run(seconds_of_a_transaction())
        finally:
            links.stop()
            with warnings.catch_warnings():  # of a proxy's half of the connection that asyncpg asks for a cancel on
                warnings.simplefilter("ignore", ResourceWarning)
                gc.collect()

    assert LATE_SECONDS <= seconds < 2 * LATE_SECONDS
