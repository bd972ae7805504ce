"""`python -m deploy.generate`: writes kustomize's base and the Helm chart from `deploy/objects.py`.

`--check` writes nothing, and fails if a file is not what it would write.
"""

import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from deploy import objects
from deploy.objects import DEFAULTS, VERSION, File
from deploy.yaml_text import text

FOLDER = Path(__file__).parent
HEAD = "# Made by `python -m deploy.generate`.\n"
DESCRIPTION = "An exchange: REST orders, matched in Redis, archived in PostgreSQL"
NOTES = """tcgx runs in the namespace {{ .Release.Namespace }}.

kubectl --namespace {{ .Release.Namespace }} rollout status deployment/tcgx-api
kubectl --namespace {{ .Release.Namespace }} port-forward service/tcgx-api 8000
"""


def files() -> dict[Path, str]:
    """The text of every file."""
    base, servers, monitoring = (FOLDER / "kubernetes" / name for name in ("base", "servers", "monitoring"))
    chart = FOLDER / "helm/tcgx"
    exchange = objects.exchange(objects.default)
    made = {base / f"{file.name}.yaml": HEAD + _documents(file) for file in exchange}
    made[base / "kustomization.yaml"] = HEAD + _kustomization("Kustomization", exchange)
    trying = objects.servers(objects.default)
    made |= {servers / f"{file.name}.yaml": HEAD + _documents(file) for file in trying}
    made[servers / "kustomization.yaml"] = HEAD + _kustomization("Component", trying)
    watched = objects.monitoring(objects.default)
    made |= {monitoring / f"{file.name}.yaml": HEAD + _documents(file) for file in watched}
    made[monitoring / "kustomization.yaml"] = HEAD + _kustomization("Kustomization", watched, namespace="tcgx")
    door = objects.grpc(objects.default)
    made |= {FOLDER / f"kubernetes/grpc/{file.name}.yaml": HEAD + _documents(file) for file in door}
    made[FOLDER / "kubernetes/grpc/kustomization.yaml"] = HEAD + _kustomization("Component", door)
    parts = (objects.exchange, objects.servers, objects.monitoring, objects.grpc)
    for file in [file for part in parts for file in part(objects.helm)]:
        made[chart / "templates" / f"{file.name}.yaml"] = _template(file)
    made[chart / "templates/NOTES.txt"] = NOTES
    made[chart / "Chart.yaml"] = HEAD + text(
        {
            "apiVersion": "v2",
            "name": "tcgx",
            "description": DESCRIPTION,
            "type": "application",
            "version": VERSION,
            "appVersion": VERSION,
            "kubeVersion": ">=1.30.0-0",
        }
    )
    made[chart / "values.yaml"] = HEAD + text(DEFAULTS)
    made[chart / "values.schema.json"] = json.dumps(_schema(), indent=2) + "\n"
    return made


def _documents(file: File) -> str:
    return "---\n".join(text(one) for one in file.objects)


def _template(file: File) -> str:
    head = "{{- /* Made by `python -m deploy.generate`. */ -}}\n"
    if not file.only_if:
        return head + _documents(file)
    conditions = " ".join(f".Values.{name}" for name in file.only_if)
    test = conditions if len(file.only_if) == 1 else f"and {conditions}"
    return f"{head}{{{{- if {test} }}}}\n{_documents(file)}{{{{- end }}}}\n"


def _kustomization(kind: str, made: Sequence[File], **more: str) -> str:
    version = "v1beta1" if kind == "Kustomization" else "v1alpha1"
    resources = [f"{file.name}.yaml" for file in made]
    return text({"apiVersion": f"kustomize.config.k8s.io/{version}", "kind": kind, **more, "resources": resources})


# -- the schema of values


def _schema() -> dict[str, Any]:
    schema = _schema_of(DEFAULTS)
    properties = schema["properties"]
    properties["config"] = {
        "type": "object",
        "propertyNames": {"pattern": "^(TCGX_[A-Z0-9_]+|FORWARDED_ALLOW_IPS)$"},
        "additionalProperties": {"type": "string"},
    }
    for name in ("replicasMin", "replicasMax", "cpuPercent"):
        properties["api"]["properties"][name]["minimum"] = 1
    for service in ("engine", "archiver"):
        properties[service]["properties"]["replicas"]["minimum"] = 1
    return {"$schema": "http://json-schema.org/draft-07/schema#", **schema}


def _schema_of(value: Any) -> dict[str, Any]:
    if isinstance(value, list):
        return {"type": "array", "items": {"type": "object"}}
    if not isinstance(value, dict):
        kinds = {bool: "boolean", int: "integer", str: "string"}
        return {"type": kinds[type(value)]}
    if "requests" in value:
        return {"type": "object"}
    found = {name: _schema_of(item) for name, item in value.items()} | ({"global": {}} if value is DEFAULTS else {})
    return {"type": "object", "additionalProperties": False, "properties": found}


def differences() -> Iterator[str]:
    """The files that are not what they would be, those of the chart and the base that are too many included."""
    made = files()
    for path, wanted in made.items():
        if not path.exists() or path.read_text() != wanted:
            yield f"{path.relative_to(FOLDER)} differs: run python -m deploy.generate"
    for folder in {path.parent for path in made}:
        for path in folder.glob("*.*") if folder.exists() else ():
            if path not in made:
                yield f"{path.relative_to(FOLDER)} is not made by python -m deploy.generate"


def main() -> int:
    """Writes the files, or compares them."""
    if "--check" in sys.argv[1:]:
        found = [*differences()]
        print("\n".join(found), end="\n" if found else "")
        return 1 if found else 0
    for path, wanted in files().items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(wanted)
    return 0


if __name__ == "__main__":
    sys.exit(main())
