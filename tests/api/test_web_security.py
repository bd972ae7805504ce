"""Headers for browsers, CORS, and TLS: of the API, and to Redis and PostgreSQL."""

import asyncio
import base64
import hashlib
import os
import re
import shutil
import ssl
from collections.abc import Iterator
from pathlib import Path

import httpx
import msgspec
import pytest

from archiver import postgres, schema, traders
from cli import datadir, embedded_postgres
from cli.embedded_postgres import PostgresServer
from core.errors import SettingError
from core.settings import Settings, read
from testing import certificates
from testing.certificates import Certificate
from testing.exchange import ExchangeServer, exchange_server
from testing.processes import module
from testing.servers import free_port
from testing.services import Service
from testing.waiting import until
from tests.api.test_fast_path import in_chunks

ORDER = b'{"card":"pikachu","side":"buy","price":"1.00"}'
ORIGIN = "https://desk.example.org"
DEBIANS_REDIS = "/usr/bin/redis-server"
DEBIANS_POSTGRES = sorted(Path("/usr/lib/postgresql").glob("*/bin"))


# -- headers


@pytest.mark.server
def test_the_page_runs_scripts_of_ours_alone(exchange: ExchangeServer) -> None:
    page = exchange.http.get("/schema/swagger")

    policy = page.headers["content-security-policy"]
    scripts = re.findall(r"<script>(.*?)</script>", page.text, re.DOTALL)
    hashes = [base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts]
    assert len(scripts) == 1
    assert re.search(r"script-src ([^;]*)", policy)[1] == f"'self' 'sha256-{hashes[0]}'"  # type: ignore[index]
    for part in ("default-src 'none'", "frame-ancestors 'none'", "base-uri 'none'", "connect-src 'self'"):
        assert part in policy
    assert page.headers["referrer-policy"] == "no-referrer"
    assert not re.search(r"\son\w+=|javascript:|(src|href)=\"https?:", page.text)


@pytest.mark.server
def test_without_tls_no_browser_is_told_to_use_it(exchange: ExchangeServer) -> None:
    for path in ("/cards", "/schema/swagger", "/nope"):
        answer = exchange.http.get(path)
        assert "strict-transport-security" not in answer.headers
        assert answer.headers["x-content-type-options"] == "nosniff"


# -- CORS


@pytest.fixture(scope="module")
def shared_with_pages() -> Iterator[ExchangeServer]:
    with exchange_server("api", cors_origins=(ORIGIN, "http://localhost:3000")) as server:
        yield server


def cors_headers(answer: httpx.Response) -> dict[str, str]:
    return {name: value for name, value in answer.headers.items() if name.startswith("access-control-")}


@pytest.mark.server
def test_cors_is_off_unless_it_is_set(exchange: ExchangeServer) -> None:
    headers = {"origin": ORIGIN, "access-control-request-method": "POST"} | exchange.bearer(1)
    for answer in (
        exchange.http.get("/cards", headers=headers),
        exchange.http.options("/orders", headers=headers),
        exchange.http.post("/orders", content=b"x", headers=headers),
    ):
        assert cors_headers(answer) == {}


@pytest.mark.server
@pytest.mark.parametrize("origin", [ORIGIN, "http://localhost:3000"])
def test_both_ways_allow_the_origins_that_are_listed(shared_with_pages: ExchangeServer, origin: str) -> None:
    own = shared_with_pages
    headers = own.bearer(1) | {"origin": origin}
    for body, status in ((ORDER, 202), (b"no JSON", 422)):
        fast = own.http.post("/orders", content=body, headers=headers)
        slow = own.http.post("/orders", content=in_chunks(body), headers=headers)
        assert fast.status_code == slow.status_code == status
        for answer in (fast, slow):
            assert answer.headers.get_list("access-control-allow-origin") == [origin]
            assert answer.headers["vary"] == "Origin"
            assert {"retry-after", "x-request-id"} <= set(
                answer.headers["access-control-expose-headers"].replace(" ", "").split(",")
            )
            assert "access-control-allow-credentials" not in answer.headers
    unauthorized = own.http.post("/orders", content=ORDER, headers={"origin": origin})
    assert (unauthorized.status_code, unauthorized.headers["access-control-allow-origin"]) == (401, origin)


@pytest.mark.server
@pytest.mark.parametrize("origin", ["https://desk.example.org.evil", "http://desk.example.org", "null", "é"])
def test_other_origins_are_allowed_nothing(shared_with_pages: ExchangeServer, origin: str) -> None:
    own = shared_with_pages
    headers = [(b"origin", origin.encode()), (b"authorization", own.bearer(1)["authorization"].encode())]
    for content in (ORDER, in_chunks(ORDER)):
        answer = httpx.post(f"{own.url}/orders", content=content, headers=headers, trust_env=False)
        assert "access-control-allow-origin" not in answer.headers


@pytest.mark.server
def test_a_preflight_is_answered_for_the_origins_that_are_listed(shared_with_pages: ExchangeServer) -> None:
    asked = {"access-control-request-method": "POST", "access-control-request-headers": "authorization,prefer"}

    allowed = shared_with_pages.http.options("/orders", headers=asked | {"origin": ORIGIN})
    refused = shared_with_pages.http.options("/orders", headers=asked | {"origin": "https://evil.example"})
    plain = shared_with_pages.http.options("/orders")

    assert (allowed.status_code, allowed.headers["access-control-allow-origin"]) == (204, ORIGIN)
    assert "POST" in allowed.headers["access-control-allow-methods"]
    assert refused.status_code == 400
    assert "access-control-allow-origin" not in refused.headers
    assert plain.status_code == 204


@pytest.mark.parametrize("origin", ["example.org", "https://example.org/", "https://Example.org", "ftp://x", "null"])
def test_what_is_no_origin_stops_the_start(origin: str) -> None:
    with pytest.raises(SettingError, match="TCGX_CORS_ORIGINS"):
        read({"TCGX_CORS_ORIGINS": origin})


# -- TLS


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    return certificates.make(tmp_path_factory.mktemp("certificates"))


def https(certificate: Certificate, port: int) -> httpx.Client:
    context = ssl.create_default_context(cafile=certificate.cert)
    return httpx.Client(base_url=f"https://127.0.0.1:{port}", verify=context, trust_env=False, timeout=10)


@pytest.mark.server
def test_the_api_speaks_https(certificate: Certificate) -> None:
    with exchange_server("engine") as own:
        port = free_port()
        encrypted = msgspec.structs.replace(
            own.settings, port=port, api_workers=1, tls_cert=str(certificate.cert), tls_key=str(certificate.key)
        )
        service = Service("api", encrypted, own.data_dir / "https.output")
        with https(certificate, port) as client:
            try:
                until(lambda: lives(client), f"the API does not answer:\n{service.output()}")
                headers = own.bearer(1) | {"prefer": "wait=5"}
                fast = client.post("/orders", content=ORDER, headers=headers)
                slow = client.post("/orders", content=in_chunks(ORDER), headers=headers)
                other = client.get("/cards")
                oversized = client.post("/orders", content=b"x" * 20_000_000, headers=headers)
                with pytest.raises(httpx.TransportError):
                    httpx.get(f"http://127.0.0.1:{port}/cards", trust_env=False)
                old = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
                assert old.minimum_version >= ssl.TLSVersion.TLSv1_2
            finally:
                assert service.stop() == 0, service.output()

    assert [answer.status_code for answer in (fast, slow, other, oversized)] == [200, 200, 200, 413]
    for answer in (fast, slow, other):
        assert answer.headers["strict-transport-security"] == "max-age=31536000"


def lives(client: httpx.Client) -> bool:
    try:
        return client.get("/health/live").status_code == 200
    except httpx.TransportError:
        return False


@pytest.mark.server
@pytest.mark.parametrize(("cert", "key"), [("missing", "key"), ("cert", "missing"), ("key", "key"), ("cert", "other")])
def test_a_certificate_that_cannot_be_used_stops_the_start(
    exchange: ExchangeServer, certificate: Certificate, tmp_path: Path, cert: str, key: str
) -> None:
    paths = {"cert": certificate.cert, "key": certificate.key, "missing": tmp_path / "missing"}
    paths["other"] = certificates.make(tmp_path, "other").key
    local = msgspec.structs.replace(
        exchange.settings, port=free_port(), tls_cert=str(paths[cert]), tls_key=str(paths[key])
    )
    service = Service("api", local, tmp_path / "output")

    assert service.wait() == 1
    assert "TCGX_TLS_" in service.output()
    assert "Traceback" not in service.output()


def test_a_certificate_needs_its_key() -> None:
    with pytest.raises(SettingError, match="TCGX_TLS_CERT is set, and TCGX_TLS_KEY is not"):
        read({"TCGX_TLS_CERT": "/x"})


@pytest.mark.server
@pytest.mark.skipif(not Path(DEBIANS_REDIS).exists(), reason="the packaged server has no TLS")
def test_the_exchange_trades_over_a_redis_with_tls(certificate: Certificate) -> None:
    port = free_port()
    lines = (
        f"tls-port {port}\n",
        f"tls-cert-file {certificate.cert}\n",
        f"tls-key-file {certificate.key}\n",
        f"tls-ca-cert-file {certificate.cert}\n",
        "tls-auth-clients no\n",
    )
    with exchange_server("archiver", redis_lines=lines, redis_bin=DEBIANS_REDIS) as own:
        own.stop_service("archiver")
        password = own.settings.redis_url.partition("://")[2].partition("@")[0].rpartition(":")[2]
        url = f"rediss://:{password}@127.0.0.1:{port}/0?ssl_ca_certs={certificate.cert}"
        _trades_with(own, redis_url=url)
        strange = msgspec.structs.replace(own.settings, redis_url=url.partition("?")[0])
        service = Service("engine", strange, own.data_dir / "strange.output")
        assert service.wait() == 1
        assert "certificate verify failed" in service.output()


def _trades_with(own: ExchangeServer, **changes: str) -> None:
    """Trades, archives, and logs in through services with these settings."""
    local = msgspec.structs.replace(own.settings, port=free_port(), api_workers=1, **changes)
    services = [Service(name, local, own.data_dir / f"{name}-tls.output") for name in ("engine", "archiver", "api")]
    with httpx.Client(base_url=f"http://127.0.0.1:{local.port}", trust_env=False, timeout=10) as client:
        try:
            until(lambda: lives(client), f"the API does not answer:\n{services[2].output()}")
            sell = ORDER.replace(b"buy", b"sell")
            client.post("/orders", content=ORDER, headers=own.bearer(1)).raise_for_status()
            answer = client.post("/orders", content=sell, headers=own.bearer(2) | {"prefer": "wait=10"})
            assert answer.json()["status"] == "filled"
            until(
                lambda: len(client.get("/history/orders", headers=own.bearer(2)).json().get("orders", [])) == 1,
                "the order is archived",
            )
            login = client.post("/auth/token", json={"trader_id": 3, "api_key": own.api_key(3)})
            assert login.status_code == 200
        finally:
            assert [service.stop() for service in services] == [0, 0, 0]


@pytest.mark.server
@pytest.mark.skipif(not DEBIANS_POSTGRES, reason="the packaged PostgreSQL has no TLS")
def test_the_exchange_trades_over_a_postgresql_with_tls(
    certificate: Certificate, monkeypatch: pytest.MonkeyPatch
) -> None:
    port = free_port()
    monkeypatch.setattr(embedded_postgres, "POSTGRES_PORT", port)
    of_package = PostgresServer._options
    with exchange_server("engine") as own, datadir.ephemeral() as data_dir:
        listening = {"listen_addresses": "127.0.0.1"}
        monkeypatch.setattr(PostgresServer, "_options", lambda server: of_package(server) | listening)
        local = Settings(data_dir=str(data_dir), pg_bin=str(DEBIANS_POSTGRES[-1]))
        server = PostgresServer(local, datadir.load_secrets(data_dir))
        asyncio.run(server.start())
        try:
            asyncio.run(_encrypt(server.url, data_dir, certificate, own))
            password = server.url.partition("://")[2].partition("@")[0].rpartition(":")[2]
            url = f"postgresql://tcgx:{password}@127.0.0.1:{port}/tcgx?sslmode="
            own.stop_service("engine")
            _trades_with(own, database_url=f"{url}verify-full&sslrootcert={certificate.cert}")
            for refused in (f"{url}disable", f"{url}verify-full"):
                other = msgspec.structs.replace(own.settings, database_url=refused)
                doctor = module("tcgx", "doctor", "--only", "database", local=other)
                assert doctor.returncode == 1
        finally:
            asyncio.run(server.stop())


async def _encrypt(url: str, data_dir: Path, certificate: Certificate, own: ExchangeServer) -> None:
    """Gives a PostgreSQL a certificate and the tables and traders of an exchange, and refuses plain connections."""
    folder = (data_dir / "postgres").resolve()
    owner = folder.stat()
    for source, name in ((certificate.cert, "tls.crt"), (certificate.key, "tls.key")):
        shutil.copy(source, folder / name)
        os.chown(folder / name, owner.st_uid, owner.st_gid)
        (folder / name).chmod(0o600)
    rules = folder / "pg_hba.conf"
    rules.write_text("local all all scram-sha-256\nhostssl all all 127.0.0.1/32 scram-sha-256\n")
    database = await postgres.connect(url)
    try:
        for name, value in (("ssl_cert_file", "tls.crt"), ("ssl_key_file", "tls.key"), ("ssl", "on")):
            await database.execute(f"ALTER SYSTEM SET {name} = '{value}'")
        await database.execute("SELECT pg_reload_conf()")
        await schema.migrate(database, own.settings.cards)
        (own.data_dir / "traders.csv").unlink()
        await traders.seed(database, 5, own.data_dir / "traders.csv")
    finally:
        await database.close()
