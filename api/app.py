"""The Litestar application. `create_app` wires all parts of the API."""

import re
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from functools import partial
from importlib.resources import files
from importlib.resources.abc import Traversable
from time import perf_counter
from typing import Any, cast

import msgspec
from litestar import Litestar, Request, Response, Router, get
from litestar.config.app import AppConfig
from litestar.datastructures import State
from litestar.enums import ScopeType
from litestar.exceptions import (
    ClientException,
    HTTPException,
    InternalServerException,
    MethodNotAllowedException,
    NotFoundException,
    ValidationException,
)
from litestar.openapi.plugins import JsonRenderPlugin
from litestar.response import Redirect
from litestar.static_files import create_static_files_router
from litestar.types import HTTPScope, Message, Receive, Scope, Send
from litestar.types.asgi_types import LifeSpanReceive, LifeSpanScope, LifeSpanSend
from litestar.utils import normalize_path

from api import cors, metrics
from api.common_headers import common_headers, request_id
from api.context import Context
from api.decoding import OrderDecoder
from api.fast_path import FastPath
from api.gate import Gate, Limit, Observer, failsafe, header
from api.observed import observed
from api.openapi import asyncapi, document
from api.parameters import KnownParameters
from api.problems import MEDIA_TYPE, Problem, problem_headers, problem_of, unexpected_problem
from api.routes import (
    admin,
    auth,
    cancel_after,
    cards,
    docs,
    fills,
    health,
    history,
    market,
    operate,
    orders,
    streams,
    web,
)
from core.errors import VALUE_CHARACTERS_MAX, InvalidRequest, StartError, TcgxError, Violation
from core.settings import JWT_SECRET_BYTES_MIN, Settings
from exchange import wiring
from observe import journal as journals
from observe.journal import BODY_BYTES_MAX, Answered
from streams.hub import Hub

SCHEMA = "/schema"
HTML = b"text/html; charset=utf-8"
ASSETS = f"{SCHEMA}/assets"

# Litestar tells these two cases only by the text of a general exception.
MISSING_PARAMETER = re.compile(r"Missing required query parameter '(\w+)'")
DISCONNECTED = "client disconnected prematurely"

SWAGGER, DOCUMENT = f"{SCHEMA}/swagger", f"{SCHEMA}/openapi.json"
HINTS = {
    "/metrics": "; there are /health, /health/live and /health/ready; metrics have their own port, TCGX_METRICS_PORT",
}
"""Hints for paths at which people look for a page that is elsewhere."""


class Api(Litestar):
    """Litestar with an id for each request, HEAD for each GET, and an observer of the answers."""

    async def __call__(
        self,
        scope: Scope | LifeSpanScope,
        receive: Receive | LifeSpanReceive,
        send: Send | LifeSpanSend,
    ) -> None:
        """Answers a request. HEAD is handled as GET: uvicorn drops the body, since its own scope still says HEAD."""
        if scope["type"] == ScopeType.HTTP:
            http_scope = cast(HTTPScope, scope)
            http_scope["state"] = {
                **http_scope.get("state", {}),
                "request_id": request_id(header(http_scope["headers"], b"x-request-id")),
            }
            if http_scope["method"] == "HEAD" and "GET" in self.methods(http_scope["path"]):
                http_scope["state"]["is_head"] = True
                scope = cast(HTTPScope, {**http_scope, "method": "GET"})
            if self.state.observer is not None or self.state.journal is not None:
                await self._answer_observed(cast(HTTPScope, scope), cast(Receive, receive), cast(Send, send))
                return
        await super().__call__(scope, receive, send)

    async def _answer_observed(self, scope: HTTPScope, receive: Receive, send: Send) -> None:
        """Answers a request, and reports the answer to observer and journal."""
        started, statuses, body = perf_counter(), [], b""

        async def send_and_note(message: Message) -> None:
            nonlocal body
            if message["type"] == "http.response.start":
                statuses.append(message["status"])
            elif message["type"] == "http.response.body" and not body and len(message["body"]) <= BODY_BYTES_MAX:
                body = message["body"]
            await send(message)

        try:
            await super().__call__(scope, receive, send_and_note)
        finally:
            operation = getattr(scope.get("route_handler"), "operation_id", None) or ""
            for status in statuses:
                if self.state.observer is not None:
                    self.state.observer(operation, status, perf_counter() - started)
                self._note(scope, operation, status, perf_counter() - started, body)

    def _note(self, scope: HTTPScope, operation: str, status: int, seconds: float, body: bytes) -> None:
        """Gives an answer to the journal, if one is kept and the answer is due."""
        journal = self.state.journal
        if journal is None:
            return
        parent = (
            (header(scope["headers"], b"traceparent") or b"").decode("latin-1") if journal.takes_traceparent else ""
        )
        if journal.is_due(operation, status, parent):
            trader_id = scope["state"].get("trader_id", 0)
            journal.record(Answered(operation, status, seconds, _request_id(scope), trader_id, body, parent))

    def methods(self, path: str) -> list[str]:
        """The methods of a path; empty if the path does not exist."""
        try:
            self.asgi_router.handle_routing(path=normalize_path(path), method="none of them")
        except MethodNotAllowedException as error:
            found = set((error.headers or {})["allow"].split(", "))
            return sorted(found | {"HEAD"} if "GET" in found else found)
        except NotFoundException:
            pass
        return []


def create_app(settings: Settings, *, limit: Limit | None = None, observer: Observer | None = None) -> Api:
    """Makes the API for these settings; the app connects to the servers when it starts.

    `app.state.fast_path` has the calls that our HTTP server answers without the app (`api/fast_path.py`). `limit` and
    `observer` hold for both ways (`api/gate.py`).

    Raises:
        StartError: the settings have no key to sign tokens, or too short a one.
    """
    if len(settings.jwt_secret.encode()) < JWT_SECRET_BYTES_MIN:
        raise StartError(f"TCGX_JWT_SECRET must be set, to at least {JWT_SECRET_BYTES_MIN} bytes")

    own = metrics.observe if settings.metrics_port else None
    observer = own if observer is None else failsafe(observer)
    fast_path = FastPath(orders.FAST_PATH, body_bytes_max=settings.body_bytes_max, cors_origins=settings.cors_origins)

    return Api(
        route_handlers=[
            redirect_to_document,
            asyncapi_document,
            asyncapi_page,
            *auth.ROUTES,
            *orders.ROUTES,
            *cancel_after.ROUTES,
            *cards.ROUTES,
            *market.ROUTES,
            *fills.ROUTES,
            *history.ROUTES,
            *health.ROUTES,
            *admin.ROUTES,
            *streams.ROUTES,
            *web.ROUTES,
            *operate.ROUTES,
            *docs.routes(),
            *_graphql_routes(settings),
            _files_of(ASSETS, files("openapi_ui_bundles") / "swagger_ui" / "vendor"),
            _files_of(asyncapi.VIEWER_FILES, files("asyncapi_viewer") / "static"),
        ],
        lifespan=[partial(_services, limit=limit)],
        state=State(
            {"settings": settings, "fast_path": fast_path, "observer": observer, "journal": journals.of(settings)}
        ),
        openapi_config=_openapi(settings),
        cors_config=cors.config(settings.cors_origins),
        exception_handlers={
            TcgxError: _tcgx_error,
            HTTPException: _http_error,
            Exception: _unexpected_error,
        },
        request_max_body_size=settings.body_bytes_max,
        guards=[KnownParameters()],
        before_send=[_add_common_headers],
        on_app_init=[_without_logging],
    )


def _graphql_routes(settings: Settings) -> Sequence[Any]:
    """The routes of GraphQL, whose package is imported where it is on.

    Raises:
        StartError: the package is missing.
    """
    if settings.graphql == "off":
        return []
    try:
        from api.graphql.routes import routes  # noqa: PLC0415 - an extra
    except ImportError as error:
        raise StartError("TCGX_GRAPHQL needs strawberry: pip install 'tcgx[graphql]'") from error
    return routes(settings)


@asynccontextmanager
async def _services(app: Litestar, *, limit: Limit | None) -> AsyncIterator[None]:
    """Connects the app to its servers while it runs."""
    settings: Settings = app.state.settings
    async with wiring.connect(settings) as connected:
        context = Context(
            settings=settings,
            exchange=connected.exchange,
            market=connected.market,
            archive_reader=connected.archive_reader,
            authenticator=connected.authenticator,
            gate=Gate(connected.authenticator, limit=limit, observer=app.state.observer, journal=app.state.journal),
            decoder=OrderDecoder(settings),
            readiness=connected.readiness,
            administration=connected.administration,
            hub=Hub.of(settings, connected),
        )
        app.state.context = context
        app.state.background = connected.background
        app.state.fast_path.open(context)
        app.state.close_streams = context.hub.close
        try:
            async with observed(app, context, connected.archive):
                yield
        finally:
            await context.hub.close()


def _without_logging(config: AppConfig) -> AppConfig:
    """Turns off Litestar's logging: log lines go through structlog alone."""
    config.logging_config = None
    return config


async def _add_common_headers(message: Message, scope: Scope) -> None:
    """Adds the common headers to an answer. `Allow` gets every method of the path; Litestar leaves out HEAD."""
    if message["type"] != "http.response.start" or scope["type"] != ScopeType.HTTP:
        return
    headers = [*message["headers"], *common_headers(_request_id(scope))]
    if message["status"] == 405 or scope["method"] == "OPTIONS":
        headers = [header for header in headers if header[0].lower() != b"allow"]
        headers.append((b"allow", ", ".join(cast(Api, scope["app"]).methods(scope["path"])).encode()))
    if (b"content-type", HTML) in headers and header(headers, b"content-security-policy") is None:
        headers += document.PAGE_HEADERS
    message["headers"] = headers


def _request_id(scope: Scope) -> str:
    return str(scope["state"]["request_id"])


@get(asyncapi.DOCUMENT, include_in_schema=False, media_type="application/yaml", sync_to_thread=False)
def asyncapi_document(request: Request[Any, Any, Any]) -> bytes:
    """The AsyncAPI document of streams."""
    return asyncapi.encoded(request.app.state.settings)


@get("/schema/asyncapi", include_in_schema=False, media_type="text/html", sync_to_thread=False)
def asyncapi_page() -> str:
    """The AsyncAPI document as a page."""
    return asyncapi.PAGE


@get("/openapi.json", include_in_schema=False)
async def redirect_to_document() -> Redirect:
    """Redirects from the path at which programs look for the document."""
    return Redirect(DOCUMENT)


def _files_of(path: str, folder: Traversable) -> Any:
    return create_static_files_router(path=path, directories=[str(folder)], include_in_schema=False)


def _openapi(settings: Settings) -> document.Config:
    return document.Config(
        settings,
        openapi_router=Router(
            SCHEMA, route_handlers=[], include_in_schema=False, after_request=_problem_instead_of_page
        ),
        render_plugins=[
            document.SwaggerPage(
                js_url=f"{ASSETS}/swagger-ui-bundle.js",
                css_url=f"{ASSETS}/swagger-ui.css",
                favicon=f'<link rel="icon" type="image/png" href="{ASSETS}/favicon-32x32.png">',
            ),
            JsonRenderPlugin(),
        ],
    )


def _response(problem: Problem) -> Response[bytes]:
    return Response(
        msgspec.json.encode(problem),
        status_code=problem.status,
        media_type=MEDIA_TYPE,
        headers=problem_headers(problem),
    )


def _not_found(path: str) -> Problem:
    detail = f"there is nothing at {path[:VALUE_CHARACTERS_MAX]}{HINTS.get(path, '')}"
    return Problem(404, "not_found", "Not found", detail)


def _problem_instead_of_page(response: Response[Any]) -> Response[Any]:
    """Replaces the HTML page that Litestar's OpenAPI router sends for an unknown path."""
    return _response(_not_found(f"this path below {SCHEMA}")) if response.status_code == 404 else response


def _tcgx_error(request: Request[Any, Any, Any], error: TcgxError) -> Response[bytes]:
    return _response(problem_of(error, _request_id(request.scope)))


def _http_error(request: Request[Any, Any, Any], error: HTTPException) -> Response[bytes]:
    """Turns an error of Litestar into a problem."""
    if isinstance(error, ValidationException):
        return _response(problem_of(InvalidRequest(_parameter_errors(request, error))))
    if isinstance(error, MethodNotAllowedException):
        detail = f"{request.method} is not a method of {request.url.path}"
        return _response(Problem(405, "method_not_allowed", "Method not allowed", detail))
    if isinstance(error, InternalServerException) and error.detail == DISCONNECTED:
        return _response(Problem(400, "incomplete_body", "Incomplete body", "the client went away within the body"))
    if isinstance(error, ClientException):
        return _response(_client_problem(request, error))
    return _unexpected_error(request, error)


def _client_problem(request: Request[Any, Any, Any], error: ClientException) -> Problem:
    if isinstance(error, NotFoundException):
        return _not_found(request.url.path)
    if error.status_code == 413:
        size = request.route_handler.resolve_request_max_body_size()
        return Problem(413, "body_too_large", "Body too large", f"the body has more than {size} bytes")
    return Problem(error.status_code, "bad_request", "Bad request", error.detail[:200])


def _parameter_errors(request: Request[Any, Any, Any], error: ValidationException) -> list[Violation]:
    """Lists every wrong query parameter with the rule of the handler's signature."""
    parameters = request.route_handler.parsed_fn_signature.parameters
    missing = MISSING_PARAMETER.match(error.detail)
    if missing:
        return [Violation(missing[1], "missing_parameter", "is required")]
    found = error.extra if isinstance(error.extra, list) else []
    names = [str(item.get("key")) for item in found if isinstance(item, dict)]
    errors = [
        Violation(
            name,
            f"invalid_{name}",
            _rule(parameters[name].kwarg_definition),
            request.query_params.get(name, "")[:VALUE_CHARACTERS_MAX],
        )
        for name in names
        if name in parameters
    ]
    return errors or [Violation("parameters", "invalid_parameter", f"are not valid: {error.detail[:200]}")]


def _rule(definition: Any) -> str:
    low, high = getattr(definition, "ge", None), getattr(definition, "le", None)
    return "is not valid" if low is None or high is None else f"must be a whole number from {low} to {high}"


def _unexpected_error(request: Request[Any, Any, Any], error: Exception) -> Response[bytes]:
    name = _request_id(request.scope)
    return _response(unexpected_problem(error, name, method=request.method, path=request.url.path))
