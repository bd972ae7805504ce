"""A reader of streams, and the local book that docs/streams.md tells bots to keep."""

from collections.abc import Iterator
from types import TracebackType
from typing import Any, Self

import httpx
import msgspec

Json = dict[str, Any]
SILENCE_SECONDS = 25.0


class LocalBook:
    """A book from the messages of `book:<card>`."""

    def __init__(self) -> None:
        self.sequence = 0
        self.is_live = False
        self.snapshots = 0
        self._sides: dict[str, dict[str, int]] = {"bids": {}, "asks": {}}

    def apply(self, message: Json) -> bool:
        """Takes a snapshot or an update. Returns False, with nothing applied, where an update does not follow."""
        if message["type"] == "snapshot":
            self._sides = {"bids": {}, "asks": {}}
            self.snapshots += 1
        elif not self.is_live or message["sequence"] <= self.sequence:
            return self.is_live
        elif message["previous_sequence"] != self.sequence:
            self.is_live = False
            return False
        for side, levels in self._sides.items():
            for price, quantity in message[side]:
                if quantity:
                    levels[price] = quantity
                else:
                    levels.pop(price, None)
        self.sequence = message["sequence"]
        self.is_live = True
        return True

    def levels(self, side: str) -> list[list[Any]]:
        """The levels of a side, best first, as `GET /cards/{card}/book` has them."""
        levels = self._sides[side].items()
        return [list(level) for level in sorted(levels, key=lambda level: float(level[0]), reverse=side == "bids")]

    @property
    def is_crossed(self) -> bool:
        """Whether the best bid is not below the best ask."""
        bids, asks = self._sides["bids"], self._sides["asks"]
        return bool(bids and asks) and max(map(float, bids)) >= min(map(float, asks))


class Event(msgspec.Struct, frozen=True):
    """An event of a stream. `id` is empty where the event has none."""

    event: str
    data: Json
    id: str


class EventStream:
    """A stream of server-sent events that is read by pulling."""

    def __init__(self, url: str, channels: str, *, headers: dict[str, str] | None = None, **parameters: Any) -> None:
        self._client = httpx.Client(base_url=url, timeout=SILENCE_SECONDS, trust_env=False)
        request = self._client.build_request(
            "GET", "/stream", params={"channels": channels, **parameters}, headers=headers
        )
        self.response = self._client.send(request, stream=True)
        self.last_id = ""
        self.status = self.response.status_code
        self._events = self._read()

    def _read(self) -> Iterator[Event]:
        rest = b""
        for part in self.response.iter_bytes():
            *events, rest = (rest + part).split(b"\n\n")
            for event in events:
                fields = dict(line.split(b": ", 1) for line in event.split(b"\n") if b": " in line)
                if b"event" not in fields:  # a comment
                    continue
                self.last_id = fields.get(b"id", self.last_id.encode()).decode()
                data = msgspec.json.decode(fields[b"data"])
                yield Event(fields[b"event"].decode(), data, fields.get(b"id", b"").decode())

    def next(self, *kinds: str) -> Event:
        """The next event of one of these kinds, or of any kind."""
        for event in self._events:
            if not kinds or event.event in kinds:
                return event
        raise EOFError("the stream has ended")

    def __iter__(self) -> Iterator[Event]:
        return self._events

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Ends the connection."""
        self.response.close()
        self._client.close()
