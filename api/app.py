"""The application: all wiring of the API is in `create_app`."""

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.resources import files
from typing import Any

import msgspec
from litestar import Litestar, Request, Response, Router
from litestar.config.app import AppConfig
from litestar.datastructures import State
from litestar.exceptions import (
    ClientException,
    HTTPException,
    InternalServerException,
    MethodNotAllowedException,
    NotFoundException,
    ValidationException,
)
from litestar.openapi.plugins import JsonRenderPlugin
from litestar.static_files import create_static_files_router

from api import cards, health, history, openapi, orders
from api.auth import Authenticator
from api.bodies import OrderBodies
from api.context import Context
from api.direct import Direct
from api.exchange import Exchange
from api.problems import (
    MEDIA_TYPE,
    VALUE_CHARACTERS_MAX,
    FieldError,
    Problem,
    headers_of,
    invalid,
    of_error,
    of_unexpected,
)
from archiver import store
from archiver.store import Archive
from engine import connection, library
from engine.books import Books
from engine.errors import StartError, TcgxError
from engine.life import ended
from engine.log import OrderLog
from engine.matched import MatchedWatch
from engine.settings import JWT_SECRET_BYTES_MIN, Settings

SCHEMA = "/schema"
ASSETS = f"{SCHEMA}/assets"

# How Litestar words what it has no exception of its own for.
MISSING_PARAMETER = re.compile(r"Missing required query parameter '(\w+)'")
DISCONNECTED = "client disconnected prematurely"


def create_app(settings: Settings) -> Litestar:
    """The API for these settings; it connects when it starts. `app.state.direct` is what our own server answers without
    it (`api/direct.py`).

    Raises:
        StartError: no key to sign tokens with.
    """
    if len(settings.jwt_secret.encode()) < JWT_SECRET_BYTES_MIN:
        raise StartError(f"TCGX_JWT_SECRET must be set, to at least {JWT_SECRET_BYTES_MIN} bytes")

    direct = Direct(orders.DIRECT, body_bytes_max=settings.body_bytes_max)

    @asynccontextmanager
    async def services(app: Litestar) -> AsyncIterator[None]:
        async with (
            connection.connect(settings.redis_url) as redis,
            connection.connect(settings.redis_url) as writing,
            store.pool(settings.database_url) as pool,
        ):
            await library.load(redis)
            order_log = OrderLog(
                writing,
                backlog_max=settings.backlog_max,
                pending_max=settings.append_pending_max,
                self_trade=settings.self_trade,
            )
            watch = MatchedWatch(redis, settings.cards)
            archive = Archive(pool)
            context = Context(
                settings=settings,
                exchange=Exchange(settings.cards, order_log, Books(redis), watch, archive),
                authenticator=Authenticator(settings, archive),
                bodies=OrderBodies(settings),
            )
            app.state.context = context
            direct.open(context)
            stopping = asyncio.Event()
            listening = asyncio.create_task(watch.run(stopping), name="matched watch")
            try:
                yield
            finally:
                await order_log.close()
                stopping.set()
                await ended(listening)

    return Litestar(
        route_handlers=[
            *orders.ROUTES,
            *cards.ROUTES,
            *history.ROUTES,
            *health.ROUTES,
            _swagger_files(),
        ],
        lifespan=[services],
        state=State({"settings": settings, "direct": direct}),
        openapi_config=_openapi(settings),
        exception_handlers={
            TcgxError: _our_error,
            HTTPException: _http_error,
            Exception: _unexpected_error,
        },
        request_max_body_size=settings.body_bytes_max,
        on_app_init=[_without_logging],
    )


def _without_logging(config: AppConfig) -> AppConfig:
    """Log lines go through structlog alone."""
    config.logging_config = None
    return config


def _swagger_files() -> Any:
    folder = files("openapi_ui_bundles") / "swagger_ui" / "vendor"
    return create_static_files_router(path=ASSETS, directories=[str(folder)], include_in_schema=False)


def _openapi(settings: Settings) -> openapi.Config:
    return openapi.Config(
        settings,
        openapi_router=Router(
            SCHEMA, route_handlers=[], include_in_schema=False, after_request=_problem_instead_of_page
        ),
        render_plugins=[
            openapi.SwaggerPage(
                f"{SCHEMA}/openapi.json",
                js_url=f"{ASSETS}/swagger-ui-bundle.js",
                css_url=f"{ASSETS}/swagger-ui.css",
                favicon=f'<link rel="icon" type="image/png" href="{ASSETS}/favicon-32x32.png">',
            ),
            JsonRenderPlugin(),
        ],
    )


def _response(problem: Problem, headers: dict[str, str] | None = None) -> Response[bytes]:
    return Response(
        msgspec.json.encode(problem),
        status_code=problem.status,
        media_type=MEDIA_TYPE,
        headers={**headers_of(problem), **(headers or {})},
    )


def _nothing_at(path: str) -> Problem:
    return Problem(404, "not_found", "Not found", f"there is nothing at {path[:VALUE_CHARACTERS_MAX]}")


def _problem_instead_of_page(response: Response[Any]) -> Response[Any]:
    """Litestar's OpenAPI router answers what it does not have with a page of HTML."""
    return _response(_nothing_at(f"this path below {SCHEMA}")) if response.status_code == 404 else response


def _our_error(_: Request[Any, Any, Any], error: TcgxError) -> Response[bytes]:
    return _response(of_error(error))


def _http_error(request: Request[Any, Any, Any], error: HTTPException) -> Response[bytes]:
    """Litestar's own errors, in our words."""
    if isinstance(error, ValidationException):
        return _response(of_error(invalid(_parameter_errors(request, error))))
    if isinstance(error, MethodNotAllowedException):
        detail = f"{request.method} is not a method of {request.url.path}"
        problem = Problem(405, "method_not_allowed", "Method not allowed", detail)
        return _response(
            problem, {key: value for key, value in (error.headers or {}).items() if key.lower() == "allow"}
        )
    if isinstance(error, InternalServerException) and error.detail == DISCONNECTED:
        return _response(Problem(400, "incomplete_body", "Incomplete body", "the client went away within the body"))
    if isinstance(error, ClientException):
        return _response(_client_problem(request, error))
    return _unexpected_error(request, error)


def _client_problem(request: Request[Any, Any, Any], error: ClientException) -> Problem:
    if isinstance(error, NotFoundException):
        return _nothing_at(request.url.path)
    if error.status_code == 413:
        size = request.app.state.settings.body_bytes_max
        return Problem(413, "body_too_large", "Body too large", f"the body has more than {size} bytes")
    return Problem(error.status_code, "bad_request", "Bad request", error.detail[:200])


def _parameter_errors(request: Request[Any, Any, Any], error: ValidationException) -> list[FieldError]:
    """Every query parameter that is wrong, with the rule from the handler's signature."""
    parameters = request.route_handler.parsed_fn_signature.parameters
    missing = MISSING_PARAMETER.match(error.detail)
    if missing:
        return [FieldError(missing[1], "missing_parameter", "is required")]
    found = error.extra if isinstance(error.extra, list) else []
    names = [str(item.get("key")) for item in found if isinstance(item, dict)]
    errors = [
        FieldError(
            name,
            f"invalid_{name}",
            _rule(parameters[name].kwarg_definition),
            request.query_params.get(name, "")[:VALUE_CHARACTERS_MAX],
        )
        for name in names
        if name in parameters
    ]
    return errors or [FieldError("parameters", "invalid_parameter", f"are not valid: {error.detail[:200]}")]


def _rule(definition: Any) -> str:
    low, high = getattr(definition, "ge", None), getattr(definition, "le", None)
    return "is not valid" if low is None or high is None else f"must be a whole number from {low} to {high}"


def _unexpected_error(request: Request[Any, Any, Any], error: Exception) -> Response[bytes]:
    return _response(of_unexpected(error, method=request.method, path=request.url.path))
