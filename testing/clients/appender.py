"""A thread that appends commands straight to the logs, as the API does."""

import asyncio
import itertools
import random
import threading
from collections.abc import Iterable

from core.model import Command
from engine import connection
from engine.order_log import OrderLog

BURST_MAX = 1_500


class Appender:
    """Appends commands in order and in bursts of random size, while the test does other things."""

    def __init__(self, redis_url: str, commands: Iterable[Command], *, seed: int, pause_seconds: float) -> None:
        self._redis_url = redis_url
        self._commands = iter(commands)
        self._choose = random.Random(seed)
        self._pause_seconds = pause_seconds
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._failure: BaseException | None = None

    def __enter__(self) -> "Appender":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        self._thread.join()
        if self._failure is not None:
            raise self._failure

    def finish(self) -> None:
        """Waits until all commands are appended."""
        self._thread.join()

    def _run(self) -> None:
        try:
            asyncio.run(self._append())
        except BaseException as error:  # noqa: BLE001 - it is raised where the load is stopped
            self._failure = error

    async def _append(self) -> None:
        async with connection.connect(self._redis_url) as redis:
            order_log = OrderLog(redis, backlog_max=1_000_000_000, pending_max=1_000_000)
            while not self._stopping.is_set():
                burst = list(itertools.islice(self._commands, self._choose.randint(1, BURST_MAX)))
                if not burst:
                    return
                for outcome in await order_log.append_all(burst):
                    if isinstance(outcome, BaseException):
                        raise outcome
                await asyncio.sleep(self._choose.uniform(0, 2 * self._pause_seconds))
