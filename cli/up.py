"""`tcgx up`: the whole exchange on one machine, and what other commands need to find it."""

import asyncio
import http.client
import os
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import msgspec
import structlog

from api.__main__ import listen
from archiver import schema, store, traders
from cli import datadir, embedded
from cli.embedded_postgres import PostgresServer
from cli.embedded_redis import RedisServer
from cli.supervisor import Service, Supervised, Supervisor
from engine import connection, life, settings, trust
from engine.errors import StartError
from engine.settings import Settings, variable

log = structlog.get_logger()

_DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))
"""For our own address, whatever proxy the environment names."""

READY_SECONDS = 60
READY_CHECK_SECONDS = 0.05
SERVICES = ("engine", "archiver", "api")
STOP_ORDER = ("api", "engine", "archiver")


class Running(msgspec.Struct, frozen=True):
    """Where a running exchange is reached; `<data dir>/run.json` while it runs."""

    api: str
    redis: str
    database: str
    jwt_secret: str


def run_file(data_dir: str) -> Path:
    """The file in which `tcgx up` says where it is."""
    return Path(data_dir) / "run.json"


def running(data_dir: str) -> Running | None:
    """The exchange that runs in this data directory, if one does."""
    try:
        announced = msgspec.json.decode(run_file(data_dir).read_bytes(), type=Running)
    except FileNotFoundError:
        return None
    except (OSError, msgspec.DecodeError) as error:
        raise StartError(f"{run_file(data_dir)} can't be read: {error}") from error
    # One that was killed with -9 could not take its announcement back.
    return announced if datadir.is_locked(Path(data_dir)) else None


async def up(configured: Settings, *, ephemeral: bool) -> None:
    """Runs everything until SIGINT or SIGTERM.

    Raises:
        StartError: something that it needs is missing or taken; the message says what to do.
    """
    stopping = life.stop_on_signals()
    listen(configured.host, configured.port, shared=False).close()
    await connection.connect(configured.redis_url).aclose()  # connects to nothing: the URL is read
    with ExitStack() as stack:
        data_dir = _data_dir(Path(configured.data_dir), stack, ephemeral=ephemeral)
        secrets = datadir.load_secrets(data_dir)
        local = msgspec.structs.replace(
            configured, data_dir=str(data_dir), jwt_secret=configured.jwt_secret or secrets.jwt_secret
        )
        servers = _servers(local, secrets)
        try:
            await life.unless_stopped(_start(servers), stopping)
            if stopping.is_set():
                return
            await _serve(_pointed(local, servers), servers, stopping, announced_in=configured.data_dir, stack=stack)
        finally:
            for server in reversed(servers):
                await server.stop()


def _data_dir(home: Path, stack: ExitStack, *, ephemeral: bool) -> Path:
    """The locked data directory; for an ephemeral exchange another one, and this one only announces it."""
    is_new = not home.exists()
    stack.enter_context(datadir.lock(home))
    if not ephemeral:
        return home
    if is_new:
        stack.callback(_remove_empty, home)
    return stack.enter_context(datadir.ephemeral())


def _remove_empty(home: Path) -> None:
    """Removes a data directory that held nothing but the lock; one that a person put something into stays."""
    (home / "lock").unlink()
    with suppress(OSError):
        home.rmdir()


async def _start(servers: list[embedded.EmbeddedServer]) -> None:
    """Starts all at once; when one fails, the others' starts have ended too before this does."""
    outcomes = await asyncio.gather(*(server.start() for server in servers), return_exceptions=True)
    for outcome in outcomes:
        if isinstance(outcome, BaseException):
            raise outcome


def _servers(local: Settings, secrets: datadir.Secrets) -> list[embedded.EmbeddedServer]:
    """The servers of this machine; one that a variable names elsewhere is not started."""
    servers: list[embedded.EmbeddedServer] = []
    if variable("redis_url") not in os.environ:
        servers.append(RedisServer(local, secrets))
    if variable("database_url") not in os.environ:
        servers.append(PostgresServer(local, secrets))
    return servers


def _pointed(local: Settings, servers: list[embedded.EmbeddedServer]) -> Settings:
    """The settings, pointing at the embedded servers."""
    for server in servers:
        if isinstance(server, RedisServer):
            local = msgspec.structs.replace(local, redis_url=server.socket_url)
        if isinstance(server, PostgresServer):
            local = msgspec.structs.replace(local, database_url=server.url)
    return local


async def _serve(
    local: Settings,
    servers: list[embedded.EmbeddedServer],
    stopping: asyncio.Event,
    *,
    announced_in: str,
    stack: ExitStack,
) -> None:
    await _prepare_database(local)
    public_redis = next((one.url for one in servers if isinstance(one, RedisServer)), local.redis_url)
    here = Running(f"http://{_in_url(local.host)}:{local.port}", public_redis, local.database_url, local.jwt_secret)
    stack.enter_context(_announced(run_file(announced_in), here))
    services = _services(local)
    members: list[Supervised] = [*servers, *services]
    stop_order = [
        *(service.name for name in STOP_ORDER for service in services if service.name.split("-")[0] == name),
        *(server.name for server in reversed(servers)),
    ]
    supervisor = Supervisor(members, stop_order=stop_order)
    greeting = asyncio.create_task(_greet(here, local, stopping), name="greet")
    try:
        await supervisor.run_until(stopping)
    finally:
        await life.ended(greeting)


def _in_url(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def _services(local: Settings) -> list[Service]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith(settings.PREFIX)}
    environment |= settings.environment_of(local)
    names = ["engine", "archiver", *(f"api-{number}" for number in range(1, local.api_workers + 1))]
    return [
        Service(
            name,
            # -P: a folder named api or engine where the user stands must not take our place.
            [sys.executable, "-P", "-m", name.split("-")[0]],
            environment=environment,
            stop_seconds=local.stop_seconds,
        )
        for name in names
    ]


async def _prepare_database(local: Settings) -> None:
    connection = await store.connect(local.database_url)
    try:
        for name in await schema.migrate(connection, local.cards):
            log.info("migrated", name=name)
        if local.traders and not await traders.count(connection):
            out = Path(local.data_dir) / "traders.csv"
            if out.exists():
                raise StartError(
                    f"the database has no traders, but {out} has the API keys of some: PostgreSQL's data was lost or "
                    "replaced. Put it back; or move that file away, and traders are created with other keys, and what "
                    "Redis still has is archived again"
                )
            created = await traders.seed(connection, local.traders, out)
            log.info("created traders", count=created, api_keys=str(out))
    finally:
        await connection.close()


@contextmanager
def _announced(path: Path, here: Running) -> Iterator[None]:
    path.unlink(missing_ok=True)
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(msgspec.json.encode(here))
    try:
        yield
    finally:
        path.unlink(missing_ok=True)


async def _greet(here: Running, local: Settings, stopping: asyncio.Event) -> None:
    """Says where the exchange listens, once it is ready."""
    deadline = asyncio.get_running_loop().time() + READY_SECONDS
    while asyncio.get_running_loop().time() < deadline and not stopping.is_set():
        if await asyncio.to_thread(_is_ready, here.api):
            print(_greeting(here, local), flush=True)
            return
        await asyncio.sleep(READY_CHECK_SECONDS)
    if not stopping.is_set():
        log.error("the exchange is not ready; the lines above say why", waited_seconds=READY_SECONDS)


def _is_ready(api: str) -> bool:
    try:
        with _DIRECT.open(f"{api}/health/ready", timeout=2) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError, http.client.HTTPException):
        return False


def _greeting(here: Running, local: Settings) -> str:
    access_token = trust.token(local.jwt_secret, 1, "trader", local.token_seconds)
    return f"""
The exchange listens on {here.api}   (API: {here.api}/schema/swagger)

A first order, as trader 1; the token is valid for {local.token_seconds // 60} minutes:

  curl -s {here.api}/orders \\
    -H 'Authorization: Bearer {access_token}' \\
    -d '{{"card":"{local.cards[0]}","side":"buy","price":"5.50"}}'

and to see it, the same with only the address and the token. More tokens: tcgx traders token 1 2
Stop with Ctrl-C.
"""
