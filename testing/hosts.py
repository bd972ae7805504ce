"""Several hosts on one machine: network namespaces that a bridge joins, with cables that can be pulled out.

A process on 127.0.0.1 that ends refuses connections at once. A host that is off, or out of reach, answers nothing: only
here can that be tried. The namespaces belong to this process alone and end with it; the network of the machine is
not touched. It needs root on Linux, with iproute2.
"""

import ctypes
import os
import shutil
import subprocess
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import count

from core.errors import StartError

CLONE_NEWNET = 0x40000000
NETWORK = "198.18.0"
"""Addresses for trials between devices (RFC 2544)."""
BRIDGE = "tcgx"
NOBODY = "02:00:00:00:00:01"
"""A hardware address that no host has: what is sent to it vanishes."""
OWN_NAMESPACE = "/proc/thread-self/ns/net"


class Host:
    """This machine, as a host that processes run on."""

    name = "here"
    address = "127.0.0.1"

    @contextmanager
    def inside(self) -> Iterator[None]:
        """What this thread starts or opens inside, it starts or opens on the host."""
        yield


THIS_HOST = Host()


class SeparateHost(Host):
    """A host of its own: a network namespace with one cable, which leads to the bridge."""

    def __init__(self, name: str, number: int, home: int) -> None:
        """`number`: the last part of the address. `home`: the namespace of the bridge."""
        self.name = name
        self.address = f"{NETWORK}.{number}"
        self._port = f"port{number}"
        self._home = home
        _change("unshare", CLONE_NEWNET)
        self._namespace = os.open(OWN_NAMESPACE, os.O_RDONLY | os.O_CLOEXEC)
        _change("setns", home, CLONE_NEWNET)
        own = f"/proc/{os.getpid()}/fd/{self._namespace}"
        _ip("link", "add", self._port, "type", "veth", "peer", "name", "eth0", "netns", own)
        with self.inside():
            _ip("link", "set", "lo", "up")
            _ip("address", "add", f"{self.address}/24", "dev", "eth0")
            _ip("link", "set", "eth0", "up")
        _ip("link", "set", self._port, "up")
        self.plug_in()

    @contextmanager
    def inside(self) -> Iterator[None]:
        """What this thread starts or opens inside, it starts or opens on the host."""
        _change("setns", self._namespace, CLONE_NEWNET)
        try:
            yield
        finally:
            _change("setns", self._home, CLONE_NEWNET)

    def unplug(self) -> None:
        """Pulls the cable out: what is sent to the host, or by it, vanishes."""
        _ip("link", "set", self._port, "nomaster")

    def plug_in(self) -> None:
        """Plugs the cable in."""
        _ip("link", "set", self._port, "master", BRIDGE)

    def lose(self, others: Iterable["SeparateHost"]) -> None:
        """What this host sends to the others vanishes."""
        with self.inside():
            for other in others:
                _ip("neighbour", "replace", other.address, "lladdr", NOBODY, "dev", "eth0", "nud", "permanent")

    def find(self, others: Iterable["SeparateHost"]) -> None:
        """Ends the effect of `lose`."""
        with self.inside():
            for other in others:
                _ip("neighbour", "delete", other.address, "dev", "eth0")

    def close(self) -> None:
        """Ends it, once no process runs in it."""
        os.close(self._namespace)


class Network:
    """Hosts on one bridge. The process itself is on a host of the same network, the first."""

    def __init__(self) -> None:
        self._home = os.open(OWN_NAMESPACE, os.O_RDONLY | os.O_CLOEXEC)
        self._numbers = count(11)
        self.hosts: dict[str, SeparateHost] = {}
        _ip("link", "set", "lo", "up")
        _ip("link", "add", BRIDGE, "type", "bridge")
        _ip("address", "add", f"{NETWORK}.1/24", "dev", BRIDGE)
        _ip("link", "set", BRIDGE, "up")

    def add(self, name: str) -> SeparateHost:
        """A new host."""
        self.hosts[name] = SeparateHost(name, next(self._numbers), self._home)
        return self.hosts[name]

    def close(self) -> None:
        """Ends all hosts."""
        for host in self.hosts.values():
            host.close()
        os.close(self._home)


@contextmanager
def network() -> Iterator[Network]:
    """A network, gone at the end. From here on this process is in a namespace of its own, too.

    The process must have one thread alone.

    Raises:
        StartError: this machine can't have one.
    """
    reason = why_not()
    if reason:
        raise StartError(f"there can be no hosts here: {reason}")
    _change("unshare", CLONE_NEWNET)
    made = Network()
    try:
        yield made
    finally:
        made.close()


@contextmanager
def cut_apart(some: Iterable[SeparateHost], others: Iterable[SeparateHost]) -> Iterator[None]:
    """Inside, nothing gets from some hosts to the others or back. Those on each side reach one another."""
    sides = [*some], [*others]
    for side, other in (sides, sides[::-1]):
        for host in side:
            host.lose(other)
    try:
        yield
    finally:
        for side, other in (sides, sides[::-1]):
            for host in side:
                host.find(other)


def why_not() -> str:
    """Why there can be no hosts on this machine; empty if there can."""
    if sys.platform != "linux" or os.geteuid() != 0:
        return "it needs root on Linux"
    if not shutil.which("ip"):
        return "there is no `ip` (Debian: iproute2)"
    if subprocess.run(["unshare", "--net", "true"], capture_output=True, check=False).returncode:
        return "this machine or container may make no network namespaces"
    return ""


def _ip(*words: str) -> None:
    done = subprocess.run(["ip", *words], capture_output=True, text=True, check=False)
    if done.returncode:
        raise StartError(f"ip {' '.join(words)}: {done.stderr.strip()}")


def _change(call: str, *arguments: int) -> None:
    library = ctypes.CDLL(None, use_errno=True)
    if getattr(library, call)(*arguments):
        number = ctypes.get_errno()
        raise StartError(f"{call}: {os.strerror(number)}")
