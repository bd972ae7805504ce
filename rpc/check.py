"""`python -m rpc.check`: exits with 0 if the gRPC process of this machine takes calls, for probes of containers.

With TLS the certificate need not name this machine, so then a handshake for HTTP/2 is all that is looked at.
"""

import os
import socket
import ssl
import sys
from typing import Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from core.settings import read

SECONDS = 3.0


def takes_calls(port: int, *, is_tls: bool) -> bool:
    """Whether the server of a port of 127.0.0.1 takes calls."""
    if is_tls:
        return _shakes_hands(port)
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        stub: Any = health_pb2_grpc.HealthStub(channel)
        try:
            answer = stub.Check(health_pb2.HealthCheckRequest(), timeout=SECONDS)
        except grpc.RpcError:
            return False
    return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)


def _shakes_hands(port: int) -> bool:
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_alpn_protocols(["h2"])
    try:
        with socket.create_connection(("127.0.0.1", port), SECONDS) as plain, context.wrap_socket(plain) as secure:
            return secure.selected_alpn_protocol() == "h2"
    except OSError:
        return False


if __name__ == "__main__":
    found = read(os.environ)
    sys.exit(0 if takes_calls(found.grpc_port, is_tls=bool(found.tls_cert)) else 1)
