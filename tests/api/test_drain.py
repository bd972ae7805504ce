"""The end of an API process: it drains, closes what idles, answers what is under way, and ends with code 0."""

import asyncio
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from typing import Any, cast

import httpx
import msgspec
import pytest
import uvloop

from api.http_protocol import Drain, Protocol
from api.listener import listen
from core.settings import Settings, environment_of
from testing.clients.trader import http_client
from testing.exchange import ExchangeServer, exchange_server
from testing.processes import environment, finished
from testing.waiting import until
from tests.api.test_server import SECONDS, Client, Server, connected
from tests.api.test_server import until as until_in_loop

Work = Callable[[Server, Client, Drain], Awaitable[None]]

DIRECT, APP = ("POST", "/direct", b"1"), ("PUT", "/app", b"22")
SAID = {DIRECT: "direct 1 2", APP: "app PUT /app 2"}


def run(work: Work) -> None:
    async def main() -> None:
        drain = Drain()
        async with connected(drain=drain) as (server, client):
            await work(server, client, drain)

    uvloop.run(main())


def connection_of(server: Server) -> Protocol:
    (connection,) = server.state.connections
    return cast(Protocol, connection)


def begin(server: Server, drain: Drain) -> None:
    """Begins to drain, as a server does."""
    drain.is_on = True
    connection_of(server).drain()


async def accepted(server: Server) -> None:
    await until_in_loop(lambda: server.state.connections)


async def last_answer(client: Client) -> str:
    """The body of the next answer, which must be the last one."""
    head, body = await client.answer()
    assert b"\r\nconnection: close\r\n" in head
    assert await client.rest() == b""
    return body.decode()


@pytest.mark.parametrize("request_", [DIRECT, APP])
def test_the_answer_to_a_request_within_the_drain_closes_its_connection(request_: tuple[str, str, bytes]) -> None:
    async def work(server: Server, client: Client, drain: Drain) -> None:
        client.send(*request_)
        assert await client.said() == SAID[request_]
        begin(server, drain)
        client.send(*request_)

        assert await last_answer(client) == SAID[request_]
        await asyncio.wait_for(drain.emptied.wait(), SECONDS)

    run(work)


@pytest.mark.parametrize("request_", [DIRECT, APP])
def test_a_request_under_way_is_answered_and_its_connection_closes(request_: tuple[str, str, bytes]) -> None:
    async def work(server: Server, client: Client, drain: Drain) -> None:
        server.go.clear()
        client.send(*request_)
        await until_in_loop(lambda: server.bodies or server.asked)
        begin(server, drain)
        assert not drain.emptied.is_set()
        server.go.set()

        assert await last_answer(client) == SAID[request_]

    run(work)


@pytest.mark.parametrize("requests", [(DIRECT, APP, DIRECT), (APP, DIRECT, APP), (DIRECT, DIRECT), (APP, APP)])
@pytest.mark.parametrize("before", [0, 1, 2])
def test_of_requests_that_are_sent_ahead_the_last_answer_closes(
    requests: tuple[tuple[str, str, bytes], ...], before: int
) -> None:
    """`before`: how many of them come before the drain begins."""

    async def work(server: Server, client: Client, drain: Drain) -> None:
        server.go.clear()
        await accepted(server)
        for request in requests[:before]:
            client.send(*request)
        if before:
            await until_in_loop(lambda: server.bodies or server.asked)
        for _ in range(10):
            await asyncio.sleep(0)
        begin(server, drain)
        for request in requests[before:]:
            client.send(*request)
        await until_in_loop(lambda: server.bodies or server.asked)
        for _ in range(10):
            await asyncio.sleep(0)
        server.go.set()

        for number, request in enumerate(requests):
            # A call is direct only if nothing is under way before it.
            said = SAID[request] if number == 0 or request is APP else "app POST /direct 1"
            assert (await last_answer(client) if number == len(requests) - 1 else await client.said()) == said

    run(work)


def test_the_end_of_an_idle_connection_is_no_reset_and_what_follows_is_not_done() -> None:
    async def work(server: Server, client: Client, _: Drain) -> None:
        client.send("POST", "/direct", b"1")
        assert await client.said() == "direct 1 2"
        connection_of(server).shutdown()
        assert await client.rest() == b""
        assert connection_of(server), "it would reset what follows"
        client.send("POST", "/direct", b"22")
        client.writer.write_eof()
        await until_in_loop(lambda: not server.state.connections)

        assert await client.rest() == b""
        assert server.bodies == [b"1"]

    run(work)


def test_an_idle_client_that_does_not_close_is_closed_soon() -> None:
    async def work(server: Server, client: Client, _: Drain) -> None:
        await accepted(server)
        connection_of(server).shutdown()

        assert await client.rest() == b""
        await until_in_loop(lambda: not server.state.connections)

    run(work)


@pytest.mark.parametrize("request_", [DIRECT, APP])
@pytest.mark.parametrize("is_first", [True, False])
def test_a_request_that_the_loop_has_not_read_yet_is_answered(request_: tuple[str, str, bytes], is_first: bool) -> None:
    async def work(server: Server, client: Client, _: Drain) -> None:
        await accepted(server)
        if not is_first:
            client.send(*request_)
            assert await client.said() == SAID[request_]
        client.send(*request_)  # the transport writes at once
        connection_of(server).shutdown()

        assert await last_answer(client) == SAID[request_]

    run(work)


@pytest.mark.parametrize("cut", [5, 40, 58])
def test_a_request_that_has_arrived_in_part_is_answered(cut: int) -> None:
    async def work(server: Server, client: Client, _: Drain) -> None:
        request = b"POST /direct HTTP/1.1\r\nhost: x\r\ncontent-length: 3\r\n\r\nabc"
        client.writer.write(request[:cut])
        await accepted(server)
        await until_in_loop(lambda: cast(Any, connection_of(server))._has_entered_stage)
        connection_of(server).shutdown()
        client.writer.write(request[cut:])

        assert await last_answer(client) == "direct 3 2"

    run(work)


# -- a whole process


@pytest.fixture(scope="module")
def apart() -> Iterator[ExchangeServer]:
    """An exchange whose tests start API processes of their own."""
    with exchange_server("archiver", drain_seconds=1, stop_seconds=8) as server:
        yield server


def test_a_process_that_drains_says_so_and_answers_until_its_end(apart: ExchangeServer) -> None:
    apart.start_service("engine", "api")
    pid = apart.pid("api")
    with http_client(apart.url) as kept:
        assert kept.get("/health/ready").status_code == 200
        os.kill(pid, signal.SIGTERM)
        began = time.monotonic()
        answers = [until(lambda: _if_draining(kept))]
        while time.monotonic() - began < 0.8:
            answers.append(httpx.get(f"{apart.url}/health/ready", trust_env=False))
        alive = kept.get("/health/live")
        code = apart.stop_service("api")
        seconds = time.monotonic() - began

    assert {answer.status_code for answer in answers} == {503}
    assert answers[0].json()["status"] == "draining"
    assert {answer.headers["connection"] for answer in [*answers, alive]} == {"close"}
    assert code == 0
    assert 1 <= seconds < 4
    apart.stop_service("engine")


def _if_draining(client: httpx.Client) -> httpx.Response | None:
    answer = client.get("/health/ready")
    return answer if answer.status_code == 503 else None


def test_a_wait_for_a_match_ends_in_time(apart: ExchangeServer) -> None:
    """No engine works, so the wait would take longer than the stop may take."""
    apart.start_service("api")
    trader = apart.trader()
    before = apart.sequences()["pikachu"]
    with ThreadPoolExecutor(1) as pool:
        placing = pool.submit(trader.post, "pikachu", "buy", "5.50", headers={"prefer": "wait=10"})
        until(lambda: apart.sequences()["pikachu"] > before)
        began = time.monotonic()
        code = apart.stop_service("api")
        answer = placing.result()

    assert answer.status_code == 202
    assert answer.headers["connection"] == "close"
    assert code == 0
    assert time.monotonic() - began < 8 + 1


# -- what a process inherits


def api_with(settings: Settings, descriptors: tuple[int, ...], **variables: str) -> "subprocess.Popen[bytes]":
    return subprocess.Popen(
        [sys.executable, "-P", "-m", "api"],
        env=environment(**environment_of(settings), **variables),
        pass_fds=descriptors,
        stdout=subprocess.DEVNULL,
    )


def test_connections_wait_in_an_inherited_socket_for_the_next_process(apart: ExchangeServer) -> None:
    with closing(listen("127.0.0.1", 0, shared=False)) as listener:
        number = listener.fileno()
        local = msgspec.structs.replace(apart.settings, listen_fd=number, drain_seconds=0)
        for _ in range(2):
            with socket.create_connection(listener.getsockname()) as client:
                client.sendall(b"GET /health/live HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
                process = api_with(local, (number,))
                client.settimeout(60)
                first = client.recv(100)
            process.terminate()
            assert process.wait(10) == 0
            assert first.startswith(b"HTTP/1.1 200 OK\r\n")


def test_the_socket_of_a_systemd_unit_is_taken(apart: ExchangeServer) -> None:
    program = (
        "import os, socket, sys\n"
        "os.dup2(int(sys.argv[1]), 3)\n"
        "os.environ |= {'LISTEN_PID': str(os.getpid()), 'LISTEN_FDS': '1'}\n"
        "os.execv(sys.executable, [sys.executable, '-P', '-m', 'api'])\n"
    )
    with closing(listen("127.0.0.1", 0, shared=False)) as listener:
        process = subprocess.Popen(
            [sys.executable, "-P", "-c", program, str(listener.fileno())],
            env=environment(**environment_of(msgspec.structs.replace(apart.settings, drain_seconds=0))),
            pass_fds=(listener.fileno(),),
        )
        host, port = listener.getsockname()
        answer = httpx.get(f"http://{host}:{port}/health/live", trust_env=False, timeout=60)
        process.terminate()

    assert process.wait(10) == 0
    assert answer.status_code == 200


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("listen_fd", "tcgx api: the inherited descriptor 999 is no socket: Bad file descriptor\n"),
        ("ready_fd", "tcgx api: TCGX_READY_FD=999 cannot be written to: Bad file descriptor\n"),
    ],
)
def test_a_descriptor_that_is_none_is_named(apart: ExchangeServer, name: str, text: str) -> None:
    local = msgspec.structs.replace(apart.settings, **{name: 999})
    result = finished([sys.executable, "-P", "-m", "api"], variables=environment_of(local))

    assert result.returncode == 1
    assert result.stderr.endswith(text)
