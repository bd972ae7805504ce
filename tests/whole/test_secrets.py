"""No secret is in what a run writes or shows: logs, errors, `tcgx settings`, `doctor`, and the process list."""

import json
import re
from pathlib import Path
from urllib.parse import unquote, urlsplit

import httpx
import pytest

from testing.exchange import TcgxUp, tcgx_up
from testing.processes import descendants, tcgx

pytestmark = pytest.mark.server

CURRENT, PREVIOUS = "current-key-" + "c" * 32, "previous-key-" + "p" * 32
COMMANDS = (
    ("settings",),
    ("doctor",),
    ("keys", "list", "1"),
    ("keys", "list", "999999"),
    ("keys", "revoke", "0" * 16),
    ("halt", "missingno"),
    ("halt", "pikachu"),
    ("resume", "pikachu"),
    ("book", "pikachu"),
    ("replay",),
    ("traders", "role", "1", "admin"),
)
BAD = {
    "TCGX_DATABASE_URL": "postgresql://tcgx:{secret}/x@127.0.0.1:1/tcgx",
    "TCGX_REDIS_URL": "redis://:{secret}#x@127.0.0.1:1/0",
    "TCGX_JWT_PREVIOUS_SECRETS": "{secret}",
}
UNREACHABLE = {
    "TCGX_DATABASE_URL": "postgresql://tcgx:{secret}@127.0.0.1:1/tcgx?sslpassword={secret}",
    "TCGX_REDIS_URL": "redis://:{secret}@127.0.0.1:1/0",
    "TCGX_JWT_SECRET": "{secret}{secret}",
}
SHOWING = ("settings", "doctor", "migrate", "api", "engine")
TYPED = "hunter2-hunter2-hunter2"


def secrets_of(up: TcgxUp) -> dict[str, str]:
    """Every secret of a running exchange, by what it is."""
    kept = json.loads((up.data_dir / "secrets.json").read_text())
    urls = {"redis": up.urls.redis, "database": up.urls.database}
    found = {f"secrets.json {name}": value for name, value in kept.items() if isinstance(value, str)}
    found |= {f"{name} password": unquote(urlsplit(url).password or "") for name, url in urls.items()}
    found |= {"current signing key": CURRENT, "previous signing key": PREVIOUS}
    with (up.data_dir / "traders.csv").open() as file:
        found |= {f"api key of {line.split(',')[0]}": line.strip().split(",")[1] for line in file.readlines()[1:]}
    assert all(len(value) >= 16 for value in found.values()), [name for name, value in found.items() if len(value) < 16]
    return found


def revealed(text: str, secrets: dict[str, str]) -> list[str]:
    """The secrets that a text has, by what they are."""
    return [name for name, value in secrets.items() if value in text or value in unquote(text)]


def test_no_output_of_a_run_has_a_secret(tmp_path: Path) -> None:
    for name, text in (("current", CURRENT), ("previous", PREVIOUS)):
        (tmp_path / name).write_text(text + "\n")
    variables = {
        "TCGX_JWT_SECRET_FILE": str(tmp_path / "current"),
        "TCGX_JWT_PREVIOUS_SECRETS_FILE": str(tmp_path / "previous"),
        "TCGX_LOG_LEVEL": "debug",
    }
    with tcgx_up(tmp_path, variables=variables) as up:
        secrets = secrets_of(up)
        shown = {"greeting": up.greeting}
        for words in COMMANDS:
            ended = tcgx(tmp_path, *words, variables=variables)
            shown[" ".join(words)] = ended.stdout + ended.stderr
        key = secrets["api key of 1"]
        wrong = [
            {"trader_id": 2, "api_key": key},
            {"trader_id": 1, "api_key": [key]},
            {"trader_id": 1, "api_key": key, "more": 1},
        ]
        with httpx.Client(base_url=f"http://127.0.0.1:{up.port}", trust_env=False) as client:
            for number, body in enumerate(wrong):
                answer = client.post("/auth/token", json=body)
                assert answer.status_code in (401, 422)
                shown[f"wrong login {number}"] = answer.text
            token = client.post("/auth/token", json={"trader_id": 1, "api_key": key}).json()["access_token"]
            secrets["token"] = token
            for path in ("/orders", "/nope", "/admin/audit", "/health/ready", "/schema/openapi.json"):
                answer = client.get(path, headers={"authorization": f"Bearer {token}"})
                shown[path] = answer.text + repr(answer.headers)
            shown["broken token"] = client.get("/orders", headers={"authorization": f"Bearer {token[:-2]}"}).text
        up.kill("postgres")
        with httpx.Client(base_url=f"http://127.0.0.1:{up.port}", trust_env=False) as client:
            shown["without PostgreSQL"] = client.get("/history/trades?card=pikachu").text
        up.kill("api-1" if up.member("api-1") else "api")
        for pid in [up.pid, *descendants(up.pid)]:
            command_line = Path(f"/proc/{pid}/cmdline")
            shown[f"command line of {pid}"] = command_line.read_text() if command_line.exists() else ""
        up.stop()
        shown["errors"] = up.errors()
        for log in up.data_dir.glob("*.log"):
            shown[log.name] = log.read_text(errors="replace")

    assert len(shown) > 25
    assert re.search(r"TCGX_JWT_SECRET +\(set\)", shown["settings"])
    assert re.search(r"TCGX_JWT_PREVIOUS_SECRETS +\(1 set\)", shown["settings"])
    assert {name: found for name, text in shown.items() if (found := revealed(text, secrets))} == {}


@pytest.mark.parametrize(
    ("words", "values"),
    [
        *(((name,), values) for name in SHOWING for values in (BAD, UNREACHABLE)),
        (("archiver",), BAD),  # it waits for servers that do not answer
    ],
)
def test_a_wrong_address_is_refused_without_its_password(
    tmp_path: Path, words: tuple[str, ...], values: dict[str, str]
) -> None:
    for name, value in values.items():
        ended = tcgx(tmp_path, *words, variables={name: value.format(secret=TYPED)})
        assert ended.returncode != 0 or words == ("settings",)
        assert TYPED not in ended.stdout + ended.stderr, name
