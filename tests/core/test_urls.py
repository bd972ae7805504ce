"""What may stand in the addresses of servers, and that no password of one is shown."""

import asyncio
from typing import Any

import pytest

from archiver import postgres
from core import settings, urls
from core.errors import SettingError
from core.settings import Settings
from engine import connection

PASSWORD = "hunter2"

GOOD_REDIS = [
    "redis://127.0.0.1:6379/0",
    "redis://localhost",
    "redis://user:hunter2@[::1]:6379/3",
    "redis://:hunt@er2@10.0.0.1/0",
    "redis://127.0.0.1?username=a&password=hunter2&db=1",
    "rediss://redis.example:6380/0?ssl_cert_reqs=none&ssl_ca_certs=/ca.pem",
    "redis+sentinel://10.0.0.1,10.0.0.2:26380,[::1]:26381/cards",
    "redis+sentinel://user:hunt%2Fer2@a:1,b:2,c/cards/3?sentinel_username=s&sentinel_password=hunter2",
    "rediss+sentinel://:hunter2@a/cards?ssl_ca_certs=/ca.pem&db=1",
    "redis+cluster://10.0.0.1,10.0.0.2:7001,[::1]:7002",
    "redis+cluster://user:hunt%2Fer2@a:1,b:2/0",
    "rediss+cluster://:hunter2@a?ssl_ca_certs=/ca.pem",
    "unix:///run/redis.sock",
    "unix://:hunter2@/run/redis.sock?db=0",
]
GOOD_DATABASE = [
    "postgresql://tcgx@127.0.0.1:5432/tcgx",
    "postgres://tcgx:hunt@er2@a.example,b.example:5433/tcgx?sslmode=require&target_session_attrs=read-write",
    "postgresql://tcgx:hunter2@/tcgx?host=/run/postgresql&port=5432",
    "postgresql:///tcgx?host=[::1]&user=tcgx&password=hunter2&application_name=archive&options=-c%20jit%3Doff",
]
BAD_REDIS = [
    ("redis://127.0.0.1?protocol=3", "'protocol'"),
    ("redis://127.0.0.1?decode_responses=true", "'decode_responses'"),
    ("unix:///s?encoding=latin-1", "'encoding'"),
    ("redis://127.0.0.1?encoding_errors=ignore", "'encoding_errors'"),
    ("redis://127.0.0.1?legacy_responses=false", "'legacy_responses'"),
    ("redis://127.0.0.1?socket_timeout=1", "'socket_timeout'"),
    ("redis://127.0.0.1?max_connections=1", "'max_connections'"),
    ("redis://127.0.0.1?client_name=me", "'client_name'"),
    ("redis://127.0.0.1?retry_on_timeout=yes", "'retry_on_timeout'"),
    ("redis://127.0.0.1?ssl_cert_reqs=none", "'ssl_cert_reqs'"),
    ("redis://127.0.0.1?what=ever", "'what'"),
    ("redis://127.0.0.1?db", "name=value"),
    ("redis://127.0.0.1/zero", "database"),
    ("redis://127.0.0.1/0?db=zero", "database"),
    ("redis://127.0.0.1:99999", "port"),
    ("redis://a:1,b:2/0", "one host"),
    ("sentinel://a:1", "redis:// or rediss:// or unix:// or redis+sentinel://"),
    ("redis+sentinel://a:1,b:2", "must name the primary as the sentinels do"),
    ("redis+sentinel://a:1,,b:2/cards", "none between two commas"),
    ("redis+sentinel:///cards", "at least one sentinel"),
    ("redis+sentinel://a:1,b:99999/cards", "port"),
    ("redis+sentinel://a:1/cards/zero", "database"),
    ("redis+sentinel://a:1/cards?ssl_ca_certs=/ca.pem", "'ssl_ca_certs'"),
    ("redis://a:1?sentinel_password=hunter2", "'sentinel_password'"),
    ("redis+cluster://a:1,,b:2", "none between two commas"),
    ("redis+cluster://", "at least one server"),
    ("redis+cluster://a:1,b:99999", "port"),
    ("redis+cluster://:hunter2@a:1/3", "database 0 alone, got '3'"),
    ("redis+cluster://a:1?ssl_ca_certs=/ca.pem", "'ssl_ca_certs'"),
    ("redis:", "begin"),
    ("unix://", "socket"),
    ("redis://:hunter2/x@127.0.0.1/0", "%2F"),
    ("redis://:hunter2?x@127.0.0.1/0", "%3F"),
    ("redis://:hunter2#x@127.0.0.1/0", "%23"),
    ("redis://:hunter2℀@127.0.0.1/0", "no address"),
]
BAD_DATABASE = [
    ("postgresql://h/d?channel_binding=require", "'channel_binding'"),
    ("postgresql://h/d?connect_timeout=3", "'connect_timeout'"),
    ("postgresql://h/d?pool_timeout=3", "'pool_timeout'"),
    ("postgresql://h/d?statement_timeout=3", "'statement_timeout'"),
    ("postgresql://h/d?DateStyle=German", "'DateStyle'"),
    ("postgresql://h/d?target_session_attrs=standby", "target_session_attrs"),
    ("postgresql://h/d?sslmode", "name=value"),
    ("postgresql://h:1,k:x/d", "port"),
    ("postgresql+asyncpg://h/d", "postgresql:// or postgres://"),
    ("postgresql://u:hunter2/1@h/d", "%2F"),
    ("postgresql://u:12/hunter2@h/d", "@"),
    ("postgresql://u:hunter2#1@h/d", "%23"),
]


@pytest.mark.parametrize("url", GOOD_REDIS)
def test_an_address_of_redis_that_works_is_taken(url: str) -> None:
    urls.check_redis(url)


@pytest.mark.parametrize("url", GOOD_DATABASE)
def test_an_address_of_a_database_that_works_is_taken(url: str) -> None:
    urls.check_database(url)


@pytest.mark.parametrize(("url", "named"), BAD_REDIS)
def test_what_is_wrong_with_an_address_of_redis_is_named_without_the_password(url: str, named: str) -> None:
    with pytest.raises(SettingError) as refused:
        settings.read({"TCGX_REDIS_URL": url})

    assert "TCGX_REDIS_URL" in str(refused.value)
    assert named in str(refused.value)
    assert PASSWORD not in str(refused.value)
    with pytest.raises(SettingError):
        connection.connect(url)


@pytest.mark.parametrize(("url", "named"), BAD_DATABASE)
def test_what_is_wrong_with_an_address_of_a_database_is_named_without_the_password(url: str, named: str) -> None:
    with pytest.raises(SettingError) as refused:
        settings.read({"TCGX_DATABASE_URL": url})

    assert "TCGX_DATABASE_URL" in str(refused.value)
    assert named in str(refused.value)
    assert PASSWORD not in str(refused.value)
    with pytest.raises(SettingError):
        asyncio.run(postgres.connect(url))


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://127.0.0.1:6379/0", "redis://127.0.0.1:6379/0"),
        ("redis://me@h/0", "redis://me@h/0"),
        ("unix:///run/s?db=0", "unix:///run/s?db=0"),
        ("redis://:hunter2@h:1/0", "redis://:***@h:1/0"),
        ("redis://me:hunter2@h:1/0", "redis://me:***@h:1/0"),
        ("redis://me:@h@unter2@h:1/0", "redis://me:***@h:1/0"),
        ("redis://h/0?password=hunter2&db=1", "redis://h/0?password=***&db=1"),
        ("redis://h/0?pass%77ord=hunter2", "redis://h/0?pass%77ord=***"),
        ("rediss://h/0?ssl_password=hunter2", "rediss://h/0?ssl_password=***"),
        ("unix://:hunter2@/run/s?db=0", "unix://:***@/run/s?db=0"),
        ("postgresql://u@/d?host=/run&password=hunter2&sslpassword=hunter2", None),
        ("postgresql://u:12/hunter2@h/d", "postgresql://***"),
        ("postgresql://u:12#hunter2@h/d", "postgresql://***"),
    ],
)
def test_a_password_is_masked_wherever_it_stands(url: str, shown: str | None) -> None:
    masked = urls.mask_passwords(url)

    assert PASSWORD not in masked
    assert "unter2" not in masked
    assert shown in (None, masked)


@pytest.mark.parametrize("field", ["redis_url", "database_url"])
def test_the_list_of_settings_shows_no_password(field: str) -> None:
    scheme = "redis" if field == "redis_url" else "postgresql"
    changed: dict[str, Any] = {field: f"{scheme}://me:a@{PASSWORD}@h/0?password={PASSWORD}"}

    listed = settings.table(Settings(**changed), {})

    assert PASSWORD not in str(listed)
    assert f"{scheme}://me:***@h/0?password=***" in str(listed)


def test_the_parts_of_an_address_of_a_cluster() -> None:
    address = urls.cluster_address("rediss+cluster://me:a%2Fb@one,two:7,[::1],[::2]:8/0?ssl_ca_certs=/ca.pem")

    assert address.seeds == [("one", 6379), ("two", 7), ("::1", 6379), ("::2", 8)]
    assert address.url_of("one", 6379) == "rediss://me:a%2Fb@one:6379/0?ssl_ca_certs=/ca.pem"
    assert address.url_of("::2", 8) == "rediss://me:a%2Fb@[::2]:8/0?ssl_ca_certs=/ca.pem"


def test_the_parts_of_an_address_of_sentinels() -> None:
    address = urls.sentinel_address(
        "rediss+sentinel://me:a%2Fb@one,two:7,[::1]/cards/3?sentinel_password=c%40d&ssl_ca_certs=/ca.pem"
    )

    assert address.name == "cards"
    assert address.sentinels == [
        f"rediss://:c%40d@{host}/?ssl_ca_certs=%2Fca.pem" for host in ("one:26379", "two:7", "[::1]:26379")
    ]
    assert address.primary == "rediss://me:a%2Fb@primary/3?ssl_ca_certs=%2Fca.pem"
