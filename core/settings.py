"""The settings of all services: one frozen struct, read once from the environment and passed down."""

import re
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, NamedTuple, get_type_hints

import msgspec

from core import secret_files, service_links, urls
from core.errors import SettingError
from core.model import PRICE_CENTS_MAX
from core.suggestions import did_you_mean

PREFIX = "TCGX_"
URLS = frozenset({"redis_url", "database_url"})
SECRETS = (*sorted(URLS), "jwt_secret", "jwt_previous_secrets")
"""Settings that may be read from a file, and whose passwords and keys are never shown."""
JWT_SECRET_BYTES_MIN = 32
HUNG_SECONDS_MIN = 2
DESCRIPTOR_MAX = 1_000_000
JWT_PREVIOUS_SECRETS_MAX = 10
ORIGIN_PATTERN = re.compile(r"https?://(?:[a-z0-9.-]+|\[[0-9a-f:]+\])(?::[1-9][0-9]{0,4})?")
CARD_PATTERN = re.compile(r"[a-z][a-z0-9_]{0,30}")


class Setting(NamedTuple):
    """The description of a setting and, for a number, its bounds, both included."""

    description: str
    low: int | None = None
    high: int | None = None


class Settings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Field `x_y` is the environment variable `TCGX_X_Y`. Its `Setting` has description and bounds."""

    redis_url: Annotated[str, Setting("the Redis (7.0 or newer) or Valkey server that holds logs and books")] = (
        "redis://127.0.0.1:6379/0"
    )
    database_url: Annotated[str, Setting("the PostgreSQL database of the archive")] = (
        "postgresql://tcgx@127.0.0.1:5432/tcgx"
    )
    cards: Annotated[tuple[str, ...], Setting("the cards that are traded, separated by commas")] = (
        "pikachu",
        "bulbasaur",
        "charmander",
        "squirtle",
    )
    price_cents_min: Annotated[int, Setting("the lowest price of an order, in cents", 1, PRICE_CENTS_MAX)] = 100
    price_cents_max: Annotated[int, Setting("the highest price of an order, in cents", 1, PRICE_CENTS_MAX)] = 1_000
    max_quantity: Annotated[int, Setting("the largest quantity of an order", 1, 1_000_000)] = 10_000
    self_trade: Annotated[
        Literal["allow", "cancel_taker"],
        Setting("allow, or cancel_taker: the incoming order's rest is canceled when it meets its own trader"),
    ] = "allow"
    durability: Annotated[
        Literal["always", "everysec", "managed"],
        Setting(
            "always: an order is on disk before it is acknowledged; everysec: within a second after; managed: as the "
            "service behind the address promises, which is not checked"
        ),
    ] = "always"
    replica_acks: Annotated[
        int, Setting("how many replicas of Redis must have an order on disk before it is acknowledged", 0, 5)
    ] = 0
    replica_ack_ms: Annotated[
        int, Setting("for how many milliseconds replicas may keep an order waiting before 503", 100, 4_000)
    ] = 2_000

    host: Annotated[str, Setting("the address the API listens on")] = "127.0.0.1"
    port: Annotated[int, Setting("the port the API listens on", 1, 65535)] = 8000
    grpc_port: Annotated[int, Setting("the port `tcgx grpc` listens on, at the same address", 1, 65535)] = 50051
    graphql: Annotated[
        Literal["off", "on", "explore"],
        Setting("off; on: queries, mutations and subscriptions at /graphql; explore: introspection and a page as well"),
    ] = "off"
    graphql_depth_max: Annotated[int, Setting("how deep a query of GraphQL may be", 3, 100)] = 8
    graphql_aliases_max: Annotated[int, Setting("how many aliases a query of GraphQL may have", 0, 1_000)] = 15
    graphql_tokens_max: Annotated[int, Setting("how many tokens a query of GraphQL may have", 100, 100_000)] = 2_000
    graphql_cost_max: Annotated[
        int,
        Setting("what a query of GraphQL may cost: its fields, times the items of lists around them", 100, 10**6),
    ] = 10_000
    tls_cert: Annotated[str, Setting("the certificate chain of the API, a PEM file: it then speaks https alone")] = ""
    tls_key: Annotated[str, Setting("the key of that certificate, a PEM file")] = ""
    cors_origins: Annotated[
        tuple[str, ...],
        Setting("origins whose pages may call the API in a browser, separated by commas; * for all"),
    ] = ()
    api_workers: Annotated[int, Setting("how many API processes share the port", 1, 64)] = 1
    jwt_secret: Annotated[str, Setting(f"the key that signs access tokens, at least {JWT_SECRET_BYTES_MIN} bytes")] = ""
    jwt_previous_secrets: Annotated[
        tuple[str, ...],
        Setting("keys that signed access tokens before, separated by commas: their tokens are valid until they expire"),
    ] = ()
    token_seconds: Annotated[int, Setting("how long an access token is valid", 1, 31_536_000)] = 3_600
    failed_logins_per_minute: Annotated[
        int,
        Setting("how many logins from an address may fail a minute, in one API process; 0: any number", 0, 1_000_000),
    ] = 600
    body_bytes_max: Annotated[
        int, Setting("the largest request body; a larger one is answered with 413", 1_000, 100_000_000)
    ] = 1_000_000
    head_seconds: Annotated[
        int,
        Setting(
            "how long a request line and headers may take; then 408, or a plain close where nothing was sent", 1, 3_600
        ),
    ] = 10
    body_seconds: Annotated[int, Setting("how long a request body may take; then 408", 1, 3_600)] = 30
    keep_alive_seconds: Annotated[
        int, Setting("how long a connection stays open between an answer and the next request", 1, 86_400)
    ] = 75

    drain_seconds: Annotated[
        int,
        Setting(
            "how long the API goes on answering after SIGTERM, each answer with Connection: close; 0: it stops at once",
            0,
            600,
        ),
    ] = 0
    listen_fd: Annotated[
        int,
        Setting("the number of a listening socket that the API inherits; 0: it opens its own", 0, DESCRIPTOR_MAX),
    ] = 0
    ready_fd: Annotated[
        int,
        Setting(
            "the number of an inherited pipe that gets a newline once the service works; 0: none", 0, DESCRIPTOR_MAX
        ),
    ] = 0
    connections_max: Annotated[
        int,
        Setting(
            "how many connections an API process takes; 0: 7/8 of the files it may open, at most 20,000", 0, 1_000_000
        ),
    ] = 0
    address_connections_max: Annotated[
        int,
        Setting("how many connections an API process takes from an address; 0: any number", 0, 1_000_000),
    ] = 0
    stream_max: Annotated[
        int, Setting("how many streams an API process serves at once; a further one is answered with 503", 1, 100_000)
    ] = 2_000
    stream_address_max: Annotated[
        int, Setting("how many streams an address may have in one API process; 0: any number", 0, 100_000)
    ] = 20
    stream_trader_max: Annotated[
        int, Setting("how many streams a trader may have in one API process; a newer one ends the oldest", 1, 100_000)
    ] = 5
    stream_heartbeat_seconds: Annotated[
        int, Setting("how often a stream says that it lives and where it stands", 1, 60)
    ] = 10
    stream_slow_seconds: Annotated[
        int, Setting("how long a stream may be unable to take data before it is ended", 1, 3_600)
    ] = 30

    match_batch: Annotated[int, Setting("how many commands one match call takes at most", 1, 10_000)] = 1_000
    match_hold_ms: Annotated[
        int,
        Setting(
            "for how many milliseconds one match call may hold Redis; it ends early, after a whole command", 1, 1_000
        ),
    ] = 5
    backlog_max: Annotated[
        int,
        Setting(
            "how many commands of a card may wait to be matched before orders are answered with 503",
            1_000,
            1_000_000_000,
        ),
    ] = 1_000_000
    append_pending_max: Annotated[
        int,
        Setting(
            "how many commands of a card may wait in one API process before 503; one trader fills 8/9 of it at most",
            1,
            1_000_000,
        ),
    ] = 20_000
    redis_memory_percent: Annotated[
        int,
        Setting(
            "from how many percent of Redis's maxmemory on orders are answered with 503; cancels are taken; 100: off",
            1,
            100,
        ),
    ] = 90
    trader_orders_per_second: Annotated[
        int, Setting("how many orders a trader may place on a card, a second; 0: as many as it likes", 0, 1_000_000)
    ] = 0
    trader_burst: Annotated[
        int, Setting("how many orders a trader may place on a card at once, after a pause", 1, 1_000_000)
    ] = 1_000
    trader_open_orders_max: Annotated[
        int, Setting("how many orders of a trader may be open on a card; 0: as many as it likes", 0, 1_000_000)
    ] = 0
    archive_batch_bytes: Annotated[
        int, Setting("about how many bytes of rows one archive transaction takes at most", 1, 100_000_000)
    ] = 4_000_000
    archive_batch_ms: Annotated[
        int, Setting("how long rows gather for a transaction; what comes alone is archived at once", 0, 10_000)
    ] = 50
    archive_lag_seconds: Annotated[
        int, Setting("how far the archive may be behind the matcher before the log says so", 1, 86_400)
    ] = 5
    event_retention: Annotated[
        int, Setting("how many archived commands of a card stay in its events", 1, 1_000_000_000)
    ] = 10_000
    log_retention: Annotated[int, Setting("how many archived commands of a card stay in its log", 0, 1_000_000_000)] = (
        250_000
    )

    data_dir: Annotated[str, Setting("where `tcgx up` keeps its servers' data")] = "./.tcgx"
    traders: Annotated[int, Setting("how many traders `tcgx up` creates at its first start", 0, 1_000_000)] = 10_000
    redis_bin: Annotated[
        str, Setting("the redis-server or valkey-server program that `tcgx up` starts, instead of the packaged one")
    ] = ""
    redis_core: Annotated[
        Literal["own", "any"],
        Setting("own: the server of `tcgx up` has a core that the engine does not use; any: it shares them all"),
    ] = "own"
    pg_bin: Annotated[
        str, Setting("the folder with initdb and postgres that `tcgx up` uses, instead of the packaged one")
    ] = ""
    start_seconds: Annotated[
        int,
        Setting(
            "how long a service waits at its start for a Redis that does not answer, and for PostgreSQL and its "
            "migrations; 0: it does not wait",
            0,
            3_600,
        ),
    ] = 0
    stop_seconds: Annotated[int, Setting("how long a service may take to stop before it is killed", 1, 600)] = 10
    hung_seconds: Annotated[
        int,
        Setting(
            "for how long the heartbeat of a service may stand still before `tcgx up` starts it again; 0: for ever",
            0,
            3_600,
        ),
    ] = 10
    log_level: Annotated[
        Literal["debug", "info", "warning", "error"], Setting("the least important log lines that are written")
    ] = "info"
    log_format: Annotated[Literal["console", "json"], Setting("console or json")] = "console"
    log_dir: Annotated[
        str, Setting("a folder that also gets the log lines, as JSON, a file a service; empty: none")
    ] = ""
    log_requests_one_in: Annotated[
        int,
        Setting(
            "one in how many requests has a log line; 0: none, and an answer of 500 or above has one", 0, 1_000_000
        ),
    ] = 0
    metrics_host: Annotated[str, Setting("the address at which each process gives its metrics")] = "127.0.0.1"
    metrics_port: Annotated[
        int, Setting("the port of metrics of a process; 0: none; under `tcgx up` the first of several", 0, 65_535)
    ] = 0
    trace_one_in: Annotated[
        int,
        Setting(
            "after how many answers the next order is followed to the archive, if metrics or traces are on; 0: none "
            "without a traceparent",
            0,
            1_000_000,
        ),
    ] = 1_000
    otlp_url: Annotated[
        str, Setting("where traces go (OTLP over HTTP, http://host:4318/v1/traces); empty: none; needs tcgx[otel]")
    ] = ""
    prometheus_url: Annotated[str, Setting("the Prometheus whose data /operate shows; empty: none")] = ""


_SETTINGS: Mapping[str, Setting] = {
    name: hint.__metadata__[0] for name, hint in get_type_hints(Settings, include_extras=True).items()
}
_TYPES = get_type_hints(Settings)

DESCRIPTIONS: Mapping[str, str] = {name: setting.description for name, setting in _SETTINGS.items()}
BOUNDS: Mapping[str, tuple[int, int]] = {
    name: (setting.low, setting.high)
    for name, setting in _SETTINGS.items()
    if setting.low is not None and setting.high is not None
}


def variable(field: str) -> str:
    """The environment variable of a field of `Settings`."""
    return PREFIX + field.upper()


def read(environment: Mapping[str, str]) -> Settings:
    """Reads the settings from an environment.

    Raises:
        SettingError: a variable is unknown or its value is invalid; the message names the variable.
    """
    fields = {field.name: field for field in msgspec.structs.fields(Settings)}
    values: dict[str, Any] = {}
    for name, text in with_secret_files(environment).items():
        if not name.startswith(PREFIX):
            continue
        field = fields.get(name.removeprefix(PREFIX).lower())
        if field is None or name != variable(field.name):
            suggestion = did_you_mean(name, map(variable, fields)) or "; `tcgx settings` lists them all"
            raise SettingError(f"{name} is not a setting{suggestion}")
        values[field.name] = _parse(name, text, _TYPES[field.name])
    settings = Settings(**values)
    check(settings)
    return settings


def with_secret_files(environment: Mapping[str, str]) -> dict[str, str]:
    """The environment with the texts of the files that `TCGX_…_FILE` name for secrets, and without service links.

    Raises:
        SettingError: a file cannot be used.
    """
    given = service_links.without(environment)
    return secret_files.resolve(given, [*map(variable, SECRETS)], [variable("jwt_previous_secrets")])


def is_given(environment: Mapping[str, str], field: str) -> bool:
    """Whether an environment has a setting: as a variable, or as the file of a secret."""
    return variable(field) in environment or (field in SECRETS and variable(field) + secret_files.SUFFIX in environment)


def _parse(name: str, text: str, kind: Any) -> Any:
    if kind == tuple[str, ...]:
        return tuple(part.strip() for part in text.split(",") if part.strip())
    try:
        return msgspec.convert(text.strip(), kind, strict=False)
    except msgspec.ValidationError:
        wanted = "a whole number" if kind is int else "one of " + ", ".join(getattr(kind, "__args__", ("text",)))
        raise SettingError(f"{name}={text!r} must be {wanted}") from None


def check(settings: Settings) -> None:
    """Checks bounds, cards, addresses and secrets.

    Raises:
        SettingError: a value is invalid; the message names its variable.
    """
    for field, (low, high) in BOUNDS.items():
        value = getattr(settings, field)
        if not low <= value <= high:
            raise SettingError(f"{variable(field)}={value} must be between {low} and {high}")
    if settings.price_cents_min > settings.price_cents_max:
        raise SettingError(
            f"{variable('price_cents_min')}={settings.price_cents_min} must not be above "
            f"{variable('price_cents_max')}={settings.price_cents_max}"
        )
    if 0 < settings.hung_seconds < HUNG_SECONDS_MIN:
        raise SettingError(
            f"{variable('hung_seconds')}={settings.hung_seconds} must be 0 or at least {HUNG_SECONDS_MIN}: "
            "a busy service may miss a heartbeat"
        )
    if not settings.data_dir:
        raise SettingError(f"{variable('data_dir')} must name a folder")
    _check_cards(settings.cards)
    _check_web(settings)
    urls.check_redis(settings.redis_url)
    urls.check_database(settings.database_url)
    if settings.jwt_secret and len(settings.jwt_secret.encode()) < JWT_SECRET_BYTES_MIN:
        raise SettingError(f"{variable('jwt_secret')} must have at least {JWT_SECRET_BYTES_MIN} bytes")
    _check_previous_secrets(settings.jwt_previous_secrets)


def _check_previous_secrets(secrets: Sequence[str]) -> None:
    name = variable("jwt_previous_secrets")
    if len(secrets) > JWT_PREVIOUS_SECRETS_MAX:
        raise SettingError(f"{name} has {len(secrets)} keys, and {JWT_PREVIOUS_SECRETS_MAX} are the most")
    for place, secret in enumerate(secrets, 1):
        if len(secret.encode()) < JWT_SECRET_BYTES_MIN:
            raise SettingError(f"{name}: key {place} must have at least {JWT_SECRET_BYTES_MIN} bytes")


def _check_web(settings: Settings) -> None:
    if bool(settings.tls_cert) != bool(settings.tls_key):
        given, missing = ("tls_cert", "tls_key") if settings.tls_cert else ("tls_key", "tls_cert")
        raise SettingError(f"{variable(given)} is set, and {variable(missing)} is not: set both or none")
    for field in ("otlp_url", "prometheus_url"):
        if (url := getattr(settings, field)) and not url.startswith(("http://", "https://")):
            raise SettingError(f"{variable(field)}={url!r} must begin with http:// or https://")
    for origin in settings.cors_origins:
        if origin != "*" and not ORIGIN_PATTERN.fullmatch(origin):
            raise SettingError(
                f"{variable('cors_origins')}: {origin!r} must be an origin like https://example.org, in lower case and "
                "without a path, or *"
            )


def _check_cards(cards: Sequence[str]) -> None:
    if not cards:
        raise SettingError(f"{variable('cards')} must name at least one card")
    if len(set(cards)) != len(cards):
        raise SettingError(f"{variable('cards')}={','.join(cards)} names a card twice")
    for card in cards:
        if not CARD_PATTERN.fullmatch(card):
            raise SettingError(
                f"{variable('cards')}: {card!r} must be a lower-case letter and then up to 30 letters, digits or _"
            )


def environment_of(settings: Settings) -> dict[str, str]:
    """The environment from which `read` returns these settings, without variables that have the default value."""
    defaults = texts_of(Settings())
    return {name: text for name, text in texts_of(settings).items() if text != defaults[name]}


def texts_of(settings: Settings) -> dict[str, str]:
    """The text of every variable, as `read` takes it."""
    values = {field: getattr(settings, field) for field in settings.__struct_fields__}
    return {
        variable(field): ",".join(value) if isinstance(value, tuple) else str(value) for field, value in values.items()
    }


def table(settings: Settings, sources: Mapping[str, str]) -> list[tuple[str, str, str, str, str]]:
    """Rows of variable, value, default, source and description, with secrets hidden.

    `sources` maps a variable to the source of its value. Variables that are not in it have the source `default`.
    """
    rows = []
    for field in msgspec.structs.fields(Settings):
        name = variable(field.name)
        value_text = _display_text(field.name, getattr(settings, field.name))
        source = sources.get(name, "default")
        rows.append((name, value_text, _display_text(field.name, field.default), source, DESCRIPTIONS[field.name]))
    return rows


def _display_text(field: str, value: Any) -> str:
    text = ",".join(value) if isinstance(value, tuple) else str(value)
    if field == "jwt_secret":
        return "(set)" if text else "(not set)"
    if field == "jwt_previous_secrets":
        return f"({len(value)} set)" if value else "(not set)"
    return urls.mask_passwords(text) if field in URLS else text
