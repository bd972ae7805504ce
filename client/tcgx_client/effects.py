"""What the client wants done, as values. A call is a generator that yields effects and is sent their results.

A driver performs effects: `sync_client.py` blocks, `async_client.py` awaits. Nothing else differs between the two.
"""

from collections.abc import Generator, Mapping
from typing import Any, Protocol, TypeVar

import msgspec

T = TypeVar("T")


class Sink(Protocol):
    """Where the body of an answer is written as it comes."""

    def begin(self) -> None:
        """Forgets what an earlier try has written."""
        ...

    def write(self, data: bytes) -> None:
        """Takes a part of the body."""


class Request(msgspec.Struct, frozen=True):
    """An HTTP request; its result is a `Response`. With a `sink` the body of a 200 goes there."""

    method: str
    target: str
    headers: Mapping[str, str]
    body: bytes | None
    timeout: float
    sink: Sink | None = None


class Response(msgspec.Struct, frozen=True):
    """An HTTP answer. The names of headers are lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class Sleep(msgspec.Struct, frozen=True):
    """Waits."""

    seconds: float


class Acquire(msgspec.Struct, frozen=True):
    """Takes the lock of the client; one call at a time has it."""


class Release(msgspec.Struct, frozen=True):
    """Gives the lock of the client back."""


class Connect(msgspec.Struct, frozen=True):
    """A connection of a stream; its result is a handle for the effects below."""

    host: str
    port: int
    is_tls: bool
    timeout: float


class Read(msgspec.Struct, frozen=True):
    """The next bytes, `b""` at the end. `Timeout` leaves the connection usable."""

    handle: Any
    timeout: float


class Write(msgspec.Struct, frozen=True):
    """Writes bytes."""

    handle: Any
    data: bytes
    timeout: float


class Close(msgspec.Struct, frozen=True):
    """Ends a connection."""

    handle: Any


Effect = Request | Sleep | Acquire | Release | Connect | Read | Write | Close
Call = Generator[Effect, Any, T]
READ_BYTES = 65_536
