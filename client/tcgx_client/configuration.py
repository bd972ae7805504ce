"""What a client is made with: its arguments, else the environment."""

import os
import ssl
from importlib import import_module
from types import ModuleType
from typing import Any, Literal

import httpx2

from tcgx_client.session import Options, Session

Named = Literal["http", "grpc"]
GRPC_PORT = 50_051
"""Where `tcgx grpc` listens by default."""

DEFAULT_URL = "http://127.0.0.1:8000"


def options_of(
    base_url: str | None,
    *,
    trader_id: int | None,
    api_key: str | None,
    token: str | None,
    timeout: float,
    max_retries: int,
    deadline: float | None,
) -> Options:
    """The options of a client. `TCGX_URL`, `TCGX_TRADER_ID`, `TCGX_API_KEY` and `TCGX_TOKEN` stand in for arguments.

    An identity that is given leaves that of the environment out.
    """
    if trader_id is None and api_key is None and token is None:
        number = os.environ.get("TCGX_TRADER_ID", "")
        trader_id = int(number) if number.isascii() and number.isdigit() else None
        api_key = os.environ.get("TCGX_API_KEY") or None
        token = os.environ.get("TCGX_TOKEN") or None
    return Options(
        base_url=base_url or os.environ.get("TCGX_URL") or DEFAULT_URL,
        trader_id=trader_id,
        api_key=api_key,
        token=token,
        timeout=timeout,
        max_retries=max_retries,
        deadline=deadline,
    )


def sync_transport(
    chosen: httpx2.BaseTransport | Named, target: str | None, session: Session, verify: ssl.SSLContext | bool
) -> httpx2.BaseTransport | None:
    """What carries requests; None is the usual one."""
    if isinstance(chosen, str):
        return None if _is_http(chosen) else _grpc().GrpcTransport(**_grpc_options(target, session, verify))
    return chosen


def async_transport(
    chosen: httpx2.AsyncBaseTransport | Named, target: str | None, session: Session, verify: ssl.SSLContext | bool
) -> httpx2.AsyncBaseTransport | None:
    """The same for asyncio."""
    if isinstance(chosen, str):
        return None if _is_http(chosen) else _grpc().AsyncGrpcTransport(**_grpc_options(target, session, verify))
    return chosen


def _is_http(chosen: str) -> bool:
    if chosen not in ("http", "grpc"):
        raise ValueError(f"transport must be 'http' or 'grpc', or an object that carries requests, got {chosen!r}")
    return chosen == "http"


def _grpc() -> ModuleType:
    try:
        return import_module("tcgx_client.grpc_transport")
    except ImportError as error:
        raise ImportError("transport='grpc' needs more packages: pip install 'tcgx-client[grpc]'") from error


def _grpc_options(target: str | None, session: Session, verify: ssl.SSLContext | bool) -> dict[str, Any]:
    host = f"[{session.host}]" if ":" in session.host else session.host
    return {
        "target": target or os.environ.get("TCGX_GRPC_TARGET") or f"{host}:{GRPC_PORT}",
        "prefix": session.prefix,
        "is_tls": session.is_tls,
        "verify": verify,
    }
