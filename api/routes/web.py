"""`/`: the trading page, and its files."""

from typing import Any

from litestar import Request, Response, get
from litestar.params import FromPath

from api.pages import PageFiles

AnyRequest = Request[Any, Any, Any]

FILES = PageFiles("web", "page")


@get("/", include_in_schema=False, sync_to_thread=False)
def page(request: AnyRequest) -> Response[bytes]:
    """The page."""
    return FILES.answer(request, "index.html")


@get("/web/{name:str}", include_in_schema=False, sync_to_thread=False)
def file(request: AnyRequest, name: FromPath[str]) -> Response[bytes]:
    """A file of the page."""
    return FILES.answer(request, name)


ROUTES = [page, file]
