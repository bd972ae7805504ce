"""The listening socket of an API process."""

import socket

from core.errors import StartError

BACKLOG = 2_048
"""Connections in the queue of the kernel, at most."""

UNSENT_BYTES = 131_072
"""What the kernel takes of a connection beyond what the client has received. Without this bound, streams would notice
only megabytes later that a client reads nothing."""

UNACKNOWLEDGED_MS = 30_000
"""A connection whose client has vanished ends after this time."""


def listen(host: str, port: int, *, shared: bool) -> socket.socket:
    """Opens a listening socket. `shared` lets other processes listen on the same port.

    Raises:
        StartError: the address cannot be bound, mostly because the port is taken.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if shared:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    try:
        listener.bind((host, port))
    except OSError as error:
        listener.close()
        raise StartError(
            f"cannot listen on {host}:{port} ({error.strerror}): choose another port with --port or TCGX_PORT"
        ) from error
    _bound_connections(listener)
    listener.listen(BACKLOG)
    listener.setblocking(False)
    return listener


def _bound_connections(listener: socket.socket) -> None:
    """Sets bounds that every accepted connection inherits, where the system has them (Linux)."""
    for name, value in (("TCP_NOTSENT_LOWAT", UNSENT_BYTES), ("TCP_USER_TIMEOUT", UNACKNOWLEDGED_MS)):
        option = getattr(socket, name, None)
        if option is not None:
            listener.setsockopt(socket.IPPROTO_TCP, option, value)
