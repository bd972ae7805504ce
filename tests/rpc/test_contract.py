"""The code of the contract is what its generator makes, and every call has a test."""

import subprocess
import sys
from pathlib import Path

import pytest

from core.errors import Kind
from rpc.problems import STATUS_OF_KIND
from rpc.service import ExchangeService
from rpc.v1 import exchange_pb2 as pb

ROOT = Path(__file__).parents[2]
FOLDER = Path("rpc", "v1")


def test_the_generated_code_is_that_of_the_contract(tmp_path: Path) -> None:
    options = [f"--{kind}_out={tmp_path}" for kind in ("python", "pyi", "grpc_python")]
    command = [sys.executable, "-m", "grpc_tools.protoc", "-I.", *options, str(FOLDER / "exchange.proto")]
    subprocess.run(command, cwd=ROOT, check=True, timeout=60)

    for made in (tmp_path / FOLDER).iterdir():
        assert made.read_text() == (ROOT / FOLDER / made.name).read_text(), f"{made.name} is old: make grpc"


def test_every_call_of_the_contract_is_answered() -> None:
    calls = {method.name for method in pb.DESCRIPTOR.services_by_name["ExchangeService"].methods}

    assert calls <= {name for name in vars(ExchangeService) if not name.startswith("_")}


def test_every_kind_of_error_has_a_status() -> None:
    assert {*STATUS_OF_KIND} == {*Kind}


@pytest.mark.parametrize("name", ["lint", "breaking"])
def test_buf_finds_what_it_looks_for(tmp_path: Path, name: str) -> None:
    """A contract with a planted fault."""
    buf = Path(sys.executable).with_name("buf")
    (tmp_path / "buf.yaml").write_text((ROOT / "buf.yaml").read_text())
    (tmp_path / FOLDER).mkdir(parents=True)
    text = (ROOT / FOLDER / "exchange.proto").read_text()
    planted = {"lint": ("message Level {", "message level {"), "breaking": ("string price = 5;", "int64 price = 5;")}
    (tmp_path / FOLDER / "exchange.proto").write_text(text.replace(*planted[name]))
    against = ["--against", str(ROOT / FOLDER / "released.binpb")] if name == "breaking" else []

    done = subprocess.run([buf, name, *against], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)

    assert done.returncode != 0
    assert "exchange.proto" in done.stdout
