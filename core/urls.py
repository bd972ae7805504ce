"""Addresses of servers: checks, and masking of passwords.

redis-py and asyncpg accept every option of a URL, but some options break tcgx. `protocol` and `decode_responses` change
the replies, and other options override timeouts or names that tcgx sets. PostgreSQL refuses connections with options
that it does not know. So only the options that are listed here are allowed.
"""

import re
from collections.abc import Set as AbstractSet
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit

from core.errors import SettingError

REDIS, DATABASE = "TCGX_REDIS_URL", "TCGX_DATABASE_URL"

REDIS_OPTIONS = frozenset({"db", "username", "password"})
REDIS_TLS_OPTIONS = frozenset(
    {
        "ssl_ca_certs",
        "ssl_ca_data",
        "ssl_ca_path",
        "ssl_cert_reqs",
        "ssl_certfile",
        "ssl_check_hostname",
        "ssl_ciphers",
        "ssl_keyfile",
        "ssl_min_version",
        "ssl_password",
    }
)
DATABASE_OPTIONS = frozenset(
    {
        "application_name",
        "database",
        "dbname",
        "gsslib",
        "host",
        "krbsrvname",
        "options",
        "passfile",
        "password",
        "port",
        "search_path",
        "service",
        "servicefile",
        "ssl_max_protocol_version",
        "ssl_min_protocol_version",
        "sslcert",
        "sslcrl",
        "sslkey",
        "sslmode",
        "sslnegotiation",
        "sslpassword",
        "sslrootcert",
        "target_session_attrs",
        "user",
    }
)
WRITABLE = ("any", "primary", "read-write")
"""Values of `target_session_attrs` that select a server to which the archiver can write."""

HOST = re.compile(r"(\[[^\]]*\]|[^:\[\]]*)(:\d{0,5})?")
ENCODED = "in a user's name or a password, write / as %2F, ? as %3F, # as %23 and @ as %40"
HIDDEN = "***"


def check_redis(url: str) -> None:
    """Checks the address of one Redis server and its options.

    Raises:
        SettingError: the address is invalid; the message names the wrong part and shows no password.
    """
    parts = _parts(REDIS, url, ("redis", "rediss", "unix"))
    if parts.scheme == "unix":
        if not parts.path:
            raise SettingError(f"{REDIS} names no socket: unix:// is followed by a path")
    else:
        _check_host(REDIS, parts.netloc.rpartition("@")[2])
    options = _options(REDIS, parts, REDIS_OPTIONS | (REDIS_TLS_OPTIONS if parts.scheme == "rediss" else frozenset()))
    number = options.get("db", "0" if parts.scheme == "unix" else unquote(parts.path).strip("/") or "0")
    if not number.isdecimal():
        raise SettingError(f"{REDIS}: the database must be a whole number, got {number!r}; {ENCODED}")


def check_database(url: str) -> None:
    """Checks the address of a PostgreSQL database and its options.

    Raises:
        SettingError: the address is invalid; the message names the wrong part and shows no password.
    """
    parts = _parts(DATABASE, url, ("postgresql", "postgres"))
    for host in parts.netloc.rpartition("@")[2].split(","):
        _check_host(DATABASE, host)
    if "@" in parts.path:
        raise SettingError(f"{DATABASE} has an @ behind its host; {ENCODED}")
    options = _options(DATABASE, parts, DATABASE_OPTIONS)
    wanted = options.get("target_session_attrs", "any")
    if wanted not in WRITABLE:
        raise SettingError(
            f"{DATABASE}: target_session_attrs must be one of {', '.join(WRITABLE)}, got {wanted!r}: "
            "the archive is written"
        )


def mask_passwords(url: str) -> str:
    """The URL with every password hidden, in the login and in the options."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return HIDDEN
    login, at, host = parts.netloc.rpartition("@")
    user, colon, _ = login.partition(":")
    fields = [_masked_field(field) for field in parts.query.split("&")]
    if "@" in parts.path or parts.fragment:  # probably the end of a password that was not percent-encoded
        return f"{parts.scheme}://{HIDDEN}"
    query = f"?{'&'.join(fields)}" if parts.query else ""
    return f"{parts.scheme}://{user}{colon}{HIDDEN if colon else ''}{at}{host}{parts.path}{query}"


def _masked_field(field: str) -> str:
    name, equals, _ = field.partition("=")
    return f"{name}{equals}{HIDDEN}" if "password" in unquote(name).lower() else field


def _parts(variable: str, url: str, schemes: tuple[str, ...]) -> SplitResult:
    """The parts of a URL. Errors never repeat the URL, since it may contain a password."""
    wanted = " or ".join(f"{scheme}://" for scheme in schemes)
    try:
        parts = urlsplit(url)
    except ValueError:
        raise SettingError(f"{variable} is no address of a server: it must be {wanted} and a host; {ENCODED}") from None
    if parts.scheme not in schemes or not url.startswith(f"{parts.scheme}://"):
        raise SettingError(f"{variable} is no address of a server: it must begin with {wanted}")
    if "#" in url:
        raise SettingError(f"{variable} has a #, behind which nothing is read; {ENCODED}")
    return parts


def _check_host(variable: str, host: str) -> None:
    match = HOST.fullmatch(host)
    if match is None or int((match[2] or ":0")[1:] or 0) > 65_535:
        one = "one host, and a port from 1 to 65535" if variable == REDIS else "hosts, each with a port from 1 to 65535"
        raise SettingError(f"{variable} must have {one}, behind the last @; {ENCODED}")


def _options(variable: str, parts: SplitResult, allowed: AbstractSet[str]) -> dict[str, str]:
    try:
        options = dict(parse_qsl(parts.query, keep_blank_values=True, strict_parsing=bool(parts.query)))
    except ValueError:
        raise SettingError(f"{variable} has a ? that is not followed by name=value; {ENCODED}") from None
    for name in options:
        if name not in allowed:
            known = ", ".join(sorted(allowed))
            raise SettingError(f"{variable} has the option {name!r}, which can't be used; those that can: {known}")
    return options
