"""Live data over gRPC: the messages of the hub, as they are sent over server-sent events."""

import asyncio
from collections.abc import Sequence
from typing import Any

from rpc.v1 import exchange_pb2 as pb
from streams.messages import Bye, Message

Context = Any  # grpc.aio.ServicerContext is generic over messages


class Sink:
    """Writes the messages of a stream. A write waits until the client has room (flow control of HTTP/2)."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._positions = ""

    async def send(self, found: Sequence[Message], positions: str) -> None:
        """Writes messages. The last one has the positions, if they are new."""
        for place, message in enumerate(found, 1):
            is_new = place == len(found) and positions != self._positions
            await self._context.write(
                pb.StreamEventsResponse(
                    event=message.event.decode(), data=message.json.decode(), positions=positions if is_new else ""
                )
            )
        self._positions = positions

    async def close(self, bye: Bye) -> None:
        """Writes the event `bye`; the call ends after it."""
        await self._context.write(pb.StreamEventsResponse(event="bye", data=bye.message().json.decode()))

    def cut(self, bye: Bye) -> None:
        """A client that takes nothing: the end of the call resets its stream."""
        self._context.set_details(bye.reason)


async def until_gone(context: Context) -> None:
    """Returns when the client has ended the call."""
    gone = asyncio.Event()
    context.add_done_callback(lambda _: gone.set())
    await gone.wait()
