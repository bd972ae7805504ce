"""Lists that come in pages: the next page is asked for when it is needed."""

from collections.abc import Callable
from typing import Any, Generic, TypeVar

import msgspec

from tcgx_client.effects import Call
from tcgx_client.session import Session

T = TypeVar("T")


class PageSource(Generic[T]):
    """The pages of one list, newest first. `name_of` gives what `before` names of the last item of a page."""

    def __init__(
        self,
        session: Session,
        path: str,
        query: dict[str, object],
        *,
        items: str,
        kind: type[T],
        name_of: Callable[[T], str],
        is_public: bool = False,
    ) -> None:
        self._session = session
        self._path = path
        self._query = query
        self._items = items
        self._kind = kind
        self._name_of = name_of
        self._is_public = is_public
        self._is_last = False

    def next_page(self) -> Call[list[T]]:
        """The next page that has items; empty once there is none."""
        while not self._is_last:
            answer = yield from self._session.send("GET", self._path, query=self._query, is_public=self._is_public)
            view: dict[str, Any] = msgspec.json.decode(answer.response.body)
            found = msgspec.convert(view[self._items], list[self._kind])  # type: ignore[name-defined]
            self._turn(view, found)
            if found:
                return found
        return []

    def _turn(self, view: dict[str, Any], found: list[T]) -> None:
        """Sets `before` of the next page: the `next` of this one, or the last item where a list has no `next`."""
        following = view["next"] if "next" in view else self._name_of(found[-1]) if found else None
        self._is_last = following is None
        self._query = {**self._query, "before": following}
