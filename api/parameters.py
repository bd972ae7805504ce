"""Query parameters: a route has those of its handler's signature, and refuses every other one."""

from litestar.connection import ASGIConnection
from litestar.enums import ScopeType
from litestar.handlers.base import BaseRouteHandler
from litestar.routes import HTTPRoute

from core.errors import VALUE_CHARACTERS_MAX, InvalidRequest, Violation

ERRORS_MAX = 20


class KnownParameters:
    """A guard of Litestar for all routes: refuses unknown and repeated query parameters."""

    def __init__(self) -> None:
        self._names: dict[BaseRouteHandler, frozenset[str]] = {}
        self._lists: dict[BaseRouteHandler, frozenset[str]] = {}

    def __call__(self, connection: ASGIConnection, _: BaseRouteHandler) -> None:  # type: ignore[type-arg]
        """Checks the query of a request.

        Raises:
            InvalidRequest: a parameter is unknown, or is given more than once and is no list.
        """
        if not connection.scope["query_string"] or connection.scope["type"] != ScopeType.HTTP:
            return
        known, lists = self._known(connection)
        errors: list[Violation] = []
        seen: set[str] = set()
        for name, _ in connection.query_params.multi_items():
            shown = name[:VALUE_CHARACTERS_MAX].encode(errors="backslashreplace").decode()
            if name not in known:
                errors.append(Violation(shown, "unknown_parameter", _rule(known)))
            elif name in seen and name not in lists:
                errors.append(Violation(shown, "duplicate_parameter", "must be given once"))
            seen.add(name)
            if len(errors) == ERRORS_MAX:
                break
        if errors:
            raise InvalidRequest(errors)

    def _known(self, connection: ASGIConnection) -> tuple[frozenset[str], frozenset[str]]:  # type: ignore[type-arg]
        """Returns the names of the handler's query parameters, and the names of those that are lists."""
        if not self._names:
            for route in connection.app.routes:
                if isinstance(route, HTTPRoute):
                    for handler, model in route.route_handler_map.values():
                        self._names[handler] = frozenset(each.field_alias for each in model.expected_query_params)
                        self._lists[handler] = frozenset(model.sequence_query_parameter_names)
        handler = connection.route_handler  # the argument of a guard is a copy of it
        return self._names[handler], self._lists[handler]


def _rule(known: frozenset[str]) -> str:
    names = ", ".join(sorted(known))
    return f"is not a parameter of this request; it takes {names or 'none'}"
