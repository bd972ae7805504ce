"""The CloudFormation template on an emulator of AWS."""

from pathlib import Path

import pytest

from testing import cloud

pytestmark = pytest.mark.server


def test_a_stack_is_created_updated_and_rolled_back(tmp_path: Path) -> None:
    try:
        with cloud.emulator(tmp_path) as aws:
            seen = [*cloud.trial(aws)]
    except cloud.NoIndex as error:
        pytest.skip(str(error))

    assert [line.partition(":")[0] for line in seen] == ["created", "updated", "a planted error"]


def test_what_the_emulator_lacks_is_left_out_and_nothing_else() -> None:
    kept = cloud.emulated()["Resources"]

    assert len(kept) > 45
    assert not any(cloud.UNKNOWN_TYPES.fullmatch(one["Type"]) for one in kept.values())
    assert {"Database", "EngineService", "ArchiverService", "ApiService", "Balancer"} <= set(kept)


def test_checks_of_the_template_ask_each_task_for_itself() -> None:
    """What all tasks ask would replace all at once; what asks for any engine sees no hung one beside another."""
    resources = cloud.template()["Resources"]
    containers = {
        one["Name"]: one
        for task in ("ApiTask", "EngineTask", "ArchiverTask")
        for one in resources[task]["Properties"]["ContainerDefinitions"]
    }
    asked = {name: one["HealthCheck"]["Command"][-1] for name, one in containers.items() if name != "migrate"}

    assert resources["Targets"]["Properties"]["HealthCheckPath"] == "/health/live"
    assert "127.0.0.1:8000/health/live" in asked["api"]
    for name in ("engine", "archiver"):
        assert "127.0.0.1:9100/health/live" in asked[name]
        assert {"Name": "TCGX_METRICS_PORT", "Value": "9100"} in containers[name]["Environment"]


def test_a_deployment_leaves_the_number_of_tasks_to_the_autoscaler() -> None:
    resources = cloud.template()["Resources"]

    assert "DesiredCount" not in resources["ApiService"]["Properties"]
    assert resources["ApiScaling"]["Properties"]["MinCapacity"] == {"Ref": "ApiTasksMin"}
