"""Lists that come in pages: the next page is asked for when it is needed."""

from collections.abc import Callable
from typing import Any, Generic, TypeVar

import msgspec

from tcgx_client.effects import Call
from tcgx_client.session import Session

T = TypeVar("T")


class PageSource(Generic[T]):
    """The pages of one list. `name_of` gives what `before` names of the last item of a page, where there is no `next`.

    `cursor` is the parameter that leads to the next page, and `key` the field of a page that has its value. With
    `is_reversed` pages come from the oldest on, though the items of each are newest first.
    """

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
        cursor: str = "before",
        key: str = "next",
        is_reversed: bool = False,
    ) -> None:
        self._session = session
        self._path = path
        self._query = query
        self._items = items
        self._kind = kind
        self._name_of = name_of
        self._is_public = is_public
        self._cursor = cursor
        self._key = key
        self._is_reversed = is_reversed
        self._is_last = False

    def next_page(self) -> Call[list[T]]:
        """The next page that has items; empty once there is none."""
        while not self._is_last:
            answer = yield from self._session.send("GET", self._path, query=self._query, is_public=self._is_public)
            view: dict[str, Any] = msgspec.json.decode(answer.response.body)
            found = msgspec.convert(view[self._items], list[self._kind])  # type: ignore[name-defined]
            self._turn(view, found)
            if found:
                return found[::-1] if self._is_reversed else found
        return []

    def _turn(self, view: dict[str, Any], found: list[T]) -> None:
        """Sets what leads to the next page: the key of this one, or its last item where a list has no such key.

        A key that stays as it was leads to nothing new.
        """
        following = view[self._key] if self._key in view else self._name_of(found[-1]) if found else None
        self._is_last = following is None or (following == self._query.get(self._cursor) and not found)
        self._query = {**self._query, self._cursor: following}
