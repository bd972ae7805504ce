"""`/docs`: the site that `docs_site/build.py` has put into api/site, from this exchange alone.

The build leaves a manifest with type and validator of each file, so only a name of the manifest is ever opened.
"""

import asyncio
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import msgspec
from litestar import Request, Response, get
from litestar.exceptions import NotFoundException
from litestar.params import FromPath
from litestar.response import Redirect

from api.gate import header

SITE = Path(__file__).parents[1] / "site"
FIRST = "/docs/index.html"
POLICY = (
    "default-src 'none'; script-src 'self'{scripts}; style-src 'self' 'unsafe-inline'; img-src 'self' data:; "
    "font-src 'self'; connect-src 'self'; worker-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'"
)
"""The generator puts small scripts into each page, which are named by their hash, and styles, as of columns."""

FOREVER, CHECKED = "public, max-age=31536000, immutable", "no-cache"
HASHED = "assets/"
"""Files below this folder have a hash in their name."""

NOT_BUILT = b"""<!doctype html><html lang="en"><title>tcgx: the docs are not built</title>
<h1>The docs are not built</h1>
<p>This tcgx was installed without its docs. In a checkout <code>make docs</code> builds them; the wheel and the
container image have them. Then start the API again.</p>
<p>The reference is here all the same: <a href="/schema/swagger">all calls</a> and
<a href="/schema/asyncapi">all messages of streams</a>.</p></html>
"""


class Manifest(msgspec.Struct, frozen=True):
    """The files of a site with media type and hash, and the hashes of scripts within pages."""

    files: Mapping[str, tuple[str, str]]
    scripts: list[str]


class Site:
    """A folder with a built site, or with none. The manifest is read once, at the first request."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    @cached_property
    def manifest(self) -> Manifest | None:
        """The manifest, or None if the site is not built."""
        try:
            return msgspec.json.decode((self._folder / "manifest.json").read_bytes(), type=Manifest)
        except FileNotFoundError:
            return None

    async def answer(self, name: str, known: bytes | None) -> Response[bytes]:
        """The file of this name, or 304 if the caller knows it already.

        Raises:
            NotFoundException: the site has no such file.
        """
        manifest = self.manifest
        if manifest is None:
            return Response(NOT_BUILT, status_code=404, media_type="text/html")
        if name not in manifest.files:
            raise NotFoundException
        media_type, digest = manifest.files[name]
        headers = self._headers(manifest, name, digest)
        if known is not None and digest.encode() in known:
            return Response(b"", status_code=304, headers=headers, media_type=media_type)
        content = await asyncio.to_thread((self._folder / name).read_bytes)
        return Response(content, headers=headers, media_type=media_type)

    @staticmethod
    def _headers(manifest: Manifest, name: str, digest: str) -> dict[str, str]:
        headers = {"etag": f'"{digest}"', "cache-control": FOREVER if name.startswith(HASHED) else CHECKED}
        if name.endswith(".html"):
            scripts = "".join(f" 'sha256-{each}'" for each in manifest.scripts)
            headers["content-security-policy"] = POLICY.format(scripts=scripts)
            headers["referrer-policy"] = "no-referrer"
        return headers


def routes(folder: Path = SITE) -> list[Any]:
    """The routes of a site in this folder."""
    site = Site(folder)

    @get("/docs", include_in_schema=False)
    async def first_page() -> Response[bytes] | Redirect:
        """Leads to the first page, so that relative links hold."""
        if site.manifest is None:
            return await site.answer("", None)
        return Redirect(FIRST)

    @get("/docs/{name:path}", include_in_schema=False)
    async def file_of_docs(request: Request[Any, Any, Any], name: FromPath[Path]) -> Response[bytes]:
        """A page, a picture, or another file of the site."""
        known = header(request.scope["headers"], b"if-none-match")
        return await site.answer(str(name).lstrip("/"), known)

    return [first_page, file_of_docs]
