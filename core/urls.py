"""Addresses of servers: checks, and masking of passwords.

redis-py and asyncpg accept every option of a URL, but some options break tcgx. `protocol` and `decode_responses` change
the replies, and other options override timeouts or names that tcgx sets. PostgreSQL refuses connections with options
that it does not know. So only the options that are listed here are allowed.
"""

import re
from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from typing import NamedTuple
from urllib.parse import SplitResult, parse_qsl, quote, unquote, urlencode, urlsplit

from core.errors import SettingError

REDIS, DATABASE = "TCGX_REDIS_URL", "TCGX_DATABASE_URL"

SENTINEL = "+sentinel"
"""The end of the scheme of an address that names sentinels instead of a server."""

CLUSTER = "+cluster"
"""The end of the scheme of an address that names servers of a Redis Cluster."""

SENTINEL_PORT = 26_379
REDIS_PORT = 6_379
REDIS_OPTIONS = frozenset({"db", "username", "password"})
SENTINEL_OPTIONS = frozenset({"sentinel_username", "sentinel_password"})
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


class SentinelAddress(NamedTuple):
    """The parts of an address that names sentinels.

    `name`: the name of the primary. `sentinels`: a URL for each sentinel. `primary`: the URL of the primary, whose host
    the sentinels name.
    """

    name: str
    sentinels: Sequence[str]
    primary: str


class ClusterAddress(NamedTuple):
    """The parts of an address that names servers of a cluster. `seeds`: host and port of each."""

    scheme: str
    login: str
    seeds: Sequence[tuple[str, int]]
    options: str

    def url_of(self, host: str, port: int) -> str:
        """The URL of one server of the cluster."""
        name = f"[{host}]" if ":" in host else host
        return f"{self.scheme}://{self.login}{name}:{port}/0{self.options}"


def names_cluster(url: str) -> bool:
    """Whether an address names servers of a cluster."""
    return url.partition("://")[0].endswith(CLUSTER)


def may_be_promoted(url: str) -> bool:
    """Whether another server may take the place of a primary of an address."""
    return names_sentinels(url) or names_cluster(url)


def cluster_address(url: str) -> ClusterAddress:
    """The parts of an address that `check_redis` has accepted, and that names servers of a cluster."""
    parts = urlsplit(url)
    login, at, hosts = parts.netloc.rpartition("@")
    matches = [HOST.fullmatch(host) for host in hosts.split(",")]
    seeds = [(match[1].strip("[]"), int((match[2] or ":")[1:] or REDIS_PORT)) for match in matches if match]
    query = f"?{parts.query}" if parts.query else ""
    return ClusterAddress(parts.scheme.removesuffix(CLUSTER), f"{login}{at}", seeds, query)


def names_sentinels(url: str) -> bool:
    """Whether an address names sentinels."""
    return url.partition("://")[0].endswith(SENTINEL)


def sentinel_address(url: str) -> SentinelAddress:
    """The parts of an address that `check_redis` has accepted, and that names sentinels."""
    parts = urlsplit(url)
    scheme = parts.scheme.removesuffix(SENTINEL)
    login, at, hosts = parts.netloc.rpartition("@")
    options = dict(parse_qsl(parts.query, keep_blank_values=True))
    own = [options.pop("sentinel_username", ""), options.pop("sentinel_password", "")]
    sentinel_login = f"{':'.join(quote(part, safe='') for part in own)}@" if any(own) else ""
    tls = urlencode({name: value for name, value in options.items() if name in REDIS_TLS_OPTIONS})
    end = f"/{'?' if tls else ''}{tls}"
    name, _, number = parts.path.strip("/").partition("/")
    return SentinelAddress(
        name=unquote(name),
        sentinels=[f"{scheme}://{sentinel_login}{_with_port(host)}{end}" for host in hosts.split(",")],
        primary=f"{scheme}://{login}{at}primary/{number}{'?' if options else ''}{urlencode(options)}",
    )


def _with_port(host: str) -> str:
    has_port = host.rpartition("]")[2].partition(":")[2]
    return host if has_port else f"{host}:{SENTINEL_PORT}"


def check_redis(url: str) -> None:
    """Checks the address of one Redis server, of the sentinels that know it, or of a cluster, and its options.

    Raises:
        SettingError: the address is invalid; the message names the wrong part and shows no password.
    """
    if names_sentinels(url):
        _check_sentinels(url)
        return
    if names_cluster(url):
        _check_cluster(url)
        return
    several = [f"{scheme}{end}" for end in (SENTINEL, CLUSTER) for scheme in ("redis", "rediss")]
    parts = _parts(REDIS, url, ("redis", "rediss", "unix", *several))
    if parts.scheme == "unix":
        if not parts.path:
            raise SettingError(f"{REDIS} names no socket: unix:// is followed by a path")
    else:
        _check_host(REDIS, parts.netloc.rpartition("@")[2])
    options = _options(REDIS, parts, REDIS_OPTIONS | (REDIS_TLS_OPTIONS if parts.scheme == "rediss" else frozenset()))
    _check_number(options.get("db", "0" if parts.scheme == "unix" else unquote(parts.path).strip("/") or "0"))


def _check_sentinels(url: str) -> None:
    parts = _parts(REDIS, url, (f"redis{SENTINEL}", f"rediss{SENTINEL}"))
    for host in parts.netloc.rpartition("@")[2].split(","):
        if not host:
            raise SettingError(f"{REDIS} must name at least one sentinel, and none between two commas; {ENCODED}")
        _check_host(REDIS, host)
    tls = REDIS_TLS_OPTIONS if parts.scheme == f"rediss{SENTINEL}" else frozenset[str]()
    options = _options(REDIS, parts, REDIS_OPTIONS | SENTINEL_OPTIONS | tls)
    name, _, number = parts.path.strip("/").partition("/")
    if not name:
        raise SettingError(
            f"{REDIS} must name the primary as the sentinels do: {parts.scheme}://sentinel1:26379,sentinel2:26379/NAME"
        )
    _check_number(options.get("db", unquote(number) or "0"))


def _check_cluster(url: str) -> None:
    parts = _parts(REDIS, url, (f"redis{CLUSTER}", f"rediss{CLUSTER}"))
    for host in parts.netloc.rpartition("@")[2].split(","):
        if not host.partition(":")[0]:
            raise SettingError(
                f"{REDIS} must name at least one server of the cluster, and none between two commas; {ENCODED}"
            )
        _check_host(REDIS, host)
    tls = REDIS_TLS_OPTIONS if parts.scheme == f"rediss{CLUSTER}" else frozenset[str]()
    options = _options(REDIS, parts, REDIS_OPTIONS | tls)
    number = options.get("db", unquote(parts.path).strip("/") or "0")
    if number != "0":
        raise SettingError(f"{REDIS}: a cluster has the database 0 alone, got {number!r}; {ENCODED}")


def _check_number(number: str) -> None:
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
