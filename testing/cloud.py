"""The CloudFormation template on an emulator of AWS: created, updated, and rolled back after a planted error.

`python -m testing.cloud` installs ministack into a folder of its own, which is removed afterwards. It knows neither
MemoryDB nor autoscaling, NAT gateways and their addresses, so the stack has another Redis by its secret, and goes
without those. What it cannot know: whether the real services take these values, and whether anything runs.
"""

import json
import re
import subprocess
import sys
import tempfile
import time
import venv
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import httpx
import yaml  # type: ignore[import-untyped]

from core.errors import StartError
from testing.servers import free_port
from testing.waiting import until

TEMPLATE = Path(__file__).parents[1] / "deploy" / "aws" / "tcgx.yaml"
EMULATOR = "ministack==1.5.33"
AWAY = re.compile(r"from versions: none|Failed to establish|name resolution|ConnectTimeout|ProxyError")
INSTALL_SECONDS, START_SECONDS, STACK_SECONDS = 300, 60, 120
REGION = "eu-central-1"
STACK = "tcgx"
UNKNOWN_TYPES = re.compile(r"AWS::(MemoryDB::.*|ApplicationAutoScaling::.*|EC2::EIP|EC2::NatGateway)")
"""What the emulator does not have."""
CERTIFICATE = f"arn:aws:acm:{REGION}:000000000000:certificate/00000000-0000-0000-0000-000000000000"

Json = dict[str, Any]


class NoIndex(StartError):
    """The package index cannot be reached."""


# -- the template


class _Loader(yaml.SafeLoader):  # type: ignore[misc]
    """Reads the short forms of functions as their long ones."""


def _function(loader: yaml.SafeLoader, suffix: str, node: yaml.Node) -> Json:
    value: Any
    if isinstance(node, yaml.ScalarNode):
        value = loader.construct_scalar(node)
    elif isinstance(node, yaml.SequenceNode):
        value = loader.construct_sequence(node, deep=True)
    else:
        assert isinstance(node, yaml.MappingNode)
        value = loader.construct_mapping(node, deep=True)
    if suffix == "GetAtt" and isinstance(value, str):
        value = value.split(".", 1)
    return {suffix if suffix in ("Ref", "Condition") else f"Fn::{suffix}": value}


_Loader.add_multi_constructor("!", _function)


def template() -> Json:
    """The template."""
    found: Json = yaml.load(TEMPLATE.read_text(), _Loader)  # noqa: S506 - a SafeLoader
    return found


def emulated() -> Json:
    """The template as far as the emulator knows it. Numbers of parameters are put in: it takes them as texts."""
    known = template()
    resources: Json = known["Resources"]
    gone = {name for name, resource in resources.items() if UNKNOWN_TYPES.fullmatch(resource["Type"])}
    gone |= {name for name, one in resources.items() if one["Type"] == "AWS::EC2::Route" and gone & _named(one)}
    numbers = {name: int(one["Default"]) for name, one in known["Parameters"].items() if one["Type"] == "Number"}
    known["Resources"] = {
        name: _without(_with_numbers(one, numbers), gone) for name, one in resources.items() if name not in gone
    }
    return known


def _named(value: Any) -> set[str]:
    """The resources that a value names by `Ref`."""
    if isinstance(value, dict):
        own = {value["Ref"]} if set(value) == {"Ref"} else set[str]()
        return own.union(*(_named(each) for each in value.values()))
    return set[str]().union(*(_named(each) for each in value)) if isinstance(value, list) else set()


def _with_numbers(value: Any, numbers: Mapping[str, int]) -> Any:
    if isinstance(value, dict):
        if set(value) == {"Ref"} and value["Ref"] in numbers:
            return numbers[value["Ref"]]
        return {name: _with_numbers(each, numbers) for name, each in value.items()}
    return [_with_numbers(each, numbers) for each in value] if isinstance(value, list) else value


def _without(resource: Json, gone: set[str]) -> Json:
    depends = resource.get("DependsOn", [])
    left = [name for name in ([depends] if isinstance(depends, str) else depends) if name not in gone]
    return {**resource, "DependsOn": left} if left else {k: v for k, v in resource.items() if k != "DependsOn"}


# -- the emulator


class Emulator:
    """The emulator, by the protocols that AWS has."""

    def __init__(self, port: int) -> None:
        self._http = httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60, trust_env=False)

    def answers(self) -> bool:
        """Whether it runs."""
        try:
            return self._http.get("/").status_code < 500
        except httpx.TransportError:
            return False

    def query(self, service: str, action: str, **parameters: str) -> ElementTree.Element:
        """The answer to a call of the query protocol, without namespaces.

        Raises:
            StartError: the call was refused.
        """
        form = {"Action": action, "Version": "2010-05-15", **parameters}
        answer = self._http.post("/", data=form, headers=_headers(service))
        if answer.status_code != 200:
            raise StartError(f"{action}: {answer.text[:500]}")
        return ElementTree.fromstring(re.sub(r'\sxmlns="[^"]+"', "", answer.text))  # noqa: S314 - of the emulator

    def call(self, service: str, target: str, **body: Any) -> Json:
        """The answer to a call of the JSON protocol."""
        headers = {"x-amz-target": target, "content-type": "application/x-amz-json-1.1", **_headers(service)}
        answer = self._http.post("/", content=json.dumps(body), headers=headers)
        answer.raise_for_status()
        found: Json = answer.json()
        return found

    def close(self) -> None:
        """Closes the connections."""
        self._http.close()


def _headers(service: str) -> dict[str, str]:
    scope = f"test/20260101/{REGION}/{service}/aws4_request"
    return {"authorization": f"AWS4-HMAC-SHA256 Credential={scope}, SignedHeaders=host, Signature=0"}


@contextmanager
def emulator(folder: Path) -> Iterator[Emulator]:
    """An emulator of its own on 127.0.0.1.

    Raises:
        NoIndex: its packages cannot be had.
        StartError: it does not start.
    """
    venv.create(folder / "venv", symlinks=True)
    python = folder / "venv" / "bin" / "python"
    install: list[str | Path] = [
        sys.executable,
        "-m",
        "pip",
        "--python",
        python,
        "install",
        "--quiet",
        "--disable-pip-version-check",
    ]
    done = subprocess.run(
        [*install, "--retries", "0", EMULATOR], capture_output=True, text=True, timeout=INSTALL_SECONDS, check=False
    )
    if done.returncode:
        kind = NoIndex if AWAY.search(done.stderr) else StartError
        raise kind(f"{EMULATOR} cannot be installed: {done.stderr.strip().splitlines()[-1]}")
    port = free_port()
    with (folder / "output").open("wb") as output:
        process = subprocess.Popen(
            [python, "-m", "hypercorn", "ministack.app:app", "--bind", f"127.0.0.1:{port}"],
            stdout=output,
            stderr=output,
            cwd=folder,
        )
    made = Emulator(port)
    try:
        until(made.answers, "the emulator does not answer", seconds=START_SECONDS)
        yield made
    finally:
        made.close()
        process.terminate()
        process.wait(START_SECONDS)


class Stack:
    """The stack of an exchange."""

    def __init__(self, aws: Emulator) -> None:
        self._aws = aws
        secret = aws.call("secretsmanager", "secretsmanager.CreateSecret", Name="redis", SecretString="rediss://redis")
        values = {"Image": "tcgx@sha256:0", "CertificateArn": CERTIFICATE, "RedisUrlSecretArn": secret["ARN"]}
        self._parameters = {"Capabilities.member.1": "CAPABILITY_NAMED_IAM", "StackName": STACK}
        for number, (name, value) in enumerate(values.items(), 1):
            self._parameters[f"Parameters.member.{number}.ParameterKey"] = name
            self._parameters[f"Parameters.member.{number}.ParameterValue"] = value

    def apply(self, action: str, template: Json) -> str:
        """Creates or updates the stack; its status then."""
        self._aws.query("cloudformation", action, TemplateBody=json.dumps(template), **self._parameters)
        status: str = until(self._final_status, f"{action} does not end", seconds=STACK_SECONDS)
        return status

    def _final_status(self) -> str:
        found = self._aws.query("cloudformation", "DescribeStacks", StackName=STACK).findtext(".//StackStatus") or ""
        return "" if found.endswith("IN_PROGRESS") else found

    def resources(self) -> dict[str, str]:
        """The type of each resource, by its name in the template."""
        found = self._aws.query("cloudformation", "DescribeStackResources", StackName=STACK).findall(".//member")
        return {one.findtext("LogicalResourceId") or "": one.findtext("ResourceType") or "" for one in found}

    def events(self) -> list[tuple[str, str, str]]:
        """Name, status and reason of each event, the latest first."""
        found = self._aws.query("cloudformation", "DescribeStackEvents", StackName=STACK).findall(".//member")
        fields = ("LogicalResourceId", "ResourceStatus", "ResourceStatusReason")
        return [tuple(one.findtext(field) or "" for field in fields) for one in found]  # type: ignore[misc]

    def tasks(self) -> dict[str, int]:
        """How many tasks each service wants."""
        target = "AmazonEC2ContainerServiceV20141113"
        (cluster,) = self._aws.call("ecs", f"{target}.ListClusters")["clusterArns"]
        services = self._aws.call("ecs", f"{target}.ListServices", cluster=cluster)["serviceArns"]
        found = self._aws.call("ecs", f"{target}.DescribeServices", cluster=cluster, services=services)["services"]
        return {one["serviceName"].rpartition("-")[2]: one["desiredCount"] for one in found}


def trial(aws: Emulator) -> Iterator[str]:
    """Creates, updates and breaks a stack; yields what was seen.

    Raises:
        AssertionError: something else was seen.
    """
    template = emulated()
    stack = Stack(aws)
    began = time.monotonic()
    assert stack.apply("CreateStack", template) == "CREATE_COMPLETE", stack.events()[:5]
    resources = stack.resources()
    expected = {
        name for name, one in template["Resources"].items() if one.get("Condition") not in ("HasMemoryDb", "HasEmail")
    }
    assert set(resources) == expected, set(resources) ^ expected
    yield f"created: {len(resources)} resources in {time.monotonic() - began:.1f} s"

    before = stack.tasks()
    _set_tasks(template, "EngineService", before["EngineService"] + 1)
    assert stack.apply("UpdateStack", template) == "UPDATE_COMPLETE", stack.events()[:5]
    updated = stack.tasks()
    assert updated == before | {"EngineService": before["EngineService"] + 1}
    yield f"updated: {updated}"

    _set_tasks(template, "EngineService", before["EngineService"] + 5)
    _set_tasks(template, "ArchiverService", "many")
    status = stack.apply("UpdateStack", template)
    assert status == "UPDATE_ROLLBACK_COMPLETE", status
    assert stack.tasks()["EngineService"] == updated["EngineService"], stack.events()[:12]
    name, failed, why = next(event for event in stack.events() if event[1] == "UPDATE_FAILED")
    yield f"a planted error: {name} {failed} ({why}), then {status}; {updated['EngineService']} engines as before"


def _set_tasks(template: Json, service: str, count: object) -> None:
    template["Resources"][service]["Properties"]["DesiredCount"] = count


def main() -> int:
    """The exit code: 3 if the emulator cannot be had."""
    with tempfile.TemporaryDirectory() as folder:
        try:
            with emulator(Path(folder)) as aws:
                for line in trial(aws):
                    print(line, flush=True)
        except NoIndex as error:
            print(f"cloud: {error}", file=sys.stderr)
            return 3
    return 0


if __name__ == "__main__":
    sys.exit(main())
