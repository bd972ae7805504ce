"""An export as CSV (RFC 4180), an ASGI app for one request."""

import asyncio
from contextlib import aclosing

from litestar.types import Receive, Scope, Send

from archiver.exports import Export
from core.errors import Unavailable
from core.service import cancel_and_wait

SEND_SECONDS = 30.0
"""The time within which a client takes a part of an export. Slower clients would keep others from exports."""

MEDIA_TYPE = "text/csv; charset=utf-8"


class CsvAnswer:
    """The answer that sends an export while PostgreSQL gives it, at the pace of the client.

    If the export fails in the middle, or is taken too slowly, the connection ends without the last chunk, so the client
    notices.
    """

    def __init__(self, export: Export, name: str) -> None:
        """`name`: the name of the file that a browser saves."""
        self._export = export
        self._headers = [
            (b"content-type", MEDIA_TYPE.encode()),
            (b"content-disposition", f'attachment; filename="{name}"'.encode()),
            (b"cache-control", b"no-store"),
            (b"x-accel-buffering", b"no"),
        ]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Sends the export, and ends it."""
        gone = asyncio.create_task(_disconnected(receive), name="client of an export")
        try:
            await send({"type": "http.response.start", "status": 200, "headers": self._headers})
            if not scope["state"].get("is_head"):
                await self._send_chunks(send, gone)
            await send({"type": "http.response.body", "body": b"", "more_body": False})
        finally:
            await self._export.close()
            await cancel_and_wait(gone)

    async def _send_chunks(self, send: Send, gone: "asyncio.Task[None]") -> None:
        async with aclosing(self._export.chunks()) as chunks:
            async for chunk in chunks:
                if gone.done():
                    return
                try:
                    async with asyncio.timeout(SEND_SECONDS):
                        await send({"type": "http.response.body", "body": chunk, "more_body": True})
                except TimeoutError:
                    raise Unavailable(f"An export was taken too slowly: a part not within {SEND_SECONDS} s") from None


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
