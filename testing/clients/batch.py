"""`python -m testing.clients.batch HOST PORT REQUESTS ANSWERS`: one keep-alive client of `tcgx bench million`.

A process of its own that does as little as it can, because it runs on the measured machine: it holds the requests ready
in memory, says `ready`, waits for a line, sends one request after the other over one connection, looks at each status,
and puts the answers' bodies into a file, to be read when nothing is measured any more. Both files hold a line with a
length, then so many bytes, again and again. At the end it prints what it did as a line of JSON.

A 503 or 429 that says that nothing was accepted is repeated after the time that it names. Whatever else is no 202 ends
the client: what became of those orders is unknown.
"""

import json
import resource
import socket
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

READ_BYTES = 1_048_576
ANSWER_SECONDS = 60.0
REFUSALS_MAX = 1_000


def framed(path: Path) -> Iterator[bytes]:
    """The pieces of a file of requests or answers."""
    with path.open("rb") as file:
        while line := file.readline():
            yield file.read(int(line))


def put(file: BinaryIO, piece: bytes) -> None:
    """Adds a piece to such a file."""
    file.write(b"%d\n" % len(piece))
    file.write(piece)


class KeepAlive:
    """One connection that is kept."""

    def __init__(self, host: str, port: int) -> None:
        self._socket = socket.create_connection((host, port), timeout=ANSWER_SECONDS)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._buffer = bytearray(READ_BYTES)

    def call(self, request: bytes) -> tuple[int, bytes, memoryview]:
        """Status, head in lower case, and body, which is valid until the next call."""
        self._socket.sendall(request)
        filled, head_end, length = 0, -1, 0
        while head_end < 0 or filled < head_end + length:
            if filled == len(self._buffer):
                self._buffer += bytes(READ_BYTES)
            with memoryview(self._buffer) as whole, whole[filled:] as space:
                received = self._socket.recv_into(space)
            if not received:
                raise ConnectionError("the API closed the connection")
            filled += received
            if head_end < 0:
                head_end = self._buffer.find(b"\r\n\r\n", 0, filled) + 4
                if head_end < 4:
                    head_end = -1
                    continue
                head = bytes(self._buffer[:head_end]).lower()
                length = int(field(head, b"content-length"))
        with memoryview(self._buffer) as whole:
            return int(head[9:12]), head, whole[head_end:filled]

    def close(self) -> None:
        """Ends it."""
        self._socket.close()


def field(head: bytes, name: bytes) -> bytes:
    """A header's value; b"0" without it."""
    _, found, rest = head.partition(b"\r\n" + name + b":")
    return rest.partition(b"\r\n")[0].strip() if found else b"0"


def run(connection: KeepAlive, requests: list[bytes], answers: BinaryIO) -> int:
    """Sends them all; how often it was told to wait."""
    refusals = 0
    for request in requests:
        while True:
            status, head, body = connection.call(request)
            with body:
                if status == 202:
                    put(answers, body)  # type: ignore[arg-type] # any bytes
                    break
                told = bytes(body[:500])
            if status not in (429, 503) or b'"code":"overloaded"' not in told.replace(b" ", b""):
                raise SystemExit(f"a batch was answered with {status}: {told!r}")
            refusals += 1
            if refusals > REFUSALS_MAX:
                raise SystemExit(f"refused {refusals} times, last with {told!r}")
            time.sleep(float(field(head, b"retry-after")))
    return refusals


def main(host: str, port: str, requests_path: str, answers_path: str) -> None:
    """The process."""
    requests = list(framed(Path(requests_path)))
    connection = KeepAlive(host, int(port))
    print("ready", flush=True)
    if not sys.stdin.readline():
        return
    cpu, started = time.process_time(), time.monotonic()
    with Path(answers_path).open("wb") as answers:
        refusals = run(connection, requests, answers)
        ended = time.monotonic()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    told = {
        "started": started,
        "ended": ended,
        "refusals": refusals,
        "cpu_seconds": time.process_time() - cpu,
        "peak_bytes": peak,
    }
    print(json.dumps(told), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
