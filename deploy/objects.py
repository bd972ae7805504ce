"""The Kubernetes objects of an exchange, once for kustomize and once for the Helm chart.

Names are fixed, so a namespace holds one exchange. Secrets are made by the operator, and mounted as files.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from deploy.yaml_text import Block, Expression

Object = dict[str, Any]
Values = Callable[[str], Any]
"""The value of a dotted name: the default itself, or the expression by which Helm takes it from its values."""

VERSION = "0.1.0"
USER = 10001
SERVER_USER = 999
SECRETS = "/etc/tcgx"
STATE = "/run/tcgx"
API_PORT, GRPC_PORT, REDIS_PORT, SENTINEL_PORT, POSTGRES_PORT = 8000, 50051, 6379, 26379, 5432
PRE_STOP_SECONDS = 3
PRE_STOP: Object = {"preStop": {"exec": {"command": ["sleep", str(PRE_STOP_SECONDS)]}}}
"""Endpoints are taken away beside SIGTERM, not before it: new connections still come for a moment."""
SECRETS_OF_DOORS = ("redis-url", "database-url", "jwt-secret")
PREVIOUS = "jwt-previous-secrets"
"""A key of the Secret that is there only while a signing key changes."""
GRACE_SECONDS = 30
"""`preStop`, `TCGX_DRAIN_SECONDS` and `TCGX_STOP_SECONDS` fit into it."""
START_SECONDS = 60
PROBED_START_SECONDS = 2 * START_SECONDS
METRICS_PORT = 9100
METRICS: Object = {"name": "metrics", "protocol": "TCP", "containerPort": METRICS_PORT}
SCRAPER = "monitoring"
"""The namespace that Prometheus is in."""

DEFAULTS: Mapping[str, Any] = {
    "image": {"repository": "tcgx", "tag": VERSION, "pullPolicy": "IfNotPresent"},
    "imagePullSecrets": [],
    "secretName": "tcgx",
    "config": {
        "TCGX_CARDS": "pikachu,bulbasaur,charmander,squirtle",
        "TCGX_DURABILITY": "always",
        "TCGX_START_SECONDS": str(START_SECONDS),
        "TCGX_DRAIN_SECONDS": "5",
        "TCGX_STOP_SECONDS": "10",
        "TCGX_LOG_FORMAT": "json",
        # The address of a client is that of an ingress or a node, until FORWARDED_ALLOW_IPS names what is in between.
        "TCGX_STREAM_ADDRESS_MAX": "0",
        "TCGX_FAILED_LOGINS_PER_MINUTE": "0",
        "TCGX_METRICS_HOST": "0.0.0.0",  # noqa: S104 - of a pod; policies say who reaches it
        "TCGX_METRICS_PORT": str(METRICS_PORT),
    },
    "api": {
        "replicasMin": 2,
        "replicasMax": 6,
        "cpuPercent": 70,
        "resources": {"requests": {"cpu": "500m", "memory": "256Mi"}, "limits": {"cpu": "2", "memory": "1Gi"}},
    },
    "grpc": {
        "enabled": False,
        "replicas": 2,
        "resources": {"requests": {"cpu": "500m", "memory": "256Mi"}, "limits": {"cpu": "2", "memory": "1Gi"}},
    },
    "engine": {
        "replicas": 2,
        "resources": {"requests": {"cpu": "250m", "memory": "128Mi"}, "limits": {"cpu": "1", "memory": "512Mi"}},
    },
    "archiver": {
        "replicas": 2,
        "resources": {"requests": {"cpu": "250m", "memory": "128Mi"}, "limits": {"cpu": "1", "memory": "512Mi"}},
    },
    "migrate": {
        "resources": {"requests": {"cpu": "100m", "memory": "128Mi"}, "limits": {"cpu": "1", "memory": "512Mi"}}
    },
    "networkPolicy": {"enabled": True},
    "monitoring": {"enabled": False, "namespace": SCRAPER},
    "servers": {
        "enabled": False,
        "redis": {
            "image": "redis:8.2-bookworm",
            "storage": "10Gi",
            "maxmemory": "1200mb",  # a rewrite of the log copies what changes meanwhile
            "resources": {"requests": {"cpu": "500m", "memory": "1Gi"}, "limits": {"cpu": "2", "memory": "2Gi"}},
        },
        "postgres": {
            "image": "postgres:18-bookworm",
            "storage": "20Gi",
            "resources": {"requests": {"cpu": "250m", "memory": "512Mi"}, "limits": {"cpu": "2", "memory": "2Gi"}},
        },
    },
}
"""Values of the chart, and what kustomize's base has."""


POLICIES = "networkPolicy.enabled"


class File(NamedTuple):
    """A manifest: its name, its objects, and the values of the chart that turn it on, all of them."""

    name: str
    objects: Sequence[Object]
    only_if: Sequence[str] = ()


def default(name: str) -> Any:
    """The default of a dotted name."""
    found: Any = DEFAULTS
    for part in name.split("."):
        found = found[part]
    return found


def helm(name: str) -> Any:
    """The expression by which Helm takes a value."""
    found = default(name)
    if isinstance(found, dict | list):
        return Block(f".Values.{name}")
    return Expression(f"{{{{ .Values.{name}{' | quote' if isinstance(found, str) else ''} }}}}")


def exchange(values: Values) -> list[File]:
    """Everything but Redis and PostgreSQL."""
    return [
        File("serviceaccount", [_account(values)]),
        File("configmap", [{**_head("v1", "ConfigMap", "tcgx", ""), "data": values("config")}]),
        File("api", [_api(values), _service("api", API_PORT, "http"), _autoscaler(values), _budget("api")]),
        File("engine", [_worker("engine", values, ["redis-url"]), _budget("engine")]),
        File("archiver", [_worker("archiver", values, ["redis-url", "database-url"]), _budget("archiver")]),
        File("migrate", [_migrate(values)]),
        File("networkpolicies", _policies(), [POLICIES]),
    ]


def servers(values: Values) -> list[File]:
    """A Redis and a PostgreSQL of one pod each, for trying."""
    return [
        File("redis", [_redis(values), _service("redis", REDIS_PORT, "redis")], ["servers.enabled"]),
        File("postgres", [_postgres(values), _service("postgres", POSTGRES_PORT, "postgres")], ["servers.enabled"]),
        File("servers-policies", [_policy_of_redis(), _policy_of_postgres()], ["servers.enabled", POLICIES]),
    ]


def grpc(values: Values) -> list[File]:
    """The door of gRPC: processes of their own."""
    port = {"name": "grpc", "protocol": "TCP", "containerPort": GRPC_PORT}
    container = _door("grpc", values) | {
        "args": ["tcgx", "grpc"],
        "ports": [port, METRICS],
        **_probes("metrics"),
        "lifecycle": PRE_STOP,
    }
    pod = _pod("grpc", USER, [container], _volumes(values, SECRETS_OF_DOORS))
    policy = _policy("grpc", ingress=[{"ports": _ports(GRPC_PORT)}], egress=[DNS, REDIS, POSTGRES])
    deployment = _deployment("grpc", pod, values("grpc.replicas"))
    return [
        File("grpc", [deployment, _service("grpc", GRPC_PORT, "grpc"), _budget("grpc")], ["grpc.enabled"]),
        File("grpc-policy", [policy], ["grpc.enabled", POLICIES]),
    ]


def monitoring(values: Values) -> list[File]:
    """What the Prometheus Operator needs to scrape the exchange, and to warn of its faults."""
    service = {
        **_head("v1", "Service", "tcgx-metrics", "metrics"),
        "spec": {
            "clusterIP": "None",
            "selector": _selector()["matchLabels"],
            "ports": [{"name": "metrics", "protocol": "TCP", "port": METRICS_PORT, "targetPort": "metrics"}],
        },
    }
    # Panels and alerts name jobs as deploy/observability/prometheus has them.
    job = {
        "sourceLabels": ["__meta_kubernetes_pod_label_app_kubernetes_io_component"],
        "targetLabel": "job",
        "replacement": "tcgx-$1",
    }
    monitor = {
        **_head("monitoring.coreos.com/v1", "ServiceMonitor", "tcgx", "metrics"),
        "spec": {
            "selector": _selector("metrics"),
            "endpoints": [{"port": "metrics", "interval": "15s", "relabelings": [job]}],
        },
    }
    scraper = {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": values("monitoring.namespace")}}}
    policy = {
        **_head("networking.k8s.io/v1", "NetworkPolicy", "tcgx-metrics", "metrics"),
        "spec": {
            "podSelector": _selector("api", "grpc", "engine", "archiver"),
            "policyTypes": ["Ingress"],
            "ingress": [{"from": [scraper], "ports": _ports(METRICS_PORT)}],
        },
    }
    return [
        File("monitoring", [service, monitor], ["monitoring.enabled"]),
        File("monitoring-policy", [policy], ["monitoring.enabled", POLICIES]),
    ]


# -- parts


def _head(api: str, kind: str, name: str, component: str) -> Object:
    return {"apiVersion": api, "kind": kind, "metadata": {"name": name, "labels": _labels(component)}}


def _labels(component: str) -> dict[str, str]:
    labels = {"app.kubernetes.io/name": "tcgx", "app.kubernetes.io/part-of": "tcgx"}
    return labels | ({"app.kubernetes.io/component": component} if component else {})


def _selector(*components: str) -> Object:
    name = {"app.kubernetes.io/name": "tcgx"}
    if not components:
        return {"matchLabels": name}
    if len(components) == 1:
        return {"matchLabels": name | {"app.kubernetes.io/component": components[0]}}
    chosen = {"key": "app.kubernetes.io/component", "operator": "In", "values": list(components)}
    return {"matchLabels": name, "matchExpressions": [chosen]}


def _account(values: Values) -> Object:
    return {
        **_head("v1", "ServiceAccount", "tcgx", ""),
        "automountServiceAccountToken": False,
        "imagePullSecrets": values("imagePullSecrets"),
    }


def _image(values: Values) -> Any:
    if isinstance(values("image.repository"), Expression):
        return Expression('"{{ .Values.image.repository }}:{{ .Values.image.tag }}"')
    return f"{values('image.repository')}:{values('image.tag')}"


def _pod(component: str, user: int, containers: list[Object], volumes: list[Object]) -> Object:
    return {
        "metadata": {"labels": _labels(component)},
        "spec": {
            "serviceAccountName": "tcgx",
            "automountServiceAccountToken": False,
            "enableServiceLinks": False,
            "terminationGracePeriodSeconds": GRACE_SECONDS,
            "securityContext": {
                "runAsNonRoot": True,
                "runAsUser": user,
                "runAsGroup": user,
                "fsGroup": user,
                "seccompProfile": {"type": "RuntimeDefault"},
            },
            "containers": containers,
            "volumes": volumes,
        },
    }


def _spread(component: str) -> Object:
    """Pods of a component are on different nodes, and in different zones where nodes have zones.

    A node without a zone has no part in a constraint that names zones, nor in any other of the same pod. So the zone is
    a preference of its own.
    """
    constraint = {
        "maxSkew": 1,
        "topologyKey": "kubernetes.io/hostname",
        "whenUnsatisfiable": "ScheduleAnyway",
        "labelSelector": _selector(component),
    }
    apart = {
        "weight": 100,
        "podAffinityTerm": {"topologyKey": "topology.kubernetes.io/zone", "labelSelector": _selector(component)},
    }
    return {
        "topologySpreadConstraints": [constraint],
        "affinity": {"podAntiAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [apart]}},
    }


LOCKED = {
    "allowPrivilegeEscalation": False,
    "readOnlyRootFilesystem": True,
    "capabilities": {"drop": ["ALL"]},
}


def _container(component: str, values: Values, secrets: Sequence[str]) -> Object:
    files = [{"name": f"TCGX_{key.replace('-', '_').upper()}_FILE", "value": f"{SECRETS}/{key}"} for key in secrets]
    return {
        "name": component,
        "image": _image(values),
        "imagePullPolicy": values("image.pullPolicy"),
        "envFrom": [{"configMapRef": {"name": "tcgx"}}],
        "env": files,
        "resources": values(f"{component}.resources"),
        "securityContext": LOCKED,
        "volumeMounts": [
            {"name": "secrets", "mountPath": SECRETS, "readOnly": True},
            {"name": "state", "mountPath": STATE},
        ],
    }


def _door(component: str, values: Values) -> Object:
    """A container that takes tokens of traders, those signed with the key before as well, while there is one."""
    container = _container(component, values, SECRETS_OF_DOORS)
    reference = {"name": values("secretName"), "key": PREVIOUS, "optional": True}
    previous = {"name": "TCGX_JWT_PREVIOUS_SECRETS", "valueFrom": {"secretKeyRef": reference}}
    return container | {"env": [*container["env"], previous]}


def _volumes(values: Values, secrets: Sequence[str]) -> list[Object]:
    items = [{"key": key, "path": key} for key in secrets]
    return [
        {"name": "secrets", "secret": {"secretName": values("secretName"), "defaultMode": 0o440, "items": items}},
        {"name": "state", "emptyDir": {"medium": "Memory", "sizeLimit": "64Mi"}},
    ]


def _deployment(component: str, pod: Object, replicas: Any) -> Object:
    return {
        **_head("apps/v1", "Deployment", f"tcgx-{component}", component),
        "spec": {
            **({} if replicas is None else {"replicas": replicas}),
            "revisionHistoryLimit": 5,
            "progressDeadlineSeconds": 300,
            "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}},
            "selector": _selector(component),
            "template": pod | {"spec": pod["spec"] | _spread(component)},
        },
    }


def _probe(path: str, port: str, *, period: int, failures: int, timeout: int = 2) -> Object:
    call = {"path": path, "port": port}
    return {"httpGet": call, "periodSeconds": period, "failureThreshold": failures, "timeoutSeconds": timeout}


def _probes(port: str) -> Object:
    """Probes of a process. At the port of its metrics it tells of itself alone, and is ready once it works."""
    return {
        "startupProbe": _probe("/health/live", port, period=1, failures=PROBED_START_SECONDS),
        "livenessProbe": _probe("/health/live", port, period=10, failures=3),
        "readinessProbe": _probe("/health/ready", port, period=2, failures=2),
    }


def _api(values: Values) -> Object:
    container = _door("api", values) | {
        "args": ["tcgx", "api"],
        "ports": [{"name": "http", "protocol": "TCP", "containerPort": API_PORT}, METRICS],
        **_probes("http"),
        # Not /health/ready, which asks the Redis that all pods ask: without it they answer 503 with `Retry-After`, and
        # reads of the archive; were they not ready, nobody would answer.
        "readinessProbe": _probe("/health/live", "http", period=2, failures=2),
        "lifecycle": PRE_STOP,
    }
    return _deployment("api", _pod("api", USER, [container], _volumes(values, SECRETS_OF_DOORS)), None)


def _worker(component: str, values: Values, secrets: list[str]) -> Object:
    """Engine or archiver. Its health is told at the port of its metrics."""
    container = _container(component, values, secrets) | {
        "args": ["tcgx", component],
        "ports": [METRICS],
        **_probes("metrics"),
    }
    pod = _pod(component, USER, [container], _volumes(values, secrets))
    return _deployment(component, pod, values(f"{component}.replicas"))


def _migrate(values: Values) -> Object:
    """A Job a version, in Helm one for each change of it, since a Job can't be changed. It may run any number of times.

    It converts data of earlier versions in Redis, too.
    """
    secrets = ["redis-url", "database-url"]
    is_helm = isinstance(values("image.tag"), Expression)
    container = _container("migrate", values, secrets) | {"args": ["tcgx", "migrate"]}
    pod = _pod("migrate", USER, [container], _volumes(values, secrets))
    pod["spec"]["restartPolicy"] = "OnFailure"
    job: Object = {
        **_head("batch/v1", "Job", f"tcgx-migrate-{VERSION.replace('.', '-')}", "migrate"),
        "spec": {"backoffLimit": 20, "template": pod},
    }
    if is_helm:
        job["metadata"]["name"] = Expression(
            'tcgx-migrate-{{ .Values.image.tag | replace "." "-" | replace "_" "-" | lower | trunc 40 }}'
            "-{{ list .Chart.Version .Values.image .Values.secretName .Values.migrate | toJson | sha256sum | trunc 8 }}"
        )
    return job


def _service(component: str, port: int, name: str) -> Object:
    ports = [{"name": name, "protocol": "TCP", "port": port, "targetPort": name}]  # server-side apply wants it said
    spec = {"selector": _selector(component)["matchLabels"], "ports": ports}
    return {**_head("v1", "Service", f"tcgx-{component}", component), "spec": spec}


def _autoscaler(values: Values) -> Object:
    return {
        **_head("autoscaling/v2", "HorizontalPodAutoscaler", "tcgx-api", "api"),
        "spec": {
            "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "tcgx-api"},
            "minReplicas": values("api.replicasMin"),
            "maxReplicas": values("api.replicasMax"),
            "metrics": [
                {
                    "type": "Resource",
                    "resource": {
                        "name": "cpu",
                        "target": {"type": "Utilization", "averageUtilization": values("api.cpuPercent")},
                    },
                }
            ],
            "behavior": {"scaleDown": {"stabilizationWindowSeconds": 300}},
        },
    }


def _budget(component: str) -> Object:
    """One pod at a time may be evicted, so that a drain ends even where there is one pod alone."""
    spec = {"maxUnavailable": 1, "selector": _selector(component)}
    return {**_head("policy/v1", "PodDisruptionBudget", f"tcgx-{component}", component), "spec": spec}


# -- network


def _ports(*numbers: int) -> list[Object]:
    return [{"protocol": "TCP", "port": number} for number in numbers]


DNS = {"ports": [{"protocol": "UDP", "port": 53}, {"protocol": "TCP", "port": 53}]}
REDIS = {"ports": _ports(REDIS_PORT, SENTINEL_PORT)}
POSTGRES = {"ports": _ports(POSTGRES_PORT)}


def _policy(component: str, *, ingress: list[Object], egress: list[Object]) -> Object:
    return {
        **_head("networking.k8s.io/v1", "NetworkPolicy", f"tcgx-{component or 'default'}", component),
        "spec": {
            "podSelector": _selector(component) if component else _selector(),
            "policyTypes": ["Ingress", "Egress"],
            "ingress": ingress,
            "egress": egress,
        },
    }


def _policies() -> list[Object]:
    """Every pod of the exchange reaches what it needs, and nothing else; only the API is reached."""
    return [
        _policy("", ingress=[], egress=[]),
        _policy("api", ingress=[{"ports": _ports(API_PORT)}], egress=[DNS, REDIS, POSTGRES]),
        _policy("engine", ingress=[], egress=[DNS, REDIS]),
        _policy("archiver", ingress=[], egress=[DNS, REDIS, POSTGRES]),
        _policy("migrate", ingress=[], egress=[DNS, REDIS, POSTGRES]),
    ]


def _policy_of_redis() -> Object:
    clients = [{"podSelector": _selector("api", "grpc", "engine", "archiver", "migrate")}]
    return _policy("redis", ingress=[{"from": clients, "ports": _ports(REDIS_PORT)}], egress=[])


def _policy_of_postgres() -> Object:
    clients = [{"podSelector": _selector("api", "grpc", "archiver", "migrate")}]
    return _policy("postgres", ingress=[{"from": clients, "ports": _ports(POSTGRES_PORT)}], egress=[])


# -- servers


def _stateful_set(component: str, values: Values, container: Object, mounts: Mapping[str, str]) -> Object:
    """`mounts`: folders in memory by name. The volume `data` is a disk."""
    container = {
        "name": component,
        "image": values(f"servers.{component}.image"),
        "imagePullPolicy": values("image.pullPolicy"),
        **container,
        "resources": values(f"servers.{component}.resources"),
        "securityContext": LOCKED,
    }
    container["volumeMounts"] += [{"name": name, "mountPath": path} for name, path in mounts.items()]
    memory = [{"name": name, "emptyDir": {"medium": "Memory", "sizeLimit": "64Mi"}} for name in mounts]
    claim = {
        "metadata": {"name": "data"},
        "spec": {
            "accessModes": ["ReadWriteOncePod"],
            "resources": {"requests": {"storage": values(f"servers.{component}.storage")}},
        },
    }
    return {
        **_head("apps/v1", "StatefulSet", f"tcgx-{component}", component),
        "spec": {
            "serviceName": f"tcgx-{component}",
            "replicas": 1,
            "selector": _selector(component),
            "template": _pod(component, SERVER_USER, [container], memory),
            "volumeClaimTemplates": [claim],
        },
    }


def _password(variable: str, key: str) -> Object:
    return {"name": variable, "valueFrom": {"secretKeyRef": {"name": "tcgx-servers", "key": key}}}


def _redis(values: Values) -> Object:
    options = ["--appendonly", "yes", "--appendfsync", "always", "--maxmemory-policy", "noeviction"]
    options += ["--lazyfree-lazy-expire", "yes", "--maxmemory", values("servers.redis.maxmemory")]
    ping = ["sh", "-c", 'test "$(redis-cli ping)" = PONG']
    container = {
        "args": ["redis-server", *options, "--save", "", "--requirepass", "$(REDISCLI_AUTH)"],
        "env": [_password("REDISCLI_AUTH", "redis-password")],
        "ports": [{"name": "redis", "protocol": "TCP", "containerPort": REDIS_PORT}],
        "livenessProbe": {"tcpSocket": {"port": "redis"}, "periodSeconds": 10, "failureThreshold": 6},
        "readinessProbe": {"exec": {"command": ping}, "periodSeconds": 5, "timeoutSeconds": 3},
        "volumeMounts": [{"name": "data", "mountPath": "/data"}],
    }
    return _stateful_set("redis", values, container, {})


def _postgres(values: Values) -> Object:
    ready = ["pg_isready", "--username", "tcgx", "--dbname", "tcgx"]
    container = {
        "env": [
            {"name": "POSTGRES_USER", "value": "tcgx"},
            {"name": "POSTGRES_DB", "value": "tcgx"},
            _password("POSTGRES_PASSWORD", "postgres-password"),
        ],
        "ports": [{"name": "postgres", "protocol": "TCP", "containerPort": POSTGRES_PORT}],
        "livenessProbe": {"tcpSocket": {"port": "postgres"}, "periodSeconds": 10, "failureThreshold": 6},
        "readinessProbe": {"exec": {"command": ready}, "periodSeconds": 5, "timeoutSeconds": 3},
        "volumeMounts": [{"name": "data", "mountPath": "/var/lib/postgresql"}],
    }
    return _stateful_set("postgres", values, container, {"run": "/var/run/postgresql", "tmp": "/tmp"})  # noqa: S108
