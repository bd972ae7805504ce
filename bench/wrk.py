"""The client of a closed loop: wrk where it is installed, else ours."""

import asyncio
import os
import shutil
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path

import msgspec

from bench.result import Failed
from testing.clients.closed_loop import Client, Load, closed_loop


def closed_loop_client() -> tuple[str, Client]:
    """wrk where it is installed, else our own; and its name."""
    return ("wrk", wrk) if shutil.which("wrk") else ("own", closed_loop)


async def wrk(
    address: tuple[str, int], requests: Sequence[bytes], *, connections: int, seconds: float, folder: Path
) -> Load:
    """wrk, one thread.

    Raises:
        Failed: it did not end as it should.
    """
    listed = folder / "requests"
    listed.write_bytes(b"".join(b"%d\n" % len(request) + request for request in requests))
    script = folder / "wrk.lua"
    script.write_text((files("bench") / "wrk.lua").read_text())
    process = await asyncio.create_subprocess_exec(
        *("wrk", "-t1", f"-c{connections}", f"-d{seconds:.0f}s", "--timeout", "10s", "-s", str(script)),
        f"http://{address[0]}:{address[1]}/orders",
        env={**os.environ, "BENCH_REQUESTS": str(listed)},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    try:
        output = (await process.communicate())[0].decode()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    _, found, line = output.partition("RESULT ")
    if not found:
        raise Failed(f"wrk gave no result: {output[-500:]}")
    return msgspec.json.decode(line.partition("\n")[0], type=Load)
