"""The exchange trades with the users of deploy/redis/users.acl and the roles of deploy/postgres/roles.sql."""

import asyncio
import hashlib
import os
import re
import secrets
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

import asyncpg
import httpx
import msgspec
import pytest
import redis.exceptions
from redis import Redis
from structlog.testing import capture_logs

from core.errors import Unavailable
from core.settings import Settings
from engine import connection
from engine.replica_acks import ReplicaAcks
from testing.exchange import ExchangeServer, exchange_server, login_code
from testing.servers import client_of, fetch, free_port
from testing.services import Service
from testing.waiting import until

pytestmark = pytest.mark.server

ROOT = Path(__file__).parents[2]
USERS = (ROOT / "deploy" / "redis" / "users.acl").read_text()
ROLES = (ROOT / "deploy" / "postgres" / "roles.sql").read_text()
SERVICES = ("engine", "archiver", "api")
CARD = "pikachu"
DEBIANS_REDIS = "/usr/bin/redis-server"
ORDER = {"card": CARD, "side": "buy", "price": "1.00"}
WAIT = {"prefer": "wait=10"}

FUNCTIONS = {
    "api": (
        *("append", "cancel_all", "adopt", "begin", "halt", "history"),
        *("order", "trader_orders", "client_order", "depth", "state_hash"),
        *("cancel_after", "lease", "deadlines_of"),
    ),
    "engine": ("match", "history", "cancel_due"),
    "archiver": ("trim", "history"),
}
"""The functions that each service calls."""

NOT_REACHED = {
    "api": {"zrangebyscore"},
    "engine": {"lrem", "lset", "rpush", "zscore"},
    "archiver": {"set", "hset", "xadd"},
}
"""Commands of shared parts of the library that the functions of a service do not reach, such as log.append."""

SELECTED = {"api": {"lrem", "lset", "ltrim", "zadd", "zrem", "zscore"}, "engine": {"set"}}
"""Commands that selectors grant: on lists and deadlines of traders, and on the last sequence of a card."""

DIRECT = {
    *("client|list", "client|setname", "fcall", "fcall_ro", "function|list", "function|load"),
    *(
        "cluster|info",
        "cluster|slots",
        "info",
        "ping",
        "role",
        "subscribe",
        "unsubscribe",
        "xread",
        "xlen",
        "wait",
        "waitaof",
    ),
}
"""Commands that services send themselves, beside reads that functions use, too."""

NOT_GRANTED = {"config|get", "config", "client|setinfo"}
"""Commands that services try, and work without: a property that cannot be checked is logged."""

MANY = 600


class Restricted(NamedTuple):
    """An exchange whose services have users of their own."""

    server: ExchangeServer
    settings: dict[str, Settings]
    http: httpx.Client
    services: dict[str, Service]

    def as_user(self, name: str) -> Redis:
        return client_of(self.settings[name].redis_url)

    def sql(self, name: str, query: str) -> list[dict[str, Any]]:
        return fetch(self.settings[name].database_url, query)


def rules_of(name: str, password: str) -> list[str]:
    """The rules of a user of the file, as ACL SETUSER takes them; a selector in parentheses is one rule."""
    line = re.search(rf"^user tcgx-{name} (.*)$", USERS, re.MULTILINE)
    assert line
    hashed = hashlib.sha256(password.encode()).hexdigest()
    filled = line[1].replace(f"@TCGX_{name.upper()}_SHA256@", hashed)
    return re.findall(r"\([^)]*\)|\S+", filled)


def commands_of(lua: str) -> set[str]:
    """The commands in a source, as rules name them."""
    found = re.findall(r"(?:redis\.p?call|bulk\.call)\('([A-Z]+)'(?:, '([A-Z]+)')?", lua)
    named = {f"{first}|{second}".lower() if first == "XINFO" else first.lower() for first, second in found}
    return named | ({"hmget"} if "bulk.read" in lua else set())


def commands_of_function(name: str) -> set[str]:
    """The commands of a function of the library and of all parts that it may reach."""
    parts = {path.stem: path.read_text() for path in (ROOT / "lua" / "parts").glob("*.lua")}
    waiting, seen, found = [(ROOT / "lua" / f"{name}.lua").read_text()], set[str](), set[str]()
    while waiting:
        source = re.sub(r"--.*", "", waiting.pop())
        found |= commands_of(source)
        reached = {part for part in parts if re.search(rf"(?<![\w.]){part}\.\w", source)} - seen
        seen |= reached
        waiting += [parts[part] for part in reached]
    return found


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_user_may_do_what_its_functions_do_and_little_more(name: str) -> None:
    granted = {rule[1:] for rule in rules_of(name, "") if rule.startswith("+")}
    needed = set().union(*map(commands_of_function, FUNCTIONS[name])) - NOT_REACHED[name]
    needed -= SELECTED.get(name, set())

    # A command that is missing would stop a function in the middle of its writes, which nothing rolls back.
    assert needed - granted == set()
    assert granted - needed - DIRECT == set()


async def script(url: str, sql: str) -> None:
    """Runs the statements of a file."""
    database = await asyncpg.connect(url)
    try:
        await database.execute(sql)
    finally:
        await database.close()


def _accepts(path: Path) -> bool:
    """Whether a server listens on a socket. The file is there a moment before."""
    with socket.socket(socket.AF_UNIX) as client:
        return client.connect_ex(str(path)) == 0


@pytest.mark.skipif(not Path(DEBIANS_REDIS).exists(), reason="needs the oldest Redis that is supported")
def test_the_oldest_redis_loads_the_file(tmp_path: Path) -> None:
    filled = re.sub(r"@TCGX_(\w+)_SHA256@", lambda name: hashlib.sha256(name[1].lower().encode()).hexdigest(), USERS)
    (tmp_path / "users.acl").write_text(filled.replace(" +waitaof", ""))  # as docs/security.md says
    address = tmp_path / "redis.sock"
    process = subprocess.Popen(
        [DEBIANS_REDIS, "--port", "0", "--unixsocket", address, "--aclfile", tmp_path / "users.acl", "--dir", tmp_path],
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        until(lambda: _accepts(address) or process.poll() is not None, "Redis starts")
        with client_of(f"unix://tcgx-admin:admin@{address}") as client:
            assert client.acl_users() == ["default", "tcgx-admin", "tcgx-api", "tcgx-archiver", "tcgx-engine"]
        with client_of(f"unix://{address}") as nobody, pytest.raises(redis.exceptions.AuthenticationError):
            nobody.ping()
        with client_of(f"unix://tcgx-api:api@{address}") as api, pytest.raises(redis.exceptions.NoPermissionError):
            api.flushall()
    finally:
        process.terminate()
        process.communicate()


@pytest.fixture(scope="module")
def restricted() -> Iterator[Restricted]:
    with exchange_server("engine") as own:
        own.stop_service("engine")
        own.redis.function_flush()
        settings = {}
        for _ in range(2):  # again, as after the next migration
            asyncio.run(script(own.settings.database_url, ROLES))
        local = msgspec.structs.replace(own.settings, port=free_port(), api_workers=1)
        for name in SERVICES:
            password = secrets.token_hex(16)
            set_user: Any = own.redis.execute_command
            set_user("ACL", "SETUSER", f"tcgx-{name}", "reset", *rules_of(name, password))
            address = own.settings.redis_url.partition("@")[2]
            url = f"unix://tcgx-{name}:{password}@{address}"
            database = own.settings.database_url
            if name != "engine":
                own.execute(f"ALTER ROLE tcgx_{name} PASSWORD '{password}'")
                rest = own.settings.database_url.partition("@")[2]
                database = f"postgresql://tcgx_{name}:{quote(password)}@{rest}"
            settings[name] = msgspec.structs.replace(local, redis_url=url, database_url=database)
        services = {}
        with httpx.Client(base_url=f"http://127.0.0.1:{local.port}", trust_env=False, timeout=15) as client:
            try:
                for name in SERVICES:
                    services[name] = Service(name, settings[name], own.data_dir / f"{name}.output")
                    if name != "api":
                        services[name].works()
                until(lambda: lives(client), f"the API does not answer:\n{services['api'].output()}")
                yield Restricted(own, settings, client, services)
            finally:
                codes = [service.stop() for service in services.values()]
        assert codes == [0, 0, 0]


def lives(client: httpx.Client) -> bool:
    try:
        return client.get("/health/ready").status_code == 200
    except httpx.TransportError:
        return False


def test_the_exchange_does_all_of_its_work(restricted: Restricted) -> None:
    own, http = restricted.server, restricted.http
    own.redis.acl_log_reset()
    buyer, seller, admin = own.bearer(1), own.bearer(2), own.bearer(3, "admin")

    # More orders than a list holds before it is compacted, so that every path of append is taken.
    batch = {"orders": [ORDER | {"client_order_id": f"b-{number}"} for number in range(MANY)]}
    for _ in range(2):
        assert http.post("/orders/batch", json=batch, headers=buyer).status_code == 202
    sold = http.post("/orders", json=ORDER | {"side": "sell", "quantity": 5}, headers=seller | WAIT).json()
    assert sold.get("status") == "filled", (sold, own.redis.acl_log(), restricted.services["engine"].output()[-1500:])
    assert http.get(f"/orders/{sold['order_id']}", headers=seller).status_code == 200
    for path in ("/orders", "/orders?status=open", "/fills", "/history/orders", "/orders/by-client-id/b-1"):
        assert http.get(path, headers=buyer).status_code == 200, path
    market = (f"/cards/{CARD}/candles?interval=1m", f"/cards/{CARD}/ticker", "/ticker")
    archive = (f"/history/trades?card={CARD}", f"/history/trades.csv?card={CARD}")
    for path in ("/cards", f"/cards/{CARD}/book", f"/cards/{CARD}/trades", *market, *archive):
        assert http.get(path).status_code == 200, path
    assert http.delete("/orders", headers=buyer | WAIT).status_code == 200
    for _ in range(2):
        assert http.post("/orders/batch", json={"orders": [ORDER] * MANY}, headers=buyer).status_code == 202
    assert http.put("/orders/cancel-after", json={"seconds": 1}, headers=buyer).status_code == 200
    until(lambda: not http.get("/orders?status=open", headers=buyer).json()["orders"], "the switch cancels", seconds=20)
    assert http.get("/orders/cancel-after", headers=buyer).json()["cancel_at"] is None
    for path in (f"/admin/cards/{CARD}/halt", f"/admin/cards/{CARD}/resume", "/admin/traders/7/keys"):
        assert http.post(path, headers=admin).status_code in (200, 201), path
    made = http.post("/admin/traders/8/keys", headers=admin).json()
    assert http.post(f"/admin/keys/{made['key']['key_id']}/rotate", headers=admin).status_code == 201
    assert http.delete(f"/admin/keys/{made['key']['key_id']}", headers=admin).status_code == 200
    assert http.get("/admin/audit", headers=admin).json()["rows"]
    assert http.post("/auth/token", json={"trader_id": 9, "api_key": own.api_key(9)}).status_code == 200
    code = login_code(own.settings.redis_url, 9)
    assert http.post("/auth/login-code", json={"login_code": code}).status_code == 200
    own.archived()
    assert http.get("/health/ready").status_code == 200

    refused = {(entry["username"], entry["object"]) for entry in own.redis.acl_log()}
    assert {command for _, command in refused} <= NOT_GRANTED
    for name, service in restricted.services.items():
        assert "NOPERM" not in re.sub(r".*it can't be checked.*", "", service.output()), name


@pytest.mark.parametrize("name", ["api", "archiver"])
def test_a_service_may_wait_for_replicas(restricted: Restricted, name: str) -> None:
    async def shortfall() -> str:
        async with connection.connect(restricted.settings[name].redis_url) as client:
            acks = ReplicaAcks(client, replicas=1, milliseconds=2, is_always=True)
            with capture_logs() as told, pytest.raises(Unavailable) as raised:
                await acks.confirm()
            assert told == [], "WAITAOF is refused"
            return str(raised.value)

    assert asyncio.run(shortfall()) == "0 of 1 replicas have confirmed in time"


@pytest.mark.parametrize("name", SERVICES)
@pytest.mark.parametrize(
    "command",
    [
        ("FLUSHALL",),
        ("FLUSHDB",),
        ("CONFIG", "SET", "appendonly", "no"),
        ("CONFIG", "GET", "*"),
        ("DEL", "{pikachu}:orders"),
        ("UNLINK", "{pikachu}:orders"),
        ("DEL", "{pikachu}:events"),
        ("RENAME", "{pikachu}:orders", "{pikachu}:x"),
        ("FUNCTION", "FLUSH"),
        ("FUNCTION", "DELETE", "tcgx"),
        ("EVAL", "return 1", "0"),
        ("SHUTDOWN", "NOSAVE"),
        ("ACL", "LIST"),
        ("ACL", "SETUSER", "x", "on", "nopass", "+@all", "~*"),
        ("KEYS", "*"),
        ("MONITOR",),
        ("REPLICAOF", "127.0.0.1", "1"),
        ("GET", "somebody-elses"),
    ],
)
def test_no_service_may_destroy_or_take_over(restricted: Restricted, name: str, command: tuple[str, ...]) -> None:
    with restricted.as_user(name) as client, pytest.raises(redis.exceptions.NoPermissionError):
        client.execute_command(*command)


@pytest.mark.parametrize(
    ("name", "command"),
    [
        ("api", ("XTRIM", "{pikachu}:orders", "MAXLEN", "0")),
        ("api", ("XDEL", "{pikachu}:orders", "1-1")),
        ("api", ("ZADD", "{pikachu}:bids", "1", "x")),
        ("api", ("PUBLISH", "{pikachu}:matched", "1 1 0")),
        ("api", ("LTRIM", "{pikachu}:trades", "1", "0")),
        ("archiver", ("PUBLISH", "{pikachu}:matched", "1 1 0")),
        ("api", ("FUNCTION", "LOAD", "#!lua name=tcgx\n")),
        ("archiver", ("FUNCTION", "LOAD", "#!lua name=tcgx\n")),
        ("archiver", ("XADD", "{pikachu}:orders", "*", "a", "b")),
        ("archiver", ("HSET", "{pikachu}:history", "id", "x")),
        ("archiver", ("SET", "{pikachu}:sequence", "1")),
        ("archiver", ("ZADD", "{pikachu}:bids", "1", "x")),
        ("engine", ("XTRIM", "{pikachu}:orders", "MAXLEN", "0")),
        ("engine", ("SET", "{pikachu}:history", "1")),
        ("api", ("ZREM", "{pikachu}:asks", "x")),
        ("engine", ("DEL", "{pikachu}:trader:1")),
    ],
)
def test_no_service_may_do_the_work_of_another(restricted: Restricted, name: str, command: tuple[str, ...]) -> None:
    with restricted.as_user(name) as client, pytest.raises(redis.exceptions.NoPermissionError):
        client.execute_command(*command)


@pytest.mark.parametrize(
    ("name", "function"), [("archiver", "append"), ("archiver", "match"), ("api", "match"), ("api", "trim")]
)
def test_no_service_may_do_it_through_a_function(restricted: Restricted, name: str, function: str) -> None:
    own, engine = restricted.server, restricted.services["engine"]
    mark: Any = own.redis.fcall_ro("history", 1, f"{{{CARD}}}")
    arguments = {
        "append": _append_arguments(mark[0].decode()),
        "match": ["1000", "50"],
        "trim": ["1000000", "0", "0"],
    }[function]
    os.kill(engine.pid, signal.SIGSTOP)  # else it matches first, and nothing is left to refuse
    try:
        own.redis.fcall("append", 1, f"{{{CARD}}}", *_append_arguments(mark[0].decode()))
        stream: Any = own.redis.xinfo_stream(f"{{{CARD}}}:orders")
        with restricted.as_user(name) as client, pytest.raises(redis.exceptions.ResponseError, match="no permissions"):
            client.fcall(function, 1, f"{{{CARD}}}", *arguments)
        assert own.redis.xinfo_stream(f"{{{CARD}}}:orders") == stream
    finally:
        os.kill(engine.pid, signal.SIGCONT)


def _append_arguments(mark: str) -> list[str]:
    return ["1", mark, "100000", "0", "allow", "", "G", '["1"]', "[100]", "[1]", "", "", "1", "1", "1"]


@pytest.mark.parametrize(
    ("name", "sql"),
    [
        *(
            (name, sql)
            for name in ("api", "archiver")
            for sql in (
                "DELETE FROM orders",
                "UPDATE trades SET quantity = 1",
                "TRUNCATE trades_pikachu",
                "DROP TABLE orders",
                "CREATE TABLE x (y INTEGER)",
                "ALTER TABLE admin_audit DISABLE TRIGGER ALL",
                "UPDATE admin_audit SET outcome = 'done'",
                "DELETE FROM admin_audit",
                "INSERT INTO traders (trader_id) VALUES (99999)",
                "UPDATE traders SET role = 'admin'",
                "DELETE FROM api_keys",
                "UPDATE api_keys SET trader_id = 1",
                "DELETE FROM histories",
                "UPDATE histories SET ended_at = now()",
                "CREATE ROLE x",
                "COPY orders TO PROGRAM 'cat'",
                "SELECT pg_read_file('/etc/passwd')",
            )
        ),
        ("api", "INSERT INTO trades_pikachu (trade_number) VALUES (1)"),
        ("api", "INSERT INTO orders (card, sequence) VALUES ('pikachu', 1)"),
        ("api", "UPDATE archive_cursor SET sequence = 1"),
        ("archiver", "SELECT * FROM api_keys"),
        ("archiver", "SELECT * FROM traders"),
        ("archiver", "SELECT * FROM admin_audit"),
        ("archiver", "INSERT INTO api_keys (key_id) VALUES ('x')"),
    ],
)
def test_a_role_may_not_do_what_its_service_never_does(restricted: Restricted, name: str, sql: str) -> None:
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        restricted.sql(name, sql)
