"""Every code block of the docs runs, against one exchange of `tcgx up`, or says on the line above why it does not."""

import asyncio
import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from graphql import build_schema, parse, validate

from archiver.postgres import connect
from core import settings
from testing.exchange import START_SECONDS, TcgxUp, tcgx_up
from testing.processes import PROGRAM, environment
from testing.servers import folder, free_port
from testing.waiting import until
from tests.docs.blocks import BLOCKS, ROOT, Block

BLOCK_SECONDS = 30
ELSEWHERE = {
    ("README.md", "sh"): "tests/whole/test_readme.py",
    ("README.md", "redis"): "tests/whole/test_readme.py",
    ("docs/client.md", "python"): "tests/client/test_client_doc.py",
    ("docs/streams.md", "python"): "tests/streams/test_streams_doc.py",
}
"""Blocks that another test runs, by page and language."""

WORDS = {"status", "code", "title", "detail", "field", "rule", "card", "side", "liquidity", "token_type", "price"}
"""Keys whose values in an answer are those that the page shows. Of others, the type is."""

RUN = [block for block in BLOCKS if not block.reason and (block.page, block.language) not in ELSEWHERE]
RUN_PAGES = sorted({block.page for block in RUN}, key=lambda page: (page != "docs/start.md", page))
"""The first page comes first, since others read its trade."""


class Reader:
    """Somebody who types the blocks of a page, one after the other."""

    def __init__(self, exchange: TcgxUp, grpc_port: int) -> None:
        self._exchange = exchange
        self._grpc_port = grpc_port
        self._state = exchange.where / "shell-state"
        self._state.write_text("")
        self._names: dict[str, Any] = {"__name__": "page", "API_KEY": self._api_key(1)}
        self._printed = ""

    def run(self, block: Block) -> None:
        """Runs a block; it must succeed."""
        text = block.text.replace("127.0.0.1:8000", f"127.0.0.1:{self._exchange.port}")
        text = text.replace("127.0.0.1:50051", f"127.0.0.1:{self._grpc_port}")
        match block.language:
            case "sh":
                self._printed = self._typed(text, block)
            case "python":
                exec(compile(text, block.place, "exec"), self._names)  # noqa: S102 - the page's own code
            case "json":
                assert_like(json.loads(text), last_json(self._printed), block.place)
            case "sql":
                until(lambda: asyncio.run(self._rows(text)), f"{block.place} finds nothing")
            case "graphql":
                self._ask(text, block)
            case "env":
                settings.read(dict(line.split("=", 1) for line in text.splitlines()))
            case other:
                pytest.fail(
                    f"{block.place}: nothing runs {other!r}; add <!-- not run: reason --> above it if that is so"
                )

    def _typed(self, text: str, block: Block) -> str:
        """The output of a shell that knows the variables of the blocks before."""
        script = f"set -ea -o pipefail\n. {self._state}\n{text}\nexport -p > {self._state}\n"
        path = f"{PROGRAM.parent}{os.pathsep}{os.environ['PATH']}"
        done = subprocess.run(
            ["bash", "-c", script],
            cwd=self._exchange.where,
            env=environment(PATH=path),
            capture_output=True,
            text=True,
            timeout=BLOCK_SECONDS,
            check=False,
        )
        assert done.returncode == 0, f"{block.place}: {done.stdout}{done.stderr}"
        assert '"status":5' not in done.stdout, f"{block.place}: {done.stdout}"
        return done.stdout

    def _api_key(self, trader_id: int) -> str:
        lines = (self._exchange.where / ".tcgx" / "traders.csv").read_text().splitlines()
        return dict(line.split(",") for line in lines)[str(trader_id)]

    def _ask(self, text: str, block: Block) -> None:
        """Asks each operation of GraphQL; a subscription is compared with the schema alone."""
        schema = build_schema((ROOT / "api" / "graphql" / "schema.graphql").read_text())
        (trader,) = self._exchange.traders(1)
        for operation in text.split("\n\n"):
            assert validate(schema, parse(operation)) == [], block.place
            if not operation.startswith("subscription"):
                answer = trader.http.post("/graphql", json={"query": operation}).json()
                assert "errors" not in answer, f"{block.place}: {answer}"

    async def _rows(self, query: str) -> list[Any]:
        database = await connect(self._exchange.urls.database)
        try:
            return list(await database.fetch(query))
        finally:
            await database.close()


def last_json(printed: str) -> Any:
    """The last JSON text of what was printed."""
    decoder, found, at = json.JSONDecoder(), None, 0
    while (at := printed.find("{", at)) >= 0:
        found, at = decoder.raw_decode(printed, at)
    return found


def assert_like(shown: Any, found: Any, place: str) -> None:
    """An answer has the keys and types that the page shows, and its words."""
    assert type(shown) is type(found), f"{place}: {shown!r} is shown, and {found!r} found"
    if isinstance(shown, dict):
        assert shown.keys() == found.keys(), place
        for key, value in shown.items():
            assert_like(value, found[key], f"{place}, {key}")
            if key in WORDS:
                assert found[key] == value, f"{place}, {key}"
    elif isinstance(shown, list):
        assert len(shown) == len(found), place
        for each, other in zip(shown, found, strict=True):
            assert_like(each, other, place)


@pytest.fixture(scope="module")
def grpc_port() -> int:
    return free_port()


@pytest.fixture(scope="module")
def running(grpc_port: int) -> Iterator[TcgxUp]:
    doors = {"TCGX_GRAPHQL": "on", "TCGX_GRPC_PORT": str(grpc_port)}
    with folder() as where, tcgx_up(where, "--grpc", variables=doors) as exchange:
        with grpc.insecure_channel(f"127.0.0.1:{grpc_port}") as channel:
            grpc.channel_ready_future(channel).result(START_SECONDS)
        yield exchange


@pytest.mark.server
@pytest.mark.parametrize("page", RUN_PAGES)
def test_every_block_of_the_page_runs(running: TcgxUp, grpc_port: int, page: str) -> None:
    reader = Reader(running, grpc_port)
    for block in (block for block in RUN if block.page == page):
        reader.run(block)


@pytest.mark.server
def test_the_exchange_serves_the_docs_beside_the_reference(running: TcgxUp) -> None:
    http = running.trader().http

    first = http.get("/docs", follow_redirects=True)

    assert (first.status_code, first.url.path) == (200, "/docs/index.html")
    assert http.head("/docs/errors.html").headers["etag"]
    assert http.get("/docs/nope.html").json()["code"] == "not_found"
    assert http.get("/schema/swagger").status_code == http.get("/schema/asyncapi").status_code == 200


def test_what_another_test_runs_is_named_there() -> None:
    for (page, language), test in ELSEWHERE.items():
        assert any((block.page, block.language) == (page, language) for block in BLOCKS), page
        assert Path(page).name.removesuffix(".md") in (ROOT / test).read_text()


def test_most_blocks_run_and_the_others_have_a_reason() -> None:
    marked = [block for block in BLOCKS if block.reason]

    assert len(RUN) >= 24
    assert len(BLOCKS) - len(marked) >= 40
    assert all(len(block.reason.split()) >= 3 for block in marked)
    assert len(marked) <= 20, [block.place for block in marked]


def test_an_answer_that_differs_from_the_page_is_found() -> None:
    shown = {"status": "filled", "trades": [{"quantity": 1}]}

    assert_like(shown, {"status": "filled", "trades": [{"quantity": 7}]}, "page")
    for other in ({"status": "open", "trades": [{"quantity": 1}]}, {"status": "filled", "trades": [{"amount": 1}]}):
        with pytest.raises(AssertionError):
            assert_like(shown, other, "page")
