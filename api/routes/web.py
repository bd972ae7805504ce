"""`/`: the trading page, and its files."""

import hashlib
from importlib.resources import files
from typing import Any

from litestar import Request, Response, get
from litestar.exceptions import NotFoundException
from litestar.params import FromPath

TYPES = {"html": "text/html", "css": "text/css", "js": "text/javascript", "svg": "image/svg+xml"}
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'"
)
HEADERS = {"content-security-policy": POLICY, "referrer-policy": "no-referrer", "cache-control": "no-cache"}
NOT_MODIFIED = 304

AnyRequest = Request[Any, Any, Any]


def _read() -> dict[str, tuple[bytes, str, str]]:
    """The files by name: content, type and ETag."""
    found = {}
    for path in (files("web") / "page").iterdir():
        content, kind = path.read_bytes(), TYPES[path.name.rpartition(".")[2]]
        found[path.name] = content, f"{kind}; charset=utf-8", f'"{hashlib.sha256(content).hexdigest()[:20]}"'
    return found


FILES = _read()


def _answer(request: AnyRequest, name: str) -> Response[bytes]:
    if name not in FILES:
        raise NotFoundException
    content, kind, tag = FILES[name]
    headers = HEADERS | {"etag": tag}
    if request.headers.get("if-none-match") == tag:
        return Response(b"", status_code=NOT_MODIFIED, headers=headers)
    return Response(content, media_type=kind, headers=headers)


@get("/", include_in_schema=False, sync_to_thread=False)
def page(request: AnyRequest) -> Response[bytes]:
    """The page."""
    return _answer(request, "index.html")


@get("/web/{name:str}", include_in_schema=False, sync_to_thread=False)
def file(request: AnyRequest, name: FromPath[str]) -> Response[bytes]:
    """A file of the page."""
    return _answer(request, name)


ROUTES = [page, file]
