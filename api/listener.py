"""The listening socket of an API process."""

import os
import socket

from core.errors import StartError
from core.service import BACKLOG

HAND_OVER_SECONDS = 10
"""How long idle connections may stay open after a successor has taken over, at least.

Most clients use an idle connection again, or drop it, within this time. A connection that a server closes at the
moment of its next request loses that request.
"""

FIRST_DESCRIPTOR = 3
"""The first socket that systemd passes on (sd_listen_fds(3))."""


def inherited(listen_fd: int) -> socket.socket | None:
    """The listening socket that this process inherits: `listen_fd`, or the one of a systemd socket unit; None without.

    Such a socket outlives the process. Connections in its queue wait for the next process.

    Raises:
        StartError: the descriptor is no listening socket, or systemd passes on several.
    """
    number = listen_fd or _of_systemd()
    if not number:
        return None
    try:
        listener = socket.socket(fileno=number)
        is_listening = listener.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
    except OSError as error:
        raise StartError(f"the inherited descriptor {number} is no socket: {error.strerror}") from error
    if not is_listening or listener.type != socket.SOCK_STREAM:
        listener.close()
        raise StartError(f"the inherited socket {number} does not listen for TCP connections")
    listener.setblocking(False)
    return listener


def _of_systemd() -> int:
    if os.environ.get("LISTEN_PID") != str(os.getpid()):
        return 0
    count = os.environ.get("LISTEN_FDS", "")
    if count != "1":
        raise StartError(f"LISTEN_FDS={count}: an API process takes one listening socket")
    return FIRST_DESCRIPTOR


UNSENT_BYTES = 131_072
"""What the kernel takes of a connection beyond what the client has received. Without this bound, streams would notice
only megabytes later that a client reads nothing."""

UNACKNOWLEDGED_MS = 30_000
"""A connection whose client has vanished ends after this time."""


def listen(host: str, port: int, *, shared: bool) -> socket.socket:
    """Opens a listening socket. `shared` lets other sockets listen on the same port.

    Raises:
        StartError: the address cannot be bound, mostly because the port is taken.
    """
    listener = bind(host, port, shared=shared)
    listener.listen(BACKLOG)
    return listener


def bind(host: str, port: int, *, shared: bool) -> socket.socket:
    """Opens a socket that does not listen yet, so connections are refused. `shared` as for `listen`.

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
    listener.setblocking(False)
    return listener


def _bound_connections(listener: socket.socket) -> None:
    """Sets bounds that every accepted connection inherits, where the system has them (Linux)."""
    for name, value in (("TCP_NOTSENT_LOWAT", UNSENT_BYTES), ("TCP_USER_TIMEOUT", UNACKNOWLEDGED_MS)):
        option = getattr(socket, name, None)
        if option is not None:
            listener.setsockopt(socket.IPPROTO_TCP, option, value)
