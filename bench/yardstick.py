"""The yardstick of `tcgx bench match`: one script call an order (one_order_per_call.lua), as fast as it can be driven.

500 calls a pipeline, encoded beforehand; the replies are counted and not parsed, so that the server is what is
measured.
"""

import time
from collections.abc import Sequence
from importlib.resources import files
from typing import Any

from redis import Redis

from bench.progress import Task
from bench.servers import LONG_SECONDS, YARDSTICK
from core.model import CancelOrder, Command, TimeInForce
from engine import keys

PIPELINE = 500
READ_BYTES = 65_536
AT = "2026-01-01T00:00:00.000Z"


class Yardstick:
    """The script on a server, with orders in its own logs."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._client = Redis.from_url(url, socket_timeout=LONG_SECONDS)
        script = (files("bench") / "one_order_per_call.lua").read_text()
        self._sha = self._client.script_load(script)
        connection: Any = self._client.connection_pool.make_connection()
        connection.connect()
        self._connection = connection
        self._chunks: list[tuple[int, bytes]] = []

    def append(self, commands: Sequence[Command], task: Task) -> None:
        """Puts commands into the logs, an entry each, and encodes the calls that will match them."""
        for start in range(0, len(commands), PIPELINE):
            chunk = commands[start : start + PIPELINE]
            pipeline = self._client.pipeline(transaction=False)
            for command in chunk:
                pipeline.xadd(keys.key(YARDSTICK + command.card, "orders"), _entry(command))
            pipeline.execute()
            calls = [("EVALSHA", self._sha, 1, keys.tag(YARDSTICK + command.card)) for command in chunk]
            self._chunks.append((len(calls), b"".join(self._connection.pack_commands(calls))))
            task.advance(len(chunk))

    def match(self, pipelines: int) -> tuple[int, float]:
        """Matches the orders of so many pipelines, or of those that are left: how many, and the seconds it took."""
        chunks, self._chunks = self._chunks[:pipelines], self._chunks[pipelines:]
        started = time.perf_counter()
        for count, chunk in chunks:
            self._call(chunk, count)
        return sum(count for count, _ in chunks), time.perf_counter() - started

    @property
    def pipelines(self) -> int:
        """How many are left."""
        return len(self._chunks)

    def close(self) -> None:
        """Ends its connections."""
        self._connection.disconnect()
        self._client.close()

    def _call(self, request: bytes, replies: int) -> None:
        connection = self._connection._sock  # redis-py's parser takes 2 µs an order while the server waits
        connection.sendall(request)
        while replies > 0:
            received = connection.recv(READ_BYTES)
            if not received or b"-" in received:
                raise RuntimeError(f"the server answered {received[:200]!r}")
            replies -= received.count(b"\n")


def _entry(command: Command) -> dict[Any, Any]:
    if isinstance(command, CancelOrder):
        return {"trader": command.trader_id, "cancel": command.sequence, "at": AT}
    if command.time_in_force is TimeInForce.FOK or command.client_order_id is not None:
        raise ValueError("the yardstick knows limit orders, immediate-or-cancel orders and cancels alone")
    entry = {
        "trader": command.trader_id,
        "side": command.side.value,
        "price": command.price_cents,
        "quantity": command.quantity,
        "at": AT,
    }
    if command.time_in_force is TimeInForce.IOC:
        entry["time_in_force"] = "ioc"
    return entry
