"""README.md, typed as it stands: every command, in order, in a fresh folder, with what it answers."""

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from testing.processes import environment
from testing.servers import free_port
from testing.waiting import until

pytestmark = pytest.mark.server

ROOT = Path(__file__).parents[2]
SETUP_SECONDS = 420
COMMANDS_SECONDS = 120
STOP_SECONDS = 30
LINES_MAX = 125
NOT_TYPED = "git clone "
TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")


def blocks(language: str) -> list[list[str]]:
    """The lines of each block of the README in this language, without comments."""
    found = re.findall(rf"^```{language}\n(.*?)^```$", (ROOT / "README.md").read_text(), re.MULTILINE | re.DOTALL)
    return [[re.sub(r"\s{2,}# .*$", "", line) for line in block.splitlines()] for block in found]


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files of this project and nothing else, in a folder of their own."""
    folder = tmp_path_factory.mktemp("readme") / "tcgx"
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    for name in listed.stdout.splitlines():
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)
    return folder


@contextmanager
def running(checkout: Path, port: int) -> Iterator[None]:
    """`make run`, from its first line until Ctrl-C."""
    output = (checkout.parent / "output").open("wb")
    process = subprocess.Popen(
        ["make", "run"],
        cwd=checkout,
        env=environment(TCGX_PORT=str(port)),
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    try:

        def listens() -> bool:
            told = (checkout.parent / "output").read_text()
            assert process.poll() is None, told
            return "The exchange listens on" in told

        until(listens, seconds=SETUP_SECONDS, why="no greeting")
        yield
    finally:
        os.killpg(process.pid, signal.SIGINT)
        assert process.wait(STOP_SECONDS) in (0, -signal.SIGINT, 130)
        output.close()


def typed(checkout: Path, lines: list[str]) -> list[str]:
    """Types these commands into one shell; what each of them prints."""
    script = "\n".join(f"echo @@; {line}" for line in lines)
    done = subprocess.run(
        ["bash", "-e", "-c", script],
        cwd=checkout,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=COMMANDS_SECONDS,
        check=False,
    )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    return [part.strip() for part in done.stdout.split("@@\n")[1:]]


def test_every_command_of_the_readme_does_what_it_says(checkout: Path) -> None:
    port, other_port = free_port(), free_port()
    first, *others = blocks("sh")
    assert [line for line in first if not line.startswith(NOT_TYPED)] == ["make run"]
    with running(checkout, port):
        urls = json.loads(typed(checkout, [".venv/bin/tcgx urls --json"])[0])

        def here(line: str) -> str:
            line = line.replace("8000", str(port)).replace("8080", str(other_port))
            line = line.replace("redis://:PASSWORD@HOST:6379/0", shlex.quote(urls["redis"]))
            return line.replace("postgresql://USER:PASSWORD@HOST/tcgx", shlex.quote(urls["database"]))

        placing, token, production, looking = [[here(line) for line in block] for block in others]
        check_orders(typed(checkout, placing))
        assert json.loads(typed(checkout, token)[-1])["token_type"] == "bearer"
        if shutil.which("redis-cli") is None:
            looking = [line for line in looking if not line.startswith("redis-cli")]
        typed(checkout, looking)
        check_redis(urls["redis"])
        check_production(checkout, production, other_port)


def check_orders(printed: list[str]) -> None:
    """The answers to the first orders, and the book that is drawn."""
    answers: list[Any] = [json.loads(text) for text in printed[2:6]]
    assert answers[0]["status"] == "accepted"
    assert (answers[1]["status"], answers[1]["average_price"]) == ("filled", "5.50")
    assert [order["status"] for order in answers[2]["orders"]] == ["filled", "filled"]
    assert len(answers[3]["fills"]) == 2
    assert "pikachu" in printed[6]


def check_redis(url: str) -> None:
    """What redis-cli shows, but for the times."""
    program = shutil.which("redis-cli")
    if program is None:
        pytest.skip("no redis-cli: install redis-tools")
    ((*lines,),) = blocks("redis")
    shown: dict[str, list[str]] = {}
    for line in lines:
        if line.startswith("> "):
            command = line.removeprefix("> ")
            shown[command] = []
        else:
            shown[command].append(line)
    for command, expected in shown.items():
        done = subprocess.run(
            [program, "--no-auth-warning", "--no-raw", "-u", url, *command.split()],
            capture_output=True,
            text=True,
            check=True,
        )
        assert TIME.sub("TIME", done.stdout).split() == TIME.sub("TIME", "\n".join(expected)).split(), command


def check_production(checkout: Path, lines: list[str], port: int) -> None:
    """The services of production work beside the others."""
    services = [part.strip() for part in lines[-1].split("&") if part.strip()]
    assert len(services) == 3
    shell = "\n".join(lines[:-1])
    script = f"set -e\n{shell}\n" + "".join(f"{service} &\n" for service in services) + "wait\n"
    process = subprocess.Popen(
        ["bash", "-c", script], cwd=checkout, env=environment(), stdin=subprocess.DEVNULL, start_new_session=True
    )
    try:

        def is_ready() -> bool:
            try:
                return httpx.get(f"http://127.0.0.1:{port}/health", trust_env=False).status_code == 200
            except httpx.TransportError:
                return False

        until(is_ready, seconds=COMMANDS_SECONDS, why="the API of production is not ready")
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(STOP_SECONDS)


def test_the_readme_is_one_screen_with_a_picture_and_what_traders_ask_first() -> None:
    text = (ROOT / "README.md").read_text()

    assert len(text.splitlines()) <= LINES_MAX
    assert "](bench/results/" in text[:1_000]
    for word in ("squirtle", "partially_filled", "expired", "1,000 orders a batch", "tcgx migrate", "traders seed"):
        assert word in text
