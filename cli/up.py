"""`tcgx up`: the whole exchange on one machine."""

import argparse
import asyncio
import http.client
import os
import signal
import socket
import ssl
import sys
import urllib.error
import urllib.request
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from pathlib import Path

import asyncpg
import msgspec
import structlog

import tcgx.__main__
from api.listener import HAND_OVER_SECONDS, bind, listen
from archiver import postgres, recovery, schema, traders
from cli import control, datadir, embedded, observed, paths, run_file
from cli.arguments import missing_packages
from cli.embedded_postgres import PostgresServer
from cli.embedded_redis import RedisServer
from cli.greeting import greeting
from cli.observed import Observed
from cli.supervisor import Member, Service, Supervisor
from core import service, settings
from core.errors import StartError, Unavailable
from core.settings import Settings, variable
from engine import connection, library
from exchange import login_codes

log = structlog.get_logger()

# Whether the certificate names this address is nothing that readiness depends on.
_OPENER = urllib.request.build_opener(
    urllib.request.ProxyHandler({}),
    urllib.request.HTTPSHandler(context=ssl._create_unverified_context()),  # noqa: S323
)
"""Opens URLs without the proxy of the environment: the address is this machine's."""

LOOPBACK = frozenset({"127.0.0.1", "localhost", "::1"})
FIRST_TRADER = 1
READY_SECONDS = 60
READY_CHECK_SECONDS = 0.05
EXTRAS = ("grpc", "demo")
"""Services that options of the command add."""

STOP_ORDER = ("demo", "grpc", "api", "engine", "archiver")
DESCRIPTORS = frozenset({variable("listen_fd"), variable("ready_fd")})
"""Variables that hold for one process. The supervisor sets them for each process of its own."""


async def run(arguments: argparse.Namespace, configured: Settings) -> int:
    """Runs the servers and services until SIGINT or SIGTERM.

    Raises:
        StartError: a program is missing, or a port or folder is taken; the message says what to do.
    """
    stopping = service.stop_on_signals()
    home = Path(configured.data_dir)
    if not arguments.ephemeral:
        _refuse_running(home)
    inner = ("engine", "archiver", *(name for name in EXTRAS if getattr(arguments, name)))
    _refuse_without_packages(inner)
    listeners = _bind(configured)
    await connection.connect(configured.redis_url).aclose()  # makes no connection, but checks the URL
    with ExitStack() as stack:
        for listener in listeners:
            stack.callback(listener.close)
        data_dir, announced_in = _data_dirs(home, stack, ephemeral=arguments.ephemeral)
        paths.check_file(run_file.path_in(announced_in))
        secrets = datadir.load_secrets(data_dir)
        local = msgspec.structs.replace(
            configured, data_dir=str(data_dir), jwt_secret=configured.jwt_secret or secrets.jwt_secret
        )
        servers = _servers(local, secrets)
        try:
            await service.until_stopped(_start(servers), stopping)
            if stopping.is_set():
                return 0
            names = (*inner, *(f"api-{number}" for number, _ in enumerate(listeners, 1)))
            await _serve(
                observed.prepare(_with_server_urls(local, servers), names, is_on=arguments.observe),
                (servers, listeners, inner),
                stopping,
                announced_in=announced_in,
                data_dir=data_dir,
            )
        finally:
            for server in reversed(servers):
                await server.stop()
    return 0


def _refuse_without_packages(services: Sequence[str]) -> None:
    for name in services:
        missing = missing_packages(name)
        if missing:
            raise StartError(f"--{name} needs {' and '.join(missing)}: pip install 'tcgx[{name}]'")


def _bind(configured: Settings) -> list[socket.socket]:
    """Opens a socket for each API worker, which its processes inherit. None of them listens yet.

    A connection waits in the queue of one socket, and a queue ends with the last process that has the socket. So the
    sockets outlive the workers. Workers that shared one socket would share the connections unevenly.

    Raises:
        StartError: the address cannot be bound.
    """
    host, port, count = configured.host, configured.port, configured.api_workers
    if count == 1:
        return [bind(host, port, shared=False)]
    listen(host, port, shared=False).close()  # another program may share the port, too
    return [bind(host, port, shared=True) for _ in range(count)]


def _refuse_running(home: Path) -> None:
    if not datadir.is_locked(home):
        return
    here = run_file.find_running(home)
    where = here.api if here else "it is starting or stopping"
    raise StartError(
        f"the exchange of {home} runs already (process {datadir.owner(home)}): {where}; "
        "a second one needs another --data-dir and --port"
    )


def _data_dirs(home: Path, stack: ExitStack, *, ephemeral: bool) -> tuple[Path, Path]:
    """Returns the locked data directory, and the directory in which commands find the exchange.

    An ephemeral exchange keeps its data in a temporary directory, but commands find it in `home`. If another exchange
    uses `home`, or `home` cannot be written, commands find it in the temporary directory.
    """
    if not ephemeral:
        stack.enter_context(datadir.lock(home))
        return home, home
    is_new = not os.path.lexists(home)
    try:
        stack.enter_context(datadir.lock(home))
    except StartError as error:
        data_dir = stack.enter_context(datadir.ephemeral())
        stack.enter_context(datadir.lock(data_dir))
        log.info("commands find this exchange with --data-dir", data_dir=str(data_dir), reason=str(error))
        return data_dir, data_dir
    if is_new:
        stack.callback(_remove_empty, home)
    return stack.enter_context(datadir.ephemeral()), home


def _remove_empty(home: Path) -> None:
    """Removes a data directory that has only the lock; a directory with other files stays."""
    (home / "lock").unlink()
    with suppress(OSError):
        home.rmdir()


async def _start(servers: list[embedded.EmbeddedServer]) -> None:
    """Starts all servers at once. If one fails, the other starts are awaited before the error is raised."""
    outcomes = await asyncio.gather(*(server.start() for server in servers), return_exceptions=True)
    for outcome in outcomes:
        if isinstance(outcome, BaseException):
            raise outcome


def _servers(local: Settings, secrets: datadir.Secrets) -> list[embedded.EmbeddedServer]:
    """Makes the embedded servers, without those for which a variable names another server."""
    servers: list[embedded.EmbeddedServer] = []
    if not settings.is_given(os.environ, "redis_url"):
        servers.append(RedisServer(local, secrets))
    if not settings.is_given(os.environ, "database_url"):
        servers.append(PostgresServer(local, secrets))
    return servers


def _with_server_urls(local: Settings, servers: list[embedded.EmbeddedServer]) -> Settings:
    """Returns the settings with the URLs of the embedded servers."""
    for server in servers:
        if isinstance(server, RedisServer):
            local = msgspec.structs.replace(local, redis_url=server.socket_url)
        if isinstance(server, PostgresServer):
            local = msgspec.structs.replace(local, database_url=server.url)
    return local


async def _serve(
    watched: Observed,
    opened: tuple[list[embedded.EmbeddedServer], list[socket.socket], Sequence[str]],
    stopping: asyncio.Event,
    *,
    announced_in: Path,
    data_dir: Path,
) -> None:
    servers, listeners, inner = opened
    local = watched.settings
    await _prepare_database(local)
    public_redis = next((one.url for one in servers if isinstance(one, RedisServer)), local.redis_url)
    services = _services(watched, listeners, inner)
    members: list[Member] = [*servers, *services, *watched.members]
    stop_order = [
        *(service.name for name in STOP_ORDER for service in services if service.name.split("-")[0] == name),
        *(each.name for each in watched.members),
        *(server.name for server in reversed(servers)),
    ]
    supervisor = Supervisor(members, stop_order=stop_order)
    async with control.listening(data_dir, supervisor.restart) as address:
        api = f"{'https' if local.tls_cert else 'http'}://{_in_url(local.host)}:{local.port}"
        here = run_file.of_exchange(local, api=api, redis=public_redis, control=address)
        with run_file.announce(announced_in, here):
            greeting = asyncio.create_task(
                _greet(api, local, stopping, announced_in, is_grpc="grpc" in inner), name="greet"
            )
            try:
                await supervisor.run_until(stopping)
            finally:
                await service.cancel_and_wait(greeting)


def _in_url(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def _services(watched: Observed, listeners: list[socket.socket], inner: Sequence[str]) -> list[Service]:
    """The services. `inner`: those without a socket of the supervisor."""
    local = watched.settings
    environment = {name: value for name, value in os.environ.items() if not name.startswith(settings.PREFIX)}
    environment |= settings.environment_of(local)
    environment = {name: value for name, value in environment.items() if name not in DESCRIPTORS}
    # A file and -P: a folder named api or tcgx in the current folder must not be imported instead.
    program = [sys.executable, "-P", tcgx.__main__.__file__]
    return [
        *(
            Service(
                name,
                [*program, name],
                environment=environment | watched.environment_of(name),
                stop_seconds=local.stop_seconds,
                hung_seconds=local.hung_seconds,
            )
            for name in inner
        ),
        *(
            Service(
                f"api-{number}",
                [*program, "api"],
                environment=environment | watched.environment_of(f"api-{number}"),
                stop_seconds=local.stop_seconds + local.drain_seconds,
                hung_seconds=local.hung_seconds,
                listener=listener,
                hand_over_signal=signal.SIGUSR1,
                hand_over_seconds=HAND_OVER_SECONDS,
            )
            for number, listener in enumerate(listeners, 1)
        ),
    ]


async def _prepare_database(local: Settings) -> None:
    database = await postgres.connect(local.database_url)
    try:
        for name in await schema.migrate(database, local.cards):
            log.info("migrated", name=name)
        await _mark_histories(local, database)
        if local.traders and not await traders.count(database):
            out = Path(local.data_dir) / "traders.csv"
            if out.exists():
                raise StartError(
                    f"the database has no traders, but {out} has the API keys of some: PostgreSQL's data was lost or "
                    "replaced. Put it back; or move that file away, and traders are created with other keys, and what "
                    "Redis still has is archived again"
                )
            log.info("creating traders, each with an API key", count=local.traders)
            created = await traders.seed(database, local.traders, out)
            log.info("created traders", count=created, api_keys=str(out))
    finally:
        await database.close()


async def _mark_histories(local: Settings, database: asyncpg.Connection) -> None:
    """Gives a history to the data of versions that had none.

    Raises:
        StartError: the data cannot be converted.
    """
    async with connection.connect(local.redis_url) as redis:
        await library.load(redis)
        for card in await recovery.mark_histories(redis, database, local.cards):
            log.info("gave a history to the data of an earlier version", card=card)


async def _greet(api: str, local: Settings, stopping: asyncio.Event, announced_in: Path, *, is_grpc: bool) -> None:
    """Prints the greeting once every part of the exchange works."""
    deadline = asyncio.get_running_loop().time() + READY_SECONDS
    while asyncio.get_running_loop().time() < deadline and not stopping.is_set():
        if await asyncio.to_thread(_is_healthy, api):
            code = await _login_code(local)
            print(greeting(api, local, data_dir=str(announced_in), login_code=code), flush=True)
            if is_grpc:
                log.info("gRPC, see docs/grpc.md", address=f"{_in_url(local.host)}:{local.grpc_port}")
            if local.prometheus_url or local.log_dir:
                log.info("panels and log lines, for a token of `tcgx traders token 1 --admin`", page=f"{api}/operate")
            return
        await asyncio.sleep(READY_CHECK_SECONDS)
    if not stopping.is_set():
        log.error("the exchange is not ready; the lines above say why", waited_seconds=READY_SECONDS)


async def _login_code(local: Settings) -> str:
    """A login code for trader 1; empty where the page may be opened from other machines, or there are no traders."""
    if local.host not in LOOPBACK or not local.traders:
        return ""
    try:
        async with connection.connect(local.redis_url) as redis:
            return await login_codes.issue(redis, FIRST_TRADER)
    except Unavailable as error:
        log.warning("there is no link to log in with", reason=error.detail)
        return ""


def _is_healthy(api: str) -> bool:
    try:
        with _OPENER.open(f"{api}/health", timeout=2) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError, http.client.HTTPException):
        return False
