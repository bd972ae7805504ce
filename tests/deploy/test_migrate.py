"""The migration in each way of deployment: it has the addresses that it needs, and with these alone it runs."""

import sys
from pathlib import Path
from typing import Any

import pytest

from core.settings import Settings
from testing import cloud
from testing.processes import finished
from testing.servers import servers
from tests.deploy.test_objects import container_of, environment_of, pod_of

NEEDS = {
    "api": {"TCGX_REDIS_URL", "TCGX_DATABASE_URL", "TCGX_JWT_SECRET"},
    "grpc": {"TCGX_REDIS_URL", "TCGX_DATABASE_URL", "TCGX_JWT_SECRET"},
    "engine": {"TCGX_REDIS_URL"},
    "archiver": {"TCGX_REDIS_URL", "TCGX_DATABASE_URL"},
    "migrate": {"TCGX_REDIS_URL", "TCGX_DATABASE_URL"},
}
"""The secrets of each service."""

PREVIOUS = "TCGX_JWT_PREVIOUS_SECRETS"


def of_kubernetes() -> dict[str, set[str]]:
    """The secrets of each container of Kubernetes."""
    names = {service: environment_of(container_of(service)) for service in NEEDS}
    return {
        service: {name.removesuffix("_FILE") for name in found if name.endswith("_FILE")}
        for service, found in names.items()
    }


def of_aws() -> dict[str, set[str]]:
    """The secrets of each container of AWS."""
    tasks = [one for one in cloud.template()["Resources"].values() if one["Type"] == "AWS::ECS::TaskDefinition"]
    containers = [one for task in tasks for one in task["Properties"]["ContainerDefinitions"]]
    return {one["Name"]: {secret["Name"] for secret in one["Secrets"] if "Name" in secret} for one in containers}


@pytest.mark.parametrize("way", [of_kubernetes, of_aws])
def test_each_service_has_the_secrets_that_it_needs_and_no_others(way: Any) -> None:
    found = way()

    assert found == {service: NEEDS[service] for service in found}
    assert {"api", "engine", "archiver", "migrate"} <= found.keys()


def test_the_doors_alone_have_the_signing_key_of_before_and_only_while_there_is_one() -> None:
    tasks = [one for one in cloud.template()["Resources"].values() if one["Type"] == "AWS::ECS::TaskDefinition"]
    on_aws = {
        one["Name"]: secret["Fn::If"]
        for task in tasks
        for one in task["Properties"]["ContainerDefinitions"]
        for secret in one["Secrets"]
        if "Fn::If" in secret
    }
    on_kubernetes = {
        service: one["valueFrom"]["secretKeyRef"]
        for service in NEEDS
        for one in container_of(service)["env"]
        if one["name"] == PREVIOUS
    }

    (condition, given, otherwise) = on_aws.pop("api")
    assert (condition, given["Name"], otherwise) == ("HasPreviousSecret", PREVIOUS, {"Ref": "AWS::NoValue"})
    assert on_aws == {}
    reference = {"name": "tcgx", "key": "jwt-previous-secrets", "optional": True}
    assert on_kubernetes == {"api": reference, "grpc": reference}


@pytest.mark.server
def test_the_job_of_kubernetes_runs_with_what_it_is_given(tmp_path: Path) -> None:
    with servers() as running:
        variables = environment_of(container_of("migrate"))
        (volume,) = (one for one in pod_of("migrate")["spec"]["volumes"] if "secret" in one)
        for item in volume["secret"]["items"]:
            (tmp_path / item["path"]).write_text(_secret(running.settings, item["key"]))
        variables = {
            name: str(tmp_path / Path(value).name) if name.endswith("_FILE") else value
            for name, value in variables.items()
        }
        done = finished([sys.executable, "-P", "-m", *container_of("migrate")["args"]], variables=variables)

    assert done.returncode == 0, done.stderr
    assert "up to date" in done.stdout


def _secret(local: Settings, key: str) -> str:
    return {"redis-url": local.redis_url, "database-url": local.database_url}[key]
