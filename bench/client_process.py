"""A process of clients: it takes a job on its input, says that it is ready, and then writes lines of JSON."""

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import NamedTuple

import msgspec

from bench.result import Failed

START_SECONDS = 120.0


class ClientProcess(NamedTuple):
    """The process, and its pipes."""

    pid: int
    stdin: asyncio.StreamWriter
    stdout: asyncio.StreamReader

    def tell(self, what: msgspec.Struct) -> None:
        """Sends a line of JSON."""
        self.stdin.write(msgspec.json.encode(what) + b"\n")


@asynccontextmanager
async def started(module: str, job: msgspec.Struct) -> AsyncIterator[ClientProcess]:
    """Runs a module of clients with a job. The process is killed if it has not ended by the end of the context.

    Raises:
        Failed: the clients did not get ready.
    """
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-P", "-m", module), stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
    )
    try:
        if process.stdin is None or process.stdout is None:
            raise RuntimeError("the pipes of the clients are missing")
        clients = ClientProcess(process.pid, process.stdin, process.stdout)
        clients.tell(job)
        if await asyncio.wait_for(clients.stdout.readline(), START_SECONDS) != b"ready\n":
            raise Failed("the clients did not start; the lines above say why")
        yield clients
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
