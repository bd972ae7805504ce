"""The file with which commands find the exchange of a data directory."""

import threading
from pathlib import Path

from cli import run_file
from core.errors import StartError
from core.settings import Settings


def test_a_reader_finds_the_whole_file_or_none(tmp_path: Path) -> None:
    here = run_file.of_exchange(Settings(), api="http://127.0.0.1:1", redis="redis://127.0.0.1:1/" + "0" * 100_000)
    stop, errors = threading.Event(), []

    def read() -> None:
        while not stop.is_set():
            try:
                run_file.find_running(tmp_path)
            except StartError as error:
                errors.append(error)
                return

    reader = threading.Thread(target=read)
    reader.start()
    for _ in range(500):
        with run_file.announce(tmp_path, here):
            assert run_file.path_in(tmp_path).stat().st_mode & 0o777 == 0o600
    stop.set()
    reader.join()

    assert errors == []
    assert list(tmp_path.iterdir()) == []
