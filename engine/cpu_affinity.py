"""CPU affinity: the engine avoids the processor core to which an embedded Redis is bound.

A reply of Redis sometimes wakes the engine on the core of Redis. The engine would stay there for one tick of the
scheduler (4 ms) and delay the next call.
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


def split_cores() -> tuple[int, list[int]] | None:
    """The last core of this process, for an embedded Redis, and the other cores. None if there is only one core."""
    *others, last = sorted(_cores(0)) or [0]
    return (last, others) if others else None


@contextlib.contextmanager
def avoid_server_cores(client: Redis) -> Iterator[None]:
    """Binds this process to cores that a server on this machine does not use, if there are such cores.

    The end of the context restores the former cores.
    """
    own = _cores(0)
    others = own - _server_cores(client)
    if not others or others == own:
        yield
        return
    _bind(others)
    try:
        yield
    finally:
        _bind(own)


def _server_cores(client: Redis) -> set[int]:
    """The cores of the process behind a unix socket. Empty if they cannot be determined."""
    pool: Any = client.connection_pool  # redis-py types it as untyped
    path = pool.connection_kwargs.get("path")
    if sys.platform != "linux" or path is None:
        return set()
    try:
        with socket.socket(socket.AF_UNIX) as peer:
            peer.connect(path)
            credentials = peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
        process, _, _ = _CREDENTIALS.unpack(credentials)
        return _cores(process) if process else set()  # 0: the process is outside this container
    except OSError:  # the server has just ended; the affinity only affects speed
        return set()


def _cores(process: int) -> set[int]:
    return os.sched_getaffinity(process) if sys.platform == "linux" else set()


def _bind(cores: set[int]) -> None:
    if sys.platform == "linux":
        os.sched_setaffinity(0, cores)
