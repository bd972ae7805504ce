"""CORS: which pages of other origins a browser lets use the API. Off unless `TCGX_CORS_ORIGINS` names some.

Litestar answers preflight requests and adds the headers to its answers. The fast path adds the same headers itself.
Access tokens are sent by scripts and never by a browser on its own, so no cookie is ever allowed.
"""

from collections.abc import Sequence

from litestar.config.cors import CORSConfig

ANY = "*"
METHODS = ("DELETE", "GET", "HEAD", "POST", "PUT")
REQUEST_HEADERS = ("authorization", "content-type", "prefer", "x-request-id")
EXPOSED = ("date", "ratelimit-limit", "ratelimit-remaining", "ratelimit-reset", "retry-after", "x-request-id")
PREFLIGHT_SECONDS = 600


def config(origins: Sequence[str]) -> CORSConfig | None:
    """The configuration of Litestar; None without origins."""
    if not origins:
        return None
    return CORSConfig(
        allow_origins=[*origins],
        allow_methods=[*METHODS],  # type: ignore[list-item]  # HEAD is no method in Litestar's type
        allow_headers=[*REQUEST_HEADERS],
        expose_headers=[*EXPOSED],
        max_age=PREFLIGHT_SECONDS,
    )


def headers(origins: Sequence[str], origin: bytes) -> tuple[tuple[bytes, bytes], ...]:
    """The headers of an answer to a request of an origin, as ASGI has them; none for an origin that is not listed."""
    if ANY in origins:
        allowed: tuple[tuple[bytes, bytes], ...] = ((b"access-control-allow-origin", b"*"),)
    elif origin.decode("latin-1") in origins:
        allowed = ((b"access-control-allow-origin", origin), (b"vary", b"Origin"))
    else:
        return ()
    return (*allowed, (b"access-control-expose-headers", ", ".join(EXPOSED).encode()))
