"""Which requests our HTTP server answers by itself and which go to the app, on a real connection; no other server."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, cast

import msgspec
import pytest
import uvicorn
from structlog.testing import capture_logs
from uvicorn.server import ServerState

from api.context import Context
from api.direct import Answer, Direct, Headers
from api.problems import ApiError, unauthorized
from api.protocol import HEAD_BYTES_MAX, Protocol

BODY_BYTES_MAX = 100_000
SECONDS = 5.0


class Server:
    """A server with one direct call, `POST /direct`, which says what it was given once `go` lets it, and an app which
    says what it was asked."""

    def __init__(self) -> None:
        self.go = asyncio.Event()
        self.go.set()
        self.bodies: list[bytes] = []
        self.error: Exception | None = None
        self.state = ServerState()
        self.direct = Direct({(b"POST", b"/direct"): self._call}, body_bytes_max=BODY_BYTES_MAX)
        self.direct.open(cast(Context, object()))

    async def _call(self, _context: Context, headers: Headers, body: bytes) -> Answer:
        self.bodies.append(body)
        await self.go.wait()
        if self.error is not None:
            raise self.error
        return Answer(202, b"direct %d %d" % (len(body), len(list(headers))))

    async def app(self, scope: Any, receive: Any, send: Any) -> None:
        """An ASGI app."""
        body, more = b"", True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                return
            body += message["body"]
            more = message["more_body"]
        said = f"app {scope['method']} {scope['path']} {len(body)}".encode()
        headers = [(b"content-length", b"%d" % len(said))]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": said})


class Client:
    """One connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def said(self) -> str:
        """The body of the next answer."""
        return (await self.answer())[1].decode()

    async def answer(self) -> tuple[bytes, bytes]:
        """Head and body of the next answer."""
        head = await asyncio.wait_for(self.reader.readuntil(b"\r\n\r\n"), SECONDS)
        length = next(line for line in head.split(b"\r\n") if line.startswith(b"content-length: ")).partition(b": ")[2]
        return head, await asyncio.wait_for(self.reader.readexactly(int(length)), SECONDS)

    def send(self, method: str, target: str, body: bytes = b"", *headers: str, version: str = "1.1") -> None:
        """A request whose body has its Content-Length."""
        lines = [f"{method} {target} HTTP/{version}", "host: x", f"content-length: {len(body)}", *headers, "", ""]
        self.writer.write("\r\n".join(lines).encode() + body)


@asynccontextmanager
async def connected() -> AsyncIterator[tuple[Server, Client]]:
    server = Server()
    config = uvicorn.Config(
        server.app, interface="asgi3", http=cast(Any, Protocol), ws="none", access_log=False, log_config=None
    )
    config.load()
    loop = asyncio.get_running_loop()
    listening = await loop.create_server(
        lambda: Protocol(config=config, server_state=server.state, app_state={}, direct=server.direct), "127.0.0.1", 0
    )
    reader, writer = await asyncio.open_connection(*listening.sockets[0].getsockname()[:2])
    try:
        yield server, Client(reader, writer)
    finally:
        server.go.set()
        writer.close()
        listening.close()
        if server.state.tasks:
            await asyncio.wait(server.state.tasks, timeout=SECONDS)


def run(work: Callable[[Server, Client], Awaitable[None]]) -> None:
    async def main() -> None:
        async with connected() as (server, client):
            await work(server, client)

    asyncio.run(main())


async def until(holds: Callable[[], Any]) -> None:
    """Lets the loop go on until something holds."""
    async with asyncio.timeout(SECONDS):
        while not holds():  # noqa: ASYNC110 - what a server does, it tells nobody
            await asyncio.sleep(0)


def test_direct_calls_and_others_share_a_connection() -> None:
    async def work(server: Server, client: Client) -> None:
        for _ in range(3):
            client.send("POST", "/direct", b"12345")
            assert await client.said() == "direct 5 2"
            client.send("GET", "/direct")
            assert await client.said() == "app GET /direct 0"
            client.send("DELETE", "/direct", b"1")
            assert await client.said() == "app DELETE /direct 1"
        assert server.state.total_requests == 9

    run(work)


@pytest.mark.parametrize(
    ("method", "target", "path"),
    [
        ("POST", "/direct?x=1", "/direct"),
        ("POST", "/direct/", "/direct/"),
        ("POST", "/Direct", "/Direct"),
        ("POST", "http://x/direct", "/direct"),
        ("PUT", "/direct", "/direct"),
        ("POST", "/other", "/other"),
    ],
)
def test_only_the_very_call_is_direct(method: str, target: str, path: str) -> None:
    async def work(server: Server, client: Client) -> None:
        client.send(method, target, b"123")

        assert await client.said() == f"app {method} {path} 3"
        assert server.bodies == []

    run(work)


def test_a_head_request_has_no_body() -> None:
    async def work(_: Server, client: Client) -> None:
        client.send("HEAD", "/direct")
        head = await asyncio.wait_for(client.reader.readuntil(b"\r\n\r\n"), SECONDS)
        client.send("POST", "/direct", b"1")

        assert head.startswith(b"HTTP/1.1 200 OK\r\n")
        assert await client.said() == "direct 1 2"

    run(work)


@pytest.mark.parametrize("size", [0, 1, BODY_BYTES_MAX])
def test_a_body_within_its_bound_is_whole_however_it_arrives(size: int) -> None:
    async def work(server: Server, client: Client) -> None:
        body = bytes(i % 251 for i in range(size))
        client.send("POST", "/direct", body)
        assert await client.said() == f"direct {size} 2"
        client.writer.write(b"POST /dir")
        await asyncio.sleep(0)
        client.writer.write(b"ect HTTP/1.1\r\ncontent-length: %d\r\n\r\n" % size)
        for start in range(0, size, 9_999):
            client.writer.write(body[start : start + 9_999])
            await client.writer.drain()
            await asyncio.sleep(0)

        assert await client.said() == f"direct {size} 1"
        assert server.bodies == [body, body]

    run(work)


def test_a_body_that_says_that_it_is_too_large_goes_to_the_app() -> None:
    async def work(server: Server, client: Client) -> None:
        client.send("POST", "/direct", b"x" * (BODY_BYTES_MAX + 1))

        assert await client.said() == f"app POST /direct {BODY_BYTES_MAX + 1}"
        assert server.bodies == []

    run(work)


def test_a_body_in_chunks_goes_to_the_app() -> None:
    async def work(server: Server, client: Client) -> None:
        client.writer.write(b"POST /direct HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n")

        assert await client.said() == "app POST /direct 3"
        assert server.bodies == []

    run(work)


def test_a_client_that_waits_to_be_told_to_go_on_is_told() -> None:
    async def work(server: Server, client: Client) -> None:
        client.writer.write(b"POST /direct HTTP/1.1\r\ncontent-length: 3\r\nexpect: 100-continue\r\n\r\n")
        told = await asyncio.wait_for(client.reader.readuntil(b"\r\n\r\n"), SECONDS)
        client.writer.write(b"abc")

        assert told == b"HTTP/1.1 100 Continue\r\n\r\n"
        assert await client.said() == "app POST /direct 3"
        assert server.bodies == []

    run(work)


def test_requests_that_are_sent_ahead_are_answered_in_their_order() -> None:
    async def work(server: Server, client: Client) -> None:
        server.go.clear()
        client.send("POST", "/direct", b"1")
        client.send("POST", "/direct", b"22")
        client.send("GET", "/other")
        await until(lambda: server.bodies)
        server.go.set()

        assert await client.said() == "direct 1 2"
        assert await client.said() == "app POST /direct 2"
        assert await client.said() == "app GET /other 0"
        client.send("POST", "/direct", b"333")
        assert await client.said() == "direct 3 2"
        assert server.bodies == [b"1", b"333"]

    run(work)


@pytest.mark.parametrize(("version", "header"), [("1.0", "x: y"), ("1.1", "connection: close")])
def test_a_connection_that_is_not_to_stay_is_closed_after_the_answer(version: str, header: str) -> None:
    async def work(_: Server, client: Client) -> None:
        client.send("POST", "/direct", b"1", header, version=version)
        head, said = await client.answer()

        assert b"connection: close\r\n" in head
        assert said == (b"direct 1 3" if version == "1.1" else b"app POST /direct 1")
        assert await asyncio.wait_for(client.reader.read(), SECONDS) == b""

    run(work)


def test_an_answer_is_one_http_message_of_json() -> None:
    async def work(_: Server, client: Client) -> None:
        client.send("POST", "/direct", b"1")

        head, _body = await client.answer()

        assert head == b"HTTP/1.1 202 Accepted\r\ncontent-type: application/json\r\ncontent-length: 10\r\n\r\n"

    run(work)


def test_an_error_of_ours_is_a_problem_with_its_headers() -> None:
    async def work(server: Server, client: Client) -> None:
        server.error = unauthorized("token_missing", "send one")
        client.send("POST", "/direct", b"1")
        head, body = await client.answer()

        assert head.startswith(b"HTTP/1.1 401 Unauthorized\r\n")
        assert b"\r\ncontent-type: application/problem+json\r\n" in head
        assert b"\r\nwww-authenticate: Bearer\r\n" in head
        assert msgspec.json.decode(body)["code"] == "token_missing"

        server.error = ApiError(503, "overloaded", "Overloaded", "later")
        client.send("POST", "/direct", b"1")
        head, body = await client.answer()

        assert head.startswith(b"HTTP/1.1 503 Service Unavailable\r\n")
        assert b"\r\nretry-after: 1\r\n" in head

    run(work)


def test_an_error_that_nobody_foresaw_is_logged_and_not_shown() -> None:
    async def work(server: Server, client: Client) -> None:
        server.error = RuntimeError("a secret")
        with capture_logs() as logs:
            client.send("POST", "/direct", b"1")
            head, body = await client.answer()
        server.error = None
        client.send("POST", "/direct", b"1")

        assert head.startswith(b"HTTP/1.1 500 Internal Server Error\r\n")
        assert msgspec.json.decode(body)["code"] == "internal_error"
        assert b"secret" not in body
        (line,) = logs
        assert (line["event"], line["method"], line["path"]) == ("a request failed", "POST", "/direct")
        assert line["exc_info"] is not None
        assert await client.said() == "direct 1 2"

    run(work)


def test_a_client_that_goes_away_within_its_body_starts_nothing() -> None:
    async def work(server: Server, client: Client) -> None:
        client.writer.write(b"POST /direct HTTP/1.1\r\ncontent-length: 9\r\n\r\n1234")
        await until(lambda: any(cast(Any, connection).cycle for connection in server.state.connections))
        client.writer.close()
        await until(lambda: not server.state.connections)

        assert server.bodies == []
        assert not server.state.tasks

    run(work)


def test_a_client_that_goes_away_before_its_answer_disturbs_nobody() -> None:
    async def work(server: Server, client: Client) -> None:
        server.go.clear()
        client.send("POST", "/direct", b"1")
        await until(lambda: server.bodies)
        client.writer.close()
        await until(lambda: not server.state.connections)
        (task,) = server.state.tasks
        server.go.set()
        await asyncio.wait([task], timeout=SECONDS)

        assert task.done()
        assert task.exception() is None

    run(work)


def test_a_stop_lets_a_direct_call_end_and_then_closes() -> None:
    async def work(server: Server, client: Client) -> None:
        server.go.clear()
        client.send("POST", "/direct", b"1")
        await until(lambda: server.bodies)
        for connection in server.state.connections:
            connection.shutdown()
        server.go.set()
        head, said = await client.answer()

        assert said == b"direct 1 2"
        assert b"connection: close\r\n" in head
        assert await asyncio.wait_for(client.reader.read(), SECONDS) == b""

    run(work)


def test_a_call_that_the_stop_cancels_hangs_up() -> None:
    async def work(server: Server, client: Client) -> None:
        server.go.clear()
        client.send("POST", "/direct", b"1")
        await until(lambda: server.bodies)
        (task,) = server.state.tasks
        task.cancel()

        assert await asyncio.wait_for(client.reader.read(), SECONDS) == b""
        assert task.cancelled()

    run(work)


def test_a_head_beyond_its_bound_is_refused_also_of_a_direct_call() -> None:
    async def work(server: Server, client: Client) -> None:
        client.send("POST", "/direct", b"1", f"x: {'y' * HEAD_BYTES_MAX}")
        head, body = await client.answer()

        assert head.startswith(b"HTTP/1.1 431 ")
        assert msgspec.json.decode(body)["code"] == "headers_too_large"
        assert server.bodies == []

    run(work)


def test_before_the_app_has_started_nothing_is_direct() -> None:
    async def call(_context: Context, _headers: Headers, _body: bytes) -> Answer:
        return Answer(200, b"")

    direct = Direct({(b"POST", b"/direct"): call}, body_bytes_max=1)

    assert not direct.has(b"POST", b"/direct")
    direct.open(cast(Context, object()))
    assert direct.has(b"POST", b"/direct")
    assert not direct.has(b"GET", b"/direct")
