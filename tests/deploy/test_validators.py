"""Validators fail on errors that are planted for them. `make validate` installs them and runs this file."""

import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from ruamel.yaml import YAML

from deploy import validate
from deploy.validate import ROOT, Failed

pytestmark = pytest.mark.skipif(
    not (ROOT / ".validate/ready").exists(), reason="the validators are not installed: make validate installs them"
)


class Planted(NamedTuple):
    """An error: a text of a file, and what stands in its place."""

    check: Callable[[Path], None]
    file: str
    text: str
    instead: str
    says: str


BASE, CHART, AWS = "deploy/kubernetes/base/api.yaml", "deploy/helm/tcgx", validate.TEMPLATE
EXTERNAL = "deploy/kubernetes/overlays/external/kustomization.yaml"


def base(tree: Path) -> None:
    """The base alone, by the schemas of one version."""
    validate.kubernetes(tree, [validate.kustomized("base")], ["1.34"])


def external(tree: Path) -> None:
    """The same of an overlay."""
    validate.kubernetes(tree, [validate.kustomized("overlays/external")], ["1.34"])


def chart(tree: Path) -> None:
    """The same of the chart."""
    validate.kubernetes(tree, [validate.templated()], ["1.34"])


PLANTED = [
    Planted(base, BASE, "revisionHistoryLimit", "revisionHistoryLimits", "revisionHistoryLimits"),
    Planted(external, EXTERNAL, "../../base", "../../bass", "bass"),
    Planted(chart, f"{CHART}/templates/api.yaml", 'kind: "Service"', 'kind: "Servce"', "Servce"),
    Planted(
        validate.helm, f"{CHART}/templates/engine.yaml", ".Values.engine.replicas", ".Values.engin.replicas", "engin"
    ),
    Planted(validate.helm, f"{CHART}/values.yaml", "replicasMax: 6", 'replicasMax: "six"', "replicasMax"),
    Planted(
        validate.checkov_kubernetes,
        BASE,
        "readOnlyRootFilesystem: true",
        "readOnlyRootFilesystem: false",
        "CKV_K8S_22",
    ),
    Planted(validate.checkov_cloudformation, AWS, "StorageEncrypted: true", "StorageEncrypted: false", "CKV_AWS_16"),
    Planted(validate.cfn_lint, AWS, "MultiAZ: true", "MultiZone: true", "MultiZone"),
    Planted(validate.actionlint, ".github/workflows/ci.yml", "matrix.python }}, ", "matrix.pyton }}, ", "pyton"),
    Planted(validate.zizmor, ".github/workflows/ci.yml", "persist-credentials: false", "fetch-depth: 1", "artipacked"),
    Planted(validate.secrets, "deploy/staging.sh", "version=$1", "KEY=AKIA" + "ABCDEFGHIJKLMNOP", "staging.sh"),
]


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A copy of the deployment files, as a repository of its own."""
    for name in ("deploy", ".github"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    subprocess.run(["git", "init", "--quiet", str(tmp_path)], check=True)
    subprocess.run(["git", "-C", str(tmp_path), "add", "--all"], check=True)
    return tmp_path


@pytest.mark.parametrize("planted", PLANTED, ids=lambda planted: f"{planted.check.__name__}-{planted.says}")
def test_a_planted_error_is_found(tree: Path, planted: Planted) -> None:
    path = tree / planted.file
    text = path.read_text()
    assert planted.text in text
    path.write_text(text.replace(planted.text, planted.instead))

    with pytest.raises(Failed, match=planted.says):
        planted.check(tree)


def _objects(text: str) -> dict[tuple[str, str], Any]:
    found = [one for one in YAML(typ="safe").load_all(text) if one]
    for one in found:
        one["metadata"].pop("namespace", None)
        if one["kind"] == "Job":  # of the chart it ends with a digest of its values
            one["metadata"]["name"] = re.sub(r"-[0-9a-f]{8}$", "", one["metadata"]["name"])
    return {(one["kind"], one["metadata"]["name"]): one for one in found}


def test_the_chart_has_the_objects_of_the_base(tree: Path) -> None:
    of_base = _objects(validate.run(validate.kustomized("base"), tree))
    of_chart = _objects(validate.run(validate.templated(), tree))

    assert of_chart == of_base
    assert len(of_base) == 16


def test_the_chart_with_servers_has_the_objects_of_a_single_node(tree: Path) -> None:
    node = _objects(validate.run(validate.kustomized("overlays/single-node"), tree))
    values = ["--set", "servers.enabled=true,grpc.enabled=true,grpc.replicas=1,api.replicasMin=1,api.replicasMax=2"]

    assert _objects(validate.run(validate.templated(values), tree)) == node


def test_a_chart_without_policies_has_none_whatever_else_is_on(tree: Path) -> None:
    values = "servers.enabled=true,grpc.enabled=true,monitoring.enabled=true,networkPolicy.enabled="
    of = {
        on: {kind for kind, _ in _objects(validate.run(validate.templated(["--set", f"{values}{on}"]), tree))}
        for on in ("true", "false")
    }

    assert of["true"] - of["false"] == {"NetworkPolicy"}


@pytest.mark.parametrize("change", ["image.repository=r", "secretName=s", "migrate.resources.limits.cpu=3"])
def test_a_change_of_the_migration_is_a_job_of_another_name_since_a_job_cant_be_changed(
    change: str, tree: Path
) -> None:
    def job(*values: str) -> Any:
        text = validate.run(validate.templated(values), tree)
        (found,) = (one for one in YAML(typ="safe").load_all(text) if one and one["kind"] == "Job")
        return found

    before, after, same = job(), job("--set", change), job("--set", "api.replicasMax=9,config.TCGX_CARDS=mew")

    assert before["spec"] != after["spec"]
    assert before["metadata"]["name"] != after["metadata"]["name"]
    assert before == same


def test_overlays_change_what_they_say(tree: Path) -> None:
    outside = _objects(validate.run(validate.kustomized("overlays/external"), tree))
    managed = _objects(validate.run(validate.kustomized("overlays/managed"), tree))
    sentinel = _objects(validate.run(validate.kustomized("overlays/sentinel"), tree))

    assert outside["ConfigMap", "tcgx"]["data"]["TCGX_DURABILITY"] == "always"
    assert managed["ConfigMap", "tcgx"]["data"]["TCGX_DURABILITY"] == "managed"
    assert sentinel["ConfigMap", "tcgx"]["data"]["TCGX_REPLICA_ACKS"] == "1"
    for component in ("api", "engine", "archiver", "migrate"):
        dns, *others = outside["NetworkPolicy", f"tcgx-{component}"]["spec"]["egress"]
        assert "to" not in dns
        assert [rule["to"] for rule in others] == [[{"ipBlock": {"cidr": "10.0.0.0/16"}}]] * len(others)
