"""The two clients are one: the same methods with the same parameters, and every method that asks is awaited."""

import ast
import inspect
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import tcgx_client
from tcgx_client import AsyncLiveBook, AsyncPages, AsyncStream, AsyncTcgx, LiveBook, Pages, Stream, Tcgx

FOLDER = Path(tcgx_client.__file__).parent
PAIRS = [(Tcgx, AsyncTcgx), (Pages, AsyncPages), (Stream, AsyncStream), (LiveBook, AsyncLiveBook)]
AWAITED_NAMES = {"__enter__": "__aenter__", "__exit__": "__aexit__", "__next__": "__anext__"}
LAZY = {"orders", "fills", "candles", "history_orders", "history_trades", "stream", "live_book", "bids", "asks", "view"}
"""Methods that ask nothing yet, or read what is there already."""


def own(kind: type) -> dict[str, object]:
    """The public methods and properties of a class, and those of `with` and `for`."""
    return {
        name: value
        for name, value in vars(kind).items()
        if not name.startswith("_") or name in AWAITED_NAMES or name in AWAITED_NAMES.values()
    }


def parameters(method: object) -> list[tuple[str, object, object, object]]:
    """Name, kind, default and type of each parameter; the types of transports differ."""
    assert callable(method)
    found = inspect.signature(method).parameters.values()
    return [(each.name, each.kind, each.default, each.annotation) for each in found if each.name != "transport"]


@pytest.mark.parametrize(("sync", "awaited"), PAIRS)
def test_both_clients_have_the_same_methods(sync: type, awaited: type) -> None:
    names = {AWAITED_NAMES.get(name, name): value for name, value in own(sync).items()}

    assert list(names) == list(own(awaited))
    for name, value in own(awaited).items():
        if isinstance(value, property):
            assert isinstance(names[name], property), name
            assert value.__doc__ == names[name].__doc__, name
            continue
        assert parameters(names[name]) == parameters(value), name
        assert names[name].__doc__ == value.__doc__, name
        assert inspect.iscoroutinefunction(value) is (name not in LAZY), name


@pytest.mark.parametrize(("sync", "awaited"), PAIRS)
def test_both_are_made_of_the_same_arguments(sync: type, awaited: type) -> None:
    names = [list(inspect.signature(kind).parameters) for kind in (sync, awaited)]

    assert names[0] == names[1]


def test_nothing_of_the_exchange_is_imported() -> None:
    allowed = {*sys.stdlib_module_names, "tcgx_client", "httpx2", "httpcore2", "h11", "wsproto", "msgspec"}
    allowed |= {"grpc", "google"}  # of the extra `grpc`
    imported = set()
    for path in FOLDER.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                imported |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                assert node.module
                imported.add(node.module.partition(".")[0])

    assert imported <= allowed


def test_everything_that_the_package_offers_is_there() -> None:
    assert all(hasattr(tcgx_client, name) for name in tcgx_client.__all__)
    assert (FOLDER / "py.typed").exists()


@pytest.mark.skipif(find_spec("basedpyright") is None, reason="pyright is not installed: pip install basedpyright")
def test_pyright_finds_nothing() -> None:
    checked = subprocess.run(
        [sys.executable, "-m", "basedpyright", "--project", FOLDER.parent, "--pythonpath", sys.executable],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )

    assert checked.returncode == 0, checked.stdout
