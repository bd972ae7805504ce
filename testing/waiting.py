"""Waiting for what nothing announces: the state of other processes and of servers is asked for again and again."""

import asyncio
import inspect
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

from core.errors import StartError

SECONDS = 60.0
POLL_SECONDS = 0.01

T = TypeVar("T")


class NotInTime(StartError):
    """A condition did not hold before its deadline."""


def until(holds: Callable[[], T | None], why: str = "", *, seconds: float = SECONDS) -> T:
    """The first true result of `holds`.

    Raises:
        NotInTime: there was none within `seconds`; `why` is part of the message.
    """
    deadline = time.monotonic() + seconds
    while True:
        result = holds()
        if result:
            return result
        if time.monotonic() > deadline:
            raise NotInTime(f"not within {seconds:.1f} s: {why or holds}")
        time.sleep(POLL_SECONDS)


async def until_async(
    holds: Callable[[], object | Awaitable[object]],
    why: str = "",
    *,
    seconds: float = SECONDS,
    poll: float = POLL_SECONDS,
) -> None:
    """Returns when `holds` does, while the event loop goes on. `poll=0` asks again in each turn of the loop.

    Raises:
        NotInTime: it did not within `seconds`.
    """
    clock = asyncio.get_running_loop().time
    deadline = clock() + seconds
    while True:
        found = holds()
        if await found if inspect.isawaitable(found) else found:
            return
        if clock() > deadline:
            raise NotInTime(f"not within {seconds:.1f} s: {why or holds}")
        await asyncio.sleep(poll)
