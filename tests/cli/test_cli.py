"""`tcgx` as it is typed, in real processes: mistakes, odd terminals, paths that can't be written."""

import fcntl
import json
import os
import pty
import re
import resource
import shutil
import signal
import stat
import subprocess
import sys
import sysconfig
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path

import msgspec
import pytest

from cli import datadir, run_file
from cli.arguments import COMMANDS, SERVICES
from cli.numbers import whole
from core import standard_streams
from tcgx.__main__ import PACKAGES
from testing.exchange import START_SECONDS, STOP_SECONDS, TcgxUp, tcgx_up
from testing.processes import environment, tcgx
from testing.servers import folder, free_port
from testing.waiting import until

REPOSITORY = Path(__file__).parents[2]
PROGRAM = Path(sys.executable).with_name("tcgx")
NOBODY = 65534
CARDS = ("mew", "abra")
SENTENCE_CHARACTERS = 300


@pytest.fixture
def where() -> Iterator[Path]:
    with folder() as made:
        yield made


@pytest.fixture(scope="module")
def shared() -> Iterator[TcgxUp]:
    """An exchange of two cards, which no variable of the terminals beside it names."""
    with folder() as made, tcgx_up(made, variables={"TCGX_CARDS": ",".join(CARDS)}) as running:
        yield running


def beside(running: TcgxUp, *arguments: str, **variables: str) -> "subprocess.CompletedProcess[str]":
    """A command in another terminal: in the folder of the exchange, without its variables."""
    return tcgx(running.where, *arguments, variables=variables)


def shell(command: str, where: Path, **variables: str) -> "subprocess.CompletedProcess[str]":
    """A line of a shell script; the program is `$TCGX` in it."""
    return subprocess.run(
        ["/bin/sh", "-c", command],
        cwd=where,
        env=environment(TCGX=str(PROGRAM)) | variables,
        capture_output=True,
        text=True,
        timeout=START_SECONDS,
        check=False,
    )


# -- what is typed


@pytest.mark.parametrize(
    ("words", "code", "expected"),
    [
        ("boook", 2, "there is no command boook: did you mean book?"),
        ("stat-hash", 2, "did you mean state-hash?"),
        ("xyz", 2, "there is no command xyz: `tcgx help` lists what there is"),
        ("", 2, "commands:"),
        ("help xyz", 2, "there is no command xyz"),
        ("book", 2, "CARD"),
        ("book pikachu --dpeth 3", 2, "there is no option --dpeth: did you mean --depth?"),
        ("book pikachu mew", 2, "takes no 'mew'"),
        ("book pikachu --depth 0", 2, "--depth must be a whole number from 1 to 1,000, got '0'"),
        ("book pikachu --depth many", 2, "--depth must be a whole number from 1 to 1,000, got 'many'"),
        ("traders token abc", 2, "ID must be a whole number from 1 to 2,147,483,647, got 'abc'"),
        ("traders token 99999999999", 2, "ID must be a whole number from 1 to 2,147,483,647"),
        ("traders toke 1", 2, "did you mean token?"),
        ("traders seed --count 1.5 --out x.csv", 2, "--count must be a whole number"),
        ("up --port 99999", 2, "--port must be a whole number from 1 to 65,535, got '99999'"),
        ("up --ephemerl", 2, "did you mean --ephemeral?"),
        ("replay --batch 1e9", 2, "--batch must be a whole number from 1 to 10,000, got '1e9'"),
        ("doctor --only redi", 2, "did you mean redis?"),
        ("bench mach", 2, "did you mean match?"),
        ("chaos --rounds 0", 2, "--rounds must be a whole number from 1 to 100,000, got '0'"),
        ("bench match --orders 1,00", 2, "--orders must be a whole number from 1 to 100,000,000, got '1,00'"),
        ("engine --data-dir D", 2, "there is no option --data-dir"),
        ("--data-dir D engine", 2, "takes no --data-dir"),
        ("settings --data-dir=", 2, "--data-dir must name a folder"),
        ("urls", 1, "no exchange runs in ./.tcgx: start one with `tcgx up`, or name the folder of one with --data-dir"),
        ("--data-dir D urls", 1, "no exchange runs in D:"),
        ("book pikachu", 1, "no exchange runs in ./.tcgx: start one with `tcgx up`, or name the folder"),
        ("state-hash --data-dir D", 1, "no exchange runs in D:"),
        ("migrate", 1, "no exchange runs in ./.tcgx:"),
        ("traders token 1 --data-dir D", 1, "no exchange runs in D:"),
        ("book mew", 1, "there is no card 'mew'"),
        ("replay --file missing", 1, "there is no file missing"),
        ("replay --file .", 1, ". can't be read: Is a directory"),
        ("replay --export missing/log", 1, "missing/log can't be written: there is no folder missing"),
        ("replay --export .", 1, ". can't be written: it is a folder"),
        ("traders seed --out missing/keys.csv", 1, "missing/keys.csv can't be written: there is no folder missing"),
        ("bench match --results /proc/x", 1, "/proc/x can't be written"),
        ("bench match --json .", 1, ". can't be written: it is a folder"),
    ],
)
def test_a_mistake_is_answered_with_a_sentence(where: Path, words: str, code: int, expected: str) -> None:
    result = tcgx(where, *words.split(), variables={"TCGX_STOP_SECONDS": "1"})

    assert result.returncode == code
    assert expected in result.stderr
    assert "Traceback" not in result.stderr
    assert result.stdout == ""
    assert list(where.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "suggestion"),
    [
        ("TCGX_CARDZ", ": did you mean TCGX_CARDS?"),
        ("TCGX_LOGLEVEL", ": did you mean TCGX_LOG_LEVEL?"),
        ("TCGX_XXXXXXXX", "; `tcgx settings` lists them all"),
    ],
)
def test_a_variable_with_a_wrong_name_gets_a_suggestion(where: Path, name: str, suggestion: str) -> None:
    result = tcgx(where, "settings", variables={name: "1"})

    assert result.returncode == 1
    assert f"{name} is not a setting" in result.stderr
    assert suggestion in result.stderr


@pytest.mark.parametrize("words", ["--help", "help", "-h"])
def test_help_lists_every_command(where: Path, words: str) -> None:
    result = tcgx(where, words)

    assert result.returncode == 0
    assert [line.split()[0] for line in result.stdout.partition("commands:")[2].splitlines() if line][:-1] == [
        *COMMANDS
    ]
    assert max(map(len, result.stdout.splitlines())) <= 80


@pytest.mark.parametrize("words", ["help traders token", "traders token --help", "help bench match", "help up"])
def test_each_command_explains_itself(where: Path, words: str) -> None:
    result = tcgx(where, *words.split())

    assert result.returncode == 0
    assert "usage: tcgx " in result.stdout


@pytest.mark.parametrize("words", ["--version", "version"])
def test_the_version_is_printed(where: Path, words: str) -> None:
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]

    assert tcgx(where, words).stdout == f"tcgx {project['version']}\n"


HELP_CPU_SECONDS = 0.3
HELP_MODULES = {
    "cli.arguments",
    "cli.main",
    "cli.numbers",
    "core.standard_streams",
    "core.suggestions",
    "tcgx.__main__",
}
BENCH = {"bench", "matplotlib"}
HTTP = {"api", "litestar", "uvicorn"}
ARCHIVE = {"archiver", "asyncpg"}


def imported(where: Path, code: str) -> set[str]:
    """The modules that code imports in a new process; those that the interpreter starts with do not count."""
    lines = (
        "import sys",
        "started_with = {*sys.modules}",
        code,
        "print('IMPORTED', *{*sys.modules} - started_with, file=sys.stderr)",
    )
    done = tcgx(where, "-P", "-c", "\n".join(lines), program=Path(sys.executable))
    assert done.returncode == 0, done.stderr
    return set(done.stderr.rpartition("IMPORTED ")[2].split())


def imported_by_command(where: Path, words: str) -> set[str]:
    """The modules that a command imports until it has ended."""
    arguments = ["tcgx", *words.split()]
    return imported(where, f"import tcgx.__main__\nsys.argv = {arguments!r}\ntcgx.__main__.main()")


def packages(modules: set[str]) -> set[str]:
    """The packages of these modules, without those of Python itself."""
    return {name.partition(".")[0] for name in modules} - sys.stdlib_module_names


@pytest.mark.parametrize("words", ["--help", "help", "help up", "book --help", "doctor --help", "engine --help"])
def test_help_imports_the_parser_alone(where: Path, words: str) -> None:
    modules = imported_by_command(where, words)

    assert packages(modules) == {"tcgx", "cli", "core"}
    assert {name for name in modules if name.partition(".")[0] in PACKAGES and "." in name} <= HELP_MODULES
    assert not modules & {"asyncio", "inspect", "json", "logging", "pathlib", "socket", "subprocess"}


def test_help_of_the_benchmarks_imports_their_options_and_none_of_their_packages(where: Path) -> None:
    modules = imported_by_command(where, "help bench match")

    assert packages(modules) <= {"tcgx", "cli", "core", "bench", "testing", "msgspec", "typing_extensions"}
    assert "bench.match" not in modules


def test_help_takes_little_of_a_processor(where: Path) -> None:
    """The best of a few: what else the machine does takes caches away."""

    def cpu_seconds() -> float:
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        assert tcgx(where, "--help").returncode == 0
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    assert min(cpu_seconds() for _ in range(3)) < HELP_CPU_SECONDS


@pytest.mark.parametrize(
    ("name", "absent"),
    [
        ("up", BENCH),
        ("urls", BENCH | HTTP | ARCHIVE | {"redis"}),
        ("book", BENCH | HTTP | ARCHIVE),
        ("traders", BENCH | HTTP | {"redis"}),
        ("replay", BENCH | HTTP | ARCHIVE),
        ("state-hash", BENCH | HTTP | ARCHIVE),
        ("migrate", BENCH | HTTP),
        ("recover", BENCH | HTTP),
        ("rebuild-archive", BENCH | HTTP),
        ("repair", BENCH | HTTP | ARCHIVE | {"redis"}),
        ("backup", BENCH | HTTP),
        ("restore", BENCH | HTTP),
        ("settings", BENCH | HTTP | ARCHIVE | {"redis"}),
        ("doctor", BENCH | HTTP),
        ("bench", {"matplotlib"}),
        ("chaos", BENCH | HTTP | ARCHIVE | {"redis", "testing"}),
        ("api", BENCH),
        ("engine", BENCH | HTTP | ARCHIVE),
        ("archiver", BENCH | HTTP),
    ],
)
def test_a_command_imports_what_it_needs_alone(where: Path, name: str, absent: set[str]) -> None:
    starter = "cli.services" if name in SERVICES else "cli.runner"
    work = "work" if name in SERVICES else "run"

    modules = imported(
        where,
        f"import importlib, cli.main, cli.configuration, {starter}\n"
        f"assert callable(importlib.import_module({COMMANDS[name].module!r}).{work})",
    )

    assert not packages(modules) & absent


def test_every_command_has_a_module_that_does_it() -> None:
    assert {name for name, command in COMMANDS.items() if not command.module} == {"version", "help"}


# -- the extra of the benchmarks


def without(where: Path, package: str, words: str) -> subprocess.CompletedProcess[str]:
    """A command where a package is not installed."""
    code = (
        f"import sys\nsys.modules[{package!r}] = None\n"
        f"import tcgx.__main__\nsys.argv = {['tcgx', *words.split()]!r}\nsys.exit(tcgx.__main__.main())"
    )
    return tcgx(where, "-P", "-c", code, program=Path(sys.executable))


@pytest.mark.parametrize("words", ["bench", "bench match", "bench plots .", "bench all --orders 1"])
@pytest.mark.parametrize("package", ["matplotlib", "rich"])
def test_without_the_extra_a_benchmark_says_which_one_to_install(where: Path, package: str, words: str) -> None:
    done = without(where, package, words)

    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == f"tcgx: `tcgx bench` needs {package}: pip install 'tcgx[bench]'\n"


def test_without_the_harness_chaos_says_so(where: Path) -> None:
    done = without(where, "testing", "chaos --rounds 1")

    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "tcgx: `tcgx chaos` needs the package `testing` of tcgx, which is not installed here\n"


@pytest.mark.parametrize("words", ["bench --help", "help bench million", "settings", "--help"])
def test_without_the_extra_all_else_works(where: Path, words: str) -> None:
    assert without(where, "matplotlib", words).returncode == 0
    assert without(where, "rich", words).returncode == 0


def test_the_extra_has_the_packages_that_the_benchmarks_need_and_nothing_else_has_them() -> None:
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]

    def names(requirements: list[str]) -> set[str]:
        return {re.split(r"[^\w-]", requirement)[0] for requirement in requirements}

    assert names(project["optional-dependencies"]["bench"]) == set(COMMANDS["bench"].needs)
    assert not names(project["dependencies"]) & set(COMMANDS["bench"].needs)


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("1", 1),
        ("1000", 1_000),
        ("1,000", 1_000),
        ("1_000", 1_000),
        ("1,000,000", 1_000_000),
        ("10k", 10_000),
        ("1.5K", 1_500),
        ("2M", 2_000_000),
        ("1e5", 100_000),
        ("2.50e2", 250),
    ],
)
def test_numbers_are_read_as_people_write_them(text: str, number: int) -> None:
    assert whole(1, 10_000_000)(text) == number


@pytest.mark.parametrize(
    "text", ["", "0", "-1", "abc", "1.5", "1,00", "1,0000", "1e-5", "1e99", "9" * 5_000, "1k5", "0x10", "٣", "1 000"]
)
def test_what_is_no_number_in_the_range_is_refused(text: str) -> None:
    with pytest.raises(Exception, match="must be a whole number from 1 to 10,000,000, got"):
        whole(1, 10_000_000)(text)


# -- terminals and streams


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
@pytest.mark.parametrize("command", ["settings", "engine"])
def test_closed_streams_end_no_command(where: Path, command: str, closed: str) -> None:
    open_result = shell(f"$TCGX {command}", where)
    result = shell(f"$TCGX {command} {closed}", where)

    assert result.returncode == open_result.returncode
    assert result.stdout == ("" if ">&-" in closed.split() else open_result.stdout)
    assert result.stderr == ("" if "2>&-" in closed.split() else open_result.stderr)


def test_a_service_that_is_started_as_a_module_survives_closed_streams(where: Path) -> None:
    result = shell(f"{sys.executable} -P -m engine <&- >&-", where, TCGX_REDIS_URL="redis://127.0.0.1:1/0")

    assert result.returncode == 1
    assert "Redis does not answer" in result.stderr


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize("command", ["settings", "version", "help"])
def test_a_reader_that_went_away_is_no_error(where: Path, command: str, unbuffered: str) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    try:
        result = subprocess.run(
            [PROGRAM, command],
            cwd=where,
            env=environment(PYTHONUNBUFFERED=unbuffered),
            stdout=writer,
            stderr=subprocess.PIPE,
            text=True,
            timeout=START_SECONDS,
            check=False,
        )
    finally:
        os.close(writer)

    assert result.stderr == ""
    assert result.returncode in (0, standard_streams.CLOSED_PIPE)  # argparse says nothing about what it could not print


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize("command", ["version", "settings"])
def test_a_full_disk_behind_standard_output_is_a_sentence(where: Path, command: str, unbuffered: str) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("there is no /dev/full here")

    result = shell(f"$TCGX {command} >/dev/full", where, PYTHONUNBUFFERED=unbuffered)

    (sentence,) = result.stderr.splitlines()
    assert result.returncode == 1
    assert sentence.startswith("tcgx: ")
    assert sentence.endswith("No space left on device")


LOG_LINE = """
import structlog
from core import service
from core.settings import Settings
service.configure_logging(Settings(), "tcgx")
structlog.get_logger().warning("a line")
"""


def on_a_terminal(variables: Mapping[str, str]) -> str:
    """What a log line looks like."""
    ours, theirs = pty.openpty()
    try:
        subprocess.run(
            [sys.executable, "-c", LOG_LINE],
            env=environment(**variables),
            stderr=theirs,
            check=True,
            timeout=START_SECONDS,
        )
        return os.read(ours, 10_000).decode()
    finally:
        os.close(ours)
        os.close(theirs)


@pytest.mark.parametrize(
    ("variables", "is_colored"),
    [
        ({"TERM": "xterm"}, True),
        ({"TERM": "xterm", "NO_COLOR": "1"}, False),
        ({"TERM": "xterm", "NO_COLOR": "1", "FORCE_COLOR": "1"}, False),
        ({"TERM": "xterm", "NO_COLOR": ""}, True),
        ({"TERM": "dumb"}, False),
        ({"TERM": "dumb", "FORCE_COLOR": "1"}, True),
        ({"TERM": "xterm", "CLICOLOR": "0"}, False),
    ],
)
def test_log_lines_have_colours_only_where_they_are_wanted(variables: Mapping[str, str], is_colored: bool) -> None:
    unset = dict.fromkeys(("NO_COLOR", "FORCE_COLOR", "CLICOLOR_FORCE"), "")

    line = on_a_terminal({**unset, **variables})

    assert "a line" in line
    assert ("\x1b[" in line) is is_colored


def test_a_log_line_that_cannot_be_written_ends_nothing() -> None:
    code = LOG_LINE + "import sys\nprint('went on')\n"

    result = subprocess.run(
        ["/bin/sh", "-c", '"$0" -c "$1" 2>/dev/full', sys.executable, code],
        capture_output=True,
        text=True,
        timeout=START_SECONDS,
        check=False,
    )

    assert result.stdout == "went on\n"


# -- another user's folders


def as_a_normal_user(where: Path, *arguments: str, **variables: str) -> "subprocess.CompletedProcess[str]":
    """A command without any privilege and without a home."""
    is_root = os.geteuid() == 0
    python, extra = _python_for_everybody(where)
    ours = environment(PYTHONDONTWRITEBYTECODE="1", **variables)
    ours.pop("HOME", None)
    if extra:
        ours["PYTHONPATH"] = extra
    return subprocess.run(
        [python, "-P", REPOSITORY / "tcgx" / "__main__.py", *arguments],
        cwd=where,
        env=ours,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=START_SECONDS,
        check=False,
        user=NOBODY if is_root else None,
        group=NOBODY if is_root else None,
        extra_groups=[] if is_root else None,
    )


def _python_for_everybody(where: Path) -> tuple[str, str]:
    """A Python of this version that a normal user can run, and what it needs as PYTHONPATH."""
    if os.geteuid() != 0:
        return sys.executable, ""
    # Ours may be in /root. What is installed for it fits another one of the same version.
    (where / "more").mkdir(exist_ok=True)
    (where / "more" / "async_timeout.py").write_text("from asyncio import timeout\n")  # redis, before Python 3.11.3
    path = f"{where / 'more'}:{sysconfig.get_path('purelib')}"
    name = f"python{sys.version_info.major}.{sys.version_info.minor}"
    for python in (sys.executable, f"/usr/bin/{name}", f"/usr/local/bin/{name}"):
        tried = subprocess.run(
            ["/bin/sh", "-c", f"exec {python} -c 'import uvloop, asyncpg, redis.asyncio'"],
            env=environment(PYTHONPATH=path, PYTHONDONTWRITEBYTECODE="1"),
            user=NOBODY,
            group=NOBODY,
            extra_groups=[],
            cwd="/",
            capture_output=True,
            timeout=START_SECONDS,
            check=False,
        )
        if tried.returncode == 0:
            return python, path
    pytest.skip("a normal user can run no Python of this version here")


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("up --data-dir closed/x", "the data directory closed/x cannot be used: Permission denied"),
        ("up", "the data directory .tcgx cannot be used: Permission denied"),
        ("urls --data-dir closed/x", "closed/x/run.json can't be read: Permission denied"),
        ("book pikachu --data-dir closed", "closed/run.json can't be read: Permission denied"),
        ("replay --export closed/log", "closed/log can't be written: Permission denied"),
        ("replay --export log", "log can't be written: Permission denied"),
        ("replay --file closed/log", "closed/log can't be read: Permission denied"),
        ("traders seed --out closed/keys.csv", "closed/keys.csv can't be written: Permission denied"),
        ("bench match", "bench-results can't be written: Permission denied"),
        ("bench match --results closed/x", "closed/x can't be written: Permission denied"),
        ("bench match --results /tmp --json closed/x.json", "closed/x.json can't be written: Permission denied"),
    ],
)
def test_what_a_user_may_not_write_is_named_before_the_work(where: Path, words: str, expected: str) -> None:
    closed = where / "closed"
    closed.mkdir()
    closed.chmod(0o000)
    where.chmod(0o555)
    try:
        result = as_a_normal_user(where, *words.split())
    finally:
        where.chmod(0o755)
        closed.chmod(0o755)

    assert result.returncode == 1
    assert result.stderr == f"tcgx: {expected}\n"
    assert result.stdout == ""


@pytest.mark.parametrize(
    ("made", "words", "expected"),
    [
        ("D", "up", "the data directory D cannot be used: it is a file"),
        ("D", "urls", "D/run.json can't be read: Not a directory"),
        ("D/", "urls", "no exchange runs in D"),
        ("D/lock/", "up", "the data directory D cannot be used: D/lock is a folder"),
        ("D/run.json/", "up", "D/run.json can't be written: it is a folder"),
        ("D/run.json/", "book pikachu", "D/run.json can't be read: Is a directory"),
        ("D/run.json", "book pikachu", "D/run.json can't be understood"),
        ("D/secrets.json/", "up", "D/secrets.json cannot be read"),
    ],
)
def test_a_data_directory_that_is_none_is_a_sentence(where: Path, made: str, words: str, expected: str) -> None:
    path = where / made
    if made.endswith("/"):
        path.mkdir(parents=True)
    else:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()

    result = tcgx(where, *words.split(), "--data-dir", "D", variables={"TCGX_PORT": str(free_port())})

    assert result.returncode == 1
    (sentence,) = result.stderr.splitlines()
    assert sentence.startswith(f"tcgx: {expected}")
    assert len(sentence) < SENTENCE_CHARACTERS


def test_a_benchmark_keeps_its_results_away_from_the_published_ones(where: Path) -> None:
    help_text = tcgx(where, "help", "bench", "match").stdout

    ignored = (REPOSITORY / ".gitignore").read_text().splitlines()
    assert "bench-results/" in help_text
    assert "bench-results/" in ignored


# -- what runs, seen from another terminal


@pytest.mark.server
def test_commands_beside_it_have_its_settings(shared: TcgxUp) -> None:
    (trader,) = shared.traders(1)
    trader.submit("mew", "buy", "5.00", 3)
    until(lambda: "5.00" in beside(shared, "book", "mew").stdout, "matching")

    assert [line.split()[0] for line in beside(shared, "state-hash").stdout.splitlines()] == [*CARDS]
    replayed = [line.split() for line in beside(shared, "replay").stdout.splitlines()]
    assert [(card, outcome) for card, _, outcome in replayed] == [(card, "same") for card in CARDS]
    assert beside(shared, "doctor").returncode == 0
    listed = {line.split()[0]: line for line in beside(shared, "settings").stdout.splitlines()}
    assert "running exchange" in listed["TCGX_CARDS"]
    assert "running exchange" in listed["TCGX_TRADERS"]
    assert "running exchange" not in listed["TCGX_MAX_QUANTITY"]


@pytest.mark.server
def test_a_variable_counts_more_than_the_running_exchange(shared: TcgxUp) -> None:
    hashes = beside(shared, "state-hash", TCGX_CARDS="abra").stdout.splitlines()
    listed = beside(shared, "settings", TCGX_CARDS="abra").stdout.splitlines()

    assert [line.split()[0] for line in hashes] == ["abra"]
    (cards,) = [line for line in listed if line.startswith("TCGX_CARDS")]
    assert cards.split()[3] == "environment"


@pytest.mark.server
def test_a_variable_that_names_another_server_means_another_exchange(shared: TcgxUp) -> None:
    result = beside(shared, "settings", TCGX_REDIS_URL="redis://127.0.0.1:1/0")

    assert "running exchange" not in result.stdout


@pytest.mark.server
def test_the_data_directory_may_be_named_anywhere(shared: TcgxUp, where: Path) -> None:
    data_dir = str(shared.data_dir)

    for words in (
        ["--data-dir", data_dir, "traders", "token", "1"],
        ["traders", "--data-dir", data_dir, "token", "1"],
        ["traders", "token", "--data-dir", data_dir, "1"],
        ["traders", "token", "1", "--data-dir", data_dir],
        [f"--data-dir={data_dir}", "traders", "token", "1"],
    ):
        result = tcgx(where, *words)
        assert result.returncode == 0, result.stderr
        assert shared.trader(result.stdout.strip()).request("GET", "/orders").status == 200


@pytest.mark.server
def test_a_token_of_a_trader_that_does_not_exist_comes_with_a_warning(shared: TcgxUp) -> None:
    result = beside(shared, "traders", "token", "1", "99999")

    assert result.returncode == 0
    assert len(result.stdout.splitlines()) == 2
    assert result.stderr == "tcgx: there is no trader 99999: its token is valid all the same\n"


@pytest.mark.server
@pytest.mark.parametrize("closed", ["<&-", "<&- 2>&-"])
def test_a_token_is_printed_with_closed_streams(shared: TcgxUp, closed: str) -> None:
    result = shell(f"$TCGX traders token 1 {closed}", shared.where)

    assert result.returncode == 0
    assert result.stdout.startswith("eyJ")


@pytest.mark.server
def test_a_book_is_drawn_where_the_encoding_is_ascii(shared: TcgxUp) -> None:
    (trader,) = shared.traders(2)
    trader.submit("abra", "buy", "5.00", 3)
    until(lambda: "5.00" in beside(shared, "book", "abra").stdout, "matching")

    result = beside(shared, "book", "abra", PYTHONIOENCODING="ascii")

    assert result.returncode == 0, result.stderr
    assert "5.00" in result.stdout
    assert result.stdout.isascii()


@pytest.mark.server
def test_keys_can_be_cut_from_the_file_of_traders(shared: TcgxUp) -> None:
    line = shell("sed -n 2p .tcgx/traders.csv", shared.where).stdout
    trader_id, api_key = line.rstrip("\n").split(",")

    answer = shared.trader().request("POST", "/auth/token", {"trader_id": int(trader_id), "api_key": api_key})

    assert b"\r" not in (shared.data_dir / "traders.csv").read_bytes()
    assert answer.status == 200


@pytest.mark.server
def test_a_second_one_says_where_the_first_one_is(shared: TcgxUp) -> None:
    result = beside(shared, "up", TCGX_PORT=str(shared.port))

    assert result.returncode == 1
    assert result.stderr == (
        f"tcgx: the exchange of .tcgx runs already (process {shared.pid}): http://127.0.0.1:{shared.port}; "
        "a second one needs another --data-dir and --port\n"
    )


@pytest.mark.server
def test_an_ephemeral_one_starts_beside_another_and_each_is_found(shared: TcgxUp) -> None:
    with tcgx_up(shared.where, "--ephemeral") as second:
        command = next(line for line in second.greeting.splitlines() if " book " in line)
        data_dir = second.greeting.partition("--data-dir ")[2].split(")")[0].split()[0]
        first_url = beside(shared, "urls").stdout.split()[1]
        second_url = beside(shared, "urls", "--data-dir", data_dir).stdout.split()[1]
        second.stop(signal.SIGKILL)

    def is_swept() -> bool:
        datadir.sweep()
        return not Path(data_dir).exists()

    assert "pikachu" in command
    assert first_url == f"http://127.0.0.1:{shared.port}"
    assert second_url == f"http://127.0.0.1:{second.port}"
    assert Path(data_dir).exists()
    until(is_swept, "end of its servers", seconds=STOP_SECONDS)


@pytest.mark.server
def test_the_greeting_fits_a_terminal_and_its_commands_work(shared: TcgxUp) -> None:
    lines = shared.greeting.splitlines()
    (book,) = [line.strip() for line in lines if "book" in line and "tcgx" in line]

    result = shell(book, shared.where)

    # The path of the program under test may be long.
    assert max(len(line.replace(str(PROGRAM), ".venv/bin/tcgx")) for line in lines) <= 80
    assert result.returncode == 0, result.stderr


@pytest.mark.server
def test_packages_of_a_bot_do_not_take_our_place(where: Path) -> None:
    bot = where / "bot"
    for name in PACKAGES - {"tcgx"}:
        (bot / name).mkdir(parents=True)
        (bot / name / "__init__.py").write_text("raise SystemExit('not the one of tcgx')\n")
    bot.chmod(0o755)

    with tcgx_up(bot, "--ephemeral", variables={"PYTHONPATH": "."}) as running:
        listed = tcgx(bot, "urls", variables={"PYTHONPATH": "."})

        assert listed.stdout.split()[1] == f"http://127.0.0.1:{running.port}"
        assert running.stop() == 0


@pytest.mark.server
def test_services_run_from_any_folder(shared: TcgxUp, where: Path) -> None:
    urls = shared.urls
    port = free_port()
    variables = {
        "TCGX_REDIS_URL": urls.redis,
        "TCGX_DATABASE_URL": urls.database,
        "TCGX_JWT_SECRET": urls.jwt_secret,
        "TCGX_CARDS": ",".join(CARDS),
    }
    services = [
        subprocess.Popen([PROGRAM, *words], cwd=where, env=environment(**variables), stderr=subprocess.PIPE, text=True)
        for words in (["api", "--port", str(port)], ["engine"], ["archiver"])
    ]
    try:
        other = TcgxUp(where, port=port).trader()
        ready = other.insist("GET", "/health/ready")
    finally:
        other.close()
        for service in services:
            service.send_signal(signal.SIGHUP)  # as a terminal that is closed
        said = [service.communicate(timeout=STOP_SECONDS)[1] for service in services]

    assert ready.status == 200
    assert [service.returncode for service in services] == [0, 0, 0], said


# -- run.json


def locked(data_dir: Path) -> int:
    """A descriptor that holds the lock of a data directory, as a running `tcgx up` does."""
    descriptor = os.open(data_dir / "lock", os.O_RDWR | os.O_CREAT)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    return descriptor


def test_what_an_older_version_announced_is_understood(where: Path) -> None:
    announced = {"api": "http://127.0.0.1:8000", "redis": "redis://127.0.0.1:1/0", "database": "postgresql://x@y/z"}
    (where / "run.json").write_text(json.dumps(announced | {"jwt_secret": "k" * 32}))
    descriptor = locked(where)
    try:
        found = run_file.find_running(where)
        token = tcgx(where, "traders", "token", "1", "--data-dir", str(where))
    finally:
        os.close(descriptor)

    assert found
    assert found.settings == {}
    assert token.returncode == 0
    assert token.stdout.startswith("eyJ")


def test_what_another_version_announced_and_cannot_work_here_is_a_sentence(where: Path) -> None:
    settings = {"TCGX_CARDS": "mew", "TCGX_OF_TOMORROW": "1", "TCGX_DURABILITY": "sometimes"}
    here = run_file.RunFile("http://x", "redis://127.0.0.1:1/0", "postgresql://x@y/z", "k" * 32, settings)
    (where / "run.json").write_bytes(msgspec.json.encode(here))
    descriptor = locked(where)
    try:
        result = tcgx(where, "book", "mew", "--data-dir", str(where))
    finally:
        os.close(descriptor)

    assert result.returncode == 1
    assert "run.json was written by another version of tcgx" in result.stderr
    assert "TCGX_DURABILITY" in result.stderr
    assert "TCGX_OF_TOMORROW" not in result.stderr


@pytest.mark.server
def test_the_announcement_is_private_and_has_no_secret_twice(shared: TcgxUp) -> None:
    path = shared.data_dir / "run.json"
    text = path.read_text()

    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert text.count(shared.urls.jwt_secret) == 1
    assert json.loads(text)["settings"]["TCGX_CARDS"] == ",".join(CARDS)


# -- what dead processes left


def left_over(where: Path, name: str) -> Path:
    """An ephemeral data directory, with the sockets' folder of its Redis."""
    data_dir = where / name
    sockets = where / f"{datadir.SOCKETS}{name}-sockets"
    for made in (data_dir, sockets):
        made.mkdir()
        made.chmod(0o700)
    for lock in (datadir.TEMPORARY_LOCK, "lock", "redis.lock", "postgres.lock"):
        (data_dir / lock).touch()
    (data_dir / "redis.json").write_text(json.dumps({"run_dir": str(sockets), "port": 1}))
    return data_dir


def test_only_what_dead_processes_of_ours_left_is_swept(where: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(where))
    dead = left_over(where, f"{datadir.EPHEMERAL}dead")
    living = left_over(where, f"{datadir.EPHEMERAL}living")
    stopping = left_over(where, f"{datadir.EPHEMERAL}stopping")
    others = left_over(where, "tcgx-of-somebody")
    beginning = where / f"{datadir.EPHEMERAL}beginning"
    beginning.mkdir()
    (where / f"{datadir.EPHEMERAL}link").symlink_to(others)
    descriptors = [os.open(path, os.O_RDWR) for path in (living / datadir.TEMPORARY_LOCK, stopping / "postgres.lock")]
    try:
        for descriptor in descriptors:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        with datadir.ephemeral() as made:
            datadir.sweep()
            assert made.exists()
    finally:
        for descriptor in descriptors:
            os.close(descriptor)

    assert not dead.exists()
    assert not made.exists()
    assert not list(where.glob("*dead-sockets"))
    for kept in (living, stopping, others, beginning):
        assert kept.exists()
    assert len(list(where.glob("*-sockets"))) == 3


def test_what_another_user_left_is_not_swept(where: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can make a folder of another user")
    monkeypatch.setattr("tempfile.tempdir", str(where))
    theirs = left_over(where, f"{datadir.EPHEMERAL}theirs")
    shutil.chown(theirs, NOBODY, NOBODY)

    datadir.sweep()

    assert theirs.exists()


# -- what is installed


def test_every_package_that_is_installed_is_protected_from_folders_of_the_same_name() -> None:
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())

    assert set(project["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]) == PACKAGES
