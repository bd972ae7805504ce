"""docs/client.md: its code runs, in order, and it names what there is."""

import inspect
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import tcgx_client

from testing.exchange import ExchangeServer, exchange_server
from testing.servers import free_port

PAGE = (Path(__file__).parents[2] / "docs" / "client.md").read_text()


@pytest.fixture(scope="module")
def exchange() -> Iterator[ExchangeServer]:
    """An exchange with both doors."""
    with exchange_server("engine", "archiver", "api", "grpc", grpc_port=free_port()) as started:
        yield started


@pytest.mark.server
def test_the_code_of_the_page_runs(
    exchange: ExchangeServer, trader_id: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TCGX_URL", exchange.url)
    monkeypatch.setenv("TCGX_TRADER_ID", str(trader_id))
    monkeypatch.setenv("TCGX_API_KEY", exchange.api_key(trader_id))
    monkeypatch.setenv("TCGX_GRPC_TARGET", f"127.0.0.1:{exchange.settings.grpc_port}")
    blocks = re.findall(r"^```python\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    names: dict[str, object] = {"__name__": "page"}

    for block in blocks:
        exec(compile(block, "docs/client.md", "exec"), names)  # noqa: S102 - the page's own code

    said = capsys.readouterr().out
    assert len(blocks) >= 7
    assert "Connected" in said
    assert "Trades" in said


def test_every_method_and_exception_is_on_the_page() -> None:
    methods = {name for name, _ in inspect.getmembers(tcgx_client.Tcgx, inspect.isfunction) if not name.startswith("_")}
    exceptions = {
        name
        for name in tcgx_client.__all__
        if inspect.isclass(each := getattr(tcgx_client, name)) and issubclass(each, Exception)
    } - {"StreamError"}

    assert {name for name in methods if not re.search(rf"\b{name}\(", PAGE)} == set()
    assert {name for name in exceptions if not re.search(rf"\b{name}\b", PAGE)} == set()
