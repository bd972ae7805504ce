"""What services share, without a server."""

import subprocess
import sys

import pytest

SERVICE = """
import gc
from core import service

async def work(settings, stopping):
    print(gc.get_freeze_count())

service.run("engine", work, {})
"""


def test_what_a_service_starts_with_is_left_out_of_garbage_collections() -> None:
    service = subprocess.run([sys.executable, "-c", SERVICE], capture_output=True, text=True, timeout=30, check=True)

    assert int(service.stdout) > 10_000


@pytest.mark.parametrize(("disposition", "ends"), [("SIG_DFL", True), ("SIG_IGN", False)])
def test_a_closed_terminal_ends_a_service_unless_nohup_has_it_ignored(disposition: str, ends: bool) -> None:
    code = (
        "import signal\nfrom core import service\n"
        f"signal.signal(signal.SIGHUP, signal.{disposition})\nprint(signal.SIGHUP in service.ending_signals())\n"
    )

    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30, check=True)

    assert process.stdout.strip() == str(ends)
