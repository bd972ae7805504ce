"""Insides of dependencies that tcgx relies on: each is named here, and the version is bounded to the minor that has it.

A new minor version fails these tests first, or passes them and may be admitted in pyproject.toml.
"""

import asyncio
import inspect
import tomllib
from importlib.metadata import version
from pathlib import Path

import httptools
import pytest
import uvicorn
from litestar import Litestar, get
from litestar.params import FromQuery
from litestar.routes import HTTPRoute
from packaging.requirements import Requirement
from redis.asyncio import Redis
from redis.asyncio.connection import AbstractConnection, ConnectionPool
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle
from uvicorn.server import ServerState

PYPROJECT = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())
BOUNDED = {
    "uvicorn": "api/http_protocol.py",
    "httptools": "api/http_protocol.py",
    "redis": "engine/connection.py",
    "litestar": "api/parameters.py and api/app.py",
}


@pytest.mark.parametrize("name", BOUNDED)
def test_what_is_relied_on_is_bounded_to_the_installed_minor_version(name: str) -> None:
    requirements = {each.name: each for each in map(Requirement, PYPROJECT["project"]["dependencies"])}
    major, minor = map(int, version(name).split(".")[:2])

    assert requirements[name].specifier.contains(version(name))
    assert not requirements[name].specifier.contains(f"{major}.{minor + 1}"), f"{BOUNDED[name]} relies on its insides"


def test_uvicorns_protocol_has_what_ours_uses() -> None:
    async def attributes() -> tuple[set[str], set[str]]:
        app = Litestar([], openapi_config=None)
        config = uvicorn.Config(app, http=HttpToolsProtocol, ws="none", lifespan="off", log_config=None)
        protocol = HttpToolsProtocol(config=config, server_state=ServerState(), app_state={})
        protocol.on_message_begin()
        return set(vars(protocol)), set(dir(protocol))

    fields, names = asyncio.run(attributes())

    assert fields >= {
        *("loop", "parser", "tasks", "server_state", "transport", "flow"),
        *("pipeline", "cycle", "url", "headers", "scope", "expect_100_continue"),
    }
    assert names >= {
        *("connection_made", "connection_lost", "data_received", "eof_received"),
        *("on_message_begin", "on_url", "on_header", "on_headers_complete", "on_body", "on_message_complete"),
        *("on_response_complete", "_start_asgi_task"),
    }
    assert {"pause_reading", "resume_reading", "drain"} <= set(dir(FlowControl))
    assert {"total_requests", "connections", "tasks"} <= set(vars(ServerState()))
    cycle = set(inspect.getsource(RequestResponseCycle).split("self."))
    for name in ("response_complete", "response_started", "disconnected", "keep_alive", "message_event", "body"):
        assert any(text.startswith(name) for text in cycle), name


def test_httptools_has_the_parser_that_ours_uses() -> None:
    parser = httptools.HttpRequestParser(object())

    for name in (
        "feed_data",
        "get_method",
        "get_http_version",
        "should_upgrade",
        "should_keep_alive",
        "set_dangerous_leniencies",
    ):
        assert callable(getattr(parser, name)), name


def test_redis_py_has_the_connection_that_ours_uses() -> None:
    assert isinstance(Redis().connection_pool, ConnectionPool)
    parameters = {
        "send_packed_command": {"command", "check_health"},
        "read_response": {"timeout"},
        "disconnect": {"nowait"},
    }
    for name, wanted in parameters.items():
        assert wanted <= set(inspect.signature(getattr(AbstractConnection, name)).parameters), name
    for name in ("get_connection", "release"):
        assert inspect.iscoroutinefunction(getattr(ConnectionPool, name)), name


def test_litestar_has_the_routes_that_ours_reads() -> None:
    @get("/here", operation_id="here")
    async def here(known: FromQuery[int] = 1) -> int:
        return known

    made = Litestar([here], openapi_config=None)
    (route,) = [route for route in made.routes if isinstance(route, HTTPRoute) and route.path == "/here"]
    ((handler, model),) = [pair for method, pair in route.route_handler_map.items() if method == "GET"]

    assert [field.field_alias for field in model.expected_query_params] == ["known"]
    assert len(model.sequence_query_parameter_names) == 0
    assert "known" in handler.parsed_fn_signature.parameters
    assert callable(made.asgi_router.handle_routing)
