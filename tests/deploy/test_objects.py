"""Kubernetes objects: what every pod has, and what leads from one object to another."""

from collections.abc import Iterator, Mapping
from typing import Any

import pytest

from core import settings
from core.settings import read
from deploy import generate, objects
from deploy.objects import Object

PARTS = (objects.exchange, objects.servers, objects.grpc)
ALL = [one for part in PARTS for file in part(objects.default) for one in file.objects]
SERVICES = ("api", "engine", "archiver", "grpc")


def named(kind: str) -> dict[str, Object]:
    """The objects of a kind, by name."""
    return {one["metadata"]["name"]: one for one in ALL if one["kind"] == kind}


def pods() -> Iterator[tuple[str, Object]]:
    """Every pod template, with the name of its owner."""
    for one in ALL:
        if "template" in one.get("spec", {}):
            yield one["metadata"]["name"], one["spec"]["template"]


def pod_of(component: str) -> Object:
    """The pod template of a component."""
    return next(pod for name, pod in pods() if name.startswith(f"tcgx-{component}"))  # a Job's name has its version


def container_of(component: str) -> Object:
    """The container of a component."""
    (container,) = pod_of(component)["spec"]["containers"]
    found: Object = container
    return found


def environment_of(container: Object) -> dict[str, str]:
    """The variables of a container, the ConfigMap's included."""
    config: Mapping[str, str] = named("ConfigMap")["tcgx"]["data"]
    return {**config, **{one["name"]: one["value"] for one in container["env"] if "value" in one}}


def test_files_are_what_the_generator_writes() -> None:
    assert [*generate.differences()] == []


@pytest.mark.parametrize(("name", "pod"), [*pods()], ids=lambda value: value if isinstance(value, str) else "")
def test_every_pod_runs_with_the_least_rights(name: str, pod: Any) -> None:
    spec = pod["spec"]
    (container,) = spec["containers"]

    assert spec["enableServiceLinks"] is False, name
    assert spec["automountServiceAccountToken"] is False
    assert spec["securityContext"]["runAsNonRoot"]
    assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert container["securityContext"] == objects.LOCKED
    assert container["resources"]["limits"]["memory"]
    assert spec["terminationGracePeriodSeconds"] > 0


@pytest.mark.parametrize("component", SERVICES)
def test_variables_of_a_service_are_settings(component: str, tmp_path: Any) -> None:
    environment = environment_of(container_of(component))
    own = {name: text for name, text in environment.items() if name.startswith("TCGX_")}
    for name in [name for name in own if name.endswith("_FILE")]:
        (tmp_path / name).write_text("r" * 32 if "JWT" in name else f"redis://h{'/0' if 'REDIS' in name else ''}")
        if "DATABASE" in name:
            (tmp_path / name).write_text("postgresql://tcgx@h/tcgx")
        own[name] = str(tmp_path / name)

    assert read(own).log_format == "json"


@pytest.mark.parametrize(
    ("component", "secrets"),
    [
        ("api", {"redis-url", "database-url", "jwt-secret"}),
        ("engine", {"redis-url"}),
        ("archiver", {"redis-url", "database-url"}),
    ],
)
def test_a_service_sees_the_secrets_that_it_needs(component: str, secrets: set[str]) -> None:
    volume = next(one for one in pod_of(component)["spec"]["volumes"] if one["name"] == "secrets")
    given = {one["value"] for one in container_of(component)["env"] if one["name"].endswith("_FILE")}

    assert {item["key"] for item in volume["secret"]["items"]} == secrets
    assert given == {f"{objects.SECRETS}/{key}" for key in secrets}


def test_a_pod_of_the_api_may_take_as_long_to_stop_as_its_settings_say() -> None:
    given = read(objects.DEFAULTS["config"])

    assert objects.PRE_STOP_SECONDS + given.drain_seconds + given.stop_seconds <= objects.GRACE_SECONDS
    assert container_of("api")["lifecycle"]["preStop"]["exec"]["command"] == ["sleep", str(objects.PRE_STOP_SECONDS)]


@pytest.mark.parametrize("component", [*SERVICES, "redis", "postgres"])
def test_selectors_find_their_pods(component: str) -> None:
    labels = pod_of(component)["metadata"]["labels"].items()
    selectors = [
        one["spec"]["selector"]
        for one in ALL
        if one["metadata"]["name"] == f"tcgx-{component}" and "selector" in one.get("spec", {})
    ]

    assert selectors
    for selector in selectors:
        assert selector.get("matchLabels", selector).items() <= labels


@pytest.mark.parametrize("component", SERVICES)
def test_a_drain_evicts_one_pod_of_a_service_at_a_time_and_ends_even_if_there_is_one_alone(component: str) -> None:
    budget = named("PodDisruptionBudget")[f"tcgx-{component}"]
    deployment = named("Deployment")[f"tcgx-{component}"]
    least = named("HorizontalPodAutoscaler")["tcgx-api"]["spec"]["minReplicas"] if component == "api" else None

    assert {name: value for name, value in budget["spec"].items() if name != "selector"} == {"maxUnavailable": 1}
    assert (least or deployment["spec"]["replicas"]) > 1


def test_a_door_is_ready_by_itself_and_not_by_the_servers_that_all_doors_ask() -> None:
    """Were all of them unready at once, clients would get no answer instead of 503 with `Retry-After`."""
    assert container_of("api")["readinessProbe"]["httpGet"] == {"path": "/health/live", "port": "http"}
    assert container_of("grpc")["readinessProbe"]["httpGet"] == {"path": "/health/ready", "port": "metrics"}


def test_the_chart_has_no_policy_if_policies_are_off() -> None:
    for part in (*PARTS, objects.monitoring):
        for file in part(objects.helm):
            has_policy = any(one["kind"] == "NetworkPolicy" for one in file.objects)
            assert has_policy == (objects.POLICIES in file.only_if), file.name
            assert not has_policy or {one["kind"] for one in file.objects} == {"NetworkPolicy"}


def test_redis_for_trying_refuses_orders_before_its_container_is_full() -> None:
    redis = objects.DEFAULTS["servers"]["redis"]
    arguments = container_of("redis")["args"]
    bound = arguments[arguments.index("--maxmemory") + 1]

    assert bound == redis["maxmemory"]
    assert int(bound.removesuffix("mb")) < 0.7 * int(redis["resources"]["limits"]["memory"].removesuffix("Gi")) * 1_024


@pytest.mark.parametrize("component", SERVICES)
def test_pods_are_on_different_nodes_even_where_nodes_have_no_zones(component: str) -> None:
    """A scheduler ignores all constraints of a pod on a node that lacks the label of one of them."""
    spec = pod_of(component)["spec"]
    (preferred,) = spec["affinity"]["podAntiAffinity"]["preferredDuringSchedulingIgnoredDuringExecution"]

    assert [one["topologyKey"] for one in spec["topologySpreadConstraints"]] == ["kubernetes.io/hostname"]
    assert preferred["podAffinityTerm"]["topologyKey"] == "topology.kubernetes.io/zone"


def test_the_autoscaler_alone_says_how_many_pods_the_api_has() -> None:
    assert "replicas" not in named("Deployment")["tcgx-api"]["spec"]
    assert named("HorizontalPodAutoscaler")["tcgx-api"]["spec"]["scaleTargetRef"]["name"] == "tcgx-api"


def test_each_pod_reaches_what_it_needs_alone() -> None:
    policies = {name.removeprefix("tcgx-"): policy["spec"] for name, policy in named("NetworkPolicy").items()}

    def reached(component: str) -> set[int]:
        return {port["port"] for rule in policies[component]["egress"] for port in rule["ports"]}

    assert reached("api") == reached("grpc") == reached("archiver") == reached("migrate") == {53, 6379, 26379, 5432}
    assert reached("engine") == {53, 6379, 26379}
    assert policies["default"]["ingress"] == policies["default"]["egress"] == []
    assert [component for component, spec in policies.items() if spec["ingress"]] == [
        "api",
        "redis",
        "postgres",
        "grpc",
    ]


def test_services_are_named_so_that_their_links_stop_no_pod() -> None:
    """`enableServiceLinks` is off, and without it the variables are ignored."""
    for name in named("Service"):
        prefix = name.upper().replace("-", "_")
        assert prefix.startswith(settings.PREFIX)
        assert read({f"{prefix}_PORT": "tcp://10.0.0.1:1", f"{prefix}_SERVICE_HOST": "10.0.0.1"}).port == 8000
