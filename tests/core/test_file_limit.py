"""The limit of open files is raised to the hard one, and the log names a low one."""

import subprocess
import sys

import pytest

CODE = """
import resource
from core.file_limit import open_files_max, raise_file_limit
resource.setrlimit(resource.RLIMIT_NOFILE, (200, {hard}))
print(raise_file_limit(), open_files_max(), resource.getrlimit(resource.RLIMIT_NOFILE)[1])
"""


@pytest.mark.parametrize(("hard", "is_told"), [(1_000, True), (4_096, False)])
def test_the_soft_limit_becomes_the_hard_one(hard: int, is_told: bool) -> None:
    ran = subprocess.run(
        [sys.executable, "-c", CODE.format(hard=hard)], capture_output=True, text=True, check=True, timeout=60
    )

    assert ran.stdout.splitlines()[-1] == f"{hard} {hard} {hard}"
    assert ("few files may be open" in ran.stdout + ran.stderr) == is_told
