"""The engine stays off a processor core that Redis has for itself.

A reply of Redis wakes the engine, now and then on Redis's own core, where the engine then stays for a tick of the
scheduler, 4 ms, in the middle of the next call.
"""

import contextlib
import os
import socket
import struct
import sys
from collections.abc import Iterator
from typing import Any

from redis.asyncio import Redis

_CREDENTIALS = struct.Struct("3i")  # process, user, group


def apart() -> tuple[int, list[int]] | None:
    """The core that an embedded Redis gets, the last one of this process, and the others; None without others."""
    *others, own = sorted(_cores(0)) or [0]
    return (own, others) if others else None


@contextlib.contextmanager
def left_to_server(client: Redis) -> Iterator[None]:
    """Leaves the cores that a server on this machine is bound to, until the end, if any others remain."""
    mine = _cores(0)
    rest = mine - _of_server(client)
    if not rest or rest == mine:
        yield
        return
    _bind(rest)
    try:
        yield
    finally:
        _bind(mine)


def _of_server(client: Redis) -> set[int]:
    """The cores of the process behind a unix socket; none where that cannot be known."""
    pool: Any = client.connection_pool  # redis-py types it as untyped
    path = pool.connection_kwargs.get("path")
    if sys.platform != "linux" or path is None:
        return set()
    try:
        with socket.socket(socket.AF_UNIX) as peer:
            peer.connect(path)
            told = peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
        process, _, _ = _CREDENTIALS.unpack(told)
        return _cores(process) if process else set()  # 0: it cannot be seen from this container
    except OSError:  # it has just ended: a matter of speed alone
        return set()


def _cores(process: int) -> set[int]:
    return os.sched_getaffinity(process) if sys.platform == "linux" else set()


def _bind(cores: set[int]) -> None:
    if sys.platform == "linux":
        os.sched_setaffinity(0, cores)
