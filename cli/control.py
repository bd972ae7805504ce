"""The control socket of a running `tcgx up`: it takes one request, a restart of services, and answers with lines.

A request and each answer is one line of JSON. The last answer has `ended`. The socket is in a folder of the user alone.
"""

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import msgspec

from cli.embedded import socket_folder
from core.errors import StartError

REQUEST_SECONDS = 5.0

Restart = Callable[[Sequence[str], Callable[[str], None]], Awaitable[None]]
"""Takes names of services and a function for lines; raises `StartError`."""


class Request(msgspec.Struct, frozen=True):
    """A request: the services that are restarted."""

    restart: list[str]


class Answer(msgspec.Struct, frozen=True):
    """A line for a person, or the end with the reason why it failed."""

    line: str = ""
    ended: bool = False
    error: str = ""


@asynccontextmanager
async def listening(data_dir: Path, restart: Restart) -> AsyncIterator[str]:
    """Listens for the duration of the context; yields the path of the socket.

    Raises:
        StartError: no folder takes a socket.
    """
    path = _path(data_dir)

    async def take(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        # A client that went away does not end the restart: half of it would help nobody.
        with suppress(OSError):
            await _take(reader, writer, restart)
            await writer.drain()
        writer.close()

    server = await asyncio.start_unix_server(take, os.fspath(path))
    try:
        yield os.fspath(path)
    finally:
        server.close()
        with suppress(OSError):
            path.unlink(missing_ok=True)
            path.parent.rmdir()


def _path(data_dir: Path) -> Path:
    path = socket_folder(data_dir.resolve(), "control", "", None) / "control.sock"
    path.unlink(missing_ok=True)
    return path


async def _take(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, restart: Restart) -> None:
    def say(answer: Answer) -> None:
        writer.write(msgspec.json.encode(answer) + b"\n")

    try:
        async with asyncio.timeout(REQUEST_SECONDS):
            request = msgspec.json.decode(await reader.readline(), type=Request)
    except (TimeoutError, ValueError, msgspec.DecodeError) as error:
        say(Answer(ended=True, error=f"this is no request: {error}"))
        return
    try:
        await restart(request.restart, lambda line: say(Answer(line)))
    except StartError as error:
        say(Answer(ended=True, error=str(error)))
    else:
        say(Answer(ended=True))


async def ask(path: str, services: Sequence[str], *, seconds: float) -> AsyncIterator[str]:
    """Asks for a restart; yields the lines. `seconds`: how long no line may come.

    Raises:
        StartError: the restart failed, or no exchange answers.
    """
    try:
        reader, writer = await asyncio.open_unix_connection(path)
    except OSError as error:
        raise StartError(f"`tcgx up` does not answer at {path}: {error.strerror or error}") from error
    try:
        writer.write(msgspec.json.encode(Request(list(services))) + b"\n")
        while True:
            async with asyncio.timeout(seconds):
                text = await reader.readline()
            if not text:
                raise StartError("`tcgx up` ended before the end of the restart")
            answer = msgspec.json.decode(text, type=Answer)
            if answer.error:
                raise StartError(answer.error)
            if answer.ended:
                return
            yield answer.line
    except TimeoutError as error:
        raise StartError(f"`tcgx up` says nothing for {seconds:g} s; its log says more") from error
    except OSError as error:
        raise StartError(f"the connection to `tcgx up` broke: {error.strerror or error}") from error
    finally:
        writer.close()
