"""The wheel alone: it has everything that is needed, and runs from anywhere."""

import subprocess
import sys
import sysconfig
import venv
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from testing.exchange import tcgx_up
from testing.processes import environment, tcgx
from testing.servers import folder

pytestmark = pytest.mark.server

REPOSITORY = Path(__file__).parents[2]
BUILD_SECONDS = 120


def python(*arguments: str | Path, program: Path = Path(sys.executable), where: Path = REPOSITORY) -> str:
    """The output of a Python that must succeed."""
    result = subprocess.run(
        [program, *arguments],
        cwd=where,
        env=environment(PIP_NO_INDEX="1", PIP_DISABLE_PIP_VERSION_CHECK="1", PIP_ROOT_USER_ACTION="ignore"),
        capture_output=True,
        text=True,
        timeout=BUILD_SECONDS,
        check=False,
    )
    assert result.returncode == 0, f"{arguments}: {result.stdout}{result.stderr}"
    return result.stdout


@pytest.fixture(scope="module")
def place() -> Iterator[Path]:
    with folder() as made:
        yield made


@pytest.fixture(scope="module")
def wheel(place: Path) -> Path:
    python("-m", "hatchling", "build", "-t", "wheel", "-d", place / "wheels")
    (built,) = (place / "wheels").glob("*.whl")
    return built


@pytest.fixture(scope="module")
def installed(place: Path, wheel: Path) -> Path:
    """The folder of the programs of a new environment with the wheel; its dependencies are those of this Python."""
    venv.create(place / "venv", symlinks=True)
    programs = place / "venv" / "bin"
    python("-m", "pip", "--python", programs / "python", "install", "--no-deps", wheel)
    # A path alone: .pth files in that folder, like the one of an editable install of this project, are not read.
    (site_packages,) = (place / "venv" / "lib").glob("python3*/site-packages")
    (site_packages / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return programs


def in_repository(package: str, pattern: str) -> set[str]:
    return {str(path.relative_to(REPOSITORY)) for path in (REPOSITORY / package).glob(pattern)}


def test_the_wheel_has_every_module_the_lua_library_and_the_migrations(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as opened:
        names = set(opened.namelist())

    needed = in_repository("lua", "**/*.lua") | in_repository("archiver", "migrations/*.sql")
    needed |= in_repository("bench", "*.lua") | in_repository("observe", "page/*")
    for package in ("api", "archiver", "bench", "cli", "core", "engine", "exchange", "observe", "streams"):
        needed |= in_repository(package, "**/*.py")
    needed |= {"api/site/manifest.json", "api/site/index.html", "api/site/errors.html"}
    assert {"lua/match.lua", "lua/parts/log.lua"} <= needed
    assert needed <= names
    assert not [name for name in names if name.startswith(("tests", "docs", "deploy"))]


def test_everything_is_imported_from_the_wheel(installed: Path, place: Path) -> None:
    code = (
        "import api, archiver, cli, engine, lua\n"
        "from engine import library\n"
        "from archiver import schema\n"
        "for module in (api, archiver, cli, engine, lua): print(module.__file__)\n"
        "assert 'register_function' in library.source()\n"
        "assert schema.migrations()\n"
    )

    paths = python("-P", "-c", code, program=installed / "python", where=place).split()

    assert len(paths) == 5
    assert all(Path(path).is_relative_to(place / "venv") for path in paths)


def test_the_installed_command_runs_an_exchange_from_another_folder(installed: Path, place: Path) -> None:
    elsewhere = place / "elsewhere"
    elsewhere.mkdir()
    program = installed / "tcgx"

    settings = tcgx(elsewhere, "settings", program=program)
    with tcgx_up(elsewhere, "--ephemeral", program=program) as running:
        (trader,) = running.traders(1)
        placed = trader.submit("pikachu", "buy", "5.50")
        page = trader.get("/schema/swagger")
        style = trader.get("/schema/assets/swagger-ui.css")
        described = trader.get("/schema/openapi.json")
        docs = trader.get("/docs/start.html")
        code = running.stop()

    assert settings.returncode == 0
    assert "TCGX_DATA_DIR" in settings.stdout
    assert placed["status"] == "accepted"
    assert "/schema/assets/swagger-ui-bundle.js" in page
    assert len(style) > 10_000
    assert "/orders" in described["paths"]
    assert "Start in 60 seconds" in docs
    assert code == 0
    assert [path.name for path in elsewhere.iterdir()] == ["errors.log"]
