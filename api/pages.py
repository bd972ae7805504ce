"""The files of a page of this exchange: types, validators, and a policy that admits this origin alone."""

import hashlib
from importlib.resources import files
from typing import Any

from litestar import Request, Response
from litestar.exceptions import NotFoundException

TYPES = {"html": "text/html", "css": "text/css", "js": "text/javascript", "svg": "image/svg+xml"}
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'"
)
HEADERS = {"content-security-policy": POLICY, "referrer-policy": "no-referrer", "cache-control": "no-cache"}
NOT_MODIFIED = 304


class PageFiles:
    """The files of one folder of a package, read once. Only their names are ever answered."""

    def __init__(self, package: str, folder: str) -> None:
        self.contents: dict[str, bytes] = {
            path.name: path.read_bytes() for path in (files(package) / folder).iterdir() if path.is_file()
        }
        self._tags = {name: f'"{hashlib.sha256(content).hexdigest()[:20]}"' for name, content in self.contents.items()}

    def answer(self, request: Request[Any, Any, Any], name: str) -> Response[bytes]:
        """The file of this name, or 304 if the caller knows it already.

        Raises:
            NotFoundException: the page has no such file.
        """
        if name not in self.contents:
            raise NotFoundException
        headers = HEADERS | {"etag": self._tags[name]}
        if request.headers.get("if-none-match") == self._tags[name]:
            return Response(b"", status_code=NOT_MODIFIED, headers=headers)
        kind = TYPES[name.rpartition(".")[2]]
        return Response(self.contents[name], media_type=f"{kind}; charset=utf-8", headers=headers)
