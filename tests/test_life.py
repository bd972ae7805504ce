"""What services share, without a server."""

import subprocess
import sys

SERVICE = """
import gc
from engine import life

async def work(settings, stopping):
    print(gc.get_freeze_count())

life.run("engine", work, {})
"""


def test_what_a_service_starts_with_is_left_out_of_garbage_collections() -> None:
    service = subprocess.run([sys.executable, "-c", SERVICE], capture_output=True, text=True, timeout=30, check=True)

    assert int(service.stdout) > 10_000
