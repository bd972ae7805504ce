"""What services share, without a server."""

import asyncio
import contextlib
import subprocess
import sys

import pytest

from core import service

SERVICE = """
import gc
from core import service

async def work(settings, stopping, progress):
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


def test_a_task_that_loses_a_cancellation_is_ended_all_the_same() -> None:
    async def loses_the_first() -> None:
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.Event().wait()
        await asyncio.Event().wait()

    async def run() -> bool:
        task = asyncio.create_task(loses_the_first())
        await asyncio.sleep(0)
        await asyncio.wait_for(service.cancel_and_wait(task), 5)
        return task.cancelled()

    assert asyncio.run(run())
