"""`tcgx repair`: damage at the end of a Redis log is shown, cut and kept, and the server starts again."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from cli import aof
from core.errors import StartError
from testing.exchange import tcgx_up
from testing.processes import tcgx
from testing.servers import LoadedRedis, folder

SET = b"*3\r\n$3\r\nSET\r\n$1\r\na\r\n$2\r\n12\r\n"
MULTI, EXEC = b"*1\r\n$5\r\nMULTI\r\n", b"*1\r\n$4\r\nEXEC\r\n"


@pytest.fixture
def data_dir() -> Iterator[Path]:
    with folder() as made:
        inside = made / "data"
        inside.mkdir(mode=0o755)
        yield inside


def log_file(data_dir: Path) -> Path:
    """The last incremental file."""
    return aof.files(data_dir)[-1]


def written(data_dir: Path) -> LoadedRedis:
    """A server that has stopped, with ten keys that a transaction each has written."""
    server = LoadedRedis(data_dir)
    server.start()
    client = server.client()
    for number in range(10):
        with client.pipeline(transaction=True) as commands:
            commands.set(f"key{number}", number)
            commands.incr("count")
            commands.execute()
    server.stop()
    return server


@pytest.mark.server
@pytest.mark.parametrize(
    ("tail", "kind"),
    [
        (os.urandom(300).replace(b"*", b"x"), "bytes that are no command"),
        (bytes(4_096), "zeros"),
        (b"*3\r\n$3\r\nSET\r\n$1\r\na", "bytes that are no command"),
        (MULTI + SET + bytes(100), "a transaction"),
    ],
    ids=["garbage", "zeros", "half a command", "half a transaction"],
)
def test_a_damaged_end_is_cut_and_kept_and_the_server_starts(data_dir: Path, tail: bytes, kind: str) -> None:
    server = written(data_dir)
    path = log_file(data_dir)
    whole = path.read_bytes()
    path.write_bytes(whole + tail)
    if b"\0" in tail:
        with pytest.raises(StartError, match="the end of its log is damaged, `tcgx repair` shows where"):
            server.start()

    shown = tcgx(data_dir, "repair", "--data-dir", str(data_dir))
    unchanged = path.read_bytes()
    done = tcgx(data_dir, "repair", "--yes", "--data-dir", str(data_dir))

    assert (shown.returncode, unchanged) == (1, whole + tail), shown.stderr
    assert f"{len(tail):,} bytes would be cut; they begin with {kind}" in shown.stdout
    assert "no whole command is behind them" in shown.stdout
    assert done.returncode == 0, done.stderr
    assert path.read_bytes() == whole
    assert path.with_name(f"{path.name}.cut-at-{len(whole)}").read_bytes() == tail
    again = tcgx(data_dir, "repair", "--data-dir", str(data_dir))
    assert (again.returncode, "nothing to repair" in again.stdout) == (0, True)
    server.start()
    assert server.client().get("count") == b"10"
    running = tcgx(data_dir, "repair", "--data-dir", str(data_dir))
    server.stop()
    assert (running.returncode, "a Redis still runs in" in running.stderr) == (1, True)


@pytest.mark.server
def test_a_cut_in_the_middle_of_a_command_loses_its_transaction_alone(data_dir: Path) -> None:
    server = written(data_dir)
    path = log_file(data_dir)
    path.write_bytes(path.read_bytes()[: -len(EXEC) - 3])

    done = tcgx(data_dir, "repair", "--yes", "--data-dir", str(data_dir))

    assert done.returncode == 0, done.stderr
    assert "commands of a transaction without its end are among them" in done.stdout
    server.start()
    assert server.client().get("count") == b"9"
    server.stop()


@pytest.mark.server
def test_an_exchange_with_garbage_in_its_log_is_told_of_the_repair_and_keeps_every_order(data_dir: Path) -> None:
    with tcgx_up(data_dir) as up:
        placed = up.traders(1)[0].place("pikachu", "sell", "5.50")
        during = tcgx(data_dir, "repair")
        up.stop()
    with log_file(data_dir / ".tcgx").open("ab") as file:
        file.write(bytes(200))
    refused = tcgx(data_dir, "up")

    repaired = tcgx(data_dir, "repair", "--yes")

    assert (during.returncode, "another `tcgx up`" in during.stderr) == (1, True)
    assert "`tcgx repair` shows where" in refused.stderr
    assert repaired.returncode == 0, repaired.stderr
    with tcgx_up(data_dir) as up:
        assert up.traders(1)[0].order(placed["order_id"])["status"] == "open"


def test_damage_before_whole_commands_is_told(tmp_path: Path) -> None:
    path = tmp_path / "incr.aof"
    path.write_bytes(SET * 3 + b"garbage" + SET * 2 + b"$1\r\n" + MULTI + EXEC)

    damage = aof.damage_of(path, lambda _: None)

    assert damage
    assert (damage.end, damage.commands, damage.open_commands) == (3 * len(SET), 3, 0)
    assert damage.behind == ("SET", "SET", "MULTI", "EXEC")


@pytest.mark.parametrize("content", [b"", SET, b"#TS:1\r\n" + SET, SET + MULTI + SET + EXEC])
def test_whole_files_have_no_damage(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "incr.aof"
    path.write_bytes(content)

    assert aof.damage_of(path, lambda _: None) is None


def test_a_folder_without_a_log_is_named(tmp_path: Path) -> None:
    done = tcgx(tmp_path, "repair", "--data-dir", str(tmp_path))

    assert (done.returncode, "there is no" in done.stderr) == (1, True)
