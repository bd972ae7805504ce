"""Runs calls without I/O: a clock that jumps, and answers and bytes that a test has written down."""

from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import msgspec
from tcgx_client.effects import Call, Close, Connect, Effect, Read, Request, Response, Sleep, Write
from tcgx_client.errors import Timeout
from tcgx_client.session import Options, Session

T = TypeVar("T")


def answer(status: int, body: object = None, **headers: str) -> Response:
    """An answer; `_` in the names of headers stands for `-`."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return Response(status, named, msgspec.json.encode(body) if body is not None else b"")


class Scripted:
    """Performs effects from a script, and notes them. A request gets the next answer, or the exception that is next."""

    def __init__(
        self, answers: Sequence[Response | Exception] = (), *, chance: Callable[[], float] = lambda: 0.5
    ) -> None:
        self.now = 1_000.0
        self.sleeps: list[float] = []
        self.requests: list[Request] = []
        self.written: list[bytes] = []
        self.connects: list[float] = []
        self.closed = 0
        self.incoming: deque[bytes | Exception] = deque()
        """What `Read` gives; nothing means silence, which lasts until its timeout."""
        self._answers = deque(answers)
        self._chance = chance

    def session(self, **options: Any) -> Session:
        """A session with the clock of the script."""
        given = {"base_url": "http://exchange:8000", **options}
        return Session(Options(**given), clock=lambda: self.now, chance=self._chance)

    def run(self, call: Call[T]) -> T:
        """Runs a call to its end."""
        result: Any = None
        error: Exception | None = None
        while True:
            try:
                effect = call.throw(error) if error is not None else call.send(result)
            except StopIteration as done:
                value: T = done.value
                return value
            result = error = None
            try:
                result = self._perform(effect)
            except Exception as raised:  # noqa: BLE001 - handed to the call, as a driver does
                error = raised

    def _perform(self, effect: Effect) -> Any:
        if isinstance(effect, Request):
            self.requests.append(effect)
            return _given(self._answers.popleft())
        if isinstance(effect, Sleep):
            self.sleeps.append(effect.seconds)
            self.now += effect.seconds
        elif isinstance(effect, Connect):
            self.connects.append(self.now)
            return _given(self._answers.popleft()) if self._answers else "handle"
        elif isinstance(effect, Read):
            if not self.incoming:
                self.now += effect.timeout
                raise Timeout("nothing came")
            return _given(self.incoming.popleft())
        elif isinstance(effect, Write):
            self.written.append(effect.data)
        elif isinstance(effect, Close):
            self.closed += 1
        return None


def _given(scripted: Any) -> Any:
    if isinstance(scripted, Exception):
        raise scripted
    return scripted
