"""Connections to a stream that never read."""

import selectors
import socket
import time
from typing import Self

RECEIVE_BYTES = 4_096


class SilentSockets:
    """Subscribers of a book and trades, with small buffers, that take nothing."""

    def __init__(self, host: str, port: int, card: str, count: int) -> None:
        self._sockets = [self._opened(host, port, card) for _ in range(count)]

    @staticmethod
    def _opened(host: str, port: int, card: str) -> socket.socket:
        connection = socket.socket()
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BYTES)
        connection.connect((host, port))
        target = f"/stream?channels=book:{card},trades:{card}&interval=0"
        connection.sendall(f"GET {target} HTTP/1.1\r\nhost: x\r\n\r\n".encode())
        return connection

    def closed_as_too_slow(self, *, seconds: float) -> int:
        """Reads at last, for so long at most. How many connections the server had ended as too slow."""
        texts = dict.fromkeys(self._sockets, b"")
        deadline, found = time.monotonic() + seconds, 0
        with selectors.DefaultSelector() as selector:
            for connection in self._sockets:
                connection.setblocking(False)
                selector.register(connection, selectors.EVENT_READ)
            while selector.get_map() and (left := deadline - time.monotonic()) > 0:
                for key, _ in selector.select(left):
                    connection = next(each for each in self._sockets if each is key.fileobj)
                    try:
                        part = connection.recv(65_536)
                    except ConnectionError:
                        part = b""
                    texts[connection] = (texts[connection] + part)[-RECEIVE_BYTES:]
                    if not part:
                        selector.unregister(connection)
                        found += b'"code":"too_slow"' in texts[connection]
        return found

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for connection in self._sockets:
            connection.close()
