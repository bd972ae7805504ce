"""Which requests our HTTP server answers by itself and which go to the app, on a real connection; no other server."""

import asyncio
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any, cast

import msgspec
import pytest
import uvicorn
import uvloop
from structlog.testing import capture_logs
from uvicorn.server import ServerState

from api.connections import Connections
from api.context import Context
from api.fast_path import Answer, Endpoint, FastPath
from api.gate import Gate, Headers
from api.http_protocol import DISCARD_BYTES_MAX, HEAD_BYTES_MAX, UNPARSED_BYTES_MAX, Drain, Protocol, Timeouts
from core.errors import Overloaded, Unauthenticated
from exchange.auth import Authenticator
from exchange.tokens import Caller
from testing.waiting import until_async

BODY_BYTES_MAX = 100_000
SECONDS = 5.0


CALLER = Caller(7, "trader", 2**40)


class Anybody:
    """Takes every request for one of the same trader, but for the token `wrong`."""

    def __init__(self) -> None:
        self.asked = 0

    def authenticate(self, authorization: bytes | None) -> Caller:
        self.asked += 1
        if authorization == b"wrong":
            raise Unauthenticated("token_invalid", "the token is wrong")
        return CALLER


class Server:
    """A server with one direct call, `POST /direct`, which says what it was given once `go` lets it, and an app which
    says what it was asked."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, list[tuple[bytes, bytes]]]] = []
        self.go = asyncio.Event()
        self.go.set()
        self.bodies: list[bytes] = []
        self.error: Exception | None = None
        self.state = ServerState()
        self.callers = Anybody()
        self.answer: Callable[[Any, Any, Any], Awaitable[None]] | None = None
        self.connections: Connections | None = None
        self.direct = FastPath({(b"POST", b"/direct"): Endpoint("direct", self._call)}, body_bytes_max=BODY_BYTES_MAX)
        self.direct.open(cast(Context, SimpleNamespace(gate=Gate(cast(Authenticator, self.callers)))))

    async def _call(self, _context: Context, _caller: Caller, headers: Headers, body: bytes) -> Answer:
        self.bodies.append(body)
        await self.go.wait()
        if self.error is not None:
            raise self.error
        return Answer(202, b"direct %d %d" % (len(body), len(list(headers))))

    async def app(self, scope: Any, receive: Any, send: Any) -> None:
        """An ASGI app."""
        if self.answer is not None:
            await self.answer(scope, receive, send)
            return
        self.asked.append((scope["path"], scope["headers"]))
        body, more = b"", True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                return
            body += message["body"]
            more = message["more_body"]
        await self.go.wait()
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

    async def refusal(self) -> tuple[int, str]:
        """Status and code of the next answer, a problem, after which the server hangs up."""
        head, body = await self.answer()
        assert b"\r\ncontent-type: application/problem+json\r\n" in head
        assert b"\r\nconnection: close\r\n" in head
        assert await self.rest() == b""
        problem = msgspec.json.decode(body)
        assert int(head.split()[1]) == problem["status"]
        return problem["status"], problem["code"]

    async def rest(self) -> bytes:
        """All that comes until the server hangs up."""
        return await asyncio.wait_for(self.reader.read(), SECONDS)

    def send(self, method: str, target: str, body: bytes = b"", *headers: str, version: str = "1.1") -> None:
        """A request whose body has its Content-Length."""
        lines = [f"{method} {target} HTTP/{version}", "host: x", f"content-length: {len(body)}", *headers, "", ""]
        self.writer.write("\r\n".join(lines).encode() + body)


@asynccontextmanager
async def connected(
    timeouts: Timeouts | None = None, drain: Drain | None = None
) -> AsyncIterator[tuple[Server, Client]]:
    server = Server()
    config = uvicorn.Config(
        server.app, interface="asgi3", http=cast(Any, Protocol), ws="none", access_log=False, log_config=None
    )
    config.load()
    loop = asyncio.get_running_loop()
    listening = await loop.create_server(
        lambda: Protocol(
            config=config,
            server_state=server.state,
            app_state={},
            fast_path=server.direct,
            timeouts=timeouts,
            drain=drain,
            connections=server.connections,
        ),
        "127.0.0.1",
        0,
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


async def until(holds: Callable[[], Any]) -> None:
    """Lets the loop go on until something holds."""
    await until_async(holds, seconds=SECONDS, poll=0)


def run(work: Callable[[Server, Client], Awaitable[None]], timeouts: Timeouts | None = None) -> None:
    async def main() -> None:
        async with connected(timeouts) as (server, client):
            await work(server, client)

    uvloop.run(main())  # as the service does; it differs from asyncio's in what it does at the end of a stream


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
        client.writer.write(b"ect HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n" % size)
        for start in range(0, size, 9_999):
            client.writer.write(body[start : start + 9_999])
            await client.writer.drain()
            await asyncio.sleep(0)

        assert await client.said() == f"direct {size} 2"
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
        client.writer.write(
            b"POST /direct HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n"
        )

        assert await client.said() == "app POST /direct 3"
        assert server.bodies == []

    run(work)


def test_a_client_that_waits_to_be_told_to_go_on_is_told() -> None:
    async def work(server: Server, client: Client) -> None:
        client.writer.write(b"POST /direct HTTP/1.1\r\nhost: x\r\ncontent-length: 3\r\nexpect: 100-continue\r\n\r\n")
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

        assert re.fullmatch(
            rb"HTTP/1.1 202 Accepted\r\ncontent-type: application/json\r\nx-content-type-options: nosniff\r\n"
            rb"date: [A-Z][a-z]{2}, [0-9]{2} [A-Z][a-z]{2} [0-9]{4} [0-9:]{8} GMT\r\n"
            rb"x-request-id: [0-9a-f]{12}-[0-9a-f]+\r\ncontent-length: 10\r\n\r\n",
            head,
        )

    run(work)


def test_an_error_of_ours_is_a_problem_with_its_headers() -> None:
    async def work(server: Server, client: Client) -> None:
        server.error = Unauthenticated("token_missing", "send one")
        client.send("POST", "/direct", b"1")
        head, body = await client.answer()

        assert head.startswith(b"HTTP/1.1 401 Unauthorized\r\n")
        assert b"\r\ncontent-type: application/problem+json\r\n" in head
        assert b"\r\nwww-authenticate: Bearer\r\n" in head
        assert msgspec.json.decode(body)["code"] == "token_missing"

        server.error = Overloaded("later")
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
        client.writer.write(b"POST /direct HTTP/1.1\r\nhost: x\r\ncontent-length: 9\r\n\r\n1234")
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
        (task,) = server.state.tasks
        client.writer.transport.abort()
        server.go.set()
        await asyncio.wait([task], timeout=SECONDS)
        await until(lambda: not server.state.connections)

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
    async def call(_context: Context, _caller: Caller, _headers: Headers, _body: bytes) -> Answer:
        return Answer(200, b"")

    direct = FastPath({(b"POST", b"/direct"): Endpoint("direct", call)}, body_bytes_max=1)

    assert not direct.has(b"POST", b"/direct")
    direct.open(cast(Context, SimpleNamespace()))
    assert direct.has(b"POST", b"/direct")
    assert not direct.has(b"GET", b"/direct")


UPGRADES = [
    ("connection: Upgrade, HTTP2-Settings", "upgrade: h2c", "http2-settings: AAEAAEAAAAIAAAABAAMAAABkAAQBAAAAAAUAAEAA"),
    ("connection: upgrade", "upgrade: websocket", "sec-websocket-version: 13"),
    ("connection: keep-alive, Upgrade", "upgrade: TLS/1.2", "upgrade: x"),
]
SMUGGLED = b"GET /smuggled HTTP/1.1\r\nhost: x\r\n\r\n"


@pytest.mark.parametrize("headers", UPGRADES, ids=lambda headers: headers[1])
@pytest.mark.parametrize("has_its_own_packet", [False, True])
def test_an_offer_to_upgrade_is_passed_over(headers: tuple[str, ...], has_its_own_packet: bool) -> None:
    async def work(server: Server, client: Client) -> None:
        head = "\r\n".join(["POST /direct HTTP/1.1", "host: x", *headers, f"content-length: {len(SMUGGLED)}", "", ""])
        for _ in range(2):
            client.writer.write(head.encode())
            if has_its_own_packet:
                await until(lambda: any(cast(Any, one).cycle for one in server.state.connections))
            client.writer.write(SMUGGLED)
            count = 2 + len([header for header in headers if not header.startswith("upgrade")])
            assert await client.said() == f"direct {len(SMUGGLED)} {count}"
        client.send("GET", "/other", b"", *headers)
        assert await client.said() == "app GET /other 0"
        client.writer.write(b"POST /direct HTTP/1.1\r\nhost: x\r\nconnection: upgrade\r\nupgrade: h2c\r\n")
        client.writer.write(b"transfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n")
        assert await client.said() == "app POST /direct 3"
        client.send("POST", "/direct", b"1")
        assert await client.said() == "direct 1 2"
        assert server.bodies == [SMUGGLED, SMUGGLED, b"1"]
        assert "/smuggled" not in [path for path, _ in server.asked]

    run(work)


def test_many_offers_in_one_packet_are_passed_over() -> None:
    async def work(server: Server, client: Client) -> None:
        server.go.clear()
        for number in range(2_000):
            client.send("POST", f"/{number}", b"x", *UPGRADES[0])
        await until(lambda: server.asked)
        server.go.set()

        for number in range(2_000):
            assert await client.said() == f"app POST /{number} 1"

    run(work)


def test_a_tunnel_is_refused() -> None:
    async def work(_: Server, client: Client) -> None:
        client.send("CONNECT", "x:80")

        assert await client.refusal() == (400, "malformed_request")

    run(work)


GARBAGE = {
    "a null byte": b"\x00",
    "a body that is longer than it says": b"}",
    "a broken request": b"POST /direct HTTP/1.1\r\nhost x\r\n\r\n",
    "a request whose body is broken": b"POST /other HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\nx\r\n",
    "a request without a host": b"GET /other HTTP/1.1\r\n\r\n",
    "a megabyte": b"x" * 1_000_000,
}


@pytest.mark.parametrize("before", ["direct", "app", "both", "both, in several packets"])
@pytest.mark.parametrize("name", GARBAGE)
def test_requests_before_what_is_none_are_answered_first(name: str, before: str) -> None:
    async def work(server: Server, client: Client) -> None:
        server.go.clear()
        if before != "app":
            client.send("POST", "/direct", b"1")
        if before.endswith("packets"):
            await until(lambda: server.bodies)
        if before != "direct":
            client.send("GET", "/other")
            client.send("PUT", "/third", b"333")
        client.writer.write(GARBAGE[name])
        client.send("POST", "/never", b"4444")
        await until(lambda: server.bodies or server.asked)
        for _ in range(10):
            await asyncio.sleep(0)
        server.go.set()

        if before != "app":
            assert await client.said() == "direct 1 2"
        if before != "direct":
            assert await client.said() == "app GET /other 0"
            assert await client.said() == "app PUT /third 3"
        assert await client.refusal() == (400, "malformed_request")
        assert "/never" not in [path for path, _ in server.asked]

    run(work)


@pytest.mark.parametrize(("method", "path"), [("POST", "/direct"), ("GET", "/other"), ("POST", "/other")])
def test_a_client_that_sends_nothing_more_gets_its_answers(method: str, path: str) -> None:
    async def work(server: Server, client: Client) -> None:
        server.go.clear()
        client.send("POST", "/direct", b"1")
        client.send(method, path, b"22" if method == "POST" else b"")
        client.writer.write_eof()
        await until(lambda: server.bodies)
        server.go.set()

        assert await client.said() == "direct 1 2"
        assert (await client.said()).startswith(f"app {method} {path}")
        assert await client.rest() == b""
        await until(lambda: not server.state.connections)

    run(work)


def test_a_client_that_sends_nothing_more_gets_the_answer_of_a_direct_call() -> None:
    async def work(server: Server, client: Client) -> None:
        server.go.clear()
        client.send("POST", "/direct", b"1")
        client.writer.write_eof()
        await until(lambda: server.bodies)
        for _ in range(10):
            await asyncio.sleep(0)
        server.go.set()

        assert await client.said() == "direct 1 2"
        assert await client.rest() == b""

    run(work)


@pytest.mark.parametrize(
    ("piece", "code"),
    [
        (b"POST /dir", "incomplete_request"),
        (b"POST /direct HTTP/1.1\r\nhost: x\r\n", "incomplete_request"),
        (b"POST /direct HTTP/1.1\r\nhost: x\r\ncontent-length: 9\r\n\r\n1234", "incomplete_body"),
        (b"POST /other HTTP/1.1\r\nhost: x\r\ncontent-length: 9\r\n\r\n1234", "incomplete_body"),
    ],
)
@pytest.mark.parametrize("is_first", [True, False])
def test_a_client_that_stops_within_a_request_is_told(piece: bytes, code: str, is_first: bool) -> None:
    async def work(server: Server, client: Client) -> None:
        server.go.clear()
        if not is_first:
            client.send("GET", "/first")
        client.writer.write(piece)
        client.writer.write_eof()
        if not is_first:
            await until(lambda: server.asked)
        server.go.set()

        if not is_first:
            assert await client.said() == "app GET /first 0"
        assert await client.refusal() == (400, code)
        assert server.bodies == []

    run(work)


def test_a_client_that_says_nothing_and_leaves_gets_nothing() -> None:
    async def work(server: Server, client: Client) -> None:
        client.writer.write_eof()
        assert await client.rest() == b""
        await until(lambda: not server.state.connections)

    run(work)


@pytest.mark.parametrize("has_its_own_packet", [False, True])
def test_fields_after_a_body_are_no_headers(has_its_own_packet: bool) -> None:
    async def work(server: Server, client: Client) -> None:
        client.writer.write(b"POST /direct HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n")
        if has_its_own_packet:
            await until(lambda: server.asked)
        client.writer.write(b"0\r\nauthorization: Bearer x\r\nprefer: wait=1\r\nexpect: 100-continue\r\n\r\n")

        assert await client.said() == "app POST /direct 3"
        ((_, headers),) = server.asked
        assert [name for name, _ in headers] == [b"host", b"transfer-encoding"]

    run(work)


def test_fields_after_a_body_have_a_bound() -> None:
    async def work(server: Server, client: Client) -> None:
        client.writer.write(
            b"POST /other HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nx: "
        )
        await until(lambda: server.asked)
        for _ in range(64):
            client.writer.write(b"y" * 16_384)
            await client.writer.drain()

        assert await client.refusal() == (431, "headers_too_large")

    run(work)


def test_a_large_body_in_small_chunks_is_taken() -> None:
    async def work(server: Server, client: Client) -> None:
        client.writer.write(b"POST /other HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n")
        await until(lambda: server.asked)
        for _ in range(100):
            client.writer.write(b"1;extension=xyz\r\nx\r\n" * 1_000)
            await client.writer.drain()
        client.writer.write(b"0\r\n\r\n")

        assert await client.said() == "app POST /other 100000"

    run(work)


NO_REQUESTS = {
    "no version": b"GET %b\r\nhost: x\r\n\r\n",
    "no version and no carriage return": b"GET %b\nhost: x\r\n\r\n",
    "lines without a carriage return": b"GET %b HTTP/1.1\nhost: x\n\n",
    "version 2.0": b"GET %b HTTP/2.0\r\nhost: x\r\n\r\n",
    "version 0.9": b"GET %b HTTP/0.9\r\nhost: x\r\n\r\n",
    "no host": b"GET %b HTTP/1.1\r\n\r\n",
    "two hosts": b"GET %b HTTP/1.1\r\nhost: x\r\nHost: x\r\n\r\n",
    "two hosts in version 1.0": b"GET %b HTTP/1.0\r\nhost: x\r\nhost: y\r\n\r\n",
    "a host that is none": b"GET %b HTTP/1.1\r\nhost: x y\r\n\r\n",
    "a line that goes on": b"GET %b HTTP/1.1\r\nhost: x\r\n y: z\r\n\r\n",
    "two lengths": b"GET %b HTTP/1.1\r\nhost: x\r\ncontent-length: 0\r\ncontent-length: 0\r\n\r\n",
    "a length and chunks": b"GET %b HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n\r\n",
    "a space before a colon": b"GET %b HTTP/1.1\r\nhost : x\r\n\r\n",
}


@pytest.mark.parametrize("method", [b"POST", b"GET"])
@pytest.mark.parametrize("name", NO_REQUESTS)
def test_what_is_no_request_of_http_1_1_is_refused(name: str, method: bytes) -> None:
    async def work(server: Server, client: Client) -> None:
        client.writer.write((NO_REQUESTS[name] % b"/direct").replace(b"GET", method))

        assert await client.refusal() == (400, "malformed_request")
        assert (server.bodies, server.asked) == ([], [])

    run(work)


def test_a_host_may_be_empty_and_version_1_0_has_none() -> None:
    async def work(_: Server, client: Client) -> None:
        client.writer.write(b"POST /direct HTTP/1.1\r\nhost:\r\ncontent-length: 0\r\n\r\n")
        assert await client.said() == "direct 0 2"
        client.writer.write(b"POST /direct HTTP/1.0\r\ncontent-length: 0\r\n\r\n")
        assert await client.said() == "app POST /direct 0"

    run(work)


QUICK = Timeouts(head_seconds=0.1, body_seconds=0.2, keep_alive_seconds=0.3)
LONG = 60.0
SLOW = {
    "half a request line": (b"POST /dir", "head_seconds"),
    "half a head": (b"POST /direct HTTP/1.1\r\nhost: x\r\nx: ", "head_seconds"),
    "no body": (b"POST /direct HTTP/1.1\r\nhost: x\r\ncontent-length: 9\r\n\r\n", "body_seconds"),
    "half a body": (b"POST /direct HTTP/1.1\r\nhost: x\r\ncontent-length: 9\r\n\r\n1234", "body_seconds"),
    "half a body for the app": (b"POST /app HTTP/1.1\r\nhost: x\r\ncontent-length: 9\r\n\r\n1234", "body_seconds"),
    "half a chunk": (b"POST /app HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n9\r\n1", "body_seconds"),
}


def only(limit: str) -> Timeouts:
    """One limit, and no other within the test."""
    return Timeouts(LONG, LONG, LONG)._replace(**{limit: getattr(QUICK, limit)})


@pytest.mark.parametrize("is_first", [True, False])
@pytest.mark.parametrize("name", SLOW)
def test_a_request_that_does_not_come_whole_in_time_is_refused(name: str, is_first: bool) -> None:
    piece, limit = SLOW[name]

    async def work(server: Server, client: Client) -> None:
        if not is_first:
            client.send("POST", "/direct", b"1")
            assert await client.said() == "direct 1 2"
        client.writer.write(piece)

        assert await client.refusal() == (408, "request_timeout")
        assert server.bodies == ([] if is_first else [b"1"])

    run(work, only(limit))


@pytest.mark.parametrize("name", ["half a head", "half a body"])
def test_a_request_that_comes_byte_by_byte_has_no_more_time(name: str) -> None:
    piece, limit = SLOW[name]

    async def work(_: Server, client: Client) -> None:
        client.writer.write(piece)
        reading = asyncio.ensure_future(client.refusal())
        while not reading.done():
            client.writer.write(b"1" if limit == "head_seconds" else b"")
            await asyncio.wait({reading}, timeout=QUICK.head_seconds / 10)

        assert reading.result() == (408, "request_timeout")

    run(work, only(limit))


@pytest.mark.parametrize(
    ("limit", "sends"), [("head_seconds", b""), ("keep_alive_seconds", b"POST"), ("head_seconds", b"\r\n")]
)
def test_a_connection_without_a_request_is_closed_without_a_word(limit: str, sends: bytes) -> None:
    async def work(server: Server, client: Client) -> None:
        if sends == b"POST":
            client.send("POST", "/direct", b"1")
            assert await client.said() == "direct 1 2"
        else:
            client.writer.write(sends)

        assert await client.rest() == b""
        await until(lambda: not server.state.connections)

    run(work, only(limit))


@pytest.mark.parametrize("path", ["/direct", "/app"])
def test_an_answer_may_take_longer_than_a_client(path: str) -> None:
    async def work(server: Server, client: Client) -> None:
        server.go.clear()
        client.send("POST", path, b"1")
        await asyncio.sleep(4 * QUICK.keep_alive_seconds)
        assert server.state.connections
        server.go.set()

        assert (await client.said()).split()[0] == path[1:]

    run(work, QUICK)


def test_half_a_request_behind_one_is_refused_after_its_answer() -> None:
    async def work(server: Server, client: Client) -> None:
        server.go.clear()
        client.send("POST", "/direct", b"1")
        client.writer.write(b"POST /dir")
        await until(lambda: server.bodies)
        await asyncio.sleep(2 * QUICK.head_seconds)
        server.go.set()

        assert await client.said() == "direct 1 2"
        assert await client.refusal() == (408, "request_timeout")

    run(work, QUICK)


def test_requests_in_time_keep_a_connection_open() -> None:
    async def work(server: Server, client: Client) -> None:
        for _ in range(6):
            client.send("POST", "/direct", b"1")
            assert await client.said() == "direct 1 2"
            await asyncio.sleep(QUICK.keep_alive_seconds / 2)
        assert server.state.total_requests == 6

    run(work, QUICK)


@pytest.mark.parametrize(
    ("given", "is_kept"),
    [
        ("a", True),
        ("A.b_c-9" * 9, True),
        ("x" * 64, True),
        ("x" * 65, False),
        ("", False),
        ("a b", False),
        ("é", False),
    ],
)
def test_a_request_has_its_own_name_or_a_new_one(given: str, is_kept: bool) -> None:
    async def work(server: Server, client: Client) -> None:
        server.error = RuntimeError("x")
        names = []
        with capture_logs() as logs:
            for _ in range(2):
                client.send("POST", "/direct", b"1", f"x-request-id: {given}")
                head, body = await client.answer()
                (name,) = re.findall(rb"\r\nx-request-id: ([A-Za-z0-9._-]{1,64})\r\n", head)
                names.append(name.decode())
                assert msgspec.json.decode(body)["request_id"] == names[-1]

        assert [line["request_id"] for line in logs] == names
        assert (names == [given, given]) == is_kept
        assert is_kept or names[0] != names[1]

    run(work)


def test_what_is_no_request_does_not_have_the_name_of_the_one_before() -> None:
    async def work(_: Server, client: Client) -> None:
        client.send("POST", "/direct", b"1", "x-request-id: first")
        client.writer.write(b"\x00")
        named, _body = await client.answer()
        refused, _body = await client.answer()

        assert b"\r\nx-request-id: first\r\n" in named
        assert b"\r\nx-request-id: " in refused
        assert b"first" not in refused

    run(work)


WRONG = "authorization: wrong"


def test_a_wrong_token_is_answered_before_the_body_and_the_connection_goes_on() -> None:
    async def work(server: Server, client: Client) -> None:
        body = b"x" * DISCARD_BYTES_MAX
        client.send("POST", "/direct", body, WRONG)
        client.writer.write(b"")
        head, _ = await client.answer()
        client.writer.write(f"POST /direct HTTP/1.1\r\nhost: x\r\n{WRONG}\r\ncontent-length: 4\r\n\r\n".encode())
        early, problem = await client.answer()  # no byte of its body was sent

        assert head.startswith(b"HTTP/1.1 401 ")
        assert early.startswith(b"HTTP/1.1 401 ")
        assert b"connection: close" not in early
        assert msgspec.json.decode(problem)["code"] == "token_invalid"
        client.writer.write(b"1234")
        protocol = cast(Protocol, next(iter(server.state.connections)))
        await until(lambda: protocol._stage.name == "NOTHING")
        assert protocol.cycle.body == b""
        client.send("POST", "/direct", b"123")
        assert await client.said() == "direct 3 2"
        assert server.bodies == [b"123"]
        assert server.callers.asked == 3  # once each

    run(work)


def test_a_large_body_with_a_wrong_token_is_not_awaited() -> None:
    async def work(server: Server, client: Client) -> None:
        size = DISCARD_BYTES_MAX + 1
        client.writer.write(f"POST /direct HTTP/1.1\r\nhost: x\r\n{WRONG}\r\ncontent-length: {size}\r\n\r\n".encode())

        assert await client.refusal() == (401, "token_invalid")
        assert server.bodies == []

    run(work)


def test_many_requests_with_a_wrong_token_are_answered_in_order() -> None:
    async def work(server: Server, client: Client) -> None:
        for number in range(50):
            client.send("POST", "/direct", b"1", WRONG, f"x-request-id: {number}")
        answers = [await client.answer() for _ in range(1)]
        assert b"x-request-id: 0\r\n" in answers[0][0]
        for _ in range(49):
            assert await client.said() == "app POST /direct 1"  # which refuses it
        assert server.bodies == []

    run(work)


def test_a_refused_expectation_closes_the_connection() -> None:
    async def work(server: Server, client: Client) -> None:
        async def refuse(_scope: Any, _receive: Any, send: Any) -> None:
            await send({"type": "http.response.start", "status": 401, "headers": [(b"content-length", b"0")]})
            await send({"type": "http.response.body", "body": b""})

        server.answer = refuse
        client.writer.write(b"POST /direct HTTP/1.1\r\nhost: x\r\nexpect: 100-continue\r\ncontent-length: 4\r\n\r\n")
        head, _ = await client.answer()

        assert head.startswith(b"HTTP/1.1 401 ")
        assert b"connection: close\r\n" in head
        assert await client.rest() == b""

    run(work)


def test_a_taken_expectation_keeps_the_connection() -> None:
    async def work(_: Server, client: Client) -> None:
        client.writer.write(b"POST /direct HTTP/1.1\r\nhost: x\r\nexpect: 100-continue\r\ncontent-length: 4\r\n\r\n")
        assert (await client.reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 100 ")
        client.writer.write(b"1234")
        assert await client.said() == "app POST /direct 4"
        client.send("POST", "/direct", b"1")
        assert await client.said() == "direct 1 2"

    run(work)


def test_requests_beyond_the_bound_of_a_pipeline_are_refused_after_the_others() -> None:
    async def work(server: Server, client: Client) -> None:
        server.go.clear()
        request = b"GET /other HTTP/1.1\r\nhost: x\r\n\r\n"
        client.writer.write(request * (2 * UNPARSED_BYTES_MAX // len(request)))
        reading = asyncio.create_task(client.reader.read(1))
        await until(lambda: server.asked)
        for _ in range(100):
            await asyncio.sleep(0)
        assert len(server.asked) == 1
        assert max(len(protocol.pipeline) for protocol in cast(set[Protocol], server.state.connections)) < 500
        server.go.set()
        assert await asyncio.wait_for(reading, SECONDS) == b"H"

    run(work)


def test_a_full_process_closes_the_idle_connection_for_a_new_one() -> None:
    async def work(server: Server, client: Client) -> None:
        client.send("POST", "/direct", b"1")
        assert await client.said() == "direct 1 2"
        bounds = Connections(1)
        for protocol in cast(set[Protocol], server.state.connections):
            protocol._bounds = bounds
            assert bounds.enter(protocol, None, 3) is None
        server.connections = bounds
        address = client.writer.get_extra_info("peername")
        second = Client(*await asyncio.open_connection(*address))
        second.send("POST", "/direct", b"12")

        assert await second.said() == "direct 2 2"
        assert await client.rest() == b""
        server.go.clear()
        second.send("POST", "/direct", b"123")
        await until(lambda: len(server.bodies) == 3)
        third = Client(*await asyncio.open_connection(*address))
        third.send("POST", "/direct", b"1234")
        assert await third.refusal() == (503, "too_many_connections")
        server.go.set()
        assert await second.said() == "direct 3 2"
        for closed in (second, third):
            closed.writer.close()

    run(work)


def test_a_client_that_does_not_read_its_answer_is_closed() -> None:
    async def work(server: Server, client: Client) -> None:
        async def much(_scope: Any, _receive: Any, send: Any) -> None:
            size = 30_000_000
            headers = [(b"content-length", b"%d" % size)]
            await send({"type": "http.response.start", "status": 200, "headers": headers})
            for _ in range(30):
                await send({"type": "http.response.body", "body": b"x" * (size // 30), "more_body": True})
            await send({"type": "http.response.body", "body": b""})

        server.answer = much
        cast(asyncio.Transport, client.writer.transport).pause_reading()
        client.send("GET", "/other")
        await until(lambda: server.state.tasks)

        await until(lambda: not server.state.connections)

    run(work, Timeouts(60, 0.2, 60))
