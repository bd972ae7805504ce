"""Secrets that come from files, and that no secret is shown."""

from pathlib import Path

import pytest

from core import settings
from core.errors import SettingError
from core.settings import Settings, read, table

SECRET = "s3cret" * 6
URL = "postgresql://tcgx:pa:ss@example.org:5432/tcgx"


def written(folder: Path, content: bytes) -> str:
    path = folder / "secret"
    path.write_bytes(content)
    return str(path)


@pytest.mark.parametrize("end", [b"", b"\n", b"\r\n", b" \n\n"])
def test_a_secret_is_the_text_of_its_file(tmp_path: Path, end: bytes) -> None:
    path = written(tmp_path, SECRET.encode() + end)

    assert read({"TCGX_JWT_SECRET_FILE": path}).jwt_secret == SECRET


@pytest.mark.parametrize("field", settings.SECRETS)
def test_every_secret_may_come_from_a_file(tmp_path: Path, field: str) -> None:
    texts = {
        "redis_url": "redis://:pw@h:1/0",
        "database_url": URL,
        "jwt_secret": SECRET,
        "jwt_previous_secrets": SECRET,
    }
    path = written(tmp_path, texts[field].encode())

    found = getattr(read({settings.variable(field) + "_FILE": path}), field)

    assert found in (texts[field], (texts[field],))


@pytest.mark.parametrize("between", [b",", b"\n", b" ,\n"])
def test_previous_keys_may_stand_on_lines(tmp_path: Path, between: bytes) -> None:
    path = written(tmp_path, between.join([b"a" * 32, b"b" * 32]) + b"\n")

    assert read({"TCGX_JWT_PREVIOUS_SECRETS_FILE": path}).jwt_previous_secrets == ("a" * 32, "b" * 32)


@pytest.mark.parametrize(
    ("content", "says"),
    [(b"", "is empty"), (b" \n", "is empty"), (b"\xff", "UTF-8"), (b"a\0b", "zero byte"), (b"x" * 70_000, "more than")],
)
def test_a_file_that_holds_no_secret_stops_the_start(tmp_path: Path, content: bytes, says: str) -> None:
    path = written(tmp_path, content)

    with pytest.raises(SettingError, match=rf"TCGX_JWT_SECRET_FILE={path}.*{says}"):
        read({"TCGX_JWT_SECRET_FILE": path})


@pytest.mark.parametrize("path", ["/nowhere/at/all", "/tmp", "", "a\0b"])  # noqa: S108 - a folder, not a file of ours
def test_a_path_that_cannot_be_read_stops_the_start(path: str) -> None:
    with pytest.raises(SettingError, match="TCGX_JWT_SECRET_FILE"):
        read({"TCGX_JWT_SECRET_FILE": path})


def test_a_secret_has_one_source(tmp_path: Path) -> None:
    environment = {"TCGX_JWT_SECRET": SECRET, "TCGX_JWT_SECRET_FILE": written(tmp_path, SECRET.encode())}

    with pytest.raises(SettingError, match="TCGX_JWT_SECRET and TCGX_JWT_SECRET_FILE are both set") as raised:
        read(environment)
    assert SECRET not in str(raised.value)


def test_what_is_no_secret_has_no_file(tmp_path: Path) -> None:
    with pytest.raises(SettingError, match="TCGX_PORT_FILE is not a setting"):
        read({"TCGX_PORT_FILE": written(tmp_path, b"8000")})


@pytest.mark.parametrize("secrets", [("short",), ("a" * 32, "b" * 31), ("é" * 15,)])
def test_a_previous_key_has_as_many_bytes_as_a_current_one(secrets: tuple[str, ...]) -> None:
    with pytest.raises(SettingError, match=r"TCGX_JWT_PREVIOUS_SECRETS: key \d must have at least 32 bytes") as raised:
        settings.check(Settings(jwt_previous_secrets=secrets))
    assert not any(secret in str(raised.value) for secret in secrets)


def test_there_are_only_so_many_previous_keys() -> None:
    with pytest.raises(SettingError, match="11 keys, and 10 are the most"):
        settings.check(Settings(jwt_previous_secrets=("a" * 32,) * 11))


@pytest.mark.parametrize(
    "url",
    [
        f"postgresql://tcgx:{SECRET}@h/d",
        f"postgresql://tcgx:{SECRET}@{SECRET}@h/d",
        f"postgresql://tcgx:a@{SECRET}/x@h/d",
        f"postgresql://h/d?password={SECRET}",
        f"postgresql://h/d?user=x&password={SECRET}&sslpassword={SECRET}",
        f"postgresql://h/d?pass%77ord={SECRET}",
        f"postgresql://tcgx:{SECRET}#x@h/d",
    ],
)
def test_no_table_shows_a_secret(url: str) -> None:
    configured = Settings(
        redis_url=url.replace("postgresql", "redis"),
        database_url=url,
        jwt_secret=SECRET,
        jwt_previous_secrets=(SECRET, SECRET),
    )

    rows = {name: value for name, value, *_ in table(configured, {})}

    assert SECRET not in repr(table(configured, {}))
    assert rows["TCGX_JWT_SECRET"] == "(set)"
    assert rows["TCGX_JWT_PREVIOUS_SECRETS"] == "(2 set)"
