"""What counts as a difference of two images: everything but the time of their builds."""

import io
import json
import tarfile
from pathlib import Path
from typing import Any, cast

import pytest

from testing.containers import sbom, trial
from testing.containers.engine import Engine

CONFIGURATION = {
    "created": "2026-01-01T00:00:00Z",
    "container": "c0ffee",
    "config": {"User": "10001:10001", "Image": "sha256:1"},
    "history": [{"created": "2026-01-01T00:00:00Z", "created_by": "RUN x"}],
    "rootfs": {"diff_ids": ["sha256:a"]},
}
LATER = CONFIGURATION | {
    "created": "2026-02-02T00:00:00Z",
    "container": "decaf",
    "config": {"User": "10001:10001", "Image": "sha256:2"},
    "history": [{"created": "2026-02-02T00:00:00Z", "created_by": "RUN x"}],
}


class SavedImages:
    """Has images as `docker save` writes them."""

    def __init__(self, **images: tuple[dict[str, Any], dict[str, bytes]]) -> None:
        self._images = images

    def docker(self, *words: str) -> str:
        """Writes the image that `save --output PATH IMAGE` names."""
        path, name = words[2:]
        configuration, files = self._images[name]
        manifest = [{"Config": "config.json", "Layers": ["layer.tar"]}]
        whole = {
            "manifest.json": json.dumps(manifest).encode(),
            "config.json": json.dumps(configuration).encode(),
            "layer.tar": _tar(files),
        }
        Path(path).write_bytes(_tar(whole))
        return ""


def _tar(files: dict[str, bytes]) -> bytes:
    target = io.BytesIO()
    with tarfile.open(fileobj=target, mode="w") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return target.getvalue()


def differences(place: Path, *images: tuple[dict[str, Any], dict[str, bytes]]) -> tuple[list[str], bool]:
    """How two images differ, and whether they have one digest."""
    engine = cast(Engine, SavedImages(first=images[0], second=images[1]))
    first, second = (trial.contents(engine, name, place) for name in ("first", "second"))
    return trial.differences((first, second)), first.digest == second.digest


def test_the_time_of_a_build_is_no_difference(tmp_path: Path) -> None:
    files = {"opt/a.py": b"1"}

    assert differences(tmp_path, (CONFIGURATION, files), (LATER, files)) == ([], True)
    assert [*tmp_path.iterdir()] == []


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"config": {"User": "0", "Image": "sha256:2"}}, "config: "),
        ({"history": [{"created": "", "created_by": "RUN y"}]}, "history: "),
        ({"architecture": "arm64"}, "architecture: None or arm64"),
    ],
)
def test_another_configuration_is_one(tmp_path: Path, changed: dict[str, Any], says: str) -> None:
    files = {"opt/a.py": b"1"}
    (found,), is_same = differences(tmp_path, (CONFIGURATION, files), (LATER | changed, files))

    assert found.startswith(says)
    assert not is_same


def test_another_file_is_one_and_is_named(tmp_path: Path) -> None:
    other = LATER | {"rootfs": {"diff_ids": ["sha256:b"]}}
    found, is_same = differences(
        tmp_path, (CONFIGURATION, {"opt/a.py": b"1", "b": b""}), (other, {"opt/a.py": b"2", "b": b""})
    )

    assert [line.partition(": (")[0] for line in found] == ["layer 1: opt/a.py"]
    assert not is_same


def test_layers_that_differ_in_order_alone_are_one(tmp_path: Path) -> None:
    other = LATER | {"rootfs": {"diff_ids": ["sha256:b"]}}
    (found,), _ = differences(tmp_path, (CONFIGURATION, {"a": b"", "b": b""}), (other, {"b": b"", "a": b""}))

    assert found.startswith("the files are the same, in another order")


def test_a_bill_lacks_what_it_does_not_list_and_what_it_lists_with_another_version() -> None:
    bill = {"packages": [{"name": "Redis", "versionInfo": "8.1.0"}, {"name": "msgspec", "versionInfo": "0.1"}]}
    installed = {"redis": "8.1.0", "msgspec": "0.22.0", "tcgx": "0.1.0"}

    assert sbom.missing(bill, installed) == ["msgspec 0.22.0", "tcgx 0.1.0"]
